package kube

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
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
	var beside sync.WaitGroup
	defer beside.Wait() // or its last call could meet a new namespace of that name
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	beside.Go(func() { c.hurry(ctx, name) })
	return c.remove(ctx, []*unstructured.Unstructured{ns}, reason)
}

// hurryEvery is how often a namespace that goes is looked at again.
const hurryEvery = 500 * time.Millisecond

// hurry shortens the end of a namespace until ctx ends. Its controller looks again only after half of the longest grace
// period of the pods it found (Knative's is 300 s), or when the namespace changes: so pods get no grace, and it a change.
// https://github.com/kubernetes/kubernetes/blob/v1.34.4/pkg/controller/namespace/namespace_controller.go
func (c *Client) hurry(ctx context.Context, name string) {
	tick := time.NewTicker(hurryEvery)
	defer tick.Stop()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// Errors show in the wait that this is beside of.
		_ = c.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(name), client.GracePeriodSeconds(0))
		_ = c.Patch(ctx, ns, client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{"mllab/hurry":"%d"}}}`, n)))
	}
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
	for _, c := range Conditions(live) { // of a namespace: https://pkg.go.dev/k8s.io/api/core/v1#NamespaceConditionType, True means trouble
		if live.GetKind() == "Namespace" && c.True() {
			held = append(held, c.Message)
		}
	}
	if finalizers := live.GetFinalizers(); len(finalizers) > 0 {
		held = append(held, "finalizers "+strings.Join(finalizers, ", "))
	}
	return join(", ", append([]string{"being deleted"}, held...)...), nil
}
