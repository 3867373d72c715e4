package scenarios

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mllab.local/internal/split"
)

// What the probes of manifests/scenarios/probes/model.yaml come to: the first
// one of a pod that hangs begins up to a period later, and each then fails by
// its timeout, which is as long.
const (
	unreadyAfter = (1 + 2) * time.Second     // period, failureThreshold timeouts
	killedAfter  = (1 + 5 + 1) * time.Second // the same of liveness, and the grace period
	// On a small busy machine. From the kubelet to the gateway there are the API
	// server, the EndpointSlice, istiod and its push.
	toGateway = 4 * time.Second
	toStart   = 20 * time.Second

	outBound = unreadyAfter + toGateway
)

const (
	costWatched  = outBound + 5*time.Second // after the hang: what goes on failing must be seen to
	restartBound = killedAfter + toStart
)

// hanging is a rotation whose last pod hangs: its probes take it out of the rotation
// and have it restarted, and until then its requests are lost.
type hanging struct {
	rotation
	prober   prober // that sees the loss
	at       time.Time
	restarts int32 // of the pod, before it did
}

func (h *hanging) hung() string { return h.pods[len(h.pods)-1] }

// hang has it, with a new record of the prober.
func (h *hanging) hang(ctx context.Context, l *Session) (err error) {
	if h.restarts, err = l.restarts(ctx, h.hung()); err != nil {
		return err
	}
	h.prober.start(ctx, l, h.request, watchRate)
	err = l.breakPod(ctx, h.hung(), faults{Hang: new(true)})
	h.at = time.Now()
	return err
}

// restarted waits until the pod is out of the rotation, is restarted, and answers
// again, each of which has a bound.
func (h *hanging) restarted(ctx context.Context, l *Session) (Evidence, error) {
	var e Evidence
	note := func(name string) {
		e.Figures = append(e.Figures, Figure{name, time.Since(h.at).Seconds(), "s"})
	}
	err := l.within(ctx, outBound, Readiness, "Pod/"+h.hung()+" out of the rotation", func() (string, error) {
		listed, err := h.has(ctx, l, h.hung())
		if listed {
			return "its EndpointSlice says that it is ready", err
		}
		return "", err
	})
	if err != nil {
		return e, err
	}
	note("out of the rotation")
	err = l.within(ctx, restartBound, Liveness, "a restart of Pod/"+h.hung(), func() (string, error) {
		now, err := l.restarts(ctx, h.hung())
		if now > h.restarts {
			return "", err
		}
		return "no container of it was restarted", err
	})
	if err != nil {
		return e, err
	}
	note("restarted")
	if err := h.comesBack(ctx, l, h.hung(), toStart, Liveness); err != nil {
		return e, err
	}
	note("answers again")
	e.Summary = fmt.Sprintf("out of the rotation %.1f s after it hung, restarted after %.1f s, answering again after %.1f s",
		e.Figures[0].Value, e.Figures[1].Value, e.Figures[2].Value)
	return e, nil
}

// cost watches for longer than the pod's requests may be lost, and judges how many
// were.
func (h *hanging) cost(ctx context.Context, l *Session, alpha float64) (Evidence, error) {
	if err := pause(ctx, time.Until(h.at.Add(costWatched))); err != nil {
		return Evidence{}, err
	}
	e, err := h.prober.lostNone(ctx, l)
	if _, lossy := errors.AsType[*ClaimError](err); err != nil && !lossy {
		return e, err
	}
	err = h.judgeCost(&e, alpha)
	return e, err
}

// judgeCost judges what the watcher lost. Each request that was due until the
// pod was out of the rotation reached it with a chance of one third.
func (h *hanging) judgeCost(e *Evidence, alpha float64) error {
	third := 1 / float64(len(h.pods))
	most, err := split.Claim{N: int(watchRate * outBound.Seconds()), Alpha: alpha, Legs: []split.Leg{
		{Name: "hangs", Share: third}, {Name: "others", Share: 1 - third},
	}}.Regions()
	if err != nil {
		return err
	}
	var last time.Duration // due so long after the hang
	for _, a := range e.Tally.Failed {
		last = max(last, a.Scheduled.Sub(h.at))
	}
	lost := len(e.Tally.Failed)
	e.Figures = []Figure{{"lost", float64(lost), ""}, {"last lost one was due after", last.Seconds(), "s"}, {"longest wait", e.Tally.Max.Seconds(), "s"}}
	e.Summary = fmt.Sprintf("%d of %d watched requests lost, the last one due %.1f s after the hang; the longest wait was %.1f s; accepted: %d lost, due within %s",
		lost, e.Tally.Sent, last.Seconds(), e.Tally.Max.Seconds(), most[0].Hi, outBound)
	if lost > most[0].Hi || last > outBound {
		return refute(Bounds, "%s", e.Summary)
	}
	return nil
}
