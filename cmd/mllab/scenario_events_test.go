package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mllab.local/bootstrap"
	"mllab.local/internal/report"
	"mllab.local/scenarios"
)

func TestTheTerminalShowsTheEvents(t *testing.T) {
	var out bytes.Buffer
	noon := func() time.Time { return time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC) }
	p := progress{report.New(&out, report.Options{Now: noon}), map[string]*seen{}}
	answer := func(from, target, problem string) scenarios.Event {
		return scenarios.Event{Type: scenarios.EventAnswer, Run: "canary", Answer: &scenarios.Answered{From: from, Target: target, Problem: problem}}
	}
	for _, e := range []scenarios.Event{
		{Type: scenarios.EventRun, Run: "canary", Story: &scenarios.Story{}},
		{Type: scenarios.EventBegin, Run: "canary", Step: "90/10"},
		{Type: scenarios.EventWait, Run: "canary", Step: "90/10", Text: "no endpoint"},
		answer(scenarios.FromWatcher, "v1", ""), answer(scenarios.FromWatcher, "", "status 503"),
		{Type: scenarios.EventSample, Run: "canary", N: 4},
		answer(scenarios.FromSample, "v1", ""), answer(scenarios.FromSample, "v1", ""), answer(scenarios.FromSample, "v2", ""), answer(scenarios.FromSample, "", "status 500"),
	} {
		p.read(e)
	}
	var rows []string
	for _, b := range p.runs["canary"].bars()() {
		rows = append(rows, b.Name+" "+strings.Join(strings.Fields(b.Text), " "))
	}
	if want := []string{"v1 2 50.0 % (6.8..93.2 %)", "v2 1 25.0 % (0.6..80.6 %)", "errors 1", "watcher 2 sent, 1 lost"}; !slices.Equal(rows, want) {
		t.Errorf("bars %q, want %q", rows, want)
	}
	p.read(scenarios.Event{Type: scenarios.EventEnd, Run: "canary", Step: "90/10", Error: "claim \"shares\" does not hold"})
	for _, want := range []string{"canary: 90/10: started\n", "no endpoint", `canary: 90/10: FAILED after 0.0 s: claim "shares" does not hold`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestResultsAreInTheOrderOfWhatWasAskedFor(t *testing.T) {
	plans := []plan{
		{scenarios.Scenario{Name: "a"}, &scenarios.Plan{Controls: []scenarios.Control{{Name: "x"}, {Name: "y"}}}},
		{scenarios.Scenario{Name: "b"}, &scenarios.Plan{}},
		{scenarios.Scenario{Name: "c"}, &scenarios.Plan{}},
	}
	var all gathered
	for _, r := range []scenarios.Result{{Scenario: "a", Skipped: "no flux"}, {Scenario: "c"}, {Scenario: "a", Control: "y"}, {Scenario: "b"}, {Scenario: "a", Control: "x"}} {
		all.read(r.Event())
	}
	var got []string
	for _, r := range all.inOrder(plans) {
		got = append(got, r.Title()+r.Skipped)
	}
	if want := []string{"a, control x", "a, control y", "b", "c", "ano flux"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWithoutALabTheEventsSayThatNothingWasTested(t *testing.T) {
	code, stdout, _ := call(t, map[string]string{"MLLAB_STATE_DIR": t.TempDir()}, "scenario", "canary", "-o", "jsonl")
	var e scenarios.Event
	if err := json.Unmarshal([]byte(stdout), &e); code != 3 || err != nil || e.Version != 1 || e.Type != scenarios.EventResult || e.Run != "canary" || !strings.Contains(e.Result.Error, "there is no lab") {
		t.Errorf("code %d, %v: %s", code, err, stdout)
	}
}

func TestWithoutALabThePageSaysThatNothingWasTested(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.html")
	code, _, stderr := call(t, map[string]string{"MLLAB_STATE_DIR": t.TempDir()}, "scenario", "canary", "--html", file)
	page, err := os.ReadFile(file)
	if code != 3 || err != nil || !strings.Contains(string(page), "What was proven: 1 ERROR") || !strings.Contains(string(page), "there is no lab") {
		t.Errorf("code %d, %v, %s: %s", code, err, stderr, page)
	}
}

func TestAReportIsMadeFromTheLabsEvidence(t *testing.T) {
	state := t.TempDir()
	code, _, stderr := call(t, map[string]string{"MLLAB_STATE_DIR": state}, "report")
	if code != 3 || !strings.Contains(stderr, "no run has left evidence in "+state) || !strings.Contains(stderr, "hint:  mllab scenario canary\n") {
		t.Errorf("code %d: %s", code, stderr)
	}
	folder := filepath.Join(state, bootstrap.DefaultName, "evidence", "canary")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder, scenarios.EventsFile)
	if err := os.WriteFile(file, []byte("{\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := call(t, map[string]string{"MLLAB_STATE_DIR": state}, "report"); code != 2 || !strings.Contains(stderr, "reading "+file) {
		t.Errorf("damaged evidence: code %d: %s", code, stderr)
	}
	line, err := json.Marshal(scenarios.Result{Scenario: "canary", Pass: true}.Event())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(line, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"report"}, {"report", folder}} {
		if code, stdout, stderr := call(t, map[string]string{"MLLAB_STATE_DIR": state}, args...); code != 0 || !strings.Contains(stdout, "What was proven: 1 PASS") {
			t.Errorf("%q: code %d, %s: %s", args, code, stderr, stdout)
		}
	}
}
