package view

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mllab.local/scenarios"
)

// serve serves a page for a folder of evidence. What it starts is a shell script.
func serve(t *testing.T, script string) (*Server, string) {
	t.Helper()
	s := &Server{
		Token: "TOKEN", Evidence: filepath.Join(t.TempDir(), "evidence"), Choices: []Choice{{Name: "canary", Controls: []string{"weights"}}},
		Lab:   func(context.Context) (any, error) { return map[string]bool{"ready": true}, nil },
		Audit: func(context.Context) (any, error) { return nil, errors.New("the lab has no Git") },
		Now:   func(context.Context) (any, error) { return map[string]any{"routes": nil}, nil },
		Child: &Child{Command: func(args ...string) *exec.Cmd {
			return exec.Command("sh", append([]string{"-c", script, "sh"}, args...)...)
		}},
	}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	t.Cleanup(s.Child.Close)
	return s, h.URL
}

func TestOnlyThePageItselfIsServed(t *testing.T) {
	s, at := serve(t, "exit 0")
	known := http.StatusOK
	if script() == "" { // built without it
		known = http.StatusNotFound
	}
	if err := os.MkdirAll(filepath.Join(s.Evidence, "canary"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, where := range map[string]string{"kept": filepath.Join(s.Evidence, "canary", "kept"), "secret": filepath.Join(filepath.Dir(s.Evidence), "secret")} {
		if err := os.WriteFile(where, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name, method, path, host, origin string
		code                             int
	}{
		{"the page", "GET", "/TOKEN/", "", "", 200},
		{"its script", "GET", "/TOKEN/page.js", "", "", 200},
		{"its plots", "GET", "/TOKEN/plots.js", "", "", 200},
		{"the library of these", "GET", "/TOKEN/uPlot.iife.min.js", "", "", known},
		{"its style", "GET", "/TOKEN/style.css", "", "", 200},
		{"what can be started", "GET", "/TOKEN/choices", "", "", 200},
		{"the lab", "GET", "/TOKEN/lab", "", "", 200},
		{"its routes and alerts", "GET", "/TOKEN/now", "", "", 200},
		{"commits of a lab without Git", "GET", "/TOKEN/audit", "", "", 503},
		{"no token", "GET", "/", "", "", 403},
		{"another token", "GET", "/TOKEM/", "", "", 403},
		{"a part of the token", "GET", "/TOKE/", "", "", 403},
		{"events without a token", "GET", "/events", "", "", 403},
		{"another name of this machine", "GET", "/TOKEN/", "evil.example", "", 403},
		{"kept evidence", "GET", "/TOKEN/evidence/canary/kept", "", "", 200},
		{"no such evidence", "GET", "/TOKEN/evidence/canary/none", "", "", 404},
		{"a file outside of it", "GET", "/TOKEN/evidence/%2e%2e/secret", "", "", 404},
		{"a file further outside", "GET", "/TOKEN/evidence/canary/..%2f..%2fsecret", "", "", 404},
		{"starting from another page", "POST", "/TOKEN/start?scenario=canary", "", "http://evil.example", 403},
		{"starting from no page", "POST", "/TOKEN/start?scenario=canary", "", "", 403},
		{"starting by a link", "GET", "/TOKEN/start?scenario=canary", "", "self", 405},
		{"starting without the token", "POST", "/start?scenario=canary", "", "self", 403},
		{"starting something else", "POST", "/TOKEN/start?scenario=../x", "", "self", 400},
		{"stopping what does not run", "POST", "/TOKEN/stop", "", "self", 409},
		{"starting", "POST", "/TOKEN/start?scenario=canary", "", "self", 204},
	} {
		r, err := http.NewRequest(tc.method, at+tc.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = tc.host
		if tc.origin == "self" {
			tc.origin = at
		}
		if tc.origin != "" {
			r.Header.Set("Origin", tc.origin)
		}
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != tc.code || strings.Contains(string(body), "secret") {
			t.Errorf("%s: %d %.60q, want %d", tc.name, answer.StatusCode, body, tc.code)
		}
		if policy := answer.Header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'") {
			t.Errorf("%s: the policy is %q", tc.name, policy)
		}
	}
}

// messages reads the stream of a page.
func messages(t *testing.T, at string) func() (kind, data string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", at+"/TOKEN/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	lines := bufio.NewReader(answer.Body)
	return func() (kind, data string) {
		t.Helper()
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			switch line = strings.TrimSpace(line); {
			case line == "" && kind != "child":
				return kind, data
			case line == "":
			case strings.HasPrefix(line, "event: "):
				kind = line[7:]
			case strings.HasPrefix(line, "data: "):
				data = line[6:]
			}
		}
	}
}

func TestAPageFollowsWhatRunsAppend(t *testing.T) {
	s, at := serve(t, "exit 0")
	first := messages(t, at) // before there is any evidence
	folder := filepath.Join(s.Evidence, "canary")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, scenarios.EventsFile)
	write := func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(next func() (string, string), kind, data string) {
		t.Helper()
		if k, d := next(); k != kind || d != data {
			t.Fatalf("got %s %s, want %s %s", k, d, kind, data)
		}
	}
	write("{\"n\":1}\n{\"n\":2}\n{\"n\"")
	expect(first, "reset", `"canary"`)
	expect(first, "events", `{"folder":"canary","events":[{"n":1},{"n":2}]}`)
	write(":3}\n")
	expect(first, "events", `{"folder":"canary","events":[{"n":3}]}`)
	second := messages(t, at) // as after a reload: all so far
	expect(second, "reset", `"canary"`)
	expect(second, "events", `{"folder":"canary","events":[{"n":1},{"n":2},{"n":3}]}`)
	if err := os.Rename(folder, folder+"-old"); err != nil { // its inode stays taken
		t.Fatal(err)
	}
	if err := os.RemoveAll(folder + "-old/events.jsonl.gone"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	write("{\"n\":9}\n")
	for _, next := range []func() (string, string){first, second} {
		for {
			kind, data := next()
			if kind == "events" && data == `{"folder":"canary","events":[{"n":9}]}` {
				break
			}
			if kind != "reset" && !strings.Contains(data, "canary-old") {
				t.Fatalf("got %s %s", kind, data)
			}
		}
	}
}

func TestALongStreamComesWhole(t *testing.T) {
	s, at := serve(t, "exit 0")
	folder := filepath.Join(s.Evidence, "canary")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	const n = 10_000
	line := `{"v":1,"type":"answer","run":"canary","answer":{"from":"sample","id":"` + strings.Repeat("x", 100) + "\"}}\n"
	if err := os.WriteFile(filepath.Join(folder, scenarios.EventsFile), []byte(strings.Repeat(line, n)), 0o600); err != nil {
		t.Fatal(err)
	}
	next := messages(t, at)
	for got := 0; got < n; {
		kind, data := next()
		if kind != "events" {
			continue
		}
		var m struct{ Events []scenarios.Event }
		if err := json.Unmarshal([]byte(data), &m); err != nil {
			t.Fatal(err)
		}
		if len(data) > 2*batch {
			t.Errorf("a message of %d bytes", len(data))
		}
		got += len(m.Events)
	}
}

func TestAChildIsSteppedAndStopped(t *testing.T) {
	signals := make(chan os.Signal, 1) // as mllab does: a shell whose parent ignores it cannot take it
	signal.Notify(signals, os.Interrupt)
	defer signal.Stop(signals)
	s, _ := serve(t, `echo "$@" >&2; trap 'echo "error: interrupted" >&2; exit 130' INT; read line; read line; exit 3`)
	c := s.Child
	eventually := func(what string, holds func() bool) {
		t.Helper()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for limit := time.After(time.Minute); !holds(); {
			select {
			case <-tick.C:
			case <-limit:
				t.Fatalf("never: %s: %+v", what, c.State())
			}
		}
	}
	if c.Next() == nil || c.Stop() == nil {
		t.Error("nothing runs, and it goes on or stops")
	}
	if err := c.Start("canary", false, true); err != nil {
		t.Fatal(err)
	}
	if err := c.Start("canary", false, false); err == nil {
		t.Error("two at once")
	}
	for range 2 {
		if err := c.Next(); err != nil {
			t.Error(err)
		}
	}
	eventually("it ends by itself", func() bool { return !c.State().Running })
	if got := c.State(); got.Error != "exit status 3" || !got.Steps {
		t.Errorf("got %+v", got)
	}
	if err := c.Start("canary", true, false); err != nil {
		t.Fatal(err)
	}
	if c.Next() == nil {
		t.Error("it does not wait, and goes on")
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	c.Close()
	if got := c.State(); got.Running || got.Error == "" {
		t.Errorf("got %+v", got)
	}
}
