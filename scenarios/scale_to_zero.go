package scenarios

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

type zeroStory struct {
	Options
	services []*idleService
	idle     *idle
}

// atOnce is how many Services a run has at most: they wait for zero together,
// but are asked one after the other, so that no cold start slows another.
const atOnce = 3

// scaleToZero: the Services serve; nobody asks them, and they have no pod left;
// cold requests are answered by a new pod each; then the pods are gone again.
var scaleToZero = Scenario{
	Name:             "scale-to-zero",
	Summary:          "a quiet model gives up its pods, and a cold request starts one",
	Needs:            []string{"knative"},
	Options:          []string{"samples"},
	Serial:           true,
	ParallelControls: true,
	New:              newScaleToZero,
}

func newScaleToZero(o Options) (*Plan, error) {
	if o.Samples < 1 {
		return nil, fault.Usage("use --samples 1 or more", "%d cold starts prove nothing", o.Samples)
	}
	s := &zeroStory{Options: o}
	for i := range min(o.Samples, atOnce) {
		s.services = append(s.services, &idleService{name: fmt.Sprintf("model-%d", i+1)})
	}
	return &Plan{
		Steps: []Step{
			{
				Name: "serves", Change: s.deploy,
				Check:    func(ctx context.Context, l *Session) (Evidence, error) { return l.answerOnce(ctx, s.services) },
				Why:      fmt.Sprintf("A Knative Service starts with one pod. Its window of %s is the shortest: quiet for longer, it may go to zero.", zeroWindow),
				WatchFor: "One answer, one pod, one endpoint for each Service: what must be gone later is seen now.",
			},
			{
				Name: "to zero", Change: s.wait, Check: s.zero,
				Why:      "Nobody asks, so the autoscaler takes the last pod away. A model that is rarely asked then costs nothing.",
				WatchFor: "No pod, not even a Terminating one, and no endpoint; and how long that took.",
			},
			{
				Name: "cold start", Check: s.cold,
				Why:      "The activator holds a request to a Service at zero until a pod is there. The caller pays with its latency.",
				WatchFor: "How long it takes to the last byte, and which part of the way takes it.",
			},
			{
				Name: "back to zero", Change: s.wait, Check: s.backToZero,
				Why:      "What one request started goes away again after it.",
				WatchFor: "No pod is left, and each cold request had started one and no more.",
			},
		},
		Controls: []Control{
			{Name: "warm", Summary: "min-scale 1 keeps a pod where zero is claimed", Break: s.annotate("min-scale", "1"), Catches: Zero},
			{
				Name: "two-pods", Summary: "activation-scale 2 starts two pods where one is claimed",
				Break: s.annotate("activation-scale", "2"), Catches: OnePod,
			},
		},
	}, nil
}

// annotate is a control's break.
func (s *zeroStory) annotate(name, value string) Change {
	return func(context.Context, *Session) error {
		for _, each := range s.services {
			each.annotations = map[string]string{name: value}
		}
		return nil
	}
}

func (s *zeroStory) deploy(ctx context.Context, l *Session) (err error) {
	s.idle, err = l.serveIdle(ctx, s.services...)
	return err
}

func (s *zeroStory) wait(ctx context.Context, l *Session) error {
	return s.idle.await(ctx, l, s.services)
}

// zero looks once whether all of them have no pod and no endpoint.
func (s *zeroStory) zero(ctx context.Context, l *Session) (Evidence, error) {
	var longest time.Duration
	for _, each := range s.services {
		if err := s.idle.atZero(ctx, l, each); err != nil {
			return Evidence{}, err
		}
		longest = max(longest, each.slept)
	}
	return Evidence{
		Summary: fmt.Sprintf("%d of %d Services have no pod and no endpoint; the slowest went %.1f s after its last answer (bound %.0f s)",
			len(s.services), len(s.services), longest.Seconds(), s.idle.bound().Seconds()),
		Figures: []Figure{{"zero after", longest.Seconds(), "s"}, {"bound", s.idle.bound().Seconds(), "s"}},
	}, nil
}

// cold sends one request after the other, each to a Service at zero.
func (s *zeroStory) cold(ctx context.Context, l *Session) (Evidence, error) {
	var answers []probe.Answer
	var lives []podLife
	var failed error
	for i := range s.Samples {
		to := s.services[i%len(s.services)]
		if i >= len(s.services) { // it has answered in an earlier round
			if failed = s.idle.await(ctx, l, []*idleService{to}); failed != nil {
				break
			}
		}
		if failed = s.idle.atZero(ctx, l, to); failed != nil {
			break
		}
		a, life, err := s.idle.coldStart(ctx, l, to)
		answers = append(answers, a)
		l.saw(a)
		if failed = err; failed != nil {
			break
		}
		lives = append(lives, life)
		l.progress(fmt.Sprintf("%d of %d cold starts", i+1, s.Samples))
	}
	if err := ctx.Err(); err != nil {
		return Evidence{}, err
	}
	e, err := l.evidenceOf(answers)
	if err = cmp.Or(err, failed); err != nil {
		return e, err
	}
	e.Summary, e.Figures = describeCold(answers, lives)
	return e, nil
}

// backToZero is zero again, and how many pods there ever were.
func (s *zeroStory) backToZero(ctx context.Context, l *Session) (Evidence, error) {
	e, err := s.zero(ctx, l)
	if err != nil {
		return e, err
	}
	for _, each := range s.services {
		ever := s.idle.pods.of(each.revision())
		if started := len(ever) - each.first; started != each.starts {
			return e, refute(OnePod, "%d cold requests to %s started %d pods, of %s", each.starts, each.name, started, strings.Join(sortedKeys(ever), ", "))
		}
	}
	if err := s.idle.pods.whole(); err != nil {
		return e, err
	}
	e.Summary += fmt.Sprintf("; %d cold requests started %d pods", s.Samples, s.Samples)
	return e, nil
}

// describeCold is cold starts in one line and in figures: the time to the last
// byte, and the median of when each stage was reached. Every time counts from
// the send.
func describeCold(answers []probe.Answer, lives []podLife) (string, []Figure) {
	var all []time.Duration
	for _, a := range answers {
		all = append(all, a.Latency)
	}
	slices.Sort(all)
	n := len(all)
	figures := []Figure{
		{"cold min", all[0].Seconds(), "s"}, {"cold median", medianTime(all).Seconds(), "s"}, {"cold max", all[n-1].Seconds(), "s"},
	}
	says := fmt.Sprintf("%d cold starts: min %.2f s, median %.2f s, max %.2f s", n, all[0].Seconds(), medianTime(all).Seconds(), all[n-1].Seconds())
	if bound, ok := p95Bound(all); ok {
		figures = append(figures, Figure{"cold p95 upper bound", bound.Seconds(), "s"})
		says += fmt.Sprintf(", p95 at most %.2f s with %.0f %% confidence", bound.Seconds(), 100*confidence)
	} else {
		says += fmt.Sprintf(" (a p95 needs %d samples)", p95Samples)
	}
	var stages []string
	for _, stage := range []string{stageCreated, stageScheduled, stageSandbox, stageRunning, stageAddress, stageReady} {
		var times []time.Duration
		for i, life := range lives {
			if at := life.at[stage]; !at.IsZero() {
				times = append(times, at.Sub(answers[i].Sent))
			}
		}
		if len(times) < n {
			continue // events may be lost, and then nothing is said
		}
		slices.Sort(times)
		figures = append(figures, Figure{stage, medianTime(times).Seconds(), "s"})
		stages = append(stages, fmt.Sprintf("%s %.2f", stage, medianTime(times).Seconds()))
	}
	return says + "; medians after the send: " + strings.Join(stages, ", ") + " s", figures
}

// medianTime is by nearest rank, of times in order.
func medianTime(sorted []time.Duration) time.Duration { return sorted[(len(sorted)-1)/2] }

// p95Samples is how many samples a bound of the 95th percentile needs.
const p95Samples = 59

// p95Bound is a time that the 95th percentile does not exceed with 95 %
// confidence; false when there are too few samples for one. It is an order
// statistic, so it holds whatever the distribution: Wilks (1941),
// https://doi.org/10.1214/aoms/1177731788. Of n samples the k longest exceed
// it; from n = 59 on k can be 0, because 0.95^59 < 0.05.
func p95Bound(sorted []time.Duration) (time.Duration, bool) {
	n, k := len(sorted), -1
	for split.UpperBound(k+1, n, confidence) <= 0.05 {
		k++
	}
	if k < 0 {
		return 0, false
	}
	return sorted[n-1-k], true
}
