package kustomize

import (
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/kube"
)

// folders is one of a base and an overlay, as people write them.
func folders(more ...string) map[string][]byte {
	files := map[string][]byte{
		"base/kustomization.yaml": []byte("resources: [service.yaml]\n"),
		"base/service.yaml": []byte(`apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: model}
spec:
  template:
    spec:
      containers: [{image: sample, env: [{name: VERSION, value: v1}]}]
`),
		"overlays/lab/kustomization.yaml": []byte(`resources: [../../base]
patches:
  - patch: |-
      - {op: add, path: /spec/traffic, value: [{percent: 100, latestRevision: true}]}
    target: {kind: Service}
`),
	}
	for i := 0; i < len(more); i += 2 {
		files[more[i]] = []byte(more[i+1])
	}
	return files
}

// on writes files into a folder.
func on(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		at := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, content, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func names(t *testing.T, files map[string][]byte, folder string) string {
	t.Helper()
	objs, err := Build(t.Context(), on(t, files), Of(folder))
	if err != nil {
		t.Fatal(err)
	}
	return list(objs)
}

func list(objs []*unstructured.Unstructured) string {
	var names []string
	for _, o := range objs {
		names = append(names, kube.Name(o))
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func TestAnOverlayIsBuiltAsFluxDoes(t *testing.T) {
	flux, err := kube.Decode([]byte(`apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: model, namespace: team}
spec:
  path: ./overlays/lab
  targetNamespace: team
  namePrefix: a-
  nameSuffix: -z
  images: [{name: sample, newName: kind.local/sample, newTag: "2"}]
  patches:
    - patch: |-
        - {op: replace, path: /spec/traffic/0/percent, value: 90}
      target: {kind: Service, name: model}
  commonMetadata: {labels: {team: ml}, annotations: {why: test}}
`))
	if err != nil {
		t.Fatal(err)
	}
	dir := on(t, folders())
	objs, err := Build(t.Context(), dir, flux[0])
	if err != nil {
		t.Fatal(err)
	}
	o := objs[0]
	fields := ""
	for _, f := range kube.Fields(nil, o) {
		if text, isText := f.After.(string); isText {
			fields += f.Path + "=" + text + " "
		} else if f.After == int64(90) {
			fields += f.Path + "=90 "
		}
	}
	for _, want := range []string{"image=kind.local/sample:2", "spec.traffic[0].percent=90", "metadata.labels.team=ml", "metadata.annotations.why=test"} {
		if !strings.Contains(fields, want) {
			t.Errorf("%s is not in %s", want, fields)
		}
	}
	if len(objs) != 1 || kube.Name(o) != "Service/team/a-model-z" {
		t.Errorf("built were %d objects, the first %s", len(objs), kube.Name(o))
	}
	if again, err := Build(t.Context(), dir, Of("overlays/lab")); err != nil || kube.Name(again[0]) != "Service/model" {
		t.Errorf("one build has left something for the next: %v, %v", again, err)
	}
}

func TestAFolderWithoutAKustomizationFileIsAllItsManifests(t *testing.T) {
	files := folders("README.md", "# no manifest", "apps/a.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}",
		"apps/deep/b.yml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: b}}",
		"apps/own/kustomization.yaml", "namePrefix: own-\nresources: [c.yaml]\n", "apps/own/c.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}")
	if got, want := names(t, files, "./apps"), "ConfigMap/a ConfigMap/b ConfigMap/own-c"; got != want {
		t.Errorf("built were %s, want %s", got, want)
	}
	if got := names(t, map[string][]byte{"x.yaml": files["apps/a.yaml"]}, ""); got != "ConfigMap/a" {
		t.Errorf("the whole repository is %s", got)
	}
	if got := names(t, folders("empty/kustomization.yaml", "resources: []\n"), "empty"); got != "" {
		t.Errorf("a folder that names nothing is %s", got)
	}
}

// What Flux builds is built, and what it finds broken is broken: also with generators, transformers and validators.
func TestGeneratorsOfTheRepositoryAreBuilt(t *testing.T) {
	const generator = "{apiVersion: builtin, kind: ConfigMapGenerator, metadata: {name: made}, literals: [a=b], options: {disableNameSuffixHash: true}}"
	const prefix = "{apiVersion: builtin, kind: PrefixTransformer, metadata: {name: p}, prefix: my-, fieldSpecs: [{path: metadata/name}]}"
	for text, want := range map[string]string{
		"generators: [g.yaml]":                           "ConfigMap/made",
		"generators: [\"" + generator + "\\n\"]":         "ConfigMap/made",
		"generators: [g.yaml]\ntransformers: [p.yaml]\n": "ConfigMap/my-made",
	} {
		if got := names(t, folders("g/kustomization.yaml", text, "g/g.yaml", generator, "g/p.yaml", prefix), "g"); got != want {
			t.Errorf("%s: built were %s, want %s", text, got, want)
		}
	}
	for _, field := range []string{"generators", "transformers", "validators"} {
		_, err := Build(t.Context(), on(t, folders("g/kustomization.yaml", field+": [missing.yaml]\n")), Of("g"))
		if err == nil || errors.Is(err, ErrNotBuilt) || !strings.Contains(err.Error(), "missing.yaml") {
			t.Errorf("%s that are missing: %v; want the error of Flux, with the name", field, err)
		}
	}
}

// A git program that is called, and an address that is fetched, would show.
func TestNothingOutsideOfTheRepositoryIsUsed(t *testing.T) {
	bin := t.TempDir()
	called := filepath.Join(bin, "called")
	if err := os.WriteFile(filepath.Join(bin, "git"), []byte("#!/bin/sh\necho \"$@\" >>"+called+"\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	far := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s was fetched", r.URL) }))
	defer far.Close()
	const nothing, shut = "which mllab does not fetch", "may name an address"
	for text, want := range map[string]string{
		"resources: [FAR/x.yaml]":                                nothing,
		"resources: [github.com/fluxcd/flux2]":                   nothing,
		"resources: [GitHub.com/fluxcd/flux2]":                   nothing,
		"resources: ['git@example.com:a/b']":                     nothing,
		"resources: ['me@example.com/a/b']":                      nothing,
		"resources: ['git::FAR/x/y']":                            nothing,
		"bases: ['ssh://git@example.com/a/b']":                   nothing,
		"components: ['FAR/a/b//c']":                             nothing,
		"resources: [../base]\npatches: [{path: 'FAR/p'}]":       nothing,
		"resources: [../base]\npatchesStrategicMerge: ['FAR/p']": nothing,
		"resources: [../base]\npatchesJson6902: [{path: 'FAR/p', target: {kind: Service, name: model, version: v1}}]": nothing,
		"resources: [../base]\nreplacements: [{path: 'FAR/p'}]":                                                       nothing,
		"resources: [../base]\nopenapi: {path: 'FAR/p'}":                                                              nothing,
		"resources: [../base]\ncrds: ['FAR/p']":                                                                       nothing,
		"resources: [../base]\nconfigurations: ['FAR/p']":                                                             nothing,
		"configMapGenerator: [{name: a, files: ['k=FAR/p']}]":                                                         nothing,
		"configMapGenerator: [{name: a, envs: ['FAR/p']}]":                                                            nothing,
		"secretGenerator: [{name: a, env: 'FAR/p'}]":                                                                  nothing,
		"resources: [../base]\ntransformers: [far.yaml]":                                                              shut,
		"resources: [../base]\nvalidators: [far.yaml]":                                                                shut,
		"generators: [far.yaml]":                                                                                      shut,
		"generators: [escaped.yaml]":                                                                                  shut,
		"generators: [../base]":                                                                                       shut,
		"generators: ['FAR/p']":                                                                                       nothing,
		"generators: ['git::FAR/x/y']":                                                                                nothing,
		"generators: [\"{apiVersion: builtin, kind: ConfigMapGenerator, metadata: {name: a},\\n files: ['k=FAR/p']}\"]": shut,
	} {
		text = strings.ReplaceAll(text, "FAR", far.URL)
		// Named by the folder itself, and by what it is made of.
		for _, folder := range []string{"odd", "above"} {
			dir := on(t, folders("odd/kustomization.yaml", text+"\n", "above/kustomization.yaml", "resources: [../odd]\n",
				"odd/far.yaml", "{apiVersion: builtin, kind: ConfigMapGenerator, metadata: {name: a}, files: ['k="+far.URL+"/p']}\n",
				"odd/escaped.yaml", "{apiVersion: builtin, kind: ConfigMapGenerator, metadata: {name: a}, files: [\"k=h\\x74tp"+far.URL[4:]+"/p\"]}\n"))
			objs, err := Build(t.Context(), dir, Of(folder))
			if !errors.Is(err, ErrNotBuilt) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s in %s: %d objects, %v; want ErrNotBuilt that says %q", text, folder, len(objs), err, want)
			}
		}
	}
	if said, err := os.ReadFile(called); err == nil {
		t.Errorf("git was called with %s", said)
	}
	if _, err := Build(t.Context(), on(t, folders()), Of("absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

func TestABuildLeavesTheFolderAsItWas(t *testing.T) {
	files := folders("plain/a.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}", "bad/kustomization.yaml", "resources: [absent.yaml]\n")
	dir := on(t, files)
	for _, folder := range []string{"overlays/lab", "plain", "bad"} {
		_, _ = Build(t.Context(), dir, Of(folder))
	}
	err := filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, at)
		if err != nil {
			return err
		}
		if text, err := os.ReadFile(at); err != nil || string(text) != string(files[name]) {
			t.Errorf("%s is %q, %v", name, text, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
