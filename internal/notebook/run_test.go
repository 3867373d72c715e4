package notebook

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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
    with open(file, "rb") as f: return pickle.load(f)
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
	b.write("joblib.py", joblib, 0o600)
	b.write("modelcar", modelcar, 0o700)
	// Each run has a folder of its own where a pod has its /tmp.
	runner, err := os.ReadFile("../../manifests/pipeline/run.py")
	if err != nil {
		t.Fatal(err)
	}
	b.write("run.py", strings.NewReplacer(`f"/tmp/`, `os.environ["TMP"] + f"/`, `"/tmp/`, `os.environ["TMP"] + "/`).Replace(string(runner)), 0o600)
	if err := os.Mkdir(filepath.Join(b.dir, "registry"), 0o700); err != nil {
		t.Fatal(err)
	}
	return b
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
	b.write("notebook.ipynb", string(cells), 0o600)
	tmp := b.TempDir()
	cmd := exec.Command("python3", append([]string{"run.py", "notebook.ipynb"}, args...)...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "TMP="+tmp, "PATH="+b.dir+":"+os.Getenv("PATH"), "REGISTRY="+filepath.Join(b.dir, "registry"), "STORE=store", "RUN=run")
	text, _ := cmd.CombinedOutput()
	names, err := os.ReadFile(filepath.Join(tmp, "outputs", "names"))
	if err != nil {
		b.Fatalf("%v\n%s", err, text)
	}
	return cmd.ProcessState.ExitCode(), string(text), string(names)
}

func TestAStepGetsWhatTheStepsBeforeHaveLeft(t *testing.T) {
	b := newBench(t)
	cells := notebook(t, code("class Point:\n    def __init__(self, x): self.x = x", "functions"),
		code("p, n = Point(3), 1", "step:a"),
		code("n += 1\nclass Own: pass\nown = Own()", "step:b"),
		code("assert (p.x, n) == (3, 2), (p.x, n)\nassert 'own' not in globals()", "step:c"))
	exit, out, a := b.step(cells, "a", "2")
	if exit != 0 || !strings.HasPrefix(a, "store:run-a@") {
		t.Fatalf("%d %q\n%s", exit, a, out)
	}
	exit, out, second := b.step(cells, "b", "3", "a="+a)
	if exit != 0 || !strings.Contains(out, `"not_kept": ["own"]`) {
		t.Fatalf("%d\n%s", exit, out)
	}
	// By digest: what is pushed to the tag meanwhile changes nothing.
	if exit, out, _ := b.step(notebook(t, code("n = 7", "step:b")), "b", "1"); exit != 0 {
		t.Fatalf("%d\n%s", exit, out)
	}
	if exit, out, _ := b.step(cells, "c", "4", "a="+a, "b="+second); exit != 0 {
		t.Errorf("%d\n%s", exit, out)
	}
}

func TestARegistryThatFailsIsNotTheCellsFault(t *testing.T) {
	last := func(out string) (word struct{ Where, Error string }) {
		t.Helper()
		for line := range strings.Lines(out) {
			_ = json.Unmarshal([]byte(line), &word)
		}
		return word
	}
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
		exit, out, _ := b.step(notebook(t, code(tc.cell, "step:b")), append([]string{"b", "1"}, tc.before...)...)
		word := last(out)
		if exit != tc.code || word.Where != tc.where || !strings.HasPrefix(tc.where, "cell") && word.Error != "modelcar: no registry" {
			t.Errorf("%s: %d %+v\n%s", name, exit, word, out)
		}
	}
}
