package addons

import (
	"context"
	"errors"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/kube"
	"mllab.local/manifests"
)

const gatewayAPIVersion = "gateway.networking.k8s.io/v1"

// gatewayAPI is the CRDs of the Gateway API; controllers come with istio.
func gatewayAPI() Addon {
	return Addon{
		Name:    "gateway-api",
		Summary: "the Gateway API's CRDs (standard channel)",
		Render: func(Images) ([]*unstructured.Unstructured, error) {
			objs, err := upstream("gateway-api.yaml")
			if err != nil {
				return nil, err
			}
			more, err := kube.Decode(manifests.GatewayAPI)
			return append(objs, more...), err
		},
		Verify: verifyGatewayAPI,
	}
}

// verifyGatewayAPI has the API server check a route and a class, and keep
// neither: their kinds are served, with their schemas. A route whose pattern
// cannot be compiled must be refused for that.
func verifyGatewayAPI(ctx context.Context, env Env, reason func(string)) error {
	return poll(ctx, reason, "asking for a GatewayClass and an HTTPRoute by dry run", func(ctx context.Context) error {
		for _, o := range []*unstructured.Unstructured{
			object(gatewayAPIVersion, "GatewayClass", "", "mllab-verify", map[string]any{
				"spec": map[string]any{"controllerName": "mllab.test/nobody"},
			}),
			object(gatewayAPIVersion, "HTTPRoute", "default", "mllab-verify", map[string]any{
				"spec": map[string]any{"hostnames": []any{"verify." + Domain}},
			}),
		} {
			if err := env.Kube.Create(ctx, o, client.DryRunAll); client.IgnoreAlreadyExists(err) != nil {
				return err
			}
		}
		err := env.Kube.Create(ctx, object(gatewayAPIVersion, "HTTPRoute", "default", verifyName+"-pattern", map[string]any{
			"spec": map[string]any{"rules": []any{map[string]any{"matches": []any{map[string]any{
				"path": map[string]any{"type": "RegularExpression", "value": "/(?!a)"},
			}}}}},
		}), client.DryRunAll)
		if err == nil {
			return errors.New("a pattern that cannot be compiled was accepted")
		}
		if !strings.Contains(err.Error(), "(?!") {
			return err
		}
		return nil
	})
}
