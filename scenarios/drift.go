package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"mllab.local/internal/alerts"
	"mllab.local/internal/split"
)

const (
	// A shift is found in the window that it begins in, or in the next one; other
	// labels, which are harder to see, in one more.
	shiftBound = 2 * driftWindow
	movedBound = 3 * driftWindow

	// Of retrainRows a quarter is held out: so few that a good model may have the accuracy of a bad one, and
	// the gate is lower than elsewhere.
	retrainedGate = 0.8
	retrained     = "retrained" // the TrainJob
	trainBound    = movedBound + retrainRows + 2*driftWindow
)

// quiet is how many windows of each kind the detector looks at while nothing drifts.
func (o Options) quiet() int {
	if o.Short {
		return 3
	}
	return 6
}

type driftStory struct {
	Options
	edits []edit // a control's, of the code
	detector
	first  modelFiles
	alerts bool // the lab has Alertmanager
	prober prober
}

// drift: a detector stays silent while nothing changes, names the feature that
// shifts, notices that the labels are others, and has the model trained again.
var drift = Scenario{
	Name:    "drift",
	Summary: "a detector names what drifts, and has the model trained again",
	Needs:   []string{"kubeflow", "knative"},
	New:     newDrift,
}

func newDrift(o Options) (*Plan, error) {
	s := &driftStory{Options: o}
	return &Plan{
		Steps: []Step{
			{
				Name: "no drift", Change: s.deploy,
				Check: s.once(func(d detected) bool {
					return len(d.Alarms) > 0 || d.Looks[covariate] >= s.quiet() && d.Looks[concept] >= s.quiet()
				}, s.judgeSilence),
				Why: fmt.Sprintf("A model is served with the rows of its training next to it. A detector reads what the model is asked, %d rows at a time. "+
					"Each test that it makes may be wrong, so they share one error rate, however many there are.", driftWindow),
				WatchFor: "It looks again and again, and never alarms. The smallest p-value of all features and looks is corrected for their number.",
			},
			{
				Name:     "one feature shifts",
				Why:      fmt.Sprintf("%q is %g times as large from now on, as if a device measured in another unit. Nobody knows the true labels yet.", shiftedFeature, shiftedBy),
				WatchFor: "The alarm names this feature and no other of them. How many requests it took, at most how many it may take, and how likely it would have missed the shift.",
				Change:   func(context.Context, *Session) error { s.users.drift(true, false); return nil },
				Check: s.once(func(d detected) bool {
					return len(d.Alarms) > 0 || s.drifted(covariate, d.Looks[covariate]) >= shiftBound
				}, s.judgeShift),
			},
			{
				Name: "the labels change",
				Why: fmt.Sprintf("The device is repaired. But a %q above %d is malignant from now on: the same rows have other labels, which come %d requests later. "+
					"No look at the rows can show that.", movedFeature, movedLimit, labelsLate),
				WatchFor: "The accuracy on labeled rows against that on held-out rows: an alarm of concept drift, and none about a feature.",
				Change:   func(context.Context, *Session) error { s.users.drift(false, true); return nil },
				Check: s.once(func(d detected) bool {
					return slices.ContainsFunc(d.Alarms, driftAlarm.isConcept) || s.drifted(concept, d.Looks[concept]) >= movedBound
				}, s.judgeMoved),
			},
			{
				Name: "the model is trained again", Change: s.retrain, Check: s.recovered,
				Why:      fmt.Sprintf("After %d labels of the new kind the detector itself creates a TrainJob with those rows; its account may create nothing else. The new model is deployed.", retrainRows),
				WatchFor: "The accuracy before, during and after, each with its interval, and a test whether the last two differ.",
			},
			s.prober.lastStep("Another model, too, may cost no request."),
		},
		Controls: []Control{
			s.control("blind", "the detector looks at the training rows instead of the users'", "detector.py",
				"rows = np.array([self.captured[each][0] for each in newest], float)", "rows = self.reference", Alarm),
			s.control("jumpy", "the detector corrects no p-value, and takes every other one for small", "detector.py",
				"if p[name] <= self.alpha", "if pvalues[name] <= 0.5", Calm),
			s.control("wrong-feature", "the detector names the next feature", "detector.py",
				"dict(zip(self.features, p))", "dict(zip(self.features[1:] + self.features[:1], p))", Cause),
			s.control("flattered", "the detector takes every prediction for right", "detector.py",
				"row, label, prediction == label", "row, label, True", Alarm),
			s.control("old-rows", "the training takes the rows of the first one", trainingFile,
				"fetch(a.rows) if a.rows else None", "None", Recovery),
		},
	}, nil
}

// control is one that puts another text into a file of the code.
func (s *driftStory) control(name, summary, file, from, to string, catches Claim) Control {
	return Control{Name: name, Summary: summary, Break: set(&s.edits, []edit{{file, from, to}}), Catches: catches}
}

// deploy trains the model, serves it with its detector, and lets the users come.
func (s *driftStory) deploy(ctx context.Context, l *Session) error {
	code, err := l.code(s.edits, "scenarios/drift/detector.py")
	if err != nil {
		return err
	}
	rows := fmt.Sprintf("http://drift.%s.svc.cluster.local/labeled", l.Namespace)
	job, err := render("train/trainjob.yaml", trainJob{retrained, 1, trainArgs(0, "--reference", "--rows", rows,
		"--threshold", fmt.Sprint(retrainedGate), "--push", repository(l))})
	if err != nil {
		return err
	}
	text, err := json.Marshal(job[0])
	if err != nil {
		return err
	}
	code.Object["data"].(map[string]any)["trainjob.json"] = string(text)
	if err := l.apply(ctx, code); err != nil {
		return err
	}
	if s.first, err = l.train(ctx, "first", "--reference"); err != nil {
		return err
	}
	if s.users, err = newPopulation(l, s.first); err != nil {
		return err
	}
	if err := s.serve(ctx, l, s.Alpha, "first", s.first); err != nil {
		return err
	}
	s.prober.startBy(ctx, l, s.users, l.to("model"), watchRate)
	return nil
}

// once judges what the detector knows, as soon as that is enough.
func (s *driftStory) once(enough func(detected) bool, judge func(detected) (Evidence, error)) Check {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		d, err := s.follow(ctx, l, func(d detected) (bool, error) { return enough(d), nil })
		if err != nil {
			return Evidence{}, err
		}
		return judge(d)
	}
}

// retrain waits for the training that the detector starts, and deploys its model.
func (s *driftStory) retrain(ctx context.Context, l *Session) error {
	state := ""
	if _, err := s.follow(ctx, l, func(d detected) (_ bool, err error) {
		state, err = l.stateOf(ctx, retrained)
		return state != "" && state != absent || state == absent && s.drifted(concept, d.Looks[concept]) >= trainBound, err
	}); err != nil {
		return err
	}
	if state == absent {
		return refute(Recovery, "the detector has started no training %d requests after the labels have changed", trainBound)
	}
	workers, err := l.workers(ctx, trainJob{Name: retrained, Workers: 1})
	if err != nil {
		return err
	}
	if state != "Complete" {
		return refute(Recovery, "the training that the detector started has not completed: %s", workers[0].says())
	}
	if s.alerts, err = l.hasAlertmanager(ctx); err == nil && s.alerts {
		err = s.alert(ctx, l, true)
	}
	if err != nil {
		return err
	}
	again, err := l.pull(ctx, workers[0]["push"].Image)
	if err != nil {
		return err
	}
	return s.serve(ctx, l, s.Alpha, retrained, again)
}

func (s *driftStory) recovered(ctx context.Context, l *Session) (Evidence, error) {
	d, err := s.follow(ctx, l, func(d detected) (bool, error) { return len(d.Alarms) > 0 || d.Looks[concept] >= 2, nil })
	if err != nil {
		return Evidence{}, err
	}
	e, err := s.judgeRecovery(d)
	if err != nil || !s.alerts {
		return e, err
	}
	e.Summary += "; alert " + alerts.ModelDrift + " has fired, and has ended"
	return e, s.alert(ctx, l, false)
}

// judgeSilence refutes that nothing alarms.
func (s *driftStory) judgeSilence(d detected) (Evidence, error) {
	e := Evidence{Summary: fmt.Sprintf("%d windows of rows (smallest corrected p %.2g), %d of labels (%.2g), %d alarms; it ever alarms with probability at most %g; accuracy %s",
		d.Looks[covariate], d.Smallest[covariate], d.Looks[concept], d.Smallest[concept], len(d.Alarms), s.Alpha,
		inPercent(s.users.accuracy(func(a asked) bool { return !a.shifted && !a.moved })))}
	if len(d.Alarms) > 0 {
		return e, refute(Calm, "nothing drifts, and the detector alarms: %s", d.Alarms[0])
	}
	return e, nil
}

// judgeShift refutes that the first alarm is about the shifted feature alone.
func (s *driftStory) judgeShift(d detected) (Evidence, error) {
	apart := s.users.distance(s.first)
	missed := missedShift(apart, d.Critical)
	e := Evidence{Summary: fmt.Sprintf("the distributions are %.2f apart, and %.2f is enough: a whole window misses that with probability below %.2g", apart, d.Critical, missed)}
	if len(d.Alarms) == 0 {
		return e, refute(Alarm, "%d requests after %q has shifted there is no alarm; a whole window misses it with probability below %.2g", shiftBound, shiftedFeature, missed)
	}
	a := d.Alarms[0]
	delay := s.drifted(covariate, a.Look)
	e.Summary = fmt.Sprintf("%s, at most %d requests after the shift; %s", a, shiftBound, e.Summary)
	e.Figures = []Figure{{"delay", float64(delay), "requests"}}
	switch {
	case a.Kind != covariate || !slices.Equal(a.Features, []string{shiftedFeature}):
		return e, refute(Cause, "%q has shifted, and the alarm is %s", shiftedFeature, a)
	case delay > shiftBound:
		return e, refute(Alarm, "the alarm came %d requests after the shift, later than %d", delay, shiftBound)
	}
	return e, nil
}

// judgeMoved refutes that the labels alarm, and no feature does.
func (s *driftStory) judgeMoved(d detected) (Evidence, error) {
	e := Evidence{Summary: "accuracy " + inPercent(s.users.accuracy(func(a asked) bool { return a.moved }))}
	for _, a := range d.Alarms {
		if a.Kind == covariate && s.users.after(a.First, func(a asked) bool { return a.shifted }) {
			return e, refute(Cause, "no feature shifts any more, and the alarm is %s", a)
		}
	}
	i := slices.IndexFunc(d.Alarms, driftAlarm.isConcept)
	if i < 0 {
		return e, refute(Alarm, "of %d requests the labels are others, and there is no alarm; %s", movedBound, e.Summary)
	}
	delay := s.drifted(concept, d.Alarms[i].Look)
	e.Figures = []Figure{{"delay", float64(delay), "requests"}}
	e.Summary = fmt.Sprintf("%s, by the labels of at most %d requests, which come %d requests late; %s", d.Alarms[i], movedBound, labelsLate, e.Summary)
	if delay > movedBound {
		return e, refute(Alarm, "the alarm needed the labels of %d requests, more than %d", delay, movedBound)
	}
	return e, nil
}

// judgeRecovery refutes that the new model is right more often than the old one
// was, by Fisher's exact test, and as often as its own held-out rows say.
func (s *driftStory) judgeRecovery(d detected) (Evidence, error) {
	before := s.users.accuracy(func(a asked) bool { return !a.shifted && !a.moved })
	during := s.users.accuracy(func(a asked) bool { return a.moved && a.model == s.first.Model })
	after := s.users.accuracy(func(a asked) bool { return a.moved && a.model == s.model.Model })
	e := Evidence{Summary: fmt.Sprintf("accuracy before %s, during %s, after %s", inPercent(before), inPercent(during), inPercent(after))}
	c, err := split.Compare(during, after, s.Alpha)
	if err != nil {
		return e, err
	}
	e.Summary += fmt.Sprintf(" (p %.2g, alpha %g)", c.P, s.Alpha)
	switch {
	case c.Conclusion != split.BMore:
		return e, refute(Recovery, "the model that was trained again is not shown to be better: %s", e.Summary)
	case len(d.Alarms) > 0:
		return e, refute(Recovery, "the model that was trained again drifts, too: %s", d.Alarms[0])
	}
	return e, nil
}

// inPercent is a share with its interval.
func inPercent(a split.Arm) string {
	low, high := split.Interval(a.Converted, a.Users, confidence)
	return fmt.Sprintf("%.1f %% (%.1f..%.1f) of %d", 100*float64(a.Converted)/float64(max(1, a.Users)), 100*low, 100*high, a.Users)
}
