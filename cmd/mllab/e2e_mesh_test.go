//go:build e2e

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

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
		"two-ways":    {`{redirect: {uri: /}, route: [{destination: {host: model-v2}}], ` + mark + `}`, "both route and redirect"},
		"two-mirrors": {`{route: [{destination: {host: model-v2}}], mirror: {host: model-v1}, mirrors: [{destination: {host: model-v1}}], ` + mark + `}`, "both mirror and mirrors"},
	} {
		file := filepath.Join(t.TempDir(), name+".yaml")
		if err := os.WriteFile(file, []byte(strings.NewReplacer("NAME", name, "HTTP]", route.http+"]").Replace(badRoute)), 0o600); err != nil {
			t.Fatal(err)
		}
		c.run("scenario", "run", file).exits(t, 2, "VirtualService", "validation.istio.io", route.says)
	}
	out, err := c.apply(`{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: negative, namespace: default}, spec: {hosts: [negative.e2e.test], http: [{route: [{destination: {host: a}, weight: -5}, {destination: {host: b}, weight: 105}]}]}}`)
	if err == nil || !strings.Contains(err.Error(), "weight") {
		t.Errorf("a route with a weight of -5: %v %s", err, out)
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
	c.became(t, 3*time.Minute, "status says that the gateway refuses its routes", func() bool { return len(status().Proxies) > 0 })
	c.run("status").exits(t, 3, "refuses its new routes", "(?!", "EnvoyFilter/istio-system/broken")
	if r := c.run("doctor"); !strings.Contains(r.out, "EnvoyFilter/istio-system/broken") {
		t.Errorf("doctor does not say it: %s", r)
	}
	began := time.Now()
	c.run("scenario", "ab-test", "--short").exits(t, 3, "refuses its new routes", "(?!", "EnvoyFilter/istio-system/broken")
	if took := time.Since(began); took > 3*time.Minute { // without its reason the step would end after six
		t.Errorf("the scenario took %s to say it", took)
	}
	remove()
	c.became(t, 3*time.Minute, "the lab is ready again", func() bool { return status().Ready })
}

// A Gateway of a user's own is programmed, and answers by the lab's one port; what nobody enforces is refused.
func testNetwork(t *testing.T, c cli) {
	const ns = "e2e-network"
	c.kubectl(t, "create", "namespace", ns)
	defer c.kubectl(t, "delete", "namespace", ns, "--wait=false")
	out, err := c.apply(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: ` + ns + `}
spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: ` + ns + `}
spec:
  parentRefs: [{name: web}]
  hostnames: [web.e2e.test]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: there.e2e.test}}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: any, namespace: ` + ns + `}
spec:
  parentRefs: [{name: web}]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: any.e2e.test}}]}]`)
	if err != nil {
		t.Fatal(err, out)
	}
	c.kubectl(t, "-n", ns, "wait", "--timeout=300s", "--for=condition=Programmed", "gateway/web")
	var lab bootstrap.StatusReport
	c.run("status", "-o", "json").ok(t, &lab)
	address := c.kubectl(t, "-n", ns, "get", "gateway", "web", "-o", "jsonpath={.status.addresses[0].value}")
	direct := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for host, location := range map[string]string{"web.e2e.test": "there.e2e.test", address: "any.e2e.test"} {
		last := ""
		c.became(t, 3*time.Minute, host+" answers", func() bool {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, lab.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = host
			resp, err := direct.Do(req)
			if err != nil {
				return false
			}
			resp.Body.Close()
			last = resp.Header.Get("Location")
			return strings.Contains(last, location)
		})
		t.Logf("%s: %s", host, last)
	}
	// As a cloud's address, it answers inside the cluster too.
	node := engine(t, "exec", c.node(), "bash", "-c",
		`exec 3<>/dev/tcp/`+address+`/80 && printf 'GET / HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n' >&3 && head -n 1 <&3`)
	if !strings.Contains(node, " 302 ") {
		t.Errorf("from the node %s answers %s", address, node)
	}
	testGRPC(t, c, ns, lab.URL)
	out, err = c.apply(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: none, namespace: ` + ns + `}, spec: {podSelector: {}}}`)
	if err == nil || !strings.Contains(err.Error(), "enforces no NetworkPolicies") {
		t.Errorf("a NetworkPolicy that nobody enforces: %v %s", err, out)
	}
}

// testGRPC calls istiod's reflection through the lab's one port and the Gateway
// web of a namespace, by unencrypted HTTP/2, until its GRPCRoute is deleted.
func testGRPC(t *testing.T, c cli, ns, url string) {
	const host = "grpc.e2e.test"
	out, err := c.apply(`
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: ` + ns + `}
spec:
  parentRefs: [{name: web}]
  hostnames: [` + host + `]
  rules: [{backendRefs: [{name: istiod, namespace: istio-system, port: 15010}]}]
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: ` + ns + `, namespace: istio-system}
spec:
  from: [{group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: ` + ns + `}]
  to: [{group: "", kind: Service, name: istiod}]`)
	if err != nil {
		t.Fatal(err, out)
	}
	defer c.kubectl(t, "-n", "istio-system", "delete", "referencegrant", ns)
	var http2 http.Protocols
	http2.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &http2}
	defer transport.CloseIdleConnections()
	call := func() (body, status string) {
		// A message of 2 bytes, not compressed: a ServerReflectionRequest with list_services.
		// https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", strings.NewReader("\x00\x00\x00\x00\x02\x3a\x00"))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return err.Error(), ""
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			return err.Error(), ""
		}
		return string(data), cmp.Or(resp.Trailer.Get("Grpc-Status"), resp.Header.Get("Grpc-Status"))
	}
	c.became(t, 3*time.Minute, "istiod answers a gRPC call through the front", func() bool {
		body, status := call()
		return status == "0" && strings.Contains(body, "envoy.service.discovery.v3.AggregatedDiscoveryService")
	})
	hosts := func() string {
		return c.kubectl(t, "-n", "lab-network", "get", "virtualservice", ns+".web-istio", "-o", "jsonpath={.spec.hosts}")
	}
	if has := hosts(); !strings.Contains(has, host) {
		t.Errorf("the front answers %s, and its route is %s", host, has)
	}
	c.kubectl(t, "-n", ns, "delete", "grpcroute", "calls")
	c.became(t, 3*time.Minute, "the front knows no host of a deleted GRPCRoute", func() bool { return !strings.Contains(hosts(), host) })
	c.became(t, 3*time.Minute, "the front no longer answers a deleted GRPCRoute's host", func() bool {
		_, status := call()
		return status == "12" // unimplemented: Envoy's for 404
	})
}

// testRunsTags needs the addon registry: what a run has pushed to a tag stays there.
func testRunsTags(t *testing.T, c cli) {
	var lab bootstrap.StatusReport
	c.run("status", "-o", "json").ok(t, &lab)
	push := func(ref string) error {
		r, err := name.ParseReference(strings.TrimPrefix(lab.URL, "http://")+"/"+ref, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		img, err := random.Image(64, 1)
		if err != nil {
			t.Fatal(err)
		}
		return remote.Write(r, img)
	}
	tag := fmt.Sprintf("v%d", time.Now().UnixNano())
	for _, free := range []string{"mllab-e2e/model:" + tag, "mine/app:latest", "mine/app:latest"} {
		if err := push(free); err != nil {
			t.Errorf("pushing %s: %v", free, err)
		}
	}
	if err := push("mllab-e2e/model:" + tag); err == nil || !strings.Contains(err.Error(), "cannot be replaced") {
		t.Errorf("pushing another image to a run's tag: %v", err)
	}
}
