package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"mllab.local/internal/kube"
	"mllab.local/internal/oci"
	"mllab.local/sampleapp/api"
)

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func TestATrainingIsReadFromItsLinesAndNoOthers(t *testing.T) {
	got := readTraining(`a warning of some library
{"stage": "prepare", "data": "` + digestA + `", "rows": 569, "seconds": 0.2}
{"stage": "shard", "worker": 0, "fits": 90, "scores": {"0.1": [1, 2]}, "seconds": 1.5}
{"level": "info", "msg": "no stage"}
{"stage": "evaluate", "accuracy": 0.965, "low": 0.92, "high": 0.989, "held_out": 143}
{"stage": "gate", "passed": true, "threshold": 0.9}
{"stage": "write", "model": "` + digestA + `", "heldout": "` + digestB + `"}
{"stage": "push", "image": "registry:5000/a/b@` + digestB + `"}
{"stage": "cut o`)
	want := training{
		"prepare":  {Stage: "prepare", Data: digestA, Seconds: 0.2},
		"shard":    {Stage: "shard", Fits: 90, Scores: scores{"0.1": {1, 2}}, Seconds: 1.5},
		"evaluate": {Stage: "evaluate", Accuracy: 0.965, Low: 0.92, High: 0.989, HeldOut: 143},
		"gate":     {Stage: "gate", Passed: true, Threshold: 0.9},
		"write":    {Stage: "write", Model: digestA, Rows: digestB},
		"push":     {Stage: "push", Image: "registry:5000/a/b@" + digestB},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if says := got.says(); says != "accuracy 0.965 (0.920..0.989) of 143 held-out rows" {
		t.Errorf("it says %q", says)
	}
	if none := readTraining(""); len(none) != 0 || none["evaluate"].HeldOut != 0 {
		t.Errorf("no line is %+v", none)
	}
}

func TestWorkersMustScoreAsOneDoes(t *testing.T) {
	one := training{"shard": {Fits: 4, Scores: scores{"0.1": {10, 12}, "1.0": {9, 12}}}}
	a := training{"shard": {Fits: 2, Scores: scores{"0.1": {4, 6}, "1.0": {9, 12}}}}
	b := training{"shard": {Fits: 2, Scores: scores{"0.1": {6, 6}}}}
	if got := scoresOf([]training{a, b}); !reflect.DeepEqual(got, scoresOf([]training{one})) {
		t.Errorf("together they have %v", got)
	}
	if len(a["shard"].Scores) != 2 || a["shard"].Scores["0.1"] != [2]int{4, 6} {
		t.Errorf("one of them has become %v", a["shard"].Scores)
	}
	b["shard"].Scores["0.1"] = [2]int{5, 6}
	if reflect.DeepEqual(scoresOf([]training{a, b}), scoresOf([]training{one})) {
		t.Error("another score is the same")
	}
}

// A pod that was killed has another one in its place.
func TestEachWorkerIsItsNewestPod(t *testing.T) {
	pod := func(name, index string, at int64) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"batch.kubernetes.io/job-completion-index": index}, CreationTimestamp: metav1.Unix(at, 0)}}
	}
	var names []string
	for _, p := range newestPods([]corev1.Pod{pod("b1", "1", 1), pod("a2", "0", 5), pod("a1", "0", 1), pod("c", "10", 1), pod("b2", "2", 1)}) {
		names = append(names, p.Name)
	}
	if want := []string{"a2", "b1", "b2", "c"}; !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}

func TestAnImageMustHaveTheFilesThatWereWritten(t *testing.T) {
	wrote := training{"write": {Model: digestA, Rows: digestB}}
	for _, c := range []struct {
		model, rows string
		says        []string
	}{
		{digestA, digestB, nil},
		{digestB, digestB, []string{"wrote model " + digestA + ", and the image has " + digestB}},
		{digestA, digestA, []string{"wrote held-out rows " + digestB + ", and the image has " + digestA}},
		{digestB, digestA, []string{"wrote model", "wrote held-out rows"}},
	} {
		refuted := modelFiles{Model: c.model, Rows: c.rows}.asRecorded(wrote)
		got := reasons(refuted)
		if len(got) != len(c.says) || refuted != nil && refuted.Claim != Model {
			t.Errorf("%+v: %+v", c, refuted)
			continue
		}
		for i, want := range c.says {
			if !strings.Contains(got[i], want) {
				t.Errorf("it says %q, want %q in it", got[i], want)
			}
		}
	}
	if refuted := (modelFiles{Model: digestA, Rows: digestB}).asRecorded(training{}); refuted == nil {
		t.Error("a trainer that wrote nothing has written these files")
	}
}

func TestAModelIsPulledFromTheLabsRegistry(t *testing.T) {
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	l := &Session{Env: &Env{Gateway: srv.URL, Registry: "registry.inside:5000"}}
	pull := func(heldOut string) (modelFiles, error) {
		t.Helper()
		digest, err := oci.Push(t.Context(), srv.URL, "ns/model", map[string][]byte{"model.json": []byte("{}\n"), "heldout.json": []byte(heldOut)})
		if err != nil {
			t.Fatal(err)
		}
		return l.pull(t.Context(), l.Registry+"/ns/model@"+digest)
	}
	got, err := pull(`{"instances": [[1.5, 2], [3, 4]], "predictions": [1, 0], "labels": [1, 1]}`)
	want := heldOut{Instances: [][]float64{{1.5, 2}, {3, 4}}, Predictions: []int{1, 0}, Labels: []int{1, 1}}
	// $ printf '{}\n' | sha256sum
	const hash = "sha256:ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356"
	if err != nil || !reflect.DeepEqual(got.held, want) || got.Model != hash || got.Rows == hash {
		t.Errorf("got %+v, %v", got, err)
	}
	for text, says := range map[string]string{
		"": "heldout.json", `{"instances": []}`: "0 rows and 0 predictions",
		`{"instances": [[1], [2]], "predictions": [1]}`: "2 rows and 1 predictions",
	} {
		if got, err := pull(text); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "ns/model@sha256:") {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
	}
}

// classifier answers rows of one number as f says, as the model with that
// digest.
func classifier(t *testing.T, f func(row float64) (class float64, digest string, status int)) *Session {
	t.Helper()
	l := gateway(t, "v1")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Instances [][]float64 }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.Method != http.MethodPost || len(in.Instances) != 1 {
			t.Errorf("%s of %v, %v", r.Method, in, err)
			return
		}
		class, digest, status := f(in.Instances[0][0])
		w.Header().Set(api.HeaderTarget, "good")
		w.Header().Set(api.HeaderModel, digest)
		w.Header().Set(api.HeaderID, r.Header.Get(api.HeaderID))
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string]any{"prediction": []float64{class}})
	}))
	t.Cleanup(srv.Close)
	l.Gateway = srv.URL
	return l
}

func TestEveryHeldOutRowMustBeAnsweredAsTheTrainerDid(t *testing.T) {
	held := heldOut{}
	for i := range 40 {
		held.Instances, held.Predictions = append(held.Instances, []float64{float64(i)}), append(held.Predictions, i%3)
	}
	right := func(row float64) (float64, string, int) { return math.Mod(row, 3), digestA, http.StatusOK }
	for _, c := range []struct {
		name    string
		answers func(row float64) (float64, string, int)
		refutes Claim
		reason  string
		says    string
	}{
		{"the right ones pass", right, "", "", "40 of 40 predictions are the trainer's, from model sha256:aaaaaaaaaaaa; latency p50 "},
		{"another model is refuted, whatever it predicts", func(row float64) (float64, string, int) {
			class, _, status := right(row)
			return class, digestB, status
		}, Model, "0 of 40 answers are of model " + digestA, "40 of 40"},
		{"one answer of another model is refuted", func(row float64) (float64, string, int) {
			class, digest, status := right(row)
			if row == 7 {
				digest = ""
			}
			return class, digest, status
		}, Model, "39 of 40 answers are of model", "40 of 40"},
		{"one wrong class is refuted", func(row float64) (float64, string, int) {
			class, digest, status := right(row)
			if row == 7 {
				class = 0
			}
			return class, digest, status
		}, Predictions, "1 of 40 predictions are not the trainer's, the first: row 7: class 0 where the trainer had 1", "39 of 40"},
		{"what is no class is not taken for one", func(row float64) (float64, string, int) {
			class, digest, status := right(row)
			return class + 0.5, digest, status
		}, Predictions, "40 of 40 predictions are not", "0 of 40"},
		{"an error of the application is refuted", func(row float64) (float64, string, int) {
			class, digest, status := right(row)
			if row == 7 {
				status = http.StatusInternalServerError
			}
			return class, digest, status
		}, Answers, "1 of 40 requests were not answered 200", "status 500"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := classifier(t, c.answers)
			e, err := l.predicts(t.Context(), l.to("model"), digestA, held)
			if refutedClaim(err) != c.refutes || (err == nil) != (c.refutes == "") {
				t.Fatalf("got %v, want claim %q refuted", err, c.refutes)
			}
			if err != nil && !strings.Contains(err.Error(), c.reason) {
				t.Errorf("the reason is %v, want %q in it", err, c.reason)
			}
			if !strings.Contains(e.Summary, c.says) {
				t.Errorf("it says %q, want %q in it", e.Summary, c.says)
			}
			if e.File == "" || e.Tally.Sent != 40 {
				t.Errorf("evidence %+v", e)
			}
		})
	}
	l := classifier(t, right)
	e, err := l.predicts(t.Context(), l.to("model"), digestA, held)
	if err != nil || len(e.Figures) != 3 || e.Figures[0].Value <= 0 || e.Figures[0].Value > e.Figures[2].Value {
		t.Errorf("figures %+v, %v", e.Figures, err)
	}
}

func TestTheStandardProtocolsAreAnsweredByTheModelAndExactly(t *testing.T) {
	held := heldOut{Instances: [][]float64{{1}, {2}}, Predictions: []int{1, 0}}
	for name, c := range map[string]struct {
		v1, v2, digest string
		refutes        Claim
	}{
		"the right ones":    {"[1, 0]", "[1, 0]", digestA, ""},
		"another model":     {"[1, 0]", "[1, 0]", digestB, Model},
		"no class, by v1":   {"[1.2, 0]", "[1, 0]", digestA, Predictions},
		"no class, by v2":   {"[1, 0]", "[1, 0.9]", digestA, Predictions},
		"one row too few":   {"[1, 0]", "[1]", digestA, Predictions},
		"another class, v1": {"[1, 1]", "[1, 0]", digestA, Predictions},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(api.HeaderTarget, "good")
			w.Header().Set(api.HeaderModel, c.digest)
			w.Header().Set(api.HeaderID, r.Header.Get(api.HeaderID))
			if strings.HasSuffix(r.URL.Path, ":predict") {
				fmt.Fprintf(w, `{"predictions": %s}`, c.v1)
				return
			}
			fmt.Fprintf(w, `{"outputs": [{"name": "scores", "data": [7]}, {"name": "predictions", "data": %s}]}`, c.v2)
		}))
		l := gateway(t, "v1")
		l.Gateway = srv.URL
		if _, err := l.byProtocols(t.Context(), digestA, held); refutedClaim(err) != c.refutes || (err == nil) != (c.refutes == "") {
			t.Errorf("%s: %v, want claim %q refuted", name, err, c.refutes)
		}
		srv.Close()
	}
}

func TestAnAnswerWithoutOnePredictionIsAnError(t *testing.T) {
	for body, says := range map[string]string{"": "unexpected end", `{"prediction": []}`: "has 0 predictions", `{"prediction": [1, 0]}`: "has 2 predictions"} {
		if got, err := predictionOf(body); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "%!") {
			t.Errorf("%q is %v, %v", body, got, err)
		}
	}
}

// about are the objects that f is about to apply first: it is stopped there.
func about(t *testing.T, l *Session, f func(ctx context.Context, l *Session) error) []*unstructured.Unstructured {
	t.Helper()
	stopped := errors.New("stopped")
	var text strings.Builder
	l.Teach = func(_ context.Context, lesson Lesson) error {
		for line := range strings.Lines(lesson.Change) {
			if added, is := strings.CutPrefix(line, "+"); is && strings.HasPrefix(line, "+++ ") {
				text.WriteString("---\n")
			} else if is {
				text.WriteString(added)
			}
		}
		return stopped
	}
	if err := f(t.Context(), l); !errors.Is(err, stopped) {
		t.Fatalf("it ended with %v", err)
	}
	return objects(t, text.String())
}

// codeOf is the code that a story's first step puts on the cluster.
func codeOf(t *testing.T, s *Plan) map[string]string {
	t.Helper()
	l := &Session{Env: &Env{Registry: "registry:5000", Domain: "mllab.test", Python: "python", Image: "sampleapp"}, Namespace: "ns"}
	for _, o := range about(t, l, s.Steps[0].Change) {
		if o.GetKind() == "ConfigMap" && o.GetName() == "code" {
			code, _, err := unstructured.NestedStringMap(o.Object, "data")
			if err != nil {
				t.Fatal(err)
			}
			return code
		}
	}
	t.Fatal("no code is applied")
	return nil
}

func TestAControlOfTheCodeChangesTheCode(t *testing.T) {
	for name, want := range map[string]map[string][]string{ // by control, the files that it changes one line of
		"train": {"swapped": {"mllab_train.py"}, "no-seed": {"mllab_train.py"}, "no-gate": {"mllab_train.py"}},
		"drift": {
			"blind": {"detector.py"}, "jumpy": {"detector.py"}, "wrong-feature": {"detector.py"}, "flattered": {"detector.py"}, "old-rows": {"mllab_train.py"},
		},
		"pipeline": {"repushed": {"steps.py", "steps.py"}, "off-by-one": {"mllab_train.py", "steps.py"}, "no-gate": {"mllab_train.py"}},
	} {
		plan, err := planned(name, Options{})
		if err != nil {
			t.Fatal(err)
		}
		right := codeOf(t, plan)
		seen := 0
		for i, c := range plan.Controls {
			if c.After != "" {
				continue // it changes the world, not the code
			}
			t.Run(name+" "+c.Name, func(t *testing.T) {
				broken, err := planned(name, Options{})
				if err != nil {
					t.Fatal(err)
				}
				if err := broken.Controls[i].Break(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
				var changed []string
				for file, text := range codeOf(t, broken) {
					was, is := strings.Split(right[file], "\n"), strings.Split(text, "\n")
					if len(was) != len(is) {
						t.Fatalf("%s has %d lines, and had %d", file, len(is), len(was))
					}
					for n := range was {
						if was[n] != is[n] {
							changed = append(changed, file)
							if strings.HasPrefix(strings.TrimSpace(is[n]), "#") {
								t.Errorf("it changes the comment %q", is[n])
							}
						}
					}
				}
				if slices.Sort(changed); !slices.Equal(changed, want[c.Name]) {
					t.Errorf("it changes lines of %v, want %v", changed, want[c.Name])
				}
			})
			seen++
		}
		if seen != len(want) {
			t.Errorf("%s has %d controls of its code, want %v", name, seen, slices.Sorted(maps.Keys(want)))
		}
	}
	l := &Session{Env: &Env{}}
	if o, err := l.code([]edit{{trainingFile, "not in it", "x"}}); err == nil || !strings.Contains(err.Error(), trainingFile) {
		t.Errorf("a control that changes nothing gave %v, %v", o, err)
	}
}

func TestATrainJobHasItsWorkersAndArguments(t *testing.T) {
	l := &Session{Env: &Env{}, Namespace: "ns"}
	args := []string{"--out", "/tmp/a b", "--label-noise", "0.4"}
	o := about(t, l, func(ctx context.Context, l *Session) error {
		_, _, err := l.run(ctx, trainJob{"two", 2, args})
		return err
	})[0]
	got := fmt.Sprint(o.GetKind(), o.GetNamespace(), o.GetName())
	nodes, _, _ := unstructured.NestedInt64(o.Object, "spec", "trainer", "numNodes")
	has, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "trainer", "args")
	env, _, _ := unstructured.NestedSlice(o.Object, "spec", "trainer", "env")
	if got != "TrainJobnstwo" || nodes != 2 || !slices.Equal(has, args) || fmt.Sprint(env) != "[map[name:WORKERS value:2]]" {
		t.Errorf("%s on %d nodes with %q and %v", got, nodes, has, env)
	}
}

func TestATrainJobHasEndedWhenItSaysSo(t *testing.T) {
	job := objects(t, `
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata: {name: first, namespace: ns}
status: {conditions: [{type: Suspended, status: "False"}, {type: Complete, status: "False"}, {type: Failed, status: "True"}]}
`)[0]
	l := &Session{Env: &Env{Kube: &kube.Client{Client: fake.NewClientBuilder().WithObjects(job).Build()}}, Namespace: "ns"}
	asked := l.object(job.GetAPIVersion(), job.GetKind(), "first")
	for _, c := range []struct {
		kinds []string
		want  string
	}{{[]string{"Complete", "Failed"}, "Failed"}, {[]string{"Complete"}, ""}, {[]string{"Suspended", "Absent"}, ""}} {
		if got, err := l.condition(t.Context(), asked, c.kinds...); got != c.want || err != nil {
			t.Errorf("of %v True is %q, want %q (%v)", c.kinds, got, c.want, err)
		}
	}
	if _, err := l.condition(t.Context(), l.object(job.GetAPIVersion(), job.GetKind(), "absent"), "Complete"); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("one that is not there: %v", err)
	}
}
