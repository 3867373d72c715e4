//go:build e2e

package main

import (
	"encoding/json"
	"strings"
	"testing"

	"mllab.local/internal/git"
	"mllab.local/scenarios"
)

// proofs are the notes on commits by their steps.
func proofs(t *testing.T, repo *git.Repo, scenario string) map[string]scenarios.Proof {
	t.Helper()
	notes, err := repo.Notes()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]scenarios.Proof{}
	for commit, note := range notes {
		var proof scenarios.Proof
		if err := json.Unmarshal(note, &proof); err != nil {
			t.Errorf("the note of %s: %v", commit, err)
		}
		if proof.Scenario == scenario && proof.Control == "" {
			all[proof.Step] = proof
		}
	}
	return all
}

// testModelCanary has Flagger judge models that come by commits. The audit says of
// each what became of it.
func testModelCanary(t *testing.T, c cli) {
	c.scenario(t, 0, "model-canary", "--short")
	all := proofs(t, c.clone(t), "model-canary")
	for step, pass := range map[string]bool{
		"v1 serves from Git": true, "the good model is promoted": true, "the bad model is taken back": false, "git revert agrees with what serves": true,
	} {
		if proof, there := all[step]; !there || proof.Pass != pass {
			t.Errorf("step %q has a proof: %t, passed: %t", step, there, proof.Pass)
		}
	}
	r := c.run("audit")
	for _, says := range []string{`PASS model-canary, step "the good model is promoted": Flagger: Succeeded`, `FAIL model-canary, step "the bad model is taken back"`, "answered-percent"} {
		if !strings.Contains(r.out, says) {
			t.Errorf("the audit does not say %q:\n%s", says, r.out)
		}
	}
	c.catches(t, "model-canary", "--short", "--parallel", "3") // most of it is waiting for Flagger
}
