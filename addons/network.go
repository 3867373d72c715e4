package addons

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/manifests"
)

const networkNamespace = "lab-network"

// network does what a cloud and a network plugin do elsewhere, or says that nobody does.
func network() Addon {
	return Addon{
		Name:    "network",
		Summary: "addresses for Services of type LoadBalancer, and a way to them by the lab's one port",
		Needs:   []string{"istio"},
		Images:  []string{"agent"},
		Render:  networkObjects,
		Verify:  verifyNetwork,
	}
}

func networkObjects(im Images) ([]*unstructured.Unstructured, error) {
	objs, err := ours(im, manifests.Network, "agent")
	if err != nil {
		return nil, fmt.Errorf("manifests/network.yaml: %w", err)
	}
	return append([]*unstructured.Unstructured{namespace(networkNamespace)}, objs...), nil
}

// verifyNetwork has a Service of type LoadBalancer given an address, and a NetworkPolicy refused.
func verifyNetwork(ctx context.Context, env Env, reason func(string)) error {
	service := object("v1", "Service", verifyNamespace, verifyName+"-address", map[string]any{"spec": map[string]any{
		"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": []any{map[string]any{"port": int64(80)}},
	}})
	err := use(ctx, env, reason, "waiting for the address of a Service", []*unstructured.Unstructured{service}, func(ctx context.Context) error {
		var live corev1.Service
		if err := env.Kube.Get(ctx, client.ObjectKeyFromObject(service), &live); err != nil {
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
		err := env.Kube.Create(ctx, object("networking.k8s.io/v1", "NetworkPolicy", verifyNamespace, verifyName, map[string]any{
			"spec": map[string]any{"podSelector": map[string]any{}},
		}), client.DryRunAll)
		if err == nil {
			return errors.New("it was accepted, and nobody enforces it")
		}
		if !strings.Contains(err.Error(), "enforces no NetworkPolicies") {
			return err
		}
		return nil
	})
}
