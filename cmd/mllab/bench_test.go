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

	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	"sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/exec"
	"sigs.k8s.io/yaml"

	"mllab.local/bootstrap"
)

const (
	benchCluster = "mllab-bench"
	plainCluster = "mllab-bench-plain"
	benchRounds  = 3
)

// benchLabs are the labs that are compared with a plain cluster. goal is in time; the gates, with room for noise over
// docs/benchmarks.md, are in CPU-seconds.
var benchLabs = []struct {
	name                          string
	flags                         []string
	goal, maxCPURatio, maxIdleCPU float64
}{
	{"whole", nil, 3.0, 6.0, 24},
	{"core", []string{"--core"}, 1.5, 3.0, 12},
}

// maxIdle is the goal, in seconds, of an `up` of the core that has nothing to do.
const maxIdle = 2

// cost is what one call took.
type cost struct {
	wall, cpu float64 // seconds; cpu is the call's own and the node's
	memory    float64 // bytes that the node had used at most, page cache among them
}

// TestBench measures, in turns within one run, a plain kind cluster of the whole
// lab's node image, the whole lab, an `up` that has nothing to do on it, the core
// lab, and the same for that. Wall time on a shared machine is only worth a ratio
// of a pair; what is gated is CPU time.
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
	var plan bootstrap.PlanDoc
	for _, flags := range [][]string{{"--core"}, nil} { // the node images are loaded from here on
		c.run(append(up, flags...)...).ok(t, &sum)
		c.run(append(up, "--dry-run")...).ok(t, &plan)
		if flags != nil {
			c.run("down").ok(t, nil)
		}
	}
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
	// Plain means without what mllab sets to be faster. The kubelet's settings are what the machine needs.
	var config v1alpha4.Cluster
	if err := yaml.UnmarshalStrict([]byte(plan.KindConfig), &config); err != nil {
		t.Fatal(err)
	}
	config.Name = plainCluster
	config.KubeadmConfigPatches = slices.DeleteFunc(config.KubeadmConfigPatches, func(patch string) bool { return !strings.Contains(patch, "kind: KubeletConfiguration") })
	if len(config.KubeadmConfigPatches) != 1 {
		t.Fatalf("patches are %q", config.KubeadmConfigPatches)
	}

	var plain []cost
	made, idle := map[string][]cost{}, map[string][]cost{}
	for range benchRounds {
		plain = append(plain, measure(t, plainCluster, func() {
			err := provider.Create(plainCluster, cluster.CreateWithV1Alpha4Config(&config), cluster.CreateWithNodeImage(sum.NodeImage),
				cluster.CreateWithKubeconfigPath(filepath.Join(t.TempDir(), "kubeconfig")), cluster.CreateWithDisplayUsage(false), cluster.CreateWithDisplaySalutation(false))
			if err != nil {
				if run := exec.RunErrorForError(err); run != nil {
					t.Logf("%s", run.Output)
				}
				t.Fatal(err)
			}
		}))
		if err := provider.Delete(plainCluster, filepath.Join(t.TempDir(), "kubeconfig")); err != nil {
			t.Fatal(err)
		}
		for _, l := range benchLabs {
			of := append(slices.Clone(up), l.flags...)
			made[l.name] = append(made[l.name], measure(t, benchCluster, func() { c.run(of...).ok(t, nil) }))
			idle[l.name] = append(idle[l.name], measure(t, benchCluster, func() { c.run(of...).ok(t, nil) }))
			c.run("down").ok(t, nil)
		}
	}

	row := func(name string, of []cost) (wall, cpu float64) {
		wall, cpu = median(of, func(c cost) float64 { return c.wall }), median(of, func(c cost) float64 { return c.cpu })
		t.Logf("%-28s %6.1f s  %6.1f CPU-s  %5.0f MB", name, wall, cpu, median(of, func(c cost) float64 { return c.memory })/1e6)
		return wall, cpu
	}
	t.Logf("median of %d, in turns", benchRounds)
	_, plainCPU := row("plain kind create", plain)
	for _, l := range benchLabs {
		_, cpu := row(l.name+", verified", made[l.name])
		idleWall, idleCPU := row(l.name+", nothing to do", idle[l.name])
		var ratios []float64
		for i, m := range made[l.name] {
			ratios = append(ratios, m.wall/plain[i].wall)
		}
		slices.Sort(ratios)
		t.Logf("%s / plain: %.2f in time (pairs %.2f..%.2f, goal %.1f), %.2f in CPU-seconds; nothing to do: %.1f s (goal %d)",
			l.name, ratios[len(ratios)/2], ratios[0], ratios[len(ratios)-1], l.goal, cpu/plainCPU, idleWall, maxIdle)
		if cpu/plainCPU > l.maxCPURatio {
			t.Errorf("%s takes %.2f times the CPU of a plain cluster, more than %.1f", l.name, cpu/plainCPU, l.maxCPURatio)
		}
		if idleCPU > l.maxIdleCPU {
			t.Errorf("%s: an up with nothing to do takes %.1f CPU-seconds, more than %.1f", l.name, idleCPU, l.maxIdleCPU)
		}
	}
}

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
