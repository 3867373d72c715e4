package scenarios

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/manifests"
)

// status is what Argo's controller writes of a run that ends at its gate.
const status = `
apiVersion: argoproj.io/v1alpha1
kind: Workflow
metadata: {name: worse}
status:
  phase: Failed
  message: child 'worse-3' failed
  progress: 3/3
  startedAt: "2026-01-02T03:04:05Z"
  nodes:
    worse: {id: worse, name: worse, displayName: worse, type: DAG, phase: Failed, startedAt: "2026-01-02T03:04:05Z", finishedAt: "2026-01-02T03:04:30Z", children: [worse-1]}
    worse-1: {id: worse-1, name: worse.prepare, displayName: prepare, type: Pod, phase: Succeeded, startedAt: "2026-01-02T03:04:05Z", finishedAt: "2026-01-02T03:04:11Z", outputs: {exitCode: "0"}}
    worse-2: {id: worse-2, name: worse.train, displayName: train, type: Pod, phase: Running, startedAt: "2026-01-02T03:04:12Z", finishedAt: null}
    worse-3: {id: worse-3, name: worse.evaluate, displayName: evaluate, type: Pod, phase: Failed, startedAt: "2026-01-02T03:04:25Z", finishedAt: "2026-01-02T03:04:30Z", message: "Error (exit code 4)", outputs: {parameters: [{name: image, valueFrom: {path: /tmp/outputs/image}}], exitCode: "4"}}
    worse-4:
      id: worse-4
      name: worse.package
      displayName: package
      type: Pod
      phase: Omitted
      startedAt: "2026-01-02T03:04:30Z"
      finishedAt: "2026-01-02T03:04:30Z"
      outputs: {parameters: [{name: image, value: "registry:5000/m@sha256:1", valueFrom: {path: /tmp/outputs/image}}, {name: model, value: "sha256:2"}], exitCode: "0"}
`

func TestAWorkflowIsReadFromItsStatus(t *testing.T) {
	w, err := readWorkflow(objects(t, status)[0])
	if err != nil {
		t.Fatal(err)
	}
	if w.phase != "Failed" || w.message != "child 'worse-3' failed" {
		t.Errorf("it is %q because %q", w.phase, w.message)
	}
	phases := map[string]string{"worse": "Failed", "prepare": "Succeeded", "train": "Running", "evaluate": "Failed", "package": "Omitted"}
	if !maps.Equal(w.phases, phases) {
		t.Errorf("phases %v", w.phases)
	}
	if want := (map[string]float64{"worse": 25, "prepare": 6, "evaluate": 5, "package": 0}); !maps.Equal(w.seconds, want) {
		t.Errorf("seconds %v, want %v", w.seconds, want)
	}
	for range 20 { // a map has its nodes in any order
		again, err := readWorkflow(objects(t, status)[0])
		if want := (map[string]string{"image": "registry:5000/m@sha256:1", "model": "sha256:2"}); err != nil || !maps.Equal(again.outputs, want) {
			t.Fatalf("outputs %v, %v", again.outputs, err)
		}
	}
	if want := "prepare succeeded 6 s, train running, evaluate failed 5 s, package omitted"; w.says() != want {
		t.Errorf("it says %q, want %q", w.says(), want)
	}

	if want := w.says() + "; a try failed: Error (exit code 4)"; w.progress() != want {
		t.Errorf("on its way it says %q, want %q", w.progress(), want)
	}

	young, err := readWorkflow(objects(t, "{apiVersion: argoproj.io/v1alpha1, kind: Workflow, metadata: {name: young}}")[0])
	if err != nil || young.phase != "" || young.says() != "" {
		t.Errorf("one without a status is %+v, %v", young, err)
	}
	odd := objects(t, "{apiVersion: argoproj.io/v1alpha1, kind: Workflow, metadata: {name: odd}, status: {nodes: 7}}")[0]
	if w, err := readWorkflow(odd); err == nil || !strings.Contains(err.Error(), "Workflow odd") {
		t.Errorf("an odd status is %+v, %v", w, err)
	}
}

// templateOf is a Workflow's template of that name.
func templateOf(t *testing.T, workflow *unstructured.Unstructured, name string) map[string]any {
	t.Helper()
	templates, _, _ := unstructured.NestedSlice(workflow.Object, "spec", "templates")
	for _, each := range templates {
		if each := each.(map[string]any); each["name"] == name {
			return each
		}
	}
	t.Fatalf("there is no template %q", name)
	return nil
}

// manifest is the object that a template's pod applies.
func manifest(t *testing.T, its map[string]any) *unstructured.Unstructured {
	t.Helper()
	text, _, _ := unstructured.NestedString(its, "resource", "manifest")
	return objects(t, text)[0]
}

func pipelineLab() *Session {
	return &Session{Env: &Env{Registry: "registry:5000", Domain: "mllab.test", Python: "python:1", Image: "sampleapp:1"}, Namespace: "ns"}
}

func TestThePipelinesStepsFollowEachOther(t *testing.T) {
	objs := about(t, pipelineLab(), func(ctx context.Context, l *Session) error {
		_, err := (&pipelineStory{}).run(ctx, l, "good", 7, 0.25)
		return err
	})
	if len(objs) != 1 || objs[0].GetKind() != "Workflow" || objs[0].GetName() != "good" {
		t.Fatalf("applied are %v", objs)
	}
	workflow := objs[0]
	entry, _, _ := unstructured.NestedString(workflow.Object, "spec", "entrypoint")
	tasks, _, _ := unstructured.NestedSlice(templateOf(t, workflow, entry), "dag", "tasks")
	var names []string
	before := ""
	for _, each := range tasks {
		task := each.(map[string]any)
		if depends, _ := task["depends"].(string); depends != before {
			t.Errorf("%s comes after %q, and depends on %q", task["name"], before, depends)
		}
		before = task["name"].(string)
		names = append(names, before)

		// Each runs the code's step of its name, or applies something.
		its := templateOf(t, workflow, task["template"].(string))
		if its["resource"] != nil {
			continue
		}
		args, _, _ := unstructured.NestedStringSlice(its, "container", "args")
		if len(args) != 1 || args[0] != before {
			t.Errorf("%s runs %v", before, args)
		}
	}
	if !slices.Equal(names, pipelineSteps) {
		t.Errorf("its tasks are %v, want %v", names, pipelineSteps)
	}

	env, _, _ := unstructured.NestedSlice(templateOf(t, workflow, "package"), "container", "env")
	want := "[map[name:STORE value:registry:5000/ns/store] map[name:RUN value:good] map[name:MODELS value:registry:5000/ns/breast-cancer] " +
		"map[name:DATA value:{{inputs.parameters.dataset}}] map[name:FITTED value:{{inputs.parameters.fitted}}]]"
	if fmt.Sprint(env) != want {
		t.Errorf("settings are\n%v, want\n%s", env, want)
	}
	for _, each := range tasks { // what is packed is what was judged, and not what has its tag by then
		if task := each.(map[string]any); task["name"] == "package" && !strings.Contains(fmt.Sprint(task), "{{tasks.evaluate.outputs.parameters.fitted}}") {
			t.Errorf("it packs %v", task["arguments"])
		}
	}
	for _, name := range []string{"activeDeadlineSeconds", "ttlStrategy"} {
		if _, has, _ := unstructured.NestedFieldNoCopy(workflow.Object, "spec", name); !has {
			t.Errorf("it has no %s", name)
		}
	}
	for _, step := range pipelineSteps {
		its := templateOf(t, workflow, step)
		if its["retryStrategy"] == nil || its["resource"] != nil && its["activeDeadlineSeconds"] == nil {
			t.Errorf("%s is not tried again, or waits for ever", step)
		}
	}

	train, deploy := manifest(t, templateOf(t, workflow, "train")), manifest(t, templateOf(t, workflow, "deploy"))
	if train.GetKind() != "TrainJob" || train.GetName() != "good-train" {
		t.Errorf("train makes %s %s", train.GetKind(), train.GetName())
	}
	server, _, _ := unstructured.NestedSlice(deploy.Object, "spec", "template", "spec", "containers")
	model, _, _ := unstructured.NestedSlice(deploy.Object, "spec", "template", "spec", "initContainers")
	if deploy.GetKind() != "Service" || len(server) != 1 || server[0].(map[string]any)["image"] != "sampleapp:1" ||
		len(model) != 1 || model[0].(map[string]any)["image"] != "{{inputs.parameters.image}}" {
		t.Errorf("deploy applies %v", deploy.Object)
	}
}

func TestTheStepsOfThePipelineAreWritten(t *testing.T) {
	code, err := manifests.Scenarios.ReadFile("scenarios/pipeline/steps.py")
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range pipelineSteps {
		written := regexp.MustCompile(`(?m)^def ` + step + `\(\):$`).Match(code)
		if want := step != "deploy"; written != want { // Argo applies the Service itself
			t.Errorf("%s is written: %t, want %t", step, written, want)
		}
	}
}

// What a step may do is what its template needs, in the run's namespace.
func TestThePipelineMayDoWhatItDoesAndNoMore(t *testing.T) {
	var got []string
	for _, o := range about(t, pipelineLab(), func(ctx context.Context, l *Session) error {
		return (&pipelineStory{}).deploy(ctx, l)
	}) {
		if o.GetNamespace() != "ns" {
			t.Errorf("%s %s is in namespace %q", o.GetKind(), o.GetName(), o.GetNamespace())
		}
		subjects, _, _ := unstructured.NestedSlice(o.Object, "subjects")
		for _, s := range subjects {
			got = append(got, fmt.Sprint(o.GetKind(), " ", s))
		}
		rules, _, _ := unstructured.NestedSlice(o.Object, "rules")
		for _, r := range rules {
			got = append(got, fmt.Sprint(o.GetKind(), " ", r))
		}
	}
	slices.Sort(got)
	want := []string{
		"Role map[apiGroups:[serving.knative.dev] resources:[services] verbs:[get create patch]]",
		"Role map[apiGroups:[trainer.kubeflow.org] resources:[trainjobs] verbs:[get create patch]]",
		"RoleBinding map[kind:ServiceAccount name:pipeline namespace:ns]",
		"RoleBinding map[kind:ServiceAccount name:pipeline namespace:ns]",
	}
	if !slices.Equal(got, want) {
		t.Errorf("rights are\n%s", strings.Join(got, "\n"))
	}
}
