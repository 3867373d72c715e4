package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Delete removes objs in the reverse order of Apply and returns when they are gone. Absent objects are no error.
// The objects that they own, such as a Deployment's pods, are collected in the background and may outlive the call.
func (c *Client) Delete(ctx context.Context, objs []*unstructured.Unstructured) error {
	return c.remove(ctx, objs, nil)
}

// DeleteNamespace removes a namespace with its contents and returns when it is gone. An absent namespace is no error.
// It calls reason (unless it is nil) each time the remaining contents or their finalizers change. When ctx ends, the error
// has the last reason.
func (c *Client) DeleteNamespace(ctx context.Context, name string, reason func(string)) error {
	ns := &unstructured.Unstructured{}
	ns.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	ns.SetName(name)
	var helper sync.WaitGroup
	defer helper.Wait() // or its last call could reach a new namespace of that name
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	helper.Go(func() { c.speedUpDelete(ctx, name) })
	return c.remove(ctx, []*unstructured.Unstructured{ns}, reason)
}

// speedUpInterval is the pause between two calls of speedUpDelete for a namespace.
const speedUpInterval = 500 * time.Millisecond

// speedUpDelete makes the namespace controller re-check sooner, until ctx ends. The controller re-checks only after half
// of the longest grace period of the pods (Knative's is 300 s), or when the namespace changes. So speedUpDelete deletes
// the pods without grace and changes an annotation of the namespace.
// https://github.com/kubernetes/kubernetes/blob/v1.36.5/pkg/controller/namespace/namespace_controller.go
func (c *Client) speedUpDelete(ctx context.Context, name string) {
	ns, n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, 0
	_ = wait.PollUntilContextCancel(ctx, speedUpInterval, false, func(ctx context.Context) (bool, error) {
		// The wait that runs at the same time reports such errors.
		_ = c.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(name), client.GracePeriodSeconds(0))
		_ = c.Patch(ctx, ns, client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{"mllab/hurry":"%d"}}}`, n)))
		n++
		return false, nil
	})
}

func (c *Client) remove(ctx context.Context, objs []*unstructured.Unstructured, reason func(string)) error {
	byStage := staged(objs)
	for n := stages - 1; n >= 0; n-- {
		asked := slices.DeleteFunc(byStage[n], func(obj *unstructured.Unstructured) bool { // whose CRD is gone: so is the object
			gvk := obj.GroupVersionKind()
			_, err := c.RESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
			return meta.IsNoMatchError(err)
		})
		err := inParallel(ctx, asked, func(ctx context.Context, _ int, obj *unstructured.Unstructured) error {
			return retry(ctx, obj, false, func() error {
				return client.IgnoreNotFound(c.Client.Delete(ctx, obj.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationBackground)))
			})
		})
		if err != nil {
			return err
		}
		if err := c.until(ctx, asked, reason, whyNotDeleted); err != nil {
			return err
		}
	}
	return nil
}

// whyNotDeleted returns what holds an object that is being deleted. One without a deletion timestamp is a new object of the
// same name.
func whyNotDeleted(_ context.Context, _ *snapshot, _, live *unstructured.Unstructured) (string, error) {
	if live == nil || live.GetDeletionTimestamp() == nil {
		return "", nil
	}
	var held []string
	for _, c := range Conditions(live) { // of a namespace: https://pkg.go.dev/k8s.io/api/core/v1#NamespaceConditionType, True means a problem
		if live.GetKind() == "Namespace" && c.True() {
			held = append(held, c.Message)
		}
	}
	if finalizers := live.GetFinalizers(); len(finalizers) > 0 {
		held = append(held, "finalizers "+strings.Join(finalizers, ", "))
	}
	return join(", ", append([]string{"being deleted"}, held...)...), nil
}
