package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

// watchRate is how many requests per second a watcher sends: with 95 % it sees
// an outage of 60 ms.
const watchRate = 50

// failPercent of the requests are answered 500 by a v2 that is made to fail.
const failPercent = 5

// canaryStory is a new version that takes over on a Knative Service, step by
// step or gradually, and is taken back.
type canaryStory struct {
	Options
	service *service
	watcher *watch
	faults  map[string]map[string]string // version -> environment that makes it fail
	atOnce  bool                         // a control's: Knative is not told to go gradually
}

// canary: v1 serves all; v2 arrives at 0 % and is tried by its own address;
// v2 gets its shares one after the other, at last all; then v1 is back. When a
// step's claim fails, v1 gets everything back at once. A watcher runs through
// all of it.
func canary() Scenario {
	return Scenario{
		Name:    "canary",
		Summary: "a new version takes over step by step, and is taken back",
		Needs:   []string{"knative"},
		Options: []string{"shares", "weights", "rollout-duration"},
		New:     newCanary,
	}
}

// newCanary plans one run.
func newCanary(o Options) (*Plan, error) {
	s := &canaryStory{Options: o}
	var err error
	if s.service, err = loadService("scenarios/canary/service.yaml"); err != nil {
		return nil, err
	}
	s.service.version, s.service.order = "v1", []string{"v1"}
	sc := &Plan{
		Undo: &Step{
			Name: "automatic rollback to v1", Change: s.rollBack, Check: s.split(100, 0),
			Why: "A claim failed, so the old version gets all the traffic back before anybody looks into it.",
		},
	}
	if o.Gradual != 0 {
		return sc, s.gradually(sc)
	}
	shares, err := s.shares()
	if err != nil {
		return nil, err
	}
	sc.Steps = []Step{
		{
			Name: "v1 serves", Change: s.deploy("v1", 100), Check: s.split(100),
			Why:      "A Knative Service holds revisions of a model and a traffic block that says which of them answers. A watcher begins to send requests at a fixed rate, and goes on until the end.",
			WatchFor: "Every answer says v1.",
		},
		{
			Name: "v2 at 0 %, by its tag", Change: s.deploy("v2", 100, 0), Check: s.byTag,
			Why:      "The new version runs beside the old one without traffic. Its tag gives it an address of its own, so it can be tried before anybody depends on it.",
			WatchFor: "The tag's address answers v2, the Service's own still v1 only.",
		},
	}
	for _, percents := range shares {
		sc.Steps = append(sc.Steps, Step{
			Name: splitName(percents), Change: s.shift(percents...), Check: s.split(percents...),
			Why:      fmt.Sprintf("The gateway draws a version for each request: %d %% of them shall reach v2.", percents[1]),
			WatchFor: "Both counts lie in the interval that a right split leaves only once in " + o.oneIn() + " samples.",
		})
	}
	sc.Steps = append(sc.Steps,
		Step{
			Name: "v2 serves", Change: s.shift(0, 100), Check: s.split(0, 100),
			Why:      "The new version has proven itself and takes everything. The old one stays, with its tag, at 0 %.",
			WatchFor: "Every answer says v2: with 100 % a single other one fails.",
		},
		Step{
			Name: "rollback to v1", Change: s.shift(100, 0), Check: s.split(100, 0),
			Why:      "Going back is the same change as going on, because the old revision is still there.",
			WatchFor: "How many seconds it took to be in force, and that every answer says v1.",
		},
		s.lossless())
	first := sc.Steps[2].Name
	sc.Controls = []Control{
		{
			Name: "weights", Summary: "traffic is 50/50 where " + first + " is claimed",
			After: first, Break: s.shift(50, 50), Catches: Shares,
		},
		{
			Name: "empty-leg", Summary: "v2 receives nothing where " + first + " is claimed",
			After: first, Break: s.shift(100, 0), Catches: Shares,
		},
		{
			Name: "errors", Summary: fmt.Sprintf("v2 answers 500 to %d %% of the requests", failPercent),
			Break: s.failing, Catches: Answers,
		},
	}
	return sc, nil
}

// shares are the splits that the story goes through before v2 has all: the
// first share and half, or those asked for. They are judged before anything is
// touched.
func (s *canaryStory) shares() ([][]int64, error) {
	var all [][]int64
	if len(s.Weights) > 0 {
		last := 0
		for _, w := range s.Weights {
			if w <= last || w > 100 {
				return nil, fault.Usage("use rising whole percents of the new version, such as --weights 1,5,25,50,100", "%d %% cannot follow %d %%", w, last)
			}
			if last = w; w < 100 { // the story ends there by itself
				all = append(all, []int64{int64(100 - w), int64(w)})
			}
		}
		if len(all) == 0 {
			return nil, fault.Usage("use at least one share below 100, such as --weights 10,100", "--weights has no split to prove")
		}
	} else {
		first, err := percents(s.Shares)
		if err != nil {
			return nil, err
		}
		if len(first) != 2 {
			return nil, fault.Usage("use two shares, old version first, such as --shares 90/10", "a canary has two versions, and %d shares were given", len(first))
		}
		if all = [][]int64{first}; first[0] != 50 {
			all = append(all, []int64{50, 50})
		}
	}
	for _, percents := range all {
		if err := s.claim(percents).Check(); err != nil {
			return nil, fault.Usage("see `mllab scenario canary --help`", "canary: %w", err)
		}
		switch need := s.claim(percents).Needed(); {
		case s.Requests < need && s.raise:
			s.Requests = need
		case s.Requests < need:
			return nil, fault.Usage(fmt.Sprintf("use --requests %d or more", need),
				"%d requests are too few for %s: a version that gets nothing would pass", s.Requests, splitName(percents))
		}
	}
	return all, nil
}

func splitName(percents []int64) string { return fmt.Sprintf("%d/%d", percents[0], percents[1]) }

// failing has v2 answer some requests with 500.
func (s *canaryStory) failing(context.Context, *Session) error {
	s.faults = map[string]map[string]string{"v2": {"FAIL_PERCENT": strconv.Itoa(failPercent)}}
	return nil
}

// deploy adds a version and gives it its first percentage.
func (s *canaryStory) deploy(version string, percents ...int64) func(context.Context, *Session) error {
	return func(ctx context.Context, l *Session) error {
		s.service.image, s.service.version = l.Image, version
		if len(percents) > len(s.service.order) {
			s.service.order = append(s.service.order, version)
		}
		s.service.env = s.faults[version]
		return s.shift(percents...)(ctx, l)
	}
}

// shift sets the traffic and returns when Knative has seen every gateway
// answer by it (a Service is Ready only then).
func (s *canaryStory) shift(percents ...int64) func(context.Context, *Session) error {
	return func(ctx context.Context, l *Session) error {
		obj, err := s.service.object(percents)
		if err != nil {
			return err
		}
		if s.watcher != nil {
			s.watcher.Mark(fmt.Sprint("traffic ", percents))
		}
		if err := l.apply(ctx, obj); err != nil {
			return err
		}
		if s.watcher == nil {
			s.watcher = l.watch(ctx, l.to(s.service.base.Name), watchRate)
		}
		return nil
	}
}

// rollBack gives v1 all the traffic, when there is another version.
func (s *canaryStory) rollBack(ctx context.Context, l *Session) error {
	percents := []int64{100, 0}[:len(s.service.order)]
	return s.shift(percents...)(ctx, l)
}

// claim is that v1 and v2 answer in these percents.
func (o Options) claim(percents []int64) split.Claim {
	c := split.Claim{N: o.Requests, Alpha: o.Alpha}
	for i, version := range []string{"v1", "v2"} {
		share := 0.0
		if i < len(percents) {
			share = float64(percents[i]) / 100
		}
		c.Legs = append(c.Legs, split.Leg{Name: version, Share: share})
	}
	return c
}

func (s *canaryStory) split(percents ...int64) func(context.Context, *Session) (Evidence, error) {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		return l.sample(ctx, l.to(s.service.base.Name), s.claim(percents))
	}
}

// byTag tries v2 at its own address while the service's address still has
// only v1.
func (s *canaryStory) byTag(ctx context.Context, l *Session) (Evidence, error) {
	only := split.Claim{Legs: []split.Leg{{Name: "v1", Share: 0}, {Name: "v2", Share: 1}}, N: tagRequests, Alpha: s.Alpha}
	e, err := l.sample(ctx, l.to("v2-"+s.service.base.Name), only)
	if err != nil {
		return e, err
	}
	return s.split(100, 0)(ctx, l)
}

// tagRequests are enough to see that the address works; what v2 does under its
// share is the next steps' claim.
const tagRequests = 20

func (s *canaryStory) lossless() Step {
	return Step{
		Name: "no request lost",
		Check: func(_ context.Context, l *Session) (Evidence, error) {
			return l.watched(s.watcher)
		},
		Why:      "A delivery is only good if nobody noticed it. The watcher sent at its own pace through all of the changes, half of it over new connections, and never tried twice.",
		WatchFor: "None lost, and how small a loss this number of requests could have missed.",
	}
}

// gradually fills in the story in which Knative itself moves the traffic, a
// little every second or so, over the time that its annotation gives.
// https://knative.dev/docs/serving/rolling-out-latest-revision/
func (s *canaryStory) gradually(sc *Plan) error {
	if err := CheckRollout(s.Gradual); err != nil {
		return err
	}
	took := fmt.Sprintf("v2 takes over in %s", s.Gradual)
	sc.Steps = []Step{
		{
			Name: "v1 serves", Change: s.latest("v1"), Check: s.split(100),
			Why:      "All traffic goes to the newest revision, whichever that is.",
			WatchFor: "Every answer says v1.",
		},
		{
			Name: took, Change: s.begin, Check: s.ramp,
			Why:      "With a rollout duration Knative does not give the newest revision everything at once: it begins with 1 % and adds a little at each of its steps.",
			WatchFor: "How v2's share grows from one fifth of the time to the next.",
		},
		{
			Name: "v2 serves", Change: s.settled, Check: s.split(0, 100),
			Why:      "When the time is over, the old revision has nothing left.",
			WatchFor: "Every answer says v2.",
		},
		s.lossless(),
	}
	sc.Controls = []Control{
		{
			Name: "at-once", Summary: "Knative is not told to go gradually",
			Break: func(context.Context, *Session) error { s.atOnce = true; return nil }, Catches: Shares,
		},
		{Name: "errors", Summary: fmt.Sprintf("v2 answers 500 to %d %% of the requests", failPercent), Break: s.failing, Catches: Answers},
	}
	// Only the old revision's name brings it back: "newest" would be v2 again.
	sc.Undo.Change = func(ctx context.Context, l *Session) error {
		s.service.order = []string{"v1"}
		return s.shift(100)(ctx, l)
	}
	return nil
}

// The bounds of Options.Gradual.
const (
	minGradual = 10 * time.Second // Knative's steps are a second or more
	maxGradual = 2 * time.Minute  // well below a step's bound
)

// CheckRollout refuses a time over which the canary cannot shift the traffic.
func CheckRollout(d time.Duration) error {
	if d < minGradual || d > maxGradual || d%time.Second != 0 {
		return fault.Usage("such as --rollout-duration 30s", "--rollout-duration must be whole seconds from %s to %s, got %s", minGradual, maxGradual, d)
	}
	return nil
}

// latest deploys a version as the newest revision, which gets all traffic in
// the end.
func (s *canaryStory) latest(version string) func(context.Context, *Session) error {
	return func(ctx context.Context, l *Session) error {
		s.service.image, s.service.version, s.service.order, s.service.env = l.Image, version, nil, s.faults[version]
		if !s.atOnce {
			s.service.rollout = s.Gradual
		}
		return s.shift()(ctx, l)
	}
}

// begin writes v2 and does not wait: the Service is Ready only when the rollout
// is over.
func (s *canaryStory) begin(ctx context.Context, l *Session) error {
	s.service.version, s.service.env = "v2", s.faults["v2"]
	obj, err := s.service.object(nil)
	if err != nil {
		return err
	}
	return l.write(ctx, obj)
}

// settled returns when Knative calls the rollout done.
func (s *canaryStory) settled(ctx context.Context, l *Session) error {
	return l.wait(ctx, l.applied...)
}

// rampWindows is in how many parts of the rollout's time the shares are judged,
// and rampSlack how far v2's true share may be from a straight line in each:
// Knative's steps are not equal, and the first v2 answer is a matter of chance.
const (
	rampWindows = 5
	rampSlack   = 0.3
)

// ramp watches until v2 has everything, and judges how it got there.
func (s *canaryStory) ramp(ctx context.Context, l *Session) (Evidence, error) {
	w := l.watch(ctx, l.to(s.service.base.Name), watchRate)
	ctx, cancel := context.WithTimeout(ctx, 2*s.Gradual+30*time.Second)
	defer cancel()
	// As many in a row would come by chance only once in 10^6 at 90 %.
	const streak = 130
	var first time.Time // answer of v2 here; all of the time after it is judged
	inRow := 0
	err := l.until(ctx, "the end of the rollout", func() string {
		for ; inRow < streak; inRow++ {
			if a := l.send.Send(ctx, l.to(s.service.base.Name)); a.Target != "v2" {
				inRow = 0
				return fmt.Sprintf("%q still answers", a.Target)
			}
			if first.IsZero() {
				first = time.Now()
			}
		}
		if time.Since(first) < s.Gradual {
			return "v2 answers, before its time"
		}
		return ""
	})
	if err != nil {
		return Evidence{}, err
	}
	record := w.Stop()
	tally := probe.Count(record.Answers)
	e := Evidence{Tally: &tally}
	if e.File, err = l.keep(record.Answers); err != nil {
		return e, err
	}
	if record.Missed > 0 {
		return e, fmt.Errorf("the watcher could not send %d requests in time: nothing can be said about the rollout", record.Missed)
	}
	if refuted := answered(tally); refuted != nil {
		e.Summary = refuted.Reasons[0]
		return e, refuted
	}
	return s.judgeRamp(e, record.Answers)
}

// judgeRamp compares v2's share in each part of the rollout's time, from its
// first answer on, with a straight line.
func (s *canaryStory) judgeRamp(e Evidence, answers []probe.Answer) (Evidence, error) {
	first := slices.IndexFunc(answers, func(a probe.Answer) bool { return a.Target == "v2" })
	if first < 0 {
		return e, errors.New("the watcher saw no answer of v2")
	}
	began := answers[first].Scheduled
	var n, v2 [rampWindows]int
	for _, a := range answers[first:] {
		at := int(a.Scheduled.Sub(began) * rampWindows / s.Gradual)
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
