package scenarios

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"mllab.local/internal/fault"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
	"mllab.local/sampleapp/api"
)

// arms is a gateway that routes as the manifest says: by a header's exact
// value, or by a regex that matches all of the cookies. b serves arm B, and
// each version converts just its percentage of the users, by turns: one drawn
// by lot would give a wrong verdict in some of the runs, as the scenario may.
func arms(t *testing.T, s *abStory, b string) *Session {
	t.Helper()
	cookie := regexp.MustCompile("^(?:" + s.cookie + ")$")
	var mu sync.Mutex
	users := map[string]int{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		target := armA
		if slices.Contains(r.Header.Values(s.header), "b") || cookie.MatchString(r.Header.Get("Cookie")) {
			target = b
		}
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set(api.HeaderTarget, target)
		users[target]++
		converted := users[target]*s.converts[target]/100 > (users[target]-1)*s.converts[target]/100
		w.Header().Set(api.HeaderConverted, strconv.FormatBool(converted))
	}))
	t.Cleanup(srv.Close)
	return &Session{Env: &Env{Gateway: srv.URL}, Sender: probe.NewHTTP(0), record: record{evidence: t.TempDir(), stepName: "arms"}}
}

func story() *abStory {
	return &abStory{
		Options: Options{Requests: 260, Alpha: 1e-3}, header: armHeader, cookie: armCookie, users: 700,
		converts: map[string]int{armA: 10, armCopy: 10, armB: 20},
	}
}

// refutes says which claim err refutes, and why.
func refutes(t *testing.T, err error) (Claim, string) {
	t.Helper()
	var r *ClaimError
	if err != nil && !errors.As(err, &r) {
		t.Fatal(err)
	}
	if r == nil {
		return "", ""
	}
	return r.Claim, strings.Join(r.Reasons, "; ")
}

func TestATagPicksTheArmAndANearMissDoesNot(t *testing.T) {
	for _, c := range []struct {
		name    string
		story   func(*abStory)
		refutes Claim
		says    []string // of the reasons
	}{
		{"the route of the manifest passes", func(*abStory) {}, "", nil},
		{"a misspelt header is refuted", func(s *abStory) { s.header = "x-groop" }, Routes, []string{`header x-group: ["b"]: 10 of 10 answered by v1 instead of v2`}},
		{"a header for all is refuted", func(s *abStory) { s.header = "X-Mllab-None"; s.cookie = ".*" }, Routes, []string{"no tag: 10 of 10 answered by v2"}},
		{"a cookie's beginning is refuted", func(s *abStory) { s.cookie = "(.*; ?)?group=b.*" }, Routes, []string{`cookie "group=ba"`}},
		{"a cookie's end is refuted", func(s *abStory) { s.cookie = "(.*)group=b(;.*)?" }, Routes, []string{`cookie "xgroup=b"`, `cookie "a=group=b"`}},
		{"a cookie in any case is refuted", func(s *abStory) { s.cookie = "(?i)" + armCookie }, Routes, []string{`cookie "group=B"`, `cookie "Group=b"`}},
		{"the first cookie only is refuted", func(s *abStory) { s.cookie = "group=b(;.*)?" }, Routes, []string{`cookie "a=1; group=b"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := story()
			c.story(s)
			l := arms(t, s, armB)
			e, err := s.routes(t.Context(), l)
			claim, why := refutes(t, err)
			if claim != c.refutes {
				t.Fatalf("refuted %q: %s", claim, why)
			}
			for _, want := range c.says {
				if !strings.Contains(why, want) {
					t.Errorf("no %q in %s", want, why)
				}
			}
			if e.Summary == "" || e.File == "" {
				t.Errorf("no evidence: %+v", e)
			}
		})
	}
}

func TestTheOutcomeIsJudgedByTheClaimedConclusion(t *testing.T) {
	for _, c := range []struct {
		name     string
		converts int // of arm B's version
		want     split.Conclusion
		refutes  Claim
	}{
		{"a difference that is there is shown", 25, split.BMore, ""},
		{"none is shown where there is none", 10, split.NoDifference, ""},
		{"a difference that is not there is refuted", 10, split.BMore, Outcome},
		{"the wrong direction is refuted", 1, split.BMore, Outcome},
		{"no difference is refuted where there is one", 25, split.NoDifference, Outcome},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := story()
			s.converts[armB] = c.converts
			e, err := s.outcome(armB, c.want)(t.Context(), arms(t, s, armB))
			if claim, why := refutes(t, err); claim != c.refutes {
				t.Errorf("refuted %q: %s", claim, why)
			}
			if !strings.Contains(e.Summary, "alpha 1e-03") || len(e.Figures) == 0 {
				t.Errorf("it says %q with %v", e.Summary, e.Figures)
			}
		})
	}
}

func TestAUserWhoReachesTheOtherArmRefutesTheRoutes(t *testing.T) {
	s := story()
	l := arms(t, s, armCopy)
	if claim, why := refutes(t, func() error { _, err := s.outcome(armB, split.BMore)(t.Context(), l); return err }()); claim != Routes {
		t.Errorf("refuted %q: %s", claim, why)
	}
}

func TestAnAnswerWithoutAnOutcomeProvesNothing(t *testing.T) {
	s := story()
	l := gateway(t, armA)
	_, err := s.outcome(armA, split.NoDifference)(t.Context(), l)
	var refuted *ClaimError
	if err == nil || errors.As(err, &refuted) {
		t.Errorf("got %v", err)
	}
}

func TestThePlanHasEnoughUsers(t *testing.T) {
	for _, o := range []Options{{Alpha: DefaultAlpha, Requests: DefaultRequests}, {Alpha: 0.05, Requests: 5000}} {
		s := &abStory{Options: o}
		if err := s.plan(); err != nil {
			t.Fatal(err)
		}
		if miss := split.Missed(s.users, rateA, rateB, o.Alpha); miss > missRate || s.users < o.Requests {
			t.Errorf("%+v: %d users, missed %g", o, s.users, miss)
		}
	}
	if err := (&abStory{Options: Options{Alpha: 5e-324}}).plan(); fault.Code(err) != 2 {
		t.Errorf("an alpha that nothing reaches gave %v", err)
	}
}

func TestTheRoutesAreRenderedForEveryVersion(t *testing.T) {
	objs, err := render("ab-test/routes.yaml", map[string]any{
		"Host": "model.ns.mllab.test", "Versions": []string{armA, armCopy, armB}, "B": armCopy, "Header": armHeader, "Cookie": armCookie, "Mark": "7",
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(objs) != 4 {
		t.Fatalf("%d objects", len(objs))
	}
	text, err := objs[3].MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for want, times := range map[string]int{
		`"x-group":{"exact":"b"}`: 1, `"regex":"` + armCookie + `"`: 1, `"x-mllab-route":"7"`: 5, `"subset":"v1-copy"`: 2, `"subset":"v1"`: 2, `"subset":"v2"`: 1,
	} {
		if strings.Count(string(text), want) != times {
			t.Errorf("%s is there %d times, want %d: %s", want, strings.Count(string(text), want), times, text)
		}
	}
}
