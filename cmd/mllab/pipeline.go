package main

import (
	"errors"
	"path/filepath"

	"github.com/spf13/cobra"

	"mllab.local/addons"
	"mllab.local/bootstrap"
	"mllab.local/internal/fault"
	"mllab.local/internal/input"
	"mllab.local/internal/notebook"
	"mllab.local/internal/run"
	"mllab.local/manifests"
)

func newPipeline(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "pipeline COMMAND",
		Short:   "Compile notebooks to pipelines",
		Example: `  mllab pipeline compile train.ipynb`,
		Args:    noArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newPipelineCompile(a))
	return c
}

func newPipelineCompile(a *app) *cobra.Command {
	namespace := "default"
	var files []string
	c := &cobra.Command{
		Use:   "compile NOTEBOOK [flags]",
		Short: "Write a notebook as an Argo Workflow",
		Long: `Write a notebook as an Argo Workflow to stdout, with its code and the rights of
its pods. The tags of its cells mean what they mean in KALE: each step runs the
cells with the tag step:NAME, and the untagged ones that follow; prev:NAME names
the steps before it. All steps run the cells tagged pipeline-parameters, imports
and functions first; none runs those tagged skip. A cell tagged pipeline-metrics
prints names whose values are kept.
What a step leaves in names, the steps after it get. Lines for Jupyter (!ls,
%time, %%bash) run where a script can run them; any other that surely runs is
refused, with its cell and line: here if this machine has python3 from 3.11 on,
else by the first step, before it runs a cell. Name what the notebook imports of
yours, or reads, with --file.`,
		Example: `  mllab pipeline compile train.ipynb
  mllab pipeline compile train.ipynb --file helper.py | kubectl apply --server-side -f -`,
		Annotations: map[string]string{writes: "YAML"},
		Args:        one("notebook"),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := input.File(args[0], notebook.MaxBytes)
			if err != nil {
				return fault.Usage("name a notebook (.ipynb)", "reading the notebook: %w", err)
			}
			p := notebook.Pipeline{Name: notebook.Name(args[0]), Notebook: text, Runner: manifests.NotebookRunner, Space: namespace, Executor: addons.WorkflowExecutor}
			p.Files = map[string][]byte{}
			for _, file := range files {
				name := filepath.Base(file)
				if p.Files[name] != nil {
					return fault.Usage(seeHelp(c), "--file %s: there are two files %s, and a step's pod has one folder", file, name)
				}
				if p.Files[name], err = input.File(file, notebook.MaxBytes); err != nil {
					return fault.Usage("name a file that the notebook imports", "--file: %w", err)
				}
			}
			p.Store = addons.Registry + "/" + namespace + "/" + p.Name
			// What is wrong with the notebook is said without a lab, too.
			book, err := notebook.Read(text)
			if err == nil {
				_, err = p.Objects()
			}
			if err == nil {
				err = p.CheckSyntax(c.Context(), run.Exec{})
			}
			if errors.Is(err, notebook.ErrUnchecked) {
				a.report.Note("the first step judges the cells, before it runs one: %v", err)
				err = nil
			}
			if c.Context().Err() != nil {
				return c.Context().Err()
			}
			if err != nil {
				hint := "see `mllab pipeline compile --help` for the tags"
				if filepath.Ext(args[0]) != ".ipynb" {
					hint = "name a notebook (.ipynb); `jupytext --to ipynb FILE` makes one of a script"
				}
				return fault.Usage(hint, "%s: %w", args[0], err)
			}
			for _, cell := range book.Unused {
				a.report.Note("cell %d has none of the tags, and no cell before it has one: no step runs it", cell)
			}
			lab, err := bootstrap.OpenReadOnly(c.Context(), a.options())
			if err != nil {
				return err
			}
			if p.Image = lab.Images["python"]; p.Image == "" {
				return fault.CannotTest(lab.Adding([]string{"kubeflow"}), "the lab has no Python image for the steps")
			}
			out, err := p.YAML()
			if err == nil {
				_, err = a.stdout.Write(out)
			}
			return err
		},
	}
	c.Flags().StringArrayVar(&files, "file", nil, "a file that the notebook imports or reads; can be given several times")
	c.Flags().StringVarP(&namespace, "namespace", "n", namespace, "namespace it will run in")
	return c
}
