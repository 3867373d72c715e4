package addons

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	pollEvery = 100 * time.Millisecond
	// verifyLimit bounds one use of a ready addon while no pod comes further (see
	// patiently). Right after a start webhooks and proxies follow their Deployments
	// by seconds.
	verifyLimit = 90 * time.Second
)

// poll calls try until it returns nil, at most verifyLimit long. Its error is
// try's last, which also goes to reason.
func poll(ctx context.Context, reason func(string), what string, try func(ctx context.Context) error) error {
	return pollFor(ctx, verifyLimit, reason, what, try)
}

// pollFor is poll with a limit of its own.
func pollFor(ctx context.Context, limit time.Duration, reason func(string), what string, try func(ctx context.Context) error) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, pollEvery, limit, true, func(pctx context.Context) (bool, error) {
		err := try(pctx)
		if err == nil {
			return true, nil
		}
		if pctx.Err() == nil || last == nil { // else it only says that the time is over
			last = err
		}
		reason(what + ": " + oneLine(last))
		return false, nil
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w (last: %s)", what, ctx.Err(), oneLine(last))
	}
	return &lateError{what, limit, last}
}

// lateError says that something was not so within its limit.
type lateError struct {
	what  string
	limit time.Duration
	last  error
}

func (e *lateError) Error() string {
	return fmt.Sprintf("%s: timeout after %s (last: %v)", e.what, e.limit, e.last)
}
func (e *lateError) Unwrap() error { return e.last }

// patiently calls do again when it was late and the cluster came further meanwhile: a busy machine needs longer for all,
// and verifyLimit is for one on which nothing moves. ctx is the bound of all calls together.
func patiently(ctx context.Context, progress func(context.Context) (string, error), say func(string), do func() error) error {
	for {
		before, unknown := progress(ctx)
		err := do()
		if !errors.As(err, new(*lateError)) || unknown != nil || ctx.Err() != nil {
			return err
		}
		if after, unknown := progress(ctx); unknown != nil || after == before {
			return err
		}
		say("the cluster still comes up: " + oneLine(err))
	}
}

func oneLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
