package scenarios

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// rolledOut returns when the rollout of a version of a Deployment is done, or is stuck
// with one of its containers running: one that never ran proves nothing about probes.
func (l *Session) rolledOut(ctx context.Context, name, version string) error {
	return l.until(ctx, "the rollout to be stuck or done", func() string {
		var d appsv1.Deployment
		if err := l.Kube.Get(ctx, client.ObjectKey{Namespace: l.Namespace, Name: name}, &d); err != nil {
			return err.Error()
		}
		pods, err := l.Kube.Pods(ctx, l.Namespace, map[string]string{"app": name, "version": version})
		want := *d.Spec.Replicas
		switch {
		case err != nil:
			return err.Error()
		case d.Status.ObservedGeneration < d.Generation || !slices.ContainsFunc(pods, runs):
			return "no pod of " + version + " runs yet"
		case d.Status.UpdatedReplicas == want && d.Status.AvailableReplicas == want && d.Status.Replicas == want:
			return ""
		}
		// https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#failed-deployment
		if slices.ContainsFunc(d.Status.Conditions, func(c appsv1.DeploymentCondition) bool {
			return c.Type == appsv1.DeploymentProgressing && c.Reason == "ProgressDeadlineExceeded"
		}) {
			return ""
		}
		return fmt.Sprintf("%d of %d pods are %s's", d.Status.UpdatedReplicas, want, version)
	})
}

// runs reports whether a container of a pod does.
func runs(p corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.State.Running != nil })
}
