package scenarios

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/fault"
)

// Result is the outcome of one run: of a scenario, or of one of its controls.
type Result struct {
	Scenario string       `json:"scenario"`
	Control  string       `json:"control,omitempty"`
	Pass     bool         `json:"pass"`
	Steps    []StepResult `json:"steps"`
	Refuted  Claim        `json:"refuted,omitempty"` // the first claim that did not hold
	Catches  Claim        `json:"catches,omitempty"` // of a control: the claim that must not hold
	Reasons  []string     `json:"reasons,omitempty"`
	Error    string       `json:"error,omitempty"` // why nothing could be tested
	Seconds  float64      `json:"seconds"`
}

// StepResult is what one step saw. Barrier is the time that its change took to
// be in force.
type StepResult struct {
	Name     string    `json:"name"`
	Pass     bool      `json:"pass"`
	Barrier  float64   `json:"barrierSeconds"`
	Seconds  float64   `json:"seconds"` // of the check
	Evidence *Evidence `json:"evidence,omitempty"`
}

// Err is nil for a pass, and else what the exit code is made from: a claim
// that does not hold is 1.
func (r Result) Err() error {
	switch {
	case r.Error != "":
		return errors.New(r.Error)
	case r.Pass:
		return nil
	case r.Control == "":
		return fmt.Errorf("%s: claim %q does not hold: %s", r.Scenario, r.Refuted, strings.Join(r.Reasons, "; "))
	case r.Refuted == "":
		return fmt.Errorf("%s: control %s was not caught: every claim held in a broken world", r.Scenario, r.Control)
	}
	return fmt.Errorf("%s: control %s was caught for the wrong reason: %q instead of %q: %s", r.Scenario, r.Control, r.Refuted, r.Catches, strings.Join(r.Reasons, "; "))
}

// stepBound is how long one step's change may take to be in force.
const stepBound = 3 * time.Minute

// cleanupBound is how long the clean-up of a run may take, even after ^C.
const cleanupBound = 60 * time.Second

// managed labels every namespace that a run makes: only those are ever removed.
const (
	managedLabel = "app.kubernetes.io/managed-by"
	managedBy    = "mllab"
)

// Run tells the story in a fresh namespace, which it removes afterwards unless
// keep. With a control the world is broken on the way, and the result passes
// when the right claim then fails.
//
// The error says why nothing could be tested (fault.CannotTest), or is
// ctx.Err() after ^C; a claim that does not hold is a Result with Pass false. A
// clean-up that fails is an error too, beside the Result.
func Run(ctx context.Context, l Lab, s Scenario, c *Control, keep bool) (r Result, err error) {
	began := time.Now()
	r = Result{Scenario: s.Name}
	defer func() {
		r.Seconds = time.Since(began).Seconds()
		if err != nil {
			r.Pass, r.Error = false, err.Error()
		}
	}()
	l.title = s.Name
	if c != nil {
		r.Control, r.Catches = c.Name, c.Catches
		l.title += ", control " + c.Name
	}
	l.Namespace, l.ctx = "mllab-"+s.Name, ctx
	if l.Evidence != "" {
		l.Evidence = filepath.Join(l.Evidence, strings.NewReplacer(", ", "-", " ", "-").Replace(l.title))
		if err := os.RemoveAll(l.Evidence); err != nil {
			return r, fmt.Errorf("removing the last run's evidence: %w", err)
		}
	}
	err = l.freshNamespace(ctx)
	broken := false
	if err == nil {
		broken, err = l.tell(ctx, s, c, &r)
	}
	unclean := l.cleanUp(ctx, keep)

	var refuted *Refuted
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return r, errors.Join(ctx.Err(), unclean)
	case errors.As(err, &refuted):
		r.Refuted, r.Reasons = refuted.Claim, refuted.Reasons
	case err != nil && fault.Code(err) != 1:
		return r, errors.Join(err, unclean)
	case err != nil:
		return r, fault.CannotTest(fault.Hint(err), "%s: %w", l.title, errors.Join(err, unclean))
	}
	// A claim that fails before the world is broken catches nothing.
	r.Pass = r.Refuted == r.Catches && broken == (c != nil)
	if unclean != nil {
		return r, fault.CannotTest("", "cleaning up after %s: %w", l.title, unclean)
	}
	return r, nil
}

// tell goes through the steps and says whether the control's break was made.
func (l *Lab) tell(ctx context.Context, s Scenario, c *Control, r *Result) (broken bool, err error) {
	breakAfter := func(step string) error {
		if c == nil || c.After != step {
			return nil
		}
		broken = true
		if err := c.Break(ctx, l); err != nil {
			return fmt.Errorf("breaking the world: %w", err)
		}
		return nil
	}
	if err := breakAfter(""); err != nil {
		return broken, err
	}
	for _, step := range s.Steps {
		l.at, l.task = step.Name, l.Report.Step(l.title+": "+step.Name)
		result, err := l.step(ctx, step, breakAfter)
		r.Steps = append(r.Steps, result)
		if err != nil {
			l.task.Fail(err)
			var refuted *Refuted
			if !errors.As(err, &refuted) {
				err = fmt.Errorf("step %q: %w", step.Name, err)
			}
			return broken, err
		}
		l.task.Done(result.Evidence.Says)
	}
	return broken, nil
}

// cleanUp runs what was put down for it, last first, and removes the namespace,
// also after ^C.
func (l *Lab) cleanUp(ctx context.Context, keep bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupBound)
	defer cancel()
	for _, f := range slices.Backward(l.cleanups) {
		f()
	}
	if keep || !l.made {
		return nil
	}
	task := l.Report.Step(l.title + ": clean up")
	// Their finalizers run now; the namespace's controller, which comes after
	// 5 s, would else wait another 5 for them.
	err := l.Kube.Delete(ctx, l.applied)
	if err == nil {
		err = l.Kube.DeleteNamespace(ctx, l.Namespace, task.Update)
	}
	if err != nil {
		task.Fail(err)
		return err
	}
	task.Done("removed " + l.Namespace)
	return nil
}

func (l *Lab) step(ctx context.Context, step Step, breakAfter func(string) error) (StepResult, error) {
	result := StepResult{Name: step.Name}
	began := time.Now()
	if step.Change != nil {
		bounded, cancel := context.WithTimeout(ctx, stepBound)
		defer cancel()
		if err := step.Change(bounded, l); err != nil {
			return result, err
		}
	}
	result.Barrier = time.Since(began).Seconds()
	if err := breakAfter(step.Name); err != nil {
		return result, err
	}
	began = time.Now()
	evidence, err := step.Check(ctx, l)
	result.Seconds, result.Evidence, result.Pass = time.Since(began).Seconds(), &evidence, err == nil
	return result, err
}

// freshNamespace makes the run's namespace; one that an interrupted run left
// is removed first, one that is not ours is left alone.
func (l *Lab) freshNamespace(ctx context.Context) error {
	task := l.Report.Step(l.title + ": namespace")
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: l.Namespace, Labels: map[string]string{managedLabel: managedBy}}}
	var old corev1.Namespace
	err := l.Kube.Get(ctx, client.ObjectKeyFromObject(ns), &old)
	switch {
	case err != nil:
		err = client.IgnoreNotFound(err)
	case old.Labels[managedLabel] != managedBy:
		err = fault.CannotTest("remove it, or use another cluster", "it is there and not mllab's")
	default:
		err = l.Kube.DeleteNamespace(ctx, l.Namespace, task.Update)
	}
	if err == nil {
		err = l.Kube.Create(ctx, ns)
	}
	if err != nil {
		err = fmt.Errorf("making namespace %s: %w", l.Namespace, err)
		task.Fail(err)
		return err
	}
	l.made = true
	task.Done(l.Namespace)
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
