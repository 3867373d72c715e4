package scenarios

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/split"
	"mllab.local/sampleapp/api"
)

// What the routes and pods of the story are set to.
const (
	slowAnswer   = 6 * time.Second        // of a slow model
	routeTimeout = 500 * time.Millisecond // of the route
	// A caller of a busy machine waits a little longer than the timeout.
	waitBound = routeTimeout + 4*time.Second

	flakyShare   = 0.3 // of a flaky model's answers are 500s
	routeRetries = 2   // of the route

	// slowRequests are one round of a sample's workers: each shows the same.
	slowRequests = sampleWorkers
	// boundedRequests take three seconds, at half a second for each round.
	boundedRequests = 6 * sampleWorkers
)

type resilienceStory struct {
	Options
	ejection
	timed, retrying, ejecting routing // those that claim something
}

// resilience: a timeout bounds the caller's wait, retries its errors, and
// outlier detection takes a broken replica out of the rotation. Each is seen
// without first.
var resilience = Scenario{
	Name:    "resilience",
	Summary: "timeouts, retries and outlier detection bound what a caller suffers",
	Needs:   []string{"istio"},
	Serial:  true,
	New:     newResilience,
}

func newResilience(o Options) (*Plan, error) {
	s := &resilienceStory{
		Options: o, timed: routing{Timeout: istioSeconds(routeTimeout)}, retrying: routing{Retries: routeRetries}, ejecting: routing{Ejection: istioSeconds(ejectionTime)},
	}
	if err := enough("resilience", evenly([]string{"a", "b", "c"}, o.Requests, o.Alpha), errorClaim(flakyShare, o.Requests, o.Alpha)); err != nil {
		return nil, err
	}
	return &Plan{
		Steps: []Step{
			{
				Name:     "three pods serve",
				Why:      "Three pods stand behind one Service, and the gateway picks one of them at random for each request.",
				WatchFor: "Each pod answers a third.", Change: s.serve, Check: s.evenly(o),
			},
			{
				Name:     "slow, no timeout",
				Why:      fmt.Sprintf("Every pod now takes %s to answer. Without a timeout the caller waits for as long as the model takes.", slowAnswer),
				WatchFor: fmt.Sprintf("Every wait is %s or more.", slowAnswer), Change: s.slow, Check: s.waits,
			},
			{
				Name:     "slow, timeout",
				Why:      fmt.Sprintf("The route gets a timeout of %s. The caller gets an error, but soon, and can do something else.", routeTimeout),
				WatchFor: "Every answer is the gateway's own 504, and how long the longest wait was.", Change: s.route(&s.timed), Check: s.bounded,
			},
			{
				Name:     "flaky, no retries",
				Why:      fmt.Sprintf("Every pod now fails %.0f %% of its requests, at random. The caller sees each of these failures.", 100*flakyShare),
				WatchFor: fmt.Sprintf("%.0f %% of the requests fail.", 100*flakyShare), Change: s.flaky, Check: s.errors(flakyShare),
			},
			{
				Name:     "flaky, retries",
				Why:      fmt.Sprintf("The gateway tries a failed request up to %d more times. It fails for the caller only when all %d tries fail.", routeRetries, 1+routeRetries),
				WatchFor: "How few errors are left, and how many more requests the pods get for that.", Change: s.route(&s.retrying), Check: s.retried,
			},
			{
				Name:     "one pod fails",
				Why:      "Now one pod of three fails every request. Its readiness probe does not notice.",
				WatchFor: "A third of the requests fail.", Change: s.oneFails, Check: s.errors(1. / 3),
			},
			{
				Name:     "outlier detection",
				Why:      fmt.Sprintf("The gateway counts what each pod answers. After %d errors in a row it ejects the pod for %s.", errorsInARow, ejectionTime),
				WatchFor: "The ejected pod gets no request, and no request fails.", Change: s.route(&s.ejecting),
				Check: func(ctx context.Context, l *Session) (Evidence, error) { return s.without(ctx, l, o.Requests) },
			},
			{
				Name: "healed and back", Long: true,
				Why:      "The pod is well again, but the gateway does not know: it gives the pod requests again when its time is over.",
				WatchFor: "How long it was out, and that it answers its third again.", Change: s.fail(0),
				Check: func(ctx context.Context, l *Session) (Evidence, error) { return s.back(ctx, l, o) },
			},
		},
		Controls: []Control{
			{Name: "no-timeout", Summary: "the route has no timeout where one is claimed", Break: set(&s.timed, routing{}), Catches: Bounds},
			{Name: "no-retries", Summary: "the route does not retry where retries are claimed", Break: set(&s.retrying, routing{}), Catches: Bounds},
			{
				Name: "no-ejection", Summary: "the DestinationRule has no outlier detection where it is claimed",
				Break: set(&s.ejecting, routing{}), Catches: Ejection,
			},
		},
	}, nil
}

// istioSeconds is a duration as Istio takes it: in seconds only.
func istioSeconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s"
}

// routing is how requests reach the model.
type routing struct {
	routeState
	Timeout  string // empty: none
	Retries  int
	Ejection string // for how long a pod is ejected; empty: none is
	Errors   int    // in a row, after which it is
}

// route sets the way and returns when the gateway goes by it.
func (s *resilienceStory) route(to *routing) Change {
	return func(ctx context.Context, l *Session) error {
		r, way := l.to("model"), *to
		r.URL += "/readyz" // the model's faults are not about this path
		way.Errors = errorsInARow
		return l.route(ctx, "resilience/route.yaml", r, &way)
	}
}

func (s *resilienceStory) serve(ctx context.Context, l *Session) error {
	m := model{Name: "model", Version: "v1", Replicas: 3, Env: map[string]string{
		"ADMIN_PORT": strconv.Itoa(adminPort),
		// Each pod must remember its part of a sample's tries.
		"SEEN_KEEP": strconv.Itoa(max(api.SeenKeep, s.Requests)),
	}}
	if err := l.deploy(ctx, m); err != nil {
		return err
	}
	if err := s.route(&routing{})(ctx, l); err != nil {
		return err
	}
	var err error
	s.rotation, err = l.rotation(ctx, "model", m.labels())
	return err
}

func (s *resilienceStory) slow(ctx context.Context, l *Session) error {
	return l.breakPods(ctx, s.pods, faults{Delay: slowAnswer.String()})
}

// waits shows what the timeout is there for.
func (s *resilienceStory) waits(ctx context.Context, l *Session) (Evidence, error) {
	_, e, err := l.served(ctx, l, l.to("model"), slowRequests)
	if err != nil {
		return e, err
	}
	e.Summary = fmt.Sprintf("%d of %d answered 200, after %.1f to %.1f s", e.Tally.Sent, e.Tally.Sent, e.Tally.Min.Seconds(), e.Tally.Max.Seconds())
	if e.Tally.Min < slowAnswer {
		return e, fault.CannotTest("", "the pods are not slow: a request was answered after %s", e.Tally.Min)
	}
	return e, nil
}

func (s *resilienceStory) bounded(ctx context.Context, l *Session) (Evidence, error) {
	answers, e, err := l.burst(ctx, l, l.to("model"), boundedRequests)
	if err != nil {
		return e, err
	}
	var wrong []string
	for _, a := range answers {
		if !a.Router || a.Status != 504 || a.Latency > waitBound {
			wrong = append(wrong, fmt.Sprintf("status %d after %.1f s %s", a.Status, a.Latency.Seconds(), a.Problem()))
		}
	}
	e.Summary = fmt.Sprintf("%d of %d answered 504 by the gateway within %s, the last after %.2f s: otherwise below %.1f %% with %.0f %% confidence",
		len(answers)-len(wrong), len(answers), waitBound, e.Tally.Max.Seconds(), 100*split.UpperBound(len(wrong), len(answers), confidence), 100*confidence)
	if len(wrong) > 0 {
		return e, refute(Bounds, "%d of %d requests were not answered 504 by the gateway within %s, the first: %s", len(wrong), len(answers), waitBound, wrong[0])
	}
	return e, nil
}

func (s *resilienceStory) flaky(ctx context.Context, l *Session) error {
	if err := l.breakPods(ctx, s.pods, faults{FailPercent: new(100 * flakyShare), Delay: "0s"}); err != nil {
		return err
	}
	return s.route(&routing{})(ctx, l)
}

// errors judges the share of errors without any help.
func (s *resilienceStory) errors(share float64) Check {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		answers, e, err := l.burst(ctx, l, l.to("model"), s.Requests)
		if err != nil {
			return e, err
		}
		return e.judge(errorClaim(share, s.Requests, s.Alpha), outcomes(answers), Shares)
	}
}

// retried judges the errors that are left, from above only: fewer are no harm.
// What they cost is how often the pods say that each request came to them.
func (s *resilienceStory) retried(ctx context.Context, l *Session) (Evidence, error) {
	answers, e, err := l.burst(ctx, l, l.to("model"), s.Requests)
	if err != nil {
		return e, err
	}
	left := math.Pow(flakyShare, 1+routeRetries)
	regions, err := errorClaim(left, s.Requests, s.Alpha).Regions()
	if err != nil {
		return e, err
	}
	most, counts := regions[1].Hi, outcomes(answers)
	failed := len(answers) - counts[isOK]
	e.Summary = fmt.Sprintf("n=%d errors %d (accepted up to %d, expected %.0f, without retries %.0f)",
		s.Requests, failed, most, left*float64(s.Requests), flakyShare*float64(s.Requests))
	if failed > most {
		return e, refute(Bounds, "%d of %d requests failed, with %d retries at most %d are accepted (alpha %g)", failed, len(answers), routeRetries, most, s.Alpha)
	}
	ids, err := l.reached(ctx, map[string]string{"app": "model"})
	if err != nil {
		return e, err
	}
	tries := triesOf(answers, ids)
	total, again := 0, 0
	for _, n := range tries {
		total += n
		if n > 1 {
			again++
		}
	}
	e.Figures = []Figure{{"tries per request", float64(total) / float64(len(answers)), ""}}
	e.Summary += fmt.Sprintf("; %d tries, %.2f for each request", total, float64(total)/float64(len(answers)))
	switch {
	case slices.Min(tries) == 0:
		return e, fault.CannotTest("", "the pods do not remember every request of the sample")
	case slices.Max(tries) > 1+routeRetries:
		return e, refute(Bounds, "a request was tried %d times, %d are configured", slices.Max(tries), 1+routeRetries)
	}
	// A request is tried again when its first try fails: this says that the
	// model was as flaky as claimed, and not simply well.
	judged, err := e.judge(split.Claim{N: s.Requests, Alpha: s.Alpha, Legs: []split.Leg{{Name: "tried once", Share: 1 - flakyShare}, {Name: "again", Share: flakyShare}}},
		map[string]int{"tried once": len(answers) - again, "again": again}, Shares)
	judged.Summary = e.Summary
	return judged, err
}

func (s *resilienceStory) oneFails(ctx context.Context, l *Session) error {
	if err := l.breakPods(ctx, s.pods[1:], faults{FailPercent: new(0.0)}); err != nil {
		return err
	}
	if err := s.fail(100)(ctx, l); err != nil {
		return err
	}
	return s.route(&routing{})(ctx, l)
}
