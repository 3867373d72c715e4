package main

import (
	"testing"
	"time"

	"mllab.local/scenarios"
)

// What is proven only grows: whoever removes a scenario or a control to make the
// tests faster has to say so here. (The run of each is checked by the e2e tests.)
const (
	provenScenarios = 21
	provenControls  = 73
)

func TestNoLessIsProven(t *testing.T) {
	stories, controls := 0, 0
	for _, s := range scenarios.All() {
		plan, err := s.Plan(scenarios.Options{})
		if err != nil {
			t.Fatal(err)
		}
		stories++
		controls += len(plan.Controls)
	}
	canary, err := scenarios.Find("canary")
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []scenarios.Options{{RolloutDuration: 20 * time.Second}, {Guard: true}} {
		plan, err := canary.Plan(other)
		if err != nil {
			t.Fatal(err)
		}
		controls += len(plan.Controls)
	}
	if stories < provenScenarios || controls < provenControls {
		t.Errorf("%d scenarios with %d controls are proven, there were %d with %d", stories, controls, provenScenarios, provenControls)
	}
}
