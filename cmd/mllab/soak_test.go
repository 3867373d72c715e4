//go:build e2e

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
// and is not part of CI; docs/benchmarks.md keeps its record. With $SOAK_FILE it
// repeats a user's scenario instead, with $LAB on a lab that is up.
func TestSoak(t *testing.T) {
	if path := os.Getenv("SOAK_FILE"); path != "" {
		if !filepath.IsAbs(path) { // it is named from the repository's root
			path = filepath.Join("..", "..", path)
		}
		s, err := scenarios.ReadFile(path, fileRules(), scenarios.Options{})
		if err != nil {
			t.Fatal(err)
		}
		soak(t, soaked(t, "run"), s, scenarios.Options{}, "run", path)
		return
	}
	for name, with := range map[string][]string{"canary": nil, "shadow": nil, "progressive": {"--with", "progressive"}} {
		s, err := scenarios.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each on a lab of its own, because one proof at a time has a lab
			c := soaked(t, name, with...)
			if name != "progressive" {
				soak(t, c, s, scenarios.Options{}, name)
				return
			}
			for _, strategy := range scenarios.Strategies {
				t.Run(strategy, func(t *testing.T) {
					soak(t, c, s, scenarios.Options{Strategy: strategy}, name, "--strategy="+strategy)
				})
			}
		})
	}
}

// soaked is a core lab with these flags of `mllab up`.
func soaked(t *testing.T, name string, with ...string) cli {
	c := newCLI(t, "mllab-soak-"+name)
	c.up(t, append([]string{"--core"}, with...)...)
	return c
}

// soak repeats a story, which these words name, and its controls, and logs what
// came of it.
func soak(t *testing.T, c cli, s scenarios.Scenario, o scenarios.Options, words ...string) {
	controls, what := planOf(t, s, o).Controls, strings.Join(words, " ")
	words = append([]string{"scenario"}, words...)
	passed, caught := 0, map[string]int{}
	n := soakRuns(t)
	for i := range n {
		if r := c.run(append(words, "-o", "json")...); r.code == 0 {
			passed++
		} else {
			t.Errorf("%s, run %d: %s", what, i+1, r)
		}
		line := fmt.Sprintf("%s: %d of %d passed", what, passed, i+1)
		if len(controls) > 0 {
			var runs []scenarios.Result
			r := c.run(append(words, "--controls", "--parallel", "3", "-o", "json")...)
			if r.code != 0 {
				t.Errorf("%s, controls, run %d: %s", what, i+1, r)
			}
			r.decode(t, &runs)
			for _, run := range runs {
				if run.Pass {
					caught[run.Control]++
				}
			}
		}
		for _, control := range controls {
			line += fmt.Sprintf("; control %s caught %d of %d", control.Name, caught[control.Name], i+1)
		}
		t.Log(line)
	}
	for _, control := range controls {
		if caught[control.Name] != n {
			t.Errorf("%s, control %s was caught %d of %d times", what, control.Name, caught[control.Name], n)
		}
	}
}
