package kube

import (
	"context"
	"fmt"
	"time"

	coordination "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

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
