package scenarios

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

const (
	crowd      = 100             // requests that are sent at once
	crowdDelay = 5 * time.Second // until the busy model answers one
	limit      = 10              // requests that the model gets at once
)

// noLimit is what Istio has the gateway go by when a DestinationRule says nothing.
const noLimit = math.MaxUint32

type circuitBreakerStory struct {
	Options
	limit int    // of the DestinationRule that claims one; 0: it says nothing
	pod   string // of the model
}

// circuitBreaker: a crowd reaches a slow model all at once; with a limit the
// gateway refuses the rest of it; who stays below the limit does not notice.
var circuitBreaker = Scenario{
	Name:    "circuit-breaker",
	Summary: "a busy model gets no more requests at once than its limit says",
	Needs:   []string{"istio"},
	New:     newCircuitBreaker,
}

func newCircuitBreaker(o Options) (*Plan, error) {
	s := &circuitBreakerStory{Options: o, limit: limit}
	few := split.Claim{Legs: []split.Leg{{Name: "v1", Share: 1}}, N: o.Requests, Alpha: o.Alpha}
	if err := few.Check(); err != nil {
		return nil, fault.Usage("see `mllab scenario circuit-breaker --help`", "circuit-breaker: %w", err)
	}
	return &Plan{
		Steps: []Step{
			{
				Name: "no limit", Change: s.deploy, Check: s.swamped,
				Why: fmt.Sprintf("The model takes %s to answer, and %d requests come at once. Without a limit it gets all of them: "+
					"a real model would run out of memory, or of time.", crowdDelay, crowd),
				WatchFor: "How many requests the model says that it had at once.",
			},
			{
				Name: "limit", Change: func(ctx context.Context, l *Session) error { return s.route(ctx, l, s.limit) },
				Check: s.limited,
				Why: fmt.Sprintf("The DestinationRule's connection pool gets a limit of %d requests at once. "+
					"The gateway refuses what is over it, and says so with the header x-envoy-overloaded: nobody waits in vain, and a caller may try elsewhere.", limit),
				WatchFor: fmt.Sprintf("%d requests reach the model. The others get 503 at once, and not after %s.", limit, crowdDelay),
			},
			{
				Name:     "below the limit",
				Why:      fmt.Sprintf("The model is quick again, and there are %d callers. The limit is still there.", sampleWorkers),
				WatchFor: "Every request is served: a breaker that is not needed costs nobody anything.",
				Change:   func(ctx context.Context, l *Session) error { return l.breakPod(ctx, s.pod, faults{Delay: "0s"}) },
				Check: func(ctx context.Context, l *Session) (Evidence, error) {
					return l.sample(ctx, l.to("model"), few)
				},
			},
		},
		Controls: []Control{
			{
				Name: "no-limit", Summary: "the DestinationRule has no connection pool where a limit is claimed",
				Break: set(&s.limit, 0), Catches: Overload,
			},
			{
				Name: "too-low", Summary: fmt.Sprintf("the limit is %d where %d is claimed", limit/2, limit),
				Break: set(&s.limit, limit/2), Catches: Overload,
			},
		},
	}, nil
}

// route writes the way to the model, and returns when the gateway goes by it.
func (s *circuitBreakerStory) route(ctx context.Context, l *Session, most int) error {
	r := l.to("model")
	r.URL += "/readyz" // the model is not slow here
	err := l.route(ctx, "circuit-breaker/route.yaml", r, &struct {
		routeState
		Limit int
	}{Limit: most})
	if err != nil {
		return err
	}
	if most == 0 {
		most = noLimit
	}
	want := fmt.Sprintf("outbound|80||model.%s.svc.cluster.local::default_priority::max_requests::%d\n", l.Namespace, most)
	return l.until(ctx, "the gateway's limit", func() string {
		switch clusters, err := l.askGateway(ctx, "/clusters"); {
		case err != nil:
			return err.Error()
		case !strings.Contains(string(clusters), want):
			return "it has another one"
		}
		return ""
	})
}

func (s *circuitBreakerStory) deploy(ctx context.Context, l *Session) error {
	m := model{Name: "model", Version: "v1", Env: map[string]string{"ADMIN_PORT": strconv.Itoa(adminPort), "DELAY": crowdDelay.String()}}
	err := l.deploy(ctx, m)
	if err == nil {
		err = s.route(ctx, l, 0)
	}
	if err == nil {
		s.pod, err = l.podOf(ctx, m.labels())
	}
	return err
}

// swarm sends the crowd's requests at once, and returns which of them the model
// has received.
func (s *circuitBreakerStory) swarm(ctx context.Context, l *Session) ([]probe.Answer, seen, Evidence, error) {
	before, err := l.seenBy(ctx, s.pod, math.MaxInt)
	if err != nil {
		return nil, seen{}, Evidence{}, err
	}
	answers, e, err := l.burstUntil(ctx, l, l.to("model"), crowd, crowd, nil)
	if err != nil {
		return nil, seen{}, e, err
	}
	got, err := l.seenBy(ctx, s.pod, before.Count)
	return answers, got, e, err
}

// swamped shows what the limit is there for.
func (s *circuitBreakerStory) swamped(ctx context.Context, l *Session) (Evidence, error) {
	_, got, e, err := s.swarm(ctx, l)
	if err != nil {
		return e, err
	}
	if err := e.answered(); err != nil {
		return e, err
	}
	most := slices.Max(append(got.AtOnce, 0))
	e.Summary = fmt.Sprintf("%d of %d answered 200; the model had up to %d at once", e.Tally.Sent, e.Tally.Sent, most)
	if most <= 2*limit {
		return e, fault.CannotTest("run it again, with less load", "no crowd reached the model: it had %d requests at once, and %d were sent", most, crowd)
	}
	return e, nil
}

func (s *circuitBreakerStory) limited(ctx context.Context, l *Session) (Evidence, error) {
	workers, err := l.gatewayWorkers(ctx)
	if err != nil {
		return Evidence{}, err
	}
	answers, got, e, err := s.swarm(ctx, l)
	if err != nil {
		return e, err
	}
	return judgeLimit(e, answers, got, workers)
}

// judgeLimit refutes that the model had limit requests at once, and that the
// gateway refused all others before the model can have answered one. A worker of
// Envoy's looks whether there is room, and then takes it: each of the others may
// do so in between, and the limit be passed by one less than there are workers.
// https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/circuit_breaking
func judgeLimit(e Evidence, answers []probe.Answer, got seen, workers int) (Evidence, error) {
	var served, refused []probe.Answer
	var waits []time.Duration
	for _, a := range answers {
		switch {
		case a.OK():
			served = append(served, a)
		case a.Router && a.Status == 503 && a.Shed:
			refused, waits = append(refused, a), append(waits, a.Latency)
		default:
			return e, refute(Overload, "a request was neither served nor refused by the limit: %s (request %s)", a.Problem(), a.ID)
		}
	}
	highest, most := limit+workers-1, slices.Max(append(got.AtOnce, 0))
	slices.Sort(waits)
	e.Summary = fmt.Sprintf("%d of %d served (accepted %d..%d), and %d refused; the model had up to %d at once", len(served), len(answers), limit, highest, len(refused), most)
	reached, passed := received(served, got.IDs), received(refused, got.IDs)
	switch {
	case most > highest:
		return e, refute(Overload, "the limit lets too many through: %s", e.Summary)
	case len(served) < limit || most < limit:
		return e, refute(Overload, "the limit refuses too many: %s", e.Summary)
	case len(served) > highest:
		return e, fault.CannotTest("run it again, with less load", "some requests came when the model had answered others: %s", e.Summary)
	case waits[len(waits)-1] >= crowdDelay:
		return e, refute(Overload, "a request was refused after %s, when the model could have answered it", waits[len(waits)-1])
	case reached.once != len(served) || passed.missing != len(refused):
		return e, refute(Overload, "the model received %d of the %d served requests once, and %d of the %d refused ones", reached.once, len(served), len(refused)-passed.missing, len(refused))
	}
	e.Summary += fmt.Sprintf(", and none of the refused ones; half of these were refused within %s, and the last after %s",
		waits[len(waits)/2].Round(time.Millisecond), waits[len(waits)-1].Round(time.Millisecond))
	return e, nil
}
