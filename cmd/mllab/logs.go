package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mllab.local/bootstrap"
	"mllab.local/internal/capture"
	"mllab.local/internal/fault"
)

func newLogs(a *app) *cobra.Command {
	model, since := false, time.Duration(0)
	q := capture.Query{}
	c := &cobra.Command{
		Use:   "logs --model [NAME|NAME.NAMESPACE] [flags]",
		Short: "Print what models were asked and what they answered",
		Long: `Print the requests that the lab's sample models have captured, one JSON object a
line: what each was asked and what it answered, live or as the copy of a mirror.
It reads the logs of the pods that exist; with --follow also of those that come later,
each to its end. A model captures nothing until its container has CAPTURE_PERCENT,
see docs/capture.md.

NAME is the name of a Knative Service or of an InferenceService, or the value of the
pods' label app; Flagger's copy NAME-primary is one of NAME. Without NAME it prints
the requests of all models.`,
		Example: `  mllab logs --model
  mllab logs --model sample --since 10m
  mllab logs --model model.mllab-canary --version v2 --follow | jq .input`,
		Args: func(c *cobra.Command, args []string) error {
			switch {
			case !model:
				return fault.Usage("mllab logs --model", "%s must have --model: it reads no other logs", c.CommandPath())
			case len(args) > 1:
				return fault.Usage(seeHelp(c), "%s takes one NAME, and got %q too", c.CommandPath(), args[1])
			case len(args) == 1:
				var ok bool
				if q.Model, q.Namespace, ok = modelName(args[0]); !ok {
					return fault.Usage("such as sample or model.mllab-canary", "NAME must be the name of a model, or NAME.NAMESPACE, got %q", args[0])
				}
			}
			if since < 0 {
				return fault.Usage("such as 10m", "--since must be 0s or more, got %s", since)
			}
			if c.Flags().Changed("version") && q.Version == "" {
				return fault.Usage("such as v2", "--version must be a target or a revision, got %q", q.Version)
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error {
			lab, err := bootstrap.OpenReadOnly(c.Context(), a.options())
			if err != nil {
				return err
			}
			if since > 0 {
				q.Since = time.Now().Add(-since)
			}
			q.Image = lab.Images["sampleapp"]
			n := 0
			err = capture.Read(c.Context(), lab.Kube, q, func(line []byte) error {
				n++
				_, err := fmt.Fprintf(a.stdout, "%s\n", line)
				return err
			})
			if err == nil && n == 0 {
				a.report.Note("no captured request is there: a model's container must have CAPTURE_PERCENT, and its pod must still be there")
			}
			return err
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.BoolVar(&model, "model", false, "print what models have captured (required)")
	f.DurationVar(&since, "since", 0, "print only what was logged in this time until now, such as 10m (default: all that is kept)")
	f.StringVar(&q.Version, "version", "", "print only what this version answered: its target, such as v2, or its revision")
	f.BoolVarP(&q.Follow, "follow", "f", false, "go on until ^C, also with new pods")
	return c
}

func modelName(text string) (name, namespace string, ok bool) {
	name, namespace, both := strings.Cut(text, ".")
	ok = name != "" && !strings.HasPrefix(name, "-") && both == (namespace != "") && !strings.ContainsAny(text, "/:@?#% ") && !strings.Contains(namespace, ".")
	return name, namespace, ok
}
