package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"mllab.local/addons"
	"mllab.local/bootstrap"
	"mllab.local/internal/audit"
	"mllab.local/internal/fault"
	"mllab.local/internal/probe"
	"mllab.local/internal/report"
	"mllab.local/internal/split"
	"mllab.local/scenarios"
)

func TestWrongUseOfScenariosIsSaidBeforeAnythingRuns(t *testing.T) {
	dir := t.TempDir()
	for args, want := range map[string]string{
		"scenario canry":                          "error: no scenario is called \"canry\"\nhint:  did you mean `mllab scenario canary`?\n",
		"scenario lst":                            "error: no scenario is called \"lst\"\nhint:  did you mean `mllab scenario list`?\n",
		"scenario nothing":                        "error: no scenario is called \"nothing\"\nhint:  scenarios are: ",
		"scenario list nothing":                   "error: no scenario is called \"nothing\"\nhint:  scenarios are: ",
		"scenario list canary canary":             "error: mllab scenario list takes one scenario, and got [\"canary\" \"canary\"]\nhint:  see",
		"scenario reset":                          "error: mllab scenario reset takes the name or the file of one scenario, and got 0\nhint:  see `mllab scenario list`\n",
		"scenario reset Nothing":                  "error: the name of a scenario must be a name of up to 20 small letters",
		"scenario reset nowhere.yaml":             "error: reading the scenario: open nowhere.yaml: no such file or directory\nhint:  give the path",
		"scenario canary --shares 90/20":          "error: --shares \"90/20\": they add up to 110 %, not 100 %\nhint:  such as --shares 90/10\n",
		"scenario canary --requests 0":            "error: --requests must be from 1 to 500000, got 0\nhint:  such as --requests 50000\n",
		"scenario canary --alpha 0":               "error: --alpha must be between 0 and 0.5, got 0\nhint:  such as --alpha 1e-6\n",
		"scenario canary --alpha NaN":             "error: --alpha must be between 0 and 0.5, got NaN\nhint:",
		"scenario canary --timeout -1s":           "error: --timeout must be positive, got -1s\nhint:",
		"scenario canary --junit=":                "error: --junit must be a file name, got \"\"\nhint:  such as --junit report.xml\n",
		"scenario canary --junit " + dir:          "error: --junit " + dir + " exists and is not a regular file\nhint:  name a file\n",
		"scenario canary --junit /dev/null":       "error: --junit /dev/null exists and is not a regular file\nhint:  name a file\n",
		"scenario canary --junit " + dir + "/a/b": "error: --junit " + dir + "/a/b: no such file or directory\nhint:  name a file in a folder that can be written to\n",
		"scenario canary --explain --timeout 1m":  "error: --explain waits for you, and --timeout would not\nhint:  leave --timeout out",
		"scenario canary --explain":               "error: --explain waits for Enter, and standard input is not a terminal\nhint:  run it in a terminal",
		"scenario canary --samples 3":             "error: mllab scenario canary: unknown flag: --samples\nhint:  see `mllab scenario canary --help`\n",
		"scenario all --shares 90/10":             "error: mllab scenario all: unknown flag: --shares\nhint:",
		"scenario all --parallel 0":               "error: --parallel must be from 1 to 16, got 0\nhint:  such as --parallel 2\n",
		"scenario all extra":                      "error: mllab scenario all takes no argument, and got \"extra\"\nhint:",
		"scenario all -o xml":                     "error: mllab scenario all: invalid argument \"xml\" for \"-o, --output\" flag: it must be text, json, jsonl or junit\nhint:",

		"scenario canary --guard --rollout-duration 20s": "error: --guard judges fixed shares, and --rollout-duration has none\nhint:  leave one of them out\n",
		"scenario progressive --strategy rolling":        "error: mllab scenario progressive: invalid argument \"rolling\" for \"--strategy\" flag: it must be canary, ab, blue-green or mirror\nhint:",
		"scenario blue-green --guard":                    "error: mllab scenario blue-green: unknown flag: --guard\nhint:",
	} {
		state := t.TempDir()
		code, stdout, stderr := call(t, map[string]string{"MLLAB_STATE_DIR": state}, strings.Fields(args)...)
		if code != 2 || stdout != "" || !strings.HasPrefix(stderr, want) {
			t.Errorf("mllab %s: code %d, stdout %q\n got %s want %s", args, code, stdout, stderr, want)
		}
		if left, _ := os.ReadDir(state); len(left) > 0 {
			t.Errorf("mllab %s touched the lab's state: %v", args, left)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("refused reports left %v", left)
	}
}

func TestFlagsAreThereOnlyForScenariosThatHeedThem(t *testing.T) {
	for _, tc := range []struct {
		takes, args, want string // what the error says; without a lab a right call says so
	}{
		{"shares", "--shares 80/20", "there is no lab"},
		{"", "--shares 80/20", "unknown flag: --shares"},
		{"weights", "--weights 1,5,25,50,100", "there is no lab"},
		{"", "--weights 1,5", "unknown flag: --weights"},
		{"weights", "--weights 1,x", `invalid argument "1,x" for "--weights" flag: "x": they must be whole percents`},
		{"weights", "--weights 5,5", `"5": they must be whole percents from 1 to 100, each more than the one before`},
		{"weights", "--weights 50,101", `"101": they must be`},
		{"weights", "--weights 0,50", `"0": they must be`},
		{"weights", "--weights 12.5", `"12.5": they must be`},
		{"weights shares", "--weights 50 --shares 80/20", "--shares and --weights contradict each other"},
		{"rollout-duration", "--rollout-duration 30s", "there is no lab"},
		{"", "--rollout-duration 30s", "unknown flag: --rollout-duration"},
		{"rollout-duration", "--rollout-duration 0s", "--rollout-duration must be whole seconds from 10s to 2m0s, got 0s"},
		{"rollout-duration", "--rollout-duration 1.5s", "--rollout-duration must be whole seconds from 10s to 2m0s, got 1.5s"},
		{"rollout-duration", "--rollout-duration 2h", "--rollout-duration must be whole seconds from 10s to 2m0s, got 2h0m0s"},
		{"samples", "--samples 5", "there is no lab"},
		{"samples", "--samples 0", "--samples must be from 1 to 200, got 0"},
		{"", "--samples 5", "unknown flag: --samples"},
		{"", "--short --requests 200 --alpha 1e-3 --timeout 1m", "there is no lab"},
	} {
		var out, talk bytes.Buffer
		a := &app{stdout: &out, stderr: &talk, report: report.Discard()}
		a.global.state, a.global.name = t.TempDir(), "mllab"
		c := newScenarioRun(a, scenarios.Scenario{Name: "canary", Summary: "a story", Options: strings.Fields(tc.takes), New: func(scenarios.Options) (*scenarios.Plan, error) { return &scenarios.Plan{}, nil }})
		c.SetArgs(strings.Fields(tc.args))
		c.SilenceErrors, c.SilenceUsage = true, true
		c.SetFlagErrorFunc(flagError)
		err := c.ExecuteContext(t.Context())
		wantCode := 2
		if tc.want == "there is no lab" {
			wantCode = 3
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) || fault.Code(err) != wantCode || fault.Hint(err) == "" {
			t.Errorf("takes %q, %s: %v (exit %d, hint %q)", tc.takes, tc.args, err, fault.Code(err), fault.Hint(err))
		}
	}
}

func TestWhatIsNotGivenHasTheRunsOwnDefault(t *testing.T) {
	for args, want := range map[string]scenarios.Options{
		"":                            {},
		"--short":                     {Short: true},
		"--short --requests 1000":     {Short: true, Requests: 1000},
		"--alpha 1e-3 --requests 200": {Alpha: 1e-3, Requests: 200},
	} {
		p := proof{parallel: 1}
		c := &cobra.Command{}
		(&app{}).proofFlags(c, &p, "", time.Minute)
		if err := c.ParseFlags(strings.Fields(args)); err != nil {
			t.Fatal(err)
		}
		if got, err := p.judge(c); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, want %+v (%v)", args, got, want, err)
		}
	}
}

func TestScenarioHelpIsShort(t *testing.T) {
	for _, args := range []string{"scenario", "scenario canary --help", "scenario all --help", "scenario list --help", "scenario reset --help"} {
		code, stdout, stderr := call(t, nil, strings.Fields(args)...)
		if lines := strings.Count(stdout, "\n"); code != 0 || stderr != "" || lines < 10 || lines > 30+len(scenarios.All()) || !strings.Contains(stdout, "Examples:\n  mllab ") {
			t.Errorf("mllab %s: code %d, %d lines, stderr %q\n%s", args, code, lines, stderr, stdout)
		}
		for line := range strings.Lines(stdout) {
			if len(line) > 121 {
				t.Errorf("mllab %s: a line of %d characters: %s", args, len(line), line)
			}
		}
	}
}

func TestTheListIsShortAndOneScenarioIsTold(t *testing.T) {
	all := scenarios.All()
	code, stdout, _ := call(t, nil, "scenario", "list")
	if code != 0 || strings.Count(stdout, "\n") != len(all)+1 {
		t.Errorf("code %d:\n%s", code, stdout)
	}
	for line := range strings.Lines(stdout) {
		if len([]rune(line)) > 140 {
			t.Errorf("a line of %d columns: %s", len([]rune(line)), line)
		}
	}
	if readme, err := os.ReadFile("../../README.md"); err != nil || !strings.Contains(string(readme), "$ bin/mllab scenario list\n"+stdout+"```") {
		t.Errorf("README shows another list (%v) than\n%s", err, stdout)
	}
	code, stdout, _ = call(t, nil, "scenario", "list", "canary")
	for _, want := range []string{"canary: ", "needs knative", "  1. v1 serves\n", "  weights ", "shares"} {
		if code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("code %d, no %q in:\n%s", code, want, stdout)
		}
	}
	var rows []outline
	_, stdout, _ = call(t, nil, "scenario", "list", "canary", "-o", "json")
	if err := json.Unmarshal([]byte(stdout), &rows); err != nil || len(rows) != 1 || len(rows[0].Steps) < 3 || len(rows[0].Controls) == 0 {
		t.Errorf("%v: %s", err, stdout)
	}
}

func TestJobsAreWhatTheLabHasTheAddonsFor(t *testing.T) {
	asked := []plan{
		{scenarios.Scenario{Name: "canary", Needs: []string{"knative"}}, &scenarios.Plan{Controls: []scenarios.Control{{Name: "weights"}, {Name: "errors"}}}},
		{scenarios.Scenario{Name: "gitops", Needs: []string{"knative", "flux"}}, &scenarios.Plan{}},
		{scenarios.Scenario{Name: "metrics", Needs: []string{"flux"}}, &scenarios.Plan{}},
	}
	o := scenarios.Options{Alpha: 1e-3}
	small, whole := bootstrap.Running{Addons: addons.Core()}, bootstrap.Running{Addons: append(addons.Whole(), "flux")}
	p := &proof{}
	jobs, skipped, err := p.jobs(asked[:2], o, small)
	if err != nil || len(jobs) != 1 || jobs[0].Control != "" || jobs[0].Options.Alpha != o.Alpha || len(skipped) != 1 || !strings.Contains(skipped[0].Skipped, "`mllab up --core --with flux`") {
		t.Errorf("jobs %+v, skipped %+v, %v", jobs, skipped, err)
	}
	_, skipped, err = p.jobs(asked, o, bootstrap.Running{})
	if fault.Code(err) != 3 || fault.Hint(err) != "mllab up --core --with flux,knative" || len(skipped) != 3 {
		t.Errorf("nothing to test: %v (exit %d, hint %q), skipped %+v", err, fault.Code(err), fault.Hint(err), skipped)
	}
	more := plan{scenarios.Scenario{Name: "rollout", Needs: []string{"progressive"}}, &scenarios.Plan{}}
	if _, _, err = p.jobs([]plan{more}, o, whole); fault.Hint(err) != "mllab up --with progressive" {
		t.Errorf("on the whole lab: %v, hint %q", err, fault.Hint(err))
	}
	p.controls = true
	jobs, _, err = p.jobs(asked[:1], o, whole)
	if err != nil || len(jobs) != 2 || jobs[0].Control != "weights" || jobs[1].Control != "errors" {
		t.Errorf("controls %+v, %v", jobs, err)
	}
	if _, _, err = p.jobs(asked[2:], o, whole); fault.Code(err) != 3 {
		t.Errorf("no control to run: %v", err)
	}
}

// someResults are one of each outcome.
var someResults = []scenarios.Result{
	{Scenario: "canary", Pass: true, Seconds: 23.9, CPUSeconds: 31.254, Steps: []scenarios.StepResult{
		{Name: "v1 serves", Pass: true, Barrier: 2.2, Seconds: 0.9, Evidence: &scenarios.Evidence{
			Summary: "n=1000 v1 1000 (accepted 1000..1000), exact: one stray answer fails", Tally: &probe.Tally{Sent: 1000},
			Verdict: &split.Verdict{Regions: []split.Region{{Leg: "v1", Share: 1}}},
		}},
		{Name: "90/10", Pass: true, Barrier: 1.7, Seconds: 1.6, Evidence: &scenarios.Evidence{
			Summary: "n=1000 v1 901 (accepted 851..943), v2 99 (accepted 57..149), alpha 1e-06", Tally: &probe.Tally{Sent: 1000},
			Verdict: &split.Verdict{Regions: []split.Region{{Leg: "v1", Share: 0.9}, {Leg: "v2", Share: 0.1}}},
		}},
		{Name: "no request lost", Pass: true, Evidence: &scenarios.Evidence{
			Summary: "0 of 759 watched requests lost", Tally: &probe.Tally{Sent: 759}, Watch: &scenarios.Watched{Sent: 759},
		}},
	}},
	{Scenario: "cold", Pass: true, Seconds: 41, Steps: []scenarios.StepResult{
		{Name: "one request", Pass: true, Evidence: &scenarios.Evidence{
			Summary: "answered after 2.31 s by the one pod it started", Figures: []scenarios.Figure{{Name: "pod", Value: 1}, {Name: "first byte", Value: 2.3081, Unit: "s"}, {Name: "sandbox", Value: 0.31234, Unit: "s"}, {Name: "retries", Value: 0}},
		}},
	}},
	{Scenario: "shadow", Refuted: scenarios.Mirror, Reasons: []string{"v2 saw 99 of 100 requests"}, Seconds: 12, Steps: []scenarios.StepResult{
		{Name: "v1 serves", Pass: true, Evidence: &scenarios.Evidence{}},
		{Name: "mirrored", Barrier: 1, Seconds: 2, Evidence: &scenarios.Evidence{Summary: "v2 saw 99 of 100 requests"}},
	}},
	{Scenario: "zero", Error: "zero: step \"quiet\": waiting for no pod: context deadline exceeded", Seconds: 5, Steps: []scenarios.StepResult{{Name: "quiet"}}},
	{Scenario: "arms", Error: "arms: making namespace mllab-arms: refused"},
	{Scenario: "canary", Control: "weights", Pass: true, Refuted: scenarios.Shares, Catches: scenarios.Shares, Reasons: []string{"leg v2: 510 of 1000"}, Seconds: 9},
	{Scenario: "canary", Control: "errors", Catches: scenarios.Answers, Seconds: 20},
	{Scenario: "shadow", Control: "off", Catches: scenarios.Mirror, Refuted: scenarios.Caller, Reasons: []string{"a 503"}, Seconds: 8},
	{Scenario: "gitops", Skipped: "it needs flux: `mllab up --core --with flux`"},
	{Scenario: "lab", Error: "the lab was not whole all the time: Pod/istio-system/istiod-1 container discovery ended at 12:00:00: OOMKilled, exit code 137"},
}

func TestResultsAsText(t *testing.T) {
	var asked []plan
	for _, name := range []string{"canary", "cold", "shadow", "zero", "arms", "gitops"} {
		asked = append(asked, plan{scenarios.Scenario{Name: name}, &scenarios.Plan{Steps: make([]scenarios.Step, 3)}})
	}
	var b bytes.Buffer
	printSteps(&b, someResults)
	fmt.Fprintln(&b)
	printTable(&b, someResults, asked)
	for _, r := range someResults {
		printVerdict(&b, r)
	}
	const golden = "testdata/results.txt"
	if *update {
		if err := os.WriteFile(golden, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%s\nwant (-update writes it)\n%s", b.String(), want)
	}
}

func TestTheTableOfRunsFitsAScreenOf80Columns(t *testing.T) {
	var results []scenarios.Result
	var asked []plan
	for _, s := range scenarios.All() {
		both := scenarios.StepResult{Pass: true, Evidence: &scenarios.Evidence{Tally: &probe.Tally{Sent: 12345}, Watch: &scenarios.Watched{Sent: 12345}}}
		sample := scenarios.StepResult{Pass: true, Evidence: &scenarios.Evidence{Tally: &probe.Tally{Sent: 12345}}}
		results = append(results, scenarios.Result{Scenario: s.Name, Pass: true, Seconds: 123.4, CPUSeconds: 123.4, Steps: []scenarios.StepResult{sample, both}})
		asked = append(asked, plan{s, &scenarios.Plan{Steps: make([]scenarios.Step, 12)}})
	}
	var b bytes.Buffer
	printTable(&b, results, asked)
	if !strings.Contains(b.String(), "24690     123.4    123.4        samples+watcher") {
		t.Errorf("it is\n%s", b.String())
	}
	for line := range strings.Lines(b.String()) {
		if len(line) > 80+len("\n") {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
}

func TestEveryRunIsInTheJUnitReport(t *testing.T) {
	cases := junitCases(someResults)
	type outcome struct{ failure, skipped string }
	want := map[string]outcome{
		"canary v1 serves":       {},
		"canary 90/10":           {},
		"canary no request lost": {},
		"cold one request":       {},
		"shadow v1 serves":       {},
		"shadow mirrored":        {failure: "v2 saw 99 of 100 requests"},
		"zero quiet":             {failure: "zero: step \"quiet\": waiting for no pod: context deadline exceeded"},
		"arms run":               {failure: "arms: making namespace mllab-arms: refused"},
		"canary control weights": {},
		"canary control errors":  {failure: "canary: control errors was not caught: every claim held in a broken world"},
		"shadow control off":     {failure: `shadow: control off was caught for the wrong reason: "caller" instead of "mirror": a 503`},
		"lab run":                {failure: someResults[len(someResults)-1].Error},
		"gitops all steps":       {skipped: "it needs flux: `mllab up --core --with flux`"},
	}
	if len(cases) != len(want) {
		t.Errorf("%d cases, want %d", len(cases), len(want))
	}
	for _, c := range cases {
		w, there := want[c.Suite+" "+c.Name]
		if !there || c.Failure != w.failure || c.Skipped != w.skipped {
			t.Errorf("%s %s: %+v, want %+v", c.Suite, c.Name, c, w)
		}
	}
	// All steps passed, and then the clean-up failed.
	cases = junitCases([]scenarios.Result{{Scenario: "s", Error: "cleaning up", Steps: []scenarios.StepResult{{Name: "a", Pass: true}}}})
	if len(cases) != 2 || cases[0].Failure != "" || cases[1].Failure != "cleaning up" {
		t.Errorf("%+v", cases)
	}
}

func TestTheExitCodeIsOfTheWorstThatIsKnown(t *testing.T) {
	passed := scenarios.Result{Scenario: "a", Pass: true}
	failed := scenarios.Result{Scenario: "b", Refuted: scenarios.Shares, Reasons: []string{"why"}}
	untested := scenarios.Result{Scenario: "c", Error: "no pod"}
	skipped := scenarios.Result{Scenario: "d", Skipped: "no addon"}
	cannot := fault.CannotTest("", "no pod")
	for _, tc := range []struct {
		name    string
		results []scenarios.Result
		err     error
		code    int
		says    string
	}{
		{"all passed", []scenarios.Result{passed, skipped}, nil, 0, ""},
		{"one failed", []scenarios.Result{passed, failed}, nil, 1, `b: claim "shares" does not hold: why`},
		{"two failed", []scenarios.Result{failed, passed, failed}, nil, 1, "2 of 3 runs failed"},
		{"one could not be tested", []scenarios.Result{passed, untested}, cannot, 3, "no pod"},
		{"a claim that fails says more", []scenarios.Result{untested, failed}, cannot, 1, "shares"},
		{"^C before all", []scenarios.Result{failed, untested}, fmt.Errorf("step: %w", context.Canceled), 130, ""},
	} {
		err := outcome(tc.results, tc.err)
		if fault.Code(err) != tc.code || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v (exit %d), want exit %d", tc.name, err, fault.Code(err), tc.code)
		}
	}
}

func TestAReportAppearsWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "report.xml")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := createReport("junit", path)
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(path); string(text) != "old" {
		t.Errorf("before it is written there is %q", text)
	}
	if err := writeJUnit(f, someResults); err != nil {
		t.Fatal(err)
	}
	f.discard()
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), `failures="6"`) || !strings.HasSuffix(string(text), "</testsuites>\n") {
		t.Errorf("%v: %s", err, text)
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o644 {
		t.Errorf("mode %v", st.Mode())
	}
	g, err := createReport("junit", filepath.Join(dir, "never.xml"))
	if err != nil {
		t.Fatal(err)
	}
	g.discard()
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("left: %v", files)
	}
	var none *reportFile
	if none.discard(); writeJUnit(none, nil) != nil {
		t.Error("no report is asked for, and it fails")
	}
}

func TestWithoutALabTheReportSaysThatNothingWasTested(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.xml")
	code, stdout, stderr := call(t, map[string]string{"MLLAB_STATE_DIR": t.TempDir()}, "scenario", "canary", "--junit", path)
	if code != 3 || stdout != "" || !strings.Contains(stderr, "there is no lab") {
		t.Errorf("code %d, stdout %q, stderr %s", code, stdout, stderr)
	}
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), `failures="1"`) || !strings.Contains(string(text), "there is no lab") {
		t.Errorf("%v: %s", err, text)
	}
}

// pupil is a teacher who reads from this.
func pupil(t *testing.T, in *os.File, color bool) (*app, *bytes.Buffer) {
	t.Helper()
	var talk bytes.Buffer
	return &app{stdin: in, stderr: &talk, color: color, report: report.Discard()}, &talk
}

func pipe(t *testing.T, typed string) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	if _, err := w.WriteString(typed); err != nil {
		t.Fatal(err)
	}
	return r, w
}

var aLesson = scenarios.Lesson{Step: 2, Steps: 7, Name: "90/10", Why: "A tenth of the users meet v2.", WatchFor: "the count of v2.",
	Change: "--- as it is\n+++ Service/ns/model\n@@ -1,3 +1,3 @@\n traffic:\n-- percent: 100\n+- percent: 90\n"}

func TestEachEnterGoesOnAndTheEndOfInputStops(t *testing.T) {
	in, w := pipe(t, "\n\n")
	w.Close()
	a, talk := pupil(t, in, false)
	ctx, cancel := context.WithCancel(t.Context())
	teach, err := a.teach(cancel)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := teach(ctx, aLesson); err != nil {
			t.Fatal(err)
		}
	}
	want := `
== Step 2 of 7: 90/10
A tenth of the users meet v2.

This is about to be changed:
--- as it is
+++ Service/ns/model
@@ -1,3 +1,3 @@
 traffic:
-- percent: 100
+- percent: 90

Look at: the count of v2.

Enter goes on, ^C stops: 
`
	if got := talk.String(); got != want+want {
		t.Errorf("got\n%swant twice\n%s", got, want)
	}
	if err := teach(ctx, aLesson); fault.Code(err) != 130 || ctx.Err() == nil {
		t.Errorf("at the end of input: %v, the run is stopped: %v", err, ctx.Err())
	}
}

func TestAnInterruptDoesNotWaitForEnter(t *testing.T) {
	in, _ := pipe(t, "")
	a, _ := pupil(t, in, false)
	ctx, cancel := context.WithCancel(t.Context())
	teach, err := a.teach(cancel)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := teach(ctx, aLesson); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestNobodyCanPressEnterOnDevNull(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	a, _ := pupil(t, null, false)
	if _, err := a.teach(func() {}); fault.Code(err) != 2 || fault.Hint(err) == "" {
		t.Errorf("%v", err)
	}
}

func TestADiffIsColouredOnlyWithColour(t *testing.T) {
	for _, color := range []bool{false, true} {
		teacher := &teacher{color: color}
		got := teacher.text(aLesson)
		if strings.Contains(got, "\x1b[31m-- percent: 100\x1b[0m\n\x1b[32m+- percent: 90\x1b[0m\n") != color || strings.Contains(got, "\x1b") != color {
			t.Errorf("colour %t: %q", color, got)
		}
	}
}

func TestAnAuditReadsAllOfAProof(t *testing.T) {
	note, err := json.Marshal(scenarios.Proof{Scenario: "gitops", Control: "c", Step: "s", Applied: "main@sha1:ab", SecondsToTraffic: 1, Reasons: []string{"r"}})
	if err != nil {
		t.Fatal(err)
	}
	var read audit.Proof
	d := json.NewDecoder(bytes.NewReader(note))
	d.DisallowUnknownFields()
	if err := d.Decode(&read); err != nil || read.Scenario != "gitops" || read.Step != "s" || read.SecondsToTraffic != 1 {
		t.Errorf("%+v, %v", read, err)
	}
}

func TestTheSchemaKnowsTheLabsAddonsAndDomain(t *testing.T) {
	_, stdout, _ := call(t, nil, "scenario", "schema")
	var schema struct {
		Defs map[string]struct {
			Enum    []string
			Pattern string
		} `json:"$defs"`
	}
	if err := json.Unmarshal([]byte(stdout), &schema); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, each := range addons.All() {
		names = append(names, each.Name)
	}
	slices.Sort(names)
	if got := schema.Defs["addon"].Enum; !slices.Equal(got, names) {
		t.Errorf("the schema has addons %q, the lab %q", got, names)
	}
	for _, def := range []string{"publicHost", "anyHost"} {
		if p := schema.Defs[def].Pattern; !strings.Contains(p, `\.`+regexp.QuoteMeta(addons.Domain)) {
			t.Errorf("%s takes no host of %s: %s", def, addons.Domain, p)
		}
	}
}

// A person's link to a report stays, and so does what it leads to when nothing can be written.
func TestAReportGoesWhereALinkLeads(t *testing.T) {
	dir := t.TempDir()
	real, link, lost := filepath.Join(dir, "real.xml"), filepath.Join(dir, "link.xml"), filepath.Join(dir, "lost.xml")
	if err := errors.Join(os.WriteFile(real, []byte("old"), 0o600), os.Symlink(real, link), os.Symlink(filepath.Join(dir, "nowhere", "a.xml"), lost)); err != nil {
		t.Fatal(err)
	}
	f, err := createReport("junit", link)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.write(func(w io.Writer) error { _, err := io.WriteString(w, "new"); return err }); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(real)
	if to, lerr := os.Readlink(link); err != nil || lerr != nil || to != real || string(text) != "new" {
		t.Errorf("the link leads to %q, %v, and its file has %q, %v", to, lerr, text, err)
	}
	if _, err := createReport("junit", lost); fault.Code(err) != 2 || !strings.Contains(err.Error(), "--junit "+lost+" is a symbolic link that leads nowhere") {
		t.Errorf("got %v", err)
	}
}

func TestMistakesInAFileAreReportedAsThePageSays(t *testing.T) {
	page, err := os.ReadFile("../../docs/own-scenarios.md")
	if err != nil {
		t.Fatal(err)
	}
	const wrong = `apiVersion: mllab.local/v1alpha1
kind: Scenario
name: mine
summary: a file with mistakes
steps:
  - name: v1 serves
    apply:
      - knative: {name: model, version: v1, env: {FAIL_PERCENT: 5}}
    expect-all: {of: model, version: v1}
  - name: one in ten
    split: {of: model, percent: {v1: 90, v2: 20}}
    sleep: 5
`
	file := filepath.Join(t.TempDir(), "my.yaml")
	for _, text := range []string{wrong, strings.NewReplacer("FAIL_PERCENT: 5", `FAIL_PERCENT: "5"`, "    sleep: 5\n", "").Replace(wrong)} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		code, stdout, stderr := call(t, nil, "scenario", "run", file)
		if code != 2 || stdout != "" || !strings.Contains(string(page), "\n"+stderr) {
			t.Errorf("code %d, %s, not on the page: %s", code, stdout, stderr)
		}
	}
}
