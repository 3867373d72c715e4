package addons

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
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
	objs, err := verification("network")
	if err != nil {
		return err
	}
	err = use(ctx, env, reason, "waiting for the address of a Service", objs, func(ctx context.Context) error {
		var live corev1.Service
		if err := env.Kube.Get(ctx, client.ObjectKeyFromObject(objs[0]), &live); err != nil {
			return err
		}
		if len(live.Status.LoadBalancer.Ingress) == 0 {
			return errors.New("it has none")
		}
		return nil
	})
	if err != nil {
		return err
	}
	return poll(ctx, reason, "asking for a NetworkPolicy by dry run", func(ctx context.Context) error {
		return refused(ctx, env, "network", "enforces no NetworkPolicies")
	})
}
