package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"mllab.local/internal/probe"

	"mllab.local/sampleapp/api"
)

// captures are the captured lines of a log, each of which must have the fields of api.Captured and no others.
func captures(t *testing.T, log fmt.Stringer) (got []api.Captured) {
	t.Helper()
	for l := range strings.Lines(log.String()) {
		var line api.Captured
		d := json.NewDecoder(strings.NewReader(l))
		d.DisallowUnknownFields()
		err := d.Decode(&line)
		if line.Msg != api.CapturedMsg {
			continue
		}
		if err != nil {
			t.Fatalf("%v: %q", err, l)
		}
		got = append(got, line)
	}
	return got
}

// ask sends one request as a proxy would, and returns when it is answered.
func ask(h http.Handler, method, url, authority, id, body string) {
	r := httptest.NewRequest(method, url, strings.NewReader(body))
	r.Host = authority
	if id != "" {
		r.Header.Set(api.HeaderID, id)
	}
	h.ServeHTTP(httptest.NewRecorder(), r)
}

func TestACapturedLineHasInputAndOutputOfEveryWayIntoTheModel(t *testing.T) {
	a, _, log := start(t, map[string]string{
		"TARGET": "v2", "K_REVISION": "model-00002", "MODEL_DIR": modelDir(t, tiny), "CAPTURE_PERCENT": "100", "MAX_BODY": "100000",
	})
	h := a.handler()
	large := `{"instances":[[1,2]]}` + strings.Repeat(" ", api.CapturedSize)
	infer := `{"inputs":[{"name":"i","datatype":"FP64","shape":[1,2],"data":[0,0]}],"outputs":[{"name":"predictions"}]}`
	ways := []struct {
		method, path, in string
		status           int
		input, output    string
	}{
		{"GET", "/", "", 200, `null`, `"v2\n"`},
		{"POST", "/", `{"instances": [[1,2]], "a": "<b>"}`, 200, `{"instances":[[1,2]],"a":"<b>"}`, `{"target":"v2","prediction":[2]}`},
		{"POST", "/v1/models/tiny:predict", `{"instances":[[1,2]]}`, 200, `{"instances":[[1,2]]}`, `{"predictions":[2]}`},
		{"POST", "/v2/models/tiny/infer", infer, 200, infer, `{"model_name":"tiny","outputs":[{"name":"predictions","datatype":"INT64","shape":[1],"data":[2]}]}`},
		{"POST", "/", `no JSON`, 400, `"no JSON"`, `…invalid character 'o' in literal null (expecting 'u')"}`},
		{"POST", "/", large, 200, `…… (65557 bytes)"`, `{"target":"v2","prediction":[2]}`},
		{"POST", "/", strings.Repeat(" ", 100001), 413, `…… (100000 bytes)"`, `{"error":"the input is larger than 100000 bytes"}`},
	}
	for i, w := range ways {
		ask(h, w.method, w.path, "model.demo", fmt.Sprint("id-", i), w.in)
		got := captures(t, log)
		if len(got) != i+1 {
			t.Fatalf("%s %s: %d lines are captured when it is answered, want %d", w.method, w.path, len(got), i+1)
		}
		c := got[i]
		if c.ID != fmt.Sprint("id-", i) || c.Target != "v2" || c.Revision != "model-00002" || c.Pod != "host-1" || c.Model != a.trained.digest ||
			c.Level != "INFO" || c.Path != w.path || c.Status != w.status || c.Shadow || c.MS < 0 || c.MS > 60_000 || c.Time.IsZero() {
			t.Errorf("%s %s: %+v", w.method, w.path, c)
		}
		holds := func(got json.RawMessage, want string) bool { // what begins with … is its end
			end, isEnd := strings.CutPrefix(want, "…")
			return string(got) == want || isEnd && strings.HasSuffix(string(got), end)
		}
		if !holds(c.Input, w.input) || !holds(c.Output, w.output) {
			t.Errorf("%s %s: input %.200s, want %s; output %.200s, want %s", w.method, w.path, c.Input, w.input, c.Output, w.output)
		}
		if len(c.Input) > api.CapturedSize+30 {
			t.Errorf("%s %s: the input has %d bytes", w.method, w.path, len(c.Input))
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/seen", "/v2", "/v1/models/tiny", "/v1/models/other:predict"} {
		ask(h, "GET", path, "model.demo", "about", "")
	}
	if got := captures(t, log); len(got) != len(ways) {
		t.Errorf("what is not a request to the model is captured: %+v", got[len(ways):])
	}
	if !strings.Contains(log.String(), `,"ms":`) || !strings.Contains(log.String(), `"level":"INFO","msg":"captured","id":"id-0","target":"v2","revision":"model-00002","pod":"host-1","model":"sha256:`) {
		t.Errorf("the order of the fields is another one: %s", log)
	}
}

func TestTheFormulaHasNoModelInItsCapturedLine(t *testing.T) {
	a, _, log := start(t, map[string]string{"CAPTURE_PERCENT": "100"})
	ask(a.handler(), "POST", "/", "model", "x", `{"instances":[1]}`)
	if got := captures(t, log); len(got) != 1 || strings.Contains(log.String(), `"model"`) || !strings.Contains(log.String(), `"revision":""`) {
		t.Errorf("%s", log)
	}
}

func TestFaultsAndClientsThatLeaveAreCapturedAsTheyWereAnswered(t *testing.T) {
	a, _, log := start(t, map[string]string{"CAPTURE_PERCENT": "100", "FAIL_PERCENT": "100"})
	ask(a.handler(), "POST", "/", "model", "fault", `{"instances":[1]}`)
	if got := captures(t, log); len(got) != 1 || got[0].Status != 500 || string(got[0].Input) != `{"instances":[1]}` || string(got[0].Output) != `"injected fault\n"` {
		t.Errorf("%+v", got)
	}
	a, _, log = start(t, map[string]string{"CAPTURE_PERCENT": "100", "DELAY": "1h"})
	ctx, leave := context.WithCancel(t.Context())
	leave()
	func() {
		defer func() { _ = recover() }() // net/http's way to send nothing
		a.handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "POST", "/", strings.NewReader(`{"instances":[1]}`)))
	}()
	if got := captures(t, log); len(got) != 1 || got[0].Status != 499 || string(got[0].Output) != "null" {
		t.Errorf("%+v", got)
	}
}

// Each version and each copy captures the same requests, and no other ones.
func TestARequestsIDDecidesWhetherItIsCaptured(t *testing.T) {
	for percent, number := range map[string]float64{"": 0, "2.5": 2.5, "100": 100} {
		var want []string
		for i := range 1000 {
			if id := fmt.Sprint("request-", i); api.IsCaptured(id, number) {
				want = append(want, id)
			}
		}
		for version, authority := range map[string]string{"v1": "model.demo:80", "v2": "model.demo-shadow:80"} {
			a, _, log := start(t, map[string]string{"TARGET": version, "CAPTURE_PERCENT": percent})
			h := a.handler()
			for i := range 1000 {
				ask(h, "GET", "/", authority, fmt.Sprint("request-", i), "")
			}
			var got []string
			for _, c := range captures(t, log) {
				if c.Shadow != (version == "v2") {
					t.Fatalf("%s: shadow is %v", authority, c.Shadow)
				}
				got = append(got, c.ID)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s %% by %s: %d, want %d", percent, version, len(got), len(want))
			}
		}
	}
}

func TestTheRulePicksItsShareOfAnyIDs(t *testing.T) {
	for name, id := range map[string]func(int) string{
		"numbers": func(i int) string { return fmt.Sprint(i) },
		"names":   func(i int) string { return fmt.Sprintf("request-%06d", i) },
	} {
		for percent, want := range map[float64][2]int{
			0:    {0, 0},
			2.5:  {51, 151},    // 100 ± 5 standard deviations
			30:   {1056, 1344}, // 1200 ± 5
			99.9: {3986, 4000}, // 3996 - 5
			100:  {4000, 4000},
		} {
			n := 0
			for i := range 4000 {
				if api.IsCaptured(id(i), percent) {
					n++
				} else if api.IsCaptured(id(i), percent/2) {
					t.Fatalf("%s: %s is captured at %v %% and not at %v %%", name, id(i), percent/2, percent)
				}
			}
			if n < want[0] || n > want[1] {
				t.Errorf("%s: %d of 4000 at %v %%, want %d to %d", name, n, percent, want[0], want[1])
			}
		}
	}
}

func TestRequestsWithoutAnIDAreCapturedAtRandom(t *testing.T) {
	a, _, log := start(t, map[string]string{"CAPTURE_PERCENT": "30"})
	h := a.handler()
	for range 4000 {
		ask(h, "GET", "/", "model", "", "")
	}
	if got := len(captures(t, log)); got < 1056 || got > 1344 { // 1200 ± 5 standard deviations
		t.Errorf("%d of 4000", got)
	}
}

func TestACopysAuthorityEndsWithShadow(t *testing.T) {
	for authority, want := range map[string]bool{
		"model-shadow": true, "model.demo-shadow:80": true, "model.demo.svc.cluster.local-shadow": true, "[::1]-shadow": true,
		"model": false, "model:80": false, "model-shadow.demo": false, "shadow": false, "": false, "[::1]:80": false,
	} {
		if got := isShadow(authority); got != want {
			t.Errorf("%q: %v", authority, got)
		}
	}
}

// Each request that the rule picks is one whole line, also under load, and the metric counts the lines. Whoever has an
// answer, even the beginning of a large one, finds its line.
func TestNothingBelowTheRateIsLost(t *testing.T) {
	_, s, log := start(t, map[string]string{"TARGET": "v1", "CAPTURE_PERCENT": "20"})
	body, err := json.Marshal(map[string]any{"instances": make([]float64, 20_000)})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(s.URL, "application/json", bytes.NewReader(body))
	for err == nil && !api.IsCaptured(resp.Header.Get(api.HeaderRequestID), 20) {
		resp.Body.Close()
		resp, err = http.Post(s.URL, "application/json", bytes.NewReader(body))
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := captures(t, log); len(got) != 1 { // its answer is not read yet
		t.Errorf("%d requests are captured, want 1", len(got))
	}
	resp.Body.Close()
	want := []string{resp.Header.Get(api.HeaderRequestID)}
	for _, an := range probe.Burst(t.Context(), probe.NewHTTP(time.Minute), probe.Request{URL: s.URL}, 1000, 16, nil) {
		if api.IsCaptured(an.ID, 20) {
			want = append(want, an.ID)
		}
	}
	var got []string
	for _, c := range captures(t, log) { // who has the answer finds the line
		got = append(got, c.ID)
	}
	slices.Sort(want)
	slices.Sort(got)
	if len(want) == 0 || !slices.Equal(got, want) {
		t.Errorf("%d lines, want %d", len(got), len(want))
	}
	_, metrics := do(t, "GET", s.URL+"/metrics", "")
	if line := fmt.Sprintf(`sampleapp_captured_total{revision="",shadow="false",target="v1"} %d`+"\n", len(want)); !strings.Contains(metrics, line) {
		t.Errorf("no line %s in\n%s", line, metrics)
	}
}
