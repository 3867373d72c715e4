package notebook

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// Pipeline is what a notebook becomes.
type Pipeline struct {
	Name     string // of the notebook
	Notebook []byte
	Files    map[string][]byte // what it imports: files beside it, by their names
	Runner   []byte            // the program that runs a step: run.py NOTEBOOK STEP CELLS [STEP-BEFORE=IMAGE…]
	Image    string            // with Python, for every step
	Store    string            // repository where steps leave what the next ones need
	Executor string            // ClusterRole with what a Workflow's pods must be allowed
	Space    string            // namespace
	Attempt  int               // to run it; 0 is the first, as 1 is
}

// What the code is called in a step's pod.
const runnerFile, notebookFile = "run.py", "notebook.ipynb"

// Result is an output parameter of every step: what the cells left under that
// name, as JSON, or null.
const Result = "result"

// names is another: the image with the names that a step hands on.
const names = "names"

// entrypoint is the template with the graph. No step can have this name.
const entrypoint = "DAG"

// How long a Workflow may take before Argo ends it, and how long one that has
// ended stays, in seconds: long enough for whoever waits for it to read its end.
const (
	deadline = 60 * 60
	keep     = 24 * 60 * 60
)

// maxCode is what a ConfigMap may hold, in bytes.
// https://kubernetes.io/docs/concepts/configuration/configmap/
const maxCode = 1 << 20

// pipelineName is what Kubernetes takes as a name, with room for a run's hash.
var pipelineName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$`)

// Name is what the pipeline of a notebook's file is called: what Kubernetes does
// not take becomes a hyphen.
func Name(path string) string {
	name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	return strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(name), "-"), "-")
}

// Run is the name of the pipeline's run: of the same notebook, with the same
// files, it is the same, whatever outputs the notebook has.
func (p Pipeline) Run() string {
	sum := sha256.New()
	code := p.code()
	for _, name := range slices.Sorted(maps.Keys(code)) {
		fmt.Fprintf(sum, "%s %d\n%s", name, len(code[name]), code[name])
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

// code is what is in a step's pod, by file name.
func (p Pipeline) code() map[string][]byte {
	code := map[string][]byte{}
	maps.Copy(code, p.Files)
	code[runnerFile], code[notebookFile] = p.Runner, p.Notebook
	if bare, err := Strip(p.Notebook); err == nil { // else Steps says what is wrong
		code[notebookFile] = bare
	}
	return code
}

// Objects are the pipeline as Kubernetes has it: an Argo Workflow with one task
// for each step, the code, and the rights of its pods.
//
// Errors: those of Steps, a name that is none, a file that is no text or has a
// name of the pipeline's own, more code than fits.
func (p Pipeline) Objects() ([]*unstructured.Unstructured, error) {
	if !pipelineName.MatchString(p.Name) {
		return nil, fmt.Errorf("the name %q is not at most 40 of a-z, 0-9 and -, with a letter or digit at both ends", p.Name)
	}
	code, size := map[string]any{}, 0
	for name, text := range p.code() {
		if !utf8.Valid(text) {
			return nil, fmt.Errorf("%s is no text in UTF-8", name)
		}
		code[name] = string(text)
		size += len(text)
	}
	if size > maxCode {
		return nil, fmt.Errorf("the notebook has %d bytes, and with its runner and its files at most %d fit: leave out what is no code", len(p.code()[notebookFile]), maxCode)
	}
	for _, name := range []string{runnerFile, notebookFile} {
		if p.Files[name] != nil {
			return nil, fmt.Errorf("the name %s is the pipeline's own: give the file another one", name)
		}
	}
	steps, err := Steps(p.Notebook)
	if err != nil {
		return nil, err
	}
	name := p.Workflow()
	var tasks, templates []any
	for _, s := range steps {
		task := map[string]any{"name": s.Name, "template": s.Name}
		if len(s.Prev) > 0 {
			var given []any
			for _, before := range s.Prev {
				given = append(given, map[string]any{"name": before, "value": "{{tasks." + before + ".outputs.parameters." + names + "}}"})
			}
			task["depends"], task["arguments"] = strings.Join(s.Prev, " && "), map[string]any{"parameters": given}
		}
		tasks = append(tasks, task)
		templates = append(templates, p.template(s))
	}
	dag := map[string]any{"name": entrypoint, "dag": map[string]any{"tasks": tasks}}
	subject := map[string]any{"kind": "ServiceAccount", "name": p.Name, "namespace": p.Space}
	return []*unstructured.Unstructured{
		p.object("v1", "ServiceAccount", p.Name, nil),
		p.object("rbac.authorization.k8s.io/v1", "RoleBinding", p.Name, map[string]any{
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": p.Executor},
			"subjects": []any{subject},
		}),
		p.object("v1", "ConfigMap", name, map[string]any{"data": code}),
		p.object("argoproj.io/v1alpha1", "Workflow", name, map[string]any{"spec": map[string]any{
			"entrypoint": entrypoint, "serviceAccountName": p.Name,
			"activeDeadlineSeconds": int64(deadline), "ttlStrategy": map[string]any{"secondsAfterCompletion": int64(keep)},
			"volumes":   []any{map[string]any{"name": "code", "configMap": map[string]any{"name": name}}},
			"templates": append([]any{dag}, templates...),
		}}),
	}, nil
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
func (p Pipeline) template(s Step) any {
	var cells []string
	for _, c := range s.Cells {
		cells = append(cells, strconv.Itoa(c))
	}
	args := []any{"/code/" + runnerFile, "/code/" + notebookFile, s.Name, strings.Join(cells, ",")}
	var given []any
	for _, before := range s.Prev {
		given = append(given, map[string]any{"name": before})
		args = append(args, before+"={{inputs.parameters."+before+"}}")
	}
	var outputs []any
	for _, name := range []string{Result, names} {
		outputs = append(outputs, map[string]any{"name": name, "valueFrom": map[string]any{"path": "/tmp/outputs/" + name}})
	}
	// A registry, or a node, may need a while to be back.
	retry := map[string]any{
		"limit": "4", "retryPolicy": "Always", "expression": "lastRetry.exitCode != '" + CellFailed + "'",
		"backoff": map[string]any{"duration": "2s", "factor": "3"},
	}
	template := map[string]any{"name": s.Name, "outputs": map[string]any{"parameters": outputs}, "retryStrategy": retry, "container": map[string]any{
		"image": p.Image, "imagePullPolicy": "IfNotPresent", "command": []any{"python3"}, "args": args,
		"env": []any{
			map[string]any{"name": "STORE", "value": p.Store},
			map[string]any{"name": "RUN", "value": p.Workflow()},
		},
		"volumeMounts": []any{map[string]any{"name": "code", "mountPath": "/code", "readOnly": true}},
		"securityContext": map[string]any{
			"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": map[string]any{"drop": []any{"ALL"}},
		},
		"resources": map[string]any{
			"requests": map[string]any{"cpu": "50m", "memory": "192Mi"},
			"limits":   map[string]any{"memory": "1Gi"},
		},
	}}
	if given != nil {
		template["inputs"] = map[string]any{"parameters": given}
	}
	return template
}

func (p Pipeline) object(apiVersion, kind, name string, fields map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{}}
	for k, v := range fields {
		o.Object[k] = v
	}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetNamespace(p.Space)
	o.SetName(name)
	return o
}
