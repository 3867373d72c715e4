//go:build e2e

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"mllab.local/bootstrap"
	"mllab.local/internal/probe"
	"mllab.local/sampleapp/api"
)

// A model whose v1 answers and whose v2 gets a copy of everything, but for requests that ask for v2.
const mirrored = `
apiVersion: v1
kind: Service
metadata: {name: model, namespace: NAMESPACE}
spec: {selector: {app: model}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: model, namespace: NAMESPACE}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [model.e2e.test]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: model, namespace: NAMESPACE}
spec:
  host: model
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: model, namespace: NAMESPACE}
spec:
  hosts: [model.e2e.test]
  gateways: [model]
  http:
    - match: [{headers: {x-version: {exact: v2}}}]
      route: [{destination: {host: model, subset: v2}}]
    - route: [{destination: {host: model, subset: v1}}]
      mirrors: [{destination: {host: model, subset: v2}, percentage: {value: 100}}]`

const capturing = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: model-VERSION, namespace: NAMESPACE}
spec:
  selector: {matchLabels: {app: model, version: VERSION}}
  template:
    metadata: {labels: {app: model, version: VERSION}}
    spec:
      containers:
        - name: model
          image: IMAGE
          env: [{name: TARGET, value: VERSION}, {name: CAPTURE_PERCENT, value: "20"}, {name: DRAIN, value: 0s}]
          readinessProbe: {httpGet: {path: /readyz, port: 8080}, periodSeconds: 1}
---`

// testCapture sends requests through the gateway to a model with a shadow. The captured ones of both are those that the
// hash of the ID picks, and no others.
func testCapture(t *testing.T, c cli) {
	const ns = "e2e-capture"
	c.kubectl(t, "create", "namespace", ns)
	defer c.kubectl(t, "delete", "namespace", ns, "--wait=false")
	following := c.start("logs", "--model", "model."+ns, "--follow") // before there is a pod
	defer following.kill()

	image := c.kubectl(t, "-n", "mllab-sample", "get", "ksvc", "sample", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	var yaml strings.Builder
	for _, version := range []string{"v1", "v2"} {
		yaml.WriteString(strings.NewReplacer("NAMESPACE", ns, "VERSION", version, "IMAGE", image).Replace(capturing))
	}
	yaml.WriteString(strings.ReplaceAll(mirrored, "NAMESPACE", ns))
	if out, err := c.apply(yaml.String()); err != nil {
		t.Fatal(err, out)
	}
	var lab bootstrap.StatusReport
	c.run("status", "-o", "json").ok(t, &lab)
	sender := probe.NewHTTP(10 * time.Second)
	ready := func() {
		t.Helper()
		c.kubectl(t, "-n", ns, "rollout", "status", "deployment", "--timeout=300s")
		for _, version := range []string{"v1", "v2"} {
			c.became(t, 3*time.Minute, version+" is reached by the gateway", func() bool {
				r := probe.Request{URL: lab.URL + "/metrics", Host: "model.e2e.test"} // which is not captured
				if version == "v2" {
					r.Header = http.Header{"X-Version": {"v2"}}
				}
				return sender.Send(t.Context(), r).Target == version
			})
		}
	}

	want := map[string][]string{}
	send := func(n int) {
		t.Helper()
		r := probe.Request{URL: lab.URL, Host: "model.e2e.test", Method: http.MethodPost, Body: []byte(`{"instances":[[1,2]]}`)}
		for _, a := range probe.Burst(t.Context(), sender, r, n, 8, nil) {
			if !a.OK() || a.Target != "v1" {
				t.Fatalf("a user's answer is of %q: %s", a.Target, a.Problem())
			}
			if api.IsCaptured(a.ID, 20) {
				want["v1"], want["v2"] = append(want["v1"], a.ID), append(want["v2"], a.ID)
			}
		}
	}
	ready()
	send(300)
	// v1's pod ends, and another one takes its place: the one is read to its end, the other from its beginning.
	c.kubectl(t, "-n", ns, "delete", "pod", "-l", "version=v1")
	ready()
	send(100)

	all := 2 * len(want["v1"])
	c.became(t, 3*time.Minute, fmt.Sprintf("%d requests are captured", all), func() bool { return strings.Count(following.out.String(), "\n") >= all })
	following.interrupt()
	r := following.wait()
	r.exits(t, 130)
	compare := func(lines string, want map[string][]string) {
		t.Helper()
		got, pods := map[string][]string{}, map[string]time.Time{}
		for line := range strings.Lines(lines) {
			var l struct {
				Namespace string
				api.Captured
			}
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			if l.Namespace != ns || l.Shadow != (l.Target == "v2") || l.Status != 200 || string(l.Input) != `{"instances":[[1,2]]}` || !strings.Contains(string(l.Output), `"prediction":[2.5]`) {
				t.Errorf("captured is %s", line)
			}
			got[l.Target] = append(got[l.Target], l.ID)
			if l.Time.Add(time.Second).Before(pods[l.Pod]) {
				t.Errorf("%s of %s comes after a line of %s", l.Time, l.Pod, pods[l.Pod])
			}
			pods[l.Pod] = l.Time
		}
		for version := range want {
			slices.Sort(got[version])
			slices.Sort(want[version])
			if !slices.Equal(got[version], want[version]) {
				t.Errorf("%s: %d requests are captured, and %d should be", version, len(got[version]), len(want[version]))
			}
		}
		if len(got) != len(want) {
			t.Errorf("captured by %d versions, want %d", len(got), len(want))
		}
	}
	compare(r.out, want)
	compare(c.run("logs", "--model", "model."+ns, "--version", "v2").out, map[string][]string{"v2": want["v2"]})
	if r := c.run("logs", "--model", "model."+ns, "--since", "0s", "--version", "v3"); r.code != 0 || r.out != "" || !strings.Contains(r.err, "CAPTURE_PERCENT") {
		t.Errorf("of nobody: %s", r)
	}
}
