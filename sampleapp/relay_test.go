package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"mllab.local/sampleapp/api"
)

// identity is what an answer says about who gave it, and the relays it passed.
func identity(h http.Header) string {
	return fmt.Sprint(h[api.HeaderTarget], h[api.HeaderRevision], h[api.HeaderPod], h[api.HeaderRelay])
}

func TestThroughARelayARequestArrivesAsItWasSent(t *testing.T) {
	type arrived struct {
		method, uri, host, body string
		header                  http.Header
	}
	var last arrived
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		last = arrived{r.Method, r.RequestURI, r.Host, string(body), r.Header}
		w.Header()["X-Twice"] = []string{"a", "b"}
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "short and stout")
	}))
	defer server.Close()
	_, relay, _ := start(t, map[string]string{"RELAY": server.URL, "POD_NAME": "relay-1"})
	host := strings.TrimPrefix(server.URL, "http://")

	client := &http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}
	send := func(method, url, body string) (arrived, string, http.Header) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"X-Mllab-Id", "X-Request-Id", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded"} {
			req.Header.Set(name, "for "+name)
		}
		req.Header["X-Twice"] = []string{"a", "b"}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		resp.Header.Del("Date")
		return last, fmt.Sprintf("%d %s", resp.StatusCode, answer), resp.Header
	}
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/", ""},
		{"POST", "/", `{"instances":[1]}`},
		{"PUT", "//a/../b%2Fc?since=3&x=1;2&y=%zz", strings.Repeat("x", 100_000)},
		{"GET", "/metrics", ""},
		{"GET", "/healthz/", ""},
	} {
		direct, answer, header := send(c.method, server.URL+c.path, c.body)
		relayed, gotAnswer, gotHeader := send(c.method, relay.URL+c.path, c.body)
		if !reflect.DeepEqual(relayed, direct) || relayed.host != host || relayed.uri != c.path {
			t.Errorf("%s %s: %+v\narrived, directly\n%+v", c.method, c.path, relayed, direct)
		}
		header.Set(api.HeaderRelay, "relay-1")
		if gotAnswer != answer || !reflect.DeepEqual(gotHeader, header) {
			t.Errorf("%s %s: %s %v\nanswered, directly\n%s %v", c.method, c.path, gotAnswer, gotHeader, answer, header)
		}
	}
}

func TestARelayedAnswerNamesTheModelAndTheRelay(t *testing.T) {
	_, model, _ := start(t, map[string]string{"TARGET": "v2", "K_REVISION": "r2", "POD_NAME": "pod-a"})
	_, relay, log := start(t, map[string]string{"TARGET": "client", "K_REVISION": "r0", "POD_NAME": "relay-1", "RELAY": model.URL, "FAIL_PERCENT": "100"})
	for path, want := range map[string]string{
		"/":        "[v2] [r2] [pod-a] [relay-1]",
		"/seen":    "[v2] [r2] [pod-a] [relay-1]",
		"/metrics": "[v2] [r2] [pod-a] [relay-1]",
		"/nowhere": "[v2] [r2] [pod-a] [relay-1]",
		"/healthz": "[client] [r0] [relay-1] []",
		"/readyz":  "[client] [r0] [relay-1] []",
	} {
		if resp, _ := do(t, "GET", relay.URL+path, ""); identity(resp.Header) != want || resp.StatusCode == 500 {
			t.Errorf("%s: %d %s, want %s", path, resp.StatusCode, identity(resp.Header), want)
		}
	}
	// 100 Continue comes before the answer, and has headers of its own.
	resp, _ := do(t, "POST", relay.URL, `{"instances":[1]}`, "Expect", "100-continue")
	if got := identity(resp.Header); resp.StatusCode != 200 || got != "[v2] [r2] [pod-a] [relay-1]" {
		t.Errorf("after 100 Continue: %d %s", resp.StatusCode, got)
	}

	model.Close()
	resp, body := do(t, "GET", relay.URL, "")
	if got := identity(resp.Header); resp.StatusCode != 502 || got != "[] [] [] [relay-1]" {
		t.Errorf("the relay's own: %d %s", resp.StatusCode, got)
	}
	if !strings.Contains(body, "connection refused") || !strings.Contains(log.String(), "connection refused") {
		t.Errorf("why is neither told nor logged: %q, %s", body, log)
	}
}

func TestARelaySendsEachRequestOnce(t *testing.T) {
	var came atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if came.Add(1) > 1 {
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	_, relay, _ := start(t, map[string]string{"RELAY": server.URL})
	var codes []int
	for range 3 {
		resp, _ := do(t, "GET", relay.URL, "")
		codes = append(codes, resp.StatusCode)
	}
	if n := came.Load(); n != 3 || !slices.Equal(codes, []int{200, 502, 502}) {
		t.Errorf("%d came for 3, answered %d", n, codes)
	}
}
