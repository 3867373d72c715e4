package scenarios

import (
	"fmt"
	"math"
	"slices"

	"mllab.local/internal/split"
)

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

// missedShift bounds how likely a window of users' rows whose distribution is that
// far apart from the training rows' comes not as near to it as alarms: at the point
// where they are farthest apart, it is Hoeffding's inequality.
// https://doi.org/10.1080/01621459.1963.10500830
func missedShift(apart, critical float64) float64 {
	return math.Exp(-2 * driftWindow * math.Pow(max(0, apart-critical), 2))
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
