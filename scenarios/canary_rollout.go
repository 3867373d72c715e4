package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

// rolloutStory is a canary whose traffic Knative itself moves, a little every
// second or so, over the time that its annotation gives.
// https://knative.dev/docs/serving/rolling-out-latest-revision/
type rolloutStory struct {
	*canaryStory
	atOnce bool // a control's: Knative is not configured to go gradually
}

func newRollout(of *canaryStory) (*Plan, error) {
	s := &rolloutStory{canaryStory: of}
	if err := CheckRollout(s.RolloutDuration); err != nil {
		return nil, err
	}
	if err := enough("canary", s.claim(100)); err != nil {
		return nil, err
	}
	took := fmt.Sprintf("v2 takes over in %s", s.RolloutDuration)
	steps := []Step{
		{
			Name: "v1 serves", Change: s.first, Check: s.share(0),
			Why:      "All traffic goes to the newest revision, whichever that is.",
			WatchFor: "Every answer says v1.",
		},
		{
			Name: took, Change: s.begin, Check: s.ramp,
			Why:      "With a rollout duration Knative does not give the newest revision everything at once: it begins with 1 % and adds a little at each of its steps.",
			WatchFor: "How v2's share grows from one fifth of the time to the next.",
		},
		{
			Name: "v2 serves", Change: s.settled, Check: s.share(100),
			Why:      "When the time is over, the old revision has nothing left.",
			WatchFor: "Every answer says v2.",
		},
		s.prober.lastStep(noticed),
	}
	return &Plan{Steps: steps, Undo: s.undo(s.rollBack), Controls: []Control{
		{Name: "at-once", Summary: "Knative is not configured to go gradually", Break: set(&s.atOnce, true), Catches: Shares},
		{Name: "errors", Summary: fmt.Sprintf("v2 answers 500 to %d %% of the requests", failPercent), Break: s.failing, Catches: Answers},
	}}, nil
}

// rollBack names the old revision: "newest" would be v2 again.
func (s *rolloutStory) rollBack(ctx context.Context, l *Session) error {
	s.model.order = []string{"v1"}
	return s.shift(100)(ctx, l)
}

// The bounds of Options.RolloutDuration.
const (
	minRollout = 10 * time.Second // Knative's steps are a second or more
	maxRollout = 2 * time.Minute  // well below a step's bound
)

// CheckRollout refuses a time over which the canary cannot shift the traffic.
func CheckRollout(d time.Duration) error {
	if d < minRollout || d > maxRollout || d%time.Second != 0 {
		return fault.Usage("such as --rollout-duration 30s", "--rollout-duration must be whole seconds from %s to %s, got %s", minRollout, maxRollout, d)
	}
	return nil
}

// first deploys v1 as the newest revision, which gets all traffic in the end.
func (s *rolloutStory) first(ctx context.Context, l *Session) error {
	s.model.version, s.model.env = "v1", s.env["v1"]
	if !s.atOnce {
		s.model.rollout = s.RolloutDuration
	}
	return s.shift()(ctx, l)
}

// begin writes v2 and does not wait: the Service is Ready only when the rollout
// is over.
func (s *rolloutStory) begin(ctx context.Context, l *Session) error {
	s.model.version, s.model.env = "v2", s.env["v2"]
	obj, err := s.model.object(nil)
	if err != nil {
		return err
	}
	return l.write(ctx, obj)
}

// settled returns when Knative calls the rollout done.
func (s *rolloutStory) settled(ctx context.Context, l *Session) error {
	return l.allReady(ctx)
}

// rampWindows is in how many parts of the rollout's time the shares are judged,
// and rampSlack how far v2's true share may be from a straight line in each:
// Knative's steps are not equal, and the first v2 answer is a matter of chance.
const (
	rampWindows = 5
	rampSlack   = 0.3
)

// ramp watches until v2 has everything, and judges how it got there.
func (s *rolloutStory) ramp(ctx context.Context, l *Session) (Evidence, error) {
	var rollout prober // of which all answers are judged by their time
	rollout.start(ctx, l, l.to(s.model.name()), watchRate)
	ctx, cancel := context.WithTimeout(ctx, 2*s.RolloutDuration+30*time.Second)
	defer cancel()
	// As many in a row would come by chance only once in 10^6 at 90 %.
	const streak = 130
	var first time.Time // answer of v2 here; all of the time after it is judged
	inRow := 0
	err := l.until(ctx, "the end of the rollout", func() string {
		for ; inRow < streak; inRow++ {
			if a := l.Send(ctx, l.to(s.model.name())); a.Target != "v2" {
				inRow = 0
				return fmt.Sprintf("%q still answers", a.Target)
			}
			if first.IsZero() {
				first = time.Now()
			}
		}
		if time.Since(first) < s.RolloutDuration {
			return "v2 answers, before its time"
		}
		return ""
	})
	if err != nil {
		return Evidence{}, err
	}
	record := rollout.Stop()
	e, err := l.evidenceOf(record.Answers)
	if err != nil {
		return e, err
	}
	if record.Missed > 0 {
		return e, fmt.Errorf("the watcher could not send %d requests in time: nothing can be said about the rollout", record.Missed)
	}
	if err := e.answered(); err != nil {
		return e, err
	}
	return s.judgeRamp(e, record.Answers)
}

// judgeRamp compares v2's share in each part of the rollout's time, from its
// first answer on, with a straight line.
func (s *rolloutStory) judgeRamp(e Evidence, answers []probe.Answer) (Evidence, error) {
	first := slices.IndexFunc(answers, func(a probe.Answer) bool { return a.Target == "v2" })
	if first < 0 {
		return e, errors.New("the watcher saw no answer of v2")
	}
	began := answers[first].Scheduled
	var n, v2 [rampWindows]int
	for _, a := range answers[first:] {
		at := int(a.Scheduled.Sub(began) * rampWindows / s.RolloutDuration)
		if at >= rampWindows {
			break
		}
		n[at]++
		if a.Target == "v2" {
			v2[at]++
		}
	}
	var reasons []string
	e.Summary = "v2's share by fifths of the time:"
	for i := range rampWindows {
		line := (float64(i) + 0.5) / rampWindows
		lo, hi, err := split.Between(n[i], max(0, line-rampSlack), min(1, line+rampSlack), s.Alpha/rampWindows)
		if err != nil {
			return e, err
		}
		e.Figures = append(e.Figures, Figure{fmt.Sprintf("v2 in part %d of %d", i+1, rampWindows), float64(v2[i]) / float64(n[i]), ""})
		e.Summary += fmt.Sprintf(" %d of %d (accepted %d..%d)", v2[i], n[i], lo, hi)
		if v2[i] < lo || v2[i] > hi {
			reasons = append(reasons, fmt.Sprintf("part %d of %d: v2 answered %d of %d, accepted %d..%d", i+1, rampWindows, v2[i], n[i], lo, hi))
		}
	}
	e.Summary += fmt.Sprintf(", alpha %.0e", s.Alpha)
	if len(reasons) > 0 {
		return e, &ClaimError{Shares, reasons}
	}
	return e, nil
}
