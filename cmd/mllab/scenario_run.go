package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mllab.local/addons"
	"mllab.local/bootstrap"
	"mllab.local/internal/fault"
	"mllab.local/internal/report"
	"mllab.local/internal/split"
	"mllab.local/scenarios"
	"mllab.local/view"
)

// Bounds of what can be asked for.
const (
	maxSamples  = 200
	maxParallel = 16
)

type proof struct {
	verb           string
	all            bool
	options        scenarios.Options
	shares         string
	steps          percentages
	junit, html    string
	controls, keep bool
	teach          bool
	timeout        time.Duration
	parallel       int
}

func newScenarioRun(a *app, about scenarios.Scenario) *cobra.Command {
	p := proof{verb: "scenario " + about.Name}
	c := &cobra.Command{
		Use:   about.Name + " [flags]",
		Short: strings.ToUpper(about.Summary[:1]) + about.Summary[1:],
		Example: fmt.Sprintf(`  mllab scenario %[1]s
  mllab scenario %[1]s --explain           # explain each step, and wait for Enter
  mllab scenario %[1]s --controls          # negative controls: each breaks the lab and must be caught`, about.Name),
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.prove(c, &p, func(scenarios.Options) ([]scenarios.Scenario, error) {
				return []scenarios.Scenario{about}, nil
			})
		},
	}
	f := c.Flags()
	f.SortFlags = false
	takes := func(name string) bool { return slices.Contains(about.Options, name) }
	if takes("shares") {
		f.StringVar(&p.shares, "shares", scenarios.DefaultShares, "first split, old version first, in whole percents")
	}
	if takes("weights") {
		f.Var(&p.steps, "weights", "shares of the new version, one step each, such as 1,5,25,50,100")
	}
	if takes("rollout-duration") {
		f.DurationVar(&p.options.RolloutDuration, "rollout-duration", 0, "let Knative shift the traffic gradually over this time, such as 30s")
	}
	if takes("guard") {
		f.BoolVar(&p.options.Guard, "guard", false, "judge each answer, and roll back at once when v2 is worse")
	}
	if takes("samples") {
		f.IntVar(&p.options.Samples, "samples", scenarios.DefaultSamples, "how often it is measured (with --short: 1)")
	}
	if takes("strategy") {
		p.options.Strategy = scenarios.Strategies[0]
		f.Var(&choice{&p.options.Strategy, scenarios.Strategies}, "strategy", "how Flagger brings users to the new version")
	}
	f.BoolVar(&p.teach, "explain", false, "explain each step and show its changes first, and wait for Enter")
	a.proofFlags(c, &p, "keep the namespace "+scenarios.Namespace(about.Name)+" for inspection", 10*time.Minute)
	return c
}

func newScenarioAll(a *app) *cobra.Command {
	p := proof{verb: "scenario all", all: true}
	c := &cobra.Command{
		Use:   "all [flags]",
		Short: "Run every scenario that the lab has the addons for",
		Long: `Run every scenario that the lab has the addons for, in parallel. Those that
measure time run alone, after the others. A scenario whose addon is missing is
skipped, and its row names the command that adds it.`,
		Example: `  mllab scenario all
  mllab scenario all --short --junit report.xml
  mllab scenario all --controls`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.prove(c, &p, func(scenarios.Options) ([]scenarios.Scenario, error) { return scenarios.All(), nil })
		},
	}
	f := c.Flags()
	f.SortFlags = false
	a.proofFlags(c, &p, "keep the namespaces for inspection", 30*time.Minute)
	return c
}

func (a *app) proofFlags(c *cobra.Command, p *proof, keep string, timeout time.Duration) {
	f := c.Flags()
	f.BoolVar(&p.options.Short, "short", false, "leave out long steps and send fewer requests")
	f.IntVar(&p.options.Requests, "requests", scenarios.DefaultRequests, fmt.Sprintf("requests in each sample (with --short: %d)", scenarios.ShortRequests))
	f.Float64Var(&p.options.Alpha, "alpha", scenarios.DefaultAlpha, "error rate: how often a correct split fails, for each sample")
	f.BoolVar(&p.controls, "controls", false, "run the controls instead: each breaks the lab, and the verdict must be FAIL")
	f.IntVar(&p.parallel, "parallel", 2, "how many scenarios or controls run in parallel")
	f.BoolVar(&p.keep, "keep", false, keep)
	f.DurationVar(&p.timeout, "timeout", timeout, "stop after this time")
	f.StringVar(&p.junit, "junit", "", "also write a JUnit report to `FILE`")
	f.StringVar(&p.html, "html", "", "also write a report to `FILE` that is one page without network")
	a.global.output = "text"
	f.VarP(&choice{&a.global.output, []string{"text", "json", "jsonl", "junit"}}, "output", "o", "how the result is written to stdout")
}

// percentages is a flag: rising whole percents.
type percentages []int

func (p *percentages) String() string {
	var words []string
	for _, n := range *p {
		words = append(words, strconv.Itoa(n))
	}
	return strings.Join(words, ",")
}

func (p *percentages) Type() string { return "N,..." }

func (p *percentages) Set(s string) error {
	*p = nil
	last := 0
	for _, word := range strings.Split(s, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n <= last || n > 100 {
			return fmt.Errorf("%q: they must be whole percents from 1 to 100, each more than the one before, such as 1,5,25,50,100", word)
		}
		*p, last = append(*p, n), n
	}
	return nil
}

// judge returns the options that the flags give; what is not given is zero, so
// that it has its default of a long or a short run.
func (p *proof) judge(c *cobra.Command) (o scenarios.Options, err error) {
	o = p.options
	given := c.Flags().Changed
	if given("shares") && given("weights") {
		return o, fault.Usage("use --weights alone: it names every share", "--shares and --weights contradict each other")
	}
	if given("shares") {
		if o.Shares, err = split.ParseShares(p.shares); err != nil {
			return o, fault.Usage("such as --shares 90/10", "--%w", err)
		}
	}
	o.Weights = p.steps
	if given("rollout-duration") {
		if err := scenarios.CheckRollout(o.RolloutDuration); err != nil {
			return o, err
		}
	}
	for _, n := range []struct {
		flag  string
		value *int
		most  int
	}{{"requests", &o.Requests, scenarios.MaxRequests}, {"samples", &o.Samples, maxSamples}} {
		if !given(n.flag) {
			*n.value = 0
		} else if *n.value < 1 || *n.value > n.most {
			return o, fault.Usage(fmt.Sprintf("such as --%s %d", n.flag, n.most/10), "--%s must be from 1 to %d, got %d", n.flag, n.most, *n.value)
		}
	}
	if !given("alpha") {
		o.Alpha = 0
	} else if !(o.Alpha > 0 && o.Alpha < 0.5) {
		return o, fault.Usage("such as --alpha 1e-6", "--alpha must be between 0 and 0.5, got %g", o.Alpha)
	}
	switch {
	case p.parallel < 1 || p.parallel > maxParallel:
		return o, fault.Usage("such as --parallel 2", "--parallel must be from 1 to %d, got %d", maxParallel, p.parallel)
	case p.timeout <= 0:
		return o, fault.Usage("such as --timeout 10m", "--timeout must be positive, got %s", p.timeout)
	case p.teach && given("timeout"):
		return o, fault.Usage("leave --timeout out, and stop with ^C", "--explain waits for you, and --timeout would not")
	case given("junit") && p.junit == "":
		return o, fault.Usage("such as --junit report.xml", "--junit must be a file name, got \"\"")
	case given("html") && p.html == "":
		return o, fault.Usage("such as --html report.html", "--html must be a file name, got \"\"")
	}
	return o, nil
}

// prove runs what is asked for and writes the result. What is wrong with the
// flags is said before anything is touched.
func (a *app) prove(c *cobra.Command, p *proof, ask func(scenarios.Options) ([]scenarios.Scenario, error)) error {
	o, err := p.judge(c)
	if err != nil {
		return err
	}
	asked, err := planned(ask, o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context(), p.timeout)
	if p.teach { // a person has as long as they need
		ctx, cancel = context.WithCancel(c.Context())
	}
	defer cancel()
	var teach func(context.Context, scenarios.Lesson) error
	if p.teach {
		if teach, err = a.teach(cancel); err != nil {
			return err
		}
	}
	junit, err := createReport("junit", p.junit)
	if err != nil {
		return err
	}
	defer junit.discard()
	html, err := createReport("html", p.html)
	if err != nil {
		return err
	}
	defer html.discard()
	call, err := a.call(c)
	if err != nil {
		return err
	}
	var all gathered
	var record view.Record
	terminal := progress{a.report, map[string]*seen{}}
	events := readers{each: []func(scenarios.Event){all.read, terminal.read}}
	if html != nil {
		events.each = append(events.each, record.Add)
	}
	if a.global.output == "jsonl" {
		events.each = append(events.each, jsonLines(a.stdout))
	}

	lab, err := bootstrap.Open(c.Context(), a.options(), p.verb)
	if err != nil {
		for _, s := range asked {
			events.read(scenarios.Result{Scenario: s.Name, Error: err.Error()}.Event())
		}
		return errors.Join(err, writeJUnit(junit, all), html.write(record.HTML))
	}
	defer lab.Close()
	jobs, skipped, err := p.jobs(asked, o, lab)
	for _, r := range skipped {
		events.read(r.Event())
	}
	if err == nil {
		var cpu func(context.Context) (float64, error)
		if p.all {
			cpu = lab.CPU
		}
		began := time.Now()
		err = scenarios.RunAll(ctx, &scenarios.Env{
			Kube: lab.Kube, Gateway: lab.URL, Domain: addons.Domain, Git: lab.Git, Image: lab.Images["sampleapp"],
			Python: lab.Images["python"], Runner: lab.Images["runner"], Registry: addons.Registry,
			Evidence: lab.Evidence, Call: call, Events: events.read, CPU: cpu, Teach: teach,
		}, jobs, p.keep, p.parallel)
		if p.all && ctx.Err() == nil {
			if disturbed := scenarios.Undisturbed(ctx, lab.Kube, began); disturbed != nil {
				events.read(scenarios.Result{Scenario: "lab", Error: disturbed.Error()}.Event())
				err = errors.Join(err, disturbed)
			}
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fault.Hinted(err, fmt.Sprintf("use a longer --timeout than %s", p.timeout))
		}
	}
	a.report.Close()
	results := all.inOrder(asked)
	err = errors.Join(outcome(results, err), writeJUnit(junit, results), html.write(record.HTML))
	switch a.global.output {
	case "jsonl": // it was written as it happened
		return err
	case "junit":
		return errors.Join(err, report.JUnit(a.stdout, junitCases(results)))
	}
	return errors.Join(err, a.print(results, func(w io.Writer) {
		if p.all {
			printTable(w, results, asked)
		} else {
			printSteps(w, results)
		}
		for _, r := range results {
			printVerdict(w, r)
		}
	}))
}

// plan is a scenario that is asked for, and what a run of it with these options
// does.
type plan struct {
	scenarios.Scenario
	*scenarios.Plan
}

// planned returns what is asked for. The error is wrong use.
func planned(ask func(scenarios.Options) ([]scenarios.Scenario, error), o scenarios.Options) ([]plan, error) {
	all, err := ask(o)
	if err != nil {
		return nil, err
	}
	var asked []plan
	for _, s := range all {
		p, err := s.Plan(o)
		if err != nil {
			return nil, err
		}
		asked = append(asked, plan{s, p})
	}
	return asked, nil
}

// jobs are the runs that are asked for, and the results of those that the lab
// has no addon for. With none left to run nothing can be tested.
func (p *proof) jobs(asked []plan, o scenarios.Options, lab bootstrap.Running) (jobs []scenarios.Job, skipped []scenarios.Result, err error) {
	var missing []string
	for _, s := range asked {
		why := ""
		if lacking := lab.Missing(s.Needs); len(lacking) > 0 {
			missing = append(missing, lacking...)
			why = fmt.Sprintf("it needs %s: `%s`", strings.Join(lacking, ", "), lab.Adding(lacking))
		} else if p.controls && len(s.Controls) == 0 {
			why = "it has no control"
		}
		if why != "" {
			skipped = append(skipped, scenarios.Result{Scenario: s.Name, Skipped: why})
			continue
		}
		if !p.controls {
			jobs = append(jobs, scenarios.Job{Scenario: s.Scenario, Options: o})
			continue
		}
		for _, control := range s.Controls {
			jobs = append(jobs, scenarios.Job{Scenario: s.Scenario, Options: o, Control: control.Name})
		}
	}
	if len(jobs) > 0 {
		return jobs, skipped, nil
	}
	hint := ""
	if len(missing) > 0 {
		slices.Sort(missing)
		hint = lab.Adding(slices.Compact(missing))
	}
	var reasons []string
	for _, r := range skipped {
		reasons = append(reasons, r.Scenario+": "+r.Skipped)
	}
	return nil, skipped, fault.CannotTest(hint, "nothing can be tested: %s", strings.Join(reasons, "; "))
}

// outcome is the error of all runs together: ^C before a claim that does not
// hold, that before what could not be tested.
func outcome(results []scenarios.Result, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	var failed []error
	for _, r := range results {
		if refuted := r.Err(); refuted != nil && r.Error == "" {
			failed = append(failed, refuted)
		}
	}
	switch len(failed) {
	case 0:
		return err
	case 1:
		return failed[0]
	}
	return fmt.Errorf("%d of %d runs failed, the first: %w", len(failed), len(results), failed[0])
}

// reportFile is a report on its way: it appears whole, or not at all. Nil is none.
type reportFile struct {
	flag, path string
	tmp        *os.File
}

// createReport makes sure that the report that a flag asks for can be written,
// before there is one.
func createReport(flag, path string) (*reportFile, error) {
	if path == "" {
		return nil, nil
	}
	flag = "--" + flag
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // the link stays
	} else if _, err := os.Lstat(path); err == nil {
		return nil, fault.Usage("name a file", "%s %s is a symbolic link that leads nowhere", flag, path)
	}
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return nil, fault.Usage("name a file", "%s %s exists and is not a regular file", flag, path)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".mllab-report-*")
	if err != nil {
		if about, is := errors.AsType[*fs.PathError](err); is { // it names a file that nobody asked for
			err = about.Err
		}
		return nil, fault.Usage("name a file in a folder that can be written to", "%s %s: %w", flag, path, err)
	}
	return &reportFile{flag, path, tmp}, nil
}

func (f *reportFile) write(report func(io.Writer) error) error {
	if f == nil {
		return nil
	}
	err := errors.Join(report(f.tmp), f.tmp.Chmod(0o644), f.tmp.Close())
	if err == nil {
		err = os.Rename(f.tmp.Name(), f.path)
	}
	if err != nil {
		return fmt.Errorf("writing %s %s: %w", f.flag, f.path, err)
	}
	return nil
}

func writeJUnit(f *reportFile, results []scenarios.Result) error {
	return f.write(func(w io.Writer) error { return report.JUnit(w, junitCases(results)) })
}

// discard removes what was not written to its end.
func (f *reportFile) discard() {
	if f != nil {
		_ = f.tmp.Close()
		_ = os.Remove(f.tmp.Name()) // not there any more when it was written
	}
}
