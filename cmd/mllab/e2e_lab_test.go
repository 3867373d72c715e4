//go:build e2e

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"mllab.local/addons"
	"mllab.local/bootstrap"
	"mllab.local/scenarios"
)

// TestLab is what a newcomer runs: wrong use, interruptions at every stage, each
// scenario once and short, and a `down` that leaves nothing.
func TestLab(t *testing.T) {
	c := newCLI(t, "mllab-e2e")
	c.own(t)
	userConfig, _ := os.ReadFile(filepath.Join(os.Getenv("HOME"), ".kube", "config"))

	c.part(t, "a scenario before up exits 3 and names the command", func(t *testing.T) {
		c.run("scenario", "canary").exits(t, 3, "mllab up")
	})

	c.part(t, "wrong use exits 2 and names the mistake", func(t *testing.T) {
		for _, tc := range []struct {
			args string
			says string
		}{
			{"scenario canary --shares 90/20", "90/20"},
			{"scenario canary --shares abc", "abc"},
			{"scenario canary --shares -1/101", "-1/101"},
			{"scenario canary --shares 99.5/0.5", "whole percent"},
			{"scenario canary --shares 50/25/25", "two"},
			{"scenario canary --requests 0", "--requests"},
			{"scenario canary --alpha 2", "alpha"},
			{"scenario canary --shares 99/1 --requests 1000", "too few"},
			{"scenario canary --weights 10,5", "--weights"},
			{"scenario canary --rollout-duration 1500ms", "--rollout-duration"},
			{"scenario canary --junit /nowhere/report.xml", "/nowhere/report.xml"},
			{"scenario shadow --shares 90/10", "--shares"},
			{"scenario run /nowhere.yaml", "/nowhere.yaml"},
			{"scenario canry", "canary"},
			{"scenario canary -o xml", "xml"},
			{"up --port 99999", "99999"},
			{"up --image-source cloud", "cloud"},
			{"up --with no-such", "no-such"},
			{"up --name Bad_Name", "Bad_Name"},
			{"upp", "up"},
			{"up --prot 1", "--port"},
			{"status extra", "extra"},
		} {
			r := c.run(strings.Fields(tc.args)...)
			if r.code != 2 || !strings.Contains(r.err, tc.says) || !strings.Contains(r.err, "hint:") {
				t.Errorf("%s: want exit 2, %q and a hint: %s", tc.args, tc.says, r)
				continue
			}
			if r.out != "" || strings.Count(r.err, "\n") > 3 {
				t.Errorf("%s: too much said: %s", tc.args, r)
			}
		}
		if left := c.left(t); left != "" {
			t.Errorf("wrong use left %s", left)
		}
	})

	c.part(t, "without an engine up names the fix", func(t *testing.T) {
		none := c
		none.env = append(slices.Clone(c.env), "PATH="+t.TempDir())
		none.run("up").exits(t, 2, "podman")
	})

	c.part(t, "an engine without permission has its own error", func(t *testing.T) {
		dir := t.TempDir()
		script := "#!/bin/sh\necho 'permission denied while trying to connect to the Docker daemon socket' >&2\nexit 1\n"
		if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		denied := c
		denied.env = append(slices.Clone(c.env), "PATH="+dir+":/bin")
		denied.run("up", "--engine", "docker").exits(t, 2, "permission")
	})

	c.part(t, "an error names a wrong variable with its value", func(t *testing.T) {
		for _, v := range []string{"CONTAINER_HOST=unix:///nowhere", "CONTAINERS_CONF=/nowhere", "DOCKER_HOST=unix:///nowhere", "KIND_EXPERIMENTAL_PROVIDER=nowhere", "TMPDIR=/nowhere", "HOME=/nowhere"} {
			misled := c
			misled.env = append(slices.DeleteFunc(slices.Clone(c.env), func(e string) bool { return strings.HasPrefix(e, "MLLAB_CACHE_DIR=") }), v)
			engine := "podman"
			if strings.HasPrefix(v, "DOCKER") {
				engine = "docker"
			}
			args := []string{"up", "--engine", engine}
			if key, _, _ := strings.Cut(v, "="); key == "KIND_EXPERIMENTAL_PROVIDER" {
				args = args[:1]
			} else if _, err := exec.LookPath(engine); err != nil {
				continue // it is not installed here
			}
			r := misled.run(args...)
			key, value, _ := strings.Cut(v, "=")
			r.exits(t, 2, key, value, "hint:")
		}
	})

	c.part(t, "up refuses a port in use before it creates anything", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
		c.run("up", "--port", port).exits(t, 2, port, "--port auto")
		if left := c.left(t); left != "" {
			t.Errorf("it left %s", left)
		}
	})

	c.part(t, "up reports a full disk before it builds anything", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root can mount a small file system")
		}
		dir := t.TempDir()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = syscall.Unmount(dir, 0) }()
		c.run("images", "build", "--image-source", "source", "--cache-dir", dir).exits(t, 2, "GB are free", "--cache-dir")
		c.run("up", "--image-source", "source", "--cache-dir", dir).exits(t, 2, "free")
		if used, _ := filepath.Glob(filepath.Join(dir, "work", "*")); len(used) > 0 {
			t.Errorf("it left %v", used)
		}
	})

	c.part(t, "dry run needs no engine and creates nothing", func(t *testing.T) {
		var plan bootstrap.PlanDoc
		c.run("up", "--dry-run", "-o", "json").ok(t, &plan)
		if plan.Cluster != c.name || c.left(t) != "" {
			t.Errorf("got %+v, left %q", plan, c.left(t))
		}
	})

	c.part(t, "^C during the image build leaves no partial image", func(t *testing.T) {
		dir := t.TempDir()
		p := c.start("images", "build", "--core", "--image-source", "source", "--cache-dir", dir)
		p.says(t, "compile kubernetes: started")
		p.interrupt()
		p.wait().exits(t, 130)
		if used, _ := filepath.Glob(filepath.Join(dir, "work", "*")); len(used) > 0 {
			t.Errorf("it left %v", used)
		}
	})

	c.part(t, "images are built once", func(t *testing.T) {
		c.run("images", "build", "--image-source", "source").ok(t, nil)
		r := c.run("images", "build", "--image-source", "source")
		r.ok(t, nil)
		if strings.Contains(r.err, "compile") || strings.Contains(r.err, "to make") {
			t.Errorf("the second build built: %s", r)
		}
	})

	c.part(t, "up and down do not touch a foreign cluster of the same name", func(t *testing.T) {
		var node struct{ Node string }
		c.run("images", "build", "--image-source", "source", "-o", "json").ok(t, &node)
		// Any image that is not a node image of ours will do.
		base, err := tryEngine("create", "--name", c.node(), "--label", "io.x-k8s.kind.cluster="+c.name,
			"--label", "io.x-k8s.kind.role=control-plane", "--rootfs", t.TempDir(), "/none")
		if err != nil {
			t.Fatal(err)
		}
		defer engine(t, "rm", "-f", c.node())
		c.run("up", "--image-source", "source", "--port", "auto").exits(t, 2, c.name)
		c.run("down").exits(t, 2, c.name)
		if got := engine(t, "ps", "-aq", "--no-trunc", "--filter", "name="+c.node()); got != base {
			t.Errorf("the foreign container is now %q, it was %q", got, base)
		}
	})

	up := []string{"up", "--image-source", "source", "--port", "auto", "-o", "json"}

	c.part(t, "^C while the node is created leaves nothing", func(t *testing.T) {
		p := c.start(up...)
		p.says(t, "starting control-plane")
		p.interrupt()
		p.wait().exits(t, 130)
		if left := c.left(t); left != "" {
			t.Errorf("it left %s", left)
		}
	})

	if !c.part(t, "kill -9 while the node is created, and while addons are installed: up continues, and its core serves before the rest", func(t *testing.T) {
		p := c.start(up...)
		p.says(t, "starting control-plane")
		p.kill()
		p.wait()
		p = c.start(up...)
		p.says(t, "istio: applying")
		p.kill()
		p.wait()
		c.run("scenario", "canary").exits(t, 3, "mllab up")
		p = c.start(up...)
		p.says(t, "the core is ready")
		c.run("scenario", "canary", "--short").ok(t, nil)
		p.wait().ok(t, nil)
	}) {
		t.Fatal("there is no lab to go on with")
	}

	var lab bootstrap.StatusReport

	c.part(t, "status reports the whole lab ready, and the next command", func(t *testing.T) {
		c.run("status", "-o", "json").ok(t, &lab)
		if !lab.Ready || lab.URL == "" || lab.Kubernetes == "" || lab.Memory == 0 {
			t.Errorf("got %+v", lab)
		}
		for _, name := range addons.Whole() {
			if !slices.ContainsFunc(lab.Addons, func(a bootstrap.AddonStatus) bool { return a.Name == name && a.Ready }) {
				t.Errorf("%s is not ready: %+v", name, lab.Addons)
			}
		}
		if !slices.ContainsFunc(lab.Checks, func(k bootstrap.Check) bool { return k.OK && strings.HasPrefix(k.Asked, "GET "+lab.URL) }) {
			t.Errorf("the sample was not asked: %+v", lab.Checks)
		}
		st, err := os.Stat(lab.Kubeconfig)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("kubeconfig: %v, %v", st.Mode(), err)
		}
	})

	c.part(t, "only loopback is listened on", func(t *testing.T) {
		ports := engine(t, "port", c.node())
		for line := range strings.Lines(ports) {
			if !strings.Contains(line, "127.0.0.1:") {
				t.Errorf("published: %s", line)
			}
		}
	})

	// A pattern that no longer matches kind's configuration changes nothing, and says so nowhere.
	c.part(t, "containerd has the lab's settings, kubeadm made elliptic keys, and etcd had the core's CRDs from the start", func(t *testing.T) {
		got := engine(t, "exec", c.node(), "sh", "-c", `containerd config dump 2>/dev/null | grep -E 'restrict_oom_score_adj|SystemdCgroup' | sort -u
			echo "cgroup v2 $(test -f /sys/fs/cgroup/cgroup.controllers && echo true || echo false)"
			openssl x509 -in /etc/kubernetes/pki/ca.crt -noout -text | grep Algorithm:.id`)
		got = strings.Join(strings.Fields(got), " ")
		if want := regexp.MustCompile(`^SystemdCgroup = (true restrict_oom_score_adj = true cgroup v2 true|false restrict_oom_score_adj = true cgroup v2 false) .*id-ecPublicKey$`); !want.MatchString(got) {
			t.Errorf("got %s, want %s", got, want)
		}
		written := func(object string) int {
			text := c.kubectl(t, "get", "-n", "kube-system", object, "-o", "jsonpath={.metadata.resourceVersion}")
			version, err := strconv.Atoi(text)
			if err != nil {
				t.Errorf("%s: %v", object, err)
			}
			return version
		}
		first := written("namespace/kube-system") // by the server itself
		for _, object := range []string{"crd/virtualservices.networking.istio.io", "clusterrole/system:node", "serviceaccount/daemon-set-controller"} {
			if at := written(object); at >= first {
				t.Errorf("%s was written at %d, after %d", object, at, first)
			}
		}
	})

	c.part(t, "a packet without a route in the lab does not leave the node", func(t *testing.T) { testNothingLeavesTheNode(t, c) })

	c.part(t, "a user's programs reach the lab without a proxy", func(t *testing.T) { testAccess(t, c) })

	c.part(t, "a second up changes nothing and restarts nothing, nor does --core remove anything", func(t *testing.T) {
		pods := func() string {
			return c.kubectl(t, "get", "pods", "-A", "-l", "!serving.knative.dev/service", "-o",
				`jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[*].restartCount}{"\n"}{end}`)
		}
		was := pods()
		var sum bootstrap.Summary
		r := c.run("up", "--core", "--image-source", "source", "-o", "json")
		r.exits(t, 0, "--core removes nothing")
		r.decode(t, &sum)
		if sum.Created || len(sum.Addons) != len(lab.Addons) {
			t.Errorf("created %v, addons %+v", sum.Created, sum.Addons)
		}
		for _, a := range sum.Addons {
			for _, ch := range a.Changes {
				if ch.Action != "unchanged" {
					t.Errorf("%s: %s %s", a.Name, ch.Object, ch.Action)
				}
			}
		}
		if now := pods(); now != was {
			t.Errorf("pods were\n%s\nand are\n%s", was, now)
		}
	})

	c.part(t, "what is optional is added to a lab that is up", func(t *testing.T) {
		c.run("up", "--image-source", "source", "--with", "all").ok(t, nil)
	})

	c.part(t, "every scenario passes, short", func(t *testing.T) {
		c.everyScenario(t, scenarios.Options{Short: true}, func(scenarios.Scenario) bool { return true }, "--short", "--parallel", "3")
	})

	c.part(t, "explain shows each step before it happens", func(t *testing.T) {
		p := c.start("scenario", "canary", "--short", "--explain")
		go func() { _, _ = io.WriteString(p.in, strings.Repeat("\n", 40)); _ = p.in.Close() }()
		r := p.wait()
		r.exits(t, 0, "Step 1 of", "+kind: Service", "percent: 90")
	})

	c.part(t, "^C while sampling exits 130 and removes the namespace", func(t *testing.T) {
		p := c.start("scenario", "canary", "--requests", "200000")
		p.says(t, "requests")
		p.interrupt()
		p.wait().exits(t, 130)
		if ns := c.kubectl(t, "get", "namespace", "mllab-canary", "--ignore-not-found", "-o", "name"); ns != "" {
			t.Errorf("it left %s", ns)
		}
	})

	c.part(t, "kill -9 while sampling: the next run starts again", func(t *testing.T) {
		p := c.start("scenario", "canary", "--requests", "200000")
		p.says(t, "requests")
		p.kill()
		p.wait()
		c.run("scenario", "canary", "--requests", "200").ok(t, nil)
	})

	c.part(t, "down removes a node whose processes are gone", func(t *testing.T) {
		out := engine(t, "inspect", "--format", "{{.State.Pid}}", c.node())
		var pid int
		if _, err := fmt.Sscan(out, &pid); err != nil || pid < 2 {
			t.Fatalf("the node's process is %q", out)
		}
		own := strings.Fields(engine(t, "inspect", "--format", "{{range .Mounts}}{{.Name}} {{end}}", c.node()))
		if len(own) == 0 {
			t.Error("the node has no volume that could be left")
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		c.run("down").ok(t, nil)
		if left := c.left(t); left != "" {
			t.Errorf("it left %s", left)
		}
		for _, v := range volumes(t) {
			if slices.Contains(own, v) {
				t.Errorf("it left volume %s", v)
			}
		}
	})

	c.part(t, "down twice is fine", func(t *testing.T) {
		c.run("down").ok(t, nil)
	})

	c.part(t, "the user's kubeconfig is untouched", func(t *testing.T) {
		now, _ := os.ReadFile(filepath.Join(os.Getenv("HOME"), ".kube", "config"))
		if !bytes.Equal(now, userConfig) {
			t.Error("it changed")
		}
	})
}
