package addons

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/kube"
)

// knative is Knative Serving with the Gateway API as its ingress, on the one
// gateway of istio: net-gateway-api's Gateways name that gateway's Service,
// and a second, cluster-internal Service on port 8081 of the same pods.
//
// It starts in parallel with istio. Only its Gateways' status needs istiod, and the
// installer waits for that as for any other object.
func knative() Addon {
	return Addon{
		Name:       "knative",
		Summary:    "Knative Serving on the ingress gateway (net-gateway-api)",
		StartAfter: []string{"gateway-api", "istio"},
		Images: []string{
			"knative-activator", "knative-autoscaler", "knative-controller", "knative-webhook", "knative-queue",
			"knative-net-gateway-api",
		},
		Render: knativeObjects,
		// What comes before the webhook judges would be kept without its defaults.
		Available: verifyKnative,
		Verify:    verifyKnative,
	}
}

// knativeConfig is what the lab sets in Knative's ConfigMaps; all else is
// upstream's default. The reference is each file's example under
// https://github.com/knative/serving/tree/main/config/core/configmaps
var knativeConfig = map[string]map[string]string{
	"config-network": {"ingress-class": "gateway-api.ingress.networking.knative.dev"},
	"config-domain":  {Domain: ""},
	// A model comes to its server in an init container.
	"config-features": {"kubernetes.podspec-init-containers": "enabled"},
	"config-deployment": {
		// The lab's images exist on the node only: no registry knows their digest.
		"registries-skipping-tag-resolving": "kind.local,ko.local,dev.local",
		"queue-sidecar-cpu-request":         "10m",
		"queue-sidecar-memory-request":      "20Mi",
	},
}

// knativeRequests is what each Deployment asks of the node: what they use when
// idle, so that two cores also hold the services under test.
var knativeRequests = map[string]struct{ cpu, memory string }{
	"activator":                  {"30m", "64Mi"},
	"autoscaler":                 {"20m", "48Mi"},
	"controller":                 {"30m", "64Mi"},
	"webhook":                    {"20m", "48Mi"},
	"net-gateway-api-controller": {"20m", "48Mi"},
}

func knativeObjects(im Images) ([]*unstructured.Unstructured, error) {
	all, err := upstream("knative.yaml")
	if err != nil {
		return nil, err
	}
	var objs []*unstructured.Unstructured
	for _, o := range all {
		if unwanted(o) {
			continue
		}
		if _, err := replaceStrings(o.Object, im.knative); err != nil {
			return nil, fmt.Errorf("%s: %w", kube.Name(o), err)
		}
		if err := patchKnative(o); err != nil {
			return nil, err
		}
		objs = append(objs, o)
	}
	return objs, nil
}

// unwanted is what a lab on one node leaves out.
func unwanted(o *unstructured.Unstructured) bool {
	switch o.GetKind() {
	case "HorizontalPodAutoscaler": // no metrics server
		return true
	case "PodDisruptionBudget": // 80 % of one replica: no pod could ever be evicted
		return true
	case "Certificate": // for system-internal-tls, which is off and needs cert-manager
		return true
	}
	return false
}

// knative puts our image where upstream names one of its commands: in
// containers, in config-deployment and in the image cache.
func (im Images) knative(s string) (string, error) {
	path, ok := strings.CutPrefix(s, "ko://knative.dev/")
	if !ok {
		return s, nil
	}
	if path == "net-gateway-api/cmd/controller" {
		return im.get("knative-net-gateway-api")
	}
	command, ok := strings.CutPrefix(path, "serving/cmd/")
	if !ok {
		return "", fmt.Errorf("upstream names an unknown image: %s", s)
	}
	return im.get("knative-" + command)
}

func patchKnative(o *unstructured.Unstructured) error {
	switch o.GetKind() {
	case "Namespace":
		label(o, managedBy, mllab)
	case "ConfigMap":
		return patchConfig(o)
	case "Deployment":
		want, ok := knativeRequests[o.GetName()]
		if !ok {
			return fmt.Errorf("%s: the lab has no requests for it", kube.Name(o))
		}
		return eachContainer(o, func(c map[string]any) {
			quickProbe(c)
			resources, _ := c["resources"].(map[string]any)
			if resources == nil {
				resources = map[string]any{}
			}
			resources["requests"] = map[string]any{"cpu": want.cpu, "memory": want.memory}
			if limits, ok := resources["limits"].(map[string]any); ok {
				delete(limits, "cpu") // would only slow down the start, when it counts
			}
			c["resources"] = resources
		})
	}
	return nil
}

// patchConfig sets our values. The example that each ConfigMap carries goes,
// with its checksum: it is documentation, and several times the rest.
func patchConfig(o *unstructured.Unstructured) error {
	data, _, err := unstructured.NestedStringMap(o.Object, "data")
	if err != nil {
		return fmt.Errorf("%s: %w", kube.Name(o), err)
	}
	if data == nil {
		data = map[string]string{}
	}
	delete(data, "_example")
	for k, v := range knativeConfig[o.GetName()] {
		data[k] = v
	}
	unstructured.RemoveNestedField(o.Object, "metadata", "annotations", "knative.dev/example-checksum")
	return unstructured.SetNestedStringMap(o.Object, data, "data")
}

// verifyKnative asks the webhook about a Service whose traffic sums to 90 %,
// which it must refuse for that reason, and about the same one with 100 %. Both are
// dry runs. Right after the webhook's pod is Ready it may still be unknown to
// the API server, or not have its rules yet.
func verifyKnative(ctx context.Context, env Env, reason func(string)) error {
	return poll(ctx, reason, "asking the webhook for a Service by dry run", func(ctx context.Context) error {
		err := env.Kube.Create(ctx, knativeService(90), client.DryRunAll)
		if err == nil {
			return fmt.Errorf("traffic that sums to 90 %% was accepted")
		}
		if !strings.Contains(err.Error(), "sum to 90") {
			return err
		}
		return client.IgnoreAlreadyExists(env.Kube.Create(ctx, knativeService(100), client.DryRunAll))
	})
}

// knativeService sends percent of its traffic to its newest revision.
func knativeService(percent int64) *unstructured.Unstructured {
	return object("serving.knative.dev/v1", "Service", "default", "mllab-verify", map[string]any{"spec": map[string]any{
		"template": map[string]any{"spec": map[string]any{
			"containers": []any{map[string]any{"image": "kind.local/none"}},
		}},
		"traffic": []any{map[string]any{"latestRevision": true, "percent": percent}},
	}})
}
