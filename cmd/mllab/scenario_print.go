package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"mllab.local/internal/report"
	"mllab.local/internal/split"
	"mllab.local/scenarios"
)

// printTable writes one row for each run, and one for the lab if it was not whole.
func printTable(w io.Writer, results []scenarios.Result, asked []plan) {
	rows := [][]string{{"scenario", "verdict", "steps", "requests", "seconds", "CPU-seconds", "depends on"}}
	for _, r := range results {
		steps := "-"
		if i := slices.IndexFunc(asked, func(s plan) bool { return s.Name == r.Scenario }); i >= 0 {
			ok := 0
			for _, s := range r.Steps {
				if s.Pass {
					ok++
				}
			}
			steps = fmt.Sprintf("%d/%d", ok, len(asked[i].Steps))
		}
		cpu := "-"
		if r.CPUSeconds > 0 {
			cpu = fmt.Sprintf("%.1f", r.CPUSeconds)
		}
		rows = append(rows, []string{r.Title(), r.Verdict(), steps, fmt.Sprint(r.Sent()), fmt.Sprintf("%.1f", r.Seconds), cpu, basis(r)})
	}
	report.Table(w, rows...)
	fmt.Fprintln(w)
}

// printSteps writes one row for each step of a story. A control has only its
// verdict.
func printSteps(w io.Writer, results []scenarios.Result) {
	for _, r := range results {
		if r.Control != "" || len(r.Steps) == 0 {
			continue
		}
		rows := [][]string{{"", "step", "active", "checked", "evidence"}}
		for _, s := range r.Steps {
			mark := "FAIL"
			if s.Pass {
				mark = "ok"
			} else if r.Error != "" {
				mark = "-" // the claim was not judged
			}
			rows = append(rows, []string{mark, s.Name, fmt.Sprintf("%.1f s", s.Barrier), fmt.Sprintf("%.1f s", s.Seconds), says(s)})
		}
		report.Table(w, rows...)
	}
}

// says returns a step's evidence in one line: its summary, plus the figures
// missing from it.
func says(s scenarios.StepResult) string {
	if s.Evidence == nil {
		return ""
	}
	var more []string
	for _, f := range s.Evidence.Figures {
		if !slices.ContainsFunc([]string{f.Name, fmt.Sprintf("%.2f", f.Value), fmt.Sprintf("%.1f", f.Value)},
			func(text string) bool { return strings.Contains(s.Evidence.Summary, text) }) {
			more = append(more, strings.TrimSpace(fmt.Sprintf("%s %.4g %s", f.Name, f.Value, f.Unit)))
		}
	}
	if len(more) == 0 {
		return s.Evidence.Summary
	}
	return strings.TrimPrefix(s.Evidence.Summary+"; ", "; ") + strings.Join(more, ", ")
}

// basis returns in a few words what a verdict depends on.
func basis(r scenarios.Result) string {
	switch {
	case r.Skipped != "":
		return r.Skipped
	case r.Error != "":
		return "nothing"
	case r.Refuted != "":
		return fmt.Sprintf("claim %q fails", r.Refuted)
	case !r.Pass:
		return "no claim fails"
	}
	sampled, watched := r.Requests()
	switch {
	case watched == 0 && sampled > 0:
		return "samples"
	case watched > 0 && sampled == 0:
		return "watcher"
	case watched > 0:
		return "samples+watcher"
	}
	return "its steps"
}

// printVerdict writes the last lines about a run: the verdict, and the evidence of
// each split between all and nothing.
func printVerdict(w io.Writer, r scenarios.Result) {
	var why string
	switch {
	case r.Skipped != "":
		report.Table(w, []string{fmt.Sprintf("%s %s: %s", r.Verdict(), r.Title(), r.Skipped)})
		return
	case r.Error != "":
		why = strings.ReplaceAll(strings.TrimPrefix(r.Error, r.Title()+": "), context.Canceled.Error(), "interrupted")
	case !r.Pass:
		why = strings.TrimPrefix(r.Err().Error(), r.Scenario+": ")
	case r.Control != "":
		why = fmt.Sprintf("caught, claim %q failed as it must: %s", r.Refuted, strings.Join(r.Reasons, "; "))
	}
	line := fmt.Sprintf("%s %s (%.1f s)", r.Verdict(), r.Title(), r.Seconds)
	if why != "" {
		line += ": " + why
	}
	report.Table(w, []string{line})
	if !r.Pass || r.Control != "" {
		return
	}
	var rows [][]string
	for _, s := range r.Steps {
		if e := s.Evidence; e != nil && (e.Verdict == nil || chance(*e.Verdict)) && says(s) != "" {
			rows = append(rows, []string{"", s.Name + ":", says(s)})
		}
	}
	report.Table(w, rows...)
}

// chance reports whether a verdict is about a split, not about all or nothing.
func chance(v split.Verdict) bool {
	return slices.ContainsFunc(v.Regions, func(r split.Region) bool { return r.Share > 0 && r.Share < 1 })
}

// junitCases are one case for each step of a story and one for each control. A
// run that failed outside its steps has a case that says so.
func junitCases(results []scenarios.Result) []report.Case {
	var cases []report.Case
	for _, r := range results {
		switch {
		case r.Skipped != "":
			cases = append(cases, report.Case{Suite: r.Scenario, Name: "all steps", Skipped: r.Skipped})
			continue
		case r.Control != "":
			c := report.Case{Suite: r.Scenario, Name: "control " + r.Control, Seconds: r.Seconds, Output: strings.Join(r.Reasons, "\n")}
			if err := r.Err(); err != nil {
				c.Failure = err.Error()
			}
			cases = append(cases, c)
			continue
		}
		said := false
		for _, s := range r.Steps {
			c := report.Case{Suite: r.Scenario, Name: s.Name, Seconds: s.Barrier + s.Seconds, Output: says(s)}
			if !s.Pass {
				said = true
				c.Failure = strings.TrimSpace(strings.Join(append(slices.Clone(r.Reasons), r.Error), "\n"))
			}
			cases = append(cases, c)
		}
		if err := r.Err(); err != nil && !said {
			cases = append(cases, report.Case{Suite: r.Scenario, Name: "run", Failure: err.Error()})
		}
	}
	return cases
}
