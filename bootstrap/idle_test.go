package bootstrap

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"mllab.local/internal/report"
)

func TestABoundFollowsWhatStepsSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := withIdleTimeout(t.Context(), time.Minute)
		defer stop()
		task := progressReporter{report.Discard(), ctx.changed}.Step("git")
		for _, reason := range []string{"pulling", "starting", "0/1 ready"} {
			time.Sleep(50 * time.Second)
			task.Update(reason)
		}
		time.Sleep(50 * time.Second)
		task.Update("starting") // no news: it was said before
		if ctx.Err() != nil {
			t.Fatalf("it ended while something changed: %v", ctx.Err())
		}
		time.Sleep(11 * time.Second)
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Errorf("nothing changed for a minute: %v", ctx.Err())
		}
	})
}

func TestABoundEndsWithItsParent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hard, end := context.WithTimeout(t.Context(), time.Hour)
		defer end()
		ctx, stop := withIdleTimeout(hard, time.Minute)
		defer stop()
		below, cancel := context.WithCancel(ctx)
		defer cancel()
		for ctx.Err() == nil {
			ctx.changed()
			time.Sleep(30 * time.Second)
		}
		<-below.Done()
		if !errors.Is(below.Err(), context.DeadlineExceeded) || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Errorf("the hard bound: %v, below it %v", ctx.Err(), below.Err())
		}
	})
	parent, cancel := context.WithCancel(t.Context())
	ctx, stop := withIdleTimeout(parent, time.Minute)
	defer stop()
	cancel()
	if <-ctx.Done(); !errors.Is(ctx.Err(), context.Canceled) {
		t.Errorf("an interrupt: %v", ctx.Err())
	}
}
