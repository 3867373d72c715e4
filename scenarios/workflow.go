package scenarios

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/notebook"
)

// pipelineSteps are the steps of a workflow that delivers a model, in their order.
var pipelineSteps = []string{"prepare", "train", "evaluate", "package", "deploy", "verify"}

// workflow is what has become of a Workflow: the phase of each step, what it
// printed, and what it handed on.
type workflow struct {
	phase, message string
	lastError      string // message of the last failed attempt
	phases         map[string]string
	seconds        map[string]float64
	outputs        map[string]string
	training       training
}

func (w workflow) says() string {
	var steps []string
	for _, step := range pipelineSteps {
		if phase := w.phases[step]; phase != "" {
			says := step + " " + strings.ToLower(phase)
			if took := w.seconds[step]; took > 0 { // it has run, and ended
				says += fmt.Sprintf(" %.0f s", took)
			}
			steps = append(steps, says)
		}
	}
	return strings.Join(steps, ", ")
}

// progress is a workflow in words, with what went wrong on its way.
func (w workflow) progress() string {
	if w.lastError == "" {
		return w.says()
	}
	return w.says() + "; a try failed: " + w.lastError
}

func (l *Session) workflow(ctx context.Context, name string) (workflow, error) {
	live, err := l.live(ctx, l.object("argoproj.io/v1alpha1", "Workflow", name))
	if err != nil {
		return workflow{}, err
	}
	return readWorkflow(live)
}

func readWorkflow(live *unstructured.Unstructured) (workflow, error) {
	w := workflow{phases: map[string]string{}, seconds: map[string]float64{}, outputs: map[string]string{}}
	var text []byte
	if status := live.Object["status"]; status != nil {
		var err error
		if text, err = json.Marshal(status); err != nil {
			return w, err
		}
	}
	status, err := notebook.ReadStatus(text)
	if err != nil {
		return w, fmt.Errorf("reading Workflow %s: %w", live.GetName(), err)
	}
	w.phase, w.message = status.Phase, status.Message
	var when time.Time
	for _, n := range status.Nodes {
		failed := n.Phase == "Failed" || n.Phase == "Error"
		if n.Pod && failed && !n.Finished.Before(when) {
			w.lastError, when = n.Message, n.Finished
		}
		w.phases[n.Name] = n.Phase
		if !n.Finished.IsZero() {
			w.seconds[n.Name] = n.Finished.Sub(n.Started).Seconds()
		}
		if !failed { // Argo gives a failed try its outputs, too, without values
			maps.Copy(w.outputs, n.Outputs)
		}
	}
	return w, nil
}

// runWorkflow applies the manifest of a Workflow, and returns what has become of it
// when it has ended.
func (l *Session) runWorkflow(ctx context.Context, name, manifest string, data any) (workflow, error) {
	objs, err := l.writeFile(ctx, manifest, data)
	if err != nil {
		return workflow{}, err
	}
	// Argo writes defaults into the spec's lists; ignore that drift.
	l.applied = slices.Delete(l.applied, l.find(objs[0]), l.find(objs[0])+1)
	var w workflow
	reason := "no step yet"
	err = l.untilError(ctx, untilInterval, "workflow "+name, func() (string, error) {
		now, err := l.workflow(ctx, name)
		switch {
		case ctx.Err() != nil: // it is out of time, and what it was waiting for is of interest
			return reason, nil
		case err != nil || now.phase == "Succeeded" || now.phase == "Failed" || now.phase == "Error":
			w = now
			return "", err
		}
		reason = cmp.Or(now.progress(), reason)
		return reason, nil
	})
	if err != nil {
		return w, err
	}
	w.training, err = l.printed(ctx, name)
	return w, err
}

// printed returns the output of a workflow's steps, with that of the training.
func (l *Session) printed(ctx context.Context, name string) (training, error) {
	pods, err := l.Kube.Pods(ctx, l.Namespace, nil)
	if err != nil {
		return nil, err
	}
	all := ""
	for _, p := range pods {
		container := ""
		switch {
		case p.Labels["workflows.argoproj.io/workflow"] == name:
			container = "main"
		case p.Labels["jobset.sigs.k8s.io/jobset-name"] == name+"-train":
			container = "node"
		default:
			continue
		}
		log, err := l.Kube.PodLogs(ctx, l.Namespace, p.Name, container, 0)
		if err != nil && p.Status.Phase != corev1.PodFailed { // one that did not start says nothing
			return nil, err
		}
		all += log
	}
	_, err = l.keepText("-"+name+".log", []byte(all))
	return readTraining(all), err
}
