package scenarios

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"knative.dev/serving/pkg/apis/serving"

	"mllab.local/internal/fault"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

const (
	// guardFails percent of the requests fail in a guard's controls.
	guardFails = 50
	// guardDelay is how much longer a slow v2 takes in its control: more than the
	// p95 of a v1 on a busy machine.
	guardDelay = 2 * time.Second
	// slowTolerated times as many slow answers as v1 has are tolerated: two pods
	// on one busy node are never equally fast.
	slowTolerated = 3
)

// guardedStory is a canary whose samples a judge ends as soon as it knows that
// v2 is worse.
type guardedStory struct {
	*canaryStory
	slow      time.Duration // v1's p95 before v2 had any traffic
	asleep    bool          // a control's: the judge sees no answer
	alarmed   time.Time
	backAfter time.Duration // from the alarm until v1 had all traffic
}

// newGuarded plans one run: the canary's steps, with other checks for its
// splits.
func newGuarded(of *canaryStory) (*Plan, error) {
	if of.RolloutDuration != 0 {
		return nil, fault.Usage("leave one of them out", "--guard judges fixed shares, and --rollout-duration has none")
	}
	s := &guardedStory{canaryStory: of}
	admin := map[string]string{"ADMIN_PORT": fmt.Sprint(adminPort)}
	s.env = map[string]map[string]string{"v1": admin, "v2": admin}
	weights, err := s.weights()
	if err != nil {
		return nil, err
	}
	steps := s.steps(weights)
	steps[0].Check = s.warmUp
	for i, v2 := range weights {
		step := &steps[2+i]
		step.Check = s.watched(v2)
		step.Why += " A judge looks at each answer, and v1 gets everything back as soon as v2 is shown to be worse."
		step.WatchFor += " E says how much better the failures so far are explained by a v2 that is worse."
	}
	first := splitName(weights[0])
	fail := faults{FailPercent: new(float64(guardFails))}
	v2Fails := s.breaks(fail, "v2")
	return &Plan{
		Steps: steps,
		Undo: &Step{
			Name: "automatic rollback to v1", Change: s.takeBack, Check: s.back,
			Why: "v2 is worse, so the old version gets all the traffic back before anybody looks into it.",
		},
		Controls: []Control{
			{Name: "bad-v2", Summary: fmt.Sprintf("v2 answers 500 to %d %% of the requests", guardFails), After: first, Break: v2Fails, Catches: NoWorse},
			{Name: "slow-v2", Summary: fmt.Sprintf("v2 takes %s longer for each answer", guardDelay), After: first, Break: s.breaks(faults{Delay: guardDelay.String()}, "v2"), Catches: NoWorse},
			{
				Name: "both-fail", Summary: fmt.Sprintf("both versions answer 500 to %d %% of the requests: v2 is not worse", guardFails),
				After: first, Break: s.breaks(fail, "v1", "v2"), Catches: Answers,
			},
			{
				Name: "asleep", Summary: fmt.Sprintf("v2 answers 500 to %d %% of the requests, and the judge sees no answer", guardFails),
				After: first, Catches: Guard,
				Break: func(ctx context.Context, l *Session) error {
					s.asleep = true
					return v2Fails(ctx, l)
				},
			},
		},
	}, nil
}

func (s *guardedStory) breaks(f faults, versions ...string) Change {
	return func(ctx context.Context, l *Session) error {
		var names []string
		for _, version := range versions {
			pods, err := l.pods(ctx, map[string]string{serving.RevisionLabelKey: s.model.revision(version)})
			if err != nil {
				return err
			}
			names = append(names, pods...)
		}
		return l.breakPods(ctx, names, f)
	}
}

// warmUp is v1's sample, and sets what a slow answer is.
func (s *guardedStory) warmUp(ctx context.Context, l *Session) (Evidence, error) {
	e, err := s.share(0)(ctx, l)
	if err == nil {
		s.slow = e.Tally.P95
	}
	return e, err
}

// shown shows a guard one answer. An answer that does not say whose it is
// cannot be held against either version; that it failed refutes the sample at its end.
func shown(g *split.Guard, a probe.Answer) (alarm bool) {
	if a.Target != "v1" && a.Target != "v2" {
		return g.Alarm() != ""
	}
	return g.Add(a.Target == "v2", !a.OK(), a.Latency)
}

// watched is a sample that the judge may end.
func (s *guardedStory) watched(v2 int) Check {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		config := split.GuardConfig{Share: float64(v2) / 100, Alpha: s.Alpha, Slow: s.slow, SlowFactor: slowTolerated}
		guard, err := split.NewGuard(config)
		if err != nil {
			return Evidence{}, err
		}
		r := l.to(s.model.name())
		l.claims("target", r, s.claim(v2))
		// What is in flight at an alarm is still waited for: it is part of what users lose.
		answers, e, err := l.burstUntil(ctx, l, r, s.Requests, sampleWorkers, func(a probe.Answer) bool {
			return !s.asleep && shown(guard, a)
		})
		if err != nil {
			return e, err
		}
		e.Figures = []Figure{{"errors E", guard.ErrorsE(), ""}}
		if why := guard.Alarm(); why != "" {
			s.alarmed = time.Now()
			lost, n := len(e.Tally.Failed), len(answers)
			e.Figures = append(e.Figures, Figure{"requests until the alarm", float64(n), ""}, Figure{"lost until the alarm", float64(lost), ""})
			e.Summary = fmt.Sprintf("alarm after %d requests: %s; users lost %d until then, and would have lost about %.0f in the sample of %d",
				n, why, lost, float64(lost)/float64(n)*float64(s.Requests), s.Requests)
			return e, refute(NoWorse, "v2 is worse: %s", e.Summary)
		}
		if err := s.awake(config, answers); err != nil {
			return e, err
		}
		if err := e.answered(); err != nil {
			return e, err
		}
		e, err = e.judge(s.claim(v2), e.Tally.Counts, Shares)
		e.Summary += "; " + guard.String()
		return e, err
	}
}

// awake refutes that the judge saw what the record holds: judged once more, it
// must raise no alarm.
func (s *guardedStory) awake(c split.GuardConfig, answers []probe.Answer) error {
	guard, err := split.NewGuard(c)
	if err != nil {
		return err
	}
	for i, a := range answers {
		if shown(guard, a) {
			return refute(Guard, "the sample went on for %d requests after one that shows that v2 is worse: %s", len(answers)-i-1, guard.Alarm())
		}
	}
	return nil
}

func (s *guardedStory) takeBack(ctx context.Context, l *Session) error {
	err := s.rollBack(ctx, l)
	if !s.alarmed.IsZero() {
		s.backAfter = time.Since(s.alarmed)
	}
	return err
}

// back judges that every answer is v1's, whatever v1 answers.
func (s *guardedStory) back(ctx context.Context, l *Session) (Evidence, error) {
	r, only := l.to(s.model.name()), s.claim(0)
	l.claims("target", r, only)
	answers, e, err := l.burst(ctx, l, r, s.Requests)
	if err != nil {
		return e, err
	}
	e, err = e.judge(only, countBy(answers, func(a probe.Answer) string { return cmp.Or(a.Target, a.Problem()) }), Shares)
	seen := probe.Count(s.prober.Answers())
	e.Summary += fmt.Sprintf("; the watcher lost %d of %d", len(seen.Failed), seen.Sent)
	if s.backAfter > 0 {
		e.Figures = []Figure{{"back after the alarm", s.backAfter.Seconds(), "s"}}
	}
	return e, err
}
