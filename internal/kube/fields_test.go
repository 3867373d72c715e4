package kube

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestFieldsNamesWhatDiffers(t *testing.T) {
	objs := decode(t, `{apiVersion: v1, kind: X, metadata: {name: a, uid: one, labels: {app: a, gone: x}, annotations: {a.b/c: "1"}}, spec: {percent: 100, same: [1, 2],
  containers: [{name: model, image: a, args: [x, z]}, {name: old, image: o}], traffic: [{tag: a}, {tag: b}]}, status: {phase: new}}
---
{apiVersion: v1, kind: X, metadata: {name: a, uid: two, labels: {app: a}, annotations: {a.b/c: "2"}}, spec: {percent: 90, same: [1, 2], more: {deep: true},
  containers: [{name: side, image: s}, {name: model, image: b, args: [x]}], traffic: [{tag: c}]}}`)
	var got []string
	for _, f := range Fields(objs[0], objs[1]) {
		before, _ := json.Marshal(f.Before)
		after, _ := json.Marshal(f.After)
		got = append(got, fmt.Sprintf("%s: %s %s", f.Path, before, after))
	}
	want := []string{
		`metadata.annotations["a.b/c"]: "1" "2"`, `metadata.labels.gone: "x" null`,
		`spec.containers[model].args[1]: "z" null`, `spec.containers[model].image: "a" "b"`, `spec.containers[old].image: "o" null`, `spec.containers[old].name: "old" null`,
		`spec.containers[side].image: null "s"`, `spec.containers[side].name: null "side"`,
		`spec.more.deep: null true`, `spec.percent: 100 90`, `spec.traffic[0].tag: "a" "c"`, `spec.traffic[1].tag: "b" null`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if same := Fields(objs[0], objs[0]); len(same) > 0 {
		t.Errorf("an object differs from itself in %v", same)
	}
}

func TestFieldsHidesWhatASecretHolds(t *testing.T) {
	objs := decode(t, `{apiVersion: v1, kind: Secret, metadata: {name: a}, stringData: {password: one}}
---
{apiVersion: v1, kind: Secret, metadata: {name: a}, stringData: {password: two}, type: Opaque}`)
	text := fmt.Sprint(Fields(objs[0], objs[1]), Fields(nil, objs[0]))
	if strings.Contains(text, "one") || strings.Contains(text, "two") || !strings.Contains(text, "stringData.password *** ***") {
		t.Error(text)
	}
}

// What a manager holds is found for each form that managed fields have: keyed lists, sets, atomic lists and maps.
func TestAFieldsManagerIsFound(t *testing.T) {
	live := decode(t, `{apiVersion: v1, kind: X, metadata: {name: a, labels: {mine: x, yours: z}}, spec: {replicas: 3, finalizers: [a, b], atomic: [{percent: 1}, {percent: 2}],
  ports: [{containerPort: 80, protocol: TCP}, {containerPort: 90, protocol: TCP}],
  containers: [{name: side, image: s}, {name: model, image: b, env: [{name: A, value: "1"}, {name: B, value: "2"}]}]}}`)[0]
	desired := decode(t, `{apiVersion: v1, kind: X, metadata: {name: a, labels: {mine: x}}, spec: {replicas: 1, finalizers: [a], atomic: [{percent: 1}],
  ports: [{containerPort: 80, protocol: TCP}], containers: [{name: model, image: a, env: [{name: A, value: "1"}]}]}}`)[0]
	entry := func(manager, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, FieldsV1: metav1.NewFieldsV1(fields)}
	}
	live.SetManagedFields([]metav1.ManagedFieldsEntry{
		entry("kubectl-edit", `{"f:metadata":{"f:labels":{"f:yours":{}}},"f:spec":{"f:replicas":{},"f:atomic":{},"f:finalizers":{"v:\"b\"":{}},
			"f:ports":{"k:{\"containerPort\":90,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}},
			"f:containers":{"k:{\"name\":\"side\"}":{".":{},"f:name":{},"f:image":{}},"k:{\"name\":\"model\"}":{"f:image":{},"f:env":{"k:{\"name\":\"B\"}":{".":{},"f:name":{},"f:value":{}}}}}}}`),
	})
	all, err := managers(live)
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	for path, at := range map[string][]any{
		"a scalar": {"spec", "replicas"}, "in an atomic list": {"spec", "atomic", element{index: 1}, "percent"}, "of a keyed element": {"spec", "containers", element{1, "model"}, "image"},
		"a whole element": {"spec", "containers", element{0, "side"}}, "of a set": {"spec", "finalizers", element{index: 1}}, "keyed by numbers": {"spec", "ports", element{index: 1}, "containerPort"},
	} {
		if !owns(all[0].fields, live.Object, at) {
			t.Errorf("%s, %s, is held and not found", path, formatPath(at))
		}
	}
	for path, at := range map[string][]any{
		"another field": {"spec", "paused"}, "another label": {"metadata", "labels", "mine"}, "another element": {"spec", "finalizers", element{index: 0}},
		"another field of the element": {"spec", "containers", element{1, "model"}, "args"}, "another port": {"spec", "ports", element{index: 0}, "containerPort"},
	} {
		if owns(all[0].fields, live.Object, at) {
			t.Errorf("%s, %s, is not held, and found", path, formatPath(at))
		}
	}
	var added []string
	for _, f := range all[0].added(desired, live, false) {
		if !f.Undone || f.Manager != "kubectl-edit" {
			t.Errorf("%+v", f)
		}
		added = append(added, f.Path)
	}
	want := []string{"metadata.labels.yours", "spec.containers[model].env[B]", "spec.containers[side]", "spec.finalizers[1]", "spec.ports[1]"}
	if slices.Sort(added); !slices.Equal(added, want) {
		t.Errorf("added are %q, want %q", added, want)
	}
	all[0].Manager = "webhook" // a controller's labels are its own business
	for _, f := range all[0].added(desired, live, true) {
		if f.Undone || strings.HasPrefix(f.Path, "metadata") {
			t.Errorf("%+v", f)
		}
	}
}

// What the API server makes of real managed fields, TestAgainstARealAPIServer asks.
func TestAnApplyNeedsNoDryRunWhenEveryFieldIsOursAndAsWeWantIt(t *testing.T) {
	const fields = `{"f:metadata":{"f:labels":{"f:app":{}}},"f:spec":{"f:replicas":{},"f:none":{},"f:args":{},"f:finalizers":{"v:\"a\"":{}},
		"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{}},"k:{\"port\":80,\"protocol\":\"UDP\"}":{".":{},"f:port":{},"f:protocol":{}}},
		"f:containers":{"k:{\"name\":\"m\"}":{".":{},"f:name":{},"f:env":{".":{}}}}}}`
	const ours = `{apiVersion: v1, kind: X, metadata: {name: a, creationTimestamp: null, labels: {app: a}}, spec: {replicas: 1, none: "", args: [x], finalizers: [a],
		ports: [{port: 80}, {port: 80, protocol: UDP}], containers: [{name: m, env: []}]}}`
	const live = `{apiVersion: v1, kind: X, metadata: {name: a, uid: u, labels: {app: a, other: b}}, spec: {replicas: 1, args: [x], finalizers: [a, b], more: true,
		ports: [{port: 80, protocol: TCP}, {port: 80, protocol: UDP}], containers: [{name: side}, {name: m, env: [{name: theirs}]}]}, status: {ready: 1}}`
	for _, c := range []struct {
		name, part, old, new string
		want                 bool
	}{
		{"all as it is", "", "", "", true},
		{"another value there", "live", "replicas: 1", "replicas: 2", false},
		{"a value that was empty there", "live", "replicas: 1", "replicas: 1, none: x", false},
		{"a value that was empty, of ours", "ours", `none: ""`, "none: x", false},
		{"no value there", "live", "replicas: 1, ", "", false},
		{"a longer list there", "live", "args: [x]", "args: [x, y]", false},
		{"no such element of a set there", "live", "[a, b]", "[b]", false},
		{"no such element there", "live", "{port: 80, protocol: TCP}, ", "", false},
		{"no such label there", "live", "app: a, ", "", false},
		{"another order there", "live", "{port: 80, protocol: TCP}, {port: 80, protocol: UDP}", "{port: 80, protocol: UDP}, {port: 80, protocol: TCP}", false},
		{"another order of ours", "ours", "{port: 80}, {port: 80, protocol: UDP}", "{port: 80, protocol: UDP}, {port: 80}", false},
		{"a value in place of a map there", "live", "containers: [{name: side}, {name: m, env: [{name: theirs}]}]", "containers: x", false},
		{"a value in place of a list of ours", "ours", "env: []", "env: x", false},
		{"a new value of ours", "ours", "replicas: 1", "replicas: 2", false},
		{"a new field of ours", "ours", "replicas: 1", "replicas: 1, more: true", false},
		{"a new element of ours", "ours", "{port: 80}", "{port: 80}, {port: 90}", false},
		{"one field less of ours", "ours", "replicas: 1, ", "", false},
		{"one element less of ours", "ours", "{port: 80}, ", "", false},
		{"no label of ours", "ours", ", labels: {app: a}", "", false},
		{"a newer version of ours", "ours", "apiVersion: v1", "apiVersion: v2", false},
		{"a value that is not ours any more", "fields", `"f:replicas":{},`, "", false},
		{"an element that is not ours any more", "fields", `"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{}},`, "", false},
		{"a value that we no longer name", "fields", `"f:replicas":{},`, `"f:replicas":{},"f:more":{},`, false},
		{"unreadable fields", "fields", `{"f:metadata"`, `{`, false},
	} {
		texts := map[string]string{"fields": fields, "ours": ours, "live": live}
		if c.part != "" && !strings.Contains(texts[c.part], c.old) {
			t.Fatalf("%s: %q is not in %s", c.name, c.old, c.part)
		}
		texts[c.part] = strings.Replace(texts[c.part], c.old, c.new, 1)
		is := decode(t, texts["live"])[0]
		entry := metav1.ManagedFieldsEntry{Manager: "us", Operation: metav1.ManagedFieldsOperationApply, APIVersion: "v1", FieldsV1: metav1.NewFieldsV1(texts["fields"])}
		byHand, status := entry, entry
		byHand.Operation, status.Subresource = metav1.ManagedFieldsOperationUpdate, "status"
		for _, m := range []struct {
			entry metav1.ManagedFieldsEntry
			want  bool
		}{{entry, c.want}, {byHand, false}, {status, false}} {
			is.SetManagedFields([]metav1.ManagedFieldsEntry{m.entry})
			if got := hasApplied("us", decode(t, texts["ours"])[0], is); got != m.want {
				t.Errorf("%s: by an entry of %s %q: %t, want %t", c.name, m.entry.Operation, m.entry.Subresource, got, m.want)
			}
		}
	}
}
