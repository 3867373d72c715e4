package kube

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

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
