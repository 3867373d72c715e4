package addons

import "context"

// gatewayAPI is the CRDs of the Gateway API; controllers come with istio.
func gatewayAPI() Addon {
	return Addon{
		Name:    "gateway-api",
		Summary: "the Gateway API's CRDs (standard channel)",
		Verify:  verifyGatewayAPI,
	}
}

// verifyGatewayAPI has the API server check a route and a class, and keep
// neither: their kinds are served, with their schemas. A route whose pattern
// cannot be compiled must be refused for that.
func verifyGatewayAPI(ctx context.Context, env Env, reason func(string)) error {
	return poll(ctx, reason, "asking for a GatewayClass and an HTTPRoute by dry run", func(ctx context.Context) error {
		if err := accepted(ctx, env, "gateway-api"); err != nil {
			return err
		}
		return refused(ctx, env, "gateway-api", "(?!")
	})
}
