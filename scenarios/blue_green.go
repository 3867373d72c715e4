package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

// The two colors, which are also what their pods answer.
const (
	blue  = "blue"
	green = "green"
)

// switchRate is how many requests per second watch a switch: with 95 % they see
// an outage of 20 ms.
const switchRate = 150

// drainWindow is how long after a switch is active the old color may still
// answer. Active is what Kubernetes or Knative says; the gateway learns of a
// Service's new endpoints only after that, some tenths of a second on two idle
// cores.
const drainWindow = 5 * time.Second

// way is a way to run two colors behind one shared address. Each of its
// functions returns when what it does is active.
type way interface {
	shared(l *Session) probe.Request
	own(l *Session, color string) probe.Request
	begin(ctx context.Context, l *Session, color string) error  // has the shared address served by the first color
	deploy(ctx context.Context, l *Session, color string) error // next to the first one, at its own address
	point(ctx context.Context, l *Session, color string) error  // switches the shared address
}

// blueGreenStory is one way's: green is tried next to blue, and the shared
// address is switched and switched back. A watcher runs through all of it.
type blueGreenStory struct {
	Options
	way
	drain        time.Duration
	prober       prober
	turns        []turn
	beforeSwitch func(ctx context.Context, l *Session) error // what a control does wrong then, if any
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
func blueGreen() Scenario {
	return Scenario{
		Name:    "blue-green",
		Summary: "two versions side by side: all traffic is switched at once, and back",
		Needs:   []string{"istio", "knative"},
		Serial:  true,
		New:     newBlueGreen,
	}
}

// newBlueGreen plans one run.
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
				Break: func(context.Context, *Session) error {
					first.beforeSwitch = selector.removeBlueInUse
					return nil
				}, Catches: NoLoss,
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
			Name: name + ": green by its own address", Change: s.deployGreen, Check: s.sampled(greens, green),
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

func (s *blueGreenStory) deployGreen(ctx context.Context, l *Session) error {
	return s.deploy(ctx, l, green)
}

// sampled draws a sample at an address, which must be one color's, and judges
// what the watcher has seen of the shared one until then.
func (s *blueGreenStory) sampled(at func(*Session) probe.Request, color string) func(context.Context, *Session) (Evidence, error) {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		e, err := l.sample(ctx, at(l), s.only(color))
		if err != nil {
			return e, err
		}
		seen, err := s.answersSoFar()
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

func (s *blueGreenStory) switchTo(color string) func(context.Context, *Session) error {
	return func(ctx context.Context, l *Session) error {
		if s.beforeSwitch != nil {
			if err := s.beforeSwitch(ctx, l); err != nil {
				return err
			}
		}
		if err := s.point(ctx, l, color); err != nil {
			return err
		}
		s.turns = append(s.turns, turn{color, l.lastApply, time.Now()})
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
	sample, e, err := l.burst(ctx, s.shared(l), s.Requests)
	if err != nil {
		return e, err
	}
	// What the watcher lost comes first: an outage that lasts until the sample is
	// still one of the switch.
	seen, err := s.answersSoFar()
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

// answersSoFar returns the watcher's answers until now. It refutes no-loss if one of
// them is lost.
func (s *blueGreenStory) answersSoFar() ([]probe.Answer, error) {
	seen := s.prober.Answers()
	if len(seen) == 0 {
		return nil, errors.New("the watcher has seen nothing")
	}
	if refuted := lost(NoLoss, probe.Count(seen)); refuted != nil {
		return nil, refuted
	}
	return seen, nil
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

// selectorWay switches by the selector of a plain Kubernetes Service, which the
// gateway reaches by a VirtualService. The colors are Deployments.
type selectorWay struct{ name string }

func (w selectorWay) shared(l *Session) probe.Request { return l.to(w.name) }

func (w selectorWay) own(l *Session, color string) probe.Request { return l.to(w.name + "-" + color) }

func (w selectorWay) model(color string) model {
	return model{Name: w.name, Version: color, Env: map[string]string{
		"ADMIN_PORT": fmt.Sprint(adminPort),
		// A color is removed when nobody asks it any more.
		"DRAIN": "1s",
	}}
}

func (w selectorWay) begin(ctx context.Context, l *Session, color string) error {
	if err := w.deploy(ctx, l, color); err != nil {
		return err
	}
	if err := w.point(ctx, l, color); err != nil {
		return err
	}
	return w.route(ctx, l, w.name, w.name)
}

func (w selectorWay) deploy(ctx context.Context, l *Session, color string) error {
	deployment, err := l.deployment(w.model(color))
	if err != nil {
		return err
	}
	own := w.name + "-" + color
	if err := w.service(ctx, l, own, color, deployment); err != nil {
		return err
	}
	return w.route(ctx, l, own, own)
}

func (w selectorWay) point(ctx context.Context, l *Session, color string) error {
	return w.service(ctx, l, w.name, color)
}

func (w selectorWay) removeBlue(ctx context.Context, l *Session) error {
	deployment, err := l.deployment(w.model(blue))
	if err != nil {
		return err
	}
	return l.remove(ctx, deployment)
}

// service has a Service select a color, applied with other objects, and returns when
// its endpoints are that color's pods and no others.
func (w selectorWay) service(ctx context.Context, l *Session, name, color string, with ...*unstructured.Unstructured) error {
	objs, err := render("blue-green/service.yaml", map[string]string{"Name": name, "Version": color})
	if err != nil {
		return err
	}
	if err := l.apply(ctx, append(with, objs...)...); err != nil {
		return err
	}
	return l.until(ctx, "the endpoints of Service/"+name, func() string {
		pods, err := w.endpoints(ctx, l, name)
		switch {
		case err != nil:
			return err.Error()
		case len(pods) == 0:
			return "none is ready"
		}
		if i := slices.IndexFunc(pods, func(pod string) bool { return !strings.HasPrefix(pod, w.name+"-"+color+"-") }); i >= 0 {
			return "Pod/" + pods[i] + " is one"
		}
		return ""
	})
}

// endpoints are the pods that a Service's EndpointSlices call ready.
func (w selectorWay) endpoints(ctx context.Context, l *Session, service string) ([]string, error) {
	var list discoveryv1.EndpointSliceList
	if err := l.Kube.List(ctx, &list, client.InNamespace(l.Namespace), client.MatchingLabels{discoveryv1.LabelServiceName: service}); err != nil {
		return nil, fmt.Errorf("listing the endpoints of Service/%s: %w", service, err)
	}
	var pods []string
	for _, slice := range list.Items {
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && *e.Conditions.Ready && e.TargetRef != nil {
				pods = append(pods, e.TargetRef.Name)
			}
		}
	}
	return pods, nil
}

// route brings a name at the gateway to a Service.
func (w selectorWay) route(ctx context.Context, l *Session, name, service string) error {
	return l.route(ctx, "blue-green/route.yaml", l.to(name), func(state routeState) any {
		return struct {
			routeState
			Name, Service string
		}{state, name, service}
	})
}

// pin takes the shared address past its Service.
func (w selectorWay) pin(ctx context.Context, l *Session) error {
	return w.route(ctx, l, w.name, w.name+"-"+blue)
}

// removeBlueInUse does it while the shared address is blue's.
func (w selectorWay) removeBlueInUse(ctx context.Context, l *Session) error {
	if err := w.removeBlue(ctx, l); err != nil {
		return err
	}
	return l.untilFails(ctx, w.shared(l))
}

// makeGreenUnready has its readiness probe fail.
func (w selectorWay) makeGreenUnready(ctx context.Context, l *Session) error {
	pods, err := l.Kube.Pods(ctx, l.Namespace, w.model(green).labels())
	if err != nil {
		return err
	}
	ready := false
	for _, p := range pods {
		if err := l.breakPod(ctx, p.Name, faults{Ready: &ready}); err != nil {
			return err
		}
	}
	return l.untilFails(ctx, w.own(l, green))
}

// untilFails returns when what a control has broken can be seen.
func (l *Session) untilFails(ctx context.Context, r probe.Request) error {
	return l.until(ctx, r.Host+" to fail", func() string {
		if l.send.Send(ctx, r).OK() {
			return "it is answered"
		}
		return ""
	})
}

// revisionWay switches by the traffic of a Knative Service. The colors are its
// revisions, each with a tag.
type revisionWay struct{ *revisions }

func (w *revisionWay) shared(l *Session) probe.Request { return l.to(w.name()) }

func (w *revisionWay) own(l *Session, color string) probe.Request {
	return l.to(color + "-" + w.name())
}

func (w *revisionWay) begin(ctx context.Context, l *Session, color string) error {
	w.add(color, nil)
	return w.traffic(ctx, l, 100)
}

func (w *revisionWay) deploy(ctx context.Context, l *Session, color string) error {
	w.add(color, nil)
	return w.traffic(ctx, l, 100, 0)
}

func (w *revisionWay) point(ctx context.Context, l *Session, color string) error {
	percents := make([]int64, len(w.order))
	percents[slices.Index(w.order, color)] = 100
	return w.traffic(ctx, l, percents...)
}
