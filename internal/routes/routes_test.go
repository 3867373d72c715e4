package routes

import (
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"mllab.local/internal/kube"
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
`, ``},
		"of Knative's inside": {`kind: HTTPRoute
metadata: {namespace: ns, name: model.n.svc.cluster.local, labels: {networking.knative.dev/visibility: cluster-local, serving.knative.dev/route: model}}
spec: {parentRefs: [{name: g}], rules: [{backendRefs: [{name: model-v1}]}]}
`, ``},
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
    - matches: [{path: {type: RegularExpression, value: ^/none$}}]
`, `{"hosts":["mine.example"],"rules":[
  {"when":"x-arm: b, method GET or query arm: b or path /b","to":[{"name":"b","percent":100}]},
  {"to":[{"name":"a","percent":75},{"name":"b","percent":25},{"name":"c","percent":25,"mirror":true},{"name":"d","percent":100,"mirror":true}]},
  {"when":"path prefix /old","to":[{"name":"status 301","percent":100}]},
  {"when":"path regex ^/none$","to":[{"name":"status 500","percent":100}]}]}`},
		"of a Service": {`kind: HTTPRoute
metadata: {namespace: ns, name: inside}
spec: {parentRefs: [{kind: Service, name: s}], rules: [{backendRefs: [{name: s}]}]}
`, ``},
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
    - match: [{uri: {exact: /y}}]
      redirect: {uri: /x}
`, `{"hosts":null,"rules":[
  {"when":"x-debug: *, path prefix /v2/","to":[{"name":"a","percent":100},{"name":"b","percent":100,"mirror":true}]},
  {"when":"path prefix /x","to":[{"name":"status 200","percent":100}]},
  {"when":"path /y","to":[{"name":"status 301","percent":100}]}]}`},
		"of sidecars": {`kind: VirtualService
metadata: {namespace: ns, name: inside}
spec: {hosts: [a], http: [{route: [{destination: {host: a}}]}]}
`, ``},
		"of gRPC": {`kind: GRPCRoute
metadata: {namespace: ns, name: grpc}
spec:
  parentRefs: [{name: g}]
  hostnames: [grpc.example]
  rules:
    - matches: [{method: {service: inference.GRPCInferenceService, method: ModelInfer}, headers: [{name: x-arm, type: RegularExpression, value: "b|c"}]}, {method: {service: echo}}]
      backendRefs: [{name: v1, weight: 9}, {name: v2}]
      filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v3}, percent: 5}}]
    - backendRefs: [{name: v1}]
`, `{"hosts":["grpc.example"],"rules":[
  {"when":"x-arm: regex b|c, method inference.GRPCInferenceService/ModelInfer or method echo/*","to":[{"name":"v1","percent":90},{"name":"v2","percent":10},{"name":"v3","percent":5,"mirror":true}]},
  {"to":[{"name":"v1","percent":100}]}]}`},
		"that no gateway has accepted": {`kind: HTTPRoute
metadata: {namespace: ns, name: refused}
spec: {parentRefs: [{name: g}], rules: [{backendRefs: [{name: a}]}]}
status: {parents: [{conditions: [{type: ResolvedRefs, status: "True"}, {type: Accepted, status: "False"}]}]}
`, ``},
		"that one of two gateways has accepted": {`kind: HTTPRoute
metadata: {namespace: ns, name: accepted}
spec: {parentRefs: [{name: g}], rules: [{backendRefs: [{name: a}]}]}
status: {parents: [{conditions: [{type: Accepted, status: "False"}]}, {conditions: [{type: Accepted, status: "True"}]}]}
`, `{"hosts":null,"rules":[{"to":[{"name":"a","percent":100}]}]}`},
		"the conditions of Istio": {`kind: VirtualService
metadata: {namespace: ns, name: conditions}
spec:
  hosts: [model]
  gateways: [g]
  http:
    - name: arm-b
      match:
        - {name: any, headers: {x-arm: {exact: b}}, withoutHeaders: {x-debug: {}, x-old: {exact: "1"}}, method: {exact: GET}}
        - headers: {cookie: {regex: "arm=b"}, x-user: {prefix: test-}}
        - {queryParams: {arm: {exact: b}}, port: 80, ignoreUriCase: true, uri: {exact: /b}}
      route: [{destination: {host: b}}]
    - match: [{gateways: [mesh], uri: {prefix: /inside}}]
      route: [{destination: {host: inside}}]
    - match: [{gateways: [mesh]}, {gateways: [mesh, g], authority: {exact: a.example}}]
      route: [{destination: {host: c}}]
    - match: [{uri: {prefix: /}}]
      route: [{destination: {host: a}}]
      fault: {abort: {httpStatus: 503, percentage: {value: 20}}}
`, `{"hosts":["model"],"rules":[
  {"when":"x-arm: b, method GET, not x-debug: *, not x-old: 1 or cookie: regex arm=b, x-user: prefix test- or port 80, query arm: b, path /b","to":[{"name":"b","percent":100}]},
  {"when":"authority a.example","to":[{"name":"c","percent":100}]},
  {"to":[{"name":"a","percent":80},{"name":"status 503","percent":20}]}]}`},
		"of TLS and TCP": {`kind: VirtualService
metadata: {namespace: ns, name: streams}
spec:
  hosts: ["*"]
  gateways: [g]
  tls: [{match: [{sniHosts: [a.example, b.example], port: 443}], route: [{destination: {host: a}}]}]
  tcp:
    - match: [{port: 5432}]
      route: [{destination: {host: b}, weight: 75}, {destination: {host: c}, weight: 25}]
    - route: [{destination: {host: d}}]
`, `{"hosts":null,"rules":[
  {"when":"TLS port 443, SNI a.example or b.example","to":[{"name":"a","percent":100}]},
  {"when":"TCP port 5432","to":[{"name":"b","percent":75},{"name":"c","percent":25}]},
  {"when":"TCP","to":[{"name":"d","percent":100}]}]}`},
		"with delegates": {`kind: VirtualService
metadata: {namespace: ns, name: root}
spec:
  hosts: [root.example]
  gateways: [g]
  http:
    - match: [{uri: {prefix: /a}, headers: {x-arm: {exact: b}}}]
      delegate: {name: a, namespace: other}
      mirrors: [{destination: {host: shadow}, percentage: {value: 50}}]
    - delegate: {name: b}
    - delegate: {name: missing}
    - match: [{uri: {regex: /r/.*}}]
      delegate: {name: r}
---
kind: VirtualService
metadata: {namespace: other, name: a}
spec:
  http:
    - match: [{uri: {prefix: /a/v2}, method: {exact: GET}}]
      route: [{destination: {host: v2}}]
    - match: [{uri: {prefix: /elsewhere}}]
      route: [{destination: {host: never}}]
    - match: [{headers: {x-arm: {exact: a}}}]
      route: [{destination: {host: never}}]
    - match: [{uri: {regex: /a/.*}}]
      route: [{destination: {host: never}}]
    - match: [{uri: {exact: /a/b}, headers: {x-more: {exact: c}}}]
      directResponse: {status: 404}
    - route: [{destination: {host: v1}}]
      mirror: {host: other}
---
kind: VirtualService
metadata: {namespace: ns, name: r}
spec: {http: [{match: [{uri: {regex: /r/.*}}], route: [{destination: {host: never}}]}]}
---
kind: VirtualService
metadata: {namespace: ns, name: b}
spec: {http: [{match: [{uri: {prefix: /b}}], route: [{destination: {host: b}}]}]}
`, `{"hosts":["root.example"],"rules":[
  {"when":"x-arm: b, method GET, path prefix /a/v2","to":[{"name":"v2","percent":100},{"name":"shadow","percent":50,"mirror":true}]},
  {"when":"x-arm: b, x-more: c, path /a/b","to":[{"name":"status 404","percent":100},{"name":"shadow","percent":50,"mirror":true}]},
  {"when":"x-arm: b, path prefix /a","to":[{"name":"v1","percent":100},{"name":"other","percent":100,"mirror":true},{"name":"shadow","percent":50,"mirror":true}]},
  {"when":"path prefix /b","to":[{"name":"b","percent":100}]}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			var objs []*unstructured.Unstructured
			for object := range strings.SplitSeq(tc.object, "---\n") {
				o := &unstructured.Unstructured{}
				if err := yaml.Unmarshal([]byte(object), &o.Object); err != nil {
					t.Fatal(err)
				}
				objs = append(objs, o)
			}
			first := kube.Name(objs[0])
			got, err := routes(objs)
			if err != nil {
				t.Fatal(err)
			}
			want := []Route{}
			if tc.want != "" {
				want = append(want, Route{Object: first})
				if err := json.Unmarshal([]byte(tc.want), &want[0]); err != nil {
					t.Fatal(err)
				}
			}
			a, _ := json.Marshal(got)
			if b, _ := json.Marshal(want); string(a) != string(b) {
				t.Errorf("got  %s\nwant %s", a, b)
			}
		})
	}
}

func TestARouteThatCannotBeReadIsAnError(t *testing.T) {
	for _, kind := range []string{"VirtualService", "HTTPRoute"} {
		o := &unstructured.Unstructured{Object: map[string]any{"kind": kind, "spec": map[string]any{"hosts": "one", "hostnames": "one"}}}
		if r, err := routes([]*unstructured.Unstructured{o}); err == nil {
			t.Errorf("%s: got %+v", kind, r)
		}
	}
}
