package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"mllab.local/internal/fault"
	"mllab.local/internal/prom"
	"mllab.local/internal/report"
)

const (
	// topWindow is what each count looks back at (the texts say "the last minute"), and topEvery how often --watch
	// asks: as often as Prometheus looks at the models.
	topWindow = time.Minute
	topEvery  = 2 * time.Second
)

func newTop(a *app) *cobra.Command {
	watch := false
	c := &cobra.Command{
		Use:   "top [flags]",
		Short: "Show requests, errors and latencies of each version of the models",
		Long: fmt.Sprintf(`Show what each version of each model was asked in the last minute, as the lab's
Prometheus has measured it: requests, their share, errors, and the percentiles
of the time to answer, each with its %.0f %% confidence interval. It
shows the lab's sample models; docs/progressive.md says how to measure others.`, 100*prom.Confidence),
		Example: `  mllab top
  mllab top --watch          # until ^C
  mllab top -o json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			lab, err := a.labWith(ctx, "prometheus")
			if err != nil {
				return err
			}
			return a.top(ctx, watch, func() ([]prom.Version, error) { return prom.Top(ctx, lab.Kube, topWindow) })
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, fmt.Sprintf("show it again every %s, until ^C", topEvery))
	return c
}

func (a *app) top(ctx context.Context, watch bool, measured func() ([]prom.Version, error)) error {
	tick := time.NewTicker(topEvery)
	defer tick.Stop()
	for {
		versions, err := measured()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fault.CannotTest("see `mllab status`", "asking Prometheus: %w", err)
		}
		if err := a.print(versions, func(w io.Writer) {
			if watch && report.IsTerminal(w) {
				fmt.Fprint(w, "\x1b[H\x1b[J") // the cursor home, and nothing below it
			}
			printTop(w, versions)
		}); err != nil || !watch {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func printTop(w io.Writer, versions []prom.Version) {
	if len(versions) == 0 {
		fmt.Fprintln(w, "no model that Prometheus measures was there in the last minute")
		return
	}
	rows := [][]string{{"NAMESPACE", "MODEL", "VERSION", "REQUESTS", "SHARE", "ERRORS", "P50", "P95", "P99"}}
	for _, v := range versions {
		row := []string{v.Namespace, v.Model, v.Version, fmt.Sprint(v.Requests), "-", "-", "-", "-", "-"}
		if v.Requests > 0 {
			row = append(row[:4], percent(v.Share), percent(v.Errors), within(v.P50), within(v.P95), within(v.P99))
		}
		rows = append(rows, row)
	}
	report.Table(w, rows...)
}

func percent(r prom.Rate) string {
	return fmt.Sprintf("%.1f %% (%.1f..%.1f)", 100*r.Rate, 100*r.Low, 100*r.High)
}

func within(t prom.Time) string {
	if t.High == nil {
		return fmt.Sprintf("%s (over %s)", milliseconds(t.At), milliseconds(t.Low))
	}
	return fmt.Sprintf("%s (%s..%s)", milliseconds(t.At), milliseconds(t.Low), milliseconds(*t.High))
}

func milliseconds(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Millisecond).String()
}
