package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Trouble is what a cluster says of itself to whoever looks for the cause of a failure.
type Trouble struct {
	Pods    []TroubledPod
	Events  []string // the oldest first, one line each
	Secrets []string // the values in the data of all Secrets: they must not leave this process
}

// TroubledPod is a pod that is not ready, and has not ended well.
type TroubledPod struct {
	Namespace, Name, Why string
	Final                bool              // waiting does not repair it
	Age                  time.Duration     // since it was created
	Logs                 map[string]string // container, or container.previous -> the last lines
}

// public are the keys in a Secret's data whose values are no secret, and are in many texts.
var public = []string{"namespace", "username", "ca.crt", "description", "expiration", "auth-extra-groups"}

// Trouble returns the pods that are not ready with the last lines of their logs, all events, and what is secret. A log
// that cannot be read is left out: its container may never have run.
func (c *Client) Trouble(ctx context.Context, lines int64) (t Trouble, err error) {
	var secrets corev1.SecretList
	var events corev1.EventList
	if err := c.List(ctx, &secrets); err != nil {
		return t, fmt.Errorf("listing Secrets: %w", err)
	}
	if err := c.List(ctx, &events); err != nil {
		return t, fmt.Errorf("listing events: %w", err)
	}
	pods, err := c.Pods(ctx, "", nil)
	if err != nil {
		return t, err
	}
	for _, s := range secrets.Items {
		for key, value := range s.Data {
			if !slices.Contains(public, key) {
				t.Secrets = append(t.Secrets, string(value))
			}
		}
	}
	now := time.Now()
	slices.SortStableFunc(events.Items, func(a, b corev1.Event) int { return timeOf(&a).Compare(timeOf(&b)) })
	newest := map[string]*corev1.Event{}
	for i := range events.Items {
		e := &events.Items[i]
		newest[string(e.InvolvedObject.UID)] = e
		t.Events = append(t.Events, fmt.Sprintf("%s %-7s %s/%s/%s %s: %s", timeOf(e).UTC().Format(time.RFC3339), e.Type,
			e.InvolvedObject.Kind, e.InvolvedObject.Namespace, e.InvolvedObject.Name, e.Reason, strings.ReplaceAll(e.Message, "\n", " ")))
	}
	for i := range pods {
		pod := &pods[i]
		found := diagnose(pod, newest[string(pod.UID)], now, nil)
		if found.text == "" {
			continue
		}
		p := TroubledPod{Namespace: pod.Namespace, Name: pod.Name, Why: found.text, Final: found.final, Age: now.Sub(pod.CreationTimestamp.Time), Logs: map[string]string{}}
		for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			for name, previous := range map[string]bool{container.Name: false, container.Name + ".previous": true} {
				if text, err := c.podLogs(ctx, pod.Namespace, pod.Name, container.Name, lines, previous); err == nil && text != "" {
					p.Logs[name] = text
				}
			}
		}
		t.Pods = append(t.Pods, p)
	}
	return t, nil
}
