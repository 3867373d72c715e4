package kube

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"

	"mllab.local/internal/fault"
)

func TestAContextEndsWhenTheAPIServerHasRefusedConnectionsForAWhile(t *testing.T) {
	for name, tc := range map[string]struct {
		refuses func(after time.Duration) bool
		ends    time.Duration // 0: it does not
	}{
		"it answers":            {func(time.Duration) bool { return false }, 0},
		"it is stopped":         {func(after time.Duration) bool { return after > time.Minute }, 90 * time.Second},
		"it is never there":     {func(time.Duration) bool { return true }, 30 * time.Second},
		"it restarts":           {func(after time.Duration) bool { return after > time.Minute && after < 85*time.Second }, 0},
		"it restarts each 25 s": {func(after time.Duration) bool { return after%(25*time.Second) > 2*time.Second }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				ctx, end := untilGone(t.Context(), func(context.Context) bool { return tc.refuses(time.Since(began)) })
				defer end()
				select {
				case <-ctx.Done():
				case <-time.After(10 * time.Minute):
				}
				took := time.Since(began)
				switch cause := context.Cause(ctx); {
				case tc.ends == 0 && cause != nil:
					t.Errorf("it ended after %s: %v", took, cause)
				case tc.ends > 0 && (!errors.Is(cause, ErrGone) || fault.Code(cause) != 3 || took < tc.ends || took > tc.ends+2*goneEvery):
					t.Errorf("cause %v after %s, want ErrGone after %s", cause, took, tc.ends)
				}
			})
		})
	}
}

func TestWhatIsARefusal(t *testing.T) {
	for want, errs := range map[bool][]error{
		true:  {syscall.ECONNREFUSED, syscall.EHOSTUNREACH},
		false: {nil, syscall.ETIMEDOUT, syscall.ECONNRESET, syscall.EMFILE, context.DeadlineExceeded},
	} {
		for _, err := range errs {
			if got := isRefusal(&net.OpError{Op: "dial", Err: err}); got != want {
				t.Errorf("%v is a refusal: %v", err, got)
			}
		}
	}
}

func TestOnlyAnAddressWithoutAListenerRefuses(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // it accepts nothing: a server that hangs
	if err != nil {
		t.Fatal(err)
	}
	client, err := New(&rest.Config{Host: "https://" + silent.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	if client.refuses(t.Context()) {
		t.Error("a server that hangs refuses")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if client.refuses(ended) {
		t.Error("one that could not be asked refuses")
	}
	if err := silent.Close(); err != nil {
		t.Fatal(err)
	}
	if !client.refuses(t.Context()) {
		t.Error("a port without a listener does not refuse")
	}
}
