package notebook

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mllab.local/internal/run"
)

// upstream asks a Python that has the packages, if UPSTREAM_PYTHON names one:
//
//	python3 -m venv v && v/bin/pip install ipython==8.31.0 ipykernel==7.4.0 kubeflow-kale==2.3
//	UPSTREAM_PYTHON=v/bin/python go test ./internal/notebook -run Upstream
func upstream(t *testing.T, program string, question, answer any) {
	t.Helper()
	python := os.Getenv("UPSTREAM_PYTHON")
	if python == "" {
		t.Skip("UPSTREAM_PYTHON names no Python with IPython and KALE")
	}
	text, err := json.Marshal(question)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-W", "ignore", "-c", program)
	var talk bytes.Buffer
	cmd.Stdin, cmd.Stderr, cmd.Dir = bytes.NewReader(text), &talk, t.TempDir()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, talk.String())
	}
	if err := json.Unmarshal(out, answer); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// What IPython finds, python finds, at the same line and as the same call.
func TestLinesAreJupytersAsUpstreamSays(t *testing.T) {
	const program = `
import json, sys
from IPython.core.inputtransformer2 import TransformerManager
json.dump([TransformerManager().transform_cell(cell) for cell in json.load(sys.stdin)], sys.stdout)`
	var cells, theirs []string
	for _, tc := range lineCases {
		cells = append(cells, tc.code)
	}
	upstream(t, program, cells, &theirs)
	for i, tc := range lineCases {
		got, err := toPython(tc.code, func(string) bool { return false })
		if tc.automagic {
			continue // IPython finds it later, when it knows the names
		}
		// What they call, less quotes, blank lines and what wraps Python in Python.
		if ours, theirs := canonical(got), canonical(theirs[i]); err != nil || ours != theirs {
			t.Errorf("%q:\nwe say     %q, %v\nupstream says %q", tc.code, ours, err, theirs)
		}
	}
}

// A cell that is a magic without its % is one that IPython has, but for sc.
func TestMagicsAreIPythonsAsUpstreamSays(t *testing.T) {
	const program = `
import json, sys
from ipykernel.zmqshell import ZMQInteractiveShell
shell = ZMQInteractiveShell.instance()
for extension in "autoreload", "storemagic":
    shell.run_line_magic("load_ext", extension)
lines = [shell.prefilter_manager.prefilter_lines(line) for line in json.load(sys.stdin)]
json.dump({"magics": sorted(shell.magics_manager.magics["line"]), "lines": lines}, sys.stdout)`
	var asked []string
	for _, tc := range bareCases {
		asked = append(asked, tc.code)
	}
	var theirs struct{ Magics, Lines []string }
	if upstream(t, program, asked, &theirs); !slices.Equal(theirs.Magics, slices.Sorted(slices.Values(append(magics, "sc")))) {
		t.Errorf("upstream has %q", theirs.Magics)
	}
	for i, code := range asked {
		if got, _ := toPython(code, func(string) bool { return false }); canonical(got) != canonical(theirs.Lines[i]) {
			t.Errorf("%q: we say %q, upstream says %q", code, got, theirs.Lines[i])
		}
	}
}

func canonical(code string) string {
	var lines []string
	for line := range strings.Lines(code) {
		if line = strings.TrimRight(line, " \r\n"); strings.TrimSpace(line) != "" {
			lines = append(lines, line)
		}
	}
	text := strings.Join(lines, "\n")
	text = strings.NewReplacer(`\"`, `"`, `\'`, `'`).Replace(text)
	text = strings.NewReplacer(`"`, `'`, `\n`, "").Replace(text)
	return text
}

// What tags mean in KALE, they mean here.
func TestTagsAreAsUpstreamSays(t *testing.T) {
	const program = `
import json, sys, re, contextlib, logging
logging.disable(logging.CRITICAL)
from kale.processors.nbprocessor import NotebookProcessor
from kale.pipeline import Pipeline
answer = {}
for name, cells in json.load(sys.stdin).items():
    cells = [{"cell_type": c["kind"], "metadata": {"tags": c["tags"] or []}, "source": f"{c['source']}  # cell {i}", **({"outputs": [], "execution_count": None} if c["kind"] == "code" else {})} for i, c in enumerate(cells, 1)]
    with open("n.ipynb", "w") as f:
        json.dump({"nbformat": 4, "nbformat_minor": 4, "metadata": {"kubeflow_notebook": {"pipeline_name": "n", "experiment_name": "e"}}, "cells": cells}, f)
    p = NotebookProcessor("n.ipynb")
    parameters, metrics, shared = p.parse_notebook()
    numbers = lambda text: [int(n) for n in re.findall("# cell (\\d+)", text)]
    answer[name] = {"shared": numbers(parameters) + numbers(shared), "steps": {}}
    for s in p.pipeline.steps:
        own = numbers("\n".join(s.source[p._shared_block_count:]))
        answer[name]["steps"][s.name] = {"cells": own, "prev": sorted(p.pipeline.predecessors(s.name)), "labels": dict(s.config.labels), "annotations": dict(s.config.annotations), "limits": dict(s.config.limits), "secrets": sorted(s.config.secrets)}
json.dump(answer, sys.stdout)`
	type told struct {
		Shared []int
		Steps  map[string]struct {
			Cells                       []int
			Prev                        []string
			Labels, Annotations, Limits map[string]string
			Secrets                     []string
		}
	}
	question := map[string][]map[string]any{}
	for name, tc := range kaleCases {
		for _, c := range tc.cells {
			source := c.source
			if slices.Contains(c.tags, tagMetrics) {
				source = strings.ReplaceAll(source, "\n", " ") // a remark after a line of them would not be one
			}
			question[name] = append(question[name], map[string]any{"kind": c.kind, "source": source, "tags": c.tags})
		}
	}
	var answer map[string]told
	upstream(t, program, question, &answer)
	numbers := func(cells []Cell) []int {
		all := []int{}
		for _, c := range cells {
			all = append(all, c.Number)
		}
		return all
	}
	for name, tc := range kaleCases {
		book, err := Read(notebook(t, tc.cells...))
		if err != nil {
			t.Fatal(err)
		}
		theirs := answer[name]
		if got := numbers(book.Shared); !slices.Equal(got, theirs.Shared) {
			t.Errorf("%s: shared are %v, upstream says %v", name, got, theirs.Shared)
		}
		if len(book.Steps) != len(theirs.Steps) {
			t.Errorf("%s: there are %d steps, upstream says %v", name, len(book.Steps), theirs.Steps)
		}
		for _, s := range book.Steps {
			u := theirs.Steps[s.Name]
			if got := numbers(s.Cells); !slices.Equal(got, u.Cells) || !slices.Equal(slices.Sorted(slices.Values(s.Prev)), u.Prev) {
				t.Errorf("%s: %s is %v after %v, upstream says %v after %v", name, s.Name, got, s.Prev, u.Cells, u.Prev)
			}
			if !maps.Equal(s.Pod.Labels, u.Labels) || !maps.Equal(s.Pod.Annotations, u.Annotations) || !maps.Equal(s.Pod.Limits, u.Limits) || len(s.Pod.Secrets) != len(u.Secrets) {
				t.Errorf("%s: %s has %+v, upstream says %+v", name, s.Name, s.Pod, u)
			}
		}
	}
}

// The inputs that people brought, in words of our own.
func TestWhatPeopleBring(t *testing.T) {
	for file, want := range map[string]string{
		"load_data.ipynb": "shared [2 1]|load_data[][3]|train_model[load_data][4]",
		"shell.ipynb":     "one[][1]",
		"result.ipynb":    "shared [1]|data[][2]|score[data][3]",
		"help.ipynb":      `cell 1, line 2: "x.append?" asks for help, which only Jupyter can show: take it out, or tag the cell "skip"`,
	} {
		data, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		book, err := Read(data)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(plan(book), "|")
		if err := (Pipeline{Notebook: data, Runner: runner(t)}).CheckSyntax(t.Context(), run.Exec{}); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
}
