package kube

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Pods lists the pods of a namespace that have all of labels, including Terminating ones. It returns an empty list if there is none.
func (c *Client) Pods(ctx context.Context, ns string, labels map[string]string) ([]corev1.Pod, error) {
	var list corev1.PodList
	if err := c.List(ctx, &list, client.InNamespace(ns), client.MatchingLabels(labels)); err != nil {
		return nil, fmt.Errorf("listing pods of namespace %s: %w", ns, err)
	}
	return list.Items, nil
}

// PodLogs returns the last lines (tail; 0 for all) of a container's log; container "" means the pod's only one.
func (c *Client) PodLogs(ctx context.Context, ns, pod, container string, tail int64) (string, error) {
	return c.podLogs(ctx, ns, pod, container, tail, false)
}

func (c *Client) podLogs(ctx context.Context, ns, pod, container string, tail int64, previous bool) (string, error) {
	opts := &corev1.PodLogOptions{Container: container, Previous: previous}
	if tail > 0 {
		opts.TailLines = &tail
	}
	text, err := c.core.Pods(ns).GetLogs(pod, opts).DoRaw(ctx)
	if err != nil {
		return "", fmt.Errorf("reading the log of Pod/%s/%s container %q: %w", ns, pod, container, err)
	}
	return string(text), nil
}

// HasPods reports whether obj is ready when its pods are.
func HasPods(obj *unstructured.Unstructured) bool {
	switch gvk := obj.GroupVersionKind(); gvk.Group {
	case "":
		return gvk.Kind == "Pod"
	case "batch":
		return gvk.Kind == "Job"
	case "apps":
		return true
	case "serving.knative.dev":
		return gvk.Kind == "Service" || gvk.Kind == "Configuration" || gvk.Kind == "Revision"
	}
	return false
}

// podSelector selects the pods of a live workload. For Knative these are the pods of the newest revision.
func podSelector(live *unstructured.Unstructured) labels.Selector {
	if live.GroupVersionKind().Group == "serving.knative.dev" {
		revision, _, _ := unstructured.NestedString(live.Object, "status", "latestCreatedRevisionName")
		if live.GetKind() == "Revision" {
			revision = live.GetName()
		}
		if revision == "" {
			return labels.Nothing()
		}
		return labels.SelectorFromSet(labels.Set{"serving.knative.dev/revision": revision})
	}
	var selector metav1.LabelSelector
	raw, found, _ := unstructured.NestedMap(live.Object, "spec", "selector")
	if !found || runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &selector) != nil {
		return labels.Nothing()
	}
	s, err := metav1.LabelSelectorAsSelector(&selector)
	if err != nil {
		return labels.Nothing()
	}
	return s
}

// podsOf returns the workload's pods that the watches have seen, newest first, without those being deleted.
func (v *snapshot) podsOf(live *unstructured.Unstructured) []*corev1.Pod {
	var pods []*corev1.Pod
	if !HasPods(live) {
		return nil
	}
	selector := podSelector(live)
	for _, obj := range v.known[podsIn(live.GetNamespace())] {
		mine := selector.Matches(labels.Set(obj.GetLabels())) || live.GetKind() == "Pod" && live.GetName() == obj.GetName()
		pod := &corev1.Pod{}
		if mine && obj.GetDeletionTimestamp() == nil && runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, pod) == nil {
			pods = append(pods, pod)
		}
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return pods
}

// current reports whether a pod is of the workload's newest template. A pod that a rollout will replace must not fail the
// rollout.
func (v *snapshot) current(live *unstructured.Unstructured, pod *corev1.Pod) bool {
	by := metav1.GetControllerOf(pod)
	switch {
	case live.GetKind() == "StatefulSet":
		newest, _, _ := unstructured.NestedString(live.Object, "status", "updateRevision")
		return newest == "" || pod.Labels[appsv1.ControllerRevisionHashLabelKey] == newest
	case live.GetKind() == "Deployment" && by != nil && by.Kind == "ReplicaSet":
		const revision = "deployment.kubernetes.io/revision"
		rs := v.known[replicaSetsIn(pod.Namespace)][by.Name]
		return rs != nil && rs.GetAnnotations()[revision] == live.GetAnnotations()[revision]
	}
	return true
}

// lastEvent returns the newest event about a pod, or nil.
func (v *snapshot) lastEvent(pod *corev1.Pod) *corev1.Event {
	var newest *corev1.Event
	for _, obj := range v.known[eventsIn(pod.Namespace)] {
		if uid, _, _ := unstructured.NestedString(obj.Object, "involvedObject", "uid"); uid != string(pod.UID) {
			continue
		}
		e := &corev1.Event{}
		if runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, e) == nil && (newest == nil || timeOf(newest).Before(timeOf(e))) {
			newest = e
		}
	}
	return newest
}

func timeOf(e *corev1.Event) time.Time {
	if e.EventTime.After(e.LastTimestamp.Time) {
		return e.EventTime.Time
	}
	return e.LastTimestamp.Time
}
