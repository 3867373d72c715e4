package kube

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The format of managed fields: https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management and
// https://github.com/kubernetes-sigs/structured-merge-diff/blob/v6.3.0/fieldpath/serialize-pe.go

// holder is one field manager of an object.
type holder struct {
	metav1.ManagedFieldsEntry
	fields map[string]any
}

// managers returns the field managers of an object; the one that wrote last comes last.
func managers(live *unstructured.Unstructured) ([]holder, error) {
	var all []holder
	for _, entry := range live.GetManagedFields() {
		h := holder{ManagedFieldsEntry: entry}
		if entry.FieldsV1 == nil {
			continue
		}
		if err := json.Unmarshal(entry.FieldsV1.GetRawBytes(), &h.fields); err != nil {
			return nil, fmt.Errorf("reading the managed fields of %s: %w", entry.Manager, err)
		}
		all = append(all, h)
	}
	slices.SortStableFunc(all, func(a, b holder) int {
		if a.Time == nil || b.Time == nil {
			return 0
		}
		return a.Time.Compare(b.Time.Time)
	})
	return all, nil
}

// lastWrite returns the time of the manager's last write; nil for a subresource such as scale, where Kubernetes records none.
func (h holder) lastWrite() *time.Time {
	if h.Time == nil {
		return nil
	}
	return &h.Time.Time
}

// dropForeignFields removes from obj's webhooks the fields that belong to other managers by live's managedFields. mllab's
// own manager stays, and Flux's, which applies for mllab when the lab is under GitOps.
func dropForeignFields(obj, live *unstructured.Unstructured) error {
	hooks, _, err := unstructured.NestedSlice(obj.Object, "webhooks")
	if err != nil {
		return err
	}
	holders, err := managers(live)
	if err != nil {
		return err
	}
	for _, h := range holders {
		if h.Manager == owner || h.Manager == fluxOwner {
			continue
		}
		webhooks, _ := h.fields["f:webhooks"].(map[string]any)
		for _, hook := range hooks {
			if hook, ok := hook.(map[string]any); ok {
				name, _ := hook["name"].(string)
				key, _ := json.Marshal(map[string]string{"name": name}) // cannot fail
				fields, _ := webhooks["k:"+string(key)].(map[string]any)
				drop(hook, fields)
				hook["name"] = name // identifies the hook; every manager owns it
			}
		}
	}
	return unstructured.SetNestedSlice(obj.Object, hooks, "webhooks")
}

// drop removes the fields of a managedFields tree from value, at the tree's leaves.
func drop(value, fields map[string]any) {
	for key, below := range fields {
		name, isField := strings.CutPrefix(key, "f:")
		if !isField {
			continue
		}
		inner, isMap := value[name].(map[string]any)
		if tree, _ := below.(map[string]any); isMap && len(tree) > 0 {
			drop(inner, tree)
		} else {
			delete(value, name)
		}
	}
}

// owns reports whether a manager's fields include the path at, something below it, or a whole list or map that contains it.
// content is the object's.
func owns(fields map[string]any, content any, at []any) bool {
	for i, step := range at {
		below, found := fields[key(step, fields, content)].(map[string]any)
		if !found {
			return i > 0 && len(fields) == 0
		}
		fields, content = below, value(content, at[i:i+1])
	}
	return true
}

// key returns the key of a step into content in fields.
func key(step any, fields map[string]any, content any) string {
	if name, ok := step.(string); ok {
		return "f:" + name
	}
	e := value(content, []any{step})
	for k := range fields {
		if matches(k, e, false) {
			return k
		}
	}
	return ""
}

// matches reports whether the key k identifies the list element e, by some of its fields or by its value. With defaults, e
// need not have these fields: the server adds those that have a default.
func matches(k string, e any, defaults bool) bool {
	if text, keyed := strings.CutPrefix(k, "k:"); keyed {
		var want map[string]any
		m, isMap := e.(map[string]any)
		if json.Unmarshal([]byte(text), &want) != nil || !isMap {
			return false
		}
		for name, v := range want {
			if has, there := m[name]; (there || !defaults) && !equal(has, v) {
				return false
			}
		}
		return true
	}
	text, isValue := strings.CutPrefix(k, "v:")
	var want any
	return isValue && json.Unmarshal([]byte(text), &want) == nil && equal(e, want)
}

// hasApplied reports whether an apply of obj by manager would surely leave live as it is. If not, only the server knows.
//
// A server-side apply does two things: it sets the fields of obj, and it removes the fields that manager applied before and obj
// does not have. The server keeps the fields that manager applied last in live's managed fields, and takes each of them out
// that somebody else changes or removes since. So when these are exactly obj's fields, and each has obj's value in live, in obj's
// order, both do nothing. What the server would write in other words than obj (a quantity, a default within an atomic list) does
// not count as equal; an empty value counts as absent. The server ignores the status of a CRD.
func hasApplied(manager string, obj, live *unstructured.Unstructured) bool {
	for _, entry := range live.GetManagedFields() {
		if entry.Manager != manager || entry.Operation != metav1.ManagedFieldsOperationApply || entry.Subresource != "" {
			continue
		}
		var fields map[string]any
		if entry.APIVersion != obj.GetAPIVersion() || entry.FieldsV1 == nil || json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields) != nil {
			return false
		}
		want := maps.Clone(obj.Object)
		delete(want, "apiVersion") // identity, which nobody owns
		delete(want, "kind")
		if obj.GetKind() == "CustomResourceDefinition" {
			delete(want, "status")
		}
		if meta, ok := want["metadata"].(map[string]any); ok {
			meta = maps.Clone(meta)
			for _, name := range []string{"name", "namespace", "creationTimestamp"} {
				delete(meta, name)
			}
			if want["metadata"] = meta; len(meta) == 0 {
				delete(want, "metadata")
			}
		}
		return holds(fields, want, live.Object)
	}
	return false
}

// holds reports whether fields are exactly those of want, and live has want's value in each.
func holds(fields map[string]any, want, live any) bool {
	if len(fields) == 0 { // a value, or a list or map that is owned as a whole
		return equal(want, live)
	}
	size := -1                                        // of a list or map
	var places []int                                  // of a list's elements in live
	at := func(string) (w, l any) { return nil, nil } // nil for what is absent
	switch want := want.(type) {
	case map[string]any:
		live, _ := live.(map[string]any)
		size = len(want)
		at = func(k string) (w, l any) {
			name := strings.TrimPrefix(k, "f:")
			return want[name], live[name]
		}
	case []any:
		live, _ := live.([]any)
		size, places = len(want), make([]int, len(want))
		at = func(k string) (w, l any) {
			i := indexOf(want, k, false)
			if i < 0 {
				i = indexOf(want, k, true)
			}
			j := indexOf(live, k, false)
			if i >= 0 {
				places[i] = j
			}
			return elementAt(want, i), elementAt(live, j)
		}
	}
	for k, below := range fields {
		if k == "." { // the list or map itself
			continue
		}
		w, l := at(k)
		tree, _ := below.(map[string]any)
		left := l == nil && len(tree) == 0 && empty(w) // the server stores no such field
		if !left && (w == nil || l == nil || !holds(tree, w, l)) {
			return false
		}
		size--
	}
	return size == 0 && slices.IsSorted(places) // managed fields have no order, and an apply keeps obj's
}

func empty(v any) bool {
	switch v := v.(type) {
	case string:
		return v == ""
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}

// indexOf returns the place of the element of list that the key k identifies (see matches), or -1.
func indexOf(list []any, k string, defaults bool) int {
	return slices.IndexFunc(list, func(e any) bool { return matches(k, e, defaults) })
}

// eachExtraField calls each for every leaf of fields that is in content and not in git, the desired content. For a map or
// list that git does not have at all it calls each once, for the whole.
func eachExtraField(fields map[string]any, content, git any, at []any, each func(at []any, live any)) {
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		var step any
		if name, isField := strings.CutPrefix(k, "f:"); isField {
			step = name
		} else if list, isList := content.([]any); isList {
			if i := indexOf(list, k, false); i >= 0 {
				at := element{index: i}
				if all := names(list); all != nil {
					at.name = all[i]
				}
				step = at
			}
		}
		if step == nil { // "." is the object itself
			continue
		}
		live, desired := value(content, []any{step}), value(git, []any{step})
		here := append(slices.Clip(at), step)
		if tree, _ := fields[k].(map[string]any); live != nil && len(tree) > 0 && desired != nil {
			eachExtraField(tree, live, desired, here, each)
		} else if live != nil && desired == nil {
			each(here, live)
		}
	}
}
