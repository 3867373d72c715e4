package scenarios

import (
	"strings"
	"testing"

	"mllab.local/internal/chart"
)

// releases are a history, from texts such as "v1 deployed".
func releases(texts ...string) (all []chart.Revision) {
	for i, text := range texts {
		target, status, _ := strings.Cut(text, " ")
		all = append(all, chart.Revision{Number: i + 1, Status: status, Values: map[string]any{"target": target}})
	}
	return all
}

func TestAReleaseIsJudgedByItsHistoryAndWhatAnswers(t *testing.T) {
	two := releases("v1 superseded", "v2 deployed")
	const claimed = "1 v1 superseded, 2 v2 deployed"
	for _, c := range []struct {
		name    string
		history []chart.Revision
		claimed string
		counts  map[string]int
		drifted []string
		says    []string // a part of each reason
	}{
		{"all agree", two, claimed, map[string]int{"v2": 100}, nil, nil},
		{"one stray answer", two, claimed, map[string]int{"v2": 99, "v1": 1}, nil, []string{"revision 2 says v2, and the answers are v1 1, v2 99"}},
		{"another version answers", two, claimed, map[string]int{"by-hand": 100}, nil, []string{"by-hand 100"}},
		{"a change that does not show in the answers", two, claimed, map[string]int{"v2": 100}, []string{"Service/ns/model"}, []string{"Service/ns/model is not as revision 2 says"}},
		{"no revision is deployed", releases("v1 superseded", "v2 failed"), claimed, map[string]int{"v1": 100}, nil,
			[]string{"2 v2 failed where", "says <nil>"}},
		{"Helm took for ready what is not", releases("v1 superseded", "v2 superseded", "v3 deployed"), claimed + ", 3 v3 failed", map[string]int{"v2": 100}, nil,
			[]string{"3 v3 deployed where", "revision 3 says v3, and the answers are v2 100"}},
		{"nothing is there", nil, claimed, nil, nil, []string{"the history is  where", "the answers are "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := disagree(c.history, c.claimed, c.counts, c.drifted)
			if len(got) != len(c.says) {
				t.Fatalf("got %q", got)
			}
			for i, want := range c.says {
				if !strings.Contains(got[i], want) {
					t.Errorf("got %q, want %q in it", got[i], want)
				}
			}
		})
	}
}
