package main

import (
	"bufio"
	"errors"

	"github.com/spf13/cobra"

	"mllab.local/bootstrap"
	"mllab.local/internal/fault"
	"mllab.local/view"
)

func newReport(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "report [DIR]",
		Short: "Write a report of runs from their kept evidence",
		Long: `Write a report of runs from their kept evidence to stdout: one HTML page that needs
no other file and no network, as --html of a scenario writes it. DIR is a folder of
evidence, or one that holds several; without it, the lab's own.`,
		Example: `  mllab report > report.html
  mllab report ./evidence/canary > canary.html`,
		Annotations: map[string]string{writes: "HTML"},
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fault.Usage(seeHelp(c), "%s takes one folder, and got %q", c.CommandPath(), args)
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := bootstrap.EvidenceDir(a.options())
			if len(args) > 0 {
				dir, err = args[0], nil
			}
			if err != nil {
				return err
			}
			record, err := view.Read(dir)
			if len(args) == 0 && errors.Is(err, view.ErrNoRun) {
				err = fault.CannotTest(a.options().Command("scenario canary"), "%w", err)
			}
			if err != nil {
				return err
			}
			w := bufio.NewWriter(a.stdout)
			if err := record.HTML(w); err != nil {
				return err
			}
			return w.Flush()
		},
	}
}
