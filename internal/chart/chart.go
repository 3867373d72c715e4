// Package chart renders Helm charts without a cluster, keeps releases of them on one, and is the only importer of helm v3.
//
// Render calls Helm's loader, values and template engine, not its install action: what an addon applies has no release, and
// needs no cluster. A Release is Helm's own, by its actions.
package chart

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/kube"
)

// kubeVersion is the cluster's version for templates: that of the lab, which is that of the k8s.io modules.
const kubeVersion = "v1.36.5"

// service is .Release.Service in templates; charts write it into app.kubernetes.io/managed-by.
const service = "mllab"

// Render returns the objects of the chart in the folder files, in Helm's install order, CRDs first. values go over the
// chart's own and must fit its schema; they hold what a values file can (map[string]any, []any, strings, numbers,
// booleans, nil) and are not changed. Hooks, tests and NOTES.txt are left out, .helmignore is not read, and an object
// has only the namespace that its template gives it. Errors name the chart, and the template where there is one.
func Render(files fs.FS, release, namespace string, values map[string]any) ([]*unstructured.Unstructured, error) {
	c, err := load(files)
	if err != nil {
		return nil, fmt.Errorf("loading the chart of %s: %w", release, err)
	}
	objs, err := render(c, release, namespace, values)
	if err != nil {
		return nil, fmt.Errorf("rendering chart %s for %s/%s: %w", c.Name(), namespace, release, err)
	}
	return objs, nil
}

func load(files fs.FS) (*chart.Chart, error) {
	var buffered []*loader.BufferedFile
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, path)
		buffered = append(buffered, &loader.BufferedFile{Name: path, Data: data})
		return err
	})
	if err != nil {
		return nil, err
	}
	c, err := loader.LoadFiles(buffered)
	if err != nil {
		return nil, err
	}
	for _, want := range c.Metadata.Dependencies {
		if !slices.ContainsFunc(c.Dependencies(), func(has *chart.Chart) bool { return has.Name() == want.Name }) {
			return nil, fmt.Errorf("%s: its dependency %s is missing in charts/", c.Name(), want.Name)
		}
	}
	return c, nil
}

func render(c *chart.Chart, release, namespace string, values map[string]any) ([]*unstructured.Unstructured, error) {
	version, err := chartutil.ParseKubeVersion(kubeVersion)
	if err != nil {
		return nil, err
	}
	if want := c.Metadata.KubeVersion; want != "" && !chartutil.IsCompatibleRange(want, kubeVersion) {
		return nil, fmt.Errorf("it wants Kubernetes %s, this is %s", want, kubeVersion)
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *version

	if err := chartutil.ProcessDependencies(c, values); err != nil {
		return nil, err
	}
	options := chartutil.ReleaseOptions{Name: release, Namespace: namespace, Revision: 1, IsInstall: true}
	top, err := chartutil.ToRenderValues(c, values, options, capabilities)
	if err != nil {
		return nil, err
	}
	top["Release"].(map[string]any)["Service"] = service

	rendered, err := engine.Render(c, top)
	if err != nil {
		return nil, err
	}
	for path := range rendered {
		if strings.HasSuffix(path, "/NOTES.txt") {
			delete(rendered, path)
		}
	}
	_, sorted, err := releaseutil.SortManifests(rendered, capabilities.APIVersions, releaseutil.InstallOrder)
	if err != nil {
		return nil, err
	}

	var objs []*unstructured.Unstructured
	for _, crd := range c.CRDObjects() {
		more, err := kube.Decode(crd.File.Data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", crd.Filename, err)
		}
		objs = append(objs, more...)
	}
	for _, m := range sorted {
		more, err := kube.Decode([]byte(m.Content))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		objs = append(objs, more...)
	}
	return objs, nil
}
