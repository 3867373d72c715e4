package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	coordination "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// Admits returns nil when the API answers and lets those in who need more than the rights of system:masters: Kubernetes' own
// roles are written. Whoever writes to the API before that delays them, and all who wait for them.
func (c *Client) Admits(ctx context.Context) error {
	return c.core.RESTClient().Get().AbsPath("/readyz/poststarthook/rbac/bootstrap-roles").Do(ctx).Error()
}

// CreateAccounts creates the service accounts of Kubernetes' controllers, which its own roles are bound to. The
// controller manager would create them one after the other, with three requests each, before its first controller works,
// and until then nobody makes a pod. What is not created here it still creates.
// https://github.com/kubernetes/kubernetes/blob/v1.36.0/staging/src/k8s.io/controller-manager/pkg/clientbuilder/client_builder_dynamic.go
func (c *Client) CreateAccounts(ctx context.Context) error {
	var bindings rbacv1.ClusterRoleBindingList
	if err := c.List(ctx, &bindings, client.MatchingLabels{"kubernetes.io/bootstrapping": "rbac-defaults"}); err != nil {
		return err
	}
	var g errgroup.Group
	for _, b := range bindings.Items {
		for _, s := range b.Subjects {
			if strings.HasPrefix(b.Name, "system:controller:") && s.Kind == rbacv1.ServiceAccountKind && s.Namespace == metav1.NamespaceSystem {
				g.Go(func() error {
					account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name}}
					return client.IgnoreAlreadyExists(c.Create(ctx, account))
				})
			}
		}
	}
	return g.Wait()
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
