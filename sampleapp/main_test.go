package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mllab.local/internal/probe"

	"mllab.local/sampleapp/api"
)

// build returns the real binary, built once for all tests.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "sampleapp")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "sampleapp")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	m.Run()
	if path, err := build(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
}

// process is the running binary.
type process struct {
	url    string
	cmd    *exec.Cmd
	log    *lines
	exited chan error
}

func launch(t *testing.T, vars ...string) *process {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(path), log: &lines{}, exited: make(chan error, 1)}
	p.cmd.Env = append([]string{"PORT=0", "TARGET=v1"}, vars...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill() })
	go func() { p.exited <- p.cmd.Wait() }()
	eventually(t, "the log names the port", func() bool {
		var entry struct{ Msg, Address string }
		first, _, whole := strings.Cut(p.log.String(), "\n")
		if !whole || json.Unmarshal([]byte(first), &entry) != nil || entry.Msg != "listening" {
			return false
		}
		_, port, err := net.SplitHostPort(entry.Address)
		p.url = "http://127.0.0.1:" + port
		return err == nil
	})
	return p
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// exit waits for the end and returns the exit code.
func (p *process) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		t.Fatalf("still there after 30 s: %s", p.log)
		return -1
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		case <-poll.C:
		}
	}
}

func status(url string) int {
	resp, err := http.Get(url)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestABadValueExitsWith2BeforeListening(t *testing.T) {
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = []string{"FAIL_PERCENT=120"}, &stdout, &stderr
	_ = cmd.Run() // its code is what counts
	if code := cmd.ProcessState.ExitCode(); code != 2 {
		t.Errorf("exit code %d", code)
	}
	if got, want := stderr.String(), "sampleapp: FAIL_PERCENT=\"120\": want a number from 0 to 100\n"; got != want || stdout.Len() != 0 {
		t.Errorf("stderr %q, want %q; stdout %q", got, want, stdout.String())
	}
}

func TestAPortInUseExitsWith1(t *testing.T) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.Env = []string{fmt.Sprintf("PORT=%d", l.Addr().(*net.TCPAddr).Port)}
	out, _ := cmd.CombinedOutput() // its code is what counts
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(string(out), "address already in use") {
		t.Errorf("exit code %d, %s", code, out)
	}
}

func TestOnSIGTERMReadinessGoesOffFirstAndNewRequestsAreStillServed(t *testing.T) {
	p := launch(t, "DRAIN=1h") // which no pause of this machine outlasts
	if got := status(p.url + "/readyz"); got != 200 {
		t.Fatalf("/readyz %d before", got)
	}
	p.signal(t, syscall.SIGTERM)
	eventually(t, "/readyz says 503", func() bool { return status(p.url+"/readyz") == 503 })
	if status(p.url+"/healthz") != 200 {
		t.Error("not alive while draining: the kubelet would kill it")
	}
	resp, body := do(t, "GET", p.url, "")
	if resp.StatusCode != 200 || body != "v1\n" {
		t.Errorf("a new request while draining: %d %q", resp.StatusCode, body)
	}
	if !resp.Close {
		t.Error("a connection is kept while draining")
	}
}

func TestAfterSIGTERMItLeavesWhenTheDrainIsOver(t *testing.T) {
	p := launch(t, "DRAIN=1s", "ADMIN_PORT=0")
	begin := time.Now()
	p.signal(t, syscall.SIGTERM)
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d: %s", code, p.log)
	}
	if took := time.Since(begin); took < time.Second {
		t.Errorf("it left after %s, before the drain was over", took)
	}
}

func TestOnSIGTERMAStartedRequestIsAnswered(t *testing.T) {
	p := launch(t, "DRAIN=0s", "DELAY=1s")
	answer := make(chan probe.Answer, 1)
	go func() {
		answer <- probe.NewHTTP(time.Minute).Send(t.Context(), probe.Request{URL: p.url})
	}()
	eventually(t, "the request is received", func() bool {
		resp, err := http.Get(p.url + "/seen")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var s api.Seen
		return json.NewDecoder(resp.Body).Decode(&s) == nil && s.Count == 1
	})
	p.signal(t, syscall.SIGTERM)
	if a := <-answer; !a.OK() {
		t.Errorf("it got %s", a.Problem())
	}
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d: %s", code, p.log)
	}
}

func TestNothingIsLostWhenClientsLeaveDuringTheDrain(t *testing.T) {
	p := launch(t, "DRAIN=1h") // however busy this machine is, they leave before its end
	w := probe.Watch(t.Context(), probe.NewHTTP(time.Minute), probe.Request{URL: p.url}, 200, nil)
	served := func() int { return strings.Count(p.log.String(), `"msg":"request"`) }
	eventually(t, "100 requests were served", func() bool { return served() > 100 })
	p.signal(t, syscall.SIGTERM)
	// As a proxy does: it goes on until it has learned that this pod is no longer ready, and a bit longer.
	eventually(t, "/readyz says 503", func() bool { return status(p.url+"/readyz") == 503 })
	before := served()
	eventually(t, "100 more", func() bool { return served() > before+100 })
	record := w.Stop()
	for _, a := range record.Answers {
		if !a.OK() {
			t.Errorf("lost: %s", a.Problem())
		}
	}
	if len(record.Answers) < 200 {
		t.Errorf("only %d requests", len(record.Answers))
	}
}

// A proxy whose model is slow for a moment opens connections that it then does not need. It keeps them, and sends a
// request on one whenever it likes.
func TestAConnectionWithoutARequestIsKept(t *testing.T) {
	t.Parallel()
	p := launch(t)
	c, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(11 * time.Second)); err != nil { // servers often close it after 10 s
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("an idle connection ended with %v", err)
	}
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprint(c, "GET /readyz HTTP/1.1\r\nHost: model\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("the request was answered %v, %v", answer, err)
	}
}

func TestADMIN_PORTServesFaultsUntilTheEnd(t *testing.T) {
	p := launch(t, "DRAIN=1h", "ADMIN_PORT=0")
	var entry struct{ Msg, Address string }
	eventually(t, "the log names the admin port", func() bool {
		lines := strings.Split(p.log.String(), "\n")
		return len(lines) > 2 && json.Unmarshal([]byte(lines[1]), &entry) == nil && entry.Msg == "admin listening"
	})
	_, port, err := net.SplitHostPort(entry.Address)
	if err != nil {
		t.Fatal(err)
	}
	faults := "http://127.0.0.1:" + port + "/faults"
	put(t, faults, `{"ready":false}`)
	if resp, body := do(t, "GET", p.url+"/readyz", ""); resp.StatusCode != 503 || body != "not ready (fault)\n" {
		t.Errorf("/readyz %d %q", resp.StatusCode, body)
	}
	p.signal(t, syscall.SIGTERM)
	eventually(t, "/readyz says that it drains", func() bool {
		_, body := do(t, "GET", p.url+"/readyz", "")
		return body == "draining\n"
	})
	if got := status(faults); got != 200 {
		t.Errorf("/faults %d while draining", got)
	}
}

func TestWithoutADMIN_PORTThereIsOneListener(t *testing.T) {
	p := launch(t, "DRAIN=0s")
	if got := status(p.url); got != 200 {
		t.Fatalf("/ %d", got)
	}
	p.signal(t, syscall.SIGTERM)
	if code := p.exit(t); code != 0 || strings.Contains(p.log.String(), "admin") {
		t.Errorf("exit code %d: %s", code, p.log)
	}
}

func TestASecondSignalEndsItAtOnce(t *testing.T) {
	p := launch(t, "DRAIN=1h")
	p.signal(t, syscall.SIGINT)
	eventually(t, "it drains", func() bool { return strings.Contains(p.log.String(), `"msg":"draining"`) })
	p.signal(t, syscall.SIGTERM)
	if code := p.exit(t); code == 0 {
		t.Error("exit code 0 although it did not drain")
	}
}
