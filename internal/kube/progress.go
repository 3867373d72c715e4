package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Progress returns a text that changes whenever a pod of the cluster makes progress: it is created, scheduled, pulls its
// image, starts, becomes ready, restarts or is removed. A caller can wait longer while the text changes.
func (c *Client) Progress(ctx context.Context) (string, error) {
	var list corev1.PodList
	if err := c.List(ctx, &list); err != nil {
		return "", fmt.Errorf("listing pods: %w", err)
	}
	return progressOf(list.Items), nil
}

func progressOf(pods []corev1.Pod) string {
	var lines []string
	for _, p := range pods {
		line := fmt.Sprint(p.UID, p.Status.Phase, p.DeletionTimestamp != nil)
		for _, c := range p.Status.Conditions {
			line += fmt.Sprint(" ", c.Type, c.Status)
		}
		for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			reason := ""
			if c.State.Waiting != nil {
				reason = c.State.Waiting.Reason
			}
			line += fmt.Sprint(" ", c.Name, c.Ready, c.RestartCount, c.State.Running != nil, c.State.Terminated != nil, reason)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
