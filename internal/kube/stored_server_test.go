//go:build envtest

package kube

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"

	bolt "go.etcd.io/bbolt"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"mllab.local/bootstrap/images"
	"mllab.local/manifests"
)

// The API server finds what etcd has from the start as if it had stored that itself, and mllab had applied it.
func TestTheServerChangesNothingOfWhatEtcdHasFromTheStart(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "member", "snap"), 0o700))
	database := filepath.Join(dir, "member", "snap", "db")
	must(t, images.WriteEtcd(database))
	last := 1 + storedRevisions(t, database)

	server := newServer(t)
	server.ControlPlane.Etcd = &envtest.Etcd{DataDir: dir}
	c := start(t, server)

	var crds []*unstructured.Unstructured
	for _, kind := range []schema.GroupVersionKind{
		{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRoleBinding"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "Role"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "RoleBinding"},
		{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"},
	} {
		var list unstructured.UnstructuredList
		list.SetGroupVersionKind(kind)
		must(t, c.List(t.Context(), &list))
		if len(list.Items) == 0 {
			t.Errorf("there is no %s", kind.Kind)
		}
		for _, o := range list.Items {
			if at, err := strconv.Atoi(o.GetResourceVersion()); err != nil || at > last {
				t.Errorf("the server wrote %s: it has resource version %s, and the last stored one was %d", Name(&o), o.GetResourceVersion(), last)
			}
		}
	}
	for _, name := range []string{"gateway-api.yaml", "istio.yaml", "knative.yaml"} {
		text, err := manifests.Upstream(name)
		must(t, err)
		for _, o := range decode(t, string(text)) {
			if isCRD(o) {
				crds = append(crds, o)
			}
		}
	}
	found := map[string]*unstructured.Unstructured{}
	for _, crd := range crds {
		live, err := c.live(t.Context(), crd)
		must(t, err)
		if sent, err := prepare(crd, live); err != nil || live == nil || !hasApplied(owner, sent, live) {
			t.Errorf("%s would need a dry run (%v)", Name(crd), err)
		}
		found[Name(crd)] = live
	}

	must(t, c.Delete(t.Context(), crds))
	_, err := c.Apply(t.Context(), crds)
	must(t, err)
	for _, crd := range crds {
		made, err := c.live(t.Context(), crd)
		must(t, err)
		if stored, made := comparable(t, found[Name(crd)]), comparable(t, made); !reflect.DeepEqual(stored, made) {
			t.Errorf("%s was stored as\n%s\nand the server makes of it\n%s", Name(crd), text(stored), text(made))
		}
	}
}

// storedRevisions returns how many revisions of keys a database of etcd has.
func storedRevisions(t *testing.T, file string) (n int) {
	db, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true})
	must(t, err)
	must(t, db.View(func(tx *bolt.Tx) error {
		n = tx.Bucket([]byte("key")).Stats().KeyN
		return nil
	}))
	must(t, db.Close())
	return n
}

// comparable returns a CRD without what differs each time, and with the fields of mllab alone.
func comparable(t *testing.T, crd *unstructured.Unstructured) map[string]any {
	crd = crd.DeepCopy()
	var fields map[string]any
	for _, e := range crd.GetManagedFields() {
		if e.Manager == owner && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == "" {
			must(t, json.Unmarshal(e.FieldsV1.GetRawBytes(), &fields))
		}
	}
	for _, name := range []string{"uid", "creationTimestamp", "resourceVersion", "managedFields"} {
		unstructured.RemoveNestedField(crd.Object, "metadata", name)
	}
	conditions := map[string]any{}
	list, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	for _, each := range list {
		each := each.(map[string]any)
		delete(each, "lastTransitionTime")
		conditions[each["type"].(string)] = each
	}
	unstructured.RemoveNestedField(crd.Object, "status", "conditions")
	return map[string]any{"object": crd.Object, "conditions": conditions, "fields": fields}
}

func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b[:min(len(b), 2000)])
}
