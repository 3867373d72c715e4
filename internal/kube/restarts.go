package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Restarts lists what has happened since a time to the pods of the namespaces that in picks, one line each: containers
// that have ended and were started again, such as after the kernel killed one that needed too much memory, and pods that
// the kubelet has evicted. A pod that was deleted is not listed, nor one that has done its work.
func (c *Client) Restarts(ctx context.Context, in func(*corev1.Namespace) bool, since time.Time) (list []string, err error) {
	var namespaces corev1.NamespaceList
	if err := c.List(ctx, &namespaces); err != nil {
		return nil, fmt.Errorf("listing namespaces: %w", err)
	}
	pods, err := c.Pods(ctx, "", nil)
	if err != nil {
		return nil, err
	}
	for i := range pods {
		pod := &pods[i]
		if slices.ContainsFunc(namespaces.Items, func(ns corev1.Namespace) bool { return ns.Name == pod.Namespace && in(&ns) }) {
			list = append(list, restartsOf(pod, since.Truncate(time.Second))...) // the kubelet's times are whole seconds
		}
	}
	slices.Sort(list)
	return list, nil
}

func restartsOf(pod *corev1.Pod, since time.Time) (list []string) {
	if pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded {
		return nil
	}
	for _, c := range pod.Status.Conditions {
		if pod.Status.Phase == corev1.PodFailed && c.Type == corev1.DisruptionTarget && !c.LastTransitionTime.Time.Before(since) {
			list = append(list, fmt.Sprintf("%s was evicted at %s: %s", Name(pod), c.LastTransitionTime.Format(time.TimeOnly), strings.TrimSpace(firstLine(pod.Status.Message))))
		}
	}
	for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		ended := c.State.Terminated
		if ended == nil || ended.ExitCode == 0 {
			ended = c.LastTerminationState.Terminated
		}
		if ended != nil && !ended.FinishedAt.Time.Before(since) {
			list = append(list, fmt.Sprintf("%s container %s ended at %s: %s, exit code %d", Name(pod), c.Name, ended.FinishedAt.Format(time.TimeOnly), ended.Reason, ended.ExitCode))
		}
	}
	return list
}
