package addons

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/kube"
	"mllab.local/manifests"
)

// managedBy labels every namespace of ours.
const managedBy, mllab = "app.kubernetes.io/managed-by", "mllab"

// placeholder matches what stands for a component's image, and the colon of what has a tag already.
var placeholder = regexp.MustCompile(`kind\.local/[a-z0-9-]+:?`)

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

// withImages replaces each kind.local/COMPONENT without a tag by the reference
// of that component's image: in containers, arguments, ConfigMaps and the texts in them.
func (a Addon) withImages(im Images, value any) (any, error) {
	var err error
	switch v := value.(type) {
	case string:
		if !strings.Contains(v, "kind.local/") {
			return v, nil
		}
		text := placeholder.ReplaceAllStringFunc(v, func(found string) string {
			component, tagged := strings.CutSuffix(strings.TrimPrefix(found, "kind.local/"), ":")
			if tagged {
				return found
			}
			ref, unknown := im.get(component)
			if !slices.Contains(a.Images, component) {
				unknown = fmt.Errorf("%q is not in Images of addon %s", component, a.Name)
			}
			err = cmp.Or(err, unknown)
			return ref
		})
		return text, err
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

func (im Images) get(component string) (string, error) {
	if ref := im[component]; ref != "" {
		return ref, nil
	}
	return "", fmt.Errorf("no image is given for component %s", component)
}

// read returns the object of o's kind and name as the cluster has it; with an
// error, one that has no more than these.
func read(ctx context.Context, c client.Reader, o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	live := object(o.GetAPIVersion(), o.GetKind(), o.GetNamespace(), o.GetName())
	return live, c.Get(ctx, client.ObjectKeyFromObject(o), live)
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
