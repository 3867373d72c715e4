package scenarios

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"mllab.local/internal/delivery"
	"mllab.local/internal/kube"
	"mllab.local/internal/kustomize"
	"mllab.local/internal/notebook"
	"mllab.local/internal/probe"
	"mllab.local/manifests"
)

func mlopsFiles(t *testing.T, training bool) map[string][]byte {
	t.Helper()
	files, err := fillAll("mlops/tree", mlopsState{
		Namespace: "ns", Folder: "scenarios/ns", Image: "sampleapp:1", Python: "python:1", Runner: "runner:1", Store: "registry:5000/ns/m", Percent: canaryPercent, Training: training,
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := yaml.Unmarshal(text, new(any)); err != nil && strings.HasSuffix(name, ".yaml") {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
	return files
}

// Another notebook must be another Job, and the same one the same.
func TestANotebookThatChangesChangesItsJob(t *testing.T) {
	build := func(training bool, edits ...edit) map[string]*unstructured.Unstructured {
		t.Helper()
		files := mlopsFiles(t, training)
		code, err := manifests.Scenarios.ReadFile(trainerFile)
		if err != nil {
			t.Fatal(err)
		}
		files["training/"+trainingFile] = code
		for _, e := range edits {
			name := "training/" + e.file
			if !bytes.Contains(files[name], []byte(e.from)) {
				t.Fatalf("%s lacks %q", name, e.from)
			}
			files[name] = bytes.Replace(files[name], []byte(e.from), []byte(e.to), 1)
		}
		book, err := notebook.Read(files["training/"+notebookFile])
		if err != nil || len(book.Steps) != 3 {
			t.Fatalf("%v: %+v, %v", edits, book, err)
		}
		for i, step := range []string{"train", "evaluate", "package"} {
			if book.Steps[i].Name != step || !slices.Contains(pipelineSteps, step) {
				t.Errorf("step %d is %s", i, book.Steps[i].Name)
			}
		}
		dir := t.TempDir()
		for name, content := range files {
			at := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, content, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		text, err := kustomize.Build(t.Context(), dir, kustomize.Of("training"))
		if err != nil {
			t.Fatal(err)
		}
		objs := map[string]*unstructured.Unstructured{}
		for _, o := range text {
			objs[o.GetKind()] = o
		}
		return objs
	}
	if job := build(false)["Job"]; job != nil {
		t.Error("there is a Job without a notebook")
	}
	volume := func(objs map[string]*unstructured.Unstructured) string {
		t.Helper()
		volumes, _, _ := unstructured.NestedSlice(objs["Job"].Object, "spec", "template", "spec", "volumes")
		name, _, _ := unstructured.NestedString(volumes[0].(map[string]any), "configMap", "name")
		if name != objs["ConfigMap"].GetName() {
			t.Errorf("the Job has ConfigMap %s, and there is %s", name, objs["ConfigMap"].GetName())
		}
		return name
	}
	first := volume(build(true))
	if first != volume(build(true)) {
		t.Error("the same notebook has another name")
	}
	edits := [][]edit{{anotherC}, {anotherC, wrongLabels}, {anotherC, withoutScale}, {swappedModel}, {movedRows}, {noGate}}
	seen := []string{first}
	for _, e := range edits {
		name := volume(build(true, e...))
		if slices.Contains(seen, name) {
			t.Errorf("%v is not another Job", e)
		}
		seen = append(seen, name)
	}
}

// What the runner may do is in its namespace, and no more than it does.
func TestTheRunnerMayDoWhatItDoesAndNoMore(t *testing.T) {
	objs, err := kube.Decode(mlopsFiles(t, true)["training/rights.yaml"])
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objs {
		switch o.GetKind() {
		case "ClusterRole", "ClusterRoleBinding":
			t.Errorf("there is a %s", o.GetKind())
		case "Role":
			rules, _ := yaml.Marshal(o.Object["rules"])
			const want = "- apiGroups:\n  - \"\"\n  resources:\n  - configmaps\n  verbs:\n  - create\n- apiGroups:\n  - argoproj.io\n  resources:\n  - workflows\n  verbs:\n  - create\n  - get\n"
			if string(rules) != want {
				t.Errorf("rights are\n%s", rules)
			}
		}
	}
}

func TestARunnersWordIsItsOwnAndTheLast(t *testing.T) {
	pod := func(code int32, message string) corev1.Pod {
		var p corev1.Pod
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Message: message}}}}
		return p
	}
	done := `{"run": "a-1", "commit": "c"}`
	for name, tc := range map[string]struct {
		pods  []corev1.Pod
		want  string
		final bool
	}{
		"none yet":              {[]corev1.Pod{{}}, "", false},
		"of another notebook":   {[]corev1.Pod{pod(0, `{"run": "a-0", "commit": "b"}`)}, "", false},
		"killed":                {[]corev1.Pod{pod(137, "")}, "", false},
		"trouble, and try two":  {[]corev1.Pod{pod(1, `{"run": "a-1", "error": "no Git"}`), {}}, "no Git", false},
		"trouble, then it went": {[]corev1.Pod{pod(0, done), pod(1, `{"run": "a-1", "error": "no Git"}`)}, "c", true},
		"the notebook's fault":  {[]corev1.Pod{pod(4, `{"run": "a-1", "error": "cell 1"}`)}, "cell 1", true},
	} {
		if got := wordOf(tc.pods, "a-1"); got.Commit+got.Error != tc.want || got.final != tc.final {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestAModelIsWhatItsCardSays(t *testing.T) {
	m := served{card: delivery.Card{Model: digestA, Data: digestB}, modelFiles: modelFiles{Model: digestA, Data: digestB}}
	if err := m.asOnCard(); err != nil {
		t.Error(err)
	}
	for _, other := range []modelFiles{{Model: digestB, Data: digestB}, {Model: digestA, Data: digestA}} {
		m.modelFiles = other
		if refuted, is := m.asOnCard().(*ClaimError); !is || refuted.Claim != Model {
			t.Errorf("%+v: %v", other, m.asOnCard())
		}
	}
}

func TestEachArmIsComparedWithItsOwnTrainer(t *testing.T) {
	held := heldOut{Predictions: []int{1, 0}}
	row := map[string]int{"a": 0, "b": 1}
	answer := func(id, model, body string) probe.Answer { return probe.Answer{ID: id, Model: model, Body: body} }
	for name, tc := range map[string]struct {
		answers []probe.Answer
		want    Claim
	}{
		"right":         {[]probe.Answer{answer("a", digestA, `{"prediction":[1]}`), answer("b", digestA, `{"prediction":[0]}`)}, ""},
		"another model": {[]probe.Answer{answer("a", digestB, `{"prediction":[1]}`)}, Model},
		"another class": {[]probe.Answer{answer("b", digestA, `{"prediction":[1]}`)}, Predictions},
	} {
		_, err := compare(tc.answers, row, digestA, held)
		refuted, _ := err.(*ClaimError)
		if (err == nil) != (tc.want == "") || refuted != nil && refuted.Claim != tc.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
