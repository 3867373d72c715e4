package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/notebook"
)

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

func (l *Session) workflow(ctx context.Context, o *unstructured.Unstructured) (workflow, error) {
	live, err := l.live(ctx, l.object(o.GetAPIVersion(), o.GetKind(), o.GetName()))
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
