package notebook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"mllab.local/internal/run"
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

// The output parameters of every step. Result is the value of the name result, as
// JSON, or null. metrics has the values of the step's metrics, as a JSON object.
// names is the image with the names that the step hands on.
const (
	Result  = "result"
	metrics = "metrics"
	names   = "names"
)

// The variables of a step's pod that are not the notebook's.
const envStore, envRun, envParameter = "STORE", "RUN", "PARAMETER_"

var ownEnv = []string{envStore, envRun}

// entrypoint is the template with the graph. No step can have this name.
const entrypoint = "DAG"

// How long a Workflow may take before Argo ends it, and how long one that has
// ended stays, in seconds: long enough for whoever waits for it to read its end.
const (
	deadline = 60 * 60
	keep     = 24 * 60 * 60
)

// maxCode is the most bytes that a ConfigMap may hold.
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
	var given []any
	for _, each := range book.Parameters {
		given = append(given, map[string]any{"name": each.Name, "value": each.Value})
	}
	name := p.Workflow()
	var tasks, templates []any
	for _, s := range book.Steps {
		each := map[string]any{"name": s.Task(), "template": s.Task()}
		var before []string
		var given []any
		for _, prev := range s.Prev {
			before = append(before, task(prev))
			given = append(given, map[string]any{"name": task(prev), "value": "{{tasks." + task(prev) + ".outputs.parameters." + names + "}}"})
		}
		if given != nil {
			each["depends"], each["arguments"] = strings.Join(before, " && "), map[string]any{"parameters": given}
		}
		tasks = append(tasks, each)
		template, err := p.template(s, book.Parameters)
		if err != nil {
			return nil, err
		}
		templates = append(templates, template)
	}
	dag := map[string]any{"name": entrypoint, "dag": map[string]any{"tasks": tasks}}
	spec := map[string]any{
		"entrypoint": entrypoint, "serviceAccountName": p.Name,
		"activeDeadlineSeconds": int64(deadline), "ttlStrategy": map[string]any{"secondsAfterCompletion": int64(keep)},
		"volumes":   []any{map[string]any{"name": "code", "configMap": map[string]any{"name": name}}},
		"templates": append([]any{dag}, templates...),
	}
	if given != nil {
		spec["arguments"] = map[string]any{"parameters": given}
	}
	subject := map[string]any{"kind": "ServiceAccount", "name": p.Name, "namespace": p.Space}
	return []*unstructured.Unstructured{
		p.object("v1", "ServiceAccount", p.Name, nil),
		p.object("rbac.authorization.k8s.io/v1", "RoleBinding", p.Name, map[string]any{
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": p.Executor},
			"subjects": []any{subject},
		}),
		p.object("v1", "ConfigMap", name, map[string]any{"data": code}),
		p.object("argoproj.io/v1alpha1", "Workflow", name, map[string]any{"spec": spec}),
	}, nil
}

// CheckSyntax judges all cells with this machine's python3, and runs none. Its
// error names the cell and the line of the first syntax error, or of the first
// magic or name that no step has. It returns nil if there is no python3, or one
// older than the image's: then the first step of a run finds them before it runs
// a cell.
func (p Pipeline) CheckSyntax(ctx context.Context, r run.Runner) error {
	book, err := Read(p.Notebook)
	if err != nil {
		return err
	}
	if _, err := exec.LookPath("python3"); err != nil {
		return nil
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
	err = r.Run(ctx, run.Cmd{Path: "python3", Args: []string{"-I", "-c", string(p.Runner), "check"}, Stdin: bytes.NewReader(text), Stdout: &out})
	if err != nil { // such as a pyenv shim without a version
		return ctx.Err()
	}
	var found struct {
		Cell, Line int
		Error      string
	}
	if out.Len() == 0 {
		return nil
	}
	if err := json.Unmarshal(out.Bytes(), &found); err != nil {
		return fmt.Errorf("reading the cells with python3: %w", err)
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

// template is one step's pod.
func (p Pipeline) template(s Step, parameters []Parameter) (any, error) {
	args := []any{"/code/" + runnerFile, "/code/" + stepsFile, s.Task()}
	var given []any
	for _, prev := range s.Prev {
		before := task(prev)
		given = append(given, map[string]any{"name": before})
		args = append(args, before+"={{inputs.parameters."+before+"}}")
	}
	var outputs []any
	for _, name := range []string{Result, metrics, names} {
		outputs = append(outputs, map[string]any{"name": name, "valueFrom": map[string]any{"path": "/tmp/outputs/" + name}})
	}
	var env []any
	for _, name := range slices.Sorted(maps.Keys(s.Pod.Secrets)) {
		from := s.Pod.Secrets[name]
		env = append(env, map[string]any{"name": name, "valueFrom": map[string]any{"secretKeyRef": map[string]any{"name": from.Name, "key": from.Key}}})
	}
	for _, each := range parameters {
		env = append(env, map[string]any{"name": envParameter + each.Name, "value": "{{workflow.parameters." + each.Name + "}}"})
	}
	env = append(env, map[string]any{"name": envStore, "value": p.Store}, map[string]any{"name": envRun, "value": p.Workflow()})
	image := p.Image
	if s.Pod.Image != "" {
		registry, _, _ := strings.Cut(p.Store, "/")
		if !strings.HasPrefix(s.Pod.Image, registry+"/") {
			where := "metadata kubeflow_notebook"
			if s.Pod.imageCell > 0 {
				where = fmt.Sprintf("cell %d", s.Pod.imageCell)
			}
			return nil, fmt.Errorf("%s: image %q of step %s must be in the lab's registry (%s/...) and based on the lab's Python image, which has the programs that a step needs; without the tag the step uses that image",
				where, s.Pod.Image, s.Name, registry)
		}
		image = s.Pod.Image
	}
	// A registry, or a node, may need a while to be back.
	retry := map[string]any{
		"limit": "4", "retryPolicy": "Always", "expression": "lastRetry.exitCode != '" + CellFailed + "'",
		"backoff": map[string]any{"duration": "2s", "factor": "3"},
	}
	template := map[string]any{"name": s.Task(), "outputs": map[string]any{"parameters": outputs}, "retryStrategy": retry, "container": map[string]any{
		"image": image, "imagePullPolicy": "IfNotPresent", "command": []any{"python3"}, "args": args, "env": env,
		"volumeMounts": []any{map[string]any{"name": "code", "mountPath": "/code", "readOnly": true}},
		"securityContext": map[string]any{
			"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": map[string]any{"drop": []any{"ALL"}},
		},
		"resources": resources(s.Pod.Limits),
	}}
	if given != nil {
		template["inputs"] = map[string]any{"parameters": given}
	}
	if s.Pod.Labels != nil || s.Pod.Annotations != nil {
		metadata := map[string]any{}
		for field, entries := range map[string]map[string]string{"labels": s.Pod.Labels, "annotations": s.Pod.Annotations} {
			each := map[string]any{}
			for key, value := range entries {
				each[key] = value
			}
			metadata[field] = each
		}
		template["metadata"] = metadata
	}
	return template, nil
}

// resources are a step's, with its own limits: it asks for no more than these.
func resources(own map[string]string) map[string]any {
	requests, limits := map[string]any{"cpu": "50m", "memory": "192Mi"}, map[string]any{"memory": "1Gi"}
	for name, most := range own {
		limits[name] = most
		if asked, is := requests[name].(string); is {
			if limit := resource.MustParse(most); limit.Cmp(resource.MustParse(asked)) < 0 {
				requests[name] = most
			}
		}
	}
	return map[string]any{"requests": requests, "limits": limits}
}

func (p Pipeline) object(apiVersion, kind, name string, fields map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{}}
	maps.Copy(o.Object, fields)
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetNamespace(p.Space)
	o.SetName(name)
	return o
}
