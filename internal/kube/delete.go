package kube

import (
	"context"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Delete removes objs, in the reverse order of Apply, and returns when they are gone; absent ones already are.
// What an object owns (a Deployment's pods) is collected in the background and may outlive the call.
func (c *Client) Delete(ctx context.Context, objs []*unstructured.Unstructured) error {
	return c.remove(ctx, objs, nil)
}

// DeleteNamespace removes a namespace with all that is in it and returns when it is gone; an absent one already is.
// reason (nil: nobody listens) gets what is left in it, and which finalizers hold that, each time this changes; the error of a ctx that ends keeps it.
func (c *Client) DeleteNamespace(ctx context.Context, name string, reason func(string)) error {
	ns := &unstructured.Unstructured{}
	ns.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	ns.SetName(name)
	return c.remove(ctx, []*unstructured.Unstructured{ns}, reason)
}

func (c *Client) remove(ctx context.Context, objs []*unstructured.Unstructured, reason func(string)) error {
	byStage := staged(objs)
	for n := stages - 1; n >= 0; n-- {
		var asked []*unstructured.Unstructured
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(parallel)
		for _, obj := range byStage[n] {
			gvk := obj.GroupVersionKind()
			if _, err := c.RESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version); meta.IsNoMatchError(err) {
				continue // its CRD is gone, and it with that
			}
			asked = append(asked, obj)
			g.Go(func() error {
				return retry(gctx, obj, false, func() error {
					return client.IgnoreNotFound(c.Client.Delete(gctx, obj.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationBackground)))
				})
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if len(asked) == 0 {
			continue
		}
		if err := c.until(ctx, asked, reason, remains); err != nil {
			return err
		}
	}
	return nil
}

// remains says what holds an object that was asked to go. One without a deletion timestamp is a new one of the same name.
func remains(_ context.Context, _ *view, _, live *unstructured.Unstructured) (string, error) {
	if live == nil || live.GetDeletionTimestamp() == nil {
		return "", nil
	}
	var held []string
	conditions, _, _ := unstructured.NestedSlice(live.Object, "status", "conditions")
	for _, each := range conditions { // of a namespace: https://pkg.go.dev/k8s.io/api/core/v1#NamespaceConditionType, True means trouble
		if cond, ok := each.(map[string]any); ok && live.GetKind() == "Namespace" && cond["status"] == string(corev1.ConditionTrue) {
			message, _ := cond["message"].(string)
			held = append(held, message)
		}
	}
	if finalizers := live.GetFinalizers(); len(finalizers) > 0 {
		held = append(held, "finalizers "+strings.Join(finalizers, ", "))
	}
	return join(", ", append([]string{"being deleted"}, held...)...), nil
}
