package kube

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

func TestRequestsAreThoseOfPodsAndNameACordonedNode(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Ki")},
	}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}},
	}}}}
	for want, unschedulable := range map[string]bool{"": false, "n": true} {
		node.Spec.Unschedulable = unschedulable
		// The fake knows no selector that excludes.
		c := Client{Client: fake.NewClientBuilder().WithObjects(node.DeepCopy(), pod.DeepCopy()).WithInterceptorFuncs(interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, _ ...client.ListOption) error {
				return c.List(ctx, l)
			},
		}).Build()}
		r, err := c.Requests(t.Context())
		if err != nil || r != (Requests{CPU: 100, CPUCapacity: 2000, MemoryCapacity: 1024, Cordoned: want}) {
			t.Errorf("%+v, %v", r, err)
		}
	}
}
