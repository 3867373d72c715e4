//go:build e2e

package main

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"mllab.local/scenarios"
)

// soakRuns is how often each story and each control runs: $SOAK_RUNS, or 20.
// None wrong of 20 says that fewer than 14 % are, with 95 % confidence.
func soakRuns(t *testing.T) int {
	text := os.Getenv("SOAK_RUNS")
	if text == "" {
		return 20
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("SOAK_RUNS=%q is not a number of runs", text)
	}
	return n
}

// TestSoak repeats the stories whose verdict depends on chance, and their
// controls: no false alarm, and every break caught each time. It takes hours
// and is not part of CI; docs/benchmarks.md keeps its record.
func TestSoak(t *testing.T) {
	for _, scenario := range []string{"canary", "shadow"} {
		t.Run(scenario, func(t *testing.T) {
			t.Parallel() // each on a lab of its own, because one proof at a time has a lab
			c := newCLI(t)
			c.env = append(c.env, "MLLAB_NAME=mllab-soak-"+scenario)
			clean := func() {
				if r := c.run("down"); r.code != 0 {
					t.Error(r)
				}
			}
			clean()
			t.Cleanup(clean)
			c.run("up", "--image-source", "source", "--port", "auto").ok(t, nil)
			soak(t, c, scenario)
		})
	}
}

// soak repeats one story and its controls, and logs what came of it.
func soak(t *testing.T, c cli, scenario string) {
	s, err := scenarios.New(scenario, scenarios.Options{})
	if err != nil {
		t.Fatal(err)
	}
	passed, caught := 0, map[string]int{}
	n := soakRuns(t)
	for i := range n {
		if r := c.run("scenario", scenario, "-o", "json"); r.code == 0 {
			passed++
		} else {
			t.Errorf("%s, run %d: %s", scenario, i+1, r)
		}
		var runs []scenarios.Result
		r := c.run("scenario", scenario, "--controls", "--parallel", "3", "-o", "json")
		if r.code != 0 {
			t.Errorf("%s, controls, run %d: %s", scenario, i+1, r)
		}
		r.decode(t, &runs)
		for _, run := range runs {
			if run.Pass {
				caught[run.Control]++
			}
		}
		line := fmt.Sprintf("%s: %d of %d passed", scenario, passed, i+1)
		for _, control := range s.Controls {
			line += fmt.Sprintf("; control %s caught %d of %d", control.Name, caught[control.Name], i+1)
		}
		t.Log(line)
	}
	for _, control := range s.Controls {
		if caught[control.Name] != n {
			t.Errorf("%s, control %s was caught %d of %d times", scenario, control.Name, caught[control.Name], n)
		}
	}
}
