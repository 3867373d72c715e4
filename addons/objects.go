package addons

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/kube"
	"mllab.local/manifests"
)

// managedBy labels every namespace of ours.
const managedBy, mllab = "app.kubernetes.io/managed-by", "mllab"

// objects returns the objects of manifests/addons/NAME, with these images, and
// those of Render.
func (a Addon) objects(im Images) ([]*unstructured.Unstructured, error) {
	objs, err := upstream(a.Name + ".yaml")
	if err != nil {
		return nil, err
	}
	for _, o := range objs {
		if _, err := a.withImages(im, o.Object); err != nil {
			return nil, fmt.Errorf("%s: %w", kube.Name(o), err)
		}
	}
	if a.Render == nil {
		return objs, nil
	}
	more, err := a.Render(im)
	return append(objs, more...), err
}

// upstream decodes a rendered manifest.
func upstream(name string) ([]*unstructured.Unstructured, error) {
	data, err := manifests.Upstream(name)
	if err != nil {
		return nil, err
	}
	objs, err := kube.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("reading manifests/upstream/%s: %w", name, err)
	}
	return objs, nil
}

// withImages replaces each text kind.local/COMPONENT without a tag by the reference
// of that component's image: in containers, arguments and ConfigMaps.
func (a Addon) withImages(im Images, value any) (any, error) {
	var err error
	switch v := value.(type) {
	case string:
		component, found := strings.CutPrefix(v, "kind.local/")
		switch {
		case !found || strings.Contains(component, ":"):
			return v, nil
		case !slices.Contains(a.Images, component):
			return nil, fmt.Errorf("%q is not in Images of addon %s", component, a.Name)
		}
		return im.get(component)
	case map[string]any:
		for k := range v {
			if v[k], err = a.withImages(im, v[k]); err != nil {
				return nil, err
			}
		}
	case []any:
		for i := range v {
			if v[i], err = a.withImages(im, v[i]); err != nil {
				return nil, err
			}
		}
	}
	return value, nil
}

// get returns the reference of a component.
func (im Images) get(component string) (string, error) {
	if ref := im[component]; ref != "" {
		return ref, nil
	}
	return "", fmt.Errorf("no image is given for component %s", component)
}

// object returns an object with only its name, to be read.
func object(apiVersion, kind, ns, name string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetNamespace(ns)
	o.SetName(name)
	return o
}
