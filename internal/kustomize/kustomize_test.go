package kustomize

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/kube"
)

// repository is one of a base and an overlay, as people write them.
func repository(more ...string) map[string][]byte {
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

func names(t *testing.T, files map[string][]byte, s Spec) string {
	t.Helper()
	objs, err := Build(files, s)
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
	s, err := SpecOf(flux[0])
	if err != nil {
		t.Fatal(err)
	}
	objs, err := Build(repository(), s)
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
	if again, err := Build(repository(), Spec{Path: "overlays/lab"}); err != nil || kube.Name(again[0]) != "Service/model" {
		t.Errorf("one build has left something for the next: %v, %v", again, err)
	}
}

func TestAFolderWithoutAKustomizationFileIsAllItsManifests(t *testing.T) {
	files := repository("README.md", "# no manifest", "apps/a.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}",
		"apps/deep/b.yml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: b}}",
		"apps/own/kustomization.yaml", "namePrefix: own-\nresources: [c.yaml]\n", "apps/own/c.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}")
	if got, want := names(t, files, Spec{Path: "./apps"}), "ConfigMap/a ConfigMap/b ConfigMap/own-c"; got != want {
		t.Errorf("built were %s, want %s", got, want)
	}
	if got := names(t, map[string][]byte{"x.yaml": files["apps/a.yaml"]}, Spec{}); got != "ConfigMap/a" {
		t.Errorf("the whole repository is %s", got)
	}
	if got := names(t, repository("empty/kustomization.yaml", "resources: []\n"), Spec{Path: "empty"}); got != "" {
		t.Errorf("a folder that names nothing is %s", got)
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
	const nothing = "nothing is fetched here"
	for text, want := range map[string]string{
		"resources: [https://example.com/x.yaml]":                               nothing,
		"resources: [github.com/fluxcd/flux2]":                                  nothing,
		"resources: [GitHub.com/fluxcd/flux2]":                                  nothing,
		"resources: ['git@example.com:a/b']":                                    nothing,
		"resources: ['git::x/y']":                                               nothing,
		"bases: ['ssh://git@example.com/a/b']":                                  nothing,
		"components: ['https://example.com/a/b//c']":                            nothing,
		"resources: [../base]\npatches: [{path: 'http://example.com/p'}]":       nothing,
		"resources: [../base]\npatchesStrategicMerge: ['http://example.com/p']": nothing,
		"resources: [../base]\npatchesJson6902: [{path: 'http://example.com/p', target: {kind: Service, name: model, version: v1}}]": nothing,
		"resources: [../base]\nreplacements: [{path: 'http://example.com/p'}]":                                                       nothing,
		"resources: [../base]\nopenapi: {path: 'http://example.com/p'}":                                                              nothing,
		"resources: [../base]\ncrds: ['http://example.com/p']":                                                                       nothing,
		"resources: [../base]\nconfigurations: ['http://example.com/p']":                                                             nothing,
		"configMapGenerator: [{name: a, files: ['k=http://example.com/p']}]":                                                         nothing,
		"configMapGenerator: [{name: a, envs: ['http://example.com/p']}]":                                                            nothing,
		"secretGenerator: [{name: a, env: 'http://example.com/p'}]":                                                                  nothing,
		"resources: [../base]\ntransformers: [t.yaml]":                                                                               "are not run here",
		"generators: [t.yaml]":                                 "are not run here",
		"resources: [../base]\nvalidators: [t.yaml]":           "are not run here",
		"helmCharts: [{name: a, repo: 'https://example.com'}]": "are not run here",
		"resources: [/etc/passwd]":                             "/etc/passwd",
		"resources: [../../../../etc/hostname]":                "etc/hostname",
		"resources: [../base/service.yaml]":                    "is not in or below",
		"resources: [absent.yaml]":                             "absent.yaml",
		"resources: {":                                         "",
	} {
		// Named by the folder itself, and by what it is made of.
		for _, s := range []Spec{{Path: "odd"}, {Path: "above"}} {
			objs, err := Build(repository("odd/kustomization.yaml", text+"\n", "above/kustomization.yaml", "resources: [../odd]\n"), s)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s in %s: %d objects, %v; want an error that says %q", text, s.Path, len(objs), err, want)
			}
		}
	}
	if said, err := os.ReadFile(called); err == nil {
		t.Errorf("git was called with %s", said)
	}
	for _, s := range []Spec{{Path: "base", PostBuild: map[string]any{}}, {Path: "base", Decryption: map[string]any{}}, {Path: "absent"}} {
		if _, err := Build(repository(), s); err == nil {
			t.Errorf("%+v was built", s)
		}
	}
}
