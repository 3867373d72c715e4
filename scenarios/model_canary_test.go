package scenarios

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"mllab.local/internal/kube"
	"mllab.local/internal/kustomize"
	"mllab.local/internal/probe"
)

// containersOf are model containers of two models; a row's class is its number.
func containersOf() map[string]modelFiles {
	of := func(digit string) modelFiles {
		digest := "sha256:" + strings.Repeat(digit, 64)
		return modelFiles{image: "registry:5000/ns/m@" + digest, Model: digest, held: heldOut{Instances: [][]float64{{0}, {1}}, Predictions: []int{0, 1}}}
	}
	return map[string]modelFiles{"v1": of("1"), "good": of("2"), "bad": of("3")}
}

func newModelCanaryStory(models ...string) *modelCanaryStory {
	s := &modelCanaryStory{containers: containersOf(), inGit: map[string]string{}, commits: map[string]pushed{}, pods: map[string]corev1.PodTemplateSpec{}}
	for _, name := range models {
		s.models = append(s.models, &delivered{name: name})
		s.inGit[name] = "v1"
	}
	return s
}

// server answers rows as a version's model does.
type server struct{ of modelFiles }

func (s server) Send(_ context.Context, r probe.Request) probe.Answer {
	var in struct{ Instances [][]float64 }
	_ = json.Unmarshal(r.Body, &in)
	body, _ := json.Marshal(map[string]any{"prediction": in.Instances[0]})
	return probe.Answer{ID: string(r.Body), Status: http.StatusOK, Target: "model", Model: s.of.Model, Body: string(body)}
}

// A commit of a model container changes one line, and Flux can build what is then in
// the folder.
func TestACommitChangesTheModelContainerAlone(t *testing.T) {
	l := &Session{Env: &Env{Image: "sampleapp:1"}, Namespace: "ns"}
	changed := func(also bool) (lines int, objs []*unstructured.Unstructured) {
		t.Helper()
		s := newModelCanaryStory("good", "bad")
		s.also = also
		was, err := s.files(l.Image)
		if err != nil {
			t.Fatal(err)
		}
		s.inGit["good"] = "good"
		is, err := s.files(l.Image)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(was["bad.yaml"], is["bad.yaml"]) {
			t.Error("the other model is another one, too")
		}
		for line := range strings.Lines(filesDiff(was, is)) {
			if strings.HasPrefix(line, "+ ") {
				lines++
			}
		}
		dir := t.TempDir()
		for name, text := range is {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if objs, err = kustomize.Build(t.Context(), dir, kustomize.Of(".")); err != nil {
			t.Fatal(err)
		}
		return lines, objs
	}
	lines, objs := changed(false)
	if lines != 1 || len(objs) != 2 {
		t.Errorf("%d lines of %d objects are others, want one of two", lines, len(objs))
	}
	if lines, _ := changed(true); lines < 2 {
		t.Errorf("the control changes %d lines, want more than one", lines)
	}

	s := newModelCanaryStory("good")
	s.inGit["good"], s.also = "good", false
	deployed := objs[slices.IndexFunc(objs, func(o *unstructured.Unstructured) bool { return o.GetName() == "good" })]
	deployed.SetNamespace("ns")
	l.Kube = &kube.Client{Client: fake.NewClientBuilder().WithObjects(deployed).Build()}
	pods, model, err := l.podTemplate(t.Context(), "good")
	if err != nil || model != s.containers["good"].image {
		t.Fatalf("the model container is %q (%v)", model, err)
	}
	s.pods["good"] = pods
	_, err = s.onlyTheModel(t.Context(), l)
	wantRefuted(t, err, "", "")
	s.pods["good"] = corev1.PodTemplateSpec{} // of another server
	_, err = s.onlyTheModel(t.Context(), l)
	wantRefuted(t, err, Delivery, "more of the pods")
	s.containers["good"] = s.containers["bad"]
	_, err = s.onlyTheModel(t.Context(), l)
	wantRefuted(t, err, Delivery, "the model container is")
}

func TestWhoServesAfterFlaggersWord(t *testing.T) {
	const why = "Halt bad.ns advancement answered-percent 0.00 < 95"
	for _, tc := range []struct {
		name, model, phase string
		by                 string
		words              []string
		refutes            Claim
		says               string
	}{
		{"promoted", "good", flaggerSucceeded, "good", nil, "", ""},
		{"promoted, and v1 answers", "good", flaggerSucceeded, "v1", nil, Model, "answers are of model"},
		{"a good one was taken back", "good", flaggerFailed, "v1", []string{why}, Promotion, why},
		{"taken back", "bad", flaggerFailed, "v1", []string{why}, "", ""},
		{"taken back, and it answers", "bad", flaggerFailed, "bad", []string{why}, Model, "answers are of model"},
		{"taken back for another reason", "bad", flaggerFailed, "v1", []string{"Halt advancement requests"}, Rollback, "did not say"},
		{"a bad one was promoted", "bad", flaggerSucceeded, "bad", nil, Rollback, "ended with Succeeded"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newModelCanaryStory(tc.model)
			m := s.models[0]
			l := flaggerSays(t, m, tc.phase, 0, server{s.containers[tc.by]}, tc.words...)
			s.commits[m.name] = pushed{began: m.end.Add(-time.Minute)}
			check := map[string]func(context.Context, *Session, *delivered) (Evidence, error){"good": s.promoted, "bad": s.takenBack}[tc.model]
			e, err := check(t.Context(), l, m)
			wantRefuted(t, err, tc.refutes, tc.says)
			if tc.refutes == "" && !strings.Contains(e.Summary, "60 s after the commit; "+tc.model+": 2 of 2 predictions") {
				t.Errorf("the evidence is %q", e.Summary)
			}
		})
	}
}

func TestNoUserMeetsTheBadModel(t *testing.T) {
	s := newModelCanaryStory("good", "bad")
	answer := func(version string) probe.Answer { return probe.Answer{Model: s.containers[version].Model} }
	for _, tc := range []struct {
		model   string
		sent    []probe.Answer
		says    string
		refutes Claim
	}{
		{"good", []probe.Answer{answer("v1"), answer("good"), {Status: 503}}, "good 1, no model 1, v1 1", ""},
		{"bad", []probe.Answer{answer("v1")}, "v1 1", ""},
		{"bad", []probe.Answer{answer("v1"), answer("bad")}, "bad 1, v1 1", Answers},
	} {
		by, err := s.byModel(&delivered{name: tc.model}, tc.sent)
		wantRefuted(t, err, tc.refutes, "")
		if countsText(by) != tc.says {
			t.Errorf("%s: %s, want %s", tc.model, countsText(by), tc.says)
		}
	}
}

func TestTheBadModelsTrainingLeavesAColumnOut(t *testing.T) {
	o, err := (&Session{Env: &Env{}}).code(withoutLastColumn)
	if err != nil {
		t.Fatal(err)
	}
	code, _, _ := unstructured.NestedString(o.Object, "data", trainingFile)
	if n := strings.Count(code, "[:, :-1]") + strings.Count(code, "[:-1]))"); n != 2 {
		t.Errorf("%d places of the trainer are others, want the columns and their names", n)
	}
}

func TestTheCanaryOfAModelAsksForMetricsThatAreThere(t *testing.T) {
	metrics, err := render("model-canary/metrics.yaml", map[string]any{"Right": "2.."})
	if err != nil {
		t.Fatal(err)
	}
	queries := map[string]string{}
	for _, o := range metrics {
		queries[o.GetName()], _, _ = unstructured.NestedString(o.Object, "spec", "query")
	}
	if !strings.Contains(queries["answered-percent"], `{namespace="{{ namespace }}",app="{{ target }}",code=~"2.."}[{{ interval }}]`) {
		t.Errorf("the query is %s", queries["answered-percent"])
	}
	canary, err := render("model-canary/canary.yaml", judgedModel{Name: "good", Host: "good.test", Percent: modelCanaryPercent, Threshold: flaggerThreshold})
	if err != nil {
		t.Fatal(err)
	}
	asked, _, _ := unstructured.NestedSlice(canary[0].Object, "spec", "analysis", "metrics")
	for _, each := range asked {
		name, _, _ := unstructured.NestedString(each.(map[string]any), "templateRef", "name")
		if queries[name] == "" {
			t.Errorf("no MetricTemplate is called %q", name)
		}
	}
	if len(asked) != len(queries) {
		t.Errorf("%d metrics are asked for, of %d", len(asked), len(queries))
	}
}
