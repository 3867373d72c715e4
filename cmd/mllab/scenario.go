package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"mllab.local/addons"
	"mllab.local/bootstrap"
	"mllab.local/internal/fault"
	"mllab.local/internal/report"
	"mllab.local/internal/split"
	"mllab.local/scenarios"
)

func newScenario(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "scenario",
		Short: "Prove a delivery pattern with requests",
		Long: `Prove a delivery pattern on the lab with real requests. Each claim is judged
once, by an exact test whose error rate is printed with the verdict.

Exit codes: 0 it holds, 1 a claim does not hold, 2 wrong use, 3 nothing could
be tested, 130 interrupted.`,
		Example: `  mllab scenario list
  mllab scenario canary
  mllab scenario canary --shares 80/20 --controls`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			_, err := scenarios.New(args[0], scenarios.Options{})
			return err
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newScenarioList(a))
	all, err := scenarios.All(scenarios.Options{})
	if err != nil {
		panic(err) // the defaults are ours, and a test runs this
	}
	for _, s := range all {
		c.AddCommand(newScenarioRun(a, s))
	}
	return c
}

func newScenarioList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the scenarios and their controls",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			type control struct {
				Name    string `json:"name"`
				Summary string `json:"summary"`
				Catches string `json:"catches"`
			}
			type row struct {
				Name     string    `json:"name"`
				Summary  string    `json:"summary"`
				Needs    []string  `json:"needs"`
				Steps    []string  `json:"steps"`
				Controls []control `json:"controls"`
			}
			all, err := scenarios.All(scenarios.Options{})
			if err != nil {
				return err
			}
			var rows []row
			for _, s := range all {
				r := row{Name: s.Name, Summary: s.Summary, Needs: s.Needs}
				for _, step := range s.Steps {
					r.Steps = append(r.Steps, step.Name)
				}
				for _, k := range s.Controls {
					r.Controls = append(r.Controls, control{k.Name, k.Summary, string(k.Catches)})
				}
				rows = append(rows, r)
			}
			return a.print(rows, func(w io.Writer) {
				for _, r := range rows {
					fmt.Fprintf(w, "%s: %s\n  steps:    %s\n", r.Name, r.Summary, strings.Join(r.Steps, " > "))
					for _, k := range r.Controls {
						fmt.Fprintf(w, "  control:  %-10s %s; %q must fail\n", k.Name, k.Summary, k.Catches)
					}
				}
			})
		},
	}
}

func newScenarioRun(a *app, about scenarios.Scenario) *cobra.Command {
	var o scenarios.Options
	var shares string
	var keep, controls bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   about.Name + " [flags]",
		Short: strings.ToUpper(about.Summary[:1]) + about.Summary[1:],
		Example: fmt.Sprintf(`  mllab scenario %[1]s
  mllab scenario %[1]s --shares 80/20 --requests 2000
  mllab scenario %[1]s --controls          # break the world on purpose: each must be caught`, about.Name),
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if o.Shares, err = split.ParseShares(shares); err != nil {
				return fault.Usage("such as --shares 90/10", "--shares %q: %w", shares, err)
			}
			if timeout <= 0 {
				return fault.Usage("such as --timeout 10m", "--timeout %s is not a time to come", timeout)
			}
			if o.Requests < 1 || o.Requests > maxRequests {
				return fault.Usage(fmt.Sprintf("between 1 and %d", maxRequests), "--requests %d is out of range", o.Requests)
			}
			s, err := scenarios.New(about.Name, o)
			if err != nil {
				return err
			}
			runs := []*scenarios.Control{nil}
			if controls {
				runs = nil
				for i := range s.Controls {
					runs = append(runs, &s.Controls[i])
				}
			}
			return a.runScenario(c, about.Name, o, runs, keep, timeout)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&shares, "shares", scenarios.DefaultShares, "first split, old version first, in whole percents")
	f.IntVar(&o.Requests, "requests", scenarios.DefaultRequests, "requests in each sample")
	f.DurationVar(&o.Gradual, "gradual", 0, "tmp")
	f.IntSliceVar(&o.Weights, "steps", nil, "tmp")
	f.Float64Var(&o.Alpha, "alpha", scenarios.DefaultAlpha, "how often a right split may be refused, for each sample")
	f.BoolVar(&controls, "controls", false, "break the world in each known way instead, and see the verdict fail")
	f.BoolVar(&keep, "keep", false, "leave the namespace mllab-"+about.Name+" to look at")
	f.DurationVar(&timeout, "timeout", 10*time.Minute, "for all of it")
	a.global.output = "text"
	f.VarP(&choice{&a.global.output, []string{"text", "json", "junit"}}, "output", "o", "how the result is written to stdout")
	return c
}

// maxRequests bounds one sample: about ten minutes on two cores.
const maxRequests = 500_000

func (a *app) runScenario(c *cobra.Command, name string, o scenarios.Options, runs []*scenarios.Control, keep bool, timeout time.Duration) error {
	lab, err := bootstrap.Open(c.Context(), a.options(), "scenario "+name)
	if err != nil {
		return err
	}
	defer lab.Close()
	ctx, cancel := context.WithTimeout(c.Context(), timeout)
	defer cancel()
	var jobs []scenarios.Job
	for _, control := range runs {
		// A story is told once: each run has its own.
		s, err := scenarios.New(name, o)
		if err != nil {
			return err
		}
		if lacks := lab.Lacks(s.Needs); len(lacks) > 0 {
			return fault.CannotTest("mllab up --with "+strings.Join(lacks, ","), "scenario %s needs %s", name, strings.Join(lacks, ", "))
		}
		job := scenarios.Job{Scenario: s}
		if control != nil {
			job.Control = s.Control(control.Name)
		}
		jobs = append(jobs, job)
	}
	results, err := scenarios.RunAll(ctx, scenarios.Lab{
		Kube: lab.Kube, Gateway: lab.URL, Domain: addons.Domain,
		Image: lab.Images["sampleapp"], Evidence: lab.Evidence, Report: a.report,
	}, jobs, keep, 1)
	a.report.Close()
	if err == nil {
		for _, r := range results {
			if err = r.Err(); err != nil {
				break
			}
		}
	}
	if a.global.output == "junit" {
		return errors.Join(err, report.JUnit(a.stdout, junitCases(results)))
	}
	return errors.Join(err, a.print(results, func(w io.Writer) { printResults(w, results) }))
}

func printResults(w io.Writer, results []scenarios.Result) {
	for _, r := range results {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		if r.Control == "" {
			fmt.Fprintln(t, "\tstep\tin force\tchecked\tevidence")
			for _, s := range r.Steps {
				says := ""
				if s.Evidence != nil {
					says = s.Evidence.Says
				}
				fmt.Fprintf(t, "%s\t%s\t%.1f s\t%.1f s\t%s\n", mark(s.Pass), s.Name, s.Barrier, s.Seconds, says)
			}
			t.Flush()
		}
		fmt.Fprintln(w, verdict(r))
	}
}

func mark(pass bool) string {
	if pass {
		return "ok"
	}
	return "FAIL"
}

// verdict is the last line of a run: what was claimed and what it rests on.
func verdict(r scenarios.Result) string {
	word := map[bool]string{true: "PASS", false: "FAIL"}[r.Pass]
	if r.Error != "" {
		return fmt.Sprintf("NOT TESTED %s (%.1f s)", r.Error, r.Seconds)
	}
	if r.Control != "" {
		if r.Pass {
			return fmt.Sprintf("%s %s, control %s: caught, claim %q failed as it must: %s (%.1f s)", word, r.Scenario, r.Control, r.Refuted, strings.Join(r.Reasons, "; "), r.Seconds)
		}
		return fmt.Sprintf("%s %s (%.1f s)", word, r.Err(), r.Seconds)
	}
	if !r.Pass {
		return fmt.Sprintf("%s %s (%.1f s)", word, r.Err(), r.Seconds)
	}
	var parts []string
	for _, s := range r.Steps {
		if s.Evidence == nil {
			continue
		}
		if v := s.Evidence.Verdict; v != nil && chance(*v) {
			parts = append(parts, s.Name+" "+s.Evidence.Says)
		}
		if s.Evidence.Watch != nil {
			parts = append(parts, s.Evidence.Says)
		}
	}
	return fmt.Sprintf("%s %s: %s (%.1f s)", word, r.Scenario, strings.Join(parts, "; "), r.Seconds)
}

// chance says whether a verdict is about a split, not about all or nothing.
func chance(v split.Verdict) bool {
	for _, r := range v.Regions {
		if r.Share > 0 && r.Share < 1 {
			return true
		}
	}
	return false
}

func junitCases(results []scenarios.Result) []report.Case {
	var cases []report.Case
	for _, r := range results {
		if r.Control != "" {
			c := report.Case{Suite: r.Scenario, Name: "control " + r.Control, Seconds: r.Seconds, Output: strings.Join(r.Reasons, "\n")}
			if err := r.Err(); err != nil {
				c.Failure = err.Error()
			}
			cases = append(cases, c)
			continue
		}
		for _, s := range r.Steps {
			c := report.Case{Suite: r.Scenario, Name: s.Name, Seconds: s.Barrier + s.Seconds}
			if s.Evidence != nil {
				c.Output = s.Evidence.Says
			}
			if !s.Pass {
				c.Failure = strings.Join(append(r.Reasons, r.Error), "\n")
			}
			cases = append(cases, c)
		}
	}
	return cases
}
