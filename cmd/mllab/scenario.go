package main

import (
	"cmp"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mllab.local/bootstrap"
	"mllab.local/internal/fault"
	"mllab.local/internal/report"
	"mllab.local/scenarios"
	"mllab.local/scenarios/file"
)

func newScenario(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "scenario",
		Short: "Prove a delivery pattern with real requests",
		Long: `Prove a delivery pattern on the lab with real requests. An exact test judges
each claim once, and the verdict states its error rate.

Exit codes: 0 every claim holds, 1 a claim does not hold, 2 wrong use, 3 could
not test, 130 interrupted.`,
		Example: `  mllab scenario list
  mllab scenario canary
  mllab scenario all --short`,
		Args: noScenario,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	for _, s := range scenarios.All() {
		c.AddCommand(newScenarioRun(a, s))
	}
	c.AddCommand(newScenarioAll(a), newScenarioFile(a), newScenarioList(a), newScenarioReset(a), newScenarioSchema(a))
	return c
}

// noScenario refuses a word that is neither a scenario nor another command.
func noScenario(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if hint := nearCommand(c, args[0]); hint != "" {
		return fault.Usage(hint, "no scenario is called %q", args[0])
	}
	_, err := scenarios.Find(args[0])
	return err
}

// oneScenario wants at most one argument, which is a scenario's name.
func oneScenario(c *cobra.Command, args []string) error {
	if len(args) > 1 {
		return fault.Usage(seeHelp(c), "%s takes one scenario, and got %q", c.CommandPath(), args)
	}
	for _, name := range args {
		if _, err := scenarios.Find(name); err != nil {
			return err
		}
	}
	return nil
}

// outline is a scenario as `list` shows it.
type outline struct {
	Name     string           `json:"name"`
	Summary  string           `json:"summary"`
	Needs    []string         `json:"needs"`
	Takes    []string         `json:"takes,omitempty"`
	Steps    []string         `json:"steps"`
	Controls []outlineControl `json:"controls"`

	ideas []string // of the steps
}

type outlineControl struct {
	Name    string `json:"name"`
	Summary string `json:"summary"`
	Catches string `json:"catches"`
}

func describe(s scenarios.Scenario) (outline, error) {
	row := outline{Name: s.Name, Summary: s.Summary, Needs: s.Needs, Takes: s.Options}
	p, err := s.Plan(scenarios.Options{})
	if err != nil {
		return row, err
	}
	for _, step := range p.Steps {
		row.Steps, row.ideas = append(row.Steps, step.Name), append(row.ideas, step.Why)
	}
	for _, k := range p.Controls {
		row.Controls = append(row.Controls, outlineControl{k.Name, k.Summary, string(k.Catches)})
	}
	return row, nil
}

func newScenarioList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list [NAME]",
		Short: "List the scenarios, or one's steps and controls",
		Example: `  mllab scenario list
  mllab scenario list canary`,
		Args: oneScenario,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
			for _, s := range scenarios.All() {
				if len(args) == 0 {
					names = append(names, s.Name)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			var rows []outline
			for _, s := range scenarios.All() {
				if len(args) > 0 && s.Name != args[0] {
					continue
				}
				row, err := describe(s)
				if err != nil {
					return err
				}
				rows = append(rows, row)
			}
			return a.print(rows, func(w io.Writer) {
				if len(args) > 0 {
					printOutline(w, rows[0])
				} else {
					printList(w, rows)
				}
			})
		},
	}
}

func printList(w io.Writer, rows []outline) {
	list := [][]string{{"scenario", "needs", "steps", "controls", "what it proves"}}
	for _, r := range rows {
		list = append(list, []string{r.Name, strings.Join(r.Needs, ", "), strconv.Itoa(len(r.Steps)), strconv.Itoa(len(r.Controls)), r.Summary})
	}
	report.Table(w, list...)
}

func printOutline(w io.Writer, r outline) {
	report.Table(w, []string{r.Name + ": " + r.Summary})
	fmt.Fprintf(w, "needs %s\n\nsteps\n", strings.Join(r.Needs, ", "))
	for i, step := range r.Steps {
		report.Table(w, []string{fmt.Sprintf("  %d. %s", i+1, step)})
		if r.ideas[i] != "" {
			report.Paragraph(w, 5, r.ideas[i])
		}
	}
	fmt.Fprintln(w)
	report.Table(w, []string{"negative controls: each breaks the lab in one way, and a claim must fail"})
	var controls [][]string
	for _, k := range r.Controls {
		controls = append(controls, []string{"  " + k.Name, string(k.Catches), k.Summary})
	}
	report.Table(w, controls...)
}

func newScenarioReset(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "reset NAME|FILE",
		Short: "Remove the namespaces that --keep or a killed run left",
		Long: `Remove the namespaces that runs of a scenario and its controls left, after --keep
or a kill. For a scenario of your own give its name or its file. A new run
replaces its own old namespace by itself, but none that a run of another file
keeps.`,
		Example: `  mllab scenario reset canary
  mllab scenario reset ./my.yaml`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fault.Usage("see `mllab scenario list`", "%s takes the name or the file of one scenario, and got %d", c.CommandPath(), len(args))
			}
			name, unknown, err := scenarioOf(args[0])
			if err != nil {
				return err
			}
			lab, err := bootstrap.Open(c.Context(), a.options(), "scenario reset "+name)
			if err != nil {
				return err
			}
			defer lab.Close()
			task := a.report.Step("reset " + name)
			names, err := scenarios.Reset(c.Context(), lab.Kube, name, task.Update)
			if err == nil && len(names) == 0 {
				err = unknown
			}
			if err != nil {
				task.Fail(err)
			} else {
				task.Done("removed " + cmp.Or(strings.Join(names, ", "), "nothing"))
			}
			a.report.Close()
			result := map[string][]string{"removed": append([]string{}, names...)} // null is no list
			if printed := a.print(result, func(w io.Writer) { printRemoved(w, names, err) }); err == nil {
				err = printed
			}
			return err
		},
	}
}

// scenarioOf returns the name of the scenario that a word names: a path is a
// user's file. A plain name that is not mllab's own may be a user's, which the
// lab knows if a run of it is left; unknown is the error if there is none.
func scenarioOf(word string) (name string, unknown, err error) {
	if strings.ContainsRune(word, filepath.Separator) || slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(word)) {
		s, err := scenarios.ReadFile(word, fileRules(), scenarios.Options{})
		return s.Name, nil, err
	}
	if _, err := scenarios.Find(word); err != nil {
		return word, err, file.CheckName(word)
	}
	return word, nil, nil
}

func printRemoved(w io.Writer, names []string, err error) {
	for _, name := range names {
		fmt.Fprintln(w, "removed namespace "+name)
	}
	if len(names) == 0 && err == nil {
		fmt.Fprintln(w, "nothing to reset")
	}
}
