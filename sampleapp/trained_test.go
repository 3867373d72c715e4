package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mllab.local/internal/probe"
)

// tiny has two features and three classes. With (10, 4) scaled to (0, 0) its scores are 0, 0 and -1.
const tiny = `{"name": "tiny", "kind": "linear-softmax", "features": ["x", "y"], "classes": ["a", "b", "c"],
	"mean": [10, 4], "scale": [2, 0.5], "coefficients": [[1, 0], [0, 1], [-1, -1]], "intercepts": [0, 0, -1],
	"data": "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "seed": 7,
	"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95, "held_out": 40}`

// modelDir is a folder with that model file.
func modelDir(t *testing.T, file string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "model.json"), []byte(file), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestATrainedModelAnswersWithTheClassOfTheHighestScore(t *testing.T) {
	_, s, _ := start(t, map[string]string{"TARGET": "v2", "MODEL_DIR": modelDir(t, tiny)})
	for _, c := range []struct {
		name, in string
		code     int
		want     string
	}{
		{"each class", `{"instances": [[14, 4], [10, 5], [0, 0]]}`, 200, `{"target":"v2","prediction":[0,1,2]}`},
		{"the first of ties", `{"instances": [[10, 4]]}`, 200, `{"target":"v2","prediction":[0]}`},
		{"one number too few", `{"instances": [[1, 2], [1]]}`, 400, `instance 1 has 1 numbers: the model tiny wants 2`},
		{"one number too many", `{"instances": [[1, 2, 3]]}`, 400, `instance 0 has 3 numbers: the model tiny wants 2`},
		{"just a number", `{"instances": [1]}`, 400, `instance 0 has 1 numbers`},
		{"no numbers", `{"instances": [[]]}`, 400, `instance 0 has 0 numbers`},
		{"no instances", `{"instances": []}`, 400, `want at least one`},
		{"null in the middle", `{"instances": [[1, null]]}`, 400, `null`},
		{"beyond numbers", `{"instances": [[1e308, -1e308]]}`, 400, `instance 0 is too large`},
		{"not a number", `{"instances": [[NaN, 1]]}`, 400, `want JSON like`},
		{"lists too deep", `{"instances": [[[1, 2]]]}`, 400, `want JSON like`},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, body := do(t, "POST", s.URL, c.in)
			if resp.StatusCode != c.code || !strings.Contains(body, c.want) || !json.Valid([]byte(body)) {
				t.Errorf("%d %s, want %d with %s", resp.StatusCode, body, c.code, c.want)
			}
		})
	}
}

func TestProbabilitiesAreTheSoftmaxOfTheScores(t *testing.T) {
	m, err := readTrained(modelDir(t, tiny))
	if err != nil {
		t.Fatal(err)
	}
	// (12, 3.5) is (1, -1) when it is scaled: the scores are 1, -1 and -1. The last has scores whose exponentials no
	// number holds.
	classes, p, err := m.predict([]instance{{10, 4}, {12, 3.5}, {10000, 4}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	e := math.E
	want := [][]float64{
		{1 / (2 + 1/e), 1 / (2 + 1/e), 1 / (1 + 2*e)},
		{e / (e + 2/e), (1 / e) / (e + 2/e), (1 / e) / (e + 2/e)},
		{1, 0, 0},
	}
	for i := range want {
		for k := range want[i] {
			if !(math.Abs(p[i][k]-want[i][k]) <= 1e-12) { // nor NaN
				t.Errorf("instance %d, class %d: %v, want %v", i, k, p[i][k], want[i][k])
			}
		}
		if classes[i] != 0 {
			t.Errorf("instance %d is of class %v", i, classes[i])
		}
	}
	// Drift turns both.
	classes, turned, err := m.predict([]instance{{12, 3.5}, {0, 0}}, 100)
	if err != nil || classes[0] != 1 || classes[1] != 0 || turned[0][1] != p[1][0] || turned[0][2] != p[1][1] || turned[0][0] != p[1][2] {
		t.Errorf("drifted to %v, %v, %v", classes, turned, err)
	}
}

func TestEveryAnswerCarriesTheHashOfTheModelsFile(t *testing.T) {
	_, s, _ := start(t, map[string]string{"MODEL_DIR": modelDir(t, tiny), "FAIL_PERCENT": "100"})
	want := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(tiny)))
	for _, path := range []string{"/", "/healthz", "/readyz", "/metrics", "/seen", "/nowhere", "/v1/models/tiny", "/v2/nowhere"} {
		resp, _ := do(t, "GET", s.URL+path, "")
		if got := resp.Header.Get("X-Mllab-Model"); got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
	_, s, _ = start(t, map[string]string{"TARGET": "v2", "MODEL_DIR": modelDir(t, tiny)})
	if a := probe.NewHTTP(time.Minute).Send(t.Context(), probe.Request{URL: s.URL}); !a.OK() || a.Model != want {
		t.Errorf("the probe sees %+v", a)
	}
	_, s, _ = start(t, nil)
	resp, _ := do(t, "GET", s.URL, "")
	if got, is := resp.Header["X-Mllab-Model"]; is {
		t.Errorf("the formula says that it is the model %q", got)
	}
}

func TestAFileThatIsNoModelIsRefusedWithTheReason(t *testing.T) {
	change := func(old, new string) string {
		t.Helper()
		if strings.Count(tiny, old) != 1 {
			t.Fatalf("%q is not once in the model", old)
		}
		return strings.Replace(tiny, old, new, 1)
	}
	for name, c := range map[string]struct{ file, want string }{
		"an empty file":              {"", "want JSON like"},
		"no JSON":                    {"pickle", "want JSON like"},
		"a list":                     {"[]", "want JSON like"},
		"null":                       {"null", `name ""`},
		"broken off":                 {tiny[:200], "want JSON like"},
		"something after it":         {tiny + "{}", "nothing after it"},
		"an unknown field":           {change(`"seed"`, `"sead"`), `unknown field "sead"`},
		"no name":                    {change(`"name": "tiny", `, ``), `name "": want`},
		"a name that is no path":     {change(`"tiny"`, `"a/b"`), `name "a/b": want`},
		"another kind":               {change(`linear-softmax`, `forest`), `kind "forest": want "linear-softmax"`},
		"no features":                {change(`["x", "y"]`, `[]`), "0 features"},
		"one class":                  {change(`["a", "b", "c"]`, `["a"]`), "1 classes"},
		"a class without a row":      {change(`["a", "b", "c"]`, `["a", "b", "c", "d"]`), "coefficients has 3 lists: want 4"},
		"a feature without a column": {change(`["x", "y"]`, `["x", "y", "z"]`), "coefficients[2] has 2 numbers: want 3"},
		"a short row":                {change(`[0, 1]`, `[0]`), "coefficients[1] has 1 numbers: want 2"},
		"a row that is null":         {change(`[0, 1]`, `null`), "coefficients[1] has 0 numbers: want 2"},
		"a coefficient that is null": {change(`[0, 1]`, `[0, null]`), "null is no number"},
		"a coefficient that is text": {change(`[0, 1]`, `[0, "1"]`), "want JSON like"},
		"no number":                  {change(`[0, 1]`, `[0, NaN]`), "want JSON like"},
		"infinity":                   {change(`[0, 1]`, `[0, 1e999]`), "want JSON like"},
		"a short mean":               {change(`[10, 4]`, `[10]`), "mean has 1 numbers: want 2"},
		"a long scale":               {change(`[2, 0.5]`, `[2, 0.5, 1]`), "scale has 3 numbers: want 2"},
		"a scale of 0":               {change(`[2, 0.5]`, `[2, 0]`), "scale[1] is 0: want more than 0"},
		"a negative scale":           {change(`[2, 0.5]`, `[-2, 1]`), "scale[0] is -2"},
		"intercepts are missing":     {change(`"intercepts": [0, 0, -1],`, ``), "intercepts has 0 numbers: want 3"},
		"a hash of other kind":       {change(`"sha256:0`, `"md5:0`), `data "md5:`},
		"a seed with a fraction":     {change(`"seed": 7`, `"seed": 7.5`), "want JSON like"},
		"an accuracy above 1":        {change(`"accuracy_high": 0.95`, `"accuracy_high": 1.5`), "accuracy 0.9 in 0.8..1.5"},
		"an accuracy outside":        {change(`"accuracy": 0.9`, `"accuracy": 0.7`), "accuracy 0.7 in 0.8..0.95"},
		"no accuracy":                {change(`"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95,`, ``), "accuracy 0 in 0..0"},
		"nothing held out":           {change(`"held_out": 40`, `"held_out": 0`), "held_out is 0"},
	} {
		dir := modelDir(t, c.file)
		_, err := readConfig(env(map[string]string{"MODEL_DIR": dir}), host)
		if err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("MODEL_DIR=%q: model.json: ", dir)) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	var stderr bytes.Buffer
	if code := run(env(map[string]string{"MODEL_DIR": modelDir(t, "pickle")}), &bytes.Buffer{}, &stderr); code != 2 || !strings.Contains(stderr.String(), "model.json") {
		t.Errorf("exit code %d, %q", code, &stderr)
	}
	for _, dir := range []string{filepath.Join(t.TempDir(), "absent"), t.TempDir()} {
		if _, err := readConfig(env(map[string]string{"MODEL_DIR": dir}), host); err == nil || !strings.Contains(err.Error(), "want the model's folder") {
			t.Errorf("%s: %v", dir, err)
		}
	}
	dir := modelDir(t, tiny)
	if _, err := readConfig(env(map[string]string{"MODEL_DIR": dir, "RELAY": "http://x"}), host); err == nil || !strings.Contains(err.Error(), "RELAY") {
		t.Errorf("beside RELAY: %v", err)
	}
	if _, err := readConfig(env(map[string]string{"MODEL_DIR": dir, "MODEL_NAME": "a b"}), host); err == nil || !strings.Contains(err.Error(), `MODEL_NAME="a b": want`) {
		t.Errorf("a bad MODEL_NAME: %v", err)
	}
}

func TestTheRunningProgramServesATrainedModel(t *testing.T) {
	p := launch(t, "MODEL_DIR="+modelDir(t, tiny))
	resp, body := do(t, http.MethodPost, p.url, `{"instances":[[0,0]]}`)
	if resp.StatusCode != 200 || body != `{"target":"v1","prediction":[2]}`+"\n" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if want := resp.Header.Get("X-Mllab-Model"); want == "" || !strings.Contains(p.log.String(), want) {
		t.Errorf("the log does not name the model %q: %s", want, p.log)
	}
}

// What the trainer wrote, manifests/scenarios/train/mllab_train.py with --seed 1: model.json and heldout.json. The
// probabilities are scikit-learn's predict_proba of the first held-out rows. The rows are from the UCI repository's data
// sets: https://archive.ics.uci.edu/dataset/17/breast+cancer+wisconsin+diagnostic, https://archive.ics.uci.edu/dataset/53/iris
func TestATrainedModelPredictsAsTheTrainerDid(t *testing.T) {
	for _, name := range []string{"breast-cancer", "iris"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join("testdata", name)
			read := func(file string, into any) {
				t.Helper()
				data, err := os.ReadFile(filepath.Join(dir, file))
				if err == nil {
					err = json.Unmarshal(data, into)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			var held struct {
				Instances           []instance
				Predictions, Labels []float64
			}
			read("heldout.json", &held)
			var want [][]float64
			read("probabilities.json", &want)
			m, err := readTrained(dir)
			if err != nil {
				t.Fatal(err)
			}
			classes, probabilities, err := m.predict(held.Instances, 0)
			if err != nil || m.Name != name || len(held.Labels) != m.HeldOut || len(want) == 0 {
				t.Fatalf("%s of %d labels and %d probabilities: %v", m.Name, len(held.Labels), len(want), err)
			}
			if !slices.Equal(classes, held.Predictions) {
				t.Errorf("predictions %v, the trainer's %v", classes, held.Predictions)
			}
			for i, p := range want {
				for k := range p {
					if !(math.Abs(probabilities[i][k]-p[k]) <= 1e-9) {
						t.Errorf("row %d, class %d: probability %v, the trainer's %v", i, k, probabilities[i][k], p[k])
					}
				}
			}
			right := 0
			for i, label := range held.Labels {
				if classes[i] == label {
					right++
				}
			}
			if got := float64(right) / float64(m.HeldOut); got != m.Accuracy {
				t.Errorf("accuracy %v, the file says %v", got, m.Accuracy)
			}
		})
	}
}
