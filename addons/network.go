package addons

import (
	"context"
	"errors"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// network does what a cloud and a network plugin do elsewhere, or says that nobody does.
func network() Addon {
	return Addon{
		Name:       "network",
		Summary:    "addresses for Services of type LoadBalancer, and a way to them by the lab's one port",
		StartAfter: []string{"istio"}, // its kinds
		Images:     []string{"agent"},
		Verify:     verifyNetwork,
	}
}

func verifyNetwork(ctx context.Context, env Env, reason func(string)) error {
	err := use(ctx, env, reason, "waiting for the address of a Service", "network", func(_ context.Context, live *unstructured.Unstructured) error {
		addresses, _, err := unstructured.NestedSlice(live.Object, "status", "loadBalancer", "ingress")
		if err == nil && len(addresses) == 0 {
			err = errors.New("it has none")
		}
		return err
	})
	if err != nil {
		return err
	}
	return poll(ctx, reason, "asking for a NetworkPolicy by dry run", func(ctx context.Context) error {
		return refused(ctx, env, "network", "enforces no NetworkPolicies")
	})
}
