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
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
	"mllab.local/internal/proxy"
	"mllab.local/scenarios/file"
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
	Error    string       `json:"error,omitempty"`   // why nothing could be tested
	Skipped  string       `json:"skipped,omitempty"` // why it was not tried at all
	Seconds  float64      `json:"seconds"`
	// CPUSeconds is the CPU time that the node has used during the run; of what it used for several runs at once each has
	// the same share. 0: not measured.
	CPUSeconds float64 `json:"cpuSeconds,omitempty"`
}

// StepResult is the result of one step. Barrier is the time that its change took to
// be active; what a person took to think is in none of the times.
type StepResult struct {
	Name     string    `json:"name"`
	Pass     bool      `json:"pass"`
	Barrier  float64   `json:"barrierSeconds"`
	Seconds  float64   `json:"seconds"` // of the check
	Evidence *Evidence `json:"evidence,omitempty"`
}

// Err is nil for a pass and for what was skipped, and else what the exit code is
// made from: a claim that does not hold is 1.
func (r Result) Err() error {
	switch {
	case r.Error != "":
		return errors.New(r.Error)
	case r.Pass, r.Skipped != "":
		return nil
	case r.Control == "":
		return fmt.Errorf("%s: claim %q does not hold: %s", r.Scenario, r.Refuted, strings.Join(r.Reasons, "; "))
	case r.Refuted == "":
		return fmt.Errorf("%s: control %s was not caught: every claim held in a broken world", r.Scenario, r.Control)
	}
	if r.Refuted == r.Catches {
		return fmt.Errorf("%s: control %s was caught, but not in a world that it had broken, or what it broke could not be undone: %s", r.Scenario, r.Control, strings.Join(r.Reasons, "; "))
	}
	return fmt.Errorf("%s: control %s was caught for the wrong reason: %q instead of %q: %s", r.Scenario, r.Control, r.Refuted, r.Catches, strings.Join(r.Reasons, "; "))
}

// Requests counts what was sent: requests of samples, and those of a watcher.
func (r Result) Requests() (sampled, watched int) {
	for _, s := range r.Steps {
		switch e := s.Evidence; {
		case e == nil:
		case e.Watch != nil:
			watched += e.Watch.Sent
		case e.Tally != nil:
			sampled += e.Tally.Sent
		}
	}
	return sampled, watched
}

// Verdict is the outcome in one word: PASS, FAIL, ERROR or SKIPPED.
func (r Result) Verdict() string {
	switch {
	case r.Skipped != "":
		return "SKIPPED"
	case r.Error != "":
		return "ERROR"
	case r.Pass:
		return "PASS"
	}
	return "FAIL"
}

// Namespace is where a scenario runs; its controls run in namespaces of their
// own, whose names go on with "-" and the control's.
func Namespace(scenario string) string { return file.NamespacePrefix + scenario }

// requestBound is how long one request may take.
const requestBound = 10 * time.Second

// stepBound is how long one step's change may take to be active.
const stepBound = 6 * time.Minute

// cleanupBound is how long the clean-up of a run may take, even after ^C.
const cleanupBound = 3 * time.Minute

// Labels of every namespace that a run makes. A run removes only what its own
// scenario has made, and at its end only what it has made itself.
const (
	managedLabel  = "app.kubernetes.io/managed-by"
	managedBy     = "mllab"
	scenarioLabel = "mllab.local/scenario"
	runLabel      = "mllab.local/run"
	confinedLabel = "mllab.local/confined" // of a user's scenario: userfile/fence.yaml holds there
)

// Undisturbed is an error when a container of the lab's own pods, and not of a run's, was evicted or has ended since a
// time: what was measured meanwhile was measured on a lab that was not whole. The lab's own namespaces are those of its
// addons and Kubernetes' own.
func Undisturbed(ctx context.Context, k *kube.Client, since time.Time) error {
	list, err := k.Restarts(ctx, isLabs, since)
	if err != nil {
		return fault.CannotTest("", "looking for restarts: %w", err)
	}
	if len(list) > 0 {
		return fault.CannotTest("see `mllab status`, or use a smaller --parallel", "the lab was not whole all the time: %s", strings.Join(list, "; "))
	}
	return nil
}

func isLabs(ns *corev1.Namespace) bool {
	return ns.Name == metav1.NamespaceSystem || ns.Labels[managedLabel] == managedBy && ns.Labels[scenarioLabel] == ""
}

// session begins a run of a scenario, or of one of its controls.
func (env *Env) session(j Job) *Session {
	l := &Session{Env: env, title: Result{Scenario: j.Scenario.Name, Control: j.Control}.Title(), control: j.Control, Namespace: Namespace(j.Scenario.Name)}
	if j.Control != "" {
		l.Namespace += "-" + j.Control
	}
	if env.Evidence != "" {
		l.evidence = filepath.Join(env.Evidence, strings.NewReplacer(", ", "-", " ", "-").Replace(l.title))
	}
	l.rejections = func(ctx context.Context) ([]proxy.Rejection, error) { return proxy.Rejections(ctx, env.Kube) }
	l.flaggerLog = func(ctx context.Context) (string, error) { return flaggerLog(ctx, env.Kube) }
	return l
}

// run runs a job in a fresh namespace, which it removes afterwards unless keep.
// With a control the world is broken on the way, and the result passes when the
// right claim then fails. stepsDone is called after the last step.
//
// The error says why nothing could be tested (fault.CannotTest), or is
// ctx.Err() after ^C; a claim that does not hold is a Result with Pass false. A
// clean-up that fails is an error too, returned with the Result. When ctx ends by
// kube.ErrGone, that is the error, and what the run made stays.
func (j Job) run(ctx context.Context, env *Env, cpu *cpuMeter, keep bool, stepsDone func()) (r Result, err error) {
	r = Result{Scenario: j.Scenario.Name, Control: j.Control}
	used := cpu.begin(ctx)
	l := env.session(j)
	l.stepsDone = stepsDone
	began := l.now()
	unremoved := os.RemoveAll(l.evidence) // of the last run; an empty name is no error
	l.events = openStream(l.title, l.evidence, env.Events)
	defer func() {
		r.Seconds, r.CPUSeconds = l.now().Sub(began).Seconds(), used()
		err = errors.Join(err, l.events.failed())
		if err != nil {
			r.Pass, r.Error = false, err.Error()
		}
		l.events.emit(r.Event())
		l.events.close()
	}()
	if unremoved != nil {
		return r, fmt.Errorf("removing the last run's evidence: %w", unremoved)
	}
	p, err := j.Scenario.plan(j.Options, j.Control)
	if err != nil {
		return r, err
	}
	c, err := p.control(j.Control)
	if err != nil {
		return r, err
	}
	if c != nil {
		r.Catches = c.Catches
	}
	l.events.emit(Event{Type: EventRun, Story: env.story(j, p, c)})
	sender := probe.NewHTTP(requestBound)
	defer sender.Close()
	l.send = sender
	return l.runIn(ctx, p, c, r,
		func(ctx context.Context) error {
			if err := l.admitted(ctx, p); err != nil {
				return err
			}
			return l.freshNamespace(ctx, j.Scenario)
		},
		func(ctx context.Context) error { return l.cleanUp(ctx, keep) })
}

// story returns the description of a run.
func (env *Env) story(j Job, p *Plan, c *Control) *Story {
	s := &Story{Call: env.Call, Scenario: j.Scenario.Name, Summary: j.Scenario.Summary}
	if c != nil {
		s.Control, s.Breaks, s.Catches = c.Name, c.Summary, c.Catches
	}
	for _, step := range p.Steps {
		s.Steps = append(s.Steps, StoryStep{step.Name, step.Why, step.WatchFor})
	}
	return s
}

// runIn is Run in a world that open makes and clean takes away again.
func (l *Session) runIn(ctx context.Context, p *Plan, c *Control, r Result, open, clean func(context.Context) error) (Result, error) {
	broken := false
	err := open(ctx)
	if err == nil {
		broken, err = l.runSteps(ctx, p, c, &r)
	}
	if l.stepsDone != nil {
		l.stepsDone()
	}
	unclean := clean(ctx)

	var refuted *ClaimError
	switch {
	case errors.Is(context.Cause(ctx), kube.ErrGone):
		return r, context.Cause(ctx) // nothing can be removed either
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
	// Nor does one that was caught, if what it had done to the world stays.
	if p.Undo != nil && r.Refuted != "" {
		r.Pass = r.Pass && r.Steps[len(r.Steps)-1].Pass
	}
	if unclean != nil {
		return r, fault.CannotTest("", "cleaning up after %s: %w", l.title, unclean)
	}
	return r, nil
}

// runSteps runs the steps and reports whether the control's break was made.
func (l *Session) runSteps(ctx context.Context, p *Plan, c *Control, r *Result) (broken bool, err error) {
	breakAfter := func(step string) error {
		if c == nil || c.After != step {
			return nil
		}
		broken = true
		l.lesson = Lesson{Name: "control " + c.Name, Why: fmt.Sprintf("Behind the scenario's back: %s. Claim %q must then fail.", c.Summary, c.Catches)}
		if err := l.unlessRefused(ctx, c.Break); err != nil {
			return fmt.Errorf("breaking the world: %w", err)
		}
		return l.teach(ctx, "")
	}
	if err := breakAfter(""); err != nil {
		return broken, err
	}
	for i, step := range p.Steps {
		l.stepName, l.task = step.Name, l.begin(step.Name)
		l.lesson = Lesson{Step: i + 1, Steps: len(p.Steps), Name: step.Name, Why: step.Why, WatchFor: step.WatchFor}
		result, err := l.step(ctx, step, breakAfter)
		if cause := context.Cause(ctx); err != nil && errors.Is(cause, kube.ErrGone) {
			err = cause
		}
		r.Steps = append(r.Steps, result)
		l.task.checked(result, err)
		if err != nil {
			var refuted *ClaimError
			switch {
			case !errors.As(err, &refuted):
				err = fmt.Errorf("step %q: %w", step.Name, err)
			case p.Undo != nil:
				l.undo(ctx, *p.Undo, r, refuted)
			}
			return broken, err
		}
	}
	return broken, nil
}

// undo takes a step back after a claim was refuted, and adds to the reasons
// when that does not work either.
func (l *Session) undo(ctx context.Context, step Step, r *Result, refuted *ClaimError) {
	l.stepName, l.task = step.Name, l.begin(step.Name)
	l.lesson = Lesson{}
	result, err := l.step(ctx, step, func(string) error { return nil })
	r.Steps = append(r.Steps, result)
	l.task.checked(result, err)
	if err != nil {
		refuted.Reasons = append(refuted.Reasons, step.Name+": "+err.Error())
	}
}

// cleanUp runs what was put down for it, last first, and removes the namespace,
// also after ^C.
func (l *Session) cleanUp(ctx context.Context, keep bool) error {
	for _, f := range slices.Backward(l.cleanups) {
		f()
	}
	if keep || !l.namespaceCreated || errors.Is(context.Cause(ctx), kube.ErrGone) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupBound)
	defer cancel()
	ctx, end := l.Kube.UntilGone(ctx)
	defer end()
	task := l.begin("clean up")
	// Their finalizers run now; the namespace's controller, which comes after
	// 5 s, would else wait another 5 for them.
	err := l.Kube.Delete(ctx, l.applied)
	for _, f := range l.removals {
		err = errors.Join(err, f(ctx))
	}
	if err == nil {
		_, err = removeNamespace(ctx, l.Kube, l.Namespace, runLabel, l.runID, task.Update)
	}
	if err != nil {
		if errors.Is(context.Cause(ctx), kube.ErrGone) {
			err = context.Cause(ctx)
		}
		task.fail(err)
		return err
	}
	task.done("removed " + l.Namespace)
	return nil
}

func (l *Session) step(ctx context.Context, step Step, breakAfter func(string) error) (StepResult, error) {
	result := StepResult{Name: step.Name}
	began := l.now()
	if step.Change != nil {
		bounded, cancel := context.WithTimeout(ctx, stepBound)
		if l.Teach != nil { // a person has as long as they need
			bounded, cancel = context.WithCancel(ctx)
		}
		defer cancel()
		if err := l.unlessRefused(bounded, step.Change); err != nil {
			return result, err
		}
	}
	result.Barrier = l.now().Sub(began).Seconds()
	l.events.emit(Event{Type: EventActive, Seconds: result.Barrier})
	if err := l.teach(ctx, ""); err != nil { // of a step that applies nothing
		return result, err
	}
	if err := breakAfter(step.Name); err != nil {
		return result, err
	}
	l.task.Update("") // what the change waited for is there
	began = l.now()
	evidence, err := step.Check(ctx, l)
	if err == nil {
		err = l.checkInterference(ctx)
	}
	result.Seconds, result.Evidence, result.Pass = l.now().Sub(began).Seconds(), &evidence, err == nil
	return result, err
}

// refusalEvery is how often the proxies are asked while a change waits. Most changes are active before the first time.
const refusalEvery = 5 * time.Second

// unlessRefused returns change's error. When the gateway, or a proxy of the run's namespace, refuses its configuration
// meanwhile, and still does when asked again, no wait can end well: the change is stopped, and the error says who refuses
// what and why.
func (l *Session) unlessRefused(ctx context.Context, change func(context.Context, *Session) error) error {
	watched, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		tick := time.NewTicker(refusalEvery)
		defer tick.Stop()
		var last proxy.Rejection
		for {
			select {
			case <-tick.C:
			case <-watched.Done():
				return
			}
			now := l.refusal(watched)
			if now.Reason != "" && now.Reason == last.Reason && now.Proxy == last.Proxy {
				stop(fault.CannotTest(now.Hint(), "%w", now))
				return
			}
			last = now
		}
	}()
	err := change(watched, l)
	var refused proxy.Rejection
	if cause := context.Cause(watched); err != nil && errors.As(cause, &refused) {
		return cause
	}
	return err
}

// refusal returns the first rejection that concerns the run. It returns one without a reason if there is none, or if istiod
// does not answer.
func (l *Session) refusal(ctx context.Context) proxy.Rejection {
	list, err := l.rejections(ctx)
	if err != nil {
		return proxy.Rejection{}
	}
	for _, r := range list {
		if r.OfGateway() || r.InNamespace(l.Namespace) {
			return r
		}
	}
	return proxy.Rejection{}
}

// admitted returns when the cluster would take what the plan applies.
func (l *Session) admitted(ctx context.Context, p *Plan) error {
	if p.Admitted == nil {
		return nil
	}
	task := l.begin("dry run")
	if err := p.Admitted(ctx, l); err != nil {
		task.fail(err)
		return err
	}
	task.done("the cluster takes all objects")
	return nil
}

// freshNamespace makes the run's namespace; one that an interrupted run left
// is removed first, one that the scenario has not made is left alone.
func (l *Session) freshNamespace(ctx context.Context, s Scenario) error {
	task := l.begin("namespace")
	l.runID = uuid.NewString()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: l.Namespace, Labels: map[string]string{
		managedLabel: managedBy, scenarioLabel: s.Name, runLabel: l.runID,
	}}}
	if s.SidecarInjection {
		ns.Labels["istio-injection"] = "enabled"
	} else if s.Untrusted || s.Baseline {
		// Not in the mesh, where only confine judges: Istio's init container needs
		// NET_ADMIN, which no level but "privileged" allows.
		// https://kubernetes.io/docs/concepts/security/pod-security-standards/
		ns.Labels["pod-security.kubernetes.io/enforce"] = "baseline"
	}
	if s.Untrusted {
		ns.Labels[confinedLabel] = "true"
	}
	_, err := removeNamespace(ctx, l.Kube, l.Namespace, scenarioLabel, s.Name, task.Update)
	if err == nil {
		if err = l.Kube.Create(ctx, ns); err != nil {
			err = fmt.Errorf("making namespace %s: %w", l.Namespace, err)
		} else {
			l.namespaceCreated = true
		}
	}
	if err == nil && s.Untrusted {
		l.task = task
		err = l.confine(ctx)
	}
	if err != nil {
		task.fail(err)
		return err
	}
	task.done(l.Namespace)
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Job is one run that is asked for.
type Job struct {
	Scenario Scenario
	Options  Options
	Control  string // empty: the scenario itself
}

// alone reports whether no other job may run in parallel with it.
func (j Job) alone() bool {
	return j.Scenario.Serial && (j.Control == "" || !j.Scenario.ParallelControls)
}

// RunAll runs every job, up to workers of them at a time; those that must not
// run in parallel come last, one by one. After its last step a run makes room for
// the next one and cleans up meanwhile: most of that is waiting. A job that fails
// does not stop the others, only the end of ctx or of the API server does. The last
// event of each run has its Result, also of a job that was not begun. The error is
// ^C's, or else the first one that kept something from being tested.
func RunAll(ctx context.Context, env *Env, jobs []Job, keep bool, workers int) error {
	ctx, end := env.Kube.UntilGone(ctx)
	defer end()
	cpu := newCPUMeter(env.CPU)
	_, err := runAll(ctx, jobs, workers, env.Events, func(j Job, stepsDone func()) (Result, error) {
		return j.run(ctx, env, cpu, keep, stepsDone)
	})
	return err
}

func runAll(ctx context.Context, jobs []Job, workers int, events func(Event), run func(j Job, stepsDone func()) (Result, error)) ([]Result, error) {
	results, errs := make([]Result, len(jobs)), make([]error, len(jobs))
	runThose := func(serial bool, workers int) {
		var running sync.WaitGroup
		defer running.Wait()
		room := make(chan struct{}, workers)
		for i, j := range jobs {
			if j.alone() != serial {
				continue
			}
			room <- struct{}{}
			stepsDone := sync.OnceFunc(func() { <-room })
			running.Go(func() {
				defer stepsDone()
				if ctx.Err() != nil {
					results[i], errs[i] = j.notBegun(context.Cause(ctx))
					if events != nil {
						events(results[i].Event())
					}
					return
				}
				results[i], errs[i] = run(j, stepsDone)
			})
		}
	}
	runThose(false, workers)
	runThose(true, 1)
	var first error
	for _, err := range errs {
		switch {
		case errors.Is(err, context.Canceled):
			return results, err
		case first == nil:
			first = err
		}
	}
	return results, first
}

// notBegun is the result of a job whose turn came after the end of the context.
func (j Job) notBegun(ended error) (Result, error) {
	r := Result{Scenario: j.Scenario.Name, Control: j.Control}
	err := fmt.Errorf("not begun: %w", ended)
	r.Error = err.Error()
	if errors.Is(ended, context.Canceled) {
		return r, err
	}
	return r, fault.CannotTest("", "%s: %w", j.Scenario.Name, err)
}

// Reset removes what runs of a scenario and its controls left, with --keep or
// killed, and returns the namespaces it removed, in order and with an error
// too. A run does that by itself before it begins.
func Reset(ctx context.Context, c *kube.Client, scenario string, reason func(string)) ([]string, error) {
	var all corev1.NamespaceList
	if err := c.List(ctx, &all, client.MatchingLabels{scenarioLabel: scenario}); err != nil {
		return nil, fmt.Errorf("looking for namespaces of scenario %s: %w", scenario, err)
	}
	removed := make([]string, len(all.Items))
	var g errgroup.Group
	for i, ns := range all.Items {
		g.Go(func() error {
			there, err := removeNamespace(ctx, c, ns.Name, scenarioLabel, scenario, reason)
			if there {
				removed[i] = ns.Name
			}
			return err
		})
	}
	err := g.Wait()
	slices.Sort(removed)
	return slices.DeleteFunc(removed, func(name string) bool { return name == "" }), err
}

// removeNamespace removes a namespace whose label has this value, and says
// whether it was there. Any other is left alone, which is an error.
func removeNamespace(ctx context.Context, c *kube.Client, name, label, value string, reason func(string)) (bool, error) {
	var ns corev1.Namespace
	err := c.Get(ctx, client.ObjectKey{Name: name}, &ns)
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case err == nil && ns.Labels[label] != value:
		return false, fault.CannotTest("remove it, or give the scenario another name",
			"namespace %s must have label %s=%s to be removed, got %q: it was made by something else", name, label, value, ns.Labels[label])
	case err == nil:
		err = c.DeleteNamespace(ctx, name, reason)
	}
	if err != nil {
		return false, fmt.Errorf("removing namespace %s: %w", name, err)
	}
	return true, nil
}
