package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mllab.local/internal/probe"

	"mllab.local/sampleapp/api"
)

// env is an environment with a few variables.
func env(vars map[string]string) func(string) (string, bool) {
	return func(k string) (string, bool) { v, ok := vars[k]; return v, ok }
}

func host() (string, error) { return "host-1", nil }

// lines is a buffer that a server may write to while a test reads.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start serves the application over real HTTP.
func start(t *testing.T, vars map[string]string) (*app, *httptest.Server, *lines) {
	t.Helper()
	c, err := readConfig(env(vars), host)
	if err != nil {
		t.Fatal(err)
	}
	log := &lines{}
	seeded, one := rand.New(rand.NewPCG(1, 2)), sync.Mutex{}
	a := newApp(c, slog.New(slog.NewJSONHandler(log, nil)), func() float64 { // requests come at once
		one.Lock()
		defer one.Unlock()
		return seeded.Float64()
	})
	s := httptest.NewServer(a.handler())
	t.Cleanup(s.Close)
	return a, s, log
}

// do sends a request and returns the answer with its whole body.
func do(t *testing.T, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(data)
}

func TestAnAnswerSaysWhoGaveIt(t *testing.T) {
	_, s, _ := start(t, map[string]string{"TARGET": "v2", "K_REVISION": "model-00002", "POD_NAME": "pod-a"})
	for _, path := range append([]string{"/nowhere"}, api.Paths...) {
		resp, _ := do(t, "GET", s.URL+path, "")
		if found := resp.StatusCode == 200; found != (path != "/nowhere") {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
		got := []string{resp.Header.Get("X-Mllab-Target"), resp.Header.Get("X-Mllab-Revision"), resp.Header.Get("X-Mllab-Pod")}
		if !slices.Equal(got, []string{"v2", "model-00002", "pod-a"}) {
			t.Errorf("%s: %q", path, got)
		}
	}
	resp, body := do(t, "GET", s.URL+"/", "")
	if resp.StatusCode != 200 || body != "v2\n" || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("%d %q %q", resp.StatusCode, body, resp.Header.Get("Content-Type"))
	}
}

func TestTheProbeKnowsTheSample(t *testing.T) {
	_, s, _ := start(t, map[string]string{"TARGET": "v2", "K_REVISION": "model-00002"})
	a := probe.NewHTTP(time.Minute).Send(t.Context(), probe.Request{URL: s.URL})
	if !a.OK() || a.Target != "v2" || a.Revision != "model-00002" || a.Pod != "host-1" || a.Echo != a.ID || a.Body != "v2\n" {
		t.Errorf("%+v: %s", a, a.Problem())
	}
}

func TestARequestIDIsEchoedOrMadeUp(t *testing.T) {
	a, s, _ := start(t, nil)
	resp, _ := do(t, "GET", s.URL, "", "X-Request-Id", "proxy-1")
	if got := resp.Header.Get("X-Request-Id"); got != "proxy-1" {
		t.Errorf("echoed %q", got)
	}
	resp, _ = do(t, "GET", s.URL, "", "X-Request-Id", "proxy-2", "X-Mllab-Id", "mine-2")
	if got := resp.Header.Get("X-Request-Id") + " " + resp.Header.Get("X-Mllab-Id"); got != "proxy-2 mine-2" {
		t.Errorf("echoed %q", got)
	}
	one, _ := do(t, "GET", s.URL, "")
	two, _ := do(t, "GET", s.URL, "")
	made := []string{one.Header.Get("X-Request-Id"), two.Header.Get("X-Request-Id")}
	if made[0] == "" || made[1] == "" || made[0] == made[1] {
		t.Errorf("made up %q", made)
	}
	// What a proxy cannot change is what counts.
	if want := append([]string{"proxy-1", "mine-2"}, made...); !slices.Equal(a.seen.since(0).IDs, want) {
		t.Errorf("seen %q, want %q", a.seen.since(0).IDs, want)
	}
}

func TestAFaultIsTheApplicationsOwn(t *testing.T) {
	_, s, _ := start(t, map[string]string{"TARGET": "v2", "FAIL_PERCENT": "100"})
	for _, method := range []string{"GET", "POST"} {
		resp, body := do(t, method, s.URL, `{"instances":[1]}`, "X-Request-Id", "r1")
		if resp.StatusCode != 500 || body != "injected fault\n" {
			t.Errorf("%s: %d %q", method, resp.StatusCode, body)
		}
		if resp.Header.Get("X-Mllab-Target") != "v2" || resp.Header.Get("X-Mllab-Pod") != "host-1" || resp.Header.Get("X-Request-Id") != "r1" {
			t.Errorf("%s: a fault without identity: %v", method, resp.Header)
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/seen"} {
		if resp, _ := do(t, "GET", s.URL+path, ""); resp.StatusCode != 200 {
			t.Errorf("%s: %d: faults are for the model only", path, resp.StatusCode)
		}
	}
}

func TestFaultsComeWithTheStatedProbability(t *testing.T) {
	const n = 4000
	for percent, want := range map[string][2]int{
		"0":    {0, 0},
		"2.5":  {51, 151},    // 100 ± 5 standard deviations
		"30":   {1056, 1344}, // 1200 ± 5
		"99.9": {3986, 4000}, // 3996 - 5
		"100":  {n, n},
	} {
		a, _, _ := start(t, map[string]string{"FAIL_PERCENT": percent})
		h := a.handler()
		failed := 0
		for range n {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			if w.Code == 500 {
				failed++
			}
		}
		if failed < want[0] || failed > want[1] {
			t.Errorf("FAIL_PERCENT=%s: %d of %d failed, want %d to %d", percent, failed, n, want[0], want[1])
		}
	}
}

func TestOnlyAnswersOf200SayWhetherTheyConverted(t *testing.T) {
	for _, c := range []struct {
		percent, fail, method, body string
		want                        []string
	}{
		{"", "0", "GET", "", nil},
		{"0", "0", "GET", "", []string{"false"}},
		{"100", "0", "GET", "", []string{"true"}},
		{"100", "0", "POST", `{"instances":[1]}`, []string{"true"}},
		{"100", "0", "POST", `hello`, nil},
		{"100", "100", "GET", "", nil},
	} {
		_, s, _ := start(t, map[string]string{"CONVERT_PERCENT": c.percent, "FAIL_PERCENT": c.fail})
		resp, _ := do(t, c.method, s.URL, c.body)
		if got := resp.Header["X-Mllab-Converted"]; !slices.Equal(got, c.want) {
			t.Errorf("%+v: %d with %q", c, resp.StatusCode, got)
		}
	}
	_, s, _ := start(t, map[string]string{"CONVERT_PERCENT": "100"})
	if resp, _ := do(t, "GET", s.URL+"/healthz", ""); resp.Header["X-Mllab-Converted"] != nil {
		t.Error("/healthz converts: it is no model path")
	}
}

func TestAnswersConvertWithTheStatedProbability(t *testing.T) {
	a, _, _ := start(t, map[string]string{"CONVERT_PERCENT": "2.5"})
	h := a.handler()
	converted := 0
	for range 4000 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if w.Header().Get("X-Mllab-Converted") == "true" {
			converted++
		}
	}
	if converted < 51 || converted > 151 { // 100 ± 5 standard deviations
		t.Errorf("%d of 4000 converted", converted)
	}
}

func TestAnAnswerWaitsForDELAYAndNoLongerThanItsClient(t *testing.T) {
	_, s, _ := start(t, map[string]string{"DELAY": "150ms"})
	begin := time.Now()
	do(t, "GET", s.URL, "")
	if took := time.Since(begin); took < 150*time.Millisecond {
		t.Errorf("took %s", took)
	}

	a, s, log := start(t, map[string]string{"DELAY": "1h"})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	left := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
		_, err := http.DefaultClient.Do(req)
		left <- err
	}()
	eventually(t, "the request is received", func() bool { return a.seen.since(0).Count == 1 })
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	s.Close() // returns when no request runs any more
	if !strings.Contains(log.String(), `"code":499`) {
		t.Errorf("log %q does not say that the client left", log)
	}
}

func TestAModelInputGetsItsPredictions(t *testing.T) {
	_, s, _ := start(t, map[string]string{"TARGET": "v2", "MAX_BODY": "2000"})
	for _, c := range []struct {
		name, in string
		code     int
		want     string
	}{
		{"lists", `{"instances": [[1, 2, 3], [0], [-1.5, 4]]}`, 200, `{"target":"v2","prediction":[3.5,0.5,1]}`},
		{"numbers", `{"instances": [2, -0.5]}`, 200, `{"target":"v2","prediction":[2.5,0]}`},
		{"an empty list is the bias", `{"instances": [[]], "other": 1}`, 200, `{"target":"v2","prediction":[0.5]}`},
		{"no JSON", `hello`, 400, `want JSON like`},
		{"no instances", `{}`, 400, `want at least one`},
		{"empty", ``, 400, `want JSON like`},
		{"a string", `{"instances": ["1"]}`, 400, `want JSON like`},
		{"null", `{"instances": [null]}`, 400, `want JSON like`},
		{"something after it", `{"instances": [1]} x`, 400, `nothing after it`},
		{"beyond numbers", `{"instances": [[1e308, 1e308, 1e308]]}`, 400, `instance 0 is too large`},
		{"exactly as large as allowed", `{"instances": [1]}` + strings.Repeat(" ", 2000-18), 200, `[1.5]`},
		{"one byte too large", `{"instances": [1]}` + strings.Repeat(" ", 2000-17), 413, `larger than 2000 bytes`},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, body := do(t, "POST", s.URL, c.in, "Content-Type", "application/json")
			if resp.StatusCode != c.code || !strings.Contains(body, c.want) {
				t.Errorf("%d %s, want %d with %s", resp.StatusCode, body, c.code, c.want)
			}
			if !json.Valid([]byte(body)) || resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("X-Mllab-Target") != "v2" {
				t.Errorf("%q as %q from %q", body, resp.Header.Get("Content-Type"), resp.Header.Get("X-Mllab-Target"))
			}
		})
	}
}

func TestADriftingVersionDisagreesOnItsShareOfInputsAlways(t *testing.T) {
	const n = 4000
	var in struct {
		Instances [][]float64 `json:"instances"`
	}
	for i := range n {
		in.Instances = append(in.Instances, []float64{float64(i % 63), float64(i / 63)})
	}
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	predictions := func(percent string) []float64 {
		t.Helper()
		_, s, _ := start(t, map[string]string{"DRIFT_PERCENT": percent})
		var out output
		resp, got := do(t, "POST", s.URL, string(body))
		if err := json.Unmarshal([]byte(got), &out); err != nil || resp.StatusCode != 200 || len(out.Prediction) != n {
			t.Fatalf("%d %.100s: %v", resp.StatusCode, got, err)
		}
		return out.Prediction
	}
	base := predictions("")
	for percent, want := range map[string][2]int{
		"0":   {0, 0},
		"2.5": {51, 151},    // 100 ± 5 standard deviations
		"30":  {1056, 1344}, // 1200 ± 5
		"100": {n, n},
	} {
		got := predictions(percent)
		differ := 0
		for i, y := range got {
			if y == base[i]+1 {
				differ++
			} else if y != base[i] {
				t.Fatalf("DRIFT_PERCENT=%s: %v instead of %v", percent, y, base[i])
			}
		}
		if differ < want[0] || differ > want[1] {
			t.Errorf("DRIFT_PERCENT=%s: %d of %d differ, want %d to %d", percent, differ, n, want[0], want[1])
		}
		if !slices.Equal(predictions(percent), got) {
			t.Errorf("DRIFT_PERCENT=%s: the same inputs got other answers", percent)
		}
	}
}

func TestOtherMethodsAndPathsAreRefused(t *testing.T) {
	a, s, _ := start(t, nil)
	for _, c := range []struct {
		method, path string
		code         int
	}{{"PUT", "/", 405}, {"DELETE", "/", 405}, {"POST", "/seen", 405}, {"GET", "/x", 404}} {
		if resp, _ := do(t, c.method, s.URL+c.path, ""); resp.StatusCode != c.code {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, resp.StatusCode, c.code)
		}
	}
	if n := a.seen.since(0).Count; n != 0 {
		t.Errorf("%d of them count as seen by the model", n)
	}
}

func TestSeenListsModelRequestsInOrder(t *testing.T) {
	_, s, _ := start(t, map[string]string{"TARGET": "v2", "K_REVISION": "r", "FAIL_PERCENT": "50", "SEEN_KEEP": "5"})
	get := func(query string) (a api.Seen) {
		t.Helper()
		resp, body := do(t, "GET", s.URL+"/seen"+query, "")
		if err := json.Unmarshal([]byte(body), &a); err != nil || resp.StatusCode != 200 {
			t.Fatalf("%d %q: %v", resp.StatusCode, body, err)
		}
		return a
	}
	if _, body := do(t, "GET", s.URL+"/seen", ""); body != `{"target":"v2","revision":"r","pod":"host-1","count":0,"from":0,"ids":[],"outputs":[],"atOnce":[]}`+"\n" {
		t.Errorf("nothing seen: %s", body)
	}
	send := func(id string) {
		do(t, "GET", s.URL, "", "X-Request-Id", id)
		do(t, "GET", s.URL+"/healthz", "", "X-Request-Id", "probe")
	}
	for _, id := range []string{"a", "b", "b"} { // whether it failed or not, and twice if it came twice
		send(id)
	}
	do(t, "POST", s.URL, "not JSON", "X-Request-Id", "c")
	for _, c := range []struct {
		query string
		from  int
		ids   string
	}{{"", 0, "a b b c"}, {"?since=0", 0, "a b b c"}, {"?since=2", 2, "b c"}, {"?since=4", 4, ""}, {"?since=99", 4, ""}} {
		if a := get(c.query); a.Count != 4 || a.From != c.from || strings.Join(a.IDs, " ") != c.ids {
			t.Errorf("%q: %+v", c.query, a)
		}
	}
	for i := range 9 {
		send(fmt.Sprint(i))
	}
	if a := get(""); a.Count != 13 || a.From != 8 || strings.Join(a.IDs, " ") != "4 5 6 7 8" {
		t.Errorf("only the last five are remembered: %+v", a)
	}
	if a := get("?since=2"); a.From != 8 || len(a.IDs) != 5 {
		t.Errorf("what is forgotten is not hidden: %+v", a)
	}
	if a := get("?since=11"); a.From != 11 || strings.Join(a.IDs, " ") != "7 8" {
		t.Errorf("%+v", a)
	}
	send(strings.Repeat("x", 5000))
	if a := get("?since=13"); len(a.IDs) != 1 || len(a.IDs[0]) != maxID {
		t.Errorf("a long ID is not cut: %+v", a)
	}
	for _, bad := range []string{"-1", "x", "1.5"} {
		if resp, body := do(t, "GET", s.URL+"/seen?since="+bad, ""); resp.StatusCode != 400 || !strings.Contains(body, bad) {
			t.Errorf("since=%s: %d %q", bad, resp.StatusCode, body)
		}
	}
}

func TestSeenCountsTheRequestsThatAreOpenAtOnce(t *testing.T) {
	a, s, _ := start(t, map[string]string{"DELAY": "1h"})
	sent, leave := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for n := range 3 {
		clients.Go(func() { probe.NewHTTP(0).Send(sent, probe.Request{URL: s.URL}) })
		eventually(t, "the request is open", func() bool { return a.seen.since(0).Count == n+1 })
	}
	leave()
	clients.Wait()
	open := func() int {
		a.seen.mu.Lock()
		defer a.seen.mu.Unlock()
		return a.seen.open
	}
	eventually(t, "none is open", func() bool { return open() == 0 })
	if _, err := a.faults.change([]byte(`{"delay": "0s"}`)); err != nil {
		t.Fatal(err)
	}
	do(t, "GET", s.URL, "")
	do(t, "POST", s.URL, "not JSON")
	if got := a.seen.since(0).AtOnce; !slices.Equal(got, []int{1, 2, 3, 1, 1}) {
		t.Errorf("got %v", got)
	}
	if got := a.seen.since(2).AtOnce; !slices.Equal(got, []int{3, 1, 1}) {
		t.Errorf("since the second: %v", got)
	}
}

func TestSeenListsThePredictionOfEachRequest(t *testing.T) {
	_, s, _ := start(t, map[string]string{"FAIL_PERCENT": "100"}) // a fault takes the answer, not the output
	do(t, "GET", s.URL, "")
	do(t, "POST", s.URL, `{"instances": [1, [1, 2, 3]]}`)
	do(t, "POST", s.URL, "hello")
	do(t, "POST", s.URL, `{"instances": [`+strings.Repeat("1, ", 1000)+`1]}`)
	long := ("[" + strings.Repeat("1.5,", 1000))[:maxOutput]
	if got, want := seenOutputs(t, s.URL, ""), []string{"", "[1.5,3.5]", "", long}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := seenOutputs(t, s.URL, "?since=3"); !slices.Equal(got, []string{long}) {
		t.Errorf("since the third %q", got)
	}
}

// seenOutputs asks /seen, where each ID must have an output.
func seenOutputs(t *testing.T, url, query string) []string {
	t.Helper()
	var a api.Seen
	_, body := do(t, "GET", url+"/seen"+query, "")
	if err := json.Unmarshal([]byte(body), &a); err != nil || len(a.Outputs) != len(a.IDs) {
		t.Fatalf("%s: %v", body, err)
	}
	return a.Outputs
}

func TestAPredictionIsSeenBeforeDELAYAndAfterItsClientHasLeft(t *testing.T) {
	_, s, _ := start(t, map[string]string{"DELAY": "1h"})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	left := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, "POST", s.URL, strings.NewReader(`{"instances":[1]}`))
		_, err := http.DefaultClient.Do(req)
		left <- err
	}()
	seen := func() bool { return slices.Equal(seenOutputs(t, s.URL, ""), []string{"[1.5]"}) }
	eventually(t, "the output of a request that waits", seen)
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	if !seen() {
		t.Error("forgotten when the client left")
	}
}

func TestALatePredictionIsNotTakenForAnotherRequests(t *testing.T) {
	a, s, _ := start(t, map[string]string{"SEEN_KEEP": "2"})
	do(t, "POST", s.URL, `{"instances":[8]}`)
	do(t, "POST", s.URL, `{"instances":[9]}`)
	body, rest := io.Pipe()
	answered := make(chan error, 1)
	go func() {
		resp, err := http.Post(s.URL, "application/json", body)
		if err == nil {
			resp.Body.Close()
		}
		answered <- err
	}()
	eventually(t, "the slow request is seen", func() bool { return a.seen.since(0).Count == 3 })
	if got := seenOutputs(t, s.URL, ""); !slices.Equal(got, []string{"[9.5]", ""}) {
		t.Errorf("before it is computed %q", got)
	}
	do(t, "POST", s.URL, `{"instances":[2]}`)
	do(t, "POST", s.URL, `{"instances":[3]}`) // it takes the slow one's place
	io.WriteString(rest, `{"instances":[1]}`)
	rest.Close()
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if got := seenOutputs(t, s.URL, ""); !slices.Equal(got, []string{"[2.5]", "[3.5]"}) {
		t.Errorf("%q", got)
	}
}

func TestManyRequestsAtOnceAreEachSeenOnce(t *testing.T) {
	c, err := readConfig(env(nil), host)
	if err != nil {
		t.Fatal(err)
	}
	a := newApp(c, slog.New(slog.DiscardHandler), rand.Float64)
	s := httptest.NewServer(a.handler())
	defer s.Close()
	answers := probe.Burst(t.Context(), probe.NewHTTP(time.Minute), probe.Request{URL: s.URL}, 400, 8, nil)
	var sent []string
	for _, an := range answers {
		if !an.OK() {
			t.Fatal(an.Problem())
		}
		sent = append(sent, an.ID)
	}
	got := a.seen.since(0)
	slices.Sort(sent)
	slices.Sort(got.IDs)
	if got.Count != 400 || !slices.Equal(sent, got.IDs) {
		t.Errorf("sent %d, saw %d", len(sent), got.Count)
	}
}

func TestMetricsCountAndTimeByCode(t *testing.T) {
	_, s, _ := start(t, map[string]string{"TARGET": "v2", "K_REVISION": "r"})
	do(t, "GET", s.URL, "")
	do(t, "GET", s.URL, "")
	do(t, "POST", s.URL, "x")
	do(t, "GET", s.URL+"/healthz", "")
	_, body := do(t, "GET", s.URL+"/metrics", "")
	for _, want := range []string{
		`sampleapp_requests_total{code="200",revision="r",target="v2"} 2`,
		`sampleapp_requests_total{code="400",revision="r",target="v2"} 1`,
		`sampleapp_request_duration_seconds_count{code="200",revision="r",target="v2"} 2`,
		`sampleapp_request_duration_seconds_bucket{code="200",revision="r",target="v2",le="+Inf"} 2`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("no line %s in\n%s", want, body)
		}
	}
}

func TestEveryModelRequestIsOneLogLine(t *testing.T) {
	_, s, log := start(t, nil)
	do(t, "POST", s.URL, `{"instances":[1]}`, "X-Request-Id", "r1")
	do(t, "POST", s.URL, strings.Repeat("é", 5000), "X-Request-Id", "r2")
	do(t, "GET", s.URL+"/healthz", "")
	s.Close()
	var got []map[string]any
	for l := range strings.Lines(log.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(l), &m); err != nil {
			t.Fatalf("%v: %q", err, l)
		}
		got = append(got, m)
	}
	if len(got) != 2 {
		t.Fatalf("%d lines: %v", len(got), got)
	}
	first := got[0]
	if _, err := time.Parse(time.RFC3339Nano, first["time"].(string)); err != nil {
		t.Error(err)
	}
	if ms, ok := first["duration_ms"].(float64); !ok || ms < 0 || ms > 60_000 {
		t.Errorf("duration %v", first["duration_ms"])
	}
	for k, want := range map[string]any{"request_id": "r1", "method": "POST", "path": "/", "code": 200.0, "input": `{"instances":[1]}`, "output": `{"target":"world","prediction":[1.5]}` + "\n"} {
		if first[k] != want {
			t.Errorf("%s is %v, want %v", k, first[k], want)
		}
	}
	if in := got[1]["input"].(string); !strings.HasSuffix(in, "… (10000 bytes)") || len(in) > maxLogged+30 {
		t.Errorf("a large input is logged with %d bytes", len(in))
	}
}
