package addons

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
	"mllab.local/internal/proxy"
)

// Names that others rely on.
const (
	istioNamespace = "istio-system"
	istioGateway   = "istio-ingressgateway" // Service and Deployment
)

// istio is istiod, sidecar injection and the one ingress gateway.
//
// It names no addon before it: istiod waits by itself for the Gateway API's
// CRDs, and without them it is still a mesh with VirtualServices.
func istio() Addon {
	return Addon{
		Name:      "istio",
		Summary:   "Istio: istiod, sidecar injection and the ingress gateway",
		Images:    []string{"istio-pilot", "istio-proxyv2"},
		PostApply: addressOfGateway,
		// Envoy's first connection to istiod may take seconds once one has failed.
		Last:   istioGateway,
		Verify: verifyIstio,
	}
}

// addressOfGateway does what a cloud's load balancer controller would: it
// gives the gateway's Service an address, the node's own, where kube-proxy
// then answers on port 80. Without one istiod never calls a Gateway on it
// Programmed. (istio.io/istio, pilot/pkg/config/kube/gateway/context.go,
// ResolveGatewayInstances.)
func addressOfGateway(ctx context.Context, env Env, reason func(string)) error {
	return poll(ctx, reason, "giving the gateway its address", func(ctx context.Context) error {
		ip, err := nodeAddress(ctx, env.Kube)
		if err != nil {
			return err
		}
		var svc corev1.Service
		if err := env.Kube.Get(ctx, client.ObjectKey{Namespace: istioNamespace, Name: istioGateway}, &svc); err != nil {
			return err
		}
		if slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool { return i.IP == ip }) {
			return nil
		}
		before := svc.DeepCopy()
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip}}
		return env.Kube.Status().Patch(ctx, &svc, client.MergeFrom(before))
	})
}

func nodeAddress(ctx context.Context, c client.Reader) (string, error) {
	var nodes corev1.NodeList
	if err := c.List(ctx, &nodes); err != nil {
		return "", fmt.Errorf("listing nodes: %w", err)
	}
	for _, n := range nodes.Items {
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				return a.Address, nil
			}
		}
	}
	return "", fmt.Errorf("no node has an internal IP yet")
}

// verifyIstio has a pod injected, a request answered by the gateway and a bad route refused.
func verifyIstio(ctx context.Context, env Env, reason func(string)) error {
	if err := verifyInjection(ctx, env, reason); err != nil {
		return err
	}
	if err := verifyGateway(ctx, env, reason); err != nil {
		return err
	}
	// A route whose pattern no proxy can compile would stop the gateway's configuration for everybody.
	return poll(ctx, reason, "asking istiod for a route with a bad pattern by dry run", func(ctx context.Context) error {
		return refused(ctx, env, "istio", "(?!")
	})
}

// verifyInjection creates a pod by dry run and looks for the sidecar in what
// comes back.
func verifyInjection(ctx context.Context, env Env, reason func(string)) error {
	return poll(ctx, reason, "having a sidecar injected by dry run", func(ctx context.Context) error {
		objs, err := manifest("istio/injected.yaml")
		if err != nil {
			return err
		}
		if err := env.Kube.Create(ctx, objs[0], client.DryRunAll); err != nil {
			return err
		}
		var pod corev1.Pod
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(objs[0].Object, &pod); err != nil {
			return err
		}
		// A native sidecar is an init container.
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			if c.Name == "istio-proxy" {
				return nil
			}
		}
		return fmt.Errorf("the pod came back without a sidecar")
	})
}

// verifyGateway gives the gateway a route that Envoy answers itself, under a
// Host and with a body that no earlier route had.
func verifyGateway(ctx context.Context, env Env, reason func(string)) error {
	marker := uuid.NewString()
	const host = "verify." + Domain
	err := use(ctx, env, reason, "asking the gateway for a route of its own", "istio", func(ctx context.Context, _ *unstructured.Unstructured) error {
		a := env.Send.Send(ctx, probe.Request{URL: env.Gateway, Host: host, Fresh: true})
		if a.Err != "" {
			return fmt.Errorf("%s: %s", env.Gateway, a.Err)
		}
		if a.Status != 200 || !strings.Contains(a.Body, marker) {
			return fmt.Errorf("%s: status %d, not the route's answer yet", env.Gateway, a.Status)
		}
		return nil
	}, "$(marker)", marker)
	if err == nil {
		return nil
	}
	if list, asking := proxy.Rejections(ctx, env.Kube); asking == nil && len(list) > 0 {
		return fault.Hinted(fmt.Errorf("%w: %w", err, list[0]), list[0].Hint())
	}
	return err
}

// Restarted repairs a cluster whose node was stopped and runs again, as soon as its API answers. The gateway's pod gets
// another address, but its record still has the old one. Knative's net-gateway-api would ask the old address for ever whether
// routes are active: it drops an address only when a pod with this address is deleted. So Restarted deletes the pod and the
// objects with its address before that controller starts; new ones replace them.
func Restarted(ctx context.Context, c *kube.Client) error {
	err := c.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(istioNamespace), client.MatchingLabels{"app": istioGateway}, client.GracePeriodSeconds(0))
	if err != nil {
		return fmt.Errorf("removing the gateway's pod of before: %w", err)
	}
	addresses := object("v1", "Endpoints", "", "") // of all Services that select it
	if err := c.DeleteAllOf(ctx, addresses, client.InNamespace(istioNamespace)); err != nil {
		return fmt.Errorf("removing the gateway's addresses of before: %w", err)
	}
	return nil
}
