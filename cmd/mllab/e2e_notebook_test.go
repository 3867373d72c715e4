//go:build e2e

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// brought is a notebook as people bring one: KALE's names, Jupyter's lines,
// numpy's numbers. After each list of tags its cell's lines.
var brought = []struct{ tags, source string }{
	{"pipeline-parameters", "rows = 6"},
	{"imports", "import numpy as np\n%matplotlib inline"},
	{"functions", "async def total(values):\n    return values.sum()"},
	{"step:load_data label:made-by:people limit:memory:512Mi", "values = np.arange(rows)\nfiles = !ls *.csv\ntable = np.loadtxt(files[0], delimiter=',')"},
	{"step:train_model prev:load_data", "%time first = files[0]\nassert files == ['table.csv'], files"},
	{"", "%%bash\ntest -x /bin/sh"},
	{"", "%%capture said\nprint(table.shape)\n!echo $rows"},
	{"", "answer = await total(values)\nresult = {'sum': answer, 'table': table, 'said': said.stdout}"},
	{"pipeline-metrics", "print(answer)"},
}

// testNotebooks compiles notebooks as people write them, and runs one. The lab
// has Kubeflow.
func testNotebooks(t *testing.T, c cli) {
	const namespace = "e2e-notebooks"
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	notebook := func(beside map[string]any, cells ...struct{ tags, source string }) string {
		t.Helper()
		var all []any
		for _, cell := range cells {
			each := map[string]any{"cell_type": "code", "source": strings.SplitAfter(cell.source, "\n"), "metadata": map[string]any{"tags": strings.Fields(cell.tags)}}
			for k, v := range beside {
				each[k] = v
			}
			all = append(all, each)
		}
		text, err := json.Marshal(map[string]any{"nbformat": 4, "nbformat_minor": 5, "metadata": map[string]any{}, "cells": all})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	compile := func(text string) result {
		t.Helper()
		return c.run("pipeline", "compile", write("brought.ipynb", text), "-n", namespace, "--file", write("table.csv", "1,2\n3,4\n"))
	}
	for want, cell := range map[string]string{
		`brought.ipynb: cell 1, line 2: "x.append?" asks for help`: "x = []\nx.append?",
		`brought.ipynb: cell 1, line 1: "%lprun f()" is not known`: "%lprun f()",
		`brought.ipynb: cell 1, line 2: syntax error: invalid`:     "x = 1\ny = = 2",
	} {
		compile(notebook(nil, struct{ tags, source string }{"step:a", cell})).exits(t, 2, want)
	}

	r := compile(notebook(nil, brought...))
	r.exits(t, 0)
	run := regexp.MustCompile(`brought-[0-9a-f]{8}`).FindString(r.out)
	// Run in Jupyter and saved, it is the same run.
	again := compile(notebook(map[string]any{"outputs": []any{map[string]any{"data": strings.Repeat("x", 2<<20)}}, "execution_count": 3, "id": "a"}, brought...))
	if again.exits(t, 0); again.out != r.out {
		t.Error("outputs make another pipeline")
	}

	c.kubectl(t, "create", "namespace", namespace)
	t.Cleanup(func() { c.kubectl(t, "delete", "namespace", namespace, "--wait=false") })
	engine(t, "cp", write("pipeline.yaml", r.out), c.node()+":/brought.yaml")
	c.kubectl(t, "create", "-f", "/brought.yaml")
	c.kubectl(t, "-n", namespace, "wait", "--timeout=300s", "--for=jsonpath={.status.phase}=Succeeded", "workflow/"+run)
	var w struct {
		Status struct {
			Nodes map[string]struct {
				DisplayName string
				Outputs     struct {
					Parameters []struct{ Name, Value string }
				}
			}
		}
	}
	if err := yaml.Unmarshal([]byte(c.kubectl(t, "-n", namespace, "get", "workflow", run, "-o", "yaml")), &w); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, n := range w.Status.Nodes {
		for _, p := range n.Outputs.Parameters {
			if n.DisplayName == "train-model" {
				got[p.Name] = p.Value
			}
		}
	}
	if want := `{"sum": 15, "table": [[1.0, 2.0], [3.0, 4.0]], "said": "(2, 2)\n6\n"}`; got["result"] != strings.ReplaceAll(want, "\n", `\n`) || got["metrics"] != `{"answer": 15.0}` {
		t.Errorf("it handed out %q", got)
	}
}
