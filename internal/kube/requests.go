package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/component-helpers/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Requests has the resource requests of a cluster's pods and the capacity of its
// nodes: CPU in thousandths of a core, memory in bytes.
type Requests struct {
	CPU            int64 `json:"cpuMillis"`
	CPUCapacity    int64 `json:"cpuCapacityMillis"`
	Memory         int64 `json:"memoryBytes"`
	MemoryCapacity int64 `json:"memoryCapacityBytes"`
	// Cordoned is a node on which no new pod can start, because of kubectl's cordon or drain.
	Cordoned string `json:"cordoned,omitempty"`
}

// Requests adds up what `kubectl describe node` calls allocated resources: the
// requests, as the scheduler counts them, of each pod that has not ended.
func (c *Client) Requests(ctx context.Context) (r Requests, err error) {
	var nodes corev1.NodeList
	if err := c.List(ctx, &nodes); err != nil {
		return r, fmt.Errorf("listing nodes: %w", err)
	}
	for _, n := range nodes.Items {
		r.CPUCapacity += n.Status.Allocatable.Cpu().MilliValue()
		r.MemoryCapacity += n.Status.Allocatable.Memory().Value()
		if n.Spec.Unschedulable {
			r.Cordoned = n.Name
		}
	}
	var pods corev1.PodList
	unended := fields.AndSelectors(
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)))
	if err := c.List(ctx, &pods, client.MatchingFieldsSelector{Selector: unended}); err != nil {
		return r, fmt.Errorf("listing pods: %w", err)
	}
	for i := range pods.Items {
		asked := resource.PodRequests(&pods.Items[i], resource.PodResourcesOptions{})
		r.CPU += asked.Cpu().MilliValue()
		r.Memory += asked.Memory().Value()
	}
	return r, nil
}
