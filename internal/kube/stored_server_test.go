//go:build envtest

package kube

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"mllab.local/bootstrap/images"
	"mllab.local/manifests"
)

// The API server finds what etcd has from the start as if it had stored that itself, and mllab had applied the CRDs.
func TestTheServerChangesNothingOfWhatEtcdHasFromTheStart(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "member", "snap"), 0o700))
	database := filepath.Join(dir, "member", "snap", "db")
	must(t, images.WriteEtcd(database))
	last := 1 + storedRevisions(t, database)

	server := newServer(t)
	server.ControlPlane.Etcd = &envtest.Etcd{DataDir: dir}
	c := start(t, server)

	found := map[string]*unstructured.Unstructured{}
	for _, kind := range []string{"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ServiceAccount", "CustomResourceDefinition"} {
		objs := list(t, c, kind)
		if len(objs) == 0 {
			t.Errorf("there is no %s", kind)
		}
		for _, o := range objs {
			found[Name(o)] = o
			if at, err := strconv.Atoi(o.GetResourceVersion()); err != nil || at > last {
				t.Errorf("the server wrote %s: it has resource version %s, and the last stored one was %d", Name(o), o.GetResourceVersion(), last)
			}
		}
	}
	var crds []*unstructured.Unstructured
	for _, name := range []string{"gateway-api.yaml", "istio.yaml", "knative.yaml"} {
		text, err := manifests.Upstream(name)
		must(t, err)
		for _, o := range decode(t, string(text)) {
			if isCRD(o) {
				crds = append(crds, o)
			}
		}
	}
	if all := list(t, c, "CustomResourceDefinition"); len(all) != len(crds) {
		t.Errorf("etcd has %d CRDs, the core %d", len(all), len(crds))
	}
	for _, crd := range crds {
		live := found[Name(crd)]
		if sent, err := prepare(crd, live); err != nil || live == nil || !hasApplied(owner, sent, live) {
			t.Errorf("%s would need a dry run (%v)", Name(crd), err)
		}
	}

	must(t, c.Delete(t.Context(), crds))
	_, err := c.Apply(t.Context(), crds)
	must(t, err)
	for _, crd := range crds {
		stored, made := compared(t, found[Name(crd)]), map[string]any{}
		err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
			live, err := c.live(ctx, crd)
			if err != nil || live == nil {
				return false, err
			}
			made = compared(t, live)
			return reflect.DeepEqual(stored, made), nil // its conditions come one after the other
		})
		if err != nil {
			t.Errorf("%s was stored as\n%s\nand the server makes of it\n%s (%v)", Name(crd), text(stored), text(made), err)
		}
	}
}

// The server adds what a role lacks. It takes no right away.
func rolesAreKubernetesOwn(t *testing.T, c *Client) {
	file, err := manifests.Upstream("roles.yaml")
	must(t, err)
	want := map[string]any{}
	for line := range strings.Lines(string(file)) {
		if !strings.HasPrefix(line, "{") {
			continue
		}
		var lists unstructured.Unstructured
		must(t, lists.UnmarshalJSON([]byte(line)))
		must(t, lists.EachListItem(func(o runtime.Object) error {
			role := o.(*unstructured.Unstructured)
			want[Name(role)] = role.Object
			return nil
		}))
	}
	for _, kind := range []string{"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"} {
		for _, role := range list(t, c, kind) {
			if _, own := role.GetLabels()["kubernetes.io/bootstrapping"]; !own {
				continue // of another test
			}
			dropTimes(role)
			if !reflect.DeepEqual(role.Object, want[Name(role)]) {
				t.Errorf("the server's is\n%s\nand etcd would have\n%s", text(role.Object), text(want[Name(role)]))
			}
			delete(want, Name(role))
		}
	}
	for name := range want {
		t.Errorf("the server has no %s", name)
	}
}

// list returns all objects of a kind.
func list(t *testing.T, c *Client, kind string) (objs []*unstructured.Unstructured) {
	t.Helper()
	var all unstructured.UnstructuredList
	switch kind {
	case "CustomResourceDefinition":
		all.SetAPIVersion("apiextensions.k8s.io/v1")
	case "ServiceAccount":
		all.SetAPIVersion("v1")
	default:
		all.SetAPIVersion("rbac.authorization.k8s.io/v1")
	}
	all.SetKind(kind)
	must(t, c.List(t.Context(), &all))
	for i := range all.Items {
		objs = append(objs, &all.Items[i])
	}
	return objs
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

// compared returns a CRD without what differs each time, and with the fields of mllab alone.
func compared(t *testing.T, crd *unstructured.Unstructured) map[string]any {
	crd = crd.DeepCopy()
	var fields map[string]any
	for _, e := range crd.GetManagedFields() {
		if e.Manager == owner && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == "" {
			must(t, json.Unmarshal(e.FieldsV1.GetRawBytes(), &fields))
		}
	}
	dropTimes(crd)
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

// dropTimes removes what differs each time that an object is created.
func dropTimes(o *unstructured.Unstructured) {
	for _, name := range []string{"uid", "creationTimestamp", "resourceVersion", "managedFields"} {
		unstructured.RemoveNestedField(o.Object, "metadata", name)
	}
}

func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b[:min(len(b), 2000)])
}
