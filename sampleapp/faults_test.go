package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// startAdmin serves the application and its faults.
func startAdmin(t *testing.T, vars map[string]string) (main, faults string) {
	t.Helper()
	a, s, _ := start(t, vars)
	admin := httptest.NewServer(a.admin())
	t.Cleanup(admin.Close)
	return s.URL, admin.URL + "/faults"
}

// put changes faults and returns the state.
func put(t *testing.T, url, body string) string {
	t.Helper()
	resp, got := do(t, "PUT", url, body)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("PUT %s: %d %s", body, resp.StatusCode, got)
	}
	return got
}

func TestFaultsStartAsTheEnvironmentSaysAndChangeOneByOne(t *testing.T) {
	main, faults := startAdmin(t, map[string]string{"FAIL_PERCENT": "0.07", "DELAY": "250ms"})
	_, got := do(t, "GET", faults, "")
	if want := `{"ready":true,"hang":false,"failPercent":0.07,"delay":"250ms","fillPercent":0}` + "\n"; got != want {
		t.Errorf("at first %s", got)
	}
	for _, c := range []struct{ body, want string }{
		{`{}`, `{"ready":true,"hang":false,"failPercent":0.07,"delay":"250ms","fillPercent":0}`},
		{`{"ready":false}`, `{"ready":false,"hang":false,"failPercent":0.07,"delay":"250ms","fillPercent":0}`},
		{`{"delay":"1500ms"}`, `{"ready":false,"hang":false,"failPercent":0.07,"delay":"1.5s","fillPercent":0}`},
		{`{"failPercent":100}`, `{"ready":false,"hang":false,"failPercent":100,"delay":"1.5s","fillPercent":0}`},
		{`{"hang":true,"ready":true}`, `{"ready":true,"hang":true,"failPercent":100,"delay":"1.5s","fillPercent":0}`},
		{`{"ready":true,"hang":false,"failPercent":0,"delay":"0s","fillPercent":0}`, `{"ready":true,"hang":false,"failPercent":0,"delay":"0s","fillPercent":0}`},
	} {
		if got := put(t, faults, c.body); got != c.want+"\n" {
			t.Errorf("PUT %s: %s", c.body, got)
		}
		if _, got := do(t, "GET", faults, ""); got != c.want+"\n" {
			t.Errorf("after PUT %s: %s", c.body, got)
		}
	}
	if resp, _ := do(t, "GET", main+"/faults", ""); resp.StatusCode != 404 {
		t.Errorf("/faults on PORT: %d", resp.StatusCode)
	}
}

func TestBadFaultsAreRefusedAndChangeNothing(t *testing.T) {
	_, faults := startAdmin(t, nil)
	_, before := do(t, "GET", faults, "")
	for body, want := range map[string]string{
		``:                                    "want JSON like",
		`hello`:                               "want JSON like",
		`[]`:                                  "want JSON like",
		`null`:                                "null",
		`{"ready":null}`:                      "null",
		`{"hang":true,"reddy":false}`:         `"reddy"`,
		`{"hang":true,"ready":"no"}`:          "ready",
		`{"hang":true,"failPercent":"5"}`:     "failPercent",
		`{"hang":true,"failPercent":-1}`:      "failPercent=-1: want a number from 0 to 100",
		`{"hang":true,"failPercent":100.1}`:   "failPercent=100.1: want a number from 0 to 100",
		`{"hang":true,"delay":5}`:             "delay",
		`{"hang":true,"delay":"5"}`:           `delay="5": want a duration`,
		`{"hang":true,"delay":"-1s"}`:         `delay="-1s": want a duration`,
		`{"hang":true,"fillPercent":101}`:     "fillPercent=101: want a number from 0 to 100",
		`{"hang":true,"fillPercent":5}`:       "fillPercent=5: want VOLUME set",
		`{"hang":true} x`:                     "nothing after it",
		`{}` + strings.Repeat(" ", maxFaults): "too large",
	} {
		resp, got := do(t, "PUT", faults, body)
		if resp.StatusCode != 400 || !strings.Contains(got, want) {
			t.Errorf("PUT %.50s: %d %s, want 400 with %s", body, resp.StatusCode, got, want)
		}
		if _, after := do(t, "GET", faults, ""); after != before {
			t.Errorf("PUT %.50s changed the faults to %s", body, after)
		}
	}
	if resp, _ := do(t, "POST", faults, `{}`); resp.StatusCode != 405 {
		t.Errorf("POST: %d", resp.StatusCode)
	}
}

func TestFaultsActWhileTheProcessRuns(t *testing.T) {
	main, faults := startAdmin(t, nil)
	put(t, faults, `{"ready":false}`)
	if resp, body := do(t, "GET", main+"/readyz", ""); resp.StatusCode != 503 || body != "not ready (fault)\n" {
		t.Errorf("/readyz: %d %q", resp.StatusCode, body)
	}
	for _, path := range []string{"/", "/healthz"} {
		if got := status(main + path); got != 200 {
			t.Errorf("%s: %d without readiness", path, got)
		}
	}
	put(t, faults, `{"ready":true,"failPercent":100}`)
	if a, b := status(main+"/readyz"), status(main); a != 200 || b != 500 {
		t.Errorf("ready again %d, with every request failing %d", a, b)
	}
	put(t, faults, `{"failPercent":0,"delay":"150ms"}`)
	begin := time.Now()
	if got := status(main); got != 200 || time.Since(begin) < 150*time.Millisecond {
		t.Errorf("%d after %s", got, time.Since(begin))
	}
}

func TestAHangBlocksEveryPathUntilItsClientLeaves(t *testing.T) {
	for _, relay := range []string{"", "http://127.0.0.1:1"} {
		a, s, _ := start(t, map[string]string{"RELAY": relay})
		if _, err := a.faults.change([]byte(`{"hang":true}`)); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ method, path string }{
			{"GET", "/"}, {"POST", "/"}, {"GET", "/healthz"}, {"GET", "/readyz"}, {"GET", "/metrics"}, {"GET", "/seen"}, {"GET", "/x"},
		} {
			ctx, leave := context.WithTimeout(t.Context(), 50*time.Millisecond)
			req, _ := http.NewRequestWithContext(ctx, c.method, s.URL+c.path, strings.NewReader(`{"instances":[1]}`))
			if resp, err := http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
				t.Errorf("%s %s: %d", c.method, c.path, resp.StatusCode)
			}
			leave()
		}
		// One leaves in the middle of its body.
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
		if _, err := conn.Read(make([]byte, 100)); err != nil { // 100 Continue: its body is waited for
			t.Fatal(err)
		}
		fmt.Fprint(conn, "half")
		conn.Close()
		s.Close() // returns when no request runs any more
	}
}

func TestAnEndedHangIsOver(t *testing.T) {
	main, faults := startAdmin(t, nil)
	put(t, faults, `{"hang":true}`)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", main+"/healthz", nil)
	if resp, err := http.DefaultClient.Do(req); err == nil {
		t.Fatalf("answered %d", resp.StatusCode)
	}
	put(t, faults, `{"hang":false}`)
	if got := status(main + "/healthz"); got != 200 {
		t.Errorf("/healthz: %d", got)
	}
}

func TestFaultsChangedAtOnceAreAllKept(t *testing.T) {
	c, err := readConfig(env(nil), host)
	if err != nil {
		t.Fatal(err)
	}
	a := newApp(c, slog.New(slog.DiscardHandler), rand.Float64)
	s, admin := httptest.NewServer(a.handler()), httptest.NewServer(a.admin())
	defer s.Close()
	defer admin.Close()
	var all sync.WaitGroup
	for _, field := range []func(i int) string{
		func(i int) string { return fmt.Sprintf(`"ready":%t`, i%2 == 0) },
		func(i int) string { return fmt.Sprintf(`"failPercent":%d`, i) },
		func(i int) string { return fmt.Sprintf(`"delay":"%dµs"`, i+1) },
	} {
		all.Go(func() {
			for i := range 50 {
				do(t, "PUT", admin.URL+"/faults", "{"+field(i)+"}")
				do(t, "GET", s.URL, "")
				do(t, "GET", s.URL+"/readyz", "")
				// Nobody else changes this field.
				if _, got := do(t, "GET", admin.URL+"/faults", ""); !strings.Contains(got, field(i)) {
					t.Errorf("%s was lost: %s", field(i), got)
				}
			}
		})
	}
	all.Wait()
}
