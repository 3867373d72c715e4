package chart

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"mllab.local/internal/kube"
)

// files is a chart in memory, from "path\ncontent" texts.
func files(texts ...string) fstest.MapFS {
	m := fstest.MapFS{"Chart.yaml": {Data: []byte("apiVersion: v2\nname: tiny\nversion: 1.0.0\n")}}
	for _, t := range texts {
		path, content, _ := strings.Cut(t, "\n")
		m[path] = &fstest.MapFile{Data: []byte(content)}
	}
	return m
}

const configMap = `templates/cm.yaml
apiVersion: v1
kind: ConfigMap
metadata: {name: "{{ .Release.Name }}", namespace: "{{ .Release.Namespace }}"}
data:
  a: {{ .Values.a | quote }}
  b: {{ .Values.deep.b | quote }}
  c: {{ .Values.deep.c | quote }}
  kube: {{ .Capabilities.KubeVersion.Version }}
  service: {{ .Release.Service }}
  install: {{ .Release.IsInstall | quote }}
`

func TestValuesGoOverTheChartsOwn(t *testing.T) {
	values := map[string]any{"a": 1_000_000, "deep": map[string]any{"b": []any{"x", "y"}, "sub": map[string]any{"c": nil}}}
	objs, err := Render(files(configMap, "values.yaml\na: 1\ndeep: {b: own, c: own}\n"), "rel", "ns", values)
	if err != nil {
		t.Fatal(err)
	}
	if len(objs) != 1 || kube.Name(objs[0]) != "ConfigMap/ns/rel" {
		t.Fatalf("%v", objs)
	}
	want := map[string]any{"a": "1000000", "b": "[x y]", "c": "own", "kube": kubeVersion, "service": "mllab", "install": "true"}
	got := objs[0].Object["data"].(map[string]any)
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %v, want %v", k, got[k], v)
		}
	}
	if want := map[string]any{"a": 1_000_000, "deep": map[string]any{"b": []any{"x", "y"}, "sub": map[string]any{"c": nil}}}; !reflect.DeepEqual(values, want) {
		t.Errorf("the caller's values were changed: %v", values)
	}
}

func TestObjectsComeInInstallOrderWithCRDsFirstAndWithoutHooksOrNotes(t *testing.T) {
	object := func(kind, name, more string) string {
		return "apiVersion: v1\nkind: " + kind + "\nmetadata:\n  name: " + name + "\n" + more + "---\n"
	}
	objs, err := Render(files(
		"templates/a.yaml\n"+object("Service", "svc", "")+object("Namespace", "ns", "")+"# nothing here\n---\n",
		"templates/b.yaml\n"+object("ConfigMap", "cm", "  annotations: {a: b}\n")+object("Job", "hook", "  annotations: {helm.sh/hook: pre-install}\n"),
		"templates/tests/t.yaml\n"+object("Pod", "test", "  annotations: {helm.sh/hook: test}\n"),
		"templates/off.yaml\n{{ if .Values.on }}\n"+object("Secret", "off", "")+"{{ end }}\n",
		"templates/_help.tpl\n{{ define \"x\" }}x{{ end }}\n",
		"templates/NOTES.txt\nThank you for: installing\n",
		"crds/c.yaml\n"+object("CustomResourceDefinition", "crd", ""),
		"charts/sub/Chart.yaml\napiVersion: v2\nname: sub\nversion: 1.0.0\n",
		"charts/sub/templates/s.yaml\n"+object("ServiceAccount", "sub", ""),
		"README.md\nno YAML: at all: {\n",
	), "rel", "ns", nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range objs {
		names = append(names, kube.Name(o))
	}
	if want := []string{"CustomResourceDefinition/crd", "Namespace/ns", "ServiceAccount/sub", "ConfigMap/cm", "Service/svc"}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
}

func TestASubchartThatIsOffIsNotRendered(t *testing.T) {
	chart := files(
		"Chart.yaml\napiVersion: v2\nname: tiny\nversion: 1.0.0\ndependencies: [{name: sub, version: 1.0.0, condition: sub.enabled}]\n",
		"charts/sub/Chart.yaml\napiVersion: v2\nname: sub\nversion: 1.0.0\n",
		"charts/sub/templates/s.yaml\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: sub}\n",
	)
	for _, on := range []bool{true, false} {
		objs, err := Render(chart, "rel", "ns", map[string]any{"sub": map[string]any{"enabled": on}})
		if err != nil || (len(objs) == 1) != on {
			t.Errorf("enabled %t: %v, %v", on, objs, err)
		}
	}
}

func TestAnErrorNamesTheChartAndTheTemplate(t *testing.T) {
	for _, c := range []struct {
		name   string
		chart  fstest.MapFS
		values map[string]any
		want   []string
	}{
		{"no chart", fstest.MapFS{"x.yaml": {}}, nil, []string{"chart of rel", "Chart.yaml file is missing"}},
		{"a template that does not parse", files("templates/cm.yaml\n{{ if }}"), nil, []string{"chart tiny for ns/rel", "tiny/templates/cm.yaml:1", "missing value for if"}},
		{"a template that fails", files("templates/cm.yaml\n\n{{ fail \"because\" }}"), nil, []string{"chart tiny", "tiny/templates/cm.yaml:2", "because"}},
		{"a missing required value", files("templates/cm.yaml\n{{ required \"image must be set\" .Values.image }}"), nil, []string{"chart tiny", "tiny/templates/cm.yaml:1", "image must be set"}},
		{"no YAML", files("templates/cm.yaml\na: b: c"), nil, []string{"chart tiny", "tiny/templates/cm.yaml"}},
		{"no object", files("templates/cm.yaml\nkind: ConfigMap\n"), nil, []string{"chart tiny", "tiny/templates/cm.yaml", "apiVersion"}},
		{"a key twice", files("templates/cm.yaml\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: a, k: b}\n"), nil, []string{"chart tiny", "tiny/templates/cm.yaml", `"k"`}},
		{"a broken CRD", files("crds/c.yaml\nkind: X\n"), nil, []string{"chart tiny", "crds/c.yaml"}},
		{"another Kubernetes", files("Chart.yaml\napiVersion: v2\nname: tiny\nversion: 1.0.0\nkubeVersion: '>=1.99.0'\n"), nil, []string{"chart tiny", ">=1.99.0", kubeVersion}},
		{"a dependency that is not there", files("Chart.yaml\napiVersion: v2\nname: tiny\nversion: 1.0.0\ndependencies: [{name: redis, version: 1.0.0}]\n"), nil, []string{"tiny", "redis", "missing"}},
		{"values against the schema", files(`values.schema.json
{"type":"object","properties":{"n":{"type":"integer"}}}`), map[string]any{"n": "many"}, []string{"chart tiny", "/n", "want integer"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			objs, err := Render(c.chart, "rel", "ns", c.values)
			if err == nil {
				t.Fatalf("no error, but %v", objs)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("no %q in: %v", w, err)
				}
			}
		})
	}
}

func TestTemplatesSeeTheVersionOfOurKubernetesModules(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`k8s\.io/api v0\.(\S+)`).FindSubmatch(mod)
	if m == nil || "v1."+string(m[1]) != kubeVersion {
		t.Errorf("kubeVersion is %s, go.mod has %q", kubeVersion, m)
	}
}
