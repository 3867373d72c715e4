package scenarios

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"mllab.local/internal/fault"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

type abStory struct {
	Options
	header, cookie string         // what arm B's route looks at
	converts       map[string]int // version -> percent of its users
	users          int            // in each arm
}

// The arms' versions. A/A needs a second copy of the model that serves arm A:
// what differs then can only be the apparatus.
const (
	armA    = "v1"
	armCopy = "v1-copy"
	armB    = "v2"
)

// missRate is how often the real difference may be missed: as seldom as a
// default alpha gives a false alarm.
const missRate = 1e-6

// abTest: a header or a cookie picks the arm, and near misses do not; two
// copies of a model show no difference; the new model converts more.
var abTest = Scenario{
	Name:    "ab-test",
	Summary: "a header or a cookie picks the arm, and the arms' outcomes are compared",
	Needs:   []string{"istio"},
	New:     newABTest,
}

func newABTest(o Options) (*Plan, error) {
	if !(o.Alpha > 0 && o.Alpha < 0.5) {
		return nil, fault.Usage("such as --alpha 1e-6", "ab-test: alpha %v is not between 0 and 0.5", o.Alpha)
	}
	s := &abStory{Options: o, header: armHeader, cookie: armCookie, converts: map[string]int{armA: 10, armCopy: 10, armB: 20}}
	if err := s.plan(); err != nil {
		return nil, err
	}
	return &Plan{
		Steps: []Step{
			{
				Name: "a tag picks the arm", Change: s.deploy, Check: s.routes,
				Why: "In an A/B test a user stays in one arm, so the route looks at something that the user keeps: a header or a cookie. " +
					"Such a route is not left to chance, so one stray answer refutes it.",
				WatchFor: "The near misses: a value in capitals, a longer one, another cookie that ends alike. All must stay in arm A.",
			},
			{
				Name: "A/A: no difference", Change: s.routed(armCopy), Check: s.outcome(armCopy, split.NoDifference),
				Why: "Before two models are compared, one is compared with itself. " +
					"A difference would come from the routes, the counting or the test.",
				WatchFor: "The p-value is as likely to be high as low, and a difference is claimed once in 1/alpha runs.",
			},
			{
				Name: "A/B: B converts more", Change: s.routed(armB), Check: s.outcome(armB, split.BMore),
				Why: "How many users are needed follows from the difference that shall be found, before the first one comes. " +
					"The test is done once, when they all have come.",
				WatchFor: "The difference with its interval: the p-value only says that there is one, not how large it is.",
			},
		},
		Controls: []Control{
			{Name: "misspelt", Summary: "the route looks at the header x-groop", Break: set(&s.header, "x-groop"), Catches: Routes},
			{Name: "prefix", Summary: "the route looks for group=b anywhere in the cookies", Break: set(&s.cookie, ".*group=b.*"), Catches: Routes},
			{
				Name: "same-arm", Summary: "v2 converts no more users than v1",
				Break: func(context.Context, *Session) error { s.converts[armB] = s.converts[armA]; return nil }, Catches: Outcome,
			},
		},
	}, nil
}

// The rates that the test is planned to distinguish.
const rateA, rateB = 0.10, 0.20

// plan computes how many users each arm needs; --requests may ask for more.
func (s *abStory) plan() error {
	need, err := split.Users(rateA, rateB, s.Alpha, missRate)
	if err != nil {
		return fault.Usage("use a larger --alpha", "ab-test: %w", err)
	}
	s.users = max(need, s.Requests)
	return nil
}

// deploy makes one pod of each version, and gives arm B to its own.
func (s *abStory) deploy(ctx context.Context, l *Session) error {
	var models []model
	for _, version := range sortedKeys(s.converts) {
		models = append(models, model{Name: "model", Version: version, Env: map[string]string{"CONVERT_PERCENT": strconv.Itoa(s.converts[version])}})
	}
	if err := l.deploy(ctx, models...); err != nil {
		return err
	}
	return s.routed(armB)(ctx, l)
}

// routed gives arm B to a version, and returns when the gateway routes so and
// each version answers at its own address.
func (s *abStory) routed(b string) Change {
	return func(ctx context.Context, l *Session) error {
		versions, asked := sortedKeys(s.converts), []probe.Request{l.to("model")}
		for _, version := range versions {
			asked = append(asked, l.to(version+"-model"))
		}
		return l.routes(ctx, "ab-test/routes.yaml", asked, &struct {
			routeState
			Versions          []string
			B, Header, Cookie string
		}{routeState{}, versions, b, s.header, s.cookie})
	}
}

// inArmB are all kinds of users who are in arm B, each by its one header.
func inArmB() []http.Header {
	return []http.Header{
		{"x-group": {"b"}},
		{"X-GROUP": {"b"}},      // a header's name has no case
		{"x-group": {"a", "b"}}, // Envoy 1.39 matches each value of a header that is sent twice
		{"Cookie": {"group=b"}},
		{"Cookie": {"a=1; group=b"}},
		{"Cookie": {"group=b; c=2"}},
		{"Cookie": {"a=1; group=b; c=2"}},
		{"Cookie": {"a=1;group=b;c=2"}}, // not as browsers send it, but proxies do
	}
}

// inArmA are the others: untagged, and those who are nearly in arm B. Spaces
// around a header's value are not among them: they are not part of it
// (https://www.rfc-editor.org/rfc/rfc9110#section-5.5) and not sent.
func inArmA() []http.Header {
	return []http.Header{
		nil,
		{"x-group": {"B"}},
		{"x-group": {"bb"}},
		{"x-group": {"ab"}},
		{"x-group": {"b b"}},
		{"x-group": {"a"}},
		{"x-group": {""}},
		{"x-group": {"a,b"}}, // and a list in one header is one value
		{"x-groups": {"b"}},
		{"group": {"b"}},
		{"Cookie": {"group=ba"}},
		{"Cookie": {"group=ab"}},
		{"Cookie": {"group=B"}},
		{"Cookie": {"Group=b"}}, // a cookie's name has a case
		{"Cookie": {"group="}},
		{"Cookie": {"xgroup=b"}},
		{"Cookie": {"a=group=b"}},
		{"Cookie": {"a=1; xgroup=b; c=2"}},
		{"Cookie": {"a=1; group=ba; c=2"}},
	}
}

func kindOf(header http.Header) string {
	for name, values := range header {
		if name == "Cookie" {
			return fmt.Sprintf("cookie %q", values[0])
		}
		return fmt.Sprintf("header %s: %q", name, values)
	}
	return "no tag"
}

// routes sends requests of every kind and refutes each kind that reached the
// wrong version.
func (s *abStory) routes(ctx context.Context, l *Session) (Evidence, error) {
	tagged := len(inArmB())
	kinds := append(inArmB(), inArmA()...)
	each := (s.Requests + len(kinds) - 1) / len(kinds)
	answers, e, err := l.servedInTurn(ctx, kinds, each)
	if err != nil {
		return e, err
	}
	refuted := &ClaimError{Claim: Routes}
	for i, kind := range kinds {
		want := armB
		if i >= tagged {
			want = armA
		}
		if astray := slices.DeleteFunc(answers[i], func(a probe.Answer) bool { return a.Target == want }); len(astray) > 0 {
			refuted.Reasons = append(refuted.Reasons, fmt.Sprintf("%s: %d of %d answered by %s instead of %s, the first: request %s",
				kindOf(kind), len(astray), each, astray[0].Target, want, astray[0].ID))
		}
	}
	e.Summary = fmt.Sprintf("%d kinds of %d requests: %d tagged ones all %s, %d untagged and near misses all %s, exact: one stray answer fails",
		len(kinds), each, tagged, armB, len(kinds)-tagged, armA)
	if len(refuted.Reasons) > 0 {
		e.Summary = refuted.Reasons[0]
		return e, refuted
	}
	return e, nil
}

// outcome sends users to both arms, of which B is served by the given version,
// and judges what the comparison concludes.
func (s *abStory) outcome(b string, want split.Conclusion) Check {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		answers, e, err := l.servedInTurn(ctx, []http.Header{nil, {"Cookie": {"group=b"}}}, s.users)
		if err != nil {
			return e, err
		}
		var arms [2]split.Arm
		for i, version := range []string{armA, b} {
			for _, a := range answers[i] {
				if a.Target != version {
					return e, refute(Routes, "a user of arm %c was answered by %s instead of %s (request %s)", 'A'+i, a.Target, version, a.ID)
				}
				converted, err := strconv.ParseBool(a.Converted)
				if err != nil {
					return e, fmt.Errorf("request %s: the answer does not say whether the user converted: %w", a.ID, err)
				}
				arms[i].Users++
				if converted {
					arms[i].Converted++
				}
			}
		}
		return s.judge(e, arms[0], arms[1], want)
	}
}

// judge compares the arms, and says how often the conclusion is wrong.
func (s *abStory) judge(e Evidence, a, b split.Arm, want split.Conclusion) (Evidence, error) {
	got, err := split.Compare(a, b, s.Alpha)
	if err != nil {
		return e, err
	}
	low, high := split.DifferenceInterval(a, b, confidence)
	points := func(name string, share float64) Figure { return Figure{name, 100 * share, "points"} }
	e.Figures = append(e.Figures, Figure{"A converted", float64(a.Converted), "users"}, Figure{"B converted", float64(b.Converted), "users"},
		points("difference", got.Difference), points("at least", low), points("at most", high), Figure{Name: "p", Value: got.P})
	e.Summary = fmt.Sprintf("A %d of %d, B %d of %d converted: %+.1f points (%+.1f..%+.1f with %.0f %%), p %.2g: %s, alpha %.0e",
		a.Converted, a.Users, b.Converted, b.Users, 100*got.Difference, 100*low, 100*high, 100*confidence, got.P, got.Conclusion, s.Alpha)
	if want == split.NoDifference {
		e.Summary += fmt.Sprintf("; a B of %.1f %% would have been shown with %.2f", 100*split.ShownFrom(a.Users, rateA, s.Alpha), split.Power)
	} else {
		e.Summary += fmt.Sprintf(", missed in %.0e of runs if %.0f and %.0f %% convert", split.Missed(a.Users, rateA, rateB, s.Alpha), 100*rateA, 100*rateB)
	}
	if got.Conclusion != want {
		return e, refute(Outcome, "the test concludes %q where %q is claimed: %s", got.Conclusion, want, e.Summary)
	}
	return e, nil
}
