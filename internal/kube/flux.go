package kube

import (
	"fmt"

	"github.com/fluxcd/cli-utils/pkg/object"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Inventory returns the objects that a Flux Kustomization has applied, by its status. They have only a kind and a name.
func Inventory(kustomization *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	entries, _, err := unstructured.NestedSlice(kustomization.Object, "status", "inventory", "entries")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Name(kustomization), err)
	}
	objs := make([]*unstructured.Unstructured, len(entries))
	for i, e := range entries {
		entry, _ := e.(map[string]any)
		id, _ := entry["id"].(string)
		version, _ := entry["v"].(string)
		meta, err := object.ParseObjMetadata(id)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", Name(kustomization), err)
		}
		objs[i] = &unstructured.Unstructured{Object: map[string]any{}}
		objs[i].SetGroupVersionKind(schema.GroupVersionKind{Group: meta.GroupKind.Group, Version: version, Kind: meta.GroupKind.Kind})
		objs[i].SetNamespace(meta.Namespace)
		objs[i].SetName(meta.Name)
	}
	return objs, nil
}
