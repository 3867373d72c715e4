package kube

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Field is one field in which two states of an object differ. List elements are identified by their names if all have
// one, as in spec.containers[model].image, else by their index. nil means that the field is absent. The contents of a
// Secret are shown as "***".
type Field struct {
	Path   string `json:"path"`
	Before any    `json:"before,omitempty"`
	After  any    `json:"after,omitempty"`
}

// Fields returns the fields in which before and after differ (nil: no object), in the order of their paths. It ignores
// status, and metadata except labels and annotations.
func Fields(before, after *unstructured.Unstructured) []Field {
	var list []Field
	compare(nil, content(before), content(after), func(at []any, b, a any) {
		list = append(list, Field{Path: formatPath(at), Before: b, After: a})
	})
	for i := range list {
		if f := &list[i]; secret(before, f.Path) || secret(after, f.Path) {
			f.Before, f.After = hidden(f.Before), hidden(f.After)
		}
	}
	return list
}

func secret(o *unstructured.Unstructured, path string) bool {
	return o != nil && o.GetKind() == "Secret" && (strings.HasPrefix(path, "data") || strings.HasPrefix(path, "stringData"))
}

func hidden(v any) any {
	if v == nil {
		return nil
	}
	return "***"
}

// content returns the desired state in an object: all but its identity, status and the rest of its metadata.
func content(o *unstructured.Unstructured) any {
	if o == nil {
		return nil
	}
	desired := maps.Clone(o.Object)
	for _, key := range []string{"apiVersion", "kind", "metadata", "status"} {
		delete(desired, key)
	}
	meta := map[string]any{}
	for _, key := range []string{"labels", "annotations"} {
		if v, _, _ := unstructured.NestedMap(o.Object, "metadata", key); len(v) > 0 {
			meta[key] = v
		}
	}
	if len(meta) > 0 {
		desired["metadata"] = meta
	}
	return desired
}

// element is a step of a path into a list.
type element struct {
	index int
	name  string // "" if it has none
}

// compare calls differ for each leaf in which b and a differ. A step of the path at is a string or an element.
func compare(at []any, b, a any, differ func(at []any, b, a any)) {
	into := func(step any, b, a any) { compare(append(slices.Clip(at), step), b, a, differ) }
	if equal(b, a) {
		return
	}
	mb, isMapB := b.(map[string]any)
	ma, isMapA := a.(map[string]any)
	lb, isListB := b.([]any)
	la, isListA := a.([]any)
	switch {
	case (isMapB || b == nil) && (isMapA || a == nil) && len(mb)+len(ma) > 0:
		both := map[string]any{}
		maps.Copy(both, mb)
		maps.Copy(both, ma)
		for _, key := range slices.Sorted(maps.Keys(both)) {
			into(key, mb[key], ma[key])
		}
	case (isListB || b == nil) && (isListA || a == nil) && len(lb)+len(la) > 0:
		nb, na := names(lb), names(la)
		if nb == nil || na == nil {
			for i := range max(len(lb), len(la)) {
				into(element{index: i}, elementAt(lb, i), elementAt(la, i))
			}
			return
		}
		for i, name := range nb {
			into(element{i, name}, lb[i], elementAt(la, slices.Index(na, name)))
		}
		for i, name := range na {
			if !slices.Contains(nb, name) {
				into(element{i, name}, nil, la[i])
			}
		}
	default:
		differ(at, b, a)
	}
}

func elementAt(list []any, i int) any {
	if i < 0 || i >= len(list) {
		return nil
	}
	return list[i]
}

// names returns the names of the elements, or nil unless each has its own name. For an empty list it returns no names.
func names(list []any) []string {
	all := []string{}
	for _, e := range list {
		m, _ := e.(map[string]any)
		name, _ := m["name"].(string)
		if name == "" || slices.Contains(all, name) {
			return nil
		}
		all = append(all, name)
	}
	return all
}

// formatPath returns a path as people write it.
func formatPath(at []any) string {
	var b strings.Builder
	for _, step := range at {
		switch step := step.(type) {
		case element:
			if step.name == "" {
				step.name = strconv.Itoa(step.index)
			}
			fmt.Fprintf(&b, "[%s]", step.name)
		case string:
			switch {
			case strings.ContainsAny(step, "./[]"):
				fmt.Fprintf(&b, "[%q]", step)
			case b.Len() == 0:
				b.WriteString(step)
			default:
				b.WriteString("." + step)
			}
		}
	}
	return b.String()
}

// value returns the value at a path, or nil.
func value(v any, at []any) any {
	for _, step := range at {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case element:
			list, _ := v.([]any)
			i := step.index
			if all := names(list); step.name != "" && all != nil {
				i = slices.Index(all, step.name)
			}
			v = elementAt(list, i)
		}
	}
	return v
}

// The format of managed fields: https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management and
// https://github.com/kubernetes-sigs/structured-merge-diff/blob/v6.3.0/fieldpath/serialize-pe.go

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

// equal reports whether two values are the same. Decoders return different types of numbers.
func equal(a, b any) bool {
	number := func(v any) any {
		if n, whole := v.(int64); whole {
			return float64(n)
		}
		return v
	}
	return reflect.DeepEqual(number(a), number(b))
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
