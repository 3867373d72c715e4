package scenarios

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/probe"
)

// drawn answers as a router does that draws v2 for a share of the requests.
type drawn struct {
	share    float64
	fails    map[string]float64 // the model's own 500s
	lost     float64            // of all requests are answered by the router, 503
	slow     time.Duration      // v2's answers take so much longer
	mu       sync.Mutex
	random   *rand.Rand
	requests int
}

func (d *drawn) Send(ctx context.Context, _ probe.Request) probe.Answer {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.requests++
	if ctx.Err() != nil {
		return probe.Answer{Err: "no answer: " + ctx.Err().Error()}
	}
	if d.random.Float64() < d.lost {
		return probe.Answer{Status: 503, Router: true, Latency: time.Millisecond}
	}
	a := probe.Answer{Status: 200, Target: "v1", Latency: time.Duration(d.random.ExpFloat64() * float64(5*time.Millisecond))}
	if d.random.Float64() < d.share {
		a.Target = "v2"
		a.Latency += d.slow
	}
	if d.random.Float64() < d.fails[a.Target] {
		a.Status = 500
	}
	return a
}

func TestAGuardEndsTheSampleOfAWorseVersionAndOfNoOther(t *testing.T) {
	half := map[string]float64{"v2": .5}
	for _, tc := range []struct {
		name    string
		world   *drawn
		asleep  bool
		refutes Claim
		early   bool // the sample was ended
		says    string
	}{
		{name: "equal versions", world: &drawn{share: .1}, says: "guard (alpha 1e-06, alarm at E 3e+06): errors E 1 (old 0 of"},
		{name: "v2 fails", world: &drawn{share: .1, fails: half}, refutes: NoWorse, early: true, says: "would have lost about"},
		{name: "v2 is slow", world: &drawn{share: .1, slow: 300 * time.Millisecond}, refutes: NoWorse, early: true, says: "users lost 0 until then"},
		{name: "v2 fails, and the judge is asleep", world: &drawn{share: .1, fails: half}, asleep: true, refutes: Guard, says: "the sample went on for"},
		{name: "both fail alike", world: &drawn{share: .1, fails: map[string]float64{"v1": .5, "v2": .5}}, refutes: Answers, says: "were not answered 200"},
		{name: "v1 fails", world: &drawn{share: .1, fails: map[string]float64{"v1": .5}}, refutes: Answers, says: "were not answered 200"},
		{name: "nobody knows whose the failures are", world: &drawn{share: .1, lost: .5}, refutes: Answers, says: "from a proxy"},
		{name: "v2 gets half of what is claimed to be a tenth", world: &drawn{share: .5}, refutes: Shares, says: "accepted 57..149"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.world.random = rand.New(rand.NewPCG(3, 4))
			s := &guardedStory{canaryStory: &canaryStory{Options: Options{}.withDefaults(), model: &revisions{}}, slow: 15 * time.Millisecond, asleep: tc.asleep}
			l := &Session{Env: &Env{}, Sender: tc.world}
			e, err := s.watched(10)(t.Context(), l)
			var refuted *ClaimError
			if errors.As(err, &refuted); (tc.refutes == "") != (err == nil) || err != nil && (refuted == nil || refuted.Claim != tc.refutes) {
				t.Fatalf("got %v, want claim %q refuted", err, tc.refutes)
			}
			if said := e.Summary + strings.Join(reasons(refuted), " "); !strings.Contains(said, tc.says) {
				t.Errorf("it says %q, want %q in it", said, tc.says)
			}
			if tc.early != (tc.world.requests < s.Requests) || e.Tally.Sent != tc.world.requests || tc.early == s.alarmed.IsZero() {
				t.Errorf("%d of %d requests were sent, %d are on record, alarm at %s", tc.world.requests, s.Requests, e.Tally.Sent, s.alarmed)
			}
		})
	}
}

func TestAnInterruptedGuardIsNoVerdict(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := &guardedStory{canaryStory: &canaryStory{Options: Options{}.withDefaults(), model: &revisions{}}, slow: time.Second}
	l := &Session{Env: &Env{}, Sender: &drawn{random: rand.New(rand.NewPCG(3, 4))}}
	if _, err := s.watched(10)(ctx, l); fault.Code(err) != 130 {
		t.Errorf("%v (exit %d)", err, fault.Code(err))
	}
}

func TestARollbackIsJudgedByWhoAnswersAndNotByWhat(t *testing.T) {
	for _, tc := range []struct {
		name    string
		world   *drawn
		refutes Claim
	}{
		{"all from v1", &drawn{}, ""},
		{"v1 fails as it did before", &drawn{fails: map[string]float64{"v1": .5}}, ""},
		{"v2 still answers", &drawn{share: .01}, Shares},
		{"the router loses some", &drawn{lost: .01}, Shares},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.world.random = rand.New(rand.NewPCG(5, 6))
			s := &guardedStory{canaryStory: &canaryStory{Options: Options{}.withDefaults(), model: &revisions{}}}
			l := &Session{Env: &Env{}, Sender: tc.world}
			s.prober.Watcher = probe.Watch(t.Context(), tc.world, probe.Request{}, 1, nil)
			_, err := s.back(t.Context(), l)
			s.prober.Stop()
			if got := refutedClaim(err); got != tc.refutes || (err == nil) != (tc.refutes == "") {
				t.Errorf("got %v, want claim %q refuted", err, tc.refutes)
			}
		})
	}
}

func TestAGuardedCanaryHasTheCanarysSteps(t *testing.T) {
	plain, err := planned("canary", Options{Weights: []int{5, 25, 100}})
	if err != nil {
		t.Fatal(err)
	}
	guarded, err := planned("canary", Options{Weights: []int{5, 25, 100}, Guard: true})
	if err != nil || len(guarded.Steps) != len(plain.Steps) || guarded.Undo == nil {
		t.Fatalf("%d steps, want %d (%v)", len(guarded.Steps), len(plain.Steps), err)
	}
	for i, step := range guarded.Steps {
		if step.Name != plain.Steps[i].Name {
			t.Errorf("step %d is %q, want %q", i, step.Name, plain.Steps[i].Name)
		}
		if looked := strings.Contains(step.Why, "A judge looks"); looked != strings.Contains(step.Name, "/") {
			t.Errorf("step %q is looked at: %v", step.Name, looked)
		}
	}
	for _, c := range guarded.Controls {
		if c.After != "95/5" {
			t.Errorf("control %s breaks %q, before v1's p95 is known", c.Name, c.After)
		}
	}
}
