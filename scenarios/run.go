package scenarios

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
	"mllab.local/internal/proxy"
)

// requestBound is how long one request may take.
const requestBound = 10 * time.Second

// stepBound is how long one step's change may take to be active.
const stepBound = 6 * time.Minute

// cleanupBound is how long the clean-up of a run may take, even after ^C.
const cleanupBound = 3 * time.Minute

func (env *Env) session(j Job) *Session {
	l := &Session{Env: env, job: j, Namespace: Namespace(j.Scenario.Name)}
	if j.Control != "" {
		l.Namespace += "-" + j.Control
	}
	if env.Evidence != "" {
		l.evidence = filepath.Join(env.Evidence, strings.NewReplacer(", ", "-", " ", "-").Replace(j.result().Title()))
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
	r = j.result()
	used := cpu.begin(ctx)
	l := env.session(j)
	l.keepNamespace = keep
	began := l.now()
	refused := l.keptByOthers(ctx)
	if refused == nil {
		if refused = removeEvidence(l.evidence); refused != nil {
			refused = fmt.Errorf("removing the last run's evidence: %w", refused)
		}
	}
	if refused != nil {
		l.evidence = "" // it is not ours: nothing is written there either
	}
	l.events = openStream(r.Title(), l.evidence, env.Events)
	defer func() {
		r.Seconds, r.CPUSeconds = l.now().Sub(began).Seconds(), used()
		answers, notKept := l.events.soFar()
		r.Answers = answers
		r.Answers = r.Sent()
		err = errors.Join(err, notKept)
		if err != nil {
			r.Pass, r.Error = false, err.Error()
		}
		l.events.emit(r.Event())
		l.events.close()
	}()
	if refused != nil {
		return r, refused
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
	l.Sender = sender
	return l.runIn(ctx, p, c, r,
		func(ctx context.Context) error {
			if err := l.admitted(ctx, p); err != nil {
				return err
			}
			return l.freshNamespace(ctx)
		},
		func(ctx context.Context) error {
			stepsDone()
			return l.cleanUp(ctx)
		})
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
	l.severalModels = p.SeveralModels
	broken := false
	err := open(ctx)
	if err == nil {
		broken, err = l.runSteps(ctx, p, c, &r)
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
		return r, fault.CannotTest(fault.Hint(err), "%s: %w", r.Title(), errors.Join(err, unclean))
	}
	// A claim that fails before the world is broken catches nothing.
	r.Pass = r.Refuted == r.Catches && broken == (c != nil)
	// Nor does one that was caught, if what it had done to the world stays.
	if p.Undo != nil && r.Refuted != "" {
		r.Pass = r.Pass && r.Steps[len(r.Steps)-1].Pass
	}
	if unclean != nil {
		return r, fault.CannotTest("", "cleaning up after %s: %w", r.Title(), unclean)
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
		l.stepName = step.Name
		l.events.begin(step.Name)
		l.lesson = Lesson{Step: i + 1, Steps: len(p.Steps), Name: step.Name, Why: step.Why, WatchFor: step.WatchFor}
		result, err := l.step(ctx, step, breakAfter)
		err = orGone(ctx, err)
		r.Steps = append(r.Steps, result)
		l.events.checked(result, err)
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
	l.stepName = step.Name
	l.events.begin(step.Name)
	l.lesson = Lesson{}
	result, err := l.step(ctx, step, func(string) error { return nil })
	r.Steps = append(r.Steps, result)
	l.events.checked(result, err)
	if err != nil {
		refuted.Reasons = append(refuted.Reasons, step.Name+": "+err.Error())
	}
}

// cleanUp runs what was put down for it, last first, and removes the namespace,
// also after ^C.
func (l *Session) cleanUp(ctx context.Context) error {
	for _, f := range slices.Backward(l.cleanups) {
		f()
	}
	if l.runID == "" || errors.Is(context.Cause(ctx), kube.ErrGone) {
		return nil
	}
	l.events.begin("clean up")
	if l.keepNamespace {
		return l.events.end("kept "+l.Namespace, nil)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupBound)
	defer cancel()
	ctx, end := l.Kube.UntilGone(ctx)
	defer end()
	// Their finalizers run now; the namespace's controller, which comes after
	// 5 s, would else wait another 5 for them.
	err := l.Kube.Delete(ctx, l.applied)
	for _, f := range l.removals {
		err = errors.Join(err, f(ctx))
	}
	if err == nil {
		_, err = removeNamespace(ctx, l.Kube, l.Namespace, runLabel, l.runID, l.events.wait)
	}
	return l.events.end("removed "+l.Namespace, orGone(ctx, err))
}

// orGone returns that the API server is gone, if err came of that.
func orGone(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, kube.ErrGone) {
		return cause
	}
	return err
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
	l.events.wait("") // what the change waited for is there
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
func (l *Session) unlessRefused(ctx context.Context, change Change) error {
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
	l.events.begin("dry run")
	return l.events.end("the cluster takes all objects", p.Admitted(ctx, l))
}
