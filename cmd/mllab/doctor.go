package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mllab.local/bootstrap"
	"mllab.local/internal/report"
)

func newDoctor(a *app) *cobra.Command {
	o := bootstrap.UpOptions{Port: bootstrap.DefaultPort, Mode: bootstrap.DefaultMode}
	c := &cobra.Command{
		Use:   "doctor [flags]",
		Short: "Check this machine, and name the fix for each problem",
		Long: `Check everything that mllab up needs on this machine, and change nothing. The
exit code is 2 if mllab up would refuse. Then fix the failed checks.`,
		Example: `  mllab doctor
  mllab doctor --image-source source -o json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Options = a.options()
			o.PortGiven = c.Flags().Changed("port")
			list, refused := bootstrap.Doctor(c.Context(), o)
			if list == nil {
				return refused
			}
			if err := a.print(list, func(w io.Writer) { printFindings(w, list) }); err != nil {
				return err
			}
			return refused
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.Var((*port)(&o.Port), "port", "port of the gateway, or auto")
	f.Var(&choice{&o.Mode, bootstrap.Modes}, "image-source", "where images come from")
	f.Var(&choice{&o.Engine, bootstrap.Engines}, "engine", "container engine (default: the first one that works)")
	return c
}

func printFindings(w io.Writer, list []bootstrap.Finding) {
	var rows [][]string
	for _, f := range list {
		rows = append(rows, []string{fmt.Sprintf("%-4s", f.Level), fmt.Sprintf("%-15s", f.ID), f.What})
		if f.Fix != "" {
			rows = append(rows, []string{"", "", "fix: " + f.Fix})
		}
	}
	report.Table(w, rows...)
}
