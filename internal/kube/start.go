package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	coordination "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// answerLimit is the time for one answer of an API that may be starting.
const answerLimit = 5 * time.Second

// Answers returns nil when the API answers anything, be it a refusal. A Client's first request for a kind asks for all kinds
// of the API without a context, and would outlast ctx while nobody answers.
// (sigs.k8s.io/controller-runtime, pkg/client/apiutil/restmapper.go.)
func (c *Client) Answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	err := c.core.RESTClient().Get().AbsPath("/version").Do(ctx).Error()
	if answer := apierrors.APIStatus(nil); errors.As(err, &answer) {
		return nil
	}
	return err
}

// Serves returns nil when the API is ready to be written to. It does not wait for what the server itself writes a second later:
// its own roles, which a lab's etcd has from the start, and the priority classes of kube-system's pods, which cannot run yet.
// https://kubernetes.io/docs/reference/using-api/health-checks/
func (c *Client) Serves(ctx context.Context) error {
	return c.core.RESTClient().Get().AbsPath("/readyz").Param("exclude", "poststarthook/rbac/bootstrap-roles").
		Param("exclude", "poststarthook/scheduling/bootstrap-system-priority-classes").Do(ctx).Error()
}

// DropLeases removes the leader election leases that were last renewed before the given time, when the whole cluster
// was stopped. Nobody holds them any more, but controllers that start again would wait until they expire (Knative's after
// 60 s). The nodes' own leases stay: they are heartbeats.
func (c *Client) DropLeases(ctx context.Context, before time.Time) error {
	var leases coordination.LeaseList
	if err := c.List(ctx, &leases); err != nil {
		return fmt.Errorf("listing leases: %w", err)
	}
	for i := range leases.Items {
		l := &leases.Items[i]
		if l.Namespace == corev1.NamespaceNodeLease || l.Spec.RenewTime == nil || !l.Spec.RenewTime.Time.Before(before) {
			continue
		}
		if err := c.Client.Delete(ctx, l, client.Preconditions{ResourceVersion: &l.ResourceVersion}); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("removing %s: %w", Name(l), err)
		}
	}
	return nil
}
