package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"

	operator "istio.io/istio/operator/pkg/render"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// istio returns the objects that Istio's own operator library makes of operator.yaml in the istio folder, from the charts
// that are embedded in its module, as YAML: CRDs, istiod and one ingress gateway. The namespace is not among them.
func istio(folders string) ([]byte, error) {
	sets, _, err := operator.GenerateManifest([]string{filepath.Join(folders, "istio", "operator.yaml")}, nil, false, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("rendering istio: %w", err)
	}
	var all []*unstructured.Unstructured
	for _, set := range sets {
		for _, m := range set.Manifests {
			obj := m.Unstructured
			if obj.GetKind() == "Namespace" {
				continue
			}
			if obj.GetKind() != "CustomResourceDefinition" {
				dropNulls(obj.Object)
			}
			all = append(all, obj)
		}
	}
	// The sets come in a map's order.
	slices.SortFunc(all, func(a, b *unstructured.Unstructured) int {
		return cmp.Or(cmp.Compare(a.GetKind(), b.GetKind()), cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return encode(all)
}

// dropNulls removes what a chart leaves behind where it had nothing to say: a
// key without a value, which an apply would take for a field to own.
func dropNulls(value any) {
	switch v := value.(type) {
	case map[string]any:
		for k, inner := range v {
			if inner == nil {
				delete(v, k)
			}
			dropNulls(inner)
		}
	case []any:
		for _, inner := range v {
			dropNulls(inner)
		}
	}
}
