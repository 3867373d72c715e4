package proxy

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// What istiod 1.28 answers, shortened: the second proxy refuses its routes, the third one its listeners.
const syncz = `[
 {"proxy":"web-1.shop","resources":{"type.googleapis.com/envoy.config.cluster.v3.Cluster":{"sent":"a","acked":"a"}}},
 {"proxy":"web-2.shop","resources":{"type.googleapis.com/envoy.config.route.v3.RouteConfiguration":{"sent":"b","acked":"a","lastError":"invalid perl operator: (?!\n"}}},
 {"proxy":"istio-ingressgateway-5d9-x.istio-system","resources":{
   "type.googleapis.com/envoy.config.listener.v3.Listener":{"lastError":"Error adding/updating listener(s) 0.0.0.0_8080: Didn't find a registered implementation for 'envoy.filters.http.nosuch' with type URL: ''"},
   "type.googleapis.com/envoy.config.new.v9.Kind":{"lastError":"no"}}}
]`

func TestWhatProxiesRefuseIsReadTheGatewayFirst(t *testing.T) {
	got, err := parse([]byte(syncz))
	if err != nil {
		t.Fatal(err)
	}
	var says []string
	for _, r := range got {
		says = append(says, r.Proxy+" "+r.What+": "+r.Reason)
	}
	want := `istio-ingressgateway-5d9-x.istio-system listeners: Error adding/updating listener(s) 0.0.0.0_8080: Didn't find a registered implementation for 'envoy.filters.http.nosuch' with type URL: ''
istio-ingressgateway-5d9-x.istio-system type.googleapis.com/envoy.config.new.v9.Kind: no
web-2.shop routes: invalid perl operator: (?!`
	if strings.Join(says, "\n") != want {
		t.Errorf("read\n%s\nwant\n%s", strings.Join(says, "\n"), want)
	}
	if !got[0].OfGateway() || got[2].OfGateway() || !got[2].InNamespace("shop") || got[2].InNamespace("hop") {
		t.Errorf("whose proxies these are is not known: %+v", got)
	}
	if _, err := parse([]byte("Unauthorized")); err == nil {
		t.Error("an answer that is no JSON was read")
	}
}

// A configuration that fails Envoy's own checks: istiod has its beginning only, and the proxy's log the reason.
func TestTheReasonOfAFailedCheckIsInTheLog(t *testing.T) {
	const log = `2026-11-29T18:19:07Z warning envoy config gRPC config for type.googleapis.com/envoy.config.route.v3.RouteConfiguration rejected: goo.gle/debugproto
name: "http.8080"
virtual_hosts { name: "a.b:80" }
: Proto constraint validation failed (RouteConfigurationValidationError.VirtualHosts[1]: embedded message failed validation | caused by field: "name", reason: is too short)	thread=13
2026-11-29T18:19:17Z warning envoy config rejected: goo.gle/debugproto
: Proto constraint validation failed (RouteConfigurationValidationError.VirtualHosts[2]: embedded message failed validation | caused by VirtualHostValidationError.Routes[0]: embedded message failed validation | caused by field: "action", reason: is required)	thread=13
2026-11-29T18:19:18Z info another line (of something)
`
	got := failedCheck(log)
	if !strings.HasPrefix(got, "RouteConfigurationValidationError.VirtualHosts[2]: ") || !strings.HasSuffix(got, "reason: is required") {
		t.Errorf("got %q", got)
	}
	if words := ownWords(got); len(words) != 2 { // Envoy's own names, which no object has
		t.Errorf("the own words are %q", words)
	}
	if got := failedCheck(""); !strings.Contains(got, "the log of the proxy's pod") {
		t.Errorf("got %q", got)
	}
}

func TestTheObjectWithTheReasonsWordsIsNamedOrElseTheNewest(t *testing.T) {
	object := func(kind, name, written string, spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"kind": kind, "spec": spec,
			"metadata": map[string]any{
				"namespace": "shop", "name": name, "creationTimestamp": "2026-01-01T00:00:00Z",
				"managedFields": []any{
					map[string]any{"manager": "kubectl", "time": written},
					map[string]any{"manager": "istiod", "time": "2026-12-31T00:00:00Z", "subresource": "status"},
				},
			},
		}}
	}
	objs := []*unstructured.Unstructured{
		object("EnvoyFilter", "filter", "2026-01-03T00:00:00Z", map[string]any{"name": "envoy.filters.http.nosuch"}),
		object("HTTPRoute", "looks-ahead", "2026-01-02T00:00:00Z", map[string]any{"value": `^(?!.*Chrome)\d`}),
		object("VirtualService", "newest", "2026-01-04T00:00:00Z", map[string]any{"port": int64(8080)}),
	}
	for _, c := range []struct{ reason, want string }{
		{"invalid perl operator: (?!", "(from HTTPRoute/shop/looks-ahead)"},
		{"Didn't find a registered implementation for 'envoy.filters.http.nosuch' with type URL: ''", "(from EnvoyFilter/shop/filter)"},
		{`bad escape: \d`, "(from HTTPRoute/shop/looks-ahead)"},
		{"Error adding/updating listener(s) 0.0.0.0_8080: it cannot be", "(perhaps from VirtualService/shop/newest, the newest object)"},
	} {
		r := Rejection{Proxy: "p.shop", What: "routes", Reason: c.reason}
		r.blame(objs)
		if !strings.HasSuffix(r.Error(), c.want) || !strings.Contains(r.Error(), c.reason) {
			t.Errorf("%s\nwant %s", r.Error(), c.want)
		}
	}
	r := Rejection{Reason: "no"}
	if r.blame(nil); r.Object != "" || strings.Contains(r.Error(), "from") {
		t.Errorf("without objects %+v", r)
	}
}
