package kube

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestWhatEndedSinceATimeIsListed(t *testing.T) {
	since := time.Date(2026, 11, 29, 12, 0, 0, 400_000_000, time.UTC)
	ended := func(second int, reason string, code int32) *corev1.ContainerStateTerminated {
		return &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(since.Truncate(time.Second).Add(time.Duration(second) * time.Second)), Reason: reason, ExitCode: code}
	}
	container := func(now, before *corev1.ContainerStateTerminated) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: "app", State: corev1.ContainerState{Terminated: now}, LastTerminationState: corev1.ContainerState{Terminated: before}}
	}
	evicted := func(second int) corev1.PodStatus {
		return corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "The node was low on resource: memory.\nmore", Conditions: []corev1.PodCondition{
			{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: ended(second, "", 0).FinishedAt},
		}}
	}
	for _, c := range []struct {
		name    string
		status  corev1.PodStatus
		deleted bool
		want    []string
	}{
		{"it runs", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{container(nil, nil)}}, false, nil},
		{"it was killed for its memory", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{container(nil, ended(5, "OOMKilled", 137))}}, false,
			[]string{"Pod/a/p container app ended at 12:00:05: OOMKilled, exit code 137"}},
		{"in the same second", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{container(nil, ended(0, "Error", 1))}}, false,
			[]string{"Pod/a/p container app ended at 12:00:00: Error, exit code 1"}},
		{"before", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{container(nil, ended(-1, "OOMKilled", 137))}}, false, nil},
		{"it waits to start again", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{container(ended(9, "Error", 2), ended(3, "Error", 2))}}, false,
			[]string{"Pod/a/p container app ended at 12:00:09: Error, exit code 2"}},
		{"a sidecar", corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{container(nil, ended(2, "Completed", 0))}}, false,
			[]string{"Pod/a/p container app ended at 12:00:02: Completed, exit code 0"}},
		{"an init container did its work", corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{container(ended(2, "Completed", 0), nil)}}, false, nil},
		{"a Job is done", corev1.PodStatus{Phase: corev1.PodSucceeded, ContainerStatuses: []corev1.ContainerStatus{container(ended(2, "Completed", 0), ended(1, "Error", 1))}}, false, nil},
		{"it is deleted", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{container(ended(2, "Error", 143), nil)}}, true, nil},
		{"evicted", evicted(7), false, []string{"Pod/a/p was evicted at 12:00:07: The node was low on resource: memory."}},
		{"evicted before", evicted(-7), false, nil},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}, Status: c.status}
		if c.deleted {
			pod.DeletionTimestamp = &metav1.Time{Time: since}
		}
		if got := restartsOf(pod, since.Truncate(time.Second)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
