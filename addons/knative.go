package addons

// knative is Knative Serving with the Gateway API as its ingress, on the one
// gateway of istio: net-gateway-api's Gateways name that gateway's Service,
// and a second, cluster-internal Service on port 8081 of the same pods.
//
// It starts in parallel with istio. Only its Gateways' status needs istiod, and the
// installer waits for that as for any other object.
func knative() Addon {
	// Right after the webhook's pod is Ready it may still be unknown to the API server, or not have its rules yet.
	verify := judged("knative", "asking the webhook for a Service by dry run", "sum to 90")
	return Addon{
		Name:       "knative",
		Summary:    "Knative Serving on the ingress gateway (net-gateway-api)",
		StartAfter: []string{"gateway-api", "istio"},
		Images: []string{
			"knative-activator", "knative-autoscaler", "knative-controller", "knative-webhook", "knative-queue",
			"knative-net-gateway-api",
		},
		// What comes before the webhook judges would be kept without its defaults.
		Available: verify,
		Verify:    verify,
	}
}
