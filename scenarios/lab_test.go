package scenarios

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"mllab.local/internal/probe"
	"mllab.local/internal/report"
)

// senderFunc is a probe.Sender that knows how many requests came before.
type senderFunc struct {
	sent   int
	answer func(sent int) probe.Answer
}

func (s *senderFunc) Send(context.Context, probe.Request) probe.Answer {
	s.sent++
	return s.answer(s.sent)
}

func TestAnAddressIsMetOnceItsApplicationAnswersWhateverItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &senderFunc{answer: func(sent int) probe.Answer {
			switch {
			case sent <= 3, sent == 10: // not there yet, and one worker of the proxy later than the others
				return probe.Answer{Status: 404, Router: true}
			case sent%2 == 0:
				return probe.Answer{Status: 500, Target: "v2"}
			}
			return probe.Answer{Status: 200, Target: "v2"}
		}}
		l := &Lab{send: s, task: report.Discard().Step("")}
		for range 2 { // the second time it is known
			if err := l.meet(t.Context(), "v2-model"); err != nil {
				t.Fatal(err)
			}
			if want := 10 + inForceStreak; s.sent != want {
				t.Fatalf("asked %d times, want %d", s.sent, want)
			}
		}
		if err := l.meet(t.Context(), "model"); err != nil || s.sent != 10+2*inForceStreak {
			t.Errorf("another name: %v, asked %d times in all", err, s.sent)
		}
	})
}

func TestAnAddressThatIsNeverMetIsLeftToTheSample(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Lab{task: report.Discard().Step(""), send: &senderFunc{answer: func(int) probe.Answer { return probe.Answer{Status: 503, Router: true} }}}
		began := time.Now()
		if err := l.meet(t.Context(), "model"); err != nil || time.Since(began) != meetBound {
			t.Errorf("%v after %s, want none after %s", err, time.Since(began), meetBound)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.meet(ctx, "other"); !errors.Is(err, context.Canceled) {
			t.Errorf("after ^C: %v", err)
		}
	})
}
