package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"mllab.local/internal/probe"
)

// shadowSample is a sample of n requests that v1 answered. times says how often
// the i-th of them reached v2.
func shadowSample(n int, percent float64, times func(i int) int) mirrorSample {
	s := &shadowStory{Options: Options{Alpha: DefaultAlpha}}
	m := mirrorSample{claim: s.copies(n, percent)}
	for i := range n {
		a := probe.Answer{ID: fmt.Sprint(i), Target: "v1", Status: 200, Latency: time.Millisecond}
		m.answers, m.v1.IDs = append(m.answers, a), append(m.v1.IDs, a.ID)
		for range times(i) {
			m.v2.IDs = append(m.v2.IDs, a.ID)
		}
	}
	return m
}

// judged is the claim that a sample refutes, and what is said.
func judged(m mirrorSample) (Claim, string) {
	tally := probe.Count(m.answers)
	m.evidence.Tally = &tally
	e, err := m.judge()
	var refuted *ClaimError
	if errors.As(err, &refuted) {
		return refuted.Claim, strings.Join(refuted.Reasons, " ")
	}
	return "", e.Summary
}

func never(int) int { return 0 }
func once(int) int  { return 1 }
func every(k int) func(int) int {
	return func(i int) int {
		if i%k == 0 {
			return 1
		}
		return 0
	}
}

func TestAShadowGetsWhatIsClaimedEachOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		percent float64
		times   func(int) int
		refutes Claim
		says    string
	}{
		"all":                           {100, once, "", "v2 received 1000, each once"},
		"none":                          {0, never, "", "v2 received none"},
		"a part":                        {20, every(5), "", "n=1000 mirrored 200 (accepted 141..264)"},
		"nothing instead of all":        {100, never, Mirror, "0 once, 1000 never"},
		"half instead of all":           {100, every(2), Mirror, "500 once, 500 never"},
		"all but one":                   {100, func(i int) int { return min(i, 1) }, Mirror, "999 once, 1 never"},
		"one twice":                     {100, func(i int) int { return 1 + max(0, i-998) }, Mirror, "999 once, 0 never, 1 more than once"},
		"one where none is claimed":     {0, every(1000), Mirror, "1 once"},
		"nothing instead of a part":     {20, never, Mirror, "141..264 are accepted"},
		"all instead of a part":         {20, once, Mirror, "141..264 are accepted"},
		"the right part, but one twice": {20, func(i int) int { return every(5)(i) * (1 + max(0, i-994)) }, Mirror, "1 more than once"},
	} {
		t.Run(name, func(t *testing.T) {
			if claim, says := judged(shadowSample(1000, tc.percent, tc.times)); claim != tc.refutes || !strings.Contains(says, tc.says) {
				t.Errorf("refuted %q: %s; want %q and %q", claim, says, tc.refutes, tc.says)
			}
		})
	}
}

func TestARequestThatNobodySentIsNoCopy(t *testing.T) {
	m := shadowSample(100, 100, once)
	m.v2.IDs = append(m.v2.IDs, "a stranger")
	if claim, says := judged(m); claim != Mirror || !strings.Contains(says, "1 that nobody sent") {
		t.Errorf("refuted %q: %s", claim, says)
	}
	m = shadowSample(100, 100, once)
	m.v1.IDs = m.v1.IDs[1:]
	if claim, says := judged(m); claim != Mirror || !strings.Contains(says, "v1 received 99 once, 1 never") {
		t.Errorf("refuted %q: %s", claim, says)
	}
}

func TestTheCallerMustNoticeNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*probe.Answer)
		says   string
	}{
		"an answer of v2": {func(a *probe.Answer) { a.Target = "v2" }, "1 of 100 answers are not v1's"},
		"a lost request":  {func(a *probe.Answer) { a.Err = "no answer: cut" }, "no answer: cut"},
		"an error of v2":  {func(a *probe.Answer) { a.Target, a.Status = "v2", 500 }, "status 500 from v2"},
		"a proxy's error": {func(a *probe.Answer) { a.Target, a.Status, a.Router = "", 503, true }, "503"},
		"a wait":          {func(a *probe.Answer) { a.Latency = callerBound }, "the slowest answer took 8s"},
	} {
		t.Run(name, func(t *testing.T) {
			m := shadowSample(100, 100, once)
			tc.change(&m.answers[42])
			if claim, says := judged(m); claim != Caller || !strings.Contains(says, tc.says) {
				t.Errorf("refuted %q: %s; want %q", claim, says, tc.says)
			}
		})
	}
}

func TestPredictionsAreComparedByRequest(t *testing.T) {
	v1 := seen{IDs: []string{"a", "b", "c", "d"}, Outputs: []string{"[1]", "[2]", "[3]", "[4]"}}
	// In another order, with one other number and one refusal.
	v2 := seen{IDs: []string{"d", "c", "b", "a"}, Outputs: []string{"", "[3]", "[2.5]", "[1]"}}
	if n, err := differing(v1, v2); n != 2 || err != nil {
		t.Errorf("%d differ (%v), want 2", n, err)
	}
	v1.Outputs[0] = ""
	if _, err := differing(v1, v2); err == nil {
		t.Error("without v1's prediction there is nothing to compare with")
	}
}

type lastRequest struct{ r probe.Request }

func (l *lastRequest) Send(_ context.Context, r probe.Request) probe.Answer {
	l.r = r
	return probe.Answer{}
}

func TestEveryInputIsAnother(t *testing.T) {
	last := &lastRequest{}
	by, was := (&Session{Sender: last}).inputs(100), map[string]bool{}
	for range 100 {
		by.Send(t.Context(), probe.Request{})
		var in struct{ Instances [][]float64 }
		if err := json.Unmarshal(last.r.Body, &in); err != nil || len(in.Instances) != 1 || last.r.Method != "POST" {
			t.Fatalf("%s %s: %v", last.r.Method, last.r.Body, err)
		}
		was[fmt.Sprint(in.Instances)] = true
	}
	if len(was) != 100 {
		t.Errorf("%d distinct inputs of 100", len(was))
	}
	if body := padded(largeBody); len(body) != 2<<20 || !json.Valid(body) {
		t.Errorf("%d bytes, valid: %v", len(body), json.Valid(body))
	}
}

func TestTheRouteSaysWhatIsAskedFor(t *testing.T) {
	for name, tc := range map[string]struct {
		to         shadowRoute
		has, lacks string
	}{
		"v1 alone":      {shadowRoute{}, `"weight":100`, "mirrors"},
		"mirrored":      {shadowRoute{Mirrored: 20}, `"mirrors":[{"destination":{"host":"model","subset":"v2"},"percentage":{"value":20}}]`, `"weight":0`},
		"a leak":        {shadowRoute{Mirrored: 100, Leaked: 5}, `"weight":95},{"destination":{"host":"model","subset":"v2"},"weight":5}`, `"weight":100`},
		"a wait":        {shadowRoute{Mirrored: 100, Held: 5}, `"fault":{"delay":{"fixedDelay":"9s","percentage":{"value":5}}}`, "leak"},
		"for the mesh":  {shadowRoute{routeState: routeState{Mark: "7"}}, `"gateways":["lab","mesh"]`, `"X-Mllab-Route":7`},
		"outside alone": {shadowRoute{Outside: true}, `"gateways":["lab"]`, "mesh"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.to.Host = "model.mllab.test"
			objs, err := render("shadow/route.yaml", tc.to)
			if err != nil {
				t.Fatal(err)
			}
			text, err := objs[0].MarshalJSON()
			if err != nil || !strings.Contains(string(text), tc.has) || strings.Contains(string(text), tc.lacks) {
				t.Errorf("%v: want %s and not %s in %s", err, tc.has, tc.lacks, text)
			}
		})
	}
	if _, err := render("shadow/services.yaml", struct{ Model, Client string }{"model.mllab.test", "client.mllab.test"}); err != nil {
		t.Error(err)
	}
}
