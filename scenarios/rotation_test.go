package scenarios

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mllab.local/internal/probe"
)

// answering is a Sender that calls f with the number of the request.
type answering func(n int64) probe.Answer

type numbered struct {
	answering
	n atomic.Int64
}

func (s *numbered) Send(context.Context, probe.Request) probe.Answer { return s.answering(s.n.Add(1)) }

func answersOf(t *testing.T, f answering) *Session {
	l := gateway(t, "v1")
	l.Sender = &numbered{answering: f}
	return l
}

func from(pod string) probe.Answer {
	return probe.Answer{Status: http.StatusOK, Target: "v1", Pod: pod}
}

// refutes says which claim err refutes: "" for none.
func refutedClaim(err error) Claim {
	var refuted *ClaimError
	if errors.As(err, &refuted) {
		return refuted.Claim
	}
	return ""
}

func TestABoundThatIsNotHeldRefutesItsClaim(t *testing.T) {
	l := gateway(t, "v1")
	err := l.within(t.Context(), time.Millisecond, Liveness, "a restart", func() (string, error) { return "none yet", nil })
	if refutedClaim(err) != Liveness {
		t.Errorf("got %v", err)
	}
	n := 0
	err = l.within(t.Context(), time.Minute, Liveness, "a restart", func() (string, error) {
		n++
		return map[bool]string{true: "none yet"}[n < 3], nil
	})
	if err != nil || n != 3 {
		t.Errorf("got %v after %d looks", err, n)
	}
}

func TestWhatCouldNotBeSeenRefutesNothing(t *testing.T) {
	l := gateway(t, "v1")
	blind := errors.New("the API server is away")
	err := l.within(t.Context(), time.Minute, Liveness, "a restart", func() (string, error) { return "", blind })
	if !errors.Is(err, blind) || refutedClaim(err) != "" {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = l.within(ctx, time.Minute, Liveness, "a restart", func() (string, error) { return "none yet", nil })
	if !errors.Is(err, context.Canceled) || refutedClaim(err) != "" {
		t.Errorf("after ^C: %v", err)
	}
}

func TestAPodHasLeftAfterAStreakOfOthers(t *testing.T) {
	l := answersOf(t, func(n int64) probe.Answer {
		if n == 3 || n == outStreak { // the second one ends a streak that is almost there
			return from("m-a")
		}
		return from("m-b")
	})
	last, err := (rotation{}).leaves(t.Context(), l, "m-a", time.Minute, Readiness)
	if sent := l.Sender.(*numbered).n.Load(); err != nil || last.IsZero() || sent != 2*outStreak {
		t.Errorf("got %v after %d requests, last answer %v", err, sent, last)
	}
	// Neither a pod that answers nor requests without an answer are a streak.
	for _, a := range []probe.Answer{from("m-a"), {Err: "no answer"}} {
		l := answersOf(t, func(int64) probe.Answer { return a })
		if _, err := (rotation{}).leaves(t.Context(), l, "m-a", time.Millisecond, Readiness); refutedClaim(err) != Readiness {
			t.Errorf("%+v: got %v", a, err)
		}
	}
}

func TestAPodIsBackWhenItAnswers200(t *testing.T) {
	l := answersOf(t, func(n int64) probe.Answer {
		if n == 4 {
			return from("m-a")
		}
		return from("m-b")
	})
	if err := (rotation{}).comesBack(t.Context(), l, "m-a", time.Minute, Ejection); err != nil {
		t.Error(err)
	}
	l = answersOf(t, func(int64) probe.Answer { return probe.Answer{Status: 500, Target: "v1", Pod: "m-a"} })
	if err := (rotation{}).comesBack(t.Context(), l, "m-a", time.Millisecond, Ejection); refutedClaim(err) != Ejection {
		t.Errorf("got %v", err)
	}
}

func TestASampleByPodIsJudgedByWhichPodAnswered(t *testing.T) {
	pods := []string{"m-a", "m-b", "m-c"}
	for _, tc := range []struct {
		name    string
		answers answering
		refutes Claim
	}{
		{"a third each", func(n int64) probe.Answer { return from(pods[n%3]) }, ""},
		{"one gets nothing", func(n int64) probe.Answer { return from(pods[n%2]) }, Shares},
		{"an unknown pod", func(n int64) probe.Answer { return from(append(pods, "m-d")[n%4]) }, Shares},
		{"an error", func(n int64) probe.Answer {
			if n == 7 {
				return probe.Answer{Status: 503, Router: true}
			}
			return from(pods[n%3])
		}, Answers},
	} {
		e, err := answersOf(t, tc.answers).sampleByPod(t.Context(), probe.Request{}, evenly(pods, 600, 1e-6), Shares)
		if got := refutedClaim(err); got != tc.refutes || (err == nil) != (tc.refutes == "") {
			t.Errorf("%s: got %v", tc.name, err)
		}
		if e.Summary == "" {
			t.Errorf("%s: it says nothing", tc.name)
		}
	}
}

func TestAPersonSeesWhatThePodsAreToldBeforeTheyAre(t *testing.T) {
	left := errors.New("the person left")
	l := gateway(t, "v1") // which has no cluster: telling a pod would panic
	said := ""
	l.Teach = func(_ context.Context, lesson Lesson) error { said = lesson.Change; return left }
	yes := true
	if err := l.breakPods(t.Context(), []string{"m-a", "m-b"}, faults{Hang: &yes}); !errors.Is(err, left) {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{`{"hang":true}`, "m-a", "m-b"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not in %q", want, said)
		}
	}
}
