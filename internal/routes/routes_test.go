package routes

import (
	"encoding/json"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func TestARouteSaysWhereRequestsGo(t *testing.T) {
	for name, tc := range map[string]struct{ object, want string }{
		"Knative's traffic, without its probe": {`kind: HTTPRoute
metadata: {namespace: ns, name: model.n.mllab.test, labels: {networking.knative.dev/visibility: "", serving.knative.dev/route: model}}
spec:
  hostnames: [model.n.mllab.test]
  parentRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: knative-gateway}]
  rules:
    - matches: [{headers: [{name: K-Network-Hash, type: Exact, value: override}], path: {type: PathPrefix, value: /}}]
      backendRefs: [{name: model-v1, weight: 90}, {name: model-v2, weight: 10}]
    - matches: [{path: {type: PathPrefix, value: /}}]
      backendRefs: [{name: model-v1, weight: 90}, {name: model-v2, weight: 10}]
`, `{"hosts":["model.n.mllab.test"],"rules":[{"to":[{"name":"model-v1","percent":90},{"name":"model-v2","percent":10}]}]}`},
		"of Knative's tags": {`kind: HTTPRoute
metadata: {namespace: ns, name: v1-model.n.mllab.test, labels: {networking.knative.dev/visibility: "", serving.knative.dev/route: model}}
spec: {parentRefs: [{name: g}], rules: [{backendRefs: [{name: model-v1}]}]}
`, `{"hosts":null,"rules":null}`},
		"of Knative's inside": {`kind: HTTPRoute
metadata: {namespace: ns, name: model.n.svc.cluster.local, labels: {networking.knative.dev/visibility: cluster-local, serving.knative.dev/route: model}}
spec: {parentRefs: [{name: g}], rules: [{backendRefs: [{name: model-v1}]}]}
`, `{"hosts":null,"rules":null}`},
		"a user's": {`kind: HTTPRoute
metadata: {namespace: ns, name: mine}
spec:
  parentRefs: [{name: g}]
  hostnames: [mine.example]
  rules:
    - matches: [{headers: [{name: x-arm, value: b}], method: GET}, {queryParams: [{name: arm, value: b}]}, {path: {type: Exact, value: /b}}]
      backendRefs: [{name: b}]
    - backendRefs: [{name: a, weight: 3}, {name: b}]
      filters: [{type: RequestMirror, requestMirror: {backendRef: {name: c}, fraction: {numerator: 1, denominator: 4}}}, {type: RequestMirror, requestMirror: {backendRef: {name: d}}}]
    - matches: [{path: {type: PathPrefix, value: /old}}]
      filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301}}]
`, `{"hosts":["mine.example"],"rules":[
  {"when":"x-arm: b, method GET or arm: b or path /b","to":[{"name":"b","percent":100}]},
  {"to":[{"name":"a","percent":75},{"name":"b","percent":25},{"name":"c","percent":25,"mirror":true},{"name":"d","percent":100,"mirror":true}]}]}`},
		"of a Service": {`kind: HTTPRoute
metadata: {namespace: ns, name: inside}
spec: {parentRefs: [{kind: Service, name: s}], rules: [{backendRefs: [{name: s}]}]}
`, `{"hosts":null,"rules":null}`},
		"a shadow": {`kind: VirtualService
metadata: {namespace: ns, name: model}
spec:
  hosts: [model.n.mllab.test, model]
  gateways: [istio-system/knative-gateway, mesh]
  http:
    - match: [{headers: {x-mllab-version: {exact: v2}}}]
      route: [{destination: {host: model, subset: v2}}]
    - route: [{destination: {host: model, subset: v1}, weight: 100}]
      mirrors: [{destination: {host: model, subset: v2}, percentage: {value: 20}}]
`, `{"hosts":["model.n.mllab.test"],"rules":[
  {"when":"x-mllab-version: v2","to":[{"name":"model v2","percent":100}]},
  {"to":[{"name":"model v1","percent":100},{"name":"model v2","percent":20,"mirror":true}]}]}`},
		"Flagger's weights": {`kind: VirtualService
metadata: {namespace: ns, name: good}
spec:
  hosts: [good.n.mllab.test, good]
  gateways: [g]
  http: [{route: [{destination: {host: good-primary.n.svc.cluster.local}, weight: 80}, {destination: {host: good-canary}, weight: 20}]}]
`, `{"hosts":["good.n.mllab.test"],"rules":[{"to":[{"name":"good-primary","percent":80},{"name":"good-canary","percent":20}]}]}`},
		"conditions, old mirrors, an answer of its own": {`kind: VirtualService
metadata: {namespace: ns, name: any}
spec:
  hosts: ["*"]
  gateways: [g]
  http:
    - match: [{uri: {prefix: /v2/}, headers: {x-debug: {}}}]
      route: [{destination: {host: a}}]
      mirror: {host: b}
    - match: [{uri: {prefix: /x}}]
      directResponse: {status: 200}
`, `{"hosts":[],"rules":[{"when":"x-debug: *, uri /v2/","to":[{"name":"a","percent":100},{"name":"b","percent":100,"mirror":true}]}]}`},
		"of sidecars": {`kind: VirtualService
metadata: {namespace: ns, name: inside}
spec: {hosts: [a], http: [{route: [{destination: {host: a}}]}]}
`, `{"hosts":null,"rules":null}`},
	} {
		t.Run(name, func(t *testing.T) {
			o := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(tc.object), &o.Object); err != nil {
				t.Fatal(err)
			}
			got, err := read(o)
			if err != nil {
				t.Fatal(err)
			}
			var want Route
			if err := json.Unmarshal([]byte(tc.want), &want); err != nil {
				t.Fatal(err)
			}
			want.Object = o.GetKind() + "/ns/" + o.GetName()
			a, _ := json.Marshal(got)
			if b, _ := json.Marshal(want); string(a) != string(b) {
				t.Errorf("got  %s\nwant %s", a, b)
			}
		})
	}
}

func TestARouteThatCannotBeReadIsAnError(t *testing.T) {
	o := &unstructured.Unstructured{Object: map[string]any{"kind": "VirtualService", "spec": map[string]any{"hosts": "one"}}}
	if r, err := read(o); err == nil {
		t.Errorf("got %+v", r)
	}
}
