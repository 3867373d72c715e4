package scenarios

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/probe"
)

// seldom is an interval at which Flux does not look in the course of a run.
const seldom = "1h"

// fluxSettings fill gitops/flux.yaml in.
type fluxSettings struct {
	Namespace, Path string
	Poll            string // how often Flux looks at the repository by itself
	Every           string // how often Flux puts back what differs from Git
	Asked           bool   // after a push the lab's Git may ask Flux to look
	Suspended       bool
}

// fluxStatus is Flux's status of the run's folder.
type fluxStatus struct {
	applied, attempted string // revisions, such as "main@sha1:…"
	compared           string // when it last compared the cluster with Git
	ready              string // "True", "False" or "Unknown"
	why                string // why it is not ready
	source             string // status of the repository
	suspended          bool
}

func (s fluxStatus) String() string {
	words := []string{"GitRepository/lab: " + s.source}
	switch {
	case s.suspended:
		words = append(words, "Kustomization/model: suspended")
	case s.ready != "True":
		words = append(words, "Kustomization/model: "+s.why)
	}
	return strings.Join(append(words, "applied is "+s.applied), "; ")
}

// configure has Flux follow the folder as f.flux says.
func (f *followed) configure(ctx context.Context, apply func(context.Context, ...*unstructured.Unstructured) error) error {
	objs, err := render("gitops/flux.yaml", f.flux)
	if err != nil {
		return err
	}
	return apply(ctx, objs...)
}

// suspend is a control's break: Flux follows nothing any more.
func (f *followed) suspend(ctx context.Context, l *Session) error {
	f.flux.Suspended = true
	return f.configure(ctx, l.write) // it is never ready again
}

func (f *followed) ask(ctx context.Context, l *Session) (s fluxStatus, err error) {
	source, err := l.live(ctx, l.object("source.toolkit.fluxcd.io/v1", "GitRepository", "lab"))
	if err != nil {
		return s, err
	}
	_, s.source = conditionOf(source, "Ready")
	o, err := l.live(ctx, l.object("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "model"))
	if err != nil {
		return s, err
	}
	s.applied, _, _ = unstructured.NestedString(o.Object, "status", "lastAppliedRevision")
	s.attempted, _, _ = unstructured.NestedString(o.Object, "status", "lastAttemptedRevision")
	s.suspended, _, _ = unstructured.NestedBool(o.Object, "spec", "suspend")
	s.ready, s.why = conditionOf(o, "Ready")
	if history, _, _ := unstructured.NestedSlice(o.Object, "status", "history"); len(history) > 0 {
		newest, _ := history[0].(map[string]any)
		s.compared, _ = newest["lastReconciled"].(string)
	}
	return s, nil
}

// hasNewest reports whether a revision is the newest commit or a later one: others
// push to the same branch.
func (f *followed) hasNewest(ctx context.Context, revision string) (bool, error) {
	_, hash, found := strings.Cut(revision, "@sha1:")
	if !found || revision == f.staleRevision {
		return false, nil
	}
	there, err := f.repo.Holds(ctx, hash, f.newest.commit)
	if err == nil && !there {
		f.staleRevision = revision
	}
	return there, err
}

// waitForFlux reads Flux's status until enough returns no reason to wait. If the
// newest commit's time limit passes first, it returns a refutation with the last
// status, or an error if it could not read the status.
func (f *followed) waitForFlux(ctx context.Context, l *Session, bound time.Duration, what string, enough func(ctx context.Context, s fluxStatus) (string, error)) error {
	bounded, cancel := context.WithDeadline(ctx, f.newest.began.Add(bound))
	defer cancel()
	var last fluxStatus
	var askErr error
	err := l.until(bounded, what, func() string {
		s, err := f.ask(bounded, l)
		why := ""
		if err == nil {
			why, err = enough(bounded, s)
		}
		if bounded.Err() != nil {
			return cmp.Or(why, "the time is up")
		}
		if askErr = err; err != nil {
			return err.Error()
		}
		last, f.newest.applied = s, s.applied
		return why
	})
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case askErr != nil:
		return fmt.Errorf("%s: %w", what, askErr)
	}
	return f.late(bound, last.String())
}

// late refutes that the newest commit was in time.
func (f *followed) late(bound time.Duration, why string) error {
	return refute(Delivery, "commit %s (%s) is not active %s after it was begun: %s", f.newest.short(), f.newest.message, bound, why)
}

// blame returns the refutation by Flux's status, where err is that a limit has
// passed, and else err.
func (f *followed) blame(ctx context.Context, l *Session, err error, refutation func(status string) error) error {
	if !timedOut(ctx, err) {
		return err
	}
	status, askErr := f.ask(ctx, l)
	if askErr != nil {
		return fmt.Errorf("%w, and Flux cannot be asked why: %w", err, askErr)
	}
	return refutation(status.String())
}

func (f *followed) applied(ctx context.Context, l *Session, bound time.Duration) error {
	return f.waitForFlux(ctx, l, bound, "Flux to apply "+f.newest.short(), func(ctx context.Context, s fluxStatus) (string, error) {
		there, err := f.hasNewest(ctx, s.applied)
		if there {
			return "", err
		}
		return s.String(), err
	})
}

// removed returns when Flux has removed an object that the newest commit does not
// have any more, and notes how long that took.
func (f *followed) removed(ctx context.Context, l *Session, o *unstructured.Unstructured) error {
	what := o.GetKind() + "/" + o.GetName()
	err := f.waitForFlux(ctx, l, deliveryBound, "Flux to remove "+what, func(ctx context.Context, now fluxStatus) (string, error) {
		_, err := l.live(ctx, o)
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		return "it is still there; " + now.String(), err
	})
	if err == nil {
		f.newest.activeAfter = time.Since(f.newest.began)
	}
	return err
}

// refusal returns why Flux cannot apply the newest commit, or nothing when it has.
func (f *followed) refusal(ctx context.Context, l *Session) (why string, err error) {
	err = f.waitForFlux(ctx, l, deliveryBound, "Flux to judge "+f.newest.short(), func(ctx context.Context, now fluxStatus) (string, error) {
		tried, err := f.hasNewest(ctx, now.attempted)
		if err != nil || !tried || now.ready == "Unknown" {
			return now.String(), err
		}
		if why = ""; now.ready == "False" {
			why = "Flux: " + now.why
		}
		return "", nil
	})
	return why, err
}

// neverReady returns why the Service of the newest commit, which Flux can apply,
// does not get ready, or nothing when it does.
func (f *followed) neverReady(ctx context.Context, l *Session) (string, error) {
	if err := f.applied(ctx, l, deliveryBound); err != nil {
		return "", err
	}
	bounded, cancel := context.WithDeadline(ctx, f.newest.began.Add(deliveryBound))
	defer cancel()
	err := l.Kube.Wait(bounded, []*unstructured.Unstructured{l.service()}, l.events.wait)
	switch {
	case err == nil || ctx.Err() != nil:
		return "", err
	case timedOut(ctx, err):
		return "", refute(Refusal, "commit %s (%s) does not get ready, and after %s nobody says why: %v", f.newest.short(), f.newest.message, deliveryBound, err)
	}
	return "Flux applied it, and Knative: " + oneLine(err.Error()), nil
}

// compared returns when Flux has just compared the cluster with Git.
func (f *followed) compared(ctx context.Context, l *Session) error {
	before, err := f.ask(ctx, l)
	if err != nil {
		return err
	}
	return l.until(ctx, "Flux to compare", func() string {
		now, err := f.ask(ctx, l)
		if err != nil {
			return err.Error()
		}
		if now.compared == before.compared || now.ready != "True" {
			return "it last did at " + now.compared
		}
		return ""
	})
}

// ready returns when Flux has applied the newest commit, and the Service and
// more objects that came of it are ready.
func (f *followed) ready(ctx context.Context, l *Session, more ...*unstructured.Unstructured) error {
	if err := f.applied(ctx, l, f.bound); err != nil {
		return err
	}
	if err := f.settled(ctx, l, f.newest.began, more...); err != nil {
		return err
	}
	if f.newest.activeAfter == 0 {
		f.newest.activeAfter = time.Since(f.newest.began)
	}
	return nil
}

// settled returns when the Service and more objects are ready, which must be
// within the bound of what was begun then.
func (f *followed) settled(ctx context.Context, l *Session, began time.Time, more ...*unstructured.Unstructured) error {
	bounded, cancel := context.WithDeadline(ctx, began.Add(f.bound))
	defer cancel()
	err := l.wait(bounded, append(more, l.service())...)
	if timedOut(ctx, err) {
		return f.late(f.bound, err.Error())
	}
	if err != nil {
		return err
	}
	f.generation, err = l.generation(ctx)
	return err
}

// answeredBy returns when the newest commit has all answers come from one
// version, and notes how long that took.
func (f *followed) answeredBy(ctx context.Context, l *Session, version string) error {
	first, err := l.firstOf(ctx, l.to(serviceName), version, f.newest.began.Add(f.bound))
	if err != nil {
		return f.blame(ctx, l, err, func(status string) error { return f.late(f.bound, status) })
	}
	f.newest.activeAfter = first.Sub(f.newest.began)
	return nil
}

// firstOf returns when the first answer of a version came that inForceStreak
// others of it followed, each on a fresh connection. It asks every 20 ms, until
// the deadline.
func (l *Session) firstOf(ctx context.Context, r probe.Request, version string, deadline time.Time) (time.Time, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	r.Fresh = true
	var first time.Time
	err := l.untilEvery(ctx, 20*time.Millisecond, "answers of "+version, func() string {
		for streak := range inForceStreak + 1 {
			a := l.Send(ctx, r)
			if !a.OK() || a.Target != version {
				return fmt.Sprintf("answered by %q (%s)", a.Target, cmp.Or(a.Problem(), "200"))
			}
			if streak == 0 {
				first = a.Sent.Add(a.Latency)
			}
		}
		return ""
	})
	return first, err
}
