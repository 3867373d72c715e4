// Package mesh renders Istio: its CRDs, istiod and one ingress gateway, from
// the charts that are embedded in Istio's own module, so the version is the
// one pinned in go.mod. It is the only importer of istio.io/istio, and of that
// only the charts: the operator's packages would bring in 1400 more for what
// three chart renderings do.
package mesh

import (
	"fmt"
	"io/fs"

	"istio.io/istio/manifests"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/chart"
)

// Names that others rely on.
const (
	Namespace = "istio-system"
	Gateway   = "istio-ingressgateway" // Service and Deployment
)

// Options are what a lab decides about its mesh; all must be set.
type Options struct {
	PilotImage, ProxyImage string // full references
	NodePortHTTP           int32  // of the gateway's port 80
}

// Render returns the objects of Istio, its namespace not among them. It needs
// no cluster, and the same options give the same objects.
func Render(o Options) ([]*unstructured.Unstructured, error) {
	if o.PilotImage == "" || o.ProxyImage == "" || o.NodePortHTTP == 0 {
		return nil, fmt.Errorf("rendering istio: pilot image %q, proxy image %q and node port %d must all be set", o.PilotImage, o.ProxyImage, o.NodePortHTTP)
	}
	charts := []struct {
		dir    string
		values map[string]any
	}{
		{"base", map[string]any{"global": global(o)}},
		{"istio-control/istio-discovery", pilot(o)},
		{"gateways/istio-ingress", gateway(o)},
	}
	var all []*unstructured.Unstructured
	for _, c := range charts {
		files, err := fs.Sub(manifests.FS, "charts/"+c.dir)
		if err != nil {
			return nil, fmt.Errorf("rendering istio's chart %s: %w", c.dir, err)
		}
		objs, err := chart.Render(files, "istio", Namespace, c.values)
		if err != nil {
			return nil, fmt.Errorf("rendering istio's chart %s: %w", c.dir, err)
		}
		for _, o := range objs {
			if o.GetKind() != "CustomResourceDefinition" {
				dropNulls(o.Object)
			}
		}
		all = append(all, objs...)
	}
	return all, nil
}

// dropNulls removes what a chart leaves behind where it had nothing to say: a
// key without a value, which an apply would take for a field to own.
func dropNulls(value any) {
	switch v := value.(type) {
	case map[string]any:
		for k, inner := range v {
			if inner == nil {
				delete(v, k)
			}
			dropNulls(inner)
		}
	case []any:
		for _, inner := range v {
			dropNulls(inner)
		}
	}
}

// global is what the three charts share.
func global(o Options) map[string]any {
	return map[string]any{
		"istioNamespace":  Namespace,
		"imagePullPolicy": "IfNotPresent", // the images are on the node
		// Never used, because the images below are full references; the
		// charts' defaults would leave upstream's registry in the injector's
		// configuration.
		"hub": "kind.local", "tag": "unused",
		// One replica each: a budget could only block a drain.
		"defaultPodDisruptionBudget": map[string]any{"enabled": false},
		"proxy": map[string]any{
			"image":     o.ProxyImage,
			"resources": requests("10m", "32Mi"),
			// Upstream looks every 15 s, four times, until a broken proxy gets
			// no more traffic: too slow for scenarios that watch an outage. A
			// starting one is found at once by its startup probe.
			"readinessPeriodSeconds":    1,
			"readinessFailureThreshold": 5,
		},
		"proxy_init": map[string]any{"image": o.ProxyImage},
	}
}

func pilot(o Options) map[string]any {
	return map[string]any{
		"global":           global(o),
		"image":            o.PilotImage,
		"autoscaleEnabled": false, // a lab has no metrics server
		"replicaCount":     1,
		"resources":        requests("50m", "96Mi"),
		// These filters are Istio's own builds of Envoy's; a stock Envoy
		// refuses a configuration that names them.
		"telemetry": map[string]any{"enabled": false},
		"env": map[string]any{
			"PILOT_ENABLE_ALPN_FILTER":       "false",
			"PILOT_ENABLE_METADATA_EXCHANGE": "false",
			"PILOT_DISABLE_MX_ALPN":          "true",
			// Istio's defaults, written down because net-gateway-api needs
			// them: routes, their status, and the GatewayClass "istio".
			"PILOT_ENABLE_GATEWAY_API":                         "true",
			"PILOT_ENABLE_GATEWAY_API_STATUS":                  "true",
			"PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER":   "true",
			"PILOT_ENABLE_GATEWAY_API_GATEWAYCLASS_CONTROLLER": "true",
		},
		"meshConfig": map[string]any{
			"outboundTrafficPolicy": map[string]any{"mode": "ALLOW_ANY"},
			"defaultConfig": map[string]any{
				// Upstream waits 5 s. A sidecar is a native one here (Kubernetes
				// >= 1.33): the kubelet stops it after the application, when
				// nothing is left to drain.
				"terminationDrainDuration": "1s",
			},
		},
	}
}

func gateway(o Options) map[string]any {
	port := func(name string, port, target, node int32) map[string]any {
		p := map[string]any{"name": name, "port": port, "targetPort": target, "protocol": "TCP"}
		if node != 0 {
			p["nodePort"] = node
		}
		return p
	}
	return map[string]any{
		"global": global(o),
		"gateways": map[string]any{
			Gateway: map[string]any{
				"autoscaleEnabled": false,
				"replicaCount":     1,
				"resources":        requests("20m", "64Mi"),
				"type":             "LoadBalancer",
				"ports": []any{
					port("status-port", 15021, 15021, 0),
					port("http2", 80, 8080, o.NodePortHTTP),
					port("https", 443, 8443, 0),
				},
				"podAnnotations": map[string]any{
					// The gateway carries everyone's connections: it keeps
					// upstream's time to let them end.
					"proxy.istio.io/config": "terminationDrainDuration: 5s",
				},
			},
		},
	}
}

func requests(cpu, memory string) map[string]any {
	return map[string]any{"requests": map[string]any{"cpu": cpu, "memory": memory}}
}
