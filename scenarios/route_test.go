package scenarios

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"mllab.local/internal/probe"
)

// senderFunc is a probe.Sender that knows how many requests came before.
type senderFunc struct {
	sent   int
	last   probe.Request
	answer func(sent int) probe.Answer
}

func (s *senderFunc) Send(_ context.Context, r probe.Request) probe.Answer {
	s.sent++
	s.last = r
	return s.answer(s.sent)
}

func TestTheGatewayFollowsOnceAllItsWorkersDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &senderFunc{answer: func(sent int) probe.Answer {
			switch {
			case sent <= 3: // not there yet
				return probe.Answer{Status: 404, Router: true}
			case sent == 10: // one worker of the proxy is later than the others
				return probe.Answer{Status: 200, Route: "old"}
			}
			return probe.Answer{Status: 200, Route: "new"}
		}}
		l := &Session{Env: &Env{}, send: s}
		if err := l.follows(t.Context(), "v2-model", "new"); err != nil {
			t.Fatal(err)
		}
		if want := 10 + inForceStreak; s.sent != want {
			t.Errorf("asked %d times, want %d", s.sent, want)
		}
		if r := s.last; !r.Fresh || r.Header.Get("K-Network-Probe") != "probe" || r.Header.Get("K-Network-Hash") != "override" {
			t.Errorf("asked by %+v, which is no probe on a connection of its own", r)
		}
	})
}

func TestAGatewayThatDoesNotFollowIsLeftToTheSample(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Session{Env: &Env{}, send: &senderFunc{answer: func(int) probe.Answer { return probe.Answer{Status: 200, Route: "old"} }}}
		began := time.Now()
		if err := l.follows(t.Context(), "model", "new"); err != nil || time.Since(began) != routedBound {
			t.Errorf("%v after %s, want none after %s", err, time.Since(began), routedBound)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.follows(ctx, "other", "new"); !errors.Is(err, context.Canceled) {
			t.Errorf("after ^C: %v", err)
		}
	})
}

func TestARouteIsInForceOnceTheApplicationAnswersByIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &senderFunc{answer: func(sent int) probe.Answer {
			// The gateway has the route before it knows the endpoints.
			return probe.Answer{Status: 200, Route: "1", Router: sent <= 5}
		}}
		l := &Session{send: s}
		if err := l.inForce(t.Context(), probe.Request{}, "1"); err != nil || s.sent != 5+inForceStreak {
			t.Errorf("%v after %d requests, want %d", err, s.sent, 5+inForceStreak)
		}
	})
}
