package scenarios

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

// counted judges who answers while v2 of each of these models has this weight.
func (s *progressiveStory) counted(weight int, names ...string) func(context.Context, *Session) (Evidence, error) {
	return func(ctx context.Context, l *Session) (all Evidence, err error) {
		var says []string
		for _, m := range s.models.those(names...) {
			c := s.claim(shares(weight))
			if m.env != nil {
				c.N = min(c.N, badRequests)
			} else if m.over() {
				return s.promoted(ctx, l)
			}
			e, err := m.sample(ctx, l, &audience{}, weight, c)
			says = append(says, m.name+": "+e.Summary)
			all, all.Summary = e, strings.Join(says, "; ")
			if err != nil {
				return all, err
			}
		}
		if len(says) == 0 {
			return Evidence{Summary: leftOut}, nil
		}
		all.Summary += fmt.Sprintf("; alpha %.0e each", s.Alpha)
		return all, nil
	}
}

// promoted is what must come of the good version.
func (s *progressiveStory) promoted(ctx context.Context, l *Session) (Evidence, error) {
	return s.ended("good", flaggerSucceeded, "", Promotion)(ctx, l)
}

// ended holds Flagger's words against the answers: it must have ended as
// delivered.ended says, and the version that answers must be the one it says.
func (s *progressiveStory) ended(name, phase, why string, claim Claim) func(context.Context, *Session) (Evidence, error) {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		those := s.models.those(name)
		if len(those) == 0 {
			return Evidence{Summary: leftOut}, nil
		}
		m, weight := those[0], 0
		if phase == flaggerSucceeded {
			weight = 100
		}
		words, err := m.ended(ctx, l, phase, why, claim)
		if err != nil {
			return Evidence{}, err
		}
		var e Evidence
		for _, u := range usersOf(s.Strategy) {
			if u.atCanary {
				continue
			}
			e, err = l.sample(ctx, u.request(l, m), s.claim(shares(weight)))
			if refuted := (*ClaimError)(nil); errors.As(err, &refuted) {
				err = refute(claim, "Flagger ended with %s, and the answers say: %s", phase, strings.Join(refuted.Reasons, ", "))
			}
			if err != nil {
				return e, err
			}
		}
		e.Summary = "Flagger: " + words + "; " + e.Summary
		return e, nil
	}
}

// loss stops the watchers, and judges what the users lost.
func (s *progressiveStory) loss(ctx context.Context, l *Session) (all Evidence, err error) {
	var says []string
	for _, m := range s.models {
		for _, u := range m.users {
			e, lost := u.prober.lostNone(ctx, l)
			if u.atCanary {
				continue
			}
			e.Summary, lost = s.excused(m, u, u.prober.Stop().Answers, e, lost)
			says = append(says, m.name+", "+u.name+": "+e.Summary)
			all, all.Summary = e, strings.Join(says, "; ")
			err = cmp.Or(err, lost) // all answers are kept as evidence
		}
	}
	return all, err
}

// excused judges what users of a model lost: nothing, but of the version that errs,
// and of that no more than its share explains. Those of whom a bad version has no
// share, it must not have answered at all.
func (s *progressiveStory) excused(m *delivered, u *audience, sent []probe.Answer, e Evidence, lost error) (summary string, err error) {
	var refuted *ClaimError
	i := slices.IndexFunc(sent, func(a probe.Answer) bool { return a.Target == "v2" })
	switch {
	case m.env != nil && u.first == 0 && i >= 0:
		return e.Summary, refute(Answers, "%s, %s: v2 has answered one of them (request %s)", m.name, u.name, sent[i].ID)
	case m.env["FAIL_PERCENT"] != "" && u.first > 0 && errors.As(lost, &refuted):
		return s.explained(m, u, sent, e.Tally.Failed)
	}
	return e.Summary, lost
}

// explained refutes that users lost no more than v2 loses at its first share.
func (s *progressiveStory) explained(m *delivered, u *audience, sent, lost []probe.Answer) (summary string, err error) {
	for _, a := range lost {
		if !m.errs(a) {
			return "", refute(NoLoss, "a request was lost, and not by the version that errs: %s (request %s)", a.Problem(), a.ID)
		}
	}
	exposed := 0
	for _, a := range sent {
		if a.Scheduled.After(m.changed) && a.Scheduled.Before(m.end) {
			exposed++
		}
	}
	_, most, err := split.Between(exposed, 0, float64(u.first*progressiveFails)/1e4, s.Alpha)
	if err != nil {
		return "", err
	}
	summary = fmt.Sprintf("%d requests were lost, all by v2; at most %d of the %d until Flagger took it back are accepted", len(lost), most, exposed)
	if len(lost) > most {
		return summary, refute(NoLoss, "%s", summary)
	}
	return summary, nil
}
