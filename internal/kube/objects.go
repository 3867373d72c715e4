package kube

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Objects returns all objects of a kind. It returns none if the API server does not have the kind.
func (c *Client) Objects(ctx context.Context, apiVersion, kind string) ([]*unstructured.Unstructured, error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.FromAPIVersionAndKind(apiVersion, kind+"List"))
	if err := c.List(ctx, list); meta.IsNoMatchError(err) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("reading every %s: %w", kind, err)
	}
	objs := make([]*unstructured.Unstructured, len(list.Items))
	for i := range list.Items {
		objs[i] = &list.Items[i]
	}
	return objs, nil
}

// Watch reports every change of list's kind in a namespace from now on, until ctx ends, Stop is called, or the server ends
// the watch. It does not restart the watch, so that a caller who counts changes knows when some may be missing.
func (c *Client) Watch(ctx context.Context, ns string, list client.ObjectList) (watch.Interface, error) {
	opts := &client.ListOptions{Namespace: ns}
	if err := c.List(ctx, list, opts); err != nil {
		return nil, fmt.Errorf("listing in namespace %s before watching it: %w", ns, err)
	}
	opts.Raw = &metav1.ListOptions{ResourceVersion: list.GetResourceVersion()}
	w, err := c.watcher.Watch(ctx, list, opts)
	if err != nil {
		return nil, fmt.Errorf("watching namespace %s: %w", ns, err)
	}
	return w, nil
}

// Decode reads the objects of a YAML or JSON text with any number of documents, in their order. It skips empty documents.
// A document with a duplicate key, or without apiVersion, kind or name, is an error that has the document's number.
func Decode(data []byte) ([]*unstructured.Unstructured, error) {
	var objs []*unstructured.Unstructured
	docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for n := 1; ; n++ {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return objs, nil
		}
		obj := &unstructured.Unstructured{}
		if err == nil {
			obj.Object, err = decodeDocument(doc)
		}
		if err == nil && obj.Object == nil {
			continue
		}
		if err == nil && (obj.GetAPIVersion() == "" || obj.GetKind() == "" || obj.GetName() == "") {
			err = fmt.Errorf("%s %q has no apiVersion, no kind or no name", obj.GetKind(), obj.GetName())
		}
		if err != nil {
			return nil, fmt.Errorf("reading document %d: %w", n, err)
		}
		objs = append(objs, obj)
	}
}

// decodeDocument returns one document's map, or nil if it is empty. A document in JSON, as the build writes them, is read
// as such: as YAML it takes many times as long.
func decodeDocument(doc []byte) (object map[string]any, err error) {
	if bytes.HasPrefix(doc, []byte("{")) {
		if twice, err := json.UnmarshalStrict(doc, &object); err == nil && len(twice) == 0 {
			return object, nil
		}
		object = nil // YAML between braces, or the error that YAML has words for
	}
	text, err := yaml.YAMLToJSONStrict(doc)
	if err == nil {
		err = json.UnmarshalCaseSensitivePreserveInts(text, &object)
	}
	return object, err
}

// Name returns "Kind/namespace/name", or "Kind/name" for an object without a namespace.
func Name(obj client.Object) string {
	kind := obj.GetObjectKind().GroupVersionKind().Kind
	if kind == "" { // a typed object that was read from the server does not know its kind
		if gvk, err := apiutil.GVKForObject(obj, scheme.Scheme); err == nil {
			kind = gvk.Kind
		}
	}
	if obj.GetNamespace() == "" {
		return kind + "/" + obj.GetName()
	}
	return kind + "/" + obj.GetNamespace() + "/" + obj.GetName()
}
