package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestTheServingProtocolsDescribeTheModel(t *testing.T) {
	_, s, _ := start(t, map[string]string{"TARGET": "v2", "MODEL_DIR": modelDir(t, tiny), "FAIL_PERCENT": "100"})
	for path, want := range map[string]string{
		"/v1/models/tiny":       `{"name":"tiny","ready":true}`,
		"/v2":                   `{"name":"sampleapp","version":"v2","extensions":[]}`,
		"/v2/":                  `{"name":"sampleapp","version":"v2","extensions":[]}`,
		"/v2/health/live":       `{"live":true}`,
		"/v2/health/ready":      `{"ready":true}`,
		"/v2/models/tiny/ready": `{"name":"tiny","ready":true}`,
		"/v2/models/tiny": `{"name":"tiny","platform":"linear-softmax","inputs":[{"name":"input-0","datatype":"FP64","shape":[-1,2]}],` +
			`"outputs":[{"name":"predictions","datatype":"INT64","shape":[-1]},{"name":"probabilities","datatype":"FP64","shape":[-1,3]}]}`,
	} {
		resp, got := do(t, "GET", s.URL+path, "")
		if resp.StatusCode != 200 || got != want+"\n" || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s", path, resp.StatusCode, got)
		}
	}
	for method, paths := range map[string][]string{
		"GET":  {"/v1/models/other", "/v2/models/other", "/v2/models/other/ready", "/v1/models/tiny:predict", "/v2/models/tiny/infer", "/v1/models/tiny/x"},
		"POST": {"/v1/models/tiny", "/v1/models/other:predict", "/v1/models/tiny:explain", "/v2/models/other/infer", "/v2/models/tiny/versions/1/infer"},
	} {
		for _, path := range paths {
			resp, got := do(t, method, s.URL+path, `{"instances":[[1,2]]}`)
			if resp.StatusCode != 404 || !strings.Contains(got, `{"error":"there is no `+method+" "+path+`: the model is tiny"`) {
				t.Errorf("%s %s: %d %s", method, path, resp.StatusCode, got)
			}
		}
	}
	_, s, _ = start(t, nil) // without a model
	for _, path := range []string{"/v1/models/tiny", "/v2", "/v2/health/live", "/v2/models/tiny"} {
		if got := status(s.URL + path); got != 404 {
			t.Errorf("the formula answers %s: %d", path, got)
		}
	}
}

func TestMODEL_NAMEIsTheModelsNameInTheProtocols(t *testing.T) {
	_, s, _ := start(t, map[string]string{"MODEL_DIR": modelDir(t, tiny), "MODEL_NAME": "mine-1"})
	_, got := do(t, "POST", s.URL+"/v2/models/mine-1/infer", `{"inputs":[{"name":"i","datatype":"FP64","shape":[1,2],"data":[0,0]}]}`)
	if !strings.HasPrefix(got, `{"model_name":"mine-1","outputs"`) {
		t.Error(got)
	}
	if a, b := status(s.URL+"/v1/models/mine-1"), status(s.URL+"/v1/models/tiny"); a != 200 || b != 404 {
		t.Errorf("its name %d, the file's %d", a, b)
	}
}

func TestAModelThatShouldNotBeAskedSaysSo(t *testing.T) {
	a, s, _ := start(t, map[string]string{"MODEL_DIR": modelDir(t, tiny)})
	if _, err := a.faults.change([]byte(`{"ready":false}`)); err != nil {
		t.Fatal(err)
	}
	for _, why := range []string{"not ready (fault)", "draining"} {
		for path, name := range map[string]string{"/v2/health/ready": "", "/v1/models/tiny": `"name":"tiny",`, "/v2/models/tiny/ready": `"name":"tiny",`} {
			resp, got := do(t, "GET", s.URL+path, "")
			if want := `{"error":"` + why + `",` + name + `"ready":false}` + "\n"; resp.StatusCode != 503 || got != want {
				t.Errorf("%s: %d %s, want 503 %s", path, resp.StatusCode, got, want)
			}
		}
		if got := status(s.URL + "/v2/health/live"); got != 200 {
			t.Errorf("%s: not alive: %d", why, got)
		}
		a.draining.Store(true)
	}
}

func TestKServesFirstProtocolPredicts(t *testing.T) {
	_, s, _ := start(t, map[string]string{"MODEL_DIR": modelDir(t, tiny), "MAX_BODY": "1000"})
	for in, want := range map[string]string{
		`{"instances":[[14,4],[10,5],[0,0]]}`:   `{"predictions":[0,1,2]}`,
		`{"instances":[[0,0]],"parameters":{}}`: `{"predictions":[2]}`,
		`{"instances":[[1,2,3]]}`:               `400 instance 0 has 3 numbers: the model tiny wants 2`,
		`{"instances":[["a","b"]]}`:             `400 want JSON like`,
		`{"inputs":[[1,2]]}`:                    `400 want at least one`,
		`[[1,2]]`:                               `400 want JSON like`,
		``:                                      `400 want JSON like`,
		`{"instances":[[1,2]]}` + strings.Repeat(" ", 1000-20): `413 larger than 1000 bytes`,
	} {
		answered(t, s.URL+"/v1/models/tiny:predict", in, want)
	}
}

// answered posts; want begins with a status code unless that is 200.
func answered(t *testing.T, url, in, want string) {
	t.Helper()
	resp, got := do(t, "POST", url, in)
	code := 200
	if text, is := strings.CutPrefix(want, "400 "); is {
		code, want = 400, text
	} else if text, is := strings.CutPrefix(want, "413 "); is {
		code, want = 413, text
	}
	var refused struct{ Error string }
	if err := json.Unmarshal([]byte(got), &refused); err != nil || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%.100s: answered %q, %v", in, got, err)
	}
	if code == 200 && (resp.StatusCode != 200 || got != want+"\n") || code != 200 && (resp.StatusCode != code || !strings.Contains(refused.Error, want)) {
		t.Errorf("%.100s: %d %s, want %d %s", in, resp.StatusCode, got, code, want)
	}
}

func TestTheOpenInferenceProtocolPredicts(t *testing.T) {
	_, s, _ := start(t, map[string]string{"MODEL_DIR": modelDir(t, tiny)})
	const predictions = `{"name":"predictions","datatype":"INT64","shape":[3],"data":[0,1,2]}`
	one := func(tensor string) string { return `{"inputs":[{"name":"input-0",` + tensor + `}]}` }
	for in, want := range map[string]string{
		// Three instances, written in both ways, and in the type that most clients send.
		`{"inputs":[{"name":"i","datatype":"FP64","shape":[3,2],"data":[14,4,10,5,0,0]}],"outputs":[{"name":"predictions"}]}`:                     `{"model_name":"tiny","outputs":[` + predictions + `]}`,
		`{"id":"42","inputs":[{"name":"i","datatype":"FP32","shape":[3,2],"data":[[14,4],[10,5],[0,0]]}],"outputs":[{"name":"predictions"}]}`:     `{"model_name":"tiny","id":"42","outputs":[` + predictions + `]}`,
		`{"parameters":{"a":1},"inputs":[{"name":"i","datatype":"FP64","shape":[1,2],"data":[100000,4],"parameters":{}}]}`:                        `{"model_name":"tiny","outputs":[{"name":"predictions","datatype":"INT64","shape":[1],"data":[0]},{"name":"probabilities","datatype":"FP64","shape":[1,3],"data":[1,0,0]}]}`,
		`{"inputs":[{"name":"i","datatype":"FP64","shape":[1,2],"data":[100000,4]}],"outputs":[{"name":"probabilities"},{"name":"predictions"}]}`: `{"model_name":"tiny","outputs":[{"name":"probabilities","datatype":"FP64","shape":[1,3],"data":[1,0,0]},{"name":"predictions","datatype":"INT64","shape":[1],"data":[0]}]}`,
		`{"inputs":[{"name":"i","datatype":"FP64","shape":[2,2],"data":[100000,4,-100000,4]}],"outputs":[{"name":"probabilities"}]}`:              `{"model_name":"tiny","outputs":[{"name":"probabilities","datatype":"FP64","shape":[2,3],"data":[1,0,0,0,0,1]}]}`,
		`{"inputs":[{"name":"i","datatype":"FP64","shape":[1,2],"data":[0,0]}],"outputs":[{"name":"logits"}]}`:                                    `400 there is no output "logits": want predictions or probabilities`,
		``:                                `400 want JSON like {"inputs"`,
		`{}`:                              `400 there are 0 inputs`,
		`null`:                            `400 there are 0 inputs`,
		`[]`:                              `400 want JSON like`,
		`{"inputs":null}`:                 `400 there are 0 inputs`,
		`{"inputs":{}}`:                   `400 want JSON like`,
		`{"inputs":[{},{}]}`:              `400 there are 2 inputs`,
		`{"inputs":[1]}`:                  `400 want JSON like`,
		`{"inputs":[{}]} x`:               `400 nothing after it`,
		`{"id":7,"inputs":[]}`:            `400 want JSON like`,
		`{"instances":[[1,2]]}`:           `400 there are 0 inputs`,
		one(`"shape":[1,2],"data":[1,2]`): `400 datatype is ""`,
		one(`"datatype":"INT64","shape":[1,2],"data":[1,2]`):                                                          `400 datatype is "INT64": want FP64 or FP32`,
		one(`"datatype":"FP64","data":[1,2]`):                                                                         `400 shape is []: want [n 2]`,
		one(`"datatype":"FP64","shape":[2],"data":[1,2]`):                                                             `400 shape is [2]: want [n 2]`,
		one(`"datatype":"FP64","shape":[1,3],"data":[1,2,3]`):                                                         `400 shape is [1 3]: want [n 2]`,
		one(`"datatype":"FP64","shape":[1,1,2],"data":[[[1,2]]]`):                                                     `400 shape is [1 1 2]`,
		one(`"datatype":"FP64","shape":[0,2],"data":[]`):                                                              `400 shape is [0 2]`,
		one(`"datatype":"FP64","shape":[-1,2],"data":[1,2]`):                                                          `400 shape is [-1 2]`,
		one(`"datatype":"FP64","shape":[1.5,2],"data":[1,2]`):                                                         `400 want JSON like`,
		one(`"datatype":"FP64","shape":["1",2],"data":[1,2]`):                                                         `400 want JSON like`,
		one(`"datatype":"FP64","shape":[9223372036854775807,2],"data":[1,2]`):                                         `400 not 9223372036854775807 times 2 numbers`,
		one(`"datatype":"FP64","shape":[9223372036854775808,2],"data":[1,2]`):                                         `400 want JSON like`,
		one(`"datatype":"FP64","shape":[1,2]`):                                                                        `400 neither a list of numbers nor`,
		one(`"datatype":"FP64","shape":[1,2],"data":null`):                                                            `400 not 1 times 2 numbers`,
		one(`"datatype":"FP64","shape":[1,2],"data":7`):                                                               `400 neither`,
		one(`"datatype":"FP64","shape":[1,2],"data":"AAAA"`):                                                          `400 neither`,
		one(`"datatype":"FP64","shape":[1,2],"data":[1]`):                                                             `400 not 1 times 2 numbers`,
		one(`"datatype":"FP64","shape":[1,2],"data":[1,2,3]`):                                                         `400 not 1 times 2 numbers`,
		one(`"datatype":"FP64","shape":[2,2],"data":[1,2]`):                                                           `400 not 2 times 2 numbers`,
		one(`"datatype":"FP64","shape":[2,2],"data":[[1,2,3],[4]]`):                                                   `400 not 2 times 2 numbers`,
		one(`"datatype":"FP64","shape":[2,2],"data":[[1],[2],[3],[4]]`):                                               `400 not 2 times 2 numbers`,
		one(`"datatype":"FP64","shape":[1,2],"data":[1,[2]]`):                                                         `400 neither`,
		one(`"datatype":"FP64","shape":[1,2],"data":[[[1,2]]]`):                                                       `400 neither`,
		one(`"datatype":"FP64","shape":[1,2],"data":[1,null]`):                                                        `400 neither`,
		one(`"datatype":"FP64","shape":[1,2],"data":[[1,null]]`):                                                      `400 neither`,
		one(`"datatype":"FP64","shape":[1,2],"data":["1","2"]`):                                                       `400 neither`,
		one(`"datatype":"FP64","shape":[1,2],"data":[1,1e999]`):                                                       `400 neither`,
		one(`"datatype":"FP64","shape":[1,2],"data":[1,NaN]`):                                                         `400 want JSON like`,
		one(`"datatype":"FP64","shape":[1,2],"data":[1e308,-1e308]`):                                                  `400 instance 0 is too large`,
		one(`"datatype":"FP64","shape":[1,2],"data":[` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `]`): `400 neither`,
	} {
		answered(t, s.URL+"/v2/models/tiny/infer", in, want)
	}
}

func TestProtocolRequestsAreModelRequests(t *testing.T) {
	const in, v2 = `{"instances":[[14,4],[0,0]]}`, `{"inputs":[{"name":"i","datatype":"FP64","shape":[2,2],"data":[14,4,0,0]}]}`
	a, s, log := start(t, map[string]string{"TARGET": "v2", "MODEL_DIR": modelDir(t, tiny), "CONVERT_PERCENT": "100"})
	for path, body := range map[string]string{"/": in, "/v1/models/tiny:predict": in, "/v2/models/tiny/infer": v2} {
		resp, _ := do(t, "POST", s.URL+path, body, "X-Mllab-Id", "id of "+path)
		if resp.StatusCode != 200 || resp.Header.Get("X-Mllab-Converted") != "true" || resp.Header.Get("X-Mllab-Id") != "id of "+path {
			t.Errorf("%s: %d %v", path, resp.StatusCode, resp.Header)
		}
		do(t, "GET", s.URL+"/v2/health/ready", "") // this is none
	}
	seen := a.seen.since(0)
	if !slices.Equal(seen.Outputs, []string{"[0,2]", "[0,2]", "[0,2]"}) || !slices.Contains(seen.IDs, "id of /v2/models/tiny/infer") {
		t.Errorf("seen %+v", seen)
	}
	if _, metrics := do(t, "GET", s.URL+"/metrics", ""); !strings.Contains(metrics, `sampleapp_requests_total{code="200",revision="",target="v2"} 3`) {
		t.Error(metrics)
	}
	if got := log.String(); strings.Count(got, `"path":"/v1/models/tiny:predict"`) != 1 || strings.Count(got, `"path":"/v2/models/tiny/infer"`) != 1 {
		t.Errorf("the log says %s", got)
	}

	_, s, _ = start(t, map[string]string{"MODEL_DIR": modelDir(t, tiny), "DRIFT_PERCENT": "100"})
	for path, body := range map[string]string{"/": in, "/v1/models/tiny:predict": in, "/v2/models/tiny/infer": v2} {
		if _, got := do(t, "POST", s.URL+path, body); !strings.Contains(got, "[1,0]") {
			t.Errorf("%s does not drift: %s", path, got)
		}
	}
	_, s, _ = start(t, map[string]string{"MODEL_DIR": modelDir(t, tiny), "FAIL_PERCENT": "100"})
	for path, body := range map[string]string{"/v1/models/tiny:predict": in, "/v2/models/tiny/infer": v2} {
		if resp, got := do(t, "POST", s.URL+path, body); resp.StatusCode != 500 || got != "injected fault\n" {
			t.Errorf("%s does not fail: %d %s", path, resp.StatusCode, got)
		}
	}
}
