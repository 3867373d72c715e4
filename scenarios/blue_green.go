package scenarios

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

// switchRate is how many requests per second watch a switch: with 95 % they see
// an outage of 20 ms.
const switchRate = 150

// drainWindow is how long after a switch is active the old color may still
// answer. Active is what Kubernetes or Knative says; the gateway learns of a
// Service's new endpoints only after that, some tenths of a second on two idle
// cores.
const drainWindow = 5 * time.Second

// blueGreenStory is one way's: green is tried next to blue, and the shared
// address is switched and switched back. A watcher runs through all of it.
type blueGreenStory struct {
	Options
	way
	drain        time.Duration
	prober       prober
	turns        []turn
	beforeSwitch Change // what a control does wrong then, if any
}

// turn is a switch of the shared address to a color: when it was changed, and when
// Kubernetes or Knative reported it active.
type turn struct {
	color           string
	changed, active time.Time
}

// blueGreen runs the story both ways, one after the other. Only plain
// Deployments have blue removed: when a revision's pods end is for Knative's
// autoscaler to say.
var blueGreen = Scenario{
	Name:    "blue-green",
	Summary: "two versions side by side: all traffic is switched at once, and back",
	Needs:   []string{"istio", "knative"},
	Serial:  true,
	New:     newBlueGreen,
}

func newBlueGreen(o Options) (*Plan, error) {
	if err := enough("blue-green", (&blueGreenStory{Options: o}).only(blue)); err != nil {
		return nil, err
	}
	routed, err := loadRevisions("scenarios/blue-green/knative.yaml")
	if err != nil {
		return nil, err
	}
	selector, revision := selectorWay{"model"}, &revisionWay{routed}
	first := &blueGreenStory{Options: o, way: selector, drain: drainWindow}
	second := &blueGreenStory{Options: o, way: revision, drain: drainWindow}
	return &Plan{
		Steps: append(first.steps("Service",
			Step{
				Name: "Service: green again", Change: first.switchTo(green), Check: first.switched, Long: true,
				Why:      "What was wrong is fixed, and green gets the shared address once more.",
				WatchFor: "The same times again: one switch is no measurement.",
			},
			Step{
				Name: "Service: blue is removed", Change: selector.removeBlue, Check: first.sampled(selector.shared, green), Long: true,
				Why:      "The old color is removed only when the drain window is over. From here on there is no fast way back.",
				WatchFor: "No request notices.",
			}), second.steps("Knative")...),
		Controls: []Control{
			{
				Name: "early-delete", Summary: "blue is removed before the Service's selector is switched",
				Break: set(&first.beforeSwitch, selector.removeBlueInUse), Catches: NoLoss,
			},
			{
				Name: "green-not-ready", Summary: "green is not ready when it is to be tried",
				After: "Service: green by its own address", Break: selector.makeGreenUnready, Catches: Answers,
			},
			{
				Name: "sticky", Summary: "the gateway's route is pinned to blue, so that the switched selector has no effect",
				After: "Service: green by its own address", Break: selector.pin, Catches: Cutover,
			},
			{
				Name: "leftover", Summary: "one request in ten still goes to blue's revision after the switch",
				After: "Knative: switch to green", Break: func(ctx context.Context, l *Session) error {
					return revision.traffic(ctx, l, 10, 90)
				}, Catches: Cutover,
			},
		},
	}, nil
}

// only is the claim that every answer is one color's.
func (s *blueGreenStory) only(color string) split.Claim {
	other := map[string]string{blue: green, green: blue}[color]
	return split.Claim{Legs: []split.Leg{{Name: color, Share: 1}, {Name: other, Share: 0}}, N: s.Requests, Alpha: s.Alpha}
}

// steps are the story's, with more after the rollback.
func (s *blueGreenStory) steps(name string, more ...Step) []Step {
	greens := func(l *Session) probe.Request { return s.own(l, green) }
	steps := []Step{
		{
			Name: name + ": blue serves", Change: s.begin, Check: s.sampled(s.shared, blue),
			Why:      "Blue is the version in use. Everybody calls one shared address, and all of that is blue's.",
			WatchFor: "All answers are blue's. From here on a watcher calls the shared address " + fmt.Sprint(switchRate) + " times a second.",
		},
		{
			Name: name + ": green by its own address", Check: s.sampled(greens, green),
			Change:   func(ctx context.Context, l *Session) error { return s.deploy(ctx, l, green) },
			Why:      "Green starts next to blue and is tried where no user is: at an address of its own.",
			WatchFor: "Green's own address answers green only, while the shared one still answers blue only.",
		},
		{
			Name: name + ": switch to green", Change: s.switchTo(green), Check: s.switched,
			Why:      "One write gives the whole shared address to green. Blue stays, for what is still on its way and for the way back.",
			WatchFor: "How long after the write blue last answered. After the drain window one answer of blue fails.",
		},
		{
			Name: name + ": rollback to blue", Change: s.switchTo(blue), Check: s.switched,
			Why:      "The way back is the same write. It is as fast, because blue never stopped.",
			WatchFor: "The same times, the other way round.",
		},
	}
	return append(append(steps, more...), Step{
		Name: name + ": no request lost", Check: s.lossless,
		Why:      "The watcher is stopped, and its whole record is judged.",
		WatchFor: "How little loss so many requests would have shown.",
	})
}

func (s *blueGreenStory) begin(ctx context.Context, l *Session) error {
	if err := s.way.begin(ctx, l, blue); err != nil {
		return err
	}
	now := time.Now()
	s.turns = []turn{{blue, now, now}}
	s.prober.start(ctx, l, s.shared(l), switchRate)
	return l.until(ctx, "the watcher's first answer", func() string { // a small sample is done sooner
		if len(s.prober.Answers()) == 0 {
			return "none yet"
		}
		return ""
	})
}

// sampled draws a sample at an address, which must be one color's, and judges
// what the watcher has seen of the shared one until then.
func (s *blueGreenStory) sampled(at func(*Session) probe.Request, color string) Check {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		e, err := l.sample(ctx, at(l), s.only(color))
		if err != nil {
			return e, err
		}
		seen, err := s.prober.seen()
		if err != nil {
			return e, err
		}
		if _, err := s.judge(seen); err != nil {
			return e, err
		}
		e.Summary += fmt.Sprintf("; shared address (%s's turn): 0 of %d watched requests lost or of the wrong color",
			s.turns[len(s.turns)-1].color, len(seen))
		return e, nil
	}
}

func (s *blueGreenStory) switchTo(color string) Change {
	return func(ctx context.Context, l *Session) error {
		if s.beforeSwitch != nil {
			if err := s.beforeSwitch(ctx, l); err != nil {
				return err
			}
		}
		if err := s.point(ctx, l, color); err != nil {
			return err
		}
		s.turns = append(s.turns, turn{color, l.newestApply(), time.Now()})
		return nil
	}
}

// switched judges the newest turn: when its drain window is over, a sample is
// drawn, and it and all that the watcher has seen are judged.
func (s *blueGreenStory) switched(ctx context.Context, l *Session) (Evidence, error) {
	now := s.turns[len(s.turns)-1]
	if err := pause(ctx, time.Until(now.active.Add(s.drain))); err != nil {
		return Evidence{}, err
	}
	sample, e, err := l.burst(ctx, l, s.shared(l), s.Requests)
	if err != nil {
		return e, err
	}
	// What the watcher lost comes first: an outage that lasts until the sample is
	// still one of the switch.
	seen, err := s.prober.seen()
	if err != nil {
		return e, err
	}
	if err := e.answered(); err != nil {
		return e, err
	}
	c, err := s.judge(append(seen, sample...))
	if err != nil {
		return e, err
	}
	if c.settled == 0 {
		return e, errors.New("nobody asked after the drain window")
	}
	active, old := now.active.Sub(now.changed), s.turns[len(s.turns)-2].color
	e.Figures = []Figure{{"active", active.Seconds(), "s"}, {"first new answer", c.first.Seconds(), "s"}, {"last old answer", c.last.Seconds(), "s"}}
	e.Summary = fmt.Sprintf("first %s %.2f s, last %s %.2f s after the switch; %s 0 of %d after %.2f s (active %.2f + drain window %.0f): below %.2f %% with %.0f %% confidence; 0 of %d watched requests lost",
		now.color, c.first.Seconds(), old, c.last.Seconds(),
		old, c.settled, (active + s.drain).Seconds(), active.Seconds(), s.drain.Seconds(), 100*split.UpperBound(0, c.settled, confidence), 100*confidence, len(seen))
	return e, nil
}

func (s *blueGreenStory) lossless(ctx context.Context, l *Session) (Evidence, error) {
	e, err := s.prober.lostNone(ctx, l)
	if err == nil {
		_, err = s.judge(s.prober.Stop().Answers)
	}
	return e, err
}

// cutover is how the newest turn was followed: when the new color answered
// first and the old one last, after it was asked for, and how many answers came
// after its drain window.
type cutover struct {
	first, last time.Duration
	settled     int
}

// judge refutes that every answer is from the color whose turn it was or, up to
// the end of the drain window, from the one before.
func (s *blueGreenStory) judge(answers []probe.Answer) (cutover, error) {
	var c cutover
	var wrong []string
	for _, a := range answers {
		came := a.Scheduled.Add(a.Latency)
		n := len(s.turns) - 1
		for n > 0 && came.Before(s.turns[n].changed) {
			n--
		}
		now, since := s.turns[n], came.Sub(s.turns[n].changed)
		old := n > 0 && a.Target == s.turns[n-1].color
		settled := came.After(now.active.Add(s.drain))
		if a.Target != now.color && (!old || settled) {
			wrong = append(wrong, fmt.Sprintf("%q answered %.2f s after the switch to %s, active after %.2f s, with a drain window of %s (request %s)",
				a.Target, since.Seconds(), now.color, now.active.Sub(now.changed).Seconds(), s.drain, a.ID))
		}
		if n < len(s.turns)-1 {
			continue
		}
		if old {
			c.last = max(c.last, since)
		} else if c.first == 0 || since < c.first {
			c.first = since
		}
		if settled {
			c.settled++
		}
	}
	if len(wrong) > 0 {
		return c, refute(Cutover, "%d of %d answers were of the wrong color, the first: %s", len(wrong), len(answers), wrong[0])
	}
	return c, nil
}
