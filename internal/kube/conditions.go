package kube

import "k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

// Condition is a condition in an object's status.
// https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md
type Condition struct {
	Type, Status, Reason, Message string
	// Of is the condition's observedGeneration, or -1 if it has none.
	Of int64
}

// True reports whether the status is True.
func (c Condition) True() bool { return c.Status == "True" }

// Conditions returns the conditions of an object, in their order.
func Conditions(obj *unstructured.Unstructured) []Condition {
	found, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
	var list []Condition
	for _, each := range found {
		fields, _ := each.(map[string]any)
		text := func(name string) string { s, _ := fields[name].(string); return s }
		c := Condition{Type: text("type"), Status: text("status"), Reason: text("reason"), Message: text("message"), Of: -1}
		if of, ok := fields["observedGeneration"].(int64); ok {
			c.Of = of
		}
		list = append(list, c)
	}
	return list
}

// ConditionOf returns the condition of a type. ok is false if the object has none.
func ConditionOf(obj *unstructured.Unstructured, kind string) (c Condition, ok bool) {
	for _, c := range Conditions(obj) {
		if c.Type == kind {
			return c, true
		}
	}
	return Condition{}, false
}
