package scenarios

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

// counted judges who answers while v2 of each of these models has this weight.
func (s *progressiveStory) counted(weight int, names ...string) Check {
	return func(ctx context.Context, l *Session) (all Evidence, err error) {
		for _, m := range s.models.those(names...) {
			c := s.claim(weight)
			if m.env != nil {
				c.N = min(c.N, badRequests)
			} else if m.over() {
				return s.promoted(ctx, l)
			}
			e, err := m.sample(ctx, l, &audience{}, weight, c)
			e.Summary = m.name + ": " + e.Summary
			all = e.after(all.Summary)
			if err != nil {
				return all, err
			}
		}
		if all.Summary == "" {
			return Evidence{Summary: leftOut}, nil
		}
		all.Summary += fmt.Sprintf("; alpha %.0e each", s.Alpha)
		return all, nil
	}
}

// tries is the one step of a strategy that gives v2 no weights.
func (s *progressiveStory) tries(gets string) Step {
	return Step{
		Name: "v2 is tried", Change: s.deliver, Check: s.tried,
		Why: gets + "A webhook that nobody answers holds the good one before its promotion, until the answers are counted.",
		WatchFor: map[string]string{
			strategyAB:        "Those with the header or the cookie get v2, and nobody else does.",
			strategyBlueGreen: "No user gets v2; those who try it do so at an address of its own.",
			strategyMirror:    "No user gets v2, and it receives a copy of each request, once.",
		}[s.Strategy],
	}
}

// tried judges who answers each kind of users while Flagger waits before the good
// version's promotion.
func (s *progressiveStory) tried(ctx context.Context, l *Session) (all Evidence, err error) {
	for _, m := range s.models.those("good") {
		if m.over() {
			return s.promoted(ctx, l)
		}
		for _, u := range m.users {
			e, err := m.sample(ctx, l, u, 0, s.claim(u.first))
			e.Summary = u.name + ": " + e.Summary
			all = e.after(all.Summary)
			if err != nil {
				return all, err
			}
		}
	}
	if all.Summary == "" {
		return Evidence{Summary: leftOut}, nil
	}
	if s.Strategy == strategyMirror {
		all.Summary += ", and received a copy of each"
	}
	return all, nil
}

// promoted is what must come of the good version.
func (s *progressiveStory) promoted(ctx context.Context, l *Session) (Evidence, error) {
	return s.ended("good", flaggerSucceeded, "", Promotion)(ctx, l)
}

// ended holds Flagger's words against the answers: it must have ended as
// delivered.ended says, and the version that answers must be the one it says.
func (s *progressiveStory) ended(name, phase, why string, claim Claim) Check {
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
			e, err = l.sample(ctx, u.request(l, m), s.claim(weight))
			if refuted, is := errors.AsType[*ClaimError](err); is {
				err = refute(claim, "Flagger ended with %s, and the answers say: %s", phase, strings.Join(refuted.Reasons, ", "))
			}
			if err != nil {
				return e, err
			}
		}
		return e.after("Flagger: " + words), nil
	}
}

// loss stops the watchers, and judges what the users lost.
func (s *progressiveStory) loss(ctx context.Context, l *Session) (all Evidence, err error) {
	for _, m := range s.models {
		for _, u := range m.users {
			e, lost := u.prober.lostNone(ctx, l)
			if u.atCanary {
				continue
			}
			summary, lost := s.excused(m, u, u.prober.Stop().Answers, e, lost)
			e.Summary = m.name + ", " + u.name + ": " + summary
			all = e.after(all.Summary)
			err = cmp.Or(err, lost) // all answers are kept as evidence
		}
	}
	return all, err
}

// excused judges what users of a model lost: nothing, but of the version that errs,
// and of that no more than its share explains; and few requests in the moment in
// which a bad version is taken back. Those of whom a bad version has no share, it
// must not have answered at all.
func (s *progressiveStory) excused(m *delivered, u *audience, sent []probe.Answer, e Evidence, lost error) (summary string, err error) {
	_, refuted := errors.AsType[*ClaimError](lost)
	i := slices.IndexFunc(sent, func(a probe.Answer) bool { return a.Target == "v2" })
	switch {
	case m.env != nil && u.first == 0 && i >= 0:
		return e.Summary, refute(Answers, "%s, %s: v2 has answered one of them (request %s)", m.name, u.name, sent[i].ID)
	case m.env == nil || !refuted:
		return e.Summary, lost
	}
	rest := slices.DeleteFunc(slices.Clone(e.Tally.Failed), m.takenAway)
	early := len(e.Tally.Failed) - len(rest)
	switch {
	case early > takenAwayMost:
		return e.Summary, refute(NoLoss, "%d requests met none of v2's pods when Flagger took it back, at most %d are accepted: %s", early, takenAwayMost, e.Summary)
	case m.env["FAIL_PERCENT"] != "" && u.first > 0:
		summary, err = s.explained(m, u, sent, rest)
	case len(rest) > 0 || early == 0:
		return e.Summary, lost
	default:
		summary = e.Summary
	}
	if early > 0 {
		summary += fmt.Sprintf("; %d of them met none of v2's pods when Flagger took it back, at most %d are accepted", early, takenAwayMost)
	}
	return summary, err
}

// takenAwayMost are the requests of one watcher, at progressiveRate, that may be lost
// when Flagger takes a version back, and takenAwayBound is how far from its last
// word that may be. It writes the route and in the same moment takes the pods
// away; the gateway knows the endpoints before the routes, and some requests
// in between find nobody there.
//
// Flagger's rollback: https://github.com/fluxcd/flagger/blob/v1.44.0/pkg/controller/scheduler.go
// The order: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#eventual-consistency-considerations
const (
	takenAwayMost  = 3
	takenAwayBound = 5 * time.Second
)

// takenAway says whether the gateway answered that nobody is there, when Flagger
// took v2 back.
func (m *delivered) takenAway(a probe.Answer) bool {
	return m.phase == flaggerFailed && a.Router && a.Status == http.StatusServiceUnavailable && a.Scheduled.Sub(m.end).Abs() < takenAwayBound
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
