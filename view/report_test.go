package view

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
	"mllab.local/scenarios"
)

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// told are the events of a canary: a sample of 100, of which so many are v2's and
// one is lost, while a watcher sends 20.
func told(t *testing.T, v2 int) (all []scenarios.Event) {
	t.Helper()
	at := began
	add := func(e scenarios.Event) {
		at = at.Add(10 * time.Millisecond)
		e.Version, e.At, e.Run, e.Step = 1, at, "canary", "90/10"
		all = append(all, e)
	}
	regions, err := split.Claim{Legs: []split.Leg{{Name: "v1", Share: 0.9}, {Name: "v2", Share: 0.1}}, N: 100, Alpha: 1e-3}.Regions()
	if err != nil {
		t.Fatal(err)
	}
	add(scenarios.Event{Type: scenarios.EventRun, Story: &scenarios.Story{
		Call:     scenarios.Call{Command: "mllab scenario canary --requests=100", Lab: "mllab", Versions: map[string]string{"knative": "v9.9"}},
		Scenario: "canary", Summary: "a new version takes over", Steps: []scenarios.StoryStep{{Name: "90/10", Why: "A tenth <b>meets</b> v2.", WatchFor: "the counts"}},
	}})
	add(scenarios.Event{Type: scenarios.EventBegin})
	add(scenarios.Event{Type: scenarios.EventChange, Text: "--- as it is\n+++ Service\n-  percent: 100\n+  percent: 90\n"})
	add(scenarios.Event{Type: scenarios.EventClaim, Claim: &scenarios.ClaimedSplit{By: "target", N: 100, Alpha: 1e-3, Regions: regions}})
	add(scenarios.Event{Type: scenarios.EventSample, N: 100})
	answer := func(from, target, problem string, n int) {
		add(scenarios.Event{Type: scenarios.EventAnswer, Answer: &scenarios.Answered{From: from, ID: fmt.Sprintf("id-%s-%d", from, n), Target: target, Pod: "p", Milliseconds: float64(n + 1), Problem: problem}})
	}
	for n := range 100 {
		switch {
		case n == 99:
			answer(scenarios.FromSample, "", "status 503 <proxy>", n)
		case n < v2:
			answer(scenarios.FromSample, "v2", "", n)
		default:
			answer(scenarios.FromSample, "v1", "", n)
		}
		if n%5 == 0 {
			answer(scenarios.FromWatcher, "v1", "", n)
		}
	}
	step := scenarios.StepResult{Name: "90/10", Barrier: 1.5, Seconds: 2.5, Evidence: &scenarios.Evidence{Summary: "seen", Tally: &probe.Tally{Sent: 100}, File: "/some/where/01-90-10.jsonl", Figures: []scenarios.Figure{{Name: "first", Value: 2.5, Unit: "s"}}}}
	add(scenarios.Event{Type: scenarios.EventEnd, Text: "seen", Error: "claim \"answers\" does not hold", Checked: &step})
	add(scenarios.Result{Scenario: "canary", Refuted: scenarios.Answers, Reasons: []string{"one 503"}, Seconds: 4.5, CPUSeconds: 6.25, Steps: []scenarios.StepResult{step}}.Event())
	return all
}

func reportOf(t *testing.T, events []scenarios.Event) (string, *Record) {
	t.Helper()
	var r Record
	for _, e := range events {
		r.Add(e)
	}
	var b bytes.Buffer
	if err := r.HTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String(), &r
}

// words is what a page says, without its marks.
func words(page string) string {
	return strings.Join(strings.Fields(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(page, " ")), " ")
}

func TestAReportHasTheFactsOfItsEvents(t *testing.T) {
	page, r := reportOf(t, told(t, 12))
	text := words(page)
	for _, fact := range []string{
		"What was proven: 1 FAIL",
		"canary: claim &#34;answers&#34; does not hold: one 503",
		"FAIL 100 4.5 6.2 2026-01-02 03:04:05 UTC",
		"v1 87 87.0 % 78.8 to 92.9 % 79 to 98 of 100",
		"v2 12 12.0 % 6.4 to 20.0 % 2 to 21 of 100",
		"v1 107 ", // of the sample and of the watcher: latencies
		"status 503 &lt;proxy&gt; sample 100.0 id-sample-99",
		"every answer: 01-90-10.jsonl",
		"first 2.5 s",
		"A tenth &lt;b&gt;meets&lt;/b&gt; v2. Look at: the counts",
		"- percent: 100 &#43; percent: 90",
		"mllab scenario canary --requests=100 on the lab mllab, with these versions: knative v9.9",
		"120 answers, 1 lost or wrong.",
		"1.5 s 2.5 s",
	} {
		if !strings.Contains(text, fact) {
			t.Errorf("it does not say %q:\n%s", fact, text)
		}
	}
	for _, want := range []any{r.Runs[0].Shares(), r.Runs[0].Distribution()} {
		data, err := json.Marshal(want)
		if err != nil || !strings.Contains(page, `<script type="application/json">`+string(data)+`</script>`) {
			t.Errorf("it has no plot of %s, %v", data, err)
		}
	}
}

func TestAPlotHasTheCountsOfItsEvents(t *testing.T) {
	_, r := reportOf(t, told(t, 12))
	p := r.Runs[0].Shares()
	if got := fmt.Sprint(p.Legs, p.Steps, p.Lost, p.End); got != "[0 1] [[0.01 1]] [1.24] 1.24" {
		t.Errorf("got %s", got)
	}
	if len(p.Samples) != 1 {
		t.Fatalf("%d samples", len(p.Samples))
	}
	s := p.Samples[0]
	if got := fmt.Sprint(s.Legs, *s.Accepted[0], *s.Accepted[1], s.Points[0], s.Points[99]); got != "[0 1] [0.79 0.98] [0.02 0.21] [0.05 1 0 1] [1.24 100 87 12]" {
		t.Errorf("a sample is %s", got)
	}
	if got := fmt.Sprint(p.Watched); got != "[[0.5 16 16 0] [1.5 4 4 0]]" {
		t.Errorf("the watcher's shares are %s", got)
	}
	l := r.Runs[0].Distribution()
	if last := len(l.MS) - 1; l.MS[0] != 1 || l.Parts[0][last] != 1 || l.Parts[1][last] != 1 {
		t.Errorf("all answers came within %g ms: %g and %g", l.MS[last], l.Parts[0][last], l.Parts[1][last])
	}
	for k, ms := range l.MS { // v2's took 1 to 12 ms
		if want := math.Floor(min(ms*(1+1e-6), 12)) / 12; l.Parts[1][k] != want {
			t.Errorf("within %g ms came %g of v2's, want %g", ms, l.Parts[1][k], want)
		}
	}
}

// A report runs what is in it, and loads nothing. Its library names its home.
func TestAReportNeedsNothingElse(t *testing.T) {
	page, _ := reportOf(t, told(t, 12))
	run := regexp.MustCompile(`(?s)<script>(.*)</script>`).FindStringSubmatch(page)
	policy := `content="default-src 'none'; style-src 'unsafe-inline'`
	if script() == "" {
		if run != nil || !strings.Contains(words(page), "built without its plotting library") {
			t.Error("without its library it does not say so, or runs something")
		}
	} else if run == nil {
		t.Fatal("it has its library, and no script")
	} else {
		policy += "; script-src " + allowed(run[1])
		page = strings.Replace(page, run[0], "", 1)
		if !strings.Contains(run[1], "Permission is hereby granted") {
			t.Error("it has the library without its license")
		}
	}
	if !strings.Contains(html.UnescapeString(page), policy+`">`) {
		t.Errorf("a browser may load something, or not run what it has, want %s in %s", policy, page[:500])
	}
	for _, bad := range []string{"<script>", "src=", "@import", "url(", "<link", "http:", "https:"} {
		if strings.Contains(page, bad) {
			t.Errorf("it has %q", bad)
		}
	}
	d := xml.NewDecoder(strings.NewReader(page[strings.Index(page, "<body>") : strings.Index(page, "</body>")+7]))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestEachSampleOfAStepHasItsOwnCounts(t *testing.T) {
	var r Record
	e := func(e scenarios.Event) { e.Run, e.At = "canary", began; r.Add(e) }
	e(scenarios.Event{Type: scenarios.EventRun, Story: &scenarios.Story{}})
	e(scenarios.Event{Type: scenarios.EventBegin, Step: "by its tag"})
	for sample, target := range []string{"v2", "v1"} {
		if sample == 0 {
			e(scenarios.Event{Type: scenarios.EventClaim, Claim: &scenarios.ClaimedSplit{By: "target", N: 2}})
		}
		e(scenarios.Event{Type: scenarios.EventSample, N: 2})
		for range 2 {
			e(scenarios.Event{Type: scenarios.EventAnswer, Answer: &scenarios.Answered{From: scenarios.FromSample, Target: target}})
		}
	}
	got := r.Runs[0].Counted(0)
	if len(got) != 2 || len(got[0].Shares) != 1 || got[0].Shares[0].Leg != "v2" || got[0].Shares[0].Percent != 100 || got[1].Shares[0].Leg != "v1" || got[1].Shares[0].Count != 2 {
		t.Errorf("got %+v", got)
	}
}

func TestModelsOfOneRunAreShownApart(t *testing.T) {
	var events []scenarios.Event
	e := func(e scenarios.Event) { e.Run, e.At = "progressive", began; events = append(events, e) }
	e(scenarios.Event{Type: scenarios.EventRun, Story: &scenarios.Story{}})
	e(scenarios.Event{Type: scenarios.EventBegin, Step: "both"})
	for of, ms := range map[string]float64{"slow": 3000, "good": 3} {
		e(scenarios.Event{Type: scenarios.EventClaim, Claim: &scenarios.ClaimedSplit{By: "target", Of: of, N: 1, Regions: []split.Region{{Leg: "v2", Hi: 1}}}})
		e(scenarios.Event{Type: scenarios.EventSample, N: 1})
		e(scenarios.Event{Type: scenarios.EventAnswer, Answer: &scenarios.Answered{From: scenarios.FromSample, Of: of, Target: "v2", Milliseconds: ms}})
		e(scenarios.Event{Type: scenarios.EventAnswer, Answer: &scenarios.Answered{From: scenarios.FromWatcher, Of: of, Target: "v2", Milliseconds: ms}})
	}
	e(scenarios.Event{Type: scenarios.EventAnswer, Answer: &scenarios.Answered{From: scenarios.FromWatcher, Of: "good", Target: "v1", Milliseconds: 1}})
	e(scenarios.Event{Type: scenarios.EventAnswer, Answer: &scenarios.Answered{From: scenarios.FromWatcher, Of: "good", Problem: "status 503"}})
	e(scenarios.Event{Type: scenarios.EventEnd, Checked: &scenarios.StepResult{Name: "both"}})
	page, _ := reportOf(t, events)
	text := words(page)
	for _, fact := range []string{
		"Shares over time: slow", "Latency: slow", "v2 2 3000 3000 3000 3000", "2 answers, 0 lost or wrong",
		"Shares over time: good", "Latency: good", "v1 1 1 1 1 1 v2 2 3 3 3 3", "4 answers, 1 lost or wrong",
		"slow Answered by Count", "good Answered by Count", "status 503 watcher of good",
	} {
		if !strings.Contains(text, fact) {
			t.Errorf("it does not say %q:\n%s", fact, text)
		}
	}
}

func TestAFolderOfEvidenceIsReadAsItWasWritten(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, scenarios.EventsFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Read(filepath.Join(dir, "none")); fault.Code(err) != 2 {
		t.Errorf("no folder: %v", err)
	}
	if _, err := Read(dir); fault.Code(err) != 2 {
		t.Errorf("an empty folder: %v", err)
	}
	var text strings.Builder
	events := told(t, 12)
	for _, e := range events {
		line, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(append(line, '\n'))
	}
	write("canary", text.String())
	r, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	var kept bytes.Buffer
	if err := r.HTML(&kept); err != nil {
		t.Fatal(err)
	}
	if live, _ := reportOf(t, events); live != kept.String() {
		t.Error("what is made from the file differs from what is made from the events")
	}
	killed := text.String()[:text.Len()/2]
	write("canary", killed)
	if r, err = Read(dir); err != nil || len(r.Runs) != 1 || r.Runs[0].Verdict() != "NOT FINISHED" {
		t.Errorf("a run that was killed: %+v, %v", r, err)
	}
	write("broken", "{\n")
	if _, err = Read(dir); fault.Code(err) != 2 || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a broken line: %v", err)
	}
	write("broken", `{"v":2,"type":"run","run":"later"}`+"\n")
	if _, err = Read(dir); err == nil || !strings.Contains(err.Error(), "must be of version 1, got 2") {
		t.Errorf("another version: %v", err)
	}
}

func TestASkippedRunHasItsReason(t *testing.T) {
	page, r := reportOf(t, []scenarios.Event{scenarios.Result{Scenario: "gitops", Skipped: "it needs flux"}.Event()})
	if text := words(page); !strings.Contains(text, "1 SKIPPED") || !strings.Contains(text, "SKIPPED gitops it needs flux") || r.Runs[0].Shares() != nil {
		t.Errorf("it says %s", text)
	}
}
