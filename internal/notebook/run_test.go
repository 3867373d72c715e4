package notebook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mllab.local/internal/run"
)

// bench is what a step of a notebook has in its pod: its runner, Python, and the
// programs that it calls.
type bench struct {
	*testing.T
	dir string
}

// What stands in for joblib, and for modelcar: the registry is a folder, and a
// tag can be pushed anew. A file "fail" there makes it fail with that code.
const (
	joblib = `
import pickle
def dump(value, file):
    with open(file, "wb") as f: pickle.dump(value, f)
def load(file):
    with open(file, "rb") as f: return pickle._Unpickler(f).load()
`
	modelcar = `#!/bin/sh -e
if test -e "$REGISTRY/fail"; then echo "modelcar: no registry" >&2; exit "$(cat "$REGISTRY/fail")"; fi
case "$1" in
push) image="$3@$(cat "$2"/* | cksum | cut -d ' ' -f 1)"; cp -r "$2" "$REGISTRY/$image"; echo "$image" ;;
pull) cp -r "$REGISTRY/$2" "$3"; echo "$2" ;;
esac
`
)

func newBench(t *testing.T) bench {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Fatal("python3 is not installed: `make tools` does it")
	}
	b := bench{t, t.TempDir()}
	if err := os.Mkdir(filepath.Join(b.dir, "code"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.write("code/joblib.py", joblib, 0o600)
	b.write("modelcar", modelcar, 0o700)
	// Each run has a folder of its own where a pod has its /tmp.
	b.write("code/run.py", strings.NewReplacer(`f"/tmp/`, `os.environ["TMP"] + f"/`, `"/tmp/`, `os.environ["TMP"] + "/`).Replace(string(runner(t))), 0o600)
	if err := os.Mkdir(filepath.Join(b.dir, "registry"), 0o700); err != nil {
		t.Fatal(err)
	}
	return b
}

func runner(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("../../manifests/pipeline/run.py")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (b bench) write(name, text string, mode os.FileMode) {
	b.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), mode); err != nil {
		b.Fatal(err)
	}
}

// step runs a step, and returns its exit code, what it prints, and the image
// with its names.
func (b bench) step(cells []byte, args ...string) (code int, out, image string) {
	b.Helper()
	code, out, outputs := b.run(cells, nil, args...)
	return code, out, outputs["names"]
}

// run runs a step with more in its environment, and returns its outputs.
func (b bench) run(cells []byte, env []string, args ...string) (code int, out string, outputs map[string]string) {
	b.Helper()
	book, err := Read(cells)
	if err != nil {
		b.Fatal(err)
	}
	b.write("code/steps.json", string(book.program()), 0o600)
	tmp := b.TempDir()
	// -S: the image has not the packages of this machine.
	cmd := exec.Command("python3", append([]string{"-S", "code/run.py", "code/steps.json"}, args...)...)
	cmd.Dir = b.dir
	cmd.Env = append(append(os.Environ(), env...), "TMP="+tmp, "PATH="+b.dir+":"+os.Getenv("PATH"), "REGISTRY="+filepath.Join(b.dir, "registry"), "STORE=store", "RUN=run")
	text, _ := cmd.CombinedOutput()
	outputs = map[string]string{}
	for _, name := range []string{"names", "result", "metrics"} {
		value, err := os.ReadFile(filepath.Join(tmp, "outputs", name))
		if err != nil {
			b.Fatalf("%v\n%s", err, text)
		}
		outputs[name] = string(value)
	}
	return cmd.ProcessState.ExitCode(), string(text), outputs
}

// steps runs all steps, each with the images that its Workflow gives it, until one
// fails. It returns the exit code and what the last one prints.
func (b bench) steps(cells []byte) (code int, out string) {
	b.Helper()
	book, err := Read(cells)
	if err != nil {
		b.Fatal(err)
	}
	images := map[string]string{}
	for _, s := range book.Steps {
		args := []string{s.Task()}
		for _, prev := range s.Prev {
			args = append(args, task(prev)+"="+images[prev])
		}
		if code, out, images[s.Name] = b.step(cells, args...); code != 0 {
			break
		}
	}
	return code, out
}

// last is the line with which a step says what came of it.
func last(out string) (word struct{ Where, Error string }) {
	for line := range strings.Lines(out) {
		_ = json.Unmarshal([]byte(line), &word)
	}
	return word
}

func TestAStepGetsWhatTheStepsBeforeHaveLeft(t *testing.T) {
	b := newBench(t)
	cells := notebook(t, code("class Point:\n    def __init__(self, x): self.x = x", "functions"),
		code("p, n = Point(3), 1", "step:a"),
		code("n += 1\ndef local():\n    class Own: pass\n    return Own()\nown = local()", "step:b", "prev:a"),
		code("assert (p.x, n) == (3, 2), (p.x, n)\nassert 'own' not in globals()", "step:c", "prev:a", "prev:b"))
	exit, out, a := b.step(cells, "a")
	if exit != 0 || !strings.HasPrefix(a, "store:run-a@") {
		t.Fatalf("%d %q\n%s", exit, a, out)
	}
	exit, out, second := b.step(cells, "b", "a="+a)
	if exit != 0 || !strings.Contains(out, `"not_kept": ["own"]`) {
		t.Fatalf("%d\n%s", exit, out)
	}
	// By digest: what is pushed to the tag meanwhile changes nothing.
	if exit, out, _ := b.step(notebook(t, code("n = 7", "step:b")), "b"); exit != 0 {
		t.Fatalf("%d\n%s", exit, out)
	}
	if exit, out, _ := b.step(cells, "c", "a="+a, "b="+second); exit != 0 {
		t.Errorf("%d\n%s", exit, out)
	}
}

// What a step imports and defines is there in those after it, as in KALE and as in
// Jupyter.
func TestAStepHasTheImportsFunctionsAndClassesOfThoseBefore(t *testing.T) {
	b := newBench(t)
	cells := notebook(t,
		code("import math as m, os.path\nfrom json import dumps\nlimit = 3\ndef f(n=limit): return m.floor(n) + offset\nclass Own:\n    x = 5\nown, offset = Own(), 1\ndef late(n=limit): return n\nlate = late()", "step:a"),
		code("!exit 0\nasync def g(): return f(2.5)\noffset = 10\nif True:\n    import not_again_in_c", "step:b", "prev:a"),
		code("assert (f(), await g(), late, own.x, Own is type(own), dumps(1), os.path.sep) == (13, 12, 3, 5, True, '1', '/'), (f(), late)", "step:c", "prev:b"))
	b.write("code/not_again_in_c.py", "", 0o600)
	exit, out, a := b.step(cells, "a")
	if exit != 0 || !strings.Contains(out, `"names": ["late", "limit", "offset", "own"], "not_kept": []`) {
		t.Fatalf("%d\n%s", exit, out)
	}
	exit, out, second := b.step(cells, "b", "a="+a)
	if exit != 0 {
		t.Fatalf("%d\n%s", exit, out)
	}
	if exit, out, _ := b.step(cells, "c", "b="+second); exit != 0 || strings.Contains(out, "not_defined") {
		t.Errorf("%d\n%s", exit, out)
	}
	// Also what they have in a magic that runs Python.
	cells = notebook(t, code("%%time\nimport math as m\ndef f(): return m.floor(2.5)", "step:a"), code("%%capture out\n%time import json\nclass C: x = 1\nc = C()"),
		code("assert (f(), json.dumps(1), c.x) == (2, '1', 1)", "step:b", "prev:a"))
	if exit, out, a = b.step(cells, "a"); exit != 0 {
		t.Fatalf("%d\n%s", exit, out)
	}
	if exit, out, _ := b.step(cells, "b", "a="+a); exit != 0 {
		t.Errorf("%d\n%s", exit, out)
	}
	// Also in Python that another cell has asked for.
	cells = notebook(t, code("from __future__ import annotations", "imports"), code("class A:\n    def f(self) -> A: pass", "step:a"),
		code("def g(x: B): pass\nassert inspect.getsource(g).startswith('def g') and inspect.getsource(A.f).strip() == 'def f(self) -> A: pass'", "step:b", "prev:a"), code("import inspect", "functions"))
	if exit, out, a = b.step(cells, "a"); exit != 0 {
		t.Fatalf("%d\n%s", exit, out)
	}
	if exit, out, _ := b.step(cells, "b", "a="+a); exit != 0 || strings.Contains(out, "not_defined") {
		t.Errorf("%d\n%s", exit, out)
	}
	// What a step asks for holds in the steps after it.
	cells = notebook(t, code("%%time\nfrom __future__ import annotations\ndef f(x: A): pass", "step:a"), code("from __future__ import annotations"), code("def g(x: A): pass"), code("def h(x: A): pass", "step:b", "prev:a"))
	if exit, out, a = b.step(cells, "a"); exit != 0 {
		t.Fatalf("%d\n%s", exit, out)
	}
	if exit, out, _ := b.step(cells, "b", "a="+a); exit != 0 || strings.Contains(out, "not_defined") {
		t.Errorf("%d\n%s", exit, out)
	}
	// However deep their trees are.
	deep := strings.Repeat("'a' + ", 1500) + "'a'"
	cells = notebook(t, code("def f():\n    return "+deep, "step:a"), code("%%time\nx = "+deep), code("assert f() == x == 'a' * 1501", "step:b", "prev:a"))
	if exit, out, a = b.step(cells, "a"); exit != 0 {
		t.Fatalf("%d\n%s", exit, out)
	}
	if exit, out, _ := b.step(cells, "b", "a="+a); exit != 0 {
		t.Errorf("%d\n%s", exit, out)
	}
	// What cannot be there is missed only by who uses it.
	b.write("code/only_here.py", "class C: pass", 0o600)
	cells = notebook(t, code("import only_here\nAlias = only_here.C", "step:a", "image:registry/own"), code("x = 1", "step:b", "prev:a"))
	if exit, out, a = b.step(cells, "a"); exit != 0 {
		t.Fatalf("%d\n%s", exit, out)
	}
	if err := os.Remove(filepath.Join(b.dir, "code/only_here.py")); err != nil {
		t.Fatal(err)
	}
	if exit, out, _ := b.step(cells, "b", "a="+a); exit != 0 {
		t.Errorf("%d\n%s", exit, out)
	}
	if exit, out, _ := b.step(cells, "b"); exit != 0 || !strings.Contains(out, `"not_defined": ["only_here"], "error": "ModuleNotFoundError`) {
		t.Errorf("%d\n%s", exit, out)
	}
}

// What a step has deleted, or cannot hand on, does not come from a step before it.
func TestAStepGetsNoValueThatALaterStepHasReplaced(t *testing.T) {
	b := newBench(t)
	cells := func(last string) []byte {
		return notebook(t, code("counts, gone, f, again, made = {}, 1, 5, 2, 3", "step:a"),
			code("import collections\ncounts = collections.defaultdict(lambda: 0)\ndef maker():\n    def inner(): pass\n    return inner\nmade = maker()\ndef decorated(): pass\nimport functools\ndecorated = functools.wraps(decorated)(lambda: 1)\ndef wrapped(): pass\nwrapped = collections.defaultdict(lambda: wrapped)\ndel gone, again\ndef f(): return 7", "step:b", "prev:a"),
			code("again = 3", "step:c", "prev:b"), code(last, "step:d", "prev:c"))
	}
	good := cells("assert f() == 7 and again == 3 and not {'counts', 'gone'} & {*globals()}, globals()")
	if exit, out := b.steps(good); exit != 0 {
		t.Fatalf("%d\n%s", exit, out)
	}
	for cell, want := range map[string]string{
		"counts['a'] += 1": "NameError: name 'counts' is not defined: step b has left it and cannot hand it on: ",
		"made()":           "NameError: name 'made' is not defined: step b has left it and cannot hand it on: ",
		"decorated()":      "NameError: name 'decorated' is not defined: step b has left it and cannot hand it on: ",
		"wrapped()":        "NameError: name 'wrapped' is not defined: step b has left it and cannot hand it on: ",
		"gone":             "NameError: name 'gone' is not defined",
		"never":            "NameError: name 'never' is not defined",
	} {
		exit, out := b.steps(cells(cell))
		if got := last(out).Error; exit != 1 || !strings.HasPrefix(got, want) || strings.HasSuffix(want, "defined") && got != want {
			t.Errorf("%q: %d\n%s", cell, exit, out)
		}
	}
}

// What Jupyter would have under a name, a later step has, too, or a reason.
func TestAStepHasNoOtherValueThanJupyter(t *testing.T) {
	b := newBench(t)
	const decorated = "def timed(g): return lambda: g() + 1\ndef f(): return 1\nf = timed(f)"
	lost := func(step, name string) string {
		return "NameError: name '" + name + "' is not defined: step " + step + " has left it and cannot hand it on: "
	}
	for name, tc := range map[string]struct {
		a, b, c string
		want    string // in the error of c; or empty
	}{
		// A definition that is replaced.
		"in a branch":        {"metric = lambda: 'mae'", "if True:\n    metric = lambda: 'rmse'", "metric()", lost("b", "metric")},
		"not in a branch":    {"def f(): return 1", "if False:\n    f = 3", "assert f() == 1", ""},
		"in need of a value": {"n = 1\ndef f(x=n): return 1\nf = (lambda g: lambda: 2)(f)", "x = 1", "f()", lost("a", "f")},
		"in a loop":          {"f = lambda: 1", "for f in [lambda: 2]: pass", "f()", lost("b", "f")},
		"in a with":          {"f = lambda: 1", "import contextlib\nwith contextlib.nullcontext(lambda: 2) as f: pass", "f()", lost("b", "f")},
		"in a try":           {"def f(): return 1", "try:\n    def f(): return 2\nfinally: pass", "f()", lost("b", "f")},
		"one of two":         {"def f(): return 1", "f, g = 2, lambda: 3", "assert f == 2\ng()", lost("b", "g")},
		"with a type":        {"def f(): return 1", "f: int = 2", "assert f == 2", ""},
		"awaited":            {"def f(): return 1", "async def g(): return 2\nf, h = await g(), 3", "assert (f, h) == (2, 3)", ""},
		"in a magic":         {"def f(): return 1", "if True:\n    %time f = 2", "assert f == 2", ""},
		"deleted":            {"def f(): return 1", "del f", "f()", "NameError: name 'f' is not defined"},
		"imported again":     {"import math", "try:\n    import math\nexcept ImportError: pass", "assert math.sqrt(4) == 2", ""},
		"and made again":     {"f = lambda: 1", "if True:\n    f = lambda: 2\ndef f(): return 3", "assert f() == 3", ""},
		"a loop's _":         {"x = 1", "for _ in range(3): pass", "assert x == 1", ""},
		"a shared function":  {"x = 1", "for shared in range(3): pass", "assert shared() == 5", ""},
		// Decorated by an assignment.
		"two steps on":         {decorated, "x = 1", "f()", lost("a", "f")},
		"and defined again":    {decorated, "def f(): return 3", "assert f() == 3", ""},
		"and assigned again":   {decorated, "f = 4", "assert f == 4", ""},
		"after all of math":    {"from math import *\n" + decorated, "x = sqrt(4)", "assert sqrt(x) > 1\nf()", lost("a", "f")},
		"with a name of _":     {"def timed(g): return lambda: g() + 1\ndef _f(): return 1\n_f = timed(_f)", "x = 1", "_f()", lost("a", "_f")},
		"what runs out":        {"gen = (x for x in [1])", "x = 1", "list(gen)", lost("a", "gen")},
		"a bound method":       {"import random\nrnd = random.random", "x = 1", "random.seed(0)\nrnd()", lost("a", "rnd") + "TypeError: a method of a Random"},
		"a class's method":     {"make = dict.fromkeys", "x = 1", "assert make('a') == {'a': None}", ""},
		"a default of then":    {"n = 1\nf = lambda x=n: x", "n = 2", "f()", lost("a", "f")},
		"a default":            {"f = lambda x=1, *, y='a': (x, y)", "x = 1", "assert f() == (1, 'a')", ""},
		"a class that needs":   {"from collections import namedtuple\ncols = ['x', 'y']\nRow = namedtuple('Row', cols)\nrows = [Row(1, 2)]\ntotal = 3", "assert total == 3 and cols == ['x', 'y']", "rows", lost("a", "rows") + "AttributeError: "},
		"an enum that needs":   {"from enum import Enum\nclasses = 'A B'\nLabel = Enum('Label', classes)\nlabels = {Label.A: 1}", "assert classes == 'A B'", "labels", lost("a", "labels") + "AttributeError: "},
		"a subclass that does": {"n = 1\nclass L(list):\n    x = n\nl, m = L([3]), 4", "assert m == 4", "l", lost("a", "l") + "AttributeError: "},
		"a file of one step":   {"with open('helper.py', 'w') as file: file.write('def f(): pass')\nimport helper\ng = helper.f\nn = 1", "x = 1", "assert n == 1\ng", lost("a", "g") + "ModuleNotFoundError: "},
	} {
		cells := notebook(t, code("def shared(): return 5", "functions"), code(tc.a, "step:a"), code(tc.b, "step:b", "prev:a"), code(tc.c, "step:c", "prev:b"))
		exit, out := b.steps(cells)
		if word := last(out); (exit == 0) != (tc.want == "") || tc.want != "" && (word.Where != "cell 4" || !strings.HasPrefix(word.Error, tc.want)) {
			t.Errorf("%s: %d, want %q\n%s", name, exit, tc.want, out)
		}
	}
	// Of several steps before one.
	for name, tc := range map[string]struct {
		a, b, c string
		tags    []string // of c, and of d
		want    string
	}{
		"one beside it has kept it":   {decorated, "f = 5", "x = 1", []string{"prev:a", "prev:b", "prev:c"}, ""},
		"one beside it makes it":      {decorated, "f = lambda: 1", "x = 1", []string{"prev:a", "prev:b", "prev:c"}, ""},
		"one before had still had it": {"f = 5", "f = (x for x in [1])", "x = 1", []string{"prev:b", "prev:a", "prev:c"}, lost("b", "f")},
	} {
		cells := notebook(t, code(tc.a, "step:a"), code(tc.b, "step:b", "prev:a"), code(tc.c, "step:c", tc.tags[0]), code("f == 5 or f()", "step:d", tc.tags[1], tc.tags[2]))
		exit, out := b.steps(cells)
		if word := last(out); (exit == 0) != (tc.want == "") || !strings.HasPrefix(word.Error, tc.want) {
			t.Errorf("%s: %d, want %q\n%s", name, exit, tc.want, out)
		}
	}
	// Steps of several images.
	cells := notebook(t, code(decorated, "step:a"), code("f()", "step:b", "prev:a", "image:registry/own"))
	if exit, out := b.steps(cells); exit != 1 || !strings.HasPrefix(last(out).Error, lost("a", "f")) {
		t.Errorf("%d\n%s", exit, out)
	}
}

// The step itself has not ended well; a process of its own may.
func TestAStepThatLeavesAtOnceFails(t *testing.T) {
	b := newBench(t)
	for cell, want := range map[string]int{
		"import os\ndef f(): os._exit(0)\nf()": 1,
		"from os import _exit as x\nx(0)":      1,
		"import os\nos._exit(3)":               3,
		"import os\nif child := os.fork():\n    assert os.waitpid(child, 0)[1] == 0\nelse: os._exit(0)":                  0,
		"import multiprocessing\np = multiprocessing.Process(target=print)\np.start()\np.join()\nassert p.exitcode == 0": 0,
	} {
		exit, out, _ := b.step(notebook(t, code(cell, "step:a")), "a")
		if exit != want || want == 1 && last(out).Where != "cell 1" {
			t.Errorf("%q: %d\n%s", cell, exit, out)
		}
	}
}

// Who forgets a tag is told which.
func TestANameOfAStepThatIsNotBeforeIsSaidToBeThere(t *testing.T) {
	b := newBench(t)
	for cell, want := range map[string]string{
		"load_data":                    "NameError: name 'load_data' is not defined: step fetch-it sets it, and no tag prev: has it come before this one",
		"print(rows)":                  "NameError: name 'rows' is not defined: step fetch-it sets it, and no tag prev: has it come before this one",
		"print(other)":                 "NameError: name 'other' is not defined",
		"local":                        "NameError: name 'local' is not defined",
		"timed":                        "NameError: name 'timed' is not defined: step fetch-it sets it, and no tag prev: has it come before this one",
		"later":                        "NameError: name 'later' is not defined", // a tag would make a circle
		"raise NameError('own words')": "NameError: own words",
	} {
		cells := notebook(t, code("other = 1", "step:first"), code("def load_data(local):\n    local = 3\nload_data.local = 1\nrows = await load_data", "step:fetch_it"), code("%%time\ntimed = 1"), code("later = 1", "step:z", "prev:b"), code("del other\n"+cell, "step:b", "prev:first"))
		_, _, image := b.step(cells, "first")
		if exit, out, _ := b.step(cells, "b", "first="+image); exit != 1 || last(out).Error != want {
			t.Errorf("%q: %d, want %q\n%s", cell, exit, want, out)
		}
	}
}

// Functions and classes may come from an assignment.
func TestAStepHasWhatThoseBeforeDefineByAssignments(t *testing.T) {
	b := newBench(t)
	cells := notebook(t, code("import decimal, math\nNumber, root = decimal.Decimal, math.sqrt\ntry:\n    from json import dumps\nexcept ImportError: pass\noffset = 1\nadd = plus = lambda x: x + offset\ntwice: object = lambda x: 2 * x\nreplaced = lambda: 1\nreplaced = 4\ndef f(): return 5\nalias = f\nimport collections, typing, enum\nP, T = 1, 2\nP = collections.namedtuple('P', 'x')\nT = typing.TypeVar('T')\nColor = enum.Enum('Color', 'RED')\np, red, ts = P(7), Color.RED, [T]", "step:a"), code("offset = 10", "step:b", "prev:a"),
		code("assert (add(1), plus(2), twice(3), replaced) == (11, 12, 6, 4)\nassert (Number('1') + 1, root(4), dumps(1)) == (2, 2, '1')\nassert alias is f and p == P(7) and red is Color.RED and ts == [T]", "step:c", "prev:b"))
	images := []string{}
	for _, name := range []string{"a", "b", "c"} {
		exit, out, image := b.step(cells, append([]string{name}, images...)...)
		if exit != 0 {
			t.Fatalf("%d\n%s", exit, out)
		}
		images = append(images, name+"="+image)
	}
}

func TestARegistryThatFailsIsNotTheCellsFault(t *testing.T) {
	own := "import subprocess\nsubprocess.run(['modelcar', 'push', '.', 'm'], check=True)"
	for name, tc := range map[string]struct {
		cell, fail string
		before     []string
		code       int
		where      string
	}{
		"in fetching":             {"x = 1", "1", []string{"a=store:run-a@1"}, 75, "the registry"},
		"in pushing":              {"x = 1", "75", nil, 75, "handing its names on"},
		"names that are too much": {"x = 1", "1", nil, 1, "handing its names on"},
		"in a cell":               {own, "75", nil, 75, "cell 1"},
		"a cell's own fault":      {own, "1", nil, 1, "cell 1"},
		"a cell that fails":       {"1 / 0", "75", nil, 1, "cell 1"},
	} {
		b := newBench(t)
		b.write("registry/fail", tc.fail, 0o600)
		exit, out, _ := b.step(notebook(t, code(tc.cell, "step:b")), append([]string{"b"}, tc.before...)...)
		word := last(out)
		if exit != tc.code || word.Where != tc.where || !strings.HasPrefix(tc.where, "cell") && word.Error != "modelcar: no registry" {
			t.Errorf("%s: %d %+v\n%s", name, exit, word, out)
		}
	}
}

// What a cell has for Jupyter does in a step what it does there.
func TestLinesForJupyterRun(t *testing.T) {
	b := newBench(t)
	b.write("code/helper.py", "import sys\nfrom_helper = sys.argv[1:]\nif __name__ == '__main__':\n    sys.exit()\n", 0o600)
	b.write("code/with names.py", "import sys\ndoubled = sys.argv[1:] * len(from_helper * 2)\nsys.exit(0)\n", 0o600)
	b.write("code/.env", "A=1", 0o600)
	cases := []struct{ name, cell, prints string }{
		{"a command", "!echo one; echo two >&2", "one\ntwo\n"},
		{"its exit code", "!exit 3\nprint(_exit_code)", "3\n"},
		{"its lines", "x = !printf 'a b\\nc'\nprint(x, len(x), x.n, x.s)", "['a b', 'c'] 2 a b\nc a b c\n"},
		{"what its lines can do", "x = !printf 'a 1\\nb 2\\n/\\n'\nprint(x.grep('A'), x.grep('2', prune=True, field=-1), x.fields(1, 0), x.fields(0, 7).s, x.fields()[0], x.p)", "['a 1'] ['a 1', '/'] ['1 a', '2 b', '/'] a b / ['a', '1'] [PosixPath('/')]\n"},
		{"names in it", "x, y = 'a', [1, 2]\n!echo $x {y[0] + 1} {y[0:1]} $$HOME '$x' {x!r}", "a 2 [1] " + os.Getenv("HOME") + " $x a\n"},
		{"no names in it", "!echo {nobody} a | awk '{print $2}'", "a\n"},
		{"names of a function", "def f(inner):\n    !echo {inner}\n    x = !echo $inner\n    return x\nprint(f(7))", "7\n['7']\n"},
		{"in a block", "for i in range(2):\n    !echo {i}", "0\n1\n"},
		{"time", "%time x = 1\nprint(x)\ny = %time x + 1\nprint(y)", "1\n2\n"},
		{"time of a cell", "%%time\nx = !echo 5\nprint(x[0])\nx", "5\n"},
		{"timeit", "x = 2\n%timeit -n 2 -r 1 x * 2\nprint('done')", "done\n"},
		{"what timeit found", "t = %timeit -q -o -n 2  -r 3  1 + 1\nprint(t.loops, t.repeat, len(t.timings), t.best <= t.average <= t.worst)", "2 3 3 True\n"},
		{"timeit of a command", "%timeit -n1 -r1 !echo 5", "5\n"},
		{"timeit of a cell", "%%timeit -n 2 -r 1 x = 3\nx * 2", ""},
		{"capture", "%%capture out\nprint('kept')\n!echo too\nlater = 1", ""},
		{"set and read", "%env A=b\n%set_env C d\nx = %env A\nprint(x)\n!echo $C", "env: A=b\nenv: C=d\nb\nd\n"},
		{"a script", "%%sh\ncd /\npwd", "/\n"},
		{"another Python", "%%python3\nprint(1 + 1)", "2\n"},
		{"a program's script", "%%script cat -\na?", "a?"},
		{"a script's arguments", "x = 'a b'\n%env y=1", "env: y=1\n"},
		{"and its input", "%%bash -s \"$x\" c\necho $1-$2", "a b-c\n"},
		{"a script's output", "%%sh --out o --err e\necho 1\necho 2 >&2", ""},
		{"what it was", "print(repr(o), repr(e))", "'1\\n' '2\\n'\n"},
		{"a script that may fail", "%%bash --no-raise-error\nexit 3", ""},
		{"a cell that people switch off", "%%script false --no-raise-error\nnobody runs it", ""},
		{"a script that is captured", "%%capture both\n!echo 1\nget_ipython().run_cell_magic('sh', '', 'echo 2; echo 3 >&2')", ""},
		{"what was captured", "print(repr(both.stdout), repr(both.stderr))\nboth()", "'1\\n2\\n' '3\\n'\n1\n2\n3\n"},
		{"lines of a cell", "%%sx\necho 1", ""},
		{"a file", "%%writefile -a made.py\nmade = 5", ""},
		{"a file beside the code", "%run helper.py a 'b c'\nprint(from_helper)", "['a', 'b c']\n"},
		{"its name without .py", "%run helper b\nimport sys\nprint(from_helper, 'helper' in sys.argv[0])", "['b'] False\n"},
		{"with the notebook's names", "%run -i 'with names' c\nprint(doubled)", "['c', 'c']\n"},
		{"a file that begins with a dot", "print(open('.env').read())", "A=1\n"},
		{"reading beside the code", "print(open('helper.py').readline().strip())", "import sys\n"},
		{"how Jupyter shows things", "%matplotlib inline\n%config InlineBackend.figure_format = 'svg'\n%load_ext autoreload\n%autoreload 2\n%aimport os.path, -sys\nprint(os.sep)", "/\n"},
		{"Colab's shell", "%%shell\necho $0", "bash\n"},
		{"a page", "%%html\n<b>bold</b>", ""},
		{"display", "display(1, 'a')", "1\na\n"},
		{"what IPython shows", "from IPython.display import display, HTML, Image, clear_output\nimport IPython.display as d\ndisplay(HTML('<b>'), d.Markdown(data='x'))\nclear_output(wait=True)", "<IPython.HTML object>\n<IPython.Markdown object>\n"},
		{"IPython's shell", "from IPython import get_ipython\nimport IPython\nget_ipython().run_line_magic('matplotlib', 'inline')\nprint(IPython.get_ipython() is get_ipython())", "True\n"},
		{"IPython's settings", "from IPython.core.interactiveshell import InteractiveShell\nInteractiveShell.ast_node_interactivity = 'all'\nfrom IPython.core.display import display", ""},
		{"a call", "/print 1 2", "1 2\n"},
		{"what IPython updates", "h = display(1, display_id=True)\nh.update(2)", "1\n2\n"},
		{"whether it is Jupyter", "print('IPKernelApp' in get_ipython().config)", "False\n"},
		{"await", "import asyncio\nasync def f(): return 3\ntask = asyncio.create_task(f())\nprint(await f() + await task)", "6\n"},
		{"a magic without its %", "ls helper.py", "helper.py\n"},
		{"the shell itself", "get_ipython().system('echo 1')\nprint(get_ipython().getoutput('echo 2'), get_ipython().user_ns['get_ipython'] if 0 else 3)\nget_ipython().magic('time 1')", "1\n['2'] 3\n"},
		{"folders", "%mkdir -p sub\n%cd -q sub\nx = %pwd\nprint(x[-4:])\n%mkdir 'a b'\n%cd -q 'a b'\n%cd -q -\nx = %pwd\nprint(x[-4:])", "/sub\n/sub\n"},
	}
	// All are cells of one step: Python takes a while to begin.
	cells := []cell{code("first = 1", "step:a")}
	for i, tc := range cases {
		cells = append(cells, code(tc.cell), code(fmt.Sprintf("print('\\n=== %d')", i)))
	}
	exit, out, _ := b.step(notebook(t, cells...), "a")
	if exit != 0 {
		t.Fatalf("%d\n%s", exit, out)
	}
	for i, tc := range cases {
		var got string
		got, out, _ = strings.Cut(out, fmt.Sprintf("\n=== %d\n", i))
		var printed strings.Builder
		for line := range strings.Lines(got) {
			if !strings.HasPrefix(line, "Wall time: ") && !strings.Contains(line, " per loop (best of ") {
				printed.WriteString(line)
			}
		}
		if printed.String() != tc.prints {
			t.Errorf("%s: got %q, want %q", tc.name, printed.String(), tc.prints)
		}
	}
	for cell, want := range map[string]string{
		"%%bash\nexit 3":     "cell 1",
		"x = %env NOT_THERE": "cell 1",
		"%cd /not/there":     "cell 1",
	} {
		if exit, out, _ := b.step(notebook(t, code(cell, "step:a")), "a"); exit != 1 || last(out).Where != want {
			t.Errorf("%q: %d\n%s", cell, exit, out)
		}
	}
	// What commands and %%capture have left, the next step gets.
	two := notebook(t, code("x = !echo 5", "step:a"), code("%%capture kept\nprint('printed')"), code("assert x == ['5'] and kept.stdout == 'printed\\n' == str(kept), (x, kept)", "step:b"))
	exit, out, image := b.step(two, "a")
	if exit != 0 {
		t.Fatalf("%d\n%s", exit, out)
	}
	if exit, out, _ := b.step(two, "b", "a="+image); exit != 0 {
		t.Errorf("%d\n%s", exit, out)
	}
}

// What may not be reached is compiled. Where it is reached, it fails in the cell with
// its reason, as in IPython; so it can be handled.
func TestAMagicThatNoStepCanRunFailsWhereItIsReached(t *testing.T) {
	b := newBench(t)
	cells := notebook(t, code("from IPython.core.error import UsageError\nIN_COLAB = 'google.colab' in str(get_ipython())\ncaught = []", "imports"),
		code("if IN_COLAB:\n    %tensorflow_version 2.x\n    from google.colab import drive\ntry:\n  %tensorflow_version 2.x\nexcept Exception: pass", "step:a"),
		code("def look(x):\n    x?\n    %debug\ntry:\n    %load_ext tensorboard\n    %tensorboard --logdir logs\nexcept UsageError as e: print(e)"),
		code("from IPython.core.magic import register_line_magic, register_cell_magic\n@register_line_magic\ndef twice(line): return line * 2\n@register_cell_magic('skip')\ndef nothing(line, cell): print(line, 'not run')"),
		code("x = 3\nprint(get_ipython().run_line_magic('twice', '$x'))"), code("%%skip {x}\n1 / 0"))
	exit, out, _ := b.step(cells, "a")
	if exit != 0 || !strings.Contains(out, "\"%load_ext tensorboard\" loads an extension of IPython, and a step has none: take it out, or tag the cell \"skip\"\n33\n3 not run\n") {
		t.Errorf("%d\n%s", exit, out)
	}
	for cell, want := range map[string]string{
		"if True:\n    %tensorflow_version 2.x": `UsageError: "%tensorflow_version 2.x" is not known to a step`,
		"if True:\n    who?":                    `UsageError: "who?" asks for help`,
		"raise KeyboardInterrupt":               "KeyboardInterrupt: ",
		"import asyncio\nt = asyncio.create_task(asyncio.sleep(9))\nt.cancel()\nawait t": "CancelledError: ",
		"for name in 'a.ipynb',:\n    %run $name":                                        `UsageError: "%run a.ipynb" must name a Python file (.py)`,
	} {
		if exit, out, _ := b.step(notebook(t, code(cell, "step:a")), "a"); exit != 1 || last(out).Where != "cell 1" || !strings.HasPrefix(last(out).Error, want) {
			t.Errorf("%q: %d\n%s", cell, exit, out)
		}
	}
}

// An image of one's own may have IPython, whose error a cell catches.
func TestAMagicRaisesTheErrorOfTheImagesIPython(t *testing.T) {
	b := newBench(t)
	if err := os.MkdirAll(filepath.Join(b.dir, "code/IPython/core"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.write("code/IPython/core/error.py", "class UsageError(Exception): pass", 0o600)
	cells := notebook(t, code("from IPython.core.error import UsageError\ntry:\n    %debug\nexcept UsageError as e: print(e)\ntry:\n    ?\nexcept UsageError as e: print(e)", "step:a"))
	exit, out, _ := b.step(cells, "a")
	if exit != 0 || !strings.HasPrefix(out, `"%debug" needs a person`) || !strings.Contains(out, "\n\"?\" asks for help, which only Jupyter can show") {
		t.Errorf("%d\n%s", exit, out)
	}
}

// What run.py lets pass, it also runs.
func TestAStepRunsEachMagicThatItKnows(t *testing.T) {
	text := string(runner(t))
	cmd := exec.Command("python3", "-I", "-c", text[:strings.Index(text, "\nif __name__")]+`
shell = Shell({})
shell.program = lambda args, kept=False: subprocess.CompletedProcess(args, 0, "")
shell.script = shell.timed = shell.timeit = shell.run_file = lambda *args: None
args = {"cd": "/", "file": os.devnull, "load_ext": "autoreload", "reload_ext": "autoreload", "run": "x.py", "script": "x", "set_env": "A=b", "writefile": os.devnull}
for magic in Shell.line_magics:
    shell.run_line_magic(magic, args.get(magic, ""))
for magic in Shell.cell_magics:
    shell.run_cell_magic(magic, args.get(magic, ""), "")`)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Magics of one's own may come from a file, and have what IPython's decorators give them.
func TestMagicsOfOnesOwnRun(t *testing.T) {
	b := newBench(t)
	runner := runner(t)
	helper := map[string][]byte{"helper.py": []byte("from IPython.core.magic import register_line_magic as r\n@r\ndef own(line): print('own', line)")}
	const marked = "from IPython.core.magic import needs_local_scope, no_var_expand, register_cell_magic, register_line_magic\nx = 3\n" +
		"@register_cell_magic\n@needs_local_scope\ndef scoped(line, cell, local_ns): print(line, cell, local_ns['x'])\n" +
		"@register_line_magic\n@no_var_expand\ndef plain(line): print(line)"
	for _, tc := range []struct {
		files  map[string][]byte
		cells  []string
		prints string
	}{
		{helper, []string{"import helper\n%own 3"}, "own 3\n"},
		{helper, []string{"%run helper.py\n%own 4"}, "own 4\n"},
		{nil, []string{"%%writefile made.py\n" + string(helper["helper.py"]), "import made\n%own 5"}, "own 5\n"},
		{nil, []string{string(helper["helper.py"]), "%own 6"}, "own 6\n"},
		{nil, []string{marked, "%%scoped $x\n$x", "%plain {x}"}, "3 $x 3\n{x}\n"},
		{nil, []string{marked, "def f(x):\n    get_ipython().run_cell_magic('scoped', '$x', '')\nf(4)"}, "4  4\n"},
	} {
		cells := []cell{code("y = 1", "step:a")}
		for _, each := range tc.cells {
			cells = append(cells, code(each))
		}
		p := Pipeline{Runner: runner, Files: tc.files, Notebook: notebook(t, cells...)}
		if err := p.CheckSyntax(t.Context(), run.Exec{}); err != nil {
			t.Errorf("%q: %v", tc.cells, err)
		}
		for name, text := range tc.files {
			b.write("code/"+name, string(text), 0o600)
		}
		if exit, out, _ := b.step(p.Notebook, "a"); exit != 0 || !strings.HasPrefix(out, tc.prints) {
			t.Errorf("%q: %d, want %q\n%s", tc.cells, exit, tc.prints, out)
		}
		_ = os.Remove(filepath.Join(b.dir, "code/helper.py"))
	}
}

// The names of shared cells are a step's own, as in KALE: each has them anew.
func TestSharedNamesAreEachStepsOwn(t *testing.T) {
	b := newBench(t)
	cells := notebook(t, code("def f(n=rows): return n", "functions"), code("rows, sheet = 3, []", "pipeline-parameters"),
		code("seen = rows\nrows = 9\nsheet.append(1)", "step:a"), code("assert (seen, rows, f(), sheet) == (3, 3, 3, []), (seen, rows, f(), sheet)", "step:b"))
	exit, out, image := b.step(cells, "a")
	if exit != 0 || !strings.Contains(out, `"names": ["seen"], "not_kept": ["rows"]`) {
		t.Fatalf("%d\n%s", exit, out)
	}
	if exit, out, _ := b.step(cells, "b", "a="+image); exit != 0 {
		t.Errorf("%d\n%s", exit, out)
	}
}

func TestARunMayGiveAParameterAnotherValue(t *testing.T) {
	b := newBench(t)
	cells := notebook(t, code("n = 1\nrate = 0.5\nname = 'a'\nquick = True", "pipeline-parameters"), code("double = n * 2", "imports"), code("print(n, rate, name, quick, double)", "step:a"))
	for _, tc := range []struct {
		env  []string
		code int
		want string
	}{
		{nil, 0, "1 0.5 a True 2"},
		{[]string{"PARAMETER_n=1", "PARAMETER_rate=0.5", "PARAMETER_name=a", "PARAMETER_quick=True"}, 0, "1 0.5 a True 2"},
		{[]string{"PARAMETER_n=-5", "PARAMETER_rate=2", "PARAMETER_name=7", "PARAMETER_quick=false"}, 0, "-5 2.0 7 False -10"},
		{[]string{"PARAMETER_n=1.5"}, 1, `"where": "cell 1", "error": "ValueError: parameter n must be of type int, got '1.5'"`},
		{[]string{"PARAMETER_quick=maybe"}, 1, "parameter quick must be of type bool, got 'maybe'"},
	} {
		if code, out, _ := b.run(cells, tc.env, "a"); code != tc.code || !strings.Contains(out, tc.want) {
			t.Errorf("%q: %d, want %q\n%s", tc.env, code, tc.want, out)
		}
	}
}

// What numpy's numbers and arrays have, array.array has too: tolist.
func TestAResultIsWhatJSONCanWrite(t *testing.T) {
	b := newBench(t)
	for result, want := range map[string]string{
		"result = {'a': [1, 2.5, None, True], 3: 'b'}":                  `{"a": [1, 2.5, null, true], "3": "b"}`,
		"import array\nresult = array.array('d', [1, 2])":               "[1.0, 2.0]",
		"import array\nresult = {'a': (array.array('i', [7]),)}":        `{"a": [[7]]}`,
		"class N:\n    def tolist(self): return 7\nresult = {N(): N()}": `{"7": 7}`,
		"x = 1": "null",
		"get_ipython().run_cell_magic('time', '', '\\nresult = {1}')": "Object of type set",
		"result = {1, 2}":                 "Object of type set is not JSON serializable",
		"result = float('nan')":           "must be what JSON can write, got float: Out of range float values",
		"result = {(1, 2): 3}":            "got dict: keys must be str, int, float, bool or None, not tuple",
		"result = []; result += [result]": "got list: ",
		"result = 'x' * 300_000":          "result must have at most 262144 bytes as JSON, got 300002",
	} {
		exit, out, outputs := b.run(notebook(t, code("def f(): pass", "functions"), code("\n"+result, "step:a"), code("y = 1")), nil, "a")
		word := last(out)
		if exit == 0 && outputs["result"] != want || exit != 0 && (exit != 1 || word.Where != "result" || !strings.Contains(word.Error, want) || !strings.Contains(word.Error, "cell 2, line 2: result must")) {
			t.Errorf("%q: %d %+v %s\n%s", result, exit, word, outputs["result"], out)
		}
	}
}

func TestMetricsAreNumbers(t *testing.T) {
	b := newBench(t)
	cells := func(value string) []byte {
		return notebook(t, code("acc = "+value+"\nloss = 2", "step:a"), code("print(acc)\nprint(loss)", "pipeline-metrics"))
	}
	if exit, out, outputs := b.run(cells("0.5"), nil, "a"); exit != 0 || outputs["metrics"] != `{"acc": 0.5, "loss": 2.0}` {
		t.Errorf("%d %s\n%s", exit, outputs["metrics"], out)
	}
	for _, magic := range []string{"%%time\nacc = 0.5", "%%capture out\nacc = 0.5", "%time acc = 0.5", "%%time\n%%capture\nacc = 0.5"} {
		timed := notebook(t, code(magic, "step:a"), code("x = 1", "step:b", "prev:a"), code("print(acc)", "pipeline-metrics"))
		if exit, out, outputs := b.run(timed, nil, "a"); exit != 0 || outputs["metrics"] != `{"acc": 0.5}` {
			t.Errorf("%q: %d %s\n%s", magic, exit, outputs["metrics"], out)
		}
	}
	for _, value := range []string{"'high'", "float('nan')", "float('-inf')", "None"} {
		if exit, out, outputs := b.run(cells(value), nil, "a"); exit != 1 || last(out).Where != "metric acc" || strings.HasPrefix(value, "float") && !strings.HasPrefix(last(out).Error, "ValueError: metric acc must be a finite number, got ") || outputs["metrics"] != "{}" {
			t.Errorf("%s: %d %s\n%s", value, exit, outputs["metrics"], out)
		}
	}
}

// What is no Python is found before anything runs: on this machine, and else by
// the first step.
func TestWhatIsNoPythonIsFoundBeforeAnythingRuns(t *testing.T) {
	b := newBench(t)
	runner := runner(t)
	for broken, want := range map[string]string{
		"x = 1\nprint 'a'":          "cell 3, line 2: syntax error: Missing parentheses",
		"\n\nfor x in y\n    z":     "cell 3, line 3: syntax error: ",
		"def f():\nreturn 1":        "cell 3, line 2: syntax error: ",
		"!ls\nx = = 1":              "cell 3, line 2: syntax error: invalid syntax",
		"pip install x\n\ny = 1":    "cell 3, line 1: syntax error: invalid syntax: a line of a shell begins with !, as !pip install x",
		"cd data\ny = 1":            "cell 3, line 1: syntax error: invalid syntax: a line of a shell begins with %, as %cd data",
		"$ export A=1\ny = 1":       "cell 3, line 1: syntax error: invalid syntax: a line of a shell begins with %, as %env A=1",
		"sudo apt x\ny = 1":         "cell 3, line 1: syntax error: invalid syntax",
		"$ ls -l\ny = 1":            "cell 3, line 1: syntax error: invalid syntax: a line of a shell begins with !, as !ls -l",
		"x = 1\n$ python x.py":      "cell 3, line 2: syntax error: invalid syntax: a line of a shell begins with !, as !python x.py",
		"type X = int":              "cell 3, line 1: syntax error: ", // newer than the pods' Python
		"x = 1\ny = 2\nz = '\x00'":  "cell 3, line 3: syntax error: a null byte",
		"%%time\nx = 1\ny = '\x00'": "cell 3, line 3: syntax error: a null byte",
		"return 1":                  "cell 3, line 1: syntax error: 'return' outside function",
		"await f()\n!ls":            "",
		"%%time\nx = 1":             "",
		"x = 1\nprint(Out[3])":      "cell 3, line 2: Out is set by IPython, and a step is a script without it: give the value a name of your own",
		// What magics run is Python, too.
		"%%time\nx = 1\ny = = 1":                               "cell 3, line 3: syntax error: invalid syntax",
		"\n%%capture out\nfor i in x\n    i":                   "cell 3, line 3: syntax error: ",
		"%%timeit -n 1 x y\nx":                                 "cell 3, line 1: syntax error: invalid syntax",
		"%%timeit\nx\nx y":                                     "cell 3, line 3: syntax error: invalid syntax",
		"x = 1\n%timeit -n1 x y":                               "cell 3, line 2: syntax error: invalid syntax",
		"if x:\n    %time x y":                                 "", // it may not run
		"%%time\n%%capture\nx y":                               "cell 3, line 3: syntax error: invalid syntax",
		"get_ipython().run_line_magic('time', 'x y')":          "cell 3, line 1: syntax error: invalid syntax",
		"%%time\nawait f()":                                    "cell 3, line 2: syntax error: 'await' outside function", // Jupyter, too
		"%timeit  -r 1 -n  1   x":                              "",
		"get_ipython().run_line_magic()\nf.run_cell_magic(*x)": "",
		"x = '" + strings.Repeat("a", 1<<19) + "'\ny = = 1":    "cell 3, line 2: syntax error: invalid syntax",
		"x = '" + strings.Repeat("a", 1<<19) + "'":             "",
		// Its second line is too deep to be judged alone.
		"x = 1\nx = a" + strings.Repeat(".b", 3000) + "\ny = = 1": "cell 3, line 3: syntax error: invalid syntax",
	} {
		p := Pipeline{Runner: runner, Notebook: notebook(t, cell{"markdown", "# A", nil}, code("print('it runs')", "step:a"), code(broken, "step:b"))}
		err := p.CheckSyntax(t.Context(), run.Exec{})
		if got := fmt.Sprint(err); want == "" && err != nil || !strings.HasPrefix(got, want) && want != "" {
			t.Errorf("%q: got %v, want %q", broken, err, want)
		}
		if !strings.HasPrefix(broken, "x = 1") {
			continue
		}
		if exit, out, _ := b.step(p.Notebook, "a"); exit != 1 || last(out).Where != "cell 3" || !strings.Contains("cell 3, "+last(out).Error, want) || strings.Contains(out, "it runs") {
			t.Errorf("%q: %d\n%s", broken, exit, out)
		}
	}
	for want, cells := range map[string][]cell{
		"cell 1, line 1: syntax error: unterminated triple-quoted string": {code("text = '''abc\nacc = 1", "step:a"), code("print(acc)", "pipeline-metrics")},
		"cell 1, line 4: syntax error: invalid syntax":                    {code("def own(line): pass\nget_ipython().register_magic_function(own)\n%own 3\ny = = 1", "step:a")},
		"cell 2, line 3: syntax error: invalid syntax":                    {code("def own(line): pass\nget_ipython().register_magic_function(own)", "step:a"), code("%own 3\nx = 1\ny = = 2")},
	} {
		if err := (Pipeline{Runner: runner, Notebook: notebook(t, cells...)}).CheckSyntax(t.Context(), run.Exec{}); !strings.HasPrefix(fmt.Sprint(err), want) {
			t.Errorf("%q: got %v, want %q", cells, err, want)
		}
	}
	late := run.Func(func(ctx context.Context, _ run.Cmd) error {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("python3 has no bound")
		}
		return nil
	})
	if err := (Pipeline{Runner: runner, Notebook: notebook(t, code("x = 1", "step:a"))}).CheckSyntax(t.Context(), late); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := Pipeline{Runner: runner, Notebook: notebook(t, code("x = 1", "step:a"))}
	if err := p.CheckSyntax(ctx, run.Exec{}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal(err)
	}
	path := os.Getenv("PATH")
	t.Setenv("PATH", "")
	if err := p.CheckSyntax(t.Context(), run.Exec{}); !errors.Is(err, ErrUnchecked) {
		t.Errorf("without python3: %v", err)
	}
	for program, want := range map[string]string{
		"#!/bin/sh\necho loading the environment; exec " + python + " \"$@\"\n":                                   `python3 says "loading the environment"`,
		"#!/bin/sh\necho no version is set >&2; exit 127\n":                                                       "no version is set",
		"#!/bin/sh\nexec " + python + " \"$1\" \"$2\" \"import sys; sys.version_info = (3, 10, 0)\n$3\" \"$4\"\n": "Python 3.10 has another grammar",
	} {
		bin := t.TempDir()
		if err := os.WriteFile(filepath.Join(bin, "python3"), []byte(program), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", bin+":"+path)
		if err := p.CheckSyntax(t.Context(), run.Exec{}); !errors.Is(err, ErrUnchecked) || !strings.Contains(err.Error(), want) {
			t.Errorf("python3 is %q: %v, want %q", program, err, want)
		}
	}
}

// A newer Python on this machine reads f-strings that the pods' does not.
func TestAnFStringIsThatOfThePodsPython(t *testing.T) {
	var python string
	for _, name := range []string{"python3.14", "python3.13", "python3.12"} {
		if path, err := exec.LookPath(name); err == nil && exec.Command(path, "-c", "").Run() == nil {
			python = path
		}
	}
	if python == "" {
		t.Skip("it needs a python3.12, 3.13 or 3.14 that runs: an older Python refuses these f-strings itself")
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "python3"), []byte("#!/bin/sh\nexec "+python+" \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for code, newer := range map[string]bool{
		`f"{d["a"]}"`:            true,
		`f'{f'{x}'}'`:            true,
		`f'{"\n".join(x)}'`:      true,
		"f'{x\n}'":               true,
		"f\"\"\"{x # c\n}\"\"\"": true,
		`f'{f"a\n{x}"}'`:         true,
		`f"{'''"'''}"`:           true,
		`f"{d['a']}\n{x:\n}"`:    false,
		"f'''{x\n}'''":           false,
		`f'{x}' # f'{'a'}'`:      false,
		`f'\N{EM DASH}{x!r}'`:    false,
		`f'''{"'#"}'''`:          false,
		`f"{x}" "\n" f'{"a"}'`:   false,
	} {
		want := "<nil>"
		if newer {
			want = "cell 1, line 2: syntax error: an f-string of Python 3.12"
		}
		err := (Pipeline{Runner: runner(t), Notebook: notebook(t, cell{"code", "\n" + code, []string{"step:a"}})}).CheckSyntax(t.Context(), run.Exec{})
		if !strings.HasPrefix(fmt.Sprint(err), want) {
			t.Errorf("%s: got %v, want %s", code, err, want)
		}
	}
}

// A module of a place's may be a file of the notebook's own, or in an image of its
// own; and a file may set names for all.
func TestWhatIsOnesOwnIsThere(t *testing.T) {
	b := newBench(t)
	runner := runner(t)
	file := map[string][]byte{"kaggle_secrets.py": []byte("x = 1")}
	stub := map[string][]byte{"stub.py": []byte("import builtins\nbuiltins.sc = 3")}
	own, other := "from kaggle_secrets import x", "import stub\nx = sc"
	for _, tc := range []struct {
		cell, tag string
		files     map[string][]byte
		want      string
	}{
		{own, "prev:a", nil, "cell 2, line 1: kaggle_secrets is there in Kaggle only"},
		{own, "prev:a", file, "<nil>"},
		{own, "image:registry/own", nil, "<nil>"},
		{other, "prev:a", map[string][]byte{"stub.py": []byte("x = 1")}, "cell 2, line 2: sc is set by Databricks"},
		{other, "prev:a", file, "cell 2, line 1: a step has no module stub: give it with --file, take it out"},
		{other, "prev:a", stub, "<nil>"},
		// A file may make modules, or replace what asks.
		{"import made, more.sub", "prev:a", map[string][]byte{"made.py": []byte("import os\nfor n in ['more']: os.mkdir(n); open(n + '/sub.py', 'w')")}, "<nil>"},
		{"import made, more", "prev:a", map[string][]byte{"made.py": []byte("open('more.py', 'w').write('x = 1')")}, "<nil>"},
		{"!sh make.sh\nimport more.sub", "prev:a", map[string][]byte{"make.sh": []byte("set -e\nmkdir more\n>more/sub.py")}, "<nil>"},
		{"import made\n%run more.py", "prev:a", map[string][]byte{"made.py": []byte("open('more.py', 'w').write('x = 1')")}, "<nil>"},
		{"import made, pandas", "prev:a", map[string][]byte{"made.py": []byte("open('more.py', 'w').write('x = 1')")}, "cell 2, line 1: a step has no module pandas"},
		{"import quiet, getpass\nx = getpass.getpass()", "prev:a", map[string][]byte{"quiet.py": []byte("import getpass\ngetpass.getpass = str")}, "<nil>"},
		{"from getpass import getpass\nx = getpass()", "prev:a", map[string][]byte{"getpass.py": []byte("getpass = str")}, "<nil>"},
	} {
		p := Pipeline{Runner: runner, Files: tc.files, Notebook: notebook(t, code("x = 1", "step:a"), code(tc.cell, "step:b", tc.tag))}
		if err := p.CheckSyntax(t.Context(), run.Exec{}); !strings.HasPrefix(fmt.Sprint(err), tc.want) {
			t.Errorf("%q, %s, %d files: got %v, want %q", tc.cell, tc.tag, len(tc.files), err, tc.want)
		}
		if tc.files == nil || tc.want != "<nil>" {
			continue
		}
		for name, text := range tc.files {
			b.write("code/"+name, string(text), 0o600)
		}
		if exit, out, _ := b.step(p.Notebook, "b"); exit != 0 {
			t.Errorf("%d\n%s", exit, out)
		}
	}
}

// What only IPython, or the place that a notebook is from, has is found before
// anything runs, but where the notebook sets the name itself, or may not run.
func TestWhatOnlyIPythonHasIsFoundBeforeAnythingRuns(t *testing.T) {
	const removed = "asynchat, asyncore, distutils, imp, smtpd, aifc, audioop, cgi, cgitb, chunk, crypt, imghdr, lib2to3, mailcap, msilib, nis, nntplib," +
		" ossaudiodev, pipes, sndhdr, spwd, sunau, telnetlib, uu, xdrlib, sre_compile, sre_constants, sre_parse"
	cases := map[string]string{
		"for x in [y for y in _]: pass":                         "cell 3, line 1: _ is set by IPython",
		"f = lambda x=_: 3":                                     "cell 3, line 1: _ is set by IPython",
		"with spark.x(): pass":                                  "cell 3, line 1: spark is set by Databricks",
		"try: x = 1\nfinally: spark.stop()":                     "cell 3, line 2: spark is set by Databricks",
		"x = f(sc or 3) if sc else [] < Out":                    "cell 3, line 1: sc is set by Databricks",
		"if input():\n    pass":                                 "cell 3, line 1: input() needs a person",
		"from IPython import get_ipython\nget_ipython().kernel": "cell 3, line 2: get_ipython().kernel is IPython's",
		"x = 1\nprint(Out[3])":                                  "cell 3, line 2: Out is set by IPython, and a step is a script without it: give the value a name of your own",
		"x = In[-1]":                                            "cell 3, line 1: In is set by IPython",
		"@_\ndef f(x=__): pass":                                 "cell 3, line 1: _ is set by IPython",
		"print(f'{__}')":                                        "cell 3, line 1: __ is set by IPython",
		"if x: pass\n\ny = _3 + _i3":                            "cell 3, line 3: _3 is set by IPython",
		"_i, _ii = _ih[1:3]":                                    "cell 3, line 1: _ih is set by IPython",
		"x = _oh":                                               "cell 3, line 1: _oh is set by IPython",
		"%cd /\nprint(_dh)":                                     "cell 3, line 2: _dh is set by IPython",
		"%%time\nx = 1\nprint(_)":                               "cell 3, line 3: _ is set by IPython",
		"%time x = _":                                           "cell 3, line 1: _ is set by IPython",
		"if __IPYTHON__: x = 1":                                 "cell 3, line 1: __IPYTHON__ is set by IPython",
		"x = __vsc_ipynb_file__":                                "cell 3, line 1: __vsc_ipynb_file__ is set by VS Code",
		"get_ipython().run_cell('x = 1')":                       "cell 3, line 1: get_ipython().run_cell is IPython's, and a step is a script without it: take it out, or tag the cell \"skip\"",
		"import IPython\nIPython.get_ipython().kernel":          "cell 3, line 2: get_ipython().kernel is IPython's",
		"match 1:\n    case _: print(1)\nprint(_)":              "cell 3, line 3: _ is set by IPython",
		"spark.sql('x')":                                        "cell 3, line 1: spark is set by Databricks, and a step",
		"x = 1\ndf = _deepnote_execute_sql('SELECT 1')":         "cell 3, line 2: _deepnote_execute_sql is set by Deepnote",
		"x = 1\nfrom google.colab import drive":                 "cell 3, line 2: google.colab is there in Colab only: take it out, or tag the cell \"skip\"",
		"from google import colab":                              "cell 3, line 1: google.colab is there in Colab only",
		"import google.colab.files as f":                        "cell 3, line 1: google.colab is there in Colab only",
		"import os, kaggle_secrets":                             "cell 3, line 1: kaggle_secrets is there in Kaggle only",
		"import piplite\nawait piplite.install('x')":            "cell 3, line 1: piplite is there in JupyterLite only",
		"x = 1\nname = input('name? ')":                         "cell 3, line 2: input() needs a person, and none is at a step",
		"breakpoint()":                                          "cell 3, line 1: breakpoint() needs a person",
		// Magics that no step can run.
		"x = [1]\nx.append?":                     `cell 3, line 2: "x.append?" asks for help, which only Jupyter can show: take it out, or tag the cell "skip"`,
		"?x":                                     `cell 3, line 1: "x?" asks for help`,
		"x??":                                    `cell 3, line 1: "x??" asks for help`,
		"?":                                      `cell 3, line 1: "?" asks for help, which only Jupyter can show: take it out, or tag the cell "skip"`,
		"exec(x)\n??":                            `cell 3, line 2: "?" asks for help`,
		"get_ipython().show_usage = f\n?":        "",
		"sc":                                     "cell 3, line 1: sc is set by Databricks, and a step is a script without it: give the value a name of your own",
		"%%time?":                                `cell 3, line 1: "%%time?" asks for help`,
		"x = 1\n%lprun -f f f()":                 `cell 3, line 2: "%lprun -f f f()" is not known to a step, which is a Python script without IPython: take it out`,
		"%sql\nSELECT * FROM t":                  `cell 3, line 1: "%sql" is not known to a step`,
		"x = 1\nSELECT * FROM t":                 "cell 3, line 2: syntax error",
		"%debug":                                 `cell 3, line 1: "%debug" needs a person at a terminal`,
		"who":                                    `cell 3, line 1: "%who" needs the session of a Jupyter server`,
		"x = %history":                           `cell 3, line 1: "%history" needs the session`,
		"%load_ext tensorboard":                  `cell 3, line 1: "%load_ext tensorboard" loads an extension of IPython`,
		"from x import *\n%load_ext tensorboard": `cell 3, line 2: "%load_ext tensorboard" loads an extension of IPython`,
		"%pylab inline":                          `cell 3, line 1: "%pylab inline" needs a program that the image of a step lacks`,
		"%prun f()":                              `cell 3, line 1: "%prun f()" measures with IPython's profiler`,
		"%run -m a":                              `cell 3, line 1: "%run -m a" must name a Python file (.py), with no option of %run but -i`,
		"%run -i 'my other.ipynb' a":             `cell 3, line 1: "%run -i 'my other.ipynb' a" must name a Python file`,
		"%run":                                   `cell 3, line 1: "%run" must name a Python file`,
		"def run(): pass\n%run other.ipynb":      `cell 3, line 2: "%run other.ipynb" must name a Python file`,
		"x = 1\n%%time\ny = 2":                   `cell 3, line 2: "%%time" must be the first line of its cell`,
		"%%ruby\nputs 1":                         `cell 3, line 1: "%%ruby" needs a program that the image of a step lacks`,
		"%%cython\ncdef int a":                   `cell 3, line 1: "%%cython" is not known to a step`,
		"%%bash --bg\nls":                        `cell 3, line 1: "%%bash --bg" must not have the options --bg and --proc`,
		"%%script --proc p bash\nls":             `cell 3, line 1: "%%script --proc p bash" must not have the options`,
		"%%script\nls":                           `cell 3, line 1: "%%script" must name a program`,
		"%%script --out x\nls":                   `cell 3, line 1: "%%script --out x" must name a program`,
		"%%time f()\ny":                          `cell 3, line 1: "%%time f()" must have the code to time`,
		"%%time\nx = 1\ny?":                      `cell 3, line 3: "y?" asks for help`,
		"%%timeit x?\ny":                         `cell 3, line 1: "x?" asks for help`,
		"%time %debug":                           `cell 3, line 1: "%debug" needs a person`,
		"get_ipython().run_line_magic('debug', '')":            `cell 3, line 1: "%debug" needs a person`,
		"get_ipython().magic('load_ext tensorboard')":          `cell 3, line 1: "%load_ext tensorboard" loads an extension`,
		"get_ipython().run_cell_magic('ruby', '', 'puts 1')":   `cell 3, line 1: "%%ruby" needs a program`,
		"if IN_COLAB:\n    %tensorflow_version 2.x":            "",
		"try:\n  %tensorflow_version 2.x\nexcept: pass":        "",
		"with suppress(Exception):\n    %load_ext tensorboard": "",
		"def look(x):\n    x?\n    %%debug\nfor x in y: pass":  "",
		"if 'google.colab' in str(get_ipython()):\n    %debug": "",
		"%load_ext $ext\n%run {name}.ipynb":                    "",
		"from IPython.core.magic import register_cell_magic as r\n@r\ndef own(line): pass\nget_ipython().register_magic_function(own)\n%own": "",
		"IN_COLAB = False\nif IN_COLAB:\n    from google.colab import drive":                                                                 "",
		"try:\n    import google.colab\nexcept ImportError: pass":                                                                            "",
		"def ask(): return input()\nask = lambda: input()":                                                                                   "",
		"def input(x): return x\ny = input(3)":                                                                                               "",
		"from google.cloud import storage":                                                                                                   "cell 3, line 1: a step has no module google.cloud",
		"from numpy import sum\nspark = sum([1])\nsc = spark.real":                                                                           "",
		"for _ in range(3): print(_)":                                                                                                        "",
		"_, x = 1, 2\ny = _":                                                                                                                 "",
		"(_, x), [__, *___] = [1, 2], [3, 4]\ny = _ + __, ___":                                                                               "",
		"from gettext import gettext as _\nprint(_('a'))":                                                                                    "",
		"with open('x') as _: _.read()":                                                                                                      "",
		"f = lambda _, Out=3: _ + Out":                                                                                                       "",
		"def f(_, *__, **___): return _, __, ___":                                                                                            "",
		"x = [_ for _ in y]":                                                                                                                 "",
		"try:\n    _\nexcept NameError:\n    _ = None":                                                                                       "",
		"try:\n    __IPYTHON__\nexcept NameError:\n    pass":                                                                                 "",
		"try:\n    get_ipython().kernel\nexcept Exception: pass":                                                                             "",
		"class Out: pass\nx = Out()":                                                                                                         "",
		"from numpy import In, Out\nIn(Out)":                                                                                                 "",
		"from layers import *\nIn(Out)":                                                                                                      "",
		"open('layers.py', 'w')\n%run layers.py\nIn(Out)":                                                                                    "",
		"%%capture Out\nx = 1":                                                                                                               "",
		"match x:\n    case _: pass":                                                                                                         "",
		"x = y._, y.Out, f(_=3), {'_': 1}":                                                                                                   "",
		"!exit 3\nprint(_exit_code)":                                                                                                         "",
		"(_ := 3)\nx = _":                                                                                                                    "",
		"!echo $_ {Out}":                                                                                                                     "",
		"get_ipython().user_ns['x'] = get_ipython().getoutput('ls')":                                                                         "",
		"get_ipython().ast_node_interactivity = 'all'\nprint(get_ipython().ast_node_interactivity)":                                          "",
		"get_ipython().__class__.__name__":                                                                                                   "",
		// What may not run, or whose error may be handled.
		"def f(): return _.head()":       "",
		"if x: y = _3\nelse: y = _i3":    "",
		"match 1:\n    case _: print(_)": "",
		"if 'DATABRICKS_RUNTIME_VERSION' in os.environ:\n    dbutils.widgets.text()":  "",
		"def read(p): return spark.read.csv(p) if ON_DATABRICKS else pd.read_csv(p)":  "",
		"if hasattr(get_ipython(), 'kernel'): get_ipython().kernel.do_shutdown(True)": "",
		"if 'Out' in x: Out.clear()":                                                  "",
		"with contextlib.suppress(NameError): dbutils.fs.ls('/')":                     "",
		"with pytest.raises(NameError), spark.x(): pass":                              "",
		"try: sc\nexcept* NameError: pass":                                            "",
		"try: x = 1\nexcept NameError: sc\nelse: sc":                                  "",
		"name = os.environ.get('NAME') or input('name? ')":                            "",
		"path = input('path') if 'google.colab' in sys.modules else 'data'":           "",
		"f = lambda: spark":                                                           "",
		"for x in []: _3\nwhile x: spark\nelse: sc":                                   "",
		"x = [sc for y in [] if spark], {sc: spark for y in []}, any(sc for y in [])": "",
		"x = 1 > 2 > input()\nassert True, spark":                                     "",
		"def f(x: spark.DataFrame) -> sc: pass\nx: spark.DataFrame = 3":               "",
		"if x:\n    %time _ + 1":                                                      "",
		// What sets names without an assignment, and what else makes them right.
		"class L(Lexer):\n    @_('a')\n    def N(self): pass":                                                 "",
		"gettext.install('app')\nprint(_('a'))":                                                               "",
		"import doctest\ndoctest.testmod()\nprint(_)":                                                         "",
		"sys.displayhook(3)\nprint(_)":                                                                        "",
		"os.dup2(x, 0)\ny = input()":                                                                          "",
		"exec(open('x').read())\nsc.x()":                                                                      "",
		"eval(compile(open('x').read(), 'x', 'exec'))\nsc.x()":                                                "",
		"globals().update(x)\nprint(sc)":                                                                      "",
		"globals()['sc'] = 1\nprint(sc)":                                                                      "",
		"vars()['sc'] = 1\nprint(sc)":                                                                         "",
		"setattr(x, 'sc', 1)\nprint(sc)":                                                                      "",
		"x.__dict__['sc'] = 1\nprint(sc)":                                                                     "",
		"import builtins\nbuiltins.sc = 1\nprint(sc)":                                                         "",
		"__builtins__['sc'] = 1\nprint(sc)":                                                                   "",
		"get_ipython().user_ns.update(sc=1)\nprint(sc)":                                                       "",
		"open('x.py')\nget_ipython().magic('%run x.py')\nprint(sc)":                                           "",
		"get_ipython().magic(path)\nprint(sc)":                                                                "",
		"%aimport sc\nprint(sc)":                                                                              "",
		"get_ipython().run_cell_magic('sh', '--out=Out', 'ls')\nprint(Out)":                                   "",
		"def get_ipython(): return x\nget_ipython().kernel":                                                   "",
		"from IPython.display import display as _\n_(3)":                                                      "",
		"sys.modules['google.colab'] = x\nfrom google.colab import y":                                         "",
		"sys.stdin = x\ny = input()":                                                                          "",
		"os.environ['PYTHONBREAKPOINT'] = '0'\nbreakpoint()":                                                  "",
		"from unittest.mock import patch\npatch('builtins.input', x).start()\ny = input()":                    "",
		"get_ipython().run_cell_magic('writefile', 'kaggle_secrets.py', 'x = 1')\nimport kaggle_secrets as k": "",
		// Modules that the image has not.
		"x = 1\nimport pandas as pd":                        "cell 3, line 2: a step has no module pandas: give it with --file, take it out, or tag the cell \"skip\" (the image has Python's own, joblib, numpy",
		"import os, torch.nn as nn":                         "cell 3, line 1: a step has no module torch.nn",
		"!pip install pandas\nfrom pandas import DataFrame": "cell 3, line 2: a step has no module pandas",
		"%%time\nimport pandas":                             "cell 3, line 2: a step has no module pandas",
		"from IPython.utils.capture import capture_output":  "cell 3, line 1: IPython.utils.capture is IPython's, and a step is a script without it: take it out",
		"import IPython.lib as l":                           "cell 3, line 1: IPython.lib is IPython's",
		"import os.path as p, sklearn.svm, numpy, tkinter":  "",
		"from IPython.core.getipython import get_ipython":   "",
		"import IPython\nIPython.embed":                     "",
		"try:\n    import pandas\nexcept ImportError: pass": "",
		"if x:\n    import pandas":                          "",
		"from . import pandas":                              "",
		"open('helper.py', 'w').write(x)\nimport helper":    "",
		"os.makedirs('own/sub')\nimport own.sub":            "",
		"!PIP_NO_INDEX=0 pip install pandas\nimport pandas": "",
		"!pip install /tmp/x-1.whl\nimport x":               "",
		"sys.modules['pandas'] = x\nimport pandas":          "",
		// What Python 3.11 has and a newer one lacks, and the program itself.
		"import " + removed:                       "",
		"import __main__\nfrom __main__ import x": "",
		// What may bring a module, make one, or find it elsewhere.
		"Path('pkg').mkdir(); (Path('pkg')/'__init__.py').write_text('')\nimport pkg":   "",
		"os.makedirs('pkg')\nfrom pkg import mod":                                       "",
		"os.mkdir('pkg')\nimport pkg":                                                   "",
		"Path(d, '__init__.py').touch()\nimport pkg":                                    "",
		"open(name + '.py', 'w').write('x = 1')\nimport helper":                         "",
		"open(f'{name}.py', 'w').write('x = 1')\nimport helper":                         "",
		"open('%s.py' % name, 'w')\nimport helper":                                      "",
		"open(f'{name}_gen.py', 'w')\nimport helper":                                    "",
		"import tarfile\ntarfile.open('m.tgz').extractall()\nimport helper":             "",
		"tarfile.open('m.tgz').extract('pkg')\nimport pkg":                              "",
		"open('/mnt/fast.so')\nimport fast":                                             "",
		"py_compile.compile(x, 'fast.pyc')\nimport fast":                                "",
		"!tar xf lib.tgz\nimport helper":                                                "",
		"!cd /tmp\n!unzip lib\nimport helper":                                           "",
		"!cp -r /x/pkg .\nimport pkg":                                                   "",
		"!mv /x/pkg .\nimport pkg":                                                      "",
		"!ln -s /x/pkg\nimport pkg":                                                     "",
		"!git clone http://gitea/lab/own\nimport own":                                   "",
		"!wget -q http://x/lib\nimport lib":                                             "",
		"subprocess.run(['cp', '-r', '/x/pkg', '.'])\nimport pkg":                       "",
		"get_ipython().run_cell_magic('sh', '', 'x\\ncp -r /x/pkg .')\nimport pkg":      "",
		"!modelcar pull x pkg\nimport pkg":                                              "",
		"!pip install --no-index --find-links=/x pandas\nimport pandas":                 "",
		"shutil.copytree(x, y)\nimport pkg":                                             "",
		"from urllib.request import urlretrieve as get\nget(x, y)\nimport lib":          "",
		"import sys\nsys.path.append('/x')\nimport lib":                                 "",
		"import sys\nsys.path[:0] = [x]\nimport lib":                                    "",
		"from sys import path\npath.insert(0, '/x')\nimport lib":                        "",
		"site.addsitedir('/x')\nimport lib":                                             "",
		"os.rename(x, y)\nimport lib":                                                   "",
		"os.chdir('/x')\nimport lib":                                                    "",
		"%cd /x\nimport lib":                                                            "",
		"import sys\nsys.meta_path.append(x)\nimport lib":                               "",
		"import importlib.util\nx = importlib.util.module_from_spec(y)\nimport lib":     "",
		"m = sys.modules\nm['lib'] = x\nimport lib":                                     "",
		"!pip install -q pandas\nx = 'sys' in sys.modules\nimport pandas":               "cell 3, line 3: a step has no module pandas",
		"open('helper.py', 'w')\nimport pandas":                                         "cell 3, line 2: a step has no module pandas",
		"import getpass, os\ndf = os.path.join('x', 'y.csv')\nimport pandas":            "cell 3, line 3: a step has no module pandas",
		"!echo 'PYTHONBREAKPOINT = register_line_magic = 0' > helper.py\nimport helper": "",
		// Files that %run does not find.
		"%run helper.py":                              `cell 3, line 1: %run helper.py: a step has no file helper.py: give it with --file, whose files have no folder, or tag the cell "skip"`,
		"%run -i src/helper.py a":                     "cell 3, line 1: %run -i src/helper.py a: a step has no file src/helper.py",
		"%run helper":                                 "cell 3, line 1: %run helper: a step has no file helper",
		"open('helper.py', 'w')\n%run helper":         "",
		"%run /opt/helper.py":                         "",
		"%run ~/helper.py":                            "",
		"%run absent.py":                              "cell 3, line 1: %run absent.py: a step has no file absent.py",
		"%cd /x\n%run helper.py":                      "",
		"import os\nos.chdir(x)\n%run x.py":           "",
		"!git clone x\n%run helper.py":                "",
		"!python helper.py --rows 3":                  "cell 3, line 1: !python helper.py --rows 3: a step has no file helper.py: give it with --file",
		"x = !python3 -u src/helper.py":               "cell 3, line 1: !python3 -u src/helper.py: a step has no file src/helper.py",
		"!python absent.py":                           "cell 3, line 1: !python absent.py: a step has no file absent.py",
		"open('helper.py', 'w')\n!python helper.py":   "",
		"!python /opt/x.py":                           "",
		"!python -c 'print(1)' x.py":                  "",
		"!python {name}.py":                           "",
		"if x:\n    !python helper.py":                "",
		"!wget http://x/helper.py\n!python helper.py": "",
		"!python helper.py || true":                   "",
		"Out[3]: 7":                                   "cell 3, line 1: Out is set by IPython",
		"x: int = 3\ny.z: int = 4":                    "",
		// What asks a person in other words.
		"from getpass import getpass\nx = getpass()":                                        "cell 3, line 2: getpass() needs a person, and none is at a step",
		"import getpass\nx = getpass.getpass('token? ')":                                    "cell 3, line 2: getpass.getpass() needs a person",
		"import pdb; pdb.set_trace()":                                                       "cell 3, line 1: pdb.set_trace() needs a person",
		"def getpass(): return 1\nx = getpass()":                                            "",
		"x.set_trace()":                                                                     "",
		"from pdb import set_trace\nset_trace()":                                            "cell 3, line 2: set_trace() needs a person",
		"import getpass\ngetpass.getpass = lambda *a: 'x'\ny = getpass.getpass()":           "",
		"import pdb\npdb.set_trace = lambda: None\npdb.set_trace()":                         "",
		"class pdb:\n    set_trace = print\npdb.set_trace()":                                "",
		"from getpass import getpass\ndef getpass(): return 'x'\ny = getpass()":             "",
		"import own as pdb\nimport own as getpass\npdb.set_trace(), getpass.getpass()":      "cell 3, line 1: a step has no module own",
		"import numpy as pdb, numpy as getpass\npdb.set_trace(), getpass.getpass()":         "",
		"from numpy import getpass, set_trace\ngetpass(), set_trace()":                      "",
		"sys.stdin = x\nimport getpass\ny = getpass.getpass()":                              "",
		"open('getpass.py', 'w').write('getpass = str')\nimport getpass\ngetpass.getpass()": "",
		"import getpass\nx = getpass.getuser()":                                             "",
		"import getpass\ndef f(): return getpass.getpass()":                                 "",
		// However deep its tree is.
		"x = " + strings.Repeat("'a' + ", 1000) + "_":                       "cell 3, line 1: _ is set by IPython",
		"if x: pass\n" + strings.Repeat("elif x: pass\n", 1000) + "else: _": "",
		"x = " + strings.Repeat("'a' + ", 5000) + "_":                       "",
	}
	runner := runner(t)
	// One Python for all of them, with the modules of a newer one.
	ask := "import sys\nsys.stdlib_module_names -= {*'" + removed + "'.split(', ')}\n" + string(runner[:strings.Index(string(runner), "\nif __name__")]) + `
for program in json.load(sys.stdin):
    bad = broken(json.loads(program))
    say(says=f"cell {bad[0]['cell']}, line {bad[1]}: {bad[2]}" if bad else "")`
	var programs []string
	asked := slices.Sorted(maps.Keys(cases))
	for _, each := range asked {
		book, err := Read(notebook(t, cell{"markdown", "# A", nil}, code("print('it runs')", "step:a"), code(each, "step:b")))
		if err != nil {
			t.Fatalf("%q: %v", each, err)
		}
		programs = append(programs, string(book.program()))
	}
	text, err := json.Marshal(programs)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("python3", "-I", "-c", ask, "check")
	cmd.Stdin = bytes.NewReader(text)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	answers := json.NewDecoder(bytes.NewReader(out))
	for _, each := range asked {
		var got struct{ Says string }
		if err := answers.Decode(&got); err != nil {
			t.Fatal(err)
		}
		if want := cases[each]; want == "" && got.Says != "" || !strings.HasPrefix(got.Says, want) {
			t.Errorf("%q: got %q, want %q", each, got.Says, want)
		}
	}
}
