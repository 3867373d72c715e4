package kube

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"

	"mllab.local/internal/fault"
)

// ErrGone is the cause of a context of UntilGone that the API server has ended. Its exit code is 3.
var ErrGone = fault.CannotTest("`mllab up` starts it again", "the lab's API server does not run: it has refused every connection for %s", goneAfter)

const (
	goneAfter = 30 * time.Second
	goneEvery = 2 * time.Second // how often the API server is looked for
)

// UntilGone returns a context that ends with ctx, by the function, or with cause ErrGone when the API server has refused
// connections for 30 s on end, as that of a stopped node does. A server that is slow or does not answer does not refuse.
func (c *Client) UntilGone(ctx context.Context) (context.Context, context.CancelFunc) {
	return untilGone(ctx, c.refuses)
}

func untilGone(ctx context.Context, refuses func(context.Context) bool) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	last := time.Now() // when it did not refuse
	go wait.PollUntilContextCancel(ctx, goneEvery, false, func(ctx context.Context) (gone bool, _ error) {
		if !refuses(ctx) {
			last = time.Now()
		} else if gone = time.Since(last) >= goneAfter; gone {
			end(ErrGone)
		}
		return gone, nil
	})
	return ctx, func() { end(nil) }
}

// refuses reports whether nothing listens at the API server's address.
func (c *Client) refuses(ctx context.Context) bool {
	at, _, err := rest.DefaultServerUrlFor(c.config)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, goneEvery)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", at.Host)
	if err == nil {
		_ = conn.Close() // the API server does not log a connection that asks nothing
	}
	return isRefusal(err)
}

// isRefusal reports whether err is a kernel's "no": nothing listens there, or the engine still forwards the port to a node
// that is gone.
func isRefusal(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH)
}
