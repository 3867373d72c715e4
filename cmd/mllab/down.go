package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mllab.local/bootstrap"
)

func newDown(a *app) *cobra.Command {
	var o bootstrap.DownOptions
	c := &cobra.Command{
		Use:   "down [flags]",
		Short: "Remove the lab; the image cache stays",
		Long: `Remove the cluster, its volumes, its kubeconfig and its records, in any state.
mllab refuses to remove a cluster that it did not create. The image cache and
the node image stay, so that the next mllab up is quick.`,
		Example: `  mllab down
  mllab down --purge       # also the cache and the node images`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Options = a.options()
			r, err := bootstrap.Down(c.Context(), o)
			return show(a, r, err, func(w io.Writer, r bootstrap.DownReport) { printDown(w, r, o.Purge) })
		},
	}
	c.Flags().SortFlags = false
	c.Flags().BoolVar(&o.Purge, "purge", false, "also remove the image cache and the node images")
	c.Flags().Var(&choice{&o.Engine, bootstrap.Engines}, "engine", "container engine (default: the one that it was created with)")
	return c
}

func printDown(w io.Writer, r bootstrap.DownReport, purged bool) {
	if len(r.Removed) == 0 {
		fmt.Fprintf(w, "nothing to remove: there is no cluster %s\n", r.Cluster)
	}
	for _, what := range r.Removed {
		fmt.Fprintf(w, "removed  %s\n", what)
	}
	for _, what := range r.Kept {
		fmt.Fprintf(w, "kept     %s\n", what)
	}
	if o := (bootstrap.Options{Name: r.Cluster}); len(r.Kept) > 0 && !purged {
		fmt.Fprintf(w, "next     %s, or %s to remove what was kept\n", o.Command("up"), o.Command("down --purge"))
	}
}
