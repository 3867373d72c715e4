package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mllab.local/bootstrap"
	"mllab.local/internal/fault"
	"mllab.local/internal/report"
)

func newUp(a *app) *cobra.Command {
	o := bootstrap.UpOptions{Port: bootstrap.DefaultPort, Mode: bootstrap.DefaultMode}
	dry := false
	c := &cobra.Command{
		Use:   "up [flags]",
		Short: "Create the lab, or complete a partial one",
		Long: `Create the lab: check this machine, get the images, create a kind cluster, install
Istio, Knative, a sample model, Flux with a Git server, and a minimal Kubeflow, and use
each of them once. --core leaves out Flux, Git and Kubeflow; up then adds them. A second
up changes nothing and removes nothing; after an interruption it continues. With --gitops
the addons come from the lab's own Git, where a commit upgrades or removes one (docs/gitops.md).
Then: mllab scenario canary`,
		Example: `  mllab up
  mllab up --core
  mllab up --port auto --image-source source`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Options = a.options()
			o.PortGiven = c.Flags().Changed("port")
			if o.Timeout <= 0 {
				return fault.Usage("such as --timeout 10m", "--timeout must be positive, got %s", o.Timeout)
			}
			if dry {
				plan, err := bootstrap.Plan(o)
				return show(a, plan, err, printPlan)
			}
			sum, err := bootstrap.Up(c.Context(), o)
			return show(a, sum, err, printSummary)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.Var((*port)(&o.Port), "port", "port of the gateway on 127.0.0.1, or auto for a free one")
	f.Var(&choice{&o.Mode, bootstrap.Modes}, "image-source", "where images come from (auto: registries, if one answers)")
	addonFlags(c, &o.Core, &o.Addons)
	f.BoolVar(&o.GitOps, "gitops", false, "manage the addons from the lab's own Git, from now on")
	f.Var(&choice{&o.Engine, bootstrap.Engines}, "engine", "container engine (default: the first one that works)")
	f.StringVar(&o.Mirror, "registry-mirror", "", "host that replaces every registry, such as 127.0.0.1:5000")
	f.DurationVar(&o.Timeout, "timeout", bootstrap.DefaultTimeout, "give up after this time")
	f.BoolVar(&dry, "dry-run", false, "print the plan and change nothing")
	return c
}

// port is a flag: a port number, or auto, which is 0.
type port int

func (p *port) String() string {
	if *p == 0 {
		return "auto"
	}
	return strconv.Itoa(int(*p))
}

func (p *port) Type() string { return "N|auto" }

func (p *port) Set(s string) error {
	if s == "auto" {
		*p = 0
		return nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("it must be a number from 1 to 65535, or auto")
	}
	*p = port(n)
	return nil
}

func printSummary(w io.Writer, s bootstrap.Summary) {
	verb := "is up, as it was"
	if s.Created {
		verb = "is up, new"
	}
	report.Table(w, []string{fmt.Sprintf("cluster %s %s (%s, Kubernetes %s, images from %s)", s.Cluster, verb, s.Engine, s.Kubernetes, s.ImageSource)}, nil)
	for _, step := range s.Steps {
		report.Table(w, []string{fmt.Sprintf("  %-22s %7.1f s", step.Name, step.Seconds), step.Changed})
	}
	for _, r := range s.Addons {
		fmt.Fprintf(w, "    %-20s %7.1f s  + %.1f s to use it\n", r.Name, r.Seconds, r.VerifySeconds)
	}
	fmt.Fprintf(w, "  %-22s %7.1f s\n\ngateway     %s\nkubeconfig  %s\nnext        %s\n", "total", s.Seconds, s.URL, s.Kubeconfig, s.Next)
}

func printPlan(w io.Writer, p bootstrap.PlanDoc) {
	fmt.Fprintf(w, "plan for cluster %s (nothing is changed)\n\n", p.Cluster)
	for _, row := range [][2]string{{"engine", p.Engine}, {"gateway", p.URL}, {"images", p.Images}, {"cache", p.Cache}, {"kubeconfig", p.Kubeconfig}} {
		report.Table(w, []string{fmt.Sprintf("%-10s", row[0]), row[1]})
	}
	fmt.Fprintln(w, "\nsteps")
	for i, s := range p.Steps {
		report.Table(w, []string{fmt.Sprintf("  %d. %s", i+1, s)})
	}
	fmt.Fprintln(w, "\naddons")
	for _, a := range p.Addons {
		rows := [][]string{{fmt.Sprintf("  %-14s", a.Name), a.Summary}}
		if len(a.Needs) > 0 {
			rows = append(rows, []string{"", "after " + strings.Join(a.Needs, ", ") + " is ready"})
		}
		if len(a.StartAfter) > 0 {
			rows = append(rows, []string{"", "after " + strings.Join(a.StartAfter, ", ") + " is applied"})
		}
		report.Table(w, rows...)
	}
	fmt.Fprintf(w, "\nkind's configuration\n  %s\n", strings.ReplaceAll(strings.TrimSpace(p.KindConfig), "\n", "\n  "))
}
