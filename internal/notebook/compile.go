package notebook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"mllab.local/internal/run"
	"mllab.local/manifests"
)

// Pipeline is a notebook and the settings to compile it with.
type Pipeline struct {
	Name     string // of the notebook
	Notebook []byte
	Files    map[string][]byte // files that it imports or reads, by name
	Runner   []byte            // the program that runs a step: run.py STEPS STEP [STEP-BEFORE=IMAGE…]
	Image    string            // with Python, for every step
	Store    string            // repository in which steps leave their names for the next steps
	Executor string            // ClusterRole that lets a Workflow's pods report to Argo
	Space    string            // namespace
	Attempt  int               // to run it; 0 is the first, as 1 is
}

// What the code is called in a step's pod.
const runnerFile, stepsFile = "run.py", "steps.json"

// Result is the output parameter of a step with the value of the name result.
const Result = "result"

// ownEnv are the variables of a step's pod that are not the notebook's.
var ownEnv = []string{"STORE", "RUN"}

// maxCode is the most bytes that a ConfigMap may hold, and a Workflow has.
// https://kubernetes.io/docs/concepts/configuration/configmap/
const maxCode = 1 << 20

// MaxBytes of a notebook with its outputs, which are not compiled: many pictures.
const MaxBytes = 64 << 20

// pipelineName matches names that Kubernetes accepts, with room for a run's hash.
var pipelineName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$`)

// Name returns the name of the pipeline of a notebook's file. Characters that
// Kubernetes refuses become hyphens.
func Name(path string) string {
	name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	return strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(name), "-"), "-")
}

// Run returns the name of the pipeline's run. It ends with a hash of the code: the
// steps with their cells and tags, and the files. Nothing else in the notebook
// changes it.
func (p Pipeline) Run() string {
	sum := sha256.New()
	write := func(name string, text []byte) { fmt.Fprintf(sum, "%s %d\n%s", name, len(text), text) }
	for _, name := range slices.Sorted(maps.Keys(p.Files)) {
		write(name, p.Files[name])
	}
	write(runnerFile, p.Runner)
	if book, err := Read(p.Notebook); err == nil {
		// Cells of text come and go.
		for i := range book.Shared {
			book.Shared[i].Number = 0
		}
		for _, s := range book.Steps {
			for i := range s.Cells {
				s.Cells[i].Number = 0
			}
		}
		book.Unused = nil
		text, _ := json.Marshal(book) // of strings, numbers, and maps with sorted keys: it cannot fail
		write(stepsFile, text)
	} else { // it has no steps: Objects returns the error
		write(stepsFile, p.Notebook)
	}
	return p.Name + "-" + hex.EncodeToString(sum.Sum(nil)[:4])
}

// Workflow is the name of the run's Workflow, and of its code. Each attempt has
// its own.
func (p Pipeline) Workflow() string {
	if p.Attempt > 1 {
		return fmt.Sprintf("%s-%d", p.Run(), p.Attempt)
	}
	return p.Run()
}

// program is the notebook as run.py reads it.
func (b *Notebook) program() []byte {
	type step struct {
		Cells   []Cell   `json:"cells"`
		After   []string `json:"after"` // all steps before it, in the order in which they run
		Metrics []string `json:"metrics,omitempty"`
		Image   string   `json:"image,omitempty"`
	}
	steps, set := map[string]step{}, []string{}
	after := map[string][]string{} // by task
	for _, s := range b.Steps {
		all := []string{} // never null
		for _, before := range b.Steps {
			is := func(prev string) bool {
				return prev == before.Name || slices.Contains(after[task(prev)], before.Task())
			}
			if slices.ContainsFunc(s.Prev, is) {
				all = append(all, before.Task())
			}
		}
		after[s.Task()] = all
		steps[s.Task()] = step{append([]Cell{}, s.Cells...), all, s.Metrics, s.Pod.Image}
	}
	for _, p := range b.Parameters {
		set = append(set, p.Name)
	}
	text, _ := json.Marshal(map[string]any{"parameters": set, "shared": append([]Cell{}, b.Shared...), "steps": steps}) // it cannot fail: strings and numbers
	return text
}

// Objects are the pipeline as Kubernetes has it: an Argo Workflow with one task
// for each step, the code, and the rights of its pods.
//
// Errors: those of Read, an invalid name or namespace, an image outside of the lab's registry,
// a file that is not text or has a name that the pipeline needs, too much code.
func (p Pipeline) Objects() ([]*unstructured.Unstructured, error) {
	if !pipelineName.MatchString(p.Name) {
		return nil, fmt.Errorf("the name must be at most 40 of a-z, 0-9 and -, with a letter or digit at both ends, got %q: rename the file", p.Name)
	}
	if why := validation.IsDNS1123Label(p.Space); why != nil {
		return nil, fmt.Errorf("the namespace must be at most 63 of a-z, 0-9 and -, with a letter or digit at both ends, got %q", p.Space)
	}
	book, err := Read(p.Notebook)
	if err != nil {
		return nil, err
	}
	code, size := map[string]any{}, 0
	add := func(name string, text []byte) error {
		switch why := validation.IsConfigMapKey(name); {
		case code[name] != nil:
			return fmt.Errorf("the name %s is the pipeline's own: rename the file", name)
		case why != nil:
			return fmt.Errorf("the name of the file %q must have only letters, digits, -, _ and ., as a ConfigMap's key: rename the file", name)
		case !utf8.Valid(text):
			return fmt.Errorf("%s must be text in UTF-8", name)
		}
		code[name], size = string(text), size+len(text)
		return nil
	}
	program := book.program()
	err = cmp.Or(add(runnerFile, p.Runner), add(stepsFile, program))
	for _, name := range slices.Sorted(maps.Keys(p.Files)) {
		err = cmp.Or(err, add(name, p.Files[name]))
	}
	if err != nil {
		return nil, err
	}
	if size > maxCode {
		return nil, fmt.Errorf("the code must have at most %d bytes, got %d: %d in the notebook's cells, the rest in its runner and its files (a picture or an output does not count)",
			maxCode, size, len(program))
	}
	objs, err := p.workflow(book)
	if err != nil {
		return nil, err
	}
	workflow, err := objs[len(objs)-1].MarshalJSON()
	if err != nil {
		return nil, err
	}
	if len(workflow) > maxCode { // etcd takes one and a half of it, and Argo adds what it knows of each step
		return nil, fmt.Errorf("the Workflow must have at most %d bytes, got %d: make fewer than %d steps", maxCode, len(workflow), len(book.Steps))
	}
	text := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": p.Space, "name": p.Workflow()}, "data": code,
	}}
	return slices.Insert(objs, len(objs)-1, text), nil
}

// workflow fills in manifests/pipeline/workflow.yaml.
func (p Pipeline) workflow(book *Notebook) (objs []*unstructured.Unstructured, err error) {
	type step struct {
		Step
		Before           []string // tasks
		Image            string
		Requests, Limits map[string]string
	}
	data := struct {
		Pipeline
		Parameters []Parameter
		Steps      []step
		CellFailed string
	}{p, book.Parameters, nil, CellFailed}
	for _, s := range book.Steps {
		each := step{Step: s}
		for _, prev := range s.Prev {
			each.Before = append(each.Before, task(prev))
		}
		if each.Image, err = p.image(s); err != nil {
			return nil, err
		}
		each.Requests, each.Limits = resources(s.Pod.Limits)
		data.Steps = append(data.Steps, each)
	}
	// Quoted like this, a text is the same in YAML, whatever characters it has.
	words := template.FuncMap{"q": strconv.QuoteToASCII, "join": strings.Join}
	t, err := template.New("workflow.yaml").Delims("[[", "]]").Funcs(words).Parse(manifests.NotebookWorkflow)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, data); err != nil {
		return nil, err
	}
	for _, doc := range strings.Split(text.String(), "\n---\n") {
		o := &unstructured.Unstructured{}
		asJSON, err := yaml.YAMLToJSON([]byte(doc))
		if err == nil {
			err = o.UnmarshalJSON(asJSON)
		}
		if err != nil {
			return nil, fmt.Errorf("the pipeline's YAML: %w", err)
		}
		objs = append(objs, o)
	}
	return objs, nil
}

// ErrUnchecked means that this machine has no Python that can judge cells. The
// first step of a run judges them, before it runs one.
var ErrUnchecked = errors.New("no python3 from 3.11 on checked the cells")

// checkBound is how long this machine's python3 may judge the cells.
const checkBound = time.Minute

// CheckSyntax judges all cells with this machine's python3, and runs none. Its
// error names the cell and the line of the first syntax error, or of the first
// magic or name that no step has; or it is ErrUnchecked with the reason.
func (p Pipeline) CheckSyntax(ctx context.Context, r run.Runner) error {
	book, err := Read(p.Notebook)
	if err != nil {
		return err
	}
	if _, err := exec.LookPath("python3"); err != nil {
		return fmt.Errorf("%w: %w", ErrUnchecked, err)
	}
	files := map[string]string{}
	for name, text := range p.Files {
		files[name] = string(text)
	}
	text, err := json.Marshal(map[string]any{"steps": json.RawMessage(book.program()), "files": files})
	if err != nil {
		return err
	}
	var out bytes.Buffer
	bounded, cancel := context.WithTimeout(ctx, checkBound)
	defer cancel()
	err = r.Run(bounded, run.Cmd{Path: "python3", Args: []string{"-IS", "-c", string(p.Runner), "check"}, Stdin: bytes.NewReader(text), Stdout: &out})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case bounded.Err() != nil:
		return fmt.Errorf("%w: python3 has not ended after %s", ErrUnchecked, checkBound)
	case err != nil: // such as a pyenv shim without a version
		return fmt.Errorf("%w: %w", ErrUnchecked, err)
	}
	var found struct {
		Cell, Line int
		Error      string
	}
	if out.Len() == 0 {
		return nil
	}
	if json.Unmarshal(out.Bytes(), &found) != nil { // such as a wrapper with words of its own
		return fmt.Errorf("%w: python3 says %q", ErrUnchecked, shown(out.String()))
	}
	return fmt.Errorf("cell %d, line %d: %s", found.Cell, found.Line, found.Error)
}

// YAML is Objects as kubectl reads them.
func (p Pipeline) YAML() ([]byte, error) {
	objs, err := p.Objects()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, o := range objs {
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			return nil, fmt.Errorf("writing %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		fmt.Fprintf(&out, "---\n%s", text)
	}
	return out.Bytes(), nil
}

// image is that of a step's pod.
func (p Pipeline) image(s Step) (string, error) {
	registry, _, _ := strings.Cut(p.Store, "/")
	if s.Pod.Image == "" {
		return p.Image, nil
	}
	if strings.HasPrefix(s.Pod.Image, registry+"/") {
		return s.Pod.Image, nil
	}
	where := "metadata kubeflow_notebook"
	if s.Pod.imageCell > 0 {
		where = fmt.Sprintf("cell %d", s.Pod.imageCell)
	}
	return "", fmt.Errorf("%s: image %q of step %s must be in the lab's registry (%s/...) and based on the lab's Python image, which has the programs that a step needs; without the tag the step uses that image",
		where, s.Pod.Image, s.Name, registry)
}

// resources are a step's, with its own limits: it asks for no more than these.
func resources(own map[string]string) (requests, limits map[string]string) {
	requests, limits = map[string]string{"cpu": "50m", "memory": "192Mi"}, map[string]string{"memory": "1Gi"}
	for name, most := range own {
		limits[name] = most
		if asked, is := requests[name]; is {
			if limit := resource.MustParse(most); limit.Cmp(resource.MustParse(asked)) < 0 {
				requests[name] = most
			}
		}
	}
	return requests, limits
}
