// Package mesh renders Istio (its CRDs, istiod and one ingress gateway) with
// Istio's own operator library from the charts that are embedded in its
// module, so the version is the one pinned in go.mod. It is the only importer
// of istio.io/istio.
package mesh

import (
	"cmp"
	"fmt"
	"os"
	"slices"

	"istio.io/istio/operator/pkg/render"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Names that others rely on.
const (
	Namespace = "istio-system"
	Gateway   = "istio-ingressgateway" // Service and Deployment
)

// Options are the parameters of the installation. All must be set.
type Options struct {
	Operator               []byte // an IstioOperator as istioctl takes it, without images
	PilotImage, ProxyImage string // full references
}

// Render returns the objects of Istio, its namespace not among them. It needs
// no cluster, and the same options give the same objects.
func Render(o Options) ([]*unstructured.Unstructured, error) {
	if len(o.Operator) == 0 || o.PilotImage == "" || o.ProxyImage == "" {
		return nil, fmt.Errorf("rendering istio: operator (%d bytes), pilot image %q and proxy image %q must all be set", len(o.Operator), o.PilotImage, o.ProxyImage)
	}
	// The operator reads its input from a file only.
	f, err := os.CreateTemp("", "mllab-istio-*.yaml")
	if err != nil {
		return nil, fmt.Errorf("rendering istio: %w", err)
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(o.Operator); err != nil {
		return nil, fmt.Errorf("rendering istio: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("rendering istio: %w", err)
	}
	sets, _, err := render.GenerateManifest([]string{f.Name()}, []string{
		"values.pilot.image=" + o.PilotImage,
		"values.global.proxy.image=" + o.ProxyImage,
		"values.global.proxy_init.image=" + o.ProxyImage,
	}, false, nil, nil)
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
	return all, nil
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
