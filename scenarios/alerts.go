package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"mllab.local/internal/alerts"
	"mllab.local/sampleapp/api"
)

const (
	alertedFails  = 50
	alertedSlow   = 2 * alerts.MaxLatency
	filledPercent = 95 // of the volume of the one that is full
	// movedErrors and movedDisk are the thresholds that hide what the failing model
	// does, and that a volume is full.
	movedErrors = 90
	movedDisk   = 98

	// calmFor is how long nothing may fire while nothing is wrong: as long as a rule
	// takes that finds something in each of its looks.
	calmFor = alerts.Window + alerts.For + 5*time.Second

	receiver = "receiver"
)

type alertsStory struct {
	Options
	troubles []*trouble
	calm     time.Duration
	hidden   bool   // by thresholds that no fault passes
	notified string // what the Service selects that Alertmanager notifies
	pod      string // of the receiver
}

// alertsScenario: each kind of fault fires its own alert, which reaches a receiver
// in the lab, and ends when the fault does; what is well causes none.
var alertsScenario = Scenario{
	Name:             "alerts",
	Summary:          "errors, slowness, no users, a full volume and a hang alert somebody in time",
	Needs:            []string{"istio", "alertmanager"},
	Serial:           true,
	ParallelControls: true,
	New:              newAlerts,
}

func newAlerts(o Options) (*Plan, error) {
	s := &alertsStory{Options: o, calm: calmFor, notified: receiver, troubles: []*trouble{
		{model: "erring", alert: alerts.ModelErrors, wrong: faults{FailPercent: new(float64(alertedFails))}, well: faults{FailPercent: new(0.0)}, users: true, within: alerts.For + alertSlack},
		{model: "slow", alert: alerts.ModelSlow, wrong: faults{Delay: alertedSlow.String()}, well: faults{Delay: "0s"}, users: true, within: alerts.For + alertSlack},
		{model: "left", alert: alerts.ModelUnused, users: true, leave: true, within: alerts.Window + alerts.For + alertSlack},
		{model: "hanging", alert: alerts.ReplicaDown, wrong: faults{Hang: new(true)}, well: faults{Hang: new(false)}, within: alerts.For + alertSlack},
		{model: "full", alert: alerts.DiskFull, wrong: faults{FillPercent: new(float64(filledPercent))}, well: faults{FillPercent: new(0.0)}, within: alerts.For + alertSlack},
		{model: "well", users: true},
	}}
	return &Plan{
		SeveralModels: true,
		Steps: []Step{
			{
				Name: "all is well", Change: s.deploy, Check: s.silent,
				Why:      fmt.Sprintf("Six models, and a receiver that Alertmanager notifies of this namespace. Prometheus looks at its rules every %s.", alerts.Every),
				WatchFor: fmt.Sprintf("For %s no alert comes. A rule that cries without need is soon ignored.", calmFor),
			},
			{
				Name: "each fault alerts", Change: s.turn(true), Check: s.until("firing"),
				Why: fmt.Sprintf("One model answers %d %% of its requests with an error, one takes %s, one loses its users, one hangs, and the volume of one is %d %% full. "+
					"An alert is pending for %s before it fires: a short trouble wakes nobody.", alertedFails, alertedSlow, filledPercent, alerts.For),
				WatchFor: "One alert for each fault, how long it took to the receiver, and none for the model that is well.",
			},
			{
				Name: "each alert ends", Change: s.turn(false), Check: s.until("resolved"),
				Why:      fmt.Sprintf("The faults are taken back. A rule about requests still sees the bad ones of the last %s.", alerts.Window),
				WatchFor: "The receiver learns that each is resolved.",
			},
		},
		Controls: []Control{
			{
				Name: "threshold", Summary: fmt.Sprintf("the rule about errors compares with %d %%, and the one about disks with %d %%", movedErrors, movedDisk),
				Break: func(ctx context.Context, l *Session) error {
					s.only("erring", "full")
					s.hidden = true
					moved := alerts.Default
					moved.ErrorPercent, moved.DiskPercent = movedErrors, movedDisk
					l.removal(func(ctx context.Context) error { return l.setRules(ctx, alerts.Default) })
					return l.setRules(ctx, moved)
				},
				Catches: Alarm,
			},
			{
				Name: "unheard", Summary: "the Service that Alertmanager notifies has no pod behind it",
				// Not the model of the other control, which may run in parallel.
				Break:   func(context.Context, *Session) error { s.only("slow"); s.notified = "nobody"; return nil },
				Catches: Alarm,
			},
		},
	}, nil
}

// only leaves the other models out of a control, and the watch before the fault.
func (s *alertsStory) only(models ...string) {
	s.troubles = slices.DeleteFunc(s.troubles, func(t *trouble) bool { return !slices.Contains(models, t.model) })
	s.calm = 0
}

// deploy brings the models, their users and the receiver.
func (s *alertsStory) deploy(ctx context.Context, l *Session) error {
	type place struct {
		Name, Host string
		Volume     bool
	}
	var models []place
	for _, t := range s.troubles {
		models = append(models, place{t.model, l.host(t.model), t.wrong.FillPercent != nil})
	}
	err := l.applyFile(ctx, "alerts/models.yaml", map[string]any{
		"Image": l.Image, "Namespace": l.Namespace, "Scrape": scrapeEvery.String(), "AdminPort": adminPort, "Notified": s.notified,
		"Models": append(models, place{Name: receiver}),
	})
	if err != nil {
		return err
	}
	if s.pod, err = l.podOf(ctx, map[string]string{"app": receiver}); err != nil {
		return err
	}
	for _, t := range s.troubles {
		if t.pod, err = l.podOf(ctx, map[string]string{"app": t.model}); err != nil {
			return err
		}
		r := l.to(t.model)
		r.URL += "/readyz" // what nobody uses has no requests
		if err := l.answers(ctx, r); err != nil {
			return err
		}
		if t.users {
			t.prober.start(ctx, l, l.to(t.model), alertsRate)
		}
	}
	return nil
}

func (s *alertsStory) heard(ctx context.Context, l *Session) (all []api.Alert, err error) {
	err = l.askPod(ctx, s.pod, "alerts", "the alerts of Pod/"+s.pod, &all)
	return all, err
}

// silent watches that nothing comes while nothing is wrong.
func (s *alertsStory) silent(ctx context.Context, l *Session) (Evidence, error) {
	if err := pause(ctx, s.calm); err != nil {
		return Evidence{}, err
	}
	all, err := s.heard(ctx, l)
	if err != nil {
		return Evidence{}, err
	}
	return s.judgeSilence(all)
}

// judgeSilence refutes that nothing came.
func (s *alertsStory) judgeSilence(all []api.Alert) (Evidence, error) {
	e := Evidence{Summary: fmt.Sprintf("%d alerts in %s", len(all), s.calm)}
	if len(all) > 0 {
		return e, refute(Calm, "nothing was wrong, and the receiver got: %s", inWords(all[0]))
	}
	return e, nil
}

// wrong are the models that are there to go wrong.
func (s *alertsStory) wrong() []*trouble {
	return slices.DeleteFunc(slices.Clone(s.troubles), func(t *trouble) bool { return t.alert == "" })
}

// turn makes every model wrong that is there to go wrong, or well again.
func (s *alertsStory) turn(wrong bool) Change {
	return func(ctx context.Context, l *Session) error {
		for _, t := range s.wrong() {
			if err := t.turn(ctx, l, wrong); err != nil {
				return err
			}
		}
		return nil
	}
}

// until asks the receiver until it knows that each alert has this status, or
// the last one is late, and then judges what it got.
func (s *alertsStory) until(status string) Check {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		all, err := s.await(ctx, l, status)
		if err != nil {
			return Evidence{}, err
		}
		file, err := l.keepJSON(all)
		if err != nil {
			return Evidence{}, err
		}
		e, err := s.judge(all, status)
		e.File = file
		return e, err
	}
}

// await returns what the receiver got until it knew of each alert with this status,
// or the last one was late.
func (s *alertsStory) await(ctx context.Context, l *Session, status string) (all []api.Alert, err error) {
	var last time.Time
	for _, t := range s.wrong() {
		if end := t.at.Add(t.within); end.After(last) {
			last = end
		}
	}
	var unheard error
	err = l.untilEvery(ctx, followEvery, "the receiver", func() string {
		missing := []string{"it does not answer"}
		if all, unheard = s.heard(ctx, l); unheard == nil {
			missing = s.missing(all, status)
		}
		if len(missing) > 0 && time.Now().Before(last) {
			return strings.Join(missing, ", ")
		}
		return ""
	})
	return all, errors.Join(err, unheard)
}

// missing are the alerts that the receiver does not know of yet.
func (s *alertsStory) missing(all []api.Alert, status string) (missing []string) {
	for _, t := range s.wrong() {
		if _, known := t.first(all, status); !known {
			missing = append(missing, fmt.Sprintf("%s of %s is not %s", t.alert, t.model, status))
		}
	}
	return missing
}

// judge refutes that the receiver got each alert in time, and no other.
func (s *alertsStory) judge(all []api.Alert, status string) (Evidence, error) {
	var e Evidence
	var says []string
	late := &ClaimError{Claim: Alarm}
	for _, t := range s.wrong() {
		when, known := t.first(all, status)
		took, that := when.Sub(t.at), fmt.Sprintf("that %s of %s is %s", t.alert, t.model, status)
		switch {
		case !known:
			late.Reasons = append(late.Reasons, fmt.Sprintf("the receiver was not notified within %s %s", t.within, that))
		case took < 0:
			late.Reasons = append(late.Reasons, fmt.Sprintf("the receiver was notified %s %.1f s before there was a cause", that, -took.Seconds()))
		case took > t.within:
			late.Reasons = append(late.Reasons, fmt.Sprintf("the receiver was notified after %.1f s %s: later than %s", took.Seconds(), that, t.within))
		default:
			says = append(says, fmt.Sprintf("%s after %.1f s (at most %s)", t.alert, took.Seconds(), t.within))
			e.Figures = append(e.Figures, Figure{t.alert + " " + status, took.Seconds(), "s"})
		}
	}
	e.Summary = status + ": " + strings.Join(says, ", ")
	for _, a := range all {
		if s.hidden || !slices.ContainsFunc(s.troubles, func(t *trouble) bool { return t.about(a) }) {
			return e, refute(Calm, "the receiver got what nothing has caused: %s", inWords(a))
		}
	}
	if len(late.Reasons) > 0 {
		return e, late
	}
	return e, nil
}
