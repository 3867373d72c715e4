package scenarios

import (
	"context"
	"fmt"
	"slices"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

// ejection is a rotation one of whose pods fails, until the gateway ejects it. Later
// the pod is well, and gets requests again.
type ejection struct {
	rotation
	at time.Time // the pod's last error
}

// What a gateway's outlier detection is set to.
const (
	errorsInARow = 3                // consecutive5xxErrors: a pod is ejected after them
	ejectBound   = 10 * time.Second // for the gateway to know the rule and to meet so many errors
	ejectionTime = 20 * time.Second // baseEjectionTime
	// The gateway looks every second whether a pod may come back.
	backBound = ejectionTime + time.Second + toGateway
	// ejectRequests at most are sent while a pod is ejected: a longer sample
	// would still run when it comes back.
	ejectRequests = 1000
)

// broken is the one pod that fails, and then is ejected.
func (j *ejection) broken() string { return j.pods[0] }

// fail has the broken pod fail this percentage of its requests.
func (j *ejection) fail(percent float64) Change {
	return func(ctx context.Context, l *Session) error {
		return l.breakPod(ctx, j.broken(), faults{FailPercent: &percent})
	}
}

// without lets the gateway meet the errors that it ejects the pod for, which has
// a bound, and only then looks whether the pod gets one of n requests.
func (j *ejection) without(ctx context.Context, l *Session, n int) (e Evidence, err error) {
	if j.at, err = j.leaves(ctx, l, j.broken(), ejectBound, Ejection); err != nil {
		return e, err
	}
	if j.at.IsZero() {
		return e, fault.CannotTest("", "Pod/%s got no request from the beginning: nothing was ejected", j.broken())
	}
	answers, e, err := l.burst(ctx, l, j.request, min(n, ejectRequests))
	if err != nil {
		return e, err
	}
	got := len(slices.DeleteFunc(slices.Clone(answers), func(a probe.Answer) bool { return a.Pod != j.broken() }))
	e.Summary = fmt.Sprintf("n=%d: %d requests to the ejected pod, %d errors: below %.2f %% with %.0f %% confidence",
		len(answers), got, len(e.Tally.Failed), 100*split.UpperBound(len(e.Tally.Failed), len(answers), confidence), 100*confidence)
	switch {
	case got > 0 && time.Since(j.at) > ejectionTime:
		return e, fault.CannotTest("run it again, with less load", "the sample took longer than a pod is ejected")
	case got > 0:
		return e, refute(Ejection, "%d of %d requests reached Pod/%s, which was ejected", got, len(answers), j.broken())
	}
	err = e.answered()
	return e, err
}

// back waits until the pod gets requests again, and then has each pod answer as
// many as any other.
func (j *ejection) back(ctx context.Context, l *Session, o Options) (Evidence, error) {
	if err := j.comesBack(ctx, l, j.broken(), backBound, Ejection); err != nil {
		return Evidence{}, err
	}
	out := time.Since(j.at).Seconds()
	e, err := j.evenly(o)(ctx, l)
	return e.after(fmt.Sprintf("answers again %.1f s after its last error", out), Figure{"ejected for", out, "s"}), err
}
