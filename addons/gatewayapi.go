package addons

// gatewayAPI is the CRDs of the Gateway API; controllers come with istio.
func gatewayAPI() Addon {
	return Addon{
		Name:    "gateway-api",
		Summary: "the Gateway API's CRDs (standard channel)",
		// The kinds are served, with their schemas, and a pattern that cannot be compiled is refused.
		Verify: judged("gateway-api", "asking for a GatewayClass and an HTTPRoute by dry run", "(?!"),
	}
}
