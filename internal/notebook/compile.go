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
	Runner   []byte            // the program that runs a step: run.py NOTEBOOK STEP CELLS [STEP-BEFORE…]
	Image    string            // with Python, for every step
	Store    string            // repository where steps leave what the next ones need
	Executor string            // ClusterRole with what a Workflow's pods must be allowed
	Space    string            // namespace
}

// What the code is called in a step's pod.
const runnerFile, notebookFile = "run.py", "notebook.ipynb"

// Result is an output parameter of every step: what the cells left under that
// name, as JSON, or null.
const Result = "result"

// maxCode is what a ConfigMap may hold, in bytes.
// https://kubernetes.io/docs/concepts/configuration/configmap/
const maxCode = 1 << 20

// Name is what the pipeline of a notebook's file is called: what Kubernetes does
// not take becomes a hyphen.
func Name(path string) string {
	name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	return strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(name), "-"), "-")
}

// Run is the name of the pipeline's run: of the same notebook, with the same
// files, it is the same.
func (p Pipeline) Run() string {
	sum := sha256.New()
	code := p.code()
	for _, name := range slices.Sorted(maps.Keys(code)) {
		fmt.Fprintf(sum, "%s %d\n%s", name, len(code[name]), code[name])
	}
	return p.Name + "-" + hex.EncodeToString(sum.Sum(nil)[:4])
}

// code is what is in a step's pod, by file name.
func (p Pipeline) code() map[string][]byte {
	code := map[string][]byte{}
	maps.Copy(code, p.Files)
	code[runnerFile], code[notebookFile] = p.Runner, p.Notebook
	return code
}

// Objects are the pipeline as Kubernetes has it: an Argo Workflow with one task
// for each step, the code, and the rights of its pods.
//
// Errors: those of Steps, a name that is none, a file that is no text or has a
// name of the pipeline's own, more code than fits.
func (p Pipeline) Objects() ([]*unstructured.Unstructured, error) {
	if !stepName.MatchString(p.Name) {
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
		return nil, fmt.Errorf("the notebook has %d bytes, and with its runner and its files at most %d fit: clear its outputs", len(p.Notebook), maxCode)
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
	run := p.Run()
	var tasks, templates []any
	for _, s := range steps {
		task := map[string]any{"name": s.Name, "template": s.Name}
		if len(s.Prev) > 0 {
			task["depends"] = strings.Join(s.Prev, " && ")
		}
		tasks = append(tasks, task)
		templates = append(templates, p.template(s))
	}
	dag := map[string]any{"name": "pipeline", "dag": map[string]any{"tasks": tasks}}
	subject := map[string]any{"kind": "ServiceAccount", "name": p.Name, "namespace": p.Space}
	return []*unstructured.Unstructured{
		p.object("v1", "ServiceAccount", p.Name, nil),
		p.object("rbac.authorization.k8s.io/v1", "RoleBinding", p.Name, map[string]any{
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": p.Executor},
			"subjects": []any{subject},
		}),
		p.object("v1", "ConfigMap", run, map[string]any{"data": code}),
		p.object("argoproj.io/v1alpha1", "Workflow", run, map[string]any{"spec": map[string]any{
			"entrypoint": "pipeline", "serviceAccountName": p.Name,
			"volumes":   []any{map[string]any{"name": "code", "configMap": map[string]any{"name": run}}},
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
	for _, before := range s.Prev {
		args = append(args, before)
	}
	outputs := map[string]any{"parameters": []any{
		map[string]any{"name": Result, "valueFrom": map[string]any{"path": "/tmp/outputs/" + Result}},
	}}
	// 1 is the notebook's own failure (run.py says so); any other end is the
	// machine's, such as a container that did not start.
	retry := map[string]any{"limit": "2", "retryPolicy": "Always", "expression": "lastRetry.exitCode != '1'"}
	return map[string]any{"name": s.Name, "outputs": outputs, "retryStrategy": retry, "container": map[string]any{
		"image": p.Image, "imagePullPolicy": "IfNotPresent", "command": []any{"python3"}, "args": args,
		"env": []any{
			map[string]any{"name": "STORE", "value": p.Store},
			map[string]any{"name": "RUN", "value": p.Run()},
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
