package main

import (
	"cmp"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mllab.local/internal/alerts"
	"mllab.local/internal/fault"
	"mllab.local/internal/report"
)

func newAlerts(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "alerts [flags]",
		Short: "List the lab's alerts that are pending or firing",
		Long: `List the alerts that are pending or firing in the lab's Prometheus. For each, report
whether Alertmanager has it, and so notifies its receiver. This is a report and not
a test: the exit code is 0 even with alerts. It needs the addon alertmanager.`,
		Example: `  mllab alerts
  mllab alerts -o json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			lab, err := a.labWith(c.Context(), "alertmanager")
			if err != nil {
				return err
			}
			list, err := alerts.Active(c.Context(), lab.Kube)
			if err != nil {
				return fault.CannotTest("see `mllab status`", "reading the alerts: %w", err)
			}
			return a.print(map[string][]alerts.Alert{"alerts": list}, func(w io.Writer) { printAlerts(w, list) })
		},
	}
}

func printAlerts(w io.Writer, list []alerts.Alert) {
	if len(list) == 0 {
		fmt.Fprintln(w, "no alert is pending or firing")
		return
	}
	rows := [][]string{{"ALERT", "STATE", "TAKEN", "NAMESPACE", "APP", "SINCE", "SUMMARY"}}
	for _, a := range list {
		taken := "no"
		if a.Taken {
			taken = "yes"
		}
		rows = append(rows, []string{a.Name, a.State, taken, a.Namespace, cmp.Or(a.App, "-"), clock(a.Since), visible(a.Summary)})
	}
	report.Table(w, rows...)
}
