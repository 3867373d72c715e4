package addons

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const gatewayAPIVersion = "gateway.networking.k8s.io/v1"

// gatewayAPI is the CRDs of the Gateway API; controllers come with istio.
func gatewayAPI() Addon {
	return Addon{
		Name:    "gateway-api",
		Summary: "the Gateway API's CRDs (standard channel)",
		Objects: func(context.Context, Images) ([]*unstructured.Unstructured, error) {
			return upstream("gateway-api.yaml")
		},
		Verify: verifyGatewayAPI,
	}
}

// verifyGatewayAPI has the API server check a route and a class, and keep
// neither: their kinds are served, with their schemas.
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
		return nil
	})
}
