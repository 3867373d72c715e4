package kube

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// health is the state that an object's own status reports.
type health struct {
	ready    bool
	failed   bool   // it will not recover by itself
	observed bool   // its controller has seen the newest spec
	why      string // why it is not ready; "" if it is
}

// healthOf reads the status by kstatus (https://github.com/fluxcd/cli-utils/tree/main/pkg/kstatus). kstatus takes some kinds
// for ready before their controller has seen them; for these it also reads the condition that readyCondition names.
func healthOf(obj *unstructured.Unstructured) health {
	result, err := status.Compute(obj)
	if err != nil {
		return health{why: err.Error()}
	}
	h := health{
		ready:    result.Status == status.CurrentStatus,
		failed:   result.Status == status.FailedStatus && obj.GetKind() != "Deployment" && obj.GetKind() != "Pod", // their pods say what is final (see notReadyReason)
		observed: observed(obj),
		why:      result.Message,
	}
	switch {
	case result.Status == status.TerminatingStatus:
		h.why = "being deleted"
	case obj.GetKind() == "Pod" && status.GetStringField(obj.Object, ".status.phase", "") == string(corev1.PodFailed):
		h.ready, h.failed, h.why = false, true, "failed" // kstatus: a pod that has ended is current
	case h.ready && readyCondition(obj) != "":
		h.ready, h.why = condition(obj, readyCondition(obj))
	}
	switch count, short := replicas(obj); {
	case h.ready:
		h.why = ""
	case !h.observed:
		h.why = "its controller has not seen the newest spec yet"
	case short && !h.failed: // kstatus says the same in other words
		failure, _ := ConditionOf(obj, "ReplicaFailure") // why pods cannot be created: a quota, a webhook, a missing service account
		h.why = join(", ", count, failure.Message)
	case count != "":
		h.why = count + ", " + h.why
	case h.why == "": // a condition may have no message, and an empty reason would mean ready
		h.why = "not ready, and it does not say why"
	}
	return h
}

// readyCondition returns the condition that must be True for obj to be ready; "" where kstatus is enough.
func readyCondition(obj *unstructured.Unstructured) string {
	switch gk := obj.GroupVersionKind().GroupKind(); {
	case gk == schema.GroupKind{Group: "batch", Kind: "Job"}:
		return "Complete" // kstatus takes a running job for ready
	case gk == schema.GroupKind{Group: "apiregistration.k8s.io", Kind: "APIService"}:
		return "Available"
	case gk == schema.GroupKind{Group: "gateway.networking.k8s.io", Kind: "Gateway"}:
		return "Programmed"
	case gk == schema.GroupKind{Group: "gateway.networking.k8s.io", Kind: "GatewayClass"}:
		return "Accepted"
	case gk == schema.GroupKind{Group: "serving.kserve.io", Kind: "InferenceService"},
		gk.Group == "serving.knative.dev", strings.HasSuffix(gk.Group, ".toolkit.fluxcd.io"):
		return "Ready"
	}
	return ""
}

// condition reports whether obj's condition of that type is True for its newest generation, and if not, why.
func condition(obj *unstructured.Unstructured, kind string) (bool, string) {
	c, ok := ConditionOf(obj, kind)
	switch {
	case !ok:
		return false, "not " + kind + " yet"
	case c.Of >= 0 && c.Of < obj.GetGeneration():
		return false, kind + " is of an older generation"
	case c.True():
		return true, ""
	}
	return false, join(": ", "not "+kind, c.Reason, c.Message)
}

// NotReady returns why an object's condition Ready is not True, in its controller's words; "" if it is True.
func NotReady(obj *unstructured.Unstructured) string {
	_, why := condition(obj, "Ready")
	return why
}

// observed reports whether status.observedGeneration is up to date. A kind without that field is always observed. A Knative
// Service is up to date before its Configuration is: until then its status names the last revision, whose pods say nothing
// about the next. https://github.com/knative/serving/blob/v0.50.0/pkg/reconciler/service/service.go
func observed(obj *unstructured.Unstructured) bool {
	generation, found, _ := unstructured.NestedInt64(obj.Object, "status", "observedGeneration")
	if found && generation < obj.GetGeneration() {
		return false
	}
	c, _ := ConditionOf(obj, "ConfigurationsReady")
	return obj.GroupVersionKind().Group != "serving.knative.dev" || c.Reason != "OutOfDate"
}

// replicas returns a workload's "0/1 ready" ("" for other kinds), and whether that is too few.
func replicas(obj *unstructured.Unstructured) (text string, short bool) {
	ready, want := status.GetIntField(obj.Object, ".status.readyReplicas", 0), status.GetIntField(obj.Object, ".spec.replicas", 1)
	if obj.GetKind() == "DaemonSet" {
		ready, want = status.GetIntField(obj.Object, ".status.numberReady", 0), status.GetIntField(obj.Object, ".status.desiredNumberScheduled", 0)
	}
	if obj.GroupVersionKind().Group != "apps" {
		return "", false
	}
	return fmt.Sprintf("%d/%d ready", ready, want), ready < want
}

// join joins the texts that are not empty.
func join(separator string, texts ...string) string {
	return strings.Join(slices.DeleteFunc(slices.Clone(texts), func(t string) bool { return t == "" }), separator)
}

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

// Into reads a part of an object as JSON does.
func Into(part, to any) error {
	text, err := json.Marshal(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, to)
}
