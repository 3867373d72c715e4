package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"mllab.local/bootstrap"
	"mllab.local/internal/fault"
	"mllab.local/internal/report"
)

func newStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status [flags]",
		Short: "Report whether the lab is ready",
		Long: `Check the engine, the node, Kubernetes and every addon, and report whether the
lab is ready: exit code 0 if it is, 3 if it is not, with the command that fixes
it. It also lists your Flux objects that are not ready, with Flux's reason.`,
		Example: `  mllab status
  mllab status -o json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := bootstrap.Status(c.Context(), a.options())
			if err := show(a, r, err, printStatus); err != nil {
				return err
			}
			if !r.Ready {
				return fault.CannotTest(r.Next, "not ready: %s", r.Why)
			}
			return nil
		},
	}
}

func printStatus(w io.Writer, r bootstrap.StatusReport) {
	var rows [][]string
	row := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{fmt.Sprintf("%-10s", name), value})
		}
	}
	ready := ", not ready"
	if r.Ready {
		ready = ", ready"
	}
	row("cluster", r.Cluster+ready)
	row("engine", r.Engine)
	row("node", r.Node)
	row("kubernetes", r.Kubernetes)
	if r.Memory > 0 {
		row("memory", fmt.Sprintf("%.1f GiB in the node", float64(r.Memory)/(1<<30)))
	}
	if q := r.Requests; q.CPUCapacity > 0 {
		row("requests", fmt.Sprintf("%.2f of %.0f CPUs, %.1f of %.1f GiB of memory",
			float64(q.CPU)/1000, float64(q.CPUCapacity)/1000, float64(q.Memory)/(1<<30), float64(q.MemoryCapacity)/(1<<30)))
	}
	row("gateway", r.URL)
	row("kubeconfig", r.Kubeconfig)
	if r.GitOps != "" {
		row("gitops", "the addons come from the lab's Git, "+r.GitOps)
	}
	for _, a := range r.Addons {
		state := "ready"
		why, _, _ := strings.Cut(a.Why, "\n") // the rest is in the JSON
		switch {
		case a.Gone:
			state = "gone: " + why
		case !a.Ready:
			state = "not ready: " + why
		}
		row("addon", fmt.Sprintf("%-14s %s", a.Name, state))
	}
	for _, c := range r.Checks {
		row("asked", c.Asked+": "+oneLine(c.Answer))
	}
	for _, f := range r.Flux {
		row("flux", f.Object+" "+oneLine(f.Why))
	}
	for _, p := range r.Proxies {
		row("proxy", p.Error())
	}
	if r.Ready {
		row("next", r.Next)
	}
	report.Table(w, rows...)
}
