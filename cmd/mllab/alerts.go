package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mllab.local/bootstrap"
	"mllab.local/internal/alerts"
	"mllab.local/internal/fault"
)

func newAlerts(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "alerts [flags]",
		Short: "List the lab's alerts that are pending or firing",
		Long: `List the alerts that are pending or firing, as Prometheus has them, and whether
Alertmanager has taken them, which then notifies their receiver. This is a report and
not a test: the exit code is 0 even with alerts. It needs the addon alertmanager.`,
		Example: `  mllab alerts
  mllab alerts -o json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.alerts(c.Context())
			if err != nil {
				return err
			}
			return a.print(map[string][]alerts.Alert{"alerts": list}, func(w io.Writer) { printAlerts(w, list) })
		},
	}
}

func (a *app) alerts(ctx context.Context) ([]alerts.Alert, error) {
	lab, err := bootstrap.OpenReadOnly(ctx, a.options())
	if err != nil {
		return nil, err
	}
	if missing := lab.Missing([]string{"alertmanager"}); len(missing) > 0 {
		return nil, fault.CannotTest(lab.Adding(missing), "the lab has no addon alertmanager")
	}
	list, err := alerts.Active(ctx, lab.Kube)
	if err != nil {
		return nil, fault.CannotTest("see `mllab status`", "reading the alerts: %w", err)
	}
	return list, nil
}

func printAlerts(w io.Writer, list []alerts.Alert) {
	if len(list) == 0 {
		fmt.Fprintln(w, "no alert is pending or firing")
		return
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ALERT\tSTATE\tTAKEN\tNAMESPACE\tAPP\tSINCE\tSUMMARY")
	for _, a := range list {
		taken := "no"
		if a.Taken {
			taken = "yes"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", a.Name, a.State, taken, a.Namespace, cmp.Or(a.App, "-"), clock(a.Since), visible(a.Summary))
	}
	_ = table.Flush() // the writer's error is print's
}
