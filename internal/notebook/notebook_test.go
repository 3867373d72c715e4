package notebook

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type cell struct {
	kind, source string
	tags         []string
}

func code(source string, tags ...string) cell { return cell{"code", source, tags} }

func notebook(t *testing.T, cells ...cell) []byte {
	t.Helper()
	var all []any
	for _, c := range cells {
		all = append(all, map[string]any{
			"cell_type": c.kind, "source": strings.SplitAfter(c.source, "\n"), "metadata": map[string]any{"tags": c.tags},
		})
	}
	data, err := json.Marshal(map[string]any{"nbformat": 4, "cells": all})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestStepsAreInTheOrderOfWhatComesBefore(t *testing.T) {
	steps, err := Steps(notebook(t,
		cell{"markdown", "# Title", nil},
		code("import numpy", "imports"),
		code("x = 3", "step:evaluate", "prev:train", "prev:prepare"),
		code("a = 1", "step:prepare"),
		code("b = 2"), // goes with prepare
		code("%matplotlib inline", "skip"),
		code("c = 3", "block:train", "prev:prepare", "somebody-elses"),
		code("d = 4", "step:prepare"),
	))
	if err != nil {
		t.Fatal(err)
	}
	want := []Step{
		{"prepare", nil, []int{4, 5, 8}},
		{"train", []string{"prepare"}, []int{7}},
		// In the order in which they run, and not in that of the tags.
		{"evaluate", []string{"prepare", "train"}, []int{3}},
	}
	if !reflect.DeepEqual(steps, want) {
		t.Errorf("got %+v, want %+v", steps, want)
	}
}

func TestASourceIsAStringOrLines(t *testing.T) {
	steps, err := Steps([]byte(`{"nbformat": 4, "cells": [{"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["step:a"]}}]}`))
	if err != nil || len(steps) != 1 {
		t.Errorf("got %v, %v", steps, err)
	}
}

func TestABadNotebookIsRefusedWithTheCell(t *testing.T) {
	for name, tc := range map[string]struct {
		data []byte
		want string
	}{
		"no JSON":              {[]byte("# hello"), "it is no notebook: "},
		"an old format":        {[]byte(`{"nbformat": 3}`), "nbformat is 3"},
		"no cells":             {notebook(t), "no cell is tagged step:NAME"},
		"nothing tagged":       {notebook(t, code("a = 1")), "cell 1 has no tag"},
		"only shared cells":    {notebook(t, code("import a", "imports")), "no cell is tagged step:NAME"},
		"a bad name":           {notebook(t, code("a = 1", "step:Train It")), `cell 1: tag "step:Train It": a step's name`},
		"a digit first":        {notebook(t, code("a = 1", "step:1st")), `cell 1: tag "step:1st": a step's name`},
		"an empty name":        {notebook(t, code("a = 1", "step:")), `cell 1: tag "step:"`},
		"two steps":            {notebook(t, code("a = 1", "step:a", "step:b")), "cell 1: it is tagged with two steps, a and b"},
		"a step that is none":  {notebook(t, code("a = 1", "step:a", "imports")), "cell 1: it is tagged as a step, and"},
		"before nothing":       {notebook(t, code("a = 1", "prev:a")), "cell 1: it is tagged prev:a, and with no step"},
		"an unknown step":      {notebook(t, code("a = 1", "step:a"), code("b = 1", "step:a", "prev:b")), `cell 2: tag "prev:b" names no step`},
		"a circle":             {notebook(t, code("a = 1", "step:a", "prev:b"), code("b = 1", "step:b", "prev:a")), "in a circle: a -> b -> a"},
		"itself":               {notebook(t, code("a = 1", "step:a", "prev:a")), "in a circle: a -> a"},
		"a shell command":      {notebook(t, code("a = 1\n  !pip install b", "step:a")), `cell 1: "!pip install b" is for Jupyter`},
		"after shared, no tag": {notebook(t, code("a = 1", "step:a"), code("import b", "imports"), code("c = 1")), "cell 3 has no tag"},
	} {
		t.Run(name, func(t *testing.T) {
			if steps, err := Steps(tc.data); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v and %v, want an error with %q", steps, err, tc.want)
			}
		})
	}
}

// What a line begins with says nothing where no statement begins.
func TestALineThatGoesOnIsNoCommand(t *testing.T) {
	for _, text := range []string{
		"a = (3\n  % 2)", "a = 7 \\\n  % 2", "a = \"\"\"\n!ls\n%done\n\"\"\"", "f('''(\n% x''',  # (\n!= 3)",
		"a = '(' # it's\nb = [1,\n!a]", "a = 'x\\\n%y'",
	} {
		if line := magic(text); line != "" {
			t.Errorf("%q: %q is for Jupyter", text, line)
		}
	}
	for _, text := range []string{
		"a = '('\n%y", "a = 1 # (\n!ls", "a = \"it's\"\n%y", "a = {}\n  %y", "a = '\\''\n%y", "a = (1)\n# '''\n%y", "a = '''\nb'''\n!ls", "%%bash\nls",
	} {
		if magic(text) == "" {
			t.Errorf("%q: nothing is for Jupyter", text)
		}
	}
}

// Who runs a notebook in Jupyter and saves it has changed no code.
func TestOutputsAreNoPartOfAPipeline(t *testing.T) {
	of := func(source, run string) []byte {
		return []byte(`{"nbformat": 4, "cells": [{"cell_type": "markdown", "source": "outputs", "metadata": {}},
			{"cell_type": "code", "source": "` + source + `", "metadata": {"tags": ["step:a"]}, ` + run + `}]}`)
	}
	p := Pipeline{Name: "train", Space: "ns", Notebook: of("a = 1", `"execution_count": null, "outputs": []`)}
	was := p.Run()
	ran := `"execution_count": 7, "outputs": [{"text": "` + strings.Repeat("x", maxCode) + `"}]`
	p.Notebook = of("a = 1", ran)
	if p.Run() != was {
		t.Error("outputs make another run")
	}
	objs, err := p.Objects()
	if err != nil {
		t.Fatal(err)
	}
	data, _, _ := unstructured.NestedStringMap(objs[2].Object, "data")
	if text := data["notebook.ipynb"]; !strings.Contains(text, `"source":"a = 1"`) || strings.Contains(text, "xx") || strings.Contains(text, "7") {
		t.Errorf("the notebook is %.200s", text)
	}
	if p.Notebook = of("a = 2", ran); p.Run() == was {
		t.Error("another cell makes the same run")
	}
}

func FuzzSteps(f *testing.F) {
	f.Add([]byte(`{"nbformat": 4, "cells": [{"cell_type": "code", "source": ["a = 1"], "metadata": {"tags": ["step:a", "prev:b"]}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		steps, err := Steps(data)
		if (err == nil) != (len(steps) > 0) {
			t.Errorf("got %v and %v", steps, err)
		}
	})
}

func TestAPipelineHasATaskForEachStep(t *testing.T) {
	p := Pipeline{
		Name: "train", Image: "img", Store: "registry/store", Executor: "executor", Space: "ns", Runner: []byte("run"),
		Notebook: notebook(t, code("a = 1", "step:a"), code("b = 1", "step:b"), code("c = 1", "step:c", "prev:a", "prev:b"), code("d = 1")),
	}
	objs, err := p.Objects()
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, o := range objs {
		kinds = append(kinds, o.GetKind()+"/"+o.GetNamespace()+"/"+strings.ReplaceAll(o.GetName(), p.Run(), "RUN"))
	}
	if want := []string{"ServiceAccount/ns/train", "RoleBinding/ns/train", "ConfigMap/ns/RUN", "Workflow/ns/RUN"}; !reflect.DeepEqual(kinds, want) {
		t.Errorf("got %v, want %v", kinds, want)
	}
	templates, _, _ := unstructured.NestedSlice(objs[3].Object, "spec", "templates")
	tasks, _, _ := unstructured.NestedSlice(templates[0].(map[string]any), "dag", "tasks")
	if last := tasks[2].(map[string]any); last["name"] != "c" || last["depends"] != "a && b" {
		t.Errorf("the last task is %v", last)
	}
	args, _, _ := unstructured.NestedStringSlice(templates[3].(map[string]any), "container", "args")
	if want := []string{"/code/run.py", "/code/notebook.ipynb", "c", "3,4", "a={{inputs.parameters.a}}", "b={{inputs.parameters.b}}"}; !reflect.DeepEqual(args, want) {
		t.Errorf("got %v, want %v", args, want)
	}
	given, _, _ := unstructured.NestedSlice(tasks[2].(map[string]any), "arguments", "parameters")
	if want := []any{
		map[string]any{"name": "a", "value": "{{tasks.a.outputs.parameters.names}}"}, map[string]any{"name": "b", "value": "{{tasks.b.outputs.parameters.names}}"},
	}; !reflect.DeepEqual(given, want) {
		t.Errorf("the last task gets %v", given)
	}
	if retry, _, _ := unstructured.NestedString(templates[3].(map[string]any), "retryStrategy", "expression"); retry != "lastRetry.exitCode != '1'" {
		t.Errorf("a cell that fails is tried again: %q", retry)
	}

	if spec := objs[3].Object["spec"].(map[string]any); spec["activeDeadlineSeconds"] == nil || spec["ttlStrategy"] == nil {
		t.Errorf("it is not bounded, or not removed: %v", spec)
	}
	if stepName.MatchString(templates[0].(map[string]any)["name"].(string)) {
		t.Error("a step can have the graph's name")
	}

	was := p.Run()
	p.Attempt = 2
	again, err := p.Objects()
	if err != nil || p.Run() != was || again[2].GetName() != was+"-2" || again[3].GetName() != was+"-2" {
		t.Errorf("the second attempt is %v, %v", again, err)
	}
	p.Attempt = 0
	if p.Runner = []byte("another"); p.Run() == was {
		t.Error("another runner makes the same run")
	}
	p.Notebook = append(p.Notebook, make([]byte, maxCode)...)
	if _, err := p.Objects(); err == nil || !strings.Contains(err.Error(), "leave out what is no code") {
		t.Errorf("too large a notebook: %v", err)
	}
	p.Name = "Not A Name"
	if _, err := p.Objects(); err == nil || !strings.Contains(err.Error(), `"Not A Name"`) {
		t.Errorf("a bad name: %v", err)
	}
}

func TestWhatANotebookImportsIsPartOfItsRun(t *testing.T) {
	p := Pipeline{Name: "train", Space: "ns", Runner: []byte("run"), Notebook: notebook(t, code("a = 1", "step:a"))}
	alone := p.Run()
	p.Files = map[string][]byte{"helper.py": []byte("x = 1")}
	was := p.Run()
	if was == alone || was != p.Run() {
		t.Errorf("alone the run is %s, with a file %s", alone, was)
	}
	p.Files["helper.py"] = []byte("x = 2")
	if p.Run() == was {
		t.Error("another file makes the same run")
	}
	objs, err := p.Objects()
	if err != nil {
		t.Fatal(err)
	}
	data, _, _ := unstructured.NestedStringMap(objs[2].Object, "data")
	bare, err := Strip(p.Notebook)
	if want := map[string]string{"run.py": "run", "notebook.ipynb": string(bare), "helper.py": "x = 2"}; err != nil || !reflect.DeepEqual(data, want) {
		t.Errorf("the code is %v", data)
	}
	for name, want := range map[string]string{"run.py": "the name run.py is the pipeline's own", "notebook.ipynb": "the name notebook.ipynb"} {
		p.Files = map[string][]byte{name: []byte("x")}
		if _, err := p.Objects(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p.Files = map[string][]byte{"data.bin": {0xff}}
	if _, err := p.Objects(); err == nil || !strings.Contains(err.Error(), "data.bin is no text") {
		t.Errorf("no text: %v", err)
	}
	if name := Name("/work/My Notebook 2.ipynb"); name != "my-notebook-2" {
		t.Errorf("its name is %s", name)
	}
}

func TestAWorkflowsStatusIsRead(t *testing.T) {
	none, err := ReadStatus(nil)
	if err != nil || none.Ended() {
		t.Errorf("without a status: %+v, %v", none, err)
	}
	s, err := ReadStatus([]byte(`{"phase": "Failed", "message": "child failed", "nodes": {
		"a": {"displayName": "run", "type": "DAG", "phase": "Failed", "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:09Z"},
		"b": {"displayName": "train", "type": "Pod", "phase": "Running", "startedAt": "2026-01-01T00:00:01Z", "finishedAt": null,
			"message": "m", "outputs": {"exitCode": "75", "parameters": [{"name": "result", "value": "{}"}]}}}}`))
	if err != nil || !s.Ended() || s.Message != "child failed" || len(s.Nodes) != 2 {
		t.Fatalf("%+v, %v", s, err)
	}
	for _, n := range s.Nodes {
		pod := n.Name == "train"
		if n.Pod != pod || n.Finished.IsZero() != pod || pod && (n.Outputs[Result] != "{}" || n.ExitCode != "75" || n.Message != "m" || n.Phase != "Running") {
			t.Errorf("%+v", n)
		}
	}
	if _, err := ReadStatus([]byte("[]")); err == nil {
		t.Error("a list is a status")
	}
}
