//go:build e2e

// These tests drive bin/mllab as a person would, on a real cluster of their
// own: `make e2e`.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"mllab.local/bootstrap"
	"mllab.local/bootstrap/images"
	"mllab.local/scenarios"
)

// e2eCluster is the lab that the tests make; one left by an earlier run goes first.
const e2eCluster = "mllab-e2e"

// cli is bin/mllab with a state folder of the tests' own.
type cli struct {
	bin, state string
	env        []string
}

func newCLI(t *testing.T) cli {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	c := cli{bin: filepath.Join(root, "bin", "mllab"), state: filepath.Join(root, ".test", "state")}
	if _, err := os.Stat(c.bin); err != nil {
		t.Fatalf("build it first with `make build`: %v", err)
	}
	c.env = append(os.Environ(), "MLLAB_STATE_DIR="+c.state, "MLLAB_NAME="+e2eCluster)
	return c
}

// result is what a finished call left.
type result struct {
	out, err string
	code     int
}

func (r result) String() string {
	return fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", r.code, r.out, r.err)
}

func (c cli) run(args ...string) result { return c.start(args...).wait() }

// process is a running bin/mllab.
type process struct {
	cmd      *exec.Cmd
	mu       sync.Mutex
	out, err bytes.Buffer
	in       io.WriteCloser
	done     chan struct{}
}

func (c cli) start(args ...string) *process {
	p := &process{cmd: exec.Command(c.bin, args...), done: make(chan struct{})}
	p.cmd.Env = c.env
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's ^C reaches the whole group
	p.cmd.Stdout = &p.out
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		panic(err)
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		panic(err)
	}
	if err := p.cmd.Start(); err != nil {
		panic(err)
	}
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.mu.Lock()
			p.err.WriteString(lines.Text() + "\n")
			p.mu.Unlock()
		}
		close(p.done)
	}()
	return p
}

func (p *process) stderr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err.String()
}

func (p *process) wait() result {
	<-p.done
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		panic(err)
	}
	return result{p.out.String(), p.stderr(), p.cmd.ProcessState.ExitCode()}
}

// says returns once stderr holds text; a call that ends before fails the test.
func (p *process) says(t *testing.T, text string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(10 * time.Minute); ; {
		if strings.Contains(p.stderr(), text) {
			return
		}
		select {
		case <-p.done:
			t.Fatalf("it ended before it said %q: %s", text, p.wait())
		case <-limit:
			p.kill()
			t.Fatalf("it never said %q: %s", text, p.stderr())
		case <-tick.C:
		}
	}
}

func (p *process) interrupt() { _ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGINT) }
func (p *process) kill()      { _ = syscall.Kill(p.cmd.Process.Pid, syscall.SIGKILL) }

// ok fails the test unless the call exited 0, and decodes its JSON into v.
func (r result) ok(t *testing.T, v any) {
	t.Helper()
	r.exits(t, 0)
	if v != nil {
		r.decode(t, v)
	}
}

// decode reads what it wrote to stdout as JSON.
func (r result) decode(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.out), v); err != nil {
		t.Fatalf("stdout is no JSON: %v\n%s", err, r)
	}
}

// exits fails the test unless the call exited so and stderr holds every text.
func (r result) exits(t *testing.T, code int, texts ...string) {
	t.Helper()
	if r.code != code {
		t.Fatalf("want exit %d: %s", code, r)
	}
	for _, text := range texts {
		if !strings.Contains(r.err, text) {
			t.Fatalf("stderr does not say %q: %s", text, r)
		}
	}
}

// engine runs the container engine and returns what it printed.
func engine(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryEngine(args...)
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return out
}

func tryEngine(args ...string) (string, error) {
	program := "podman"
	if exec.Command("docker", "info").Run() == nil {
		program = "docker"
	}
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), err
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return engine(t, append([]string{"exec", e2eCluster + "-control-plane", "kubectl", "--kubeconfig=/etc/kubernetes/admin.conf"}, args...)...)
}

// left lists what of the test's cluster the engine and the state folder hold.
func (c cli) left(t *testing.T) string {
	t.Helper()
	found := engine(t, "ps", "-aq", "--filter", "label=io.x-k8s.kind.cluster="+e2eCluster)
	if _, err := os.Stat(filepath.Join(c.state, e2eCluster)); err == nil {
		found += " " + filepath.Join(c.state, e2eCluster)
	}
	return strings.TrimSpace(found)
}

func volumes(t *testing.T) []string {
	t.Helper()
	return strings.Fields(engine(t, "volume", "ls", "-q"))
}

func TestLab(t *testing.T) {
	c := newCLI(t)
	if r := c.run("down"); r.code != 0 {
		t.Fatalf("removing what an earlier run left: %s", r)
	}
	t.Cleanup(func() {
		if r := c.run("down"); r.code != 0 {
			t.Errorf("cleaning up: %s", r)
		}
	})
	userConfig, _ := os.ReadFile(filepath.Join(os.Getenv("HOME"), ".kube", "config"))

	t.Run("a scenario before up exits 3 and names the command", func(t *testing.T) {
		c.run("scenario", "canary").exits(t, 3, "mllab up")
	})

	t.Run("wrong use exits 2 and says what is wrong", func(t *testing.T) {
		for _, tc := range []struct {
			args string
			says string
		}{
			{"scenario canary --shares 90/20", "90/20"},
			{"scenario canary --shares abc", "abc"},
			{"scenario canary --shares -1/101", "-1/101"},
			{"scenario canary --shares 99.5/0.5", "whole percent"},
			{"scenario canary --shares 50/25/25", "two"},
			{"scenario canary --requests 0", "--requests 0"},
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
			r.exits(t, 2, tc.says, "hint:")
			if r.out != "" || strings.Count(r.err, "\n") > 3 {
				t.Errorf("%s: too much said: %s", tc.args, r)
			}
		}
		if left := c.left(t); left != "" {
			t.Errorf("wrong use left %s", left)
		}
	})

	t.Run("no engine is said with its fix", func(t *testing.T) {
		none := c
		none.env = append(slices.Clone(c.env), "PATH="+t.TempDir())
		none.run("up").exits(t, 2, "podman")
	})

	t.Run("an engine without permission is told apart", func(t *testing.T) {
		dir := t.TempDir()
		script := "#!/bin/sh\necho 'permission denied while trying to connect to the Docker daemon socket' >&2\nexit 1\n"
		if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		denied := c
		denied.env = append(slices.Clone(c.env), "PATH="+dir+":/bin")
		denied.run("up", "--engine", "docker").exits(t, 2, "permission")
	})

	t.Run("a port in use is refused before anything is made", func(t *testing.T) {
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

	t.Run("a full disk is said before anything is built", func(t *testing.T) {
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

	t.Run("dry run needs no engine and makes nothing", func(t *testing.T) {
		var plan bootstrap.PlanDoc
		c.run("up", "--dry-run", "-o", "json").ok(t, &plan)
		if plan.Cluster != e2eCluster || c.left(t) != "" {
			t.Errorf("got %+v, left %q", plan, c.left(t))
		}
	})

	t.Run("^C in the middle of the image build leaves nothing half built", func(t *testing.T) {
		dir := t.TempDir()
		p := c.start("images", "build", "--image-source", "source", "--cache-dir", dir)
		p.says(t, "compile kubernetes: started")
		p.interrupt()
		p.wait().exits(t, 130)
		if used, _ := filepath.Glob(filepath.Join(dir, "work", "*")); len(used) > 0 {
			t.Errorf("it left %v", used)
		}
	})

	t.Run("images are built once", func(t *testing.T) {
		c.run("images", "build", "--image-source", "source").ok(t, nil)
		r := c.run("images", "build", "--image-source", "source")
		r.ok(t, nil)
		if strings.Contains(r.err, "compile") || strings.Contains(r.err, "to make") {
			t.Errorf("the second build built: %s", r)
		}
	})

	t.Run("a registry filled with the built images gives the same images", func(t *testing.T) {
		registrySource(t, c)
	})

	t.Run("a foreign cluster of the same name is left alone", func(t *testing.T) {
		var node struct{ Node string }
		c.run("images", "build", "--image-source", "source", "-o", "json").ok(t, &node)
		// Any image that is not a node image of ours will do.
		base, err := tryEngine("create", "--name", e2eCluster+"-control-plane", "--label", "io.x-k8s.kind.cluster="+e2eCluster,
			"--label", "io.x-k8s.kind.role=control-plane", "--rootfs", t.TempDir(), "/none")
		if err != nil {
			t.Fatal(err)
		}
		defer engine(t, "rm", "-f", e2eCluster+"-control-plane")
		c.run("up", "--image-source", "source", "--port", "auto").exits(t, 2, e2eCluster)
		c.run("down").exits(t, 2, e2eCluster)
		if got := engine(t, "ps", "-aq", "--no-trunc", "--filter", "name="+e2eCluster+"-control-plane"); got != base {
			t.Errorf("the foreign container is now %q, it was %q", got, base)
		}
	})

	up := []string{"up", "--image-source", "source", "--port", "auto", "-o", "json"}
	t.Run("^C while the node is made leaves nothing", func(t *testing.T) {
		p := c.start(up...)
		p.says(t, "starting control-plane")
		p.interrupt()
		p.wait().exits(t, 130)
		if left := c.left(t); left != "" {
			t.Errorf("it left %s", left)
		}
	})

	if !t.Run("kill -9 while the node is made, and while addons are installed: up goes on", func(t *testing.T) {
		p := c.start(up...)
		p.says(t, "starting control-plane")
		p.kill()
		p.wait()
		p = c.start(up...)
		p.says(t, "istio: applying")
		p.kill()
		p.wait()
		c.run("scenario", "canary").exits(t, 3, "mllab up")
		c.run(up...).ok(t, nil)
	}) {
		t.Fatal("there is no lab to go on with")
	}

	var lab bootstrap.StatusReport
	t.Run("status says ready, and how to go on", func(t *testing.T) {
		c.run("status", "-o", "json").ok(t, &lab)
		if !lab.Ready || lab.URL == "" || lab.Kubernetes == "" || lab.Memory == 0 || len(lab.Addons) != 4 {
			t.Errorf("got %+v", lab)
		}
		st, err := os.Stat(lab.Kubeconfig)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("kubeconfig: %v, %v", st.Mode(), err)
		}
	})

	t.Run("only loopback is listened on", func(t *testing.T) {
		ports := engine(t, "port", e2eCluster+"-control-plane")
		for line := range strings.Lines(ports) {
			if !strings.Contains(line, "127.0.0.1:") {
				t.Errorf("published: %s", line)
			}
		}
	})

	t.Run("a person's programs reach it, and ask no proxy for it", func(t *testing.T) { testAccess(t, c) })

	t.Run("a second up changes nothing and restarts nothing", func(t *testing.T) {
		pods := func() string {
			return kubectl(t, "get", "pods", "-A", "-l", "!serving.knative.dev/service", "-o",
				`jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[*].restartCount}{"\n"}{end}`)
		}
		was := pods()
		var sum bootstrap.Summary
		r := c.run("up", "--image-source", "source", "-o", "json")
		r.ok(t, &sum)
		if sum.Created {
			t.Error("it made a new cluster")
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

	t.Run("canary passes, and its verdict carries n, counts, interval, alpha and power", func(t *testing.T) {
		r := c.run("scenario", "canary")
		r.ok(t, nil)
		_, verdict, _ := strings.Cut(r.out, "PASS canary")
		_, split, _ := strings.Cut(verdict, "90/10: ")
		split, rest, _ := strings.Cut(split, "\n")
		for _, word := range []string{"n=1000", "v1 ", "v2 ", "accepted 57..149", "alpha 1e-06", "power 0.99"} {
			if !strings.Contains(split, word) {
				t.Errorf("the verdict on the split lacks %q: %s", word, r.out)
			}
		}
		if !strings.Contains(rest, "watched requests lost") {
			t.Errorf("the verdict lacks the watcher: %s", r.out)
		}
		if ns := kubectl(t, "get", "namespace", "mllab-canary", "--ignore-not-found", "-o", "name"); ns != "" {
			t.Errorf("it left %s", ns)
		}
	})

	t.Run("evidence holds every request's ID once", func(t *testing.T) {
		var runs []scenarios.Result
		c.run("scenario", "canary", "--shares", "80/20", "--requests", "400", "-o", "json").ok(t, &runs)
		ids := map[string]bool{}
		for _, step := range runs[0].Steps {
			if step.Evidence.Verdict == nil {
				continue
			}
			data, err := os.ReadFile(step.Evidence.File)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for line := range bytes.Lines(data) {
				var answer struct{ ID, Echo string }
				if err := json.Unmarshal(line, &answer); err != nil {
					t.Fatal(err)
				}
				if answer.ID == "" || answer.Echo != answer.ID || ids[answer.ID] {
					t.Errorf("%s: request ID %q came back as %q, seen before: %v", step.Name, answer.ID, answer.Echo, ids[answer.ID])
				}
				ids[answer.ID] = true
				n++
			}
			if n != step.Evidence.Verdict.N {
				t.Errorf("%s: %d answers kept of %d", step.Name, n, step.Evidence.Verdict.N)
			}
		}
		if len(ids) < 5*400 {
			t.Errorf("only %d requests are on record", len(ids))
		}
	})

	t.Run("every scenario passes", func(t *testing.T) {
		junit := filepath.Join(t.TempDir(), "report.xml")
		var runs []scenarios.Result
		c.run("scenario", "all", "--junit", junit, "-o", "json").decode(t, &runs) // what failed is said below, in less than all of it
		steps := 0
		for _, s := range scenarios.All() {
			i := slices.IndexFunc(runs, func(r scenarios.Result) bool { return r.Scenario == s.Name })
			if added(s) { // by other tests
				if i < 0 || !strings.Contains(runs[i].Skipped, "mllab up --with ") {
					t.Errorf("%s was not skipped: %+v", s.Name, runs)
				}
				steps++
				continue
			}
			p := planOf(t, s)
			if i < 0 {
				t.Errorf("%s was not run", s.Name)
			} else if !runs[i].Pass || len(runs[i].Steps) != len(p.Steps) {
				t.Errorf("%s: %d of %d steps: %v", s.Name, len(runs[i].Steps), len(p.Steps), runs[i].Err())
			}
			steps += len(p.Steps)
		}
		data, err := os.ReadFile(junit)
		if err != nil {
			t.Fatal(err)
		}
		var suites struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
		}
		if err := xml.Unmarshal(data, &suites); err != nil || suites.Tests != steps || suites.Failures != 0 {
			t.Errorf("JUnit counts %d tests and %d failures, %v; want %d and none", suites.Tests, suites.Failures, err, steps)
		}
		if left := kubectl(t, "get", "namespace", "-l", "app.kubernetes.io/managed-by=mllab", "-o", "name"); strings.Contains(left, "mllab-canary") || strings.Contains(left, "mllab-shadow") {
			t.Errorf("it left %s", left)
		}
	})

	t.Run("every control of every scenario is caught for its own reason", func(t *testing.T) {
		var runs []scenarios.Result
		c.run("scenario", "all", "--controls", "--parallel", "3", "--timeout", "40m", "-o", "json").decode(t, &runs)
		for _, s := range scenarios.All() {
			if added(s) {
				continue
			}
			caught(t, s, runs)
		}
	})

	t.Run("a canary by steps, and one by Knative itself, with its controls", func(t *testing.T) {
		c.run("scenario", "canary", "--weights", "5,25,100").ok(t, nil)
		c.run("scenario", "canary", "--rollout-duration", "20s").ok(t, nil)
		c.run("scenario", "canary", "--rollout-duration", "20s", "--controls").ok(t, nil)
	})

	t.Run("the scenarios that users are shown pass, and their controls are caught", func(t *testing.T) {
		files, err := filepath.Glob("../../manifests/scenarios/examples/*.yaml")
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, file := range files {
			c.run("scenario", "run", file).ok(t, nil)
			c.run("scenario", "run", file, "--controls").ok(t, nil)
		}
	})

	t.Run("teach mode shows each step before it happens", func(t *testing.T) {
		p := c.start("scenario", "canary", "--short", "--explain")
		go func() { _, _ = io.WriteString(p.in, strings.Repeat("\n", 40)); _ = p.in.Close() }()
		r := p.wait()
		r.exits(t, 0, "Step 1 of", "+kind: Service", "percent: 90")
	})

	t.Run("what --keep left is removed by reset", func(t *testing.T) {
		c.run("scenario", "canary", "--short", "--keep").ok(t, nil)
		if ns := kubectl(t, "get", "namespace", "mllab-canary", "--ignore-not-found", "-o", "name"); ns == "" {
			t.Error("--keep kept nothing")
		}
		if r := c.run("scenario", "reset", "canary"); r.code != 0 || !strings.Contains(r.out, "mllab-canary") {
			t.Error(r)
		}
		if r := c.run("scenario", "reset", "canary"); r.code != 0 || !strings.Contains(r.out, "nothing to reset") {
			t.Error(r)
		}
	})

	// What no control names.
	for _, world := range []struct {
		name   string
		change func(t *testing.T)
		may    func(scenarios.Result) bool // pass
	}{
		{
			"traffic is moved by hand in the middle of a sample",
			func(t *testing.T) {
				kubectl(t, "-n", "mllab-canary", "patch", "services.serving.knative.dev", "model", "--type=json", "-p",
					`[{"op":"replace","path":"/spec/traffic/0/percent","value":88},{"op":"replace","path":"/spec/traffic/1/percent","value":12}]`)
			},
			func(scenarios.Result) bool { return false },
		},
		{
			"the gateway is restarted in the middle of a sample",
			func(t *testing.T) {
				kubectl(t, "-n", "istio-system", "delete", "pod", "-l", "app=istio-ingressgateway", "--grace-period=0", "--force", "--wait=false")
			},
			func(scenarios.Result) bool { return false },
		},
		{
			"v2's pod is deleted in the middle of a sample",
			func(t *testing.T) {
				kubectl(t, "-n", "mllab-canary", "delete", "pod", "-l", "serving.knative.dev/revision=model-v2", "--wait=false")
			},
			// Knative may well replace it without a loss. If so, that must be what was counted.
			func(r scenarios.Result) bool {
				for _, step := range r.Steps {
					if step.Evidence.Tally != nil && len(step.Evidence.Tally.Failed) > 0 {
						return false
					}
				}
				return true
			},
		},
	} {
		t.Run("no untrue pass when "+world.name, func(t *testing.T) {
			p := c.start("scenario", "canary", "--requests", "12000", "-o", "json") // long enough for what happens in the middle
			p.says(t, "canary: 90/10: started")
			inForce(t, "90 10")
			world.change(t)
			r := p.wait()
			var runs []scenarios.Result
			if err := json.Unmarshal([]byte(r.out), &runs); err != nil || len(runs) != 1 {
				t.Fatalf("%v: %s", err, r)
			}
			if runs[0].Pass && !world.may(runs[0]) {
				t.Errorf("it passed: %s", r)
			}
			if runs[0].Pass != (r.code == 0) {
				t.Errorf("pass %v with %s", runs[0].Pass, r)
			}
			kubectl(t, "-n", "istio-system", "rollout", "status", "deployment/istio-ingressgateway", "--timeout=90s")
		})
	}

	t.Run("a gateway that answers 503 fails the claim, not the tool", func(t *testing.T) {
		busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
		defer busy.Close()
		other := c
		other.env = append(slices.Clone(c.env), "MLLAB_STATE_DIR="+stateWithGateway(t, c.state, busy.Listener.Addr().(*net.TCPAddr).Port))
		r := other.run("scenario", "canary", "--requests", "200", "-o", "junit")
		r.exits(t, 1, "503")
		var suites struct {
			Failures int `xml:"failures,attr"`
		}
		if err := xml.Unmarshal([]byte(r.out), &suites); err != nil || suites.Failures == 0 {
			t.Errorf("JUnit counts %d failures, %v:\n%s", suites.Failures, err, r.out)
		}
	})

	t.Run("^C while sampling exits 130 and takes the namespace away", func(t *testing.T) {
		p := c.start("scenario", "canary", "--requests", "200000")
		p.says(t, "requests")
		p.interrupt()
		p.wait().exits(t, 130)
		if ns := kubectl(t, "get", "namespace", "mllab-canary", "--ignore-not-found", "-o", "name"); ns != "" {
			t.Errorf("it left %s", ns)
		}
	})

	t.Run("kill -9 while sampling: the next run starts afresh", func(t *testing.T) {
		p := c.start("scenario", "canary", "--requests", "200000")
		p.says(t, "requests")
		p.kill()
		p.wait()
		c.run("scenario", "canary", "--requests", "200").ok(t, nil)
	})

	testGitOps(t, c)
	t.Run("a person's own clone, and the audit", func(t *testing.T) { testGitVerbs(t, c) })
	t.Run("the addons come from the lab's own Git", func(t *testing.T) { testUpGitOps(t, c) })

	t.Run("a stopped node: the scenario says up, and up starts it again", func(t *testing.T) {
		engine(t, "stop", "-t", "5", e2eCluster+"-control-plane")
		c.run("scenario", "canary").exits(t, 3, "mllab up")
		c.run("status").exits(t, 3, "mllab up")
		var sum bootstrap.Summary
		c.run("up", "--image-source", "source", "-o", "json").ok(t, &sum)
		if sum.Created {
			t.Error("the node was replaced, not started")
		}
		c.run("scenario", "canary", "--requests", "200").ok(t, nil)
	})

	t.Run("down removes a node whose processes are gone", func(t *testing.T) {
		out := engine(t, "inspect", "--format", "{{.State.Pid}}", e2eCluster+"-control-plane")
		var pid int
		if _, err := fmt.Sscan(out, &pid); err != nil || pid < 2 {
			t.Fatalf("the node's process is %q", out)
		}
		own := strings.Fields(engine(t, "inspect", "--format", "{{range .Mounts}}{{.Name}} {{end}}", e2eCluster+"-control-plane"))
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

	t.Run("down twice is fine", func(t *testing.T) {
		c.run("down").ok(t, nil)
	})

	t.Run("the user's kubeconfig is untouched", func(t *testing.T) {
		now, _ := os.ReadFile(filepath.Join(os.Getenv("HOME"), ".kube", "config"))
		if !bytes.Equal(now, userConfig) {
			t.Error("it changed")
		}
	})
}

// planOf is what a run of a scenario with the default options does.
func planOf(t *testing.T, s scenarios.Scenario) *scenarios.Plan {
	t.Helper()
	p, err := s.Plan(scenarios.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// added tells whether a scenario needs more than a plain lab has.
func added(s scenarios.Scenario) bool {
	return slices.Contains(s.Needs, "flux") || slices.Contains(s.Needs, "kubeflow")
}

// inForce returns when the canary's traffic is so, in percents, and Knative calls it ready: then its sample begins.
func inForce(t *testing.T, percents string) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(2 * time.Minute); ; {
		got := kubectl(t, "-n", "mllab-canary", "get", "services.serving.knative.dev", "model", "-o",
			`jsonpath={.status.traffic[*].percent} {.status.conditions[?(@.type=="Ready")].status} {.metadata.generation} {.status.observedGeneration}`)
		if f := strings.Fields(got); strings.HasPrefix(got, percents+" True ") && f[len(f)-1] == f[len(f)-2] {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("the traffic is %q, never %q", got, percents)
		}
	}
}

// stateWithGateway is a copy of the state folder in which the lab's gateway is
// on another port.
func stateWithGateway(t *testing.T, state string, port int) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(state)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, e2eCluster, "state.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var st map[string]any
	if err := json.Unmarshal(data, &st); err != nil {
		t.Fatal(err)
	}
	st["port"] = port
	if data, err = json.Marshal(st); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// registrySource fills a registry over HTTP with what was built from source,
// under upstream's names, and has `images build` pull all of it.
func registrySource(t *testing.T, c cli) {
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	var rows []images.Row
	c.run("images", "list", "--image-source", "source", "-o", "json").ok(t, &rows)

	dir, err := images.DefaultCache()
	if err != nil {
		t.Fatal(err)
	}
	cache, err := layout.FromPath(filepath.Join(dir, "images"))
	if err != nil {
		t.Fatal(err)
	}
	index, err := cache.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	digests := map[string]string{}
	for _, d := range manifest.Manifests {
		component := d.Annotations["org.opencontainers.image.ref.name"]
		digests[component] = d.Digest.String()
		i := slices.IndexFunc(rows, func(r images.Row) bool { return r.Name == component })
		if i < 0 || rows[i].Upstream == "" {
			continue
		}
		img, err := cache.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		upstream, err := name.ParseReference(rows[i].Upstream)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.ParseReference(host + "/" + upstream.Context().RepositoryStr() + ":" + upstream.Identifier())
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, img, remote.WithContext(context.Background())); err != nil {
			t.Fatal(err)
		}
	}

	pulled := t.TempDir()
	args := []string{"images", "build", "--image-source", "registry", "--registry-mirror", host, "--cache-dir", pulled}
	c.run(args...).ok(t, nil)
	cache, err = layout.FromPath(filepath.Join(pulled, "images"))
	if err != nil {
		t.Fatal(err)
	}
	if index, err = cache.ImageIndex(); err != nil {
		t.Fatal(err)
	}
	if manifest, err = index.IndexManifest(); err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != len(rows) {
		t.Errorf("%d images were pulled, the table has %d", len(manifest.Manifests), len(rows))
	}
	for _, d := range manifest.Manifests {
		component := d.Annotations["org.opencontainers.image.ref.name"]
		if d.Digest.String() != digests[component] {
			t.Errorf("%s: pulled %s, built %s", component, d.Digest, digests[component])
		}
	}
	if r := c.run(args...); strings.Contains(r.err, "pull ") {
		t.Errorf("the second build pulled: %s", r)
	}
}
