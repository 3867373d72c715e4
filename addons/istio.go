package addons

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/mesh"
	"mllab.local/internal/probe"
	"mllab.local/internal/proxy"
	"mllab.local/manifests"
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
		Render:    istioObjects,
		PostApply: addressOfGateway,
		// Envoy's first connection to istiod may take seconds once one has failed.
		Last:   mesh.Gateway,
		Verify: verifyIstio,
	}
}

func istioObjects(im Images) ([]*unstructured.Unstructured, error) {
	pilot, err := im.get("istio-pilot")
	if err != nil {
		return nil, err
	}
	proxy, err := im.get("istio-proxyv2")
	if err != nil {
		return nil, err
	}
	objs, err := mesh.Render(mesh.Options{Operator: manifests.Istio, PilotImage: pilot, ProxyImage: proxy})
	if err != nil {
		return nil, err
	}
	for _, o := range objs {
		if o.GetKind() != "Deployment" {
			continue
		}
		if err := eachContainer(o, quickProbe); err != nil {
			return nil, err
		}
	}
	return append([]*unstructured.Unstructured{namespace(mesh.Namespace)}, objs...), nil
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
		if err := env.Kube.Get(ctx, client.ObjectKey{Namespace: mesh.Namespace, Name: mesh.Gateway}, &svc); err != nil {
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

// nodeAddress is the first internal IP of a node.
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
	return verifyValidation(ctx, env, reason)
}

// verifyInjection creates a pod by dry run and looks for the sidecar in what
// comes back.
func verifyInjection(ctx context.Context, env Env, reason func(string)) error {
	return poll(ctx, reason, "having a sidecar injected by dry run", func(ctx context.Context) error {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "mllab-verify", Labels: map[string]string{"sidecar.istio.io/inject": "true"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "kind.local/none"}}},
		}
		if err := env.Kube.Create(ctx, pod, client.DryRunAll); err != nil {
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
func verifyGateway(ctx context.Context, env Env, reason func(string)) (err error) {
	marker := uuid.NewString()
	host := "verify." + Domain
	const name = "mllab-verify"
	const networking = "networking.istio.io/v1"
	objs := []*unstructured.Unstructured{
		object(networking, "Gateway", mesh.Namespace, name, map[string]any{"spec": map[string]any{
			"selector": map[string]any{"istio": "ingressgateway"},
			"servers": []any{map[string]any{
				"port":  map[string]any{"number": int64(80), "name": "http", "protocol": "HTTP"},
				"hosts": []any{host},
			}},
		}}),
		object(networking, "VirtualService", mesh.Namespace, name, map[string]any{"spec": map[string]any{
			"hosts":    []any{host},
			"gateways": []any{name},
			"http": []any{map[string]any{
				"directResponse": map[string]any{"status": int64(200), "body": map[string]any{"string": marker}},
			}},
		}}),
	}
	defer func() {
		// Also after ^C: nothing of this may stay.
		cctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer stop()
		if cleanup := env.Kube.Delete(cctx, objs); cleanup != nil && err == nil {
			err = fmt.Errorf("removing the route that was verified with: %w", cleanup)
		}
	}()
	if _, err := env.Kube.Apply(ctx, objs); err != nil {
		return err
	}
	err = poll(ctx, reason, "asking the gateway for a route of its own", func(ctx context.Context) error {
		a := env.Send.Send(ctx, probe.Request{URL: env.Gateway, Host: host, Fresh: true})
		if a.Err != "" {
			return fmt.Errorf("%s: %s", env.Gateway, a.Err)
		}
		if a.Status != 200 || !strings.Contains(a.Body, marker) {
			return fmt.Errorf("%s: status %d, not the route's answer yet", env.Gateway, a.Status)
		}
		return nil
	})
	if err == nil {
		return nil
	}
	if list, asking := proxy.Rejections(ctx, env.Kube); asking == nil && len(list) > 0 {
		return fault.Hinted(fmt.Errorf("%w: %w", err, list[0]), list[0].Hint())
	}
	return err
}

// verifyValidation has istiod refuse, by dry run, a route whose pattern no proxy can compile: it would stop the gateway's
// configuration for everybody.
func verifyValidation(ctx context.Context, env Env, reason func(string)) error {
	return poll(ctx, reason, "asking istiod for a route with a bad pattern by dry run", func(ctx context.Context) error {
		err := env.Kube.Create(ctx, object("networking.istio.io/v1", "VirtualService", "default", "mllab-verify", map[string]any{"spec": map[string]any{
			"hosts": []any{"verify." + Domain},
			"http": []any{map[string]any{
				"match": []any{map[string]any{"uri": map[string]any{"regex": "(?!a)"}}},
				"route": []any{map[string]any{"destination": map[string]any{"host": "nobody"}}},
			}},
		}}), client.DryRunAll)
		if err == nil {
			return fmt.Errorf("it was accepted")
		}
		if !strings.Contains(err.Error(), "(?!") {
			return err
		}
		return nil
	})
}

// Restarted repairs a cluster whose node was stopped and runs again, as soon as its API answers. The gateway's pod gets
// another address, but its record still has the old one. Knative's net-gateway-api would ask the old address for ever whether
// routes are active: it drops an address only when a pod with this address is deleted. So Restarted deletes the pod and the
// objects with its address before that controller starts; new ones replace them.
func Restarted(ctx context.Context, c *kube.Client) error {
	err := c.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(mesh.Namespace), client.MatchingLabels{"app": mesh.Gateway}, client.GracePeriodSeconds(0))
	if err != nil {
		return fmt.Errorf("removing the gateway's pod of before: %w", err)
	}
	addresses := &unstructured.Unstructured{} // of all Services that select it
	addresses.SetAPIVersion("v1")
	addresses.SetKind("Endpoints")
	if err := c.DeleteAllOf(ctx, addresses, client.InNamespace(mesh.Namespace)); err != nil {
		return fmt.Errorf("removing the gateway's addresses of before: %w", err)
	}
	return nil
}
