package notebook

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
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

// plan is what a notebook's cells become: the steps and those before each, and
// where each cell goes.
func plan(b *Notebook) (all []string) {
	numbers := func(cells []Cell) (all []int) {
		for _, c := range cells {
			all = append(all, c.Number)
		}
		return all
	}
	if b.Shared != nil {
		all = append(all, fmt.Sprint("shared ", numbers(b.Shared)))
	}
	for _, s := range b.Steps {
		line := fmt.Sprintf("%s%v%v", s.Name, s.Prev, numbers(s.Cells))
		if s.Metrics != nil {
			line += fmt.Sprint(" measures ", s.Metrics)
		}
		all = append(all, line)
	}
	if b.Unused != nil {
		all = append(all, fmt.Sprint("unused ", b.Unused))
	}
	return all
}

// What tags mean is what they mean in KALE 2.3: TestTagsAreKales compares.
var kaleCases = map[string]struct {
	cells []cell
	want  []string
}{
	"steps run after those before them": {[]cell{
		{"markdown", "# Title", nil}, code("import numpy", "imports"), code("a = 1", "step:prepare"), code("b = 2"), code("c = 3", "step:train", "prev:prepare"),
		code("d = 4", "step:prepare"), code("x = 3", "step:evaluate", "prev:train", "prev:prepare"),
	}, []string{"shared [2]", "prepare[][3 4 6]", "train[prepare][5]", "evaluate[prepare train][7]"}},
	"underscores": {[]cell{code("a = 1", "step:load_data"), code("b = a", "step:_train__model", "prev:load_data")}, []string{"load_data[][1]", "_train__model[load_data][2]"}},
	"an untagged cell goes with the one before, whatever it is": {[]cell{
		code("import os", "imports"), code("import sys"), code("def f(): pass", "functions"), code("def g(): pass"), code("n = 1", "pipeline-parameters"), code("m = 2"),
		code("a = 1", "step:a"), code("b = 2"),
	}, []string{"shared [5 6 1 2 3 4]", "a[][7 8]"}},
	"parameters, imports and functions, wherever they are": {[]cell{
		code("a = 1", "step:a"), code("def f(): pass", "functions"), code("import os", "imports"), code("n = 1", "pipeline-parameters"),
	}, []string{"shared [4 3 2]", "a[][1]"}},
	"skip changes nothing for the cell after it": {[]cell{code("a = 1", "step:a"), code("?", "skip"), code("b = 1")}, []string{"a[][1 3]"}},
	"the first of these words is what a cell is": {[]cell{
		code("a = 1", "step:a"), code("b = 1", "step:b", "skip", "imports"), code("import os", "step:c", "imports"), code("c = 1", "step:d", "prev:a"),
	}, []string{"shared [3]", "a[][1]", "d[a][4]"}},
	"what is before the first tag is not run": {[]cell{code("a = 1"), code("b = 1", "step:b")}, []string{"b[][2]", "unused [1]"}},
	"a step without a name is no tag":         {[]cell{code("a = 1", "step:a"), code("b = 1", "step:")}, []string{"a[][1 2]"}},
	"metrics belong to the last step that has them": {[]cell{
		code("acc = 1\nloss = 2", "step:a"), code("print(acc)", "step:b", "prev:a"), code("print(acc)\n\nprint(loss)", "pipeline-metrics"),
	}, []string{"a[][1] measures [loss]", "b[a][2] measures [acc]"}},
	"tags of pods": {[]cell{
		code("a = 1", "step:a", "label:team:red", "annotation:note/x:y", "limit:cpu:1", "secret:db:password:DB", "cache:enabled", "report:disabled"), code("b = 1", "step:b", "cache:disabled"),
	}, []string{"a[][1]", "b[][2]"}},
}

func TestTagsMeanWhatTheyMeanInKALE(t *testing.T) {
	for name, tc := range kaleCases {
		t.Run(name, func(t *testing.T) {
			book, err := Read(notebook(t, tc.cells...))
			if err != nil {
				t.Fatal(err)
			}
			if got := plan(book); !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// What the lab takes and KALE does not.
func TestMoreThanKALETakes(t *testing.T) {
	book, err := Read(notebook(t, code("n = os.cpu_count()", "pipeline-parameters"), code("def f(): pass", "functions"), code("import os", "imports"), code("a = 1", "step:a")))
	if err != nil {
		t.Fatal(err)
	}
	// Code among the parameters may need the imports.
	if got, want := plan(book), []string{"shared [3 1 2]", "a[][4]"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	book, err = Read(notebook(t,
		code("x = 3", "step:evaluate", "prev:train-it", "prev:prepare"), // names steps that come later
		code("a = 1", "block:prepare"),                                  // the older word
		code("c = 3", "step:train-it", "prev:prepare", "somebody-elses", "remove_cell", "parameters"),
		code("d = 4"),
		code("e = 5", "step:evaluate", "prev:more"), // any of its cells says what is before
		code("f = 6", "step:more"),
	))
	if err != nil {
		t.Fatal(err)
	}
	// Those before are in the order in which they run, and not in that of the tags.
	if got, want := plan(book), []string{"prepare[][2]", "train-it[prepare][3 4]", "more[][6]", "evaluate[prepare train-it more][1 5]"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Python writes NaN and Infinity, which JSON forbids; Jupyter writes them in outputs.
func TestAnOutputMayHaveNumbersThatAreNone(t *testing.T) {
	with := func(value string) []byte {
		return []byte(`{"nbformat": 4, "cells": [{"cell_type": "code", "source": "x = \"NaN, \\\\\"", "metadata": {"tags": ["step:a"]}, "outputs": [{"data": {"application/json": {"a": [` + value + `]}}}]}]}`)
	}
	var names []string
	for _, value := range []string{"1", "NaN", "Infinity, 1", "-Infinity", `"a \" NaN", NaN`} {
		p := Pipeline{Name: "n", Notebook: with(value)}
		if book, err := Read(p.Notebook); err != nil || book.Steps[0].Cells[0].Code != `x = "NaN, \\"` {
			t.Errorf("%s: got %v, %v", value, book, err)
		}
		names = append(names, p.Run())
	}
	if len(slices.Compact(names)) != 1 {
		t.Errorf("an output changes the run: %q", names)
	}
}

func TestASourceIsAStringOrLines(t *testing.T) {
	book, err := Read([]byte(`{"nbformat": 4, "cells": [{"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["step:a"]}}]}`))
	if err != nil || len(book.Steps) != 1 {
		t.Errorf("got %v, %v", book, err)
	}
}

func TestABadNotebookIsRefusedWithTheCell(t *testing.T) {
	whole := func(metadata string) []byte {
		return []byte(`{"nbformat": 4, "metadata": {"kubeflow_notebook": ` + metadata + `}, "cells": [{"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["step:a"]}}]}`)
	}
	for name, tc := range map[string]struct {
		data []byte
		want string
	}{
		"no JSON":                   {[]byte("# hello"), "it is no notebook: "},
		"a comma too much":          {[]byte("{\n \"nbformat\": 4,,\n}"), `it is no notebook: line 2, column 16: invalid character ','`},
		"half of it":                {[]byte("{\n \"cells\": ["), "it is no notebook: line 2, column 11: unexpected end"},
		"a merge half done":         {[]byte("{\n<<<<<<< HEAD\n \"a\": 1,\n=======\n \"a\": 2,\n>>>>>>> theirs\n \"nbformat\": 4}"), "line 2: a merge of Git's has left its marks (<<<<<<<): resolve it"},
		"an old format":             {[]byte(`{"nbformat": 3}`), "nbformat must be 4, got 3"},
		"a stripped kernel":         {[]byte(`{"nbformat": 4, "metadata": {"language_info": {"name": "julia"}}, "cells": []}`), "must be python, got julia"},
		"another language":          {[]byte(`{"nbformat": 4, "metadata": {"kernelspec": {"language": "R"}}, "cells": []}`), "must be python, got R"},
		"only a kernel's name":      {[]byte(`{"nbformat": 4, "metadata": {"kernelspec": {"name": "julia-1.9"}}, "cells": []}`), "must be python, got julia-1.9"},
		"R by its kernel's name":    {[]byte(`{"nbformat": 4, "metadata": {"kernelspec": {"name": "ir"}}, "cells": []}`), "must be python, got ir"},
		"a shell by its kernel":     {[]byte(`{"nbformat": 4, "metadata": {"kernelspec": {"name": "bash"}}, "cells": []}`), "must be python, got bash"},
		"Python 2":                  {[]byte(`{"nbformat": 4, "metadata": {"kernelspec": {"name": "python3"}, "language_info": {"name": "python", "version": "2.7.15"}}, "cells": []}`), "the notebook's kernel must be Python 3, got Python 2.7.15"},
		"Python 2 by its kernel":    {[]byte(`{"nbformat": 4, "metadata": {"kernelspec": {"language": "python", "name": "python2"}}, "cells": []}`), "the notebook's kernel must be Python 3, got Python 2"},
		"a kernel's name in Colab":  {[]byte(`{"nbformat": 4, "metadata": {"kernelspec": {"name": "java"}}, "cells": []}`), "must be python, got java"},
		"code of nbformat 3":        {[]byte(`{"nbformat": 4, "cells": [{"cell_type": "code", "input": "x = 1", "metadata": {"tags": ["step:a"]}}]}`), "cell 1: source must be a string or an array of strings, got none"},
		"a cell of no type":         {[]byte(`{"nbformat": 4, "cells": [{"cell_type": "markdown"}, {"source": "x = 1"}]}`), `cell 2: cell_type must be code, markdown or raw, got ""`},
		"a cell of another type":    {[]byte(`{"nbformat": 4, "cells": [{"cell_type": "Code", "source": "x = 1"}]}`), `cell 1: cell_type must be code, markdown or raw, got "Code"`},
		"no format":                 {[]byte(`{"cells": []}`), "nbformat must be 4, got none"},
		"a format of other type":    {[]byte(`{"nbformat": "4", "cells": []}`), "nbformat must be 4, got \"4\""},
		"another encoding":          {[]byte("{\"nbformat\": 4, \"cells\": [{\"cell_type\": \"code\", \"source\": \"x = '\xe9'\", \"metadata\": {\"tags\": [\"step:a\"]}}]}"), "it must be text in UTF-8"},
		"UTF-16":                    {[]byte("\xff\xfe{\x00}\x00"), "it must be text in UTF-8"},
		"a pointer of Git LFS":      {[]byte("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"), "it is a pointer of Git LFS to the notebook: run `git lfs pull`"},
		"an array":                  {[]byte(`[]`), "it is no notebook: it must be an object, got array"},
		"cells of another form":     {[]byte(`{"nbformat": 4, "cells": {"a": 1}}`), "it is no notebook: cells must be an array, got object"},
		"a cell of another form":    {[]byte(`{"nbformat": 4, "cells": [{"cell_type": "markdown"}, "x"]}`), "cell 2: it must be an object, got string"},
		"a source that is no text":  {[]byte(`{"nbformat": 4, "cells": [{"cell_type": "code", "source": ["x = 1", 3]}]}`), "cell 1: source must be a string or an array of strings"},
		"tags of another form":      {[]byte(`{"nbformat": 4, "cells": [{"cell_type": "code", "metadata": {"tags": "step:a"}}]}`), "cell 1: metadata.tags must be an array, got string"},
		"an image that is a number": {whole(`{"base_image": 7}`), "metadata.kubeflow_notebook.base_image must be a string, got number"},
		"KALE's in another form":    {whole(`"x"`), "metadata.kubeflow_notebook must be an object, got string"},
		"no cells":                  {notebook(t), "no cell is tagged step:NAME"},
		"nothing tagged":            {notebook(t, cell{"markdown", "# A", nil}, code("a = 1")), "cell 2 has no tag, and no cell is tagged step:NAME"},
		"only shared cells":         {notebook(t, code("import a", "imports")), "no cell is tagged step:NAME"},
		"a bad name":                {notebook(t, code("a = 1", "step:Train It")), `cell 1: tag "step:Train It" must name a step`},
		"a digit first":             {notebook(t, code("a = 1", "step:1st")), `cell 1: tag "step:1st" must name a step`},
		"no letter":                 {notebook(t, code("a = 1", "step:_")), `cell 1: tag "step:_" must name a step`},
		"two steps":                 {notebook(t, code("a = 1", "step:a", "step:b")), `cell 1: tag "step:b" must not be with another step's, "a"`},
		"before nothing":            {notebook(t, code("a = 1", "prev:a")), `cell 1: tag "prev:a" must be with a tag step:NAME`},
		"before, untagged":          {notebook(t, code("a = 1", "step:a"), code("b = 1", "prev:a")), `cell 2: tag "prev:a" must be with a tag step:NAME`},
		"a pod of no step":          {notebook(t, code("a = 1", "step:a"), code("b = 1", "label:a:b")), `cell 2: tag "label:a:b" must be with a tag step:NAME`},
		"an unknown step":           {notebook(t, code("a = 1", "step:a"), code("b = 1", "step:a", "prev:b")), `cell 2: tag "prev:b" names no step: there are a`},
		"a circle":                  {notebook(t, code("a = 1", "step:a", "prev:b"), code("b = 1", "step:b", "prev:a")), "cell 2: the steps go in a circle: a -> b -> a"},
		"a circle of three":         {notebook(t, code("a = 1", "step:a", "prev:c"), code("b = 1", "step:b", "prev:a"), code("c = 1", "step:c"), code("c = 1", "step:c", "prev:b")), "cell 2: the steps go in a circle: a -> c -> b -> a"},
		"itself":                    {notebook(t, code("a = 1", "step:a", "prev:a")), "cell 1: the steps go in a circle: a -> a"},
		"one name in Argo":          {notebook(t, code("a = 1", "step:a_b"), code("b = 1", "step:a-b")), `cell 2: steps "a_b" and "a-b" would have one name in Argo`},
		"a step after metrics":      {notebook(t, code("a = 1", "step:a"), code("print(a)", "pipeline-metrics"), code("b = 1", "step:b")), `cell 3: tag "step:b" must come before`},
		"metrics that compute":      {notebook(t, code("a = 1", "step:a"), code("\nprint(a + 1)", "pipeline-metrics")), "cell 2, line 2: a cell tagged pipeline-metrics must have lines print(NAME) only"},
		"a metric of nobody":        {notebook(t, code("a = 1", "step:a"), code("print(b)", "pipeline-metrics")), "cell 2, line 1: no step has the name b"},
		"a tag in capitals":         {notebook(t, code("a = 1", "Step:a")), `cell 1: tag "Step:a" must begin with "step:"`},
		"a word in capitals":        {notebook(t, code("a = 1", "Imports")), `cell 1: tag "Imports" must be written "imports"`},
		"a tag that is a number":    {[]byte(`{"nbformat": 4, "cells": [{"cell_type": "code", "source": "", "metadata": {"tags": [7]}}]}`), "cell 1: a tag must be a string, got 7"},
		"another notebook":          {notebook(t, code("", "notebook:other")), `cell 1: tag "notebook:other" names another notebook`},
		"a report":                  {notebook(t, code("a = 1", "step:a", "report:enabled")), `cell 1: tag "report:enabled" must be report:disabled`},
		"a GPU":                     {notebook(t, code("a = 1", "step:a", "limit:nvidia.com/gpu:1")), `cell 1: tag "limit:nvidia.com/gpu:1" must limit cpu, memory or ephemeral-storage: the lab's node has no nvidia.com/gpu`},
		"no amount":                 {notebook(t, code("a = 1", "step:a", "limit:memory:lots")), `cell 1: tag "limit:memory:lots" must be limit:RESOURCE:AMOUNT`},
		"an amount in milli":        {notebook(t, code("a = 1", "step:a", "limit:memory:512m")), `cell 1: tag "limit:memory:512m" must be at least 32Mi, or no pod with Python begins: got 0.512 bytes`},
		"an amount of bytes":        {notebook(t, code("a = 1", "step:a", "limit:ephemeral-storage:512")), `cell 1: tag "limit:ephemeral-storage:512" must be at least 32Mi, or no pod with Python begins: got 512 bytes`},
		"an image's capitals":       {notebook(t, code("a = 1", "step:a", "image:team/Python:v1")), `cell 1: tag "image:team/Python:v1" must name an image, such as`},
		"an image with a space":     {notebook(t, code("a = 1", "step:a", "image:team/a b")), `cell 1: tag "image:team/a b" must name an image, such as`},
		"a limit without one":       {notebook(t, code("a = 1", "step:a", "limit:memory")), `cell 1: tag "limit:memory" must be limit:RESOURCE:AMOUNT`},
		"a bad label":               {notebook(t, code("a = 1", "step:a", "label:a:b c")), `cell 1: tag "label:a:b c" must have a value`},
		"a label without value":     {notebook(t, code("a = 1", "step:a", "label:a")), `cell 1: tag "label:a" must be label:KEY:VALUE`},
		"half a secret":             {notebook(t, code("a = 1", "step:a", "secret:db:key")), `cell 1: tag "secret:db:key" must be secret:NAME:KEY:VARIABLE`},
		"a secret of our own":       {notebook(t, code("a = 1", "step:a", "secret:db:key:RUN")), "must name another variable: RUN"},
		"a cache":                   {notebook(t, code("a = 1", "step:a", "cache:maybe")), `cell 1: tag "cache:maybe" must be cache:enabled or cache:disabled`},
		"volumes":                   {whole(`{"volumes": [{"name": "data"}]}`), "metadata kubeflow_notebook: volumes must be empty"},
		"Katib":                     {whole(`{"katib_run": true}`), "metadata kubeflow_notebook: katib_run must be false"},
		"defaults of another form":  {whole(`{"steps_defaults": {"a": 1}}`), "steps_defaults must be a list of tags"},
		"a bad default":             {whole(`{"steps_defaults": ["limit:memory:lots"]}`), `metadata kubeflow_notebook: steps_defaults: tag "limit:memory:lots"`},
		"a step as a default":       {whole(`{"steps_defaults": ["step:a"]}`), "steps_defaults: it must have tags of a pod only"},
	} {
		t.Run(name, func(t *testing.T) {
			if book, err := Read(tc.data); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v and %v, want an error with %q", book, err, tc.want)
			}
		})
	}
}

// What tools write beside code makes no other run; what is code does.
func TestTheNameOfARunIsAHashOfWhatIsCode(t *testing.T) {
	was := `{"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": {"name": "python3"}, "language_info": {"name": "python", "version": "3.11.2"}}, "cells": [
		{"cell_type": "markdown", "id": "m", "metadata": {}, "source": ["# Title\n", "text"]},
		{"cell_type": "code", "id": "p", "execution_count": null, "metadata": {"tags": ["pipeline-parameters"]}, "outputs": [], "source": ["n = 1"]},
		{"cell_type": "code", "id": "a", "execution_count": null, "metadata": {"tags": ["step:one"]}, "outputs": [], "source": ["x = n\n", "y = 2"]},
		{"cell_type": "code", "id": "b", "execution_count": null, "metadata": {"tags": ["step:two", "prev:one"]}, "outputs": [], "source": ["print(x)"]}]}`
	runOf := func(text string) string { return Pipeline{Name: "n", Notebook: []byte(text)}.Run() }
	if !json.Valid([]byte(was)) {
		t.Fatal("it is no JSON")
	}
	for name, tc := range map[string]struct {
		from, to string
		another  bool
	}{
		"Jupyter's counter and output":    {`"execution_count": null, "metadata": {"tags": ["step:one"]}, "outputs": []`, `"execution_count": 7, "metadata": {"tags": ["step:one"]}, "outputs": [{"output_type": "stream", "name": "stdout", "text": ["1"]}]`, false},
		"Jupyter's and papermill's times": {`"tags": ["step:one"]`, `"tags": ["step:one"], "execution": {"iopub.execute_input": "2026"}, "papermill": {"duration": 1.5}`, false},
		"nbstripout takes all of it":      {`"execution_count": null, "metadata": {"tags": ["step:one"]}, "outputs": [],`, `"metadata": {"tags": ["step:one"]},`, false},
		"Jupyter folds and hides":         {`"tags": ["step:one"]`, `"tags": ["step:one"], "collapsed": true, "scrolled": true, "editable": false, "jupyter": {"source_hidden": true}, "slideshow": {"slide_type": "slide"}`, false},
		"Colab":                           {`"tags": ["step:one"]`, `"tags": ["step:one"], "id": "kJ3", "colab": {"base_uri": "x"}, "outputId": "y"`, false},
		"VS Code":                         {`"tags": ["step:one"]`, `"tags": ["step:one"], "vscode": {"languageId": "python"}`, false},
		"jupytext and a kernel":           {`"kernelspec": {"name": "python3"}`, `"jupytext": {"formats": "ipynb,py"}, "kernelspec": {"name": "conda", "display_name": "x"}, "widgets": {"a": 1}, "accelerator": "GPU"`, false},
		"another Python":                  {`3.11.2`, `3.12.9`, false},
		"a newer format, no ids":          {`"nbformat_minor": 5`, `"nbformat_minor": 2`, false},
		"another id":                      {`"id": "a"`, `"id": "0123-abc"`, false},
		"a source that is a string":       {`["x = n\n", "y = 2"]`, `"x = n\ny = 2"`, false},
		"a source that ends with a line":  {`["print(x)"]`, `["print(x)\n"]`, false},
		"another system's ends of lines":  {`["x = n\n", "y = 2"]`, `["x = n\r\n", "y = 2"]`, false},
		"another text":                    {`["# Title\n", "text"]`, `["# Another"]`, false},
		"a picture in a text":             {`"metadata": {}, "source"`, `"metadata": {}, "attachments": {"a.png": {"image/png": "aGVsbG8="}}, "source"`, false},
		"one more text":                   {`{"cell_type": "code", "id": "p"`, `{"cell_type": "raw", "metadata": {}, "source": "x"}, {"cell_type": "markdown", "metadata": {}, "source": "x"}, {"cell_type": "code", "id": "p"`, false},
		"an empty cell":                   {`{"cell_type": "code", "id": "b"`, `{"cell_type": "code", "metadata": {}, "source": []}, {"cell_type": "code", "id": "b"`, false},
		"an empty cell after others":      {`{"cell_type": "code", "id": "a"`, `{"cell_type": "code", "metadata": {}, "source": " \n"}, {"cell_type": "code", "id": "a"`, false},
		"a cell that is skipped":          {`{"cell_type": "code", "id": "b"`, `{"cell_type": "code", "metadata": {"tags": ["skip"]}, "source": "help?"}, {"cell_type": "code", "id": "b"`, false},
		"tags of other tools":             {`["step:one"]`, `["hide-input", "step:one", "remove_cell", "raises-exception"]`, false},
		"a key like another":              {`"tags": ["step:one"]`, `"tags": ["step:one"], "Tags": ["skip"], "VSCode": {"languageId": "r"}`, false},
		"tags in another order":           {`["step:two", "prev:one"]`, `["prev:one", "step:two"]`, false},
		"KALE's own bookkeeping":          {`"kernelspec"`, `"kubeflow_notebook": {"pipeline_name": "x", "experiment": {"id": "1"}, "volumes": []}, "kernelspec"`, false},

		"another value":     {`n = 1`, `n = 2`, true},
		"another line":      {`"y = 2"`, `"y = 3"`, true},
		"another step":      {`"step:two"`, `"step:three"`, true},
		"nothing before it": {`["step:two", "prev:one"]`, `["step:two"]`, true},
		"another kind":      {`["pipeline-parameters"]`, `["imports"]`, true},
		"one cell less":     {`["step:one"]`, `["skip"]`, true},
		"a limit":           {`["step:one"]`, `["step:one", "limit:memory:2Gi"]`, true},
		"a default limit":   {`"kernelspec"`, `"kubeflow_notebook": {"steps_defaults": ["limit:memory:2Gi"]}, "kernelspec"`, true},
	} {
		text := strings.Replace(was, tc.from, tc.to, 1)
		if text == was || !json.Valid([]byte(text)) {
			t.Fatalf("%s: nothing is changed, or it is no JSON", name)
		}
		if another := runOf(text) != runOf(was); another != tc.another {
			t.Errorf("%s: another run: %t", name, another)
		}
	}
	a := runOf(string(notebook(t, code("a = 1", "step:a"), code("b = 1", "step:a"))))
	if runOf(string(notebook(t, code("b = 1", "step:a"), code("a = 1", "step:a")))) == a {
		t.Error("another order of cells makes the same run")
	}
}

// A picture or an output is as large as it likes.
func TestOnlyCodeHasASize(t *testing.T) {
	large := strings.Repeat("x", 2*maxCode)
	p := Pipeline{Name: "train", Space: "ns", Runner: []byte("run")}
	for name, text := range map[string]string{
		"an output":  `{"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["step:a"]}, "outputs": [{"output_type": "display_data", "data": {"image/png": "LARGE"}}]}`,
		"a picture":  `{"cell_type": "markdown", "source": "![](attachment:a.png)", "attachments": {"a.png": {"image/png": "LARGE"}}}, {"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["step:a"]}}`,
		"a text":     `{"cell_type": "markdown", "source": "![](data:image/png;base64,LARGE)"}, {"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["step:a"]}}`,
		"a skipped":  `{"cell_type": "code", "source": "LARGE", "metadata": {"tags": ["skip"]}}, {"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["step:a"]}}`,
		"a metadata": `{"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["step:a"], "widget": "LARGE"}}`,
	} {
		p.Notebook = []byte(`{"nbformat": 4, "cells": [` + strings.Replace(text, "LARGE", large, 1) + `]}`)
		objs, err := p.Objects()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		data, _, _ := unstructured.NestedStringMap(objs[2].Object, "data")
		if code := data["steps.json"]; !strings.Contains(code, `"code":"a = 1"`) || len(code) > 200 {
			t.Errorf("%s: the code is %.200s", name, code)
		}
	}
	p.Notebook = notebook(t, code("a = '"+large+"'", "step:a"))
	if _, err := p.Objects(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("the code must have at most %d bytes, got %d: %d in", maxCode, 2*maxCode+96, 2*maxCode+93)) {
		t.Errorf("%.300v", err)
	}
}

// Kubernetes would take the code, and no Workflow of such steps.
func TestAWorkflowHasASize(t *testing.T) {
	var cells []cell
	for i := range 5 {
		cells = append(cells, code("a = 1", fmt.Sprint("step:s", i), "annotation:about:"+strings.Repeat("x", maxCode/5)))
	}
	if _, err := (Pipeline{Name: "n", Space: "ns", Notebook: notebook(t, cells...)}).Objects(); err == nil || !strings.Contains(err.Error(), "make fewer than 5 steps") {
		t.Errorf("%.300v", err)
	}
	if _, err := (Pipeline{Name: "n", Space: "ns", Notebook: notebook(t, cells[:4]...)}).Objects(); err != nil {
		t.Error(err)
	}
}

func TestANotebooksParametersAreThoseOfItsRun(t *testing.T) {
	for text, want := range map[string][]Parameter{
		"n = 1\n# rows\nrate = -0.5  # slow\n\nname = 'a b'\nquick = True": {{"n", "1"}, {"rate", "-0.5"}, {"name", "a b"}, {"quick", "True"}},
		"n = 'a $b $ {c}'":                 {{"n", "a $b $ {c}"}},
		"n = 1\nn = 2":                     {{"n", "2"}},
		`s = """a` + "\n" + `b"""`:         {{"s", "a\nb"}},
		"n = 'a: [b] # \u0085\x7f\u2028😀'": {{"n", "a: [b] # \u0085\x7f\u2028😀"}}, // what YAML would take for more than text
		// What is no value may be made of one.
		"n = 1\nm = n + 1": nil, "n = 1; m = 2": nil, "n = [1]": nil, "n: int = 1": nil, "print(1)": nil, "n = f'{1}'": nil, "n = b''": nil, "n = 1j": nil,
		`n = '\n'`: nil, "n = '{{x}}'": nil, "n = 'a$$b'": nil, "n = '$(RUN)'": nil, "n = None": nil,
	} {
		p := Pipeline{Name: "n", Space: "ns", Notebook: notebook(t, code(text, "pipeline-parameters"), code("a = 1", "step:true"))}
		book, err := Read(p.Notebook)
		if err != nil || !reflect.DeepEqual(book.Parameters, want) {
			t.Errorf("%q: got %v, %v, want %v", text, book, err, want)
			continue
		}
		objs, err := p.Objects()
		if err != nil {
			t.Fatal(err)
		}
		given, _, _ := unstructured.NestedSlice(objs[3].Object, "spec", "arguments", "parameters")
		templates, _, _ := unstructured.NestedSlice(objs[3].Object, "spec", "templates")
		env, _, _ := unstructured.NestedSlice(templates[1].(map[string]any), "container", "env")
		if name := templates[1].(map[string]any)["name"]; name != "true" {
			t.Errorf("%q: the step is %v", text, name)
		}
		if len(given) != len(want) || len(env) != len(want)+2 {
			t.Errorf("%q: the workflow has %v, and a step %v", text, given, env)
		}
		for i, each := range want {
			if !reflect.DeepEqual(given[i], map[string]any{"name": each.Name, "value": each.Value}) ||
				!reflect.DeepEqual(env[i], map[string]any{"name": "PARAMETER_" + each.Name, "value": "{{workflow.parameters." + each.Name + "}}"}) {
				t.Errorf("%q: the workflow has %v, and a step %v", text, given, env)
			}
		}
	}
}

func TestAStepsPodIsAsItsTagsSay(t *testing.T) {
	const registry = "registry.test:5000"
	p := Pipeline{Name: "train", Image: "python", Store: registry + "/ns/train", Space: "ns", Runner: []byte("run"), Notebook: []byte(`{"nbformat": 4,
		"metadata": {"kubeflow_notebook": {"steps_defaults": ["label:team:red", "limit:cpu:20m", "annotation:note:a:b"]}},
		"cells": [
			{"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["step:load_data", "label:team:blue", "limit:memory:128Mi", "secret:db:password:DB_PASSWORD", "image:registry.test:5000/team/py:v1"]}},
			{"cell_type": "code", "source": "b = 1", "metadata": {"tags": ["step:b", "prev:load_data"]}}]}`)}
	objs, err := p.Objects()
	if err != nil {
		t.Fatal(err)
	}
	templates, _, _ := unstructured.NestedSlice(objs[3].Object, "spec", "templates")
	load, b := templates[1].(map[string]any), templates[2].(map[string]any)
	get := func(of map[string]any, path ...string) any {
		value, _, err := unstructured.NestedFieldNoCopy(of, path...)
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	for i, pair := range [][2]any{
		{load["name"], "load-data"},
		{get(load, "metadata"), map[string]any{"labels": map[string]any{"team": "blue"}, "annotations": map[string]any{"note": "a:b"}}},
		{get(load, "container", "image"), "registry.test:5000/team/py:v1"},
		{get(load, "container", "resources"), map[string]any{"requests": map[string]any{"cpu": "20m", "memory": "128Mi"}, "limits": map[string]any{"cpu": "20m", "memory": "128Mi"}}},
		{get(load, "container", "env").([]any)[0], map[string]any{"name": "DB_PASSWORD", "valueFrom": map[string]any{"secretKeyRef": map[string]any{"name": "db", "key": "password"}}}},
		{get(b, "metadata", "labels"), map[string]any{"team": "red"}},
		{get(b, "container", "image"), "python"},
		{get(b, "container", "resources", "limits"), map[string]any{"cpu": "20m", "memory": "1Gi"}},
		{get(b, "container", "args").([]any)[2:], []any{"b", "load-data={{inputs.parameters.load-data}}"}},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%d: got %v, want %v", i, pair[0], pair[1])
		}
	}
	// Argo takes no such name.
	for _, name := range []any{load["name"], get(templates[0].(map[string]any), "dag").(map[string]any)["tasks"].([]any)[0].(map[string]any)["name"]} {
		if !regexp.MustCompile("^[a-zA-Z0-9][-a-zA-Z0-9]*$").MatchString(name.(string)) {
			t.Errorf("Argo refuses %q", name)
		}
	}
	p.Notebook = notebook(t, code("a = 1", "step:a", "image:python:3.11-slim"))
	if _, err := p.Objects(); err == nil || !strings.Contains(err.Error(), `cell 1: image "python:3.11-slim" of step a must be in the lab's registry (registry.test:5000/...)`) {
		t.Errorf("somebody else's image: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"nbformat": 4, "cells": [{"cell_type": "code", "source": ["a = 1"], "metadata": {"tags": ["step:a", "prev:b"]}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		book, err := Read(data)
		if (err == nil) != (book != nil && len(book.Steps) > 0) {
			t.Errorf("got %v and %v", book, err)
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
	if data, _, _ := unstructured.NestedStringMap(objs[2].Object, "data"); !strings.Contains(data["steps.json"], `"after":["a","b"]`) {
		t.Errorf("the steps are %s", data["steps.json"])
	}
	templates, _, _ := unstructured.NestedSlice(objs[3].Object, "spec", "templates")
	tasks, _, _ := unstructured.NestedSlice(templates[0].(map[string]any), "dag", "tasks")
	if last := tasks[2].(map[string]any); last["name"] != "c" || last["depends"] != "a && b" {
		t.Errorf("the last task is %v", last)
	}
	args, _, _ := unstructured.NestedStringSlice(templates[3].(map[string]any), "container", "args")
	if want := []string{"/code/run.py", "/code/steps.json", "c", "a={{inputs.parameters.a}}", "b={{inputs.parameters.b}}"}; !reflect.DeepEqual(args, want) {
		t.Errorf("got %v, want %v", args, want)
	}
	given, _, _ := unstructured.NestedSlice(tasks[2].(map[string]any), "arguments", "parameters")
	if want := []any{
		map[string]any{"name": "a", "value": "{{tasks.a.outputs.parameters.names}}"}, map[string]any{"name": "b", "value": "{{tasks.b.outputs.parameters.names}}"},
	}; !reflect.DeepEqual(given, want) {
		t.Errorf("the last task gets %v", given)
	}
	// What run.py reads and writes is what Argo gives and takes.
	run := string(runner(t))
	env, _, _ := unstructured.NestedSlice(templates[3].(map[string]any), "container", "env")
	for i, name := range ownEnv {
		if env[i].(map[string]any)["name"] != name || !strings.Contains(run, "os.environ['"+name+"']") {
			t.Errorf("run.py reads no variable %s, or the pod has %v", name, env)
		}
	}
	outputs, _, _ := unstructured.NestedSlice(templates[3].(map[string]any), "outputs", "parameters")
	for i, name := range []string{Result, "metrics", "names"} {
		want := map[string]any{"name": name, "valueFrom": map[string]any{"path": "/tmp/outputs/" + name}}
		if !reflect.DeepEqual(outputs[i], want) || !strings.Contains(run, "/tmp/outputs/"+name) {
			t.Errorf("run.py writes no %s, or Argo takes %v", name, outputs)
		}
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
	p.Space = "Team_A"
	if _, err := p.Objects(); err == nil || !strings.Contains(err.Error(), `the namespace must be`) {
		t.Errorf("a bad namespace: %v", err)
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
	steps := `{"parameters":[],"shared":[],"steps":{"a":{"cells":[{"cell":1,"code":"a = 1"}],"after":[]}}}`
	if want := map[string]string{"run.py": "run", "steps.json": steps, "helper.py": "x = 2"}; !reflect.DeepEqual(data, want) {
		t.Errorf("the code is %v", data)
	}
	for name, want := range map[string]string{"run.py": "the name run.py is the pipeline's own", "steps.json": "the name steps.json"} {
		p.Files = map[string][]byte{name: []byte("x")}
		if _, err := p.Objects(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A ConfigMap has no such key.
	p.Files = map[string][]byte{"my data.csv": []byte("x")}
	if _, err := p.Objects(); err == nil || !strings.Contains(err.Error(), `the name of the file "my data.csv" must have only letters`) {
		t.Errorf("a space: %v", err)
	}
	p.Files = map[string][]byte{"data.bin": {0xff}}
	if _, err := p.Objects(); err == nil || !strings.Contains(err.Error(), "data.bin must be text") {
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

func TestANotebookMayBeginWithAByteOrderMark(t *testing.T) {
	const text = `{"nbformat": 4, "metadata": {}, "cells": [{"cell_type": "code", "metadata": {"tags": ["step:a"]}, "source": "x = 1"}]}`
	if _, err := Read([]byte("\ufeff" + text)); err != nil {
		t.Error(err)
	}
}

func TestACellOfAnotherToolIsNamedByItsTool(t *testing.T) {
	for text, want := range map[string]string{
		`{"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["parameters"]}}`:                                    `cell 1: tag "parameters" is papermill's, and no step would run the cell: tag it "pipeline-parameters", or "skip"`,
		`{"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["injected-parameters"]}}`:                           `cell 1: tag "injected-parameters" is papermill's`,
		`{"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["parameters", "pipeline-parameters"]}}`:             "",
		`{"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["imports", "skip-execution"]}}`:                     "", // nbclient skips it, too
		`{"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["skip", "skip-execution"]}}`:                        "",
		`{"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["skip-execution"]}}`:                                "", // no step runs it
		`{"cell_type": "code", "source": "ls", "metadata": {"tags": ["imports"], "vscode": {"languageId": "shellscript"}}}`: `cell 1: its language must be python, got shellscript: tag it "skip"`,
		`{"cell_type": "code", "source": "ls", "metadata": {"tags": ["skip"], "vscode": {"languageId": "shellscript"}}}`:    "",
		`{"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["imports"], "vscode": {"languageId": "python"}}}`:   "",
		`{"cell_type": "code", "source": "ls", "metadata": {"vscode": {"languageId": "shellscript"}}}`:                      "", // no step runs it
	} {
		_, err := Read([]byte(`{"nbformat": 4, "cells": [` + text + `, {"cell_type": "code", "source": "x = 1", "metadata": {"tags": ["step:a"]}}]}`))
		if got := fmt.Sprint(err); want == "" && err != nil || !strings.HasPrefix(got, want) && want != "" {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}
