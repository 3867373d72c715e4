package kube

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	crashes  = 5                // restarts under one's eyes after which a crash loop is taken for final
	patience = 20 * time.Second // for the scheduler: a node that has just joined is tainted for some seconds
	logLines = 10               // of a failed container, in the error
)

// Pods lists the pods of a namespace that have all of labels, Terminating ones too. No such pod is no error.
func (c *Client) Pods(ctx context.Context, ns string, labels map[string]string) ([]corev1.Pod, error) {
	var list corev1.PodList
	if err := c.List(ctx, &list, client.InNamespace(ns), client.MatchingLabels(labels)); err != nil {
		return nil, fmt.Errorf("listing pods of namespace %s: %w", ns, err)
	}
	return list.Items, nil
}

// Watch tells every change of list's kind in a namespace from now on, until ctx ends, Stop is called, or the server ends it: it does
// not begin again, so that whoever counts changes knows when some may be missing.
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

// trouble is why a pod is not ready. Final ones time does not mend: an image that does not exist or may not be pulled, an invalid
// image name, a missing ConfigMap or Secret, a crash loop, being out of memory, no node that would take it.
type trouble struct {
	text      string // "" when there is none
	final     bool
	pod       string
	container string // whose log tells more; "" when it never ran
	previous  bool   // the log is that of the run before
}

// diagnose reads a pod's status at the time now; last is the newest event about it (nil: none). before is how often its
// containers had restarted when it was first looked at: with each start of a stopped node they have done so more often.
func diagnose(pod *corev1.Pod, last *corev1.Event, now time.Time, before map[string]int32) trouble {
	var t trouble
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return trouble{text: "unschedulable: " + c.Message, final: now.Sub(c.LastTransitionTime.Time) > patience}
		}
	}
	inits := len(pod.Status.InitContainerStatuses)
	for i, c := range append(append([]corev1.ContainerStatus{}, pod.Status.InitContainerStatuses...), pod.Status.ContainerStatuses...) {
		ended := c.State.Terminated
		if ended != nil && ended.ExitCode == 0 || i >= inits && c.Ready || i < inits && ended == nil && c.Started != nil && *c.Started {
			continue // well, or an init container (a sidecar) that lets the others start
		}
		found := inspect(c, last, before[c.Name])
		if t.text == "" || found.final && !t.final {
			found.pod, found.text = pod.Name, "container "+c.Name+": "+found.text
			t = found
		}
	}
	if t.text == "" && pod.Status.Phase == corev1.PodFailed {
		t.text = strings.TrimSpace(pod.Status.Reason + " " + pod.Status.Message) // evicted, for one
	}
	return t
}

func inspect(c corev1.ContainerStatus, last *corev1.Event, restarts int32) trouble {
	before := c.LastTerminationState.Terminated
	if before != nil && before.Reason == "OOMKilled" {
		return trouble{text: "OOMKilled: it needs more memory than its limit", final: true, container: c.Name, previous: c.State.Terminated == nil}
	}
	switch now := c.State; {
	case now.Terminated != nil && now.Terminated.Reason == "OOMKilled":
		return trouble{text: "OOMKilled: it needs more memory than its limit", final: true, container: c.Name}
	case now.Terminated != nil:
		return trouble{text: fmt.Sprintf("ended with exit code %d", now.Terminated.ExitCode), container: c.Name}
	case now.Waiting == nil:
		if last != nil && last.Reason == "Unhealthy" && about(last, c.Name) {
			return trouble{text: "runs, not ready: " + line(last.Message), container: c.Name}
		}
		return trouble{text: "runs, not ready", container: c.Name}
	}
	waits := *c.State.Waiting
	said := join(": ", waits.Reason, line(waits.Message))
	switch waits.Reason {
	case "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError":
		return trouble{text: said, final: true}
	case "ErrImagePull", "ImagePullBackOff":
		return trouble{text: fmt.Sprintf("cannot pull %s: %s", c.Image, said), final: missing(c.Image, waits.Message)}
	case "CrashLoopBackOff":
		t := trouble{text: fmt.Sprintf("CrashLoopBackOff after %d restarts", c.RestartCount), final: c.RestartCount-restarts >= crashes, container: c.Name, previous: true}
		if before != nil {
			t.text += fmt.Sprintf(", exit code %d", before.ExitCode)
		}
		return t
	case "ContainerCreating", "PodInitializing", "":
		switch {
		case last == nil || !about(last, c.Name):
			return trouble{text: "starting"}
		case last.Reason == "Pulling":
			return trouble{text: "pulling " + strings.Trim(strings.TrimPrefix(last.Message, "Pulling image "), `"`)}
		case last.Type == corev1.EventTypeWarning: // a volume that cannot be mounted says so only in an event
			return trouble{text: "starting: " + last.Reason + ": " + line(last.Message)}
		}
		return trouble{text: "starting"}
	}
	return trouble{text: said}
}

// about tells whether an event concerns a container: its own, or the whole pod.
func about(e *corev1.Event, container string) bool {
	return e.InvolvedObject.FieldPath == "" || strings.Contains(e.InvolvedObject.FieldPath, "{"+container+"}")
}

// missing tells an image that will not appear from a registry that may answer later. No registry answers for kind.local:
// its images are loaded into the node, and one that has to be pulled was not.
func missing(image, message string) bool {
	text := strings.ToLower(message)
	for _, sign := range []string{"not found", "manifest unknown", "does not exist", "pull access denied", "name unknown"} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return strings.HasPrefix(image, "kind.local/")
}

// line is the first line of a text, at most 300 bytes of it.
func line(text string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if len(first) > 300 {
		return strings.ToValidUTF8(first[:300], "") + "…"
	}
	return first
}

// logsOf is the end of an error: the last log lines of the container in trouble, "" when it has none.
func (c *Client) logsOf(ctx context.Context, ns string, t trouble) string {
	if t.container == "" {
		return ""
	}
	text, err := c.podLogs(ctx, ns, t.pod, t.container, logLines, t.previous)
	if text = strings.TrimSpace(text); err != nil || text == "" {
		return ""
	}
	return fmt.Sprintf("\nlast log lines of %s container %s:\n  %s", t.pod, t.container, strings.ReplaceAll(text, "\n", "\n  "))
}

// HasPods tells whether obj's readiness is that of pods.
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

// podSelector selects the pods of a live workload; Knative's by the labels that it gives to the pods of the newest revision.
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

// podsOf are the workload's pods as the watches have seen them, newest first, without those being deleted.
func (v *view) podsOf(live *unstructured.Unstructured) []*corev1.Pod {
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
	sort.Slice(pods, func(i, j int) bool {
		a, b := pods[i], pods[j]
		if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
			return b.CreationTimestamp.Before(&a.CreationTimestamp)
		}
		return a.Name < b.Name
	})
	return pods
}

// current tells whether a pod is of the workload's newest template: one that a rollout is about to replace must not fail the rollout.
func (v *view) current(live *unstructured.Unstructured, pod *corev1.Pod) bool {
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

// lastEvent is the newest event about a pod, nil when there is none.
func (v *view) lastEvent(pod *corev1.Pod) *corev1.Event {
	var newest *corev1.Event
	for _, obj := range v.known[eventsIn(pod.Namespace)] {
		if uid, _, _ := unstructured.NestedString(obj.Object, "involvedObject", "uid"); uid != string(pod.UID) {
			continue
		}
		e := &corev1.Event{}
		if runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, e) == nil && (newest == nil || when(newest).Before(when(e))) {
			newest = e
		}
	}
	return newest
}

func when(e *corev1.Event) time.Time {
	if e.EventTime.After(e.LastTimestamp.Time) {
		return e.EventTime.Time
	}
	return e.LastTimestamp.Time
}
