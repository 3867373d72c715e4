//go:build e2e

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mllab.local/bootstrap"
)

// apply gives YAML to the cluster as its user would, and returns what kubectl said.
func (c cli) apply(yaml string) (string, error) {
	return tryEngine("exec", c.node(), "bash", "-c",
		"kubectl --kubeconfig=/etc/kubernetes/admin.conf apply -f - <<'END'\n"+yaml+"\nEND")
}

// A route that no proxy can take is refused when it is applied, and says why; the gateway goes on taking others.
const badRoute = `
apiVersion: mllab.local/v1alpha1
kind: Scenario
name: NAME
summary: a route that no proxy can take
steps:
  - name: both are there
    apply:
      - model: {name: model, version: v1, route: false}
      - model: {name: model, version: v2, route: false}
      - apiVersion: networking.istio.io/v1
        kind: Gateway
        metadata: {name: shop}
        spec:
          selector: {istio: ingressgateway}
          servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["${host:shop}"]}]
      - apiVersion: networking.istio.io/v1
        kind: VirtualService
        metadata: {name: shop}
        spec:
          gateways: [shop]
          hosts: ["${host:shop}"]
          http: [HTTP]
    wait: {mark: first, of: shop, within: 30s}
    expect-all: {of: shop, version: v2, requests: 20}
`

func testRefusedRoutes(t *testing.T, c cli) {
	mark := `headers: {response: {set: {X-Mllab-Route: first}}}`
	for name, route := range map[string]struct{ http, says string }{
		"looks-ahead": {`{match: [{headers: {user-agent: {regex: "^(?!.*Chrome).*$"}}}], route: [{destination: {host: model-v2}}], ` + mark + `}`, "(?!"},
		"no-weights":  {`{route: [{destination: {host: model-v1}}, {destination: {host: model-v2}}], ` + mark + `}`, "weight"},
		"negative":    {`{route: [{destination: {host: model-v1}, weight: -5}, {destination: {host: model-v2}, weight: 105}], ` + mark + `}`, "weight"},
	} {
		file := filepath.Join(t.TempDir(), name+".yaml")
		if err := os.WriteFile(file, []byte(strings.NewReplacer("NAME", name, "HTTP]", route.http+"]").Replace(badRoute)), 0o600); err != nil {
			t.Fatal(err)
		}
		c.run("scenario", file).exits(t, 2, "VirtualService", "validation.istio.io", route.says)
	}
	for name, match := range map[string]string{
		"path":   `{path: {type: RegularExpression, value: "/(?!a)"}}`,
		"header": `{headers: [{type: RegularExpression, name: user-agent, value: "(?!"}]}`,
	} {
		out, err := c.apply(`{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: bad-` + name + `, namespace: default}, spec: {rules: [{matches: [` + match + `]}]}}`)
		if err == nil || !strings.Contains(err.Error(), "invalid or unsupported Perl syntax: `(?!`") {
			t.Errorf("an HTTPRoute with a bad pattern in its %s: %v %s", name, err, out)
		}
	}
}

// What gets through all the same is seen: who refuses what, and for which object.
func testRefusingProxy(t *testing.T, c cli) {
	const filter = `
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: broken, namespace: istio-system}
spec:
  workloadSelector: {labels: {istio: ingressgateway}}
  configPatches:
    - applyTo: HTTP_ROUTE
      match: {context: GATEWAY}
      patch: {operation: MERGE, value: {match: {safe_regex: {regex: "^(?!.*Chrome)"}}}}`
	if out, err := c.apply(filter); err != nil {
		t.Fatal(err, out)
	}
	filterGone := false
	remove := func() {
		if !filterGone {
			c.kubectl(t, "-n", "istio-system", "delete", "envoyfilter", "broken")
			filterGone = true
		}
	}
	defer remove()
	status := func() (r bootstrap.StatusReport) {
		_ = json.Unmarshal([]byte(c.run("status", "-o", "json").out), &r)
		return r
	}
	c.became(t, 30*time.Second, "status says that the gateway refuses its routes", func() bool { return len(status().Proxies) > 0 })
	c.run("status").exits(t, 3, "refuses its new routes", "(?!", "EnvoyFilter/istio-system/broken")
	if r := c.run("doctor"); !strings.Contains(r.out, "EnvoyFilter/istio-system/broken") {
		t.Errorf("doctor does not say it: %s", r)
	}
	began := time.Now()
	c.run("scenario", "ab-test", "--short").exits(t, 3, "refuses its new routes", "(?!", "EnvoyFilter/istio-system/broken")
	if took := time.Since(began); took > time.Minute {
		t.Errorf("the scenario took %s to say it", took)
	}
	remove()
	c.became(t, 30*time.Second, "the lab is ready again", func() bool { return status().Ready })
}
