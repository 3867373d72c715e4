//go:build e2e

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/kind/pkg/cluster"

	"mllab.local/bootstrap"
)

const (
	benchCluster = "mllab-bench"
	plainCluster = "mllab-bench-plain"
	benchRounds  = 3
)

// cost is what one call took.
type cost struct {
	wall, cpu float64 // seconds; cpu is the call's own and the node's
	memory    float64 // bytes that the node had used at most, page cache among them
}

// TestBench measures, in turns within one run, a plain kind cluster and a lab
// of the same node image, and then an `up` that has nothing to do. Wall time on
// a shared machine is only worth a ratio; what is gated is CPU time.
func TestBench(t *testing.T) {
	c := newCLI(t, benchCluster)
	provider := cluster.NewProvider(cluster.ProviderWithPodman())
	if _, err := os.Stat("/var/run/docker.sock"); err == nil {
		provider = cluster.NewProvider(cluster.ProviderWithDocker())
	}
	clean := func() {
		if r := c.run("down"); r.code != 0 {
			t.Error(r)
		}
		if err := provider.Delete(plainCluster, filepath.Join(os.TempDir(), "kubeconfig-of-"+plainCluster)); err != nil {
			t.Error(err)
		}
	}
	clean()
	t.Cleanup(clean)

	up := []string{"up", "--image-source", "source", "--port", "auto", "-o", "json"}
	var sum bootstrap.Summary
	c.run(up...).ok(t, &sum) // the node image is loaded from here on
	var plan bootstrap.PlanDoc
	c.run(append(up, "--dry-run")...).ok(t, &plan)
	// The engine's settings for this host, which `up` writes and the last `down`
	// removes, are kind's too.
	if settings, err := os.ReadFile(filepath.Join(c.state, "containers.conf")); err == nil {
		file := filepath.Join(t.TempDir(), "containers.conf")
		if err := os.WriteFile(file, settings, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("CONTAINERS_CONF", file)
	}
	c.run("down").ok(t, nil)
	if err := os.Mkdir("/lib/modules", 0o755); err == nil { // kind mounts it; `up` makes it where it is missing, too
		t.Cleanup(func() { _ = os.Remove("/lib/modules") })
	}
	config := strings.ReplaceAll(plan.KindConfig, benchCluster, plainCluster)

	var plain, lab, idle []cost
	for range benchRounds {
		plain = append(plain, measure(t, plainCluster, func() {
			err := provider.Create(plainCluster, cluster.CreateWithRawConfig([]byte(config)), cluster.CreateWithNodeImage(sum.NodeImage),
				cluster.CreateWithKubeconfigPath(filepath.Join(t.TempDir(), "kubeconfig")), cluster.CreateWithDisplayUsage(false), cluster.CreateWithDisplaySalutation(false))
			if err != nil {
				t.Fatal(err)
			}
		}))
		if err := provider.Delete(plainCluster, filepath.Join(t.TempDir(), "kubeconfig")); err != nil {
			t.Fatal(err)
		}
		lab = append(lab, measure(t, benchCluster, func() { c.run(up...).ok(t, nil) }))
		idle = append(idle, measure(t, benchCluster, func() { c.run(up...).ok(t, nil) }))
		c.run("down").ok(t, nil)
	}

	row := func(name string, of []cost) (wall, cpu float64) {
		wall, cpu = median(of, func(c cost) float64 { return c.wall }), median(of, func(c cost) float64 { return c.cpu })
		t.Logf("%-28s %6.1f s  %6.1f CPU-s  %5.0f MB", name, wall, cpu, median(of, func(c cost) float64 { return c.memory })/1e6)
		return wall, cpu
	}
	t.Logf("median of %d, in turns", benchRounds)
	plainWall, plainCPU := row("plain kind create", plain)
	labWall, labCPU := row("mllab up, verified", lab)
	_, idleCPU := row("mllab up, nothing to do", idle)
	var ratios []float64
	for i := range lab {
		ratios = append(ratios, lab[i].wall/plain[i].wall)
	}
	slices.Sort(ratios)
	t.Logf("up / plain: %.2f (pairs %.2f..%.2f) in time, %.2f in CPU-seconds", labWall/plainWall, ratios[0], ratios[len(ratios)-1], labCPU/plainCPU)
	if labCPU/plainCPU > maxCPURatio {
		t.Errorf("a lab takes %.2f times the CPU of a plain cluster, more than %.1f", labCPU/plainCPU, maxCPURatio)
	}
	if idleCPU > maxIdleCPU {
		t.Errorf("an up with nothing to do takes %.1f CPU-seconds, more than %.1f", idleCPU, maxIdleCPU)
	}
}

// Gates, with room for noise over docs/benchmarks.md.
const (
	maxCPURatio = 3.0
	maxIdleCPU  = 12.0
)

// measure runs f and returns what it cost, the node that it makes or uses
// included.
func measure(t *testing.T, name string, f func()) cost {
	t.Helper()
	nodeBefore, _ := nodeUsage(name)
	own := ownCPU()
	began := time.Now()
	f()
	wall := time.Since(began).Seconds()
	node, memory := nodeUsage(name)
	return cost{wall: wall, cpu: ownCPU() - own + node - nodeBefore, memory: memory}
}

// ownCPU is the CPU time of this process and of its ended children.
func ownCPU() float64 {
	total := 0.0
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			total += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
		}
	}
	return total
}

// nodeUsage reads the node's own cgroup, version 2 or 1; zero when there is no
// such node.
func nodeUsage(name string) (cpuSeconds, memory float64) {
	out, err := tryEngine("exec", name+"-control-plane", "sh", "-c",
		`cd /sys/fs/cgroup; if [ -f cpu.stat ]; then awk '/^usage_usec/ {print $2*1000}' cpu.stat; cat memory.peak; else cat cpuacct/cpuacct.usage memory/memory.max_usage_in_bytes; fi`)
	if err != nil {
		return 0, 0
	}
	var nanos float64
	if _, err := fmt.Sscan(out, &nanos, &memory); err != nil {
		return 0, 0
	}
	return nanos / 1e9, memory
}

func median(of []cost, field func(cost) float64) float64 {
	values := make([]float64, len(of))
	for i, c := range of {
		values[i] = field(c)
	}
	slices.Sort(values)
	return values[len(values)/2]
}
