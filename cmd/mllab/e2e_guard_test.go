//go:build e2e

package main

import (
	"slices"
	"strings"
	"testing"

	"mllab.local/scenarios"
)

// testGuardedCanary has a judge look at each answer: of a good version, and of
// worse ones.
func testGuardedCanary(t *testing.T, c cli) {
	r := c.run("scenario", "canary", "--weights", "5,25,100", "--guard")
	r.ok(t, nil)
	if !strings.Contains(r.out, "guard (alpha 1e-06, alarm at E 3e+06): errors E 1 (") {
		t.Errorf("the verdict lacks what the guard saw: %s", r.out)
	}
	var runs []scenarios.Result
	c.run("scenario", "canary", "--guard", "--controls", "--parallel", "3", "-o", "json").ok(t, &runs)
	for _, run := range runs {
		back := run.Steps[len(run.Steps)-1]
		if back.Name != "automatic rollback to v1" || !back.Pass || back.Evidence.Verdict.Counts["v1"] != back.Evidence.Verdict.N {
			t.Errorf("control %s ends with %+v", run.Control, back)
		}
		if run.Control != "bad-v2" {
			continue
		}
		split := run.Steps[len(run.Steps)-2]
		until := slices.IndexFunc(split.Evidence.Figures, func(f scenarios.Figure) bool { return f.Name == "requests until the alarm" })
		if until < 0 || split.Evidence.Tally.Sent >= scenarios.DefaultRequests || len(split.Evidence.Tally.Failed) == 0 {
			t.Errorf("the guard let the whole sample through: %+v", split.Evidence)
		}
	}
}
