package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mllab.local/internal/incluster"
	"mllab.local/internal/incluster/inclustertest"
)

func read[T any](t *testing.T, text string) []T {
	t.Helper()
	var l list[T]
	if err := json.Unmarshal([]byte(`{"items":[`+text+`]}`), &l); err != nil {
		t.Fatal(err)
	}
	return l.Items
}

const services = `
{"metadata":{"namespace":"istio-system","name":"istio-ingressgateway"},"spec":{"type":"LoadBalancer","clusterIP":"10.96.0.2","ports":[{"port":80}]},"status":{"loadBalancer":{"ingress":[{"ip":"172.18.0.2"}]}}},
{"metadata":{"namespace":"shop","name":"web-istio","labels":{"gateway.networking.k8s.io/gateway-name":"web"}},"spec":{"type":"LoadBalancer","clusterIP":"10.96.0.3","ports":[{"port":15021,"name":"status-port","protocol":"TCP"},{"port":80,"protocol":"TCP"}]}},
{"metadata":{"namespace":"shop","name":"plain"},"spec":{"type":"LoadBalancer","clusterIP":"10.96.0.4","ports":[{"port":53,"protocol":"UDP"},{"port":8080}]},"status":{"loadBalancer":{"ingress":[{"ip":"10.96.0.4"}]}}},
{"metadata":{"namespace":"shop","name":"dns"},"spec":{"type":"LoadBalancer","clusterIP":"10.96.0.5","ports":[{"port":53,"protocol":"UDP"}]}},
{"metadata":{"namespace":"shop","name":"theirs"},"spec":{"type":"LoadBalancer","loadBalancerClass":"example.com/lb","clusterIP":"10.96.0.6","ports":[{"port":80}]}},
{"metadata":{"namespace":"shop","name":"inside"},"spec":{"type":"ClusterIP","clusterIP":"10.96.0.7","ports":[{"port":80}]}}`

const gateways = `
{"metadata":{"namespace":"shop","name":"web"},"spec":{"listeners":[{"hostname":"*.shop.test"},{}]}},
{"metadata":{"namespace":"other","name":"web"},"spec":{"listeners":[{"hostname":"other.test"}]}}`

const routes = `
{"metadata":{"namespace":"shop","name":"a"},"spec":{"hostnames":["a.shop.test"],"parentRefs":[{"name":"web"}]}},
{"metadata":{"namespace":"team","name":"b"},"spec":{"hostnames":["b.test","a.shop.test"],"parentRefs":[{"name":"web","namespace":"shop"},{"name":"web"}]}},
{"metadata":{"namespace":"team","name":"c"},"spec":{"hostnames":["c.test"],"parentRefs":[{"name":"web"}]}}`

func TestEachServiceOfTypeLoadBalancerIsRoutedByItsGatewaysHostsAndItsAddress(t *testing.T) {
	w := world{owner{UID: "u"}, read[service](t, services), read[gateway](t, gateways), read[route](t, routes)}
	got := map[string]string{}
	for name, v := range w.virtualServices() {
		to := v.Spec.HTTP[0].Route[0].Destination
		got[name] = fmt.Sprintf("%s -> %s:%d", strings.Join(v.Spec.Hosts, " "), to.Host, to.Port.Number)
	}
	want := map[string]string{
		"shop.web-istio": "*.shop.test a.shop.test b.test 10.96.0.3 -> web-istio.shop.svc.cluster.local:80",
		"shop.plain":     "10.96.0.4 -> plain.shop.svc.cluster.local:8080",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("routes are\n%v\nwant\n%v", got, want)
	}
}

func TestWhatLacksIsWrittenAndWhatIsRightIsLeftAlone(t *testing.T) {
	w := world{owner{UID: "u"}, read[service](t, services), read[gateway](t, gateways), read[route](t, routes)}
	kept, err := json.Marshal(w.virtualServices()["shop.plain"])
	if err != nil {
		t.Fatal(err)
	}
	rule, err := json.Marshal(w.destinationRules()["shop.web-istio"])
	if err != nil {
		t.Fatal(err)
	}
	if want := `"ownerReferences":[{"apiVersion":"","kind":"","name":"","uid":"u"}]},"spec":{"host":"web-istio.shop.svc.cluster.local","trafficPolicy":{"connectionPool":{"http":{"useClientProtocol":true}}}}`; !strings.Contains(string(rule), want) || len(w.destinationRules()) != 1 {
		t.Errorf("rules are %v, want one with %s", w.destinationRules(), want)
	}
	var wrote []string
	w.owner.UID = "of another namespace" // whoever wrote the rule
	api, err := incluster.New(inclustertest.Pod(t, namespace, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method == http.MethodGet {
			right := kept
			if strings.HasSuffix(r.URL.Path, "/destinationrules") {
				right = rule
			}
			fmt.Fprintf(rw, `{"items":[%s,{"metadata":{"name":"gone.svc","labels":{"app.kubernetes.io/managed-by":"mllab-agent"}}},{"metadata":{"name":"a-users"}}]}`, right)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/status") && !strings.Contains(string(body), `"ipMode":"Proxy"`) {
			t.Errorf("kube-proxy would answer for it: %s", body)
		}
		kind := "application/apply-patch+yaml"
		if strings.HasSuffix(r.URL.Path, "/status") {
			kind = "application/merge-patch+json"
		}
		if r.Method == http.MethodPatch && r.Header.Get("Content-Type") != kind {
			t.Errorf("%s is sent as %s", r.URL.Path, r.Header.Get("Content-Type"))
		}
		wrote = append(wrote, r.Method+" "+r.URL.Path)
	})))
	if err != nil {
		t.Fatal(err)
	}
	if err := reconcile(t.Context(), api, w); err != nil {
		t.Fatal(err)
	}
	slices.Sort(wrote) // routes are written in no order
	const routesPath = "/apis/networking.istio.io/v1/namespaces/lab-network/virtualservices/"
	want := []string{
		"DELETE /apis/networking.istio.io/v1/namespaces/istio-system/destinationrules/gone.svc",
		"DELETE " + routesPath + "gone.svc",
		"PATCH /api/v1/namespaces/shop/services/dns/status",
		"PATCH /api/v1/namespaces/shop/services/web-istio/status",
		"PATCH /apis/networking.istio.io/v1/namespaces/istio-system/destinationrules/shop.web-istio",
		"PATCH " + routesPath + "shop.web-istio",
	}
	if !slices.Equal(wrote, want) {
		t.Errorf("wrote\n%s\nwant\n%s", strings.Join(wrote, "\n"), strings.Join(want, "\n"))
	}
}

func TestARouteOfGRPCIsAWayInUntilItIsDeleted(t *testing.T) {
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	lists := map[string]string{servicesPath: services, gatewaysPath: gateways, httpRoutesPath: routes}
	const route = `{"metadata":{"namespace":"shop","name":"g"},"spec":{"hostnames":["grpc.test"],"parentRefs":[{"name":"web"}]}}`
	var deleted atomic.Bool
	var written atomic.Int64 // routes to the Gateway
	deletion := make(chan struct{})
	api, err := incluster.New(inclustertest.Pod(t, namespace, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case r.URL.Query().Get("watch") != "":
			var event <-chan struct{} // no other kind has one
			if r.URL.Path == grpcRoutesPath {
				event = deletion
			}
			select {
			case <-event:
				fmt.Fprintln(rw, `{"type":"DELETED"}`)
				rw.(http.Flusher).Flush()
				<-r.Context().Done()
			case <-r.Context().Done():
			}
		case r.URL.Path == namespacePath:
			fmt.Fprint(rw, `{"metadata":{"uid":"of-the-namespace"}}`)
		case r.Method == http.MethodGet && r.URL.Path == grpcRoutesPath && !deleted.Load():
			fmt.Fprintf(rw, `{"items":[%s]}`, route)
		case r.Method == http.MethodGet:
			fmt.Fprintf(rw, `{"items":[%s]}`, lists[r.URL.Path])
		case strings.HasSuffix(r.URL.Path, "/destinationrules/shop.web-istio"): // the last one
			if want := `"ownerReferences":[{"apiVersion":"v1","kind":"Namespace","name":"lab-network","uid":"of-the-namespace"}]`; !strings.Contains(string(body), want) {
				t.Errorf("the rule outlives its namespace: %s", body)
			}
			if deleted.Swap(true) {
				stop()
			} else {
				close(deletion)
			}
		case strings.HasSuffix(r.URL.Path, "/virtualservices/shop.web-istio"):
			written.Add(1)
			if strings.Contains(string(body), `"grpc.test"`) == deleted.Load() {
				t.Errorf("the GRPCRoute is deleted: %t, and the route is %s", deleted.Load(), body)
			}
		}
	})))
	if err != nil {
		t.Fatal(err)
	}
	if err := follow(ctx, api); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := written.Load(); n != 2 {
		t.Errorf("the route was written %d times, want with the GRPCRoute and without", n)
	}
}
