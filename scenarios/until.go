package scenarios

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pause returns after d, or with ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// progress says how far a step has come.
func (l *Session) progress(text string) { l.events.wait(text) }

// untilInterval is how often most waits ask.
const untilInterval = 100 * time.Millisecond

// until asks again and again until ready has no reason left why it is not, or
// ctx ends.
func (l *Session) until(ctx context.Context, what string, ready func() string) error {
	return l.untilEvery(ctx, untilInterval, what, ready)
}

// untilEvery is until that asks at this interval, for what is timed by it.
func (l *Session) untilEvery(ctx context.Context, interval time.Duration, what string, ready func() string) error {
	return l.untilError(ctx, interval, what, func() (string, error) { return ready(), nil })
}

// untilError is untilEvery that also ends with an error of ready.
func (l *Session) untilError(ctx context.Context, interval time.Duration, what string, ready func() (string, error)) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		why, err := ready()
		if why == "" || err != nil {
			return err
		}
		l.events.wait("waiting for " + what + ": " + why)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w (last: %s)", what, ctx.Err(), why)
		}
	}
}

// within is until with a bound that is part of a claim: what is not so in time
// refutes it. An error of ready ends it, for then nothing was seen.
func (l *Session) within(ctx context.Context, bound time.Duration, claim Claim, what string, ready func() (string, error)) error {
	bounded, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	why, seen := "", true
	err := l.untilError(bounded, untilInterval, what, func() (_ string, err error) {
		why, err = ready()
		seen = err == nil
		return why, err
	})
	if err != nil && seen && ctx.Err() == nil {
		return refute(claim, "%s: not within %s: %s", what, bound, why)
	}
	return err
}

// timedOut reports whether err is that a limit below ctx's own has passed.
func timedOut(ctx context.Context, err error) bool {
	return ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded)
}

// lasting is a context for what outlives its step, whose own is bounded. It ends
// with the run, or by the function.
func (l *Session) lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancel(context.WithoutCancel(ctx))
	l.cleanup(end)
	return ctx, end
}
