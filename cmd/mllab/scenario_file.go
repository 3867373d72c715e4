package main

import (
	"time"

	"github.com/spf13/cobra"

	"mllab.local/addons"
	"mllab.local/internal/fault"
	"mllab.local/scenarios"
	"mllab.local/scenarios/file"
)

func newScenarioFile(a *app) *cobra.Command {
	var p proof
	c := &cobra.Command{
		Use:   "run FILE [flags]",
		Short: "Run a scenario of your own, from a YAML file",
		Long: `Run a scenario of your own, from a YAML file. mllab checks the whole file before
it changes anything. The objects stay in the run's own namespace.`,
		Example: `  mllab scenario run ./my.yaml
  mllab scenario run ./my.yaml --explain
  mllab scenario run ./my.yaml --controls`,
		Args: one("file"),
		RunE: func(c *cobra.Command, args []string) error {
			p.verb = "scenario run " + args[0]
			return a.prove(c, &p, func(o scenarios.Options) ([]scenarios.Scenario, error) {
				s, err := scenarios.ReadFile(args[0], fileRules(), o)
				if err != nil {
					return nil, err
				}
				plan, err := s.Plan(o)
				if err == nil && p.controls && len(plan.Controls) == 0 {
					err = fault.Usage("add `controls:`, or leave --controls out", "scenario %s has no controls: nothing would be tested", s.Name)
				}
				return []scenarios.Scenario{s}, err
			})
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.BoolVar(&p.teach, "explain", false, "explain each step and show its changes first, and wait for Enter")
	a.proofFlags(c, &p, "keep the namespace for inspection", 10*time.Minute)
	return c
}

func newScenarioSchema(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of a scenario of your own, for editors",
		Long: `Print the JSON Schema of a scenario of your own. With it an editor completes
fields and marks mistakes. Name it in the file's first line:
  # yaml-language-server: $schema=scenario.schema.json`,
		Example: "  mllab scenario schema > scenario.schema.json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			text, err := file.Schema()
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(text)
			return err
		},
	}
}

func fileRules() file.Rules {
	return file.Rules{Domain: addons.Domain, Reserved: addons.Reserved()}
}
