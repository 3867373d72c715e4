//go:build e2e

// These tests drive bin/mllab as a person would, on real clusters of their
// own. Each TestLab* has a lab of its own; TestEveryLab is all of them, two at a time.
//
//	TestLab             what `make test` runs: the machine, interruptions, each scenario once and short
//	TestLabScenarios    the core lab: scenarios in full length, their controls, broken worlds, GitOps for addons
//	TestLabProgressive  the core lab with Flagger and what measures: versions judged, alerts, their controls, kills
//	TestLabDelivery     the lab with everything: delivery by Git, Kubeflow, their controls, kills
//
// `make e2e RUN=TestLabScenarios/evidence LAB=mllab` runs one part on a lab that is up.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mllab.local/bootstrap"
)

// TestEveryLab has two labs at a time: most of its time a lab waits. Those that take longest are first, so that both places
// end at about the same time. t.Parallel has no order: which labs came last was chance.
func TestEveryLab(t *testing.T) {
	type lab struct {
		name string
		test func(*testing.T)
	}
	all := []lab{
		{"TestLabDelivery", TestLabDelivery}, {"TestLabScenarios", TestLabScenarios},
		{"TestLabProgressive", TestLabProgressive}, {"TestLab", TestLab},
	}
	next := make(chan lab, len(all))
	for _, l := range all {
		next <- l
	}
	close(next)
	var places sync.WaitGroup
	defer places.Wait()
	for range 2 {
		places.Go(func() {
			for l := range next {
				t.Run(l.name, l.test)
			}
		})
	}
}

// cli is bin/mllab and the one lab that it is used on.
type cli struct {
	bin, name, state string
	env              []string
	lent             bool // $LAB names the lab: it is used, not made and not removed
	parts            *int // how many ran
}

// newCLI returns the command line for the lab of that name, which has a state
// folder of the tests' own; or for the lab that $LAB names, with the user's.
func newCLI(t *testing.T, name string) cli {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	c := cli{parts: new(int), bin: filepath.Join(root, "bin", "mllab"), name: name, state: filepath.Join(root, ".test", "state")}
	if lent := os.Getenv("LAB"); lent != "" {
		c.name, c.lent = lent, true
		if c.state = os.Getenv("MLLAB_STATE_DIR"); c.state == "" {
			if c.state, err = bootstrap.DefaultState(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := os.Stat(c.bin); err != nil {
		t.Fatalf("build it first with `make build`: %v", err)
	}
	c.env = append(os.Environ(), "MLLAB_STATE_DIR="+c.state, "MLLAB_NAME="+c.name)
	t.Cleanup(func() {
		if strings.Contains(t.Name(), "TestLab") && *c.parts == 0 && !t.Failed() { // bench and soak have no parts
			t.Error("no part of this test ran: what `go test -run` (RUN of make) names after the / is no part of it, or a part of a part")
		}
	})
	return c
}

// up makes the lab, with these flags of `mllab up`, and removes it when the test
// ends. A lab that an earlier run left is removed first.
func (c cli) up(t *testing.T, flags ...string) {
	t.Helper()
	if c.lent {
		return
	}
	c.own(t)
	c.run(append([]string{"up", "--image-source", "source", "--port", "auto"}, flags...)...).ok(t, nil)
}

// own removes the lab now and when the test ends.
func (c cli) own(t *testing.T) {
	t.Helper()
	if c.lent {
		t.Fatal("this test makes and removes its lab: leave LAB out")
	}
	if r := c.run("down"); r.code != 0 {
		t.Fatalf("removing what an earlier run left: %s", r)
	}
	t.Cleanup(func() {
		if r := c.run("down"); r.code != 0 {
			t.Errorf("cleaning up: %s", r)
		}
	})
}

// node is the name of the lab's node container.
func (c cli) node() string { return c.name + "-control-plane" }

// part runs a subtest. When it fails it logs the lab's state, so that nobody has
// to run it again to understand it.
func (c cli) part(t *testing.T, name string, f func(t *testing.T)) bool {
	t.Helper()
	return t.Run(name, func(t *testing.T) {
		*c.parts++
		began := time.Now()
		defer func() {
			if t.Failed() {
				t.Log(c.explain(began))
			}
		}()
		f(t)
	})
}

// explain describes the lab for a part that failed: pods that are not ready, the
// last warnings, and the beginning of each evidence file since then.
func (c cli) explain(since time.Time) string {
	var b strings.Builder
	for _, ask := range []struct{ title, script string }{
		{"pods that are not ready", `get pods -A --no-headers | awk '{split($3, n, "/"); if (n[1] != n[2] && $4 != "Completed") print}'`},
		{"the last warnings", `get events -A --field-selector type!=Normal --sort-by=.lastTimestamp | tail -n 25`},
	} {
		out, err := tryEngine("exec", c.node(), "sh", "-c", "kubectl --kubeconfig=/etc/kubernetes/admin.conf "+ask.script)
		if err != nil {
			out = err.Error()
		}
		fmt.Fprintf(&b, "-- %s\n%s\n", ask.title, out)
	}
	_ = filepath.WalkDir(filepath.Join(c.state, c.name), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".jsonl") {
			return nil
		}
		if st, err := d.Info(); err == nil && st.ModTime().After(since) {
			if data, err := os.ReadFile(path); err == nil {
				fmt.Fprintf(&b, "-- %s\n%s\n", path, bytes.Join(bytes.SplitN(data, []byte("\n"), 4)[:min(3, bytes.Count(data, []byte("\n")))], []byte("\n")))
			}
		}
		return nil
	})
	return b.String()
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
	cmd  *exec.Cmd
	mu   sync.Mutex
	out  buffer
	err  bytes.Buffer
	in   io.WriteCloser
	done chan struct{}
}

// buffer may be read while a process writes it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(text)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
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

func (c cli) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return engine(t, append([]string{"exec", c.node(), "kubectl", "--kubeconfig=/etc/kubernetes/admin.conf"}, args...)...)
}

// left lists what of the test's cluster the engine and the state folder hold.
func (c cli) left(t *testing.T) string {
	t.Helper()
	found := engine(t, "ps", "-aq", "--filter", "label=io.x-k8s.kind.cluster="+c.name)
	if _, err := os.Stat(filepath.Join(c.state, c.name)); err == nil {
		found += " " + filepath.Join(c.state, c.name)
	}
	return strings.TrimSpace(found)
}

func volumes(t *testing.T) []string {
	t.Helper()
	return strings.Fields(engine(t, "volume", "ls", "-q"))
}
