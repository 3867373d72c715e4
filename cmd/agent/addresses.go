package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"time"
)

const (
	// namespace has the routes, and the Gateway that they are for.
	namespace  = "lab-network"
	managed    = "app.kubernetes.io/managed-by"
	manager    = "mllab-agent"
	gatewayTag = "gateway.networking.k8s.io/gateway-name" // on the Service that istiod makes for a Gateway
	// front is the Service whose pods are behind the lab's one port.
	frontNamespace, frontName = "istio-system", "istio-ingressgateway"
	servicesPath              = "/api/v1/services"
	gatewaysPath              = "/apis/gateway.networking.k8s.io/v1/gateways"
	httpRoutesPath            = "/apis/gateway.networking.k8s.io/v1/httproutes"
	virtualServicesPath       = "/apis/networking.istio.io/v1/namespaces/" + namespace + "/virtualservices"
	// pause is how long it waits after an error, and after a change for those that come with it.
	pause, settle = time.Second, 50 * time.Millisecond
)

type meta struct {
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Labels    map[string]string `json:"labels,omitempty"`
}

// virtualService is Istio's route of hosts to one Service.
type virtualService struct {
	APIVersion string             `json:"apiVersion"`
	Kind       string             `json:"kind"`
	Metadata   meta               `json:"metadata"`
	Spec       virtualServiceSpec `json:"spec"`
}

type virtualServiceSpec struct {
	Gateways []string   `json:"gateways"`
	Hosts    []string   `json:"hosts"`
	HTTP     []httpRule `json:"http"`
}

type httpRule struct {
	Route []destination `json:"route"`
}

type destination struct {
	Destination struct {
		Host string `json:"host"`
		Port struct {
			Number int `json:"number"`
		} `json:"port"`
	} `json:"destination"`
}

type service struct {
	Metadata meta
	Spec     struct {
		Type, ClusterIP   string
		LoadBalancerClass string
		Ports             []struct {
			Port           int
			Protocol, Name string
		}
	}
	Status struct {
		LoadBalancer struct{ Ingress []struct{ IP string } }
	}
}

type gateway struct {
	Metadata meta
	Spec     struct {
		Listeners []struct{ Hostname string }
	}
}

type httpRoute struct {
	Metadata meta
	Spec     struct {
		Hostnames  []string
		ParentRefs []struct{ Kind, Namespace, Name string }
	}
}

// world is what there is on the cluster.
type world struct {
	services []service
	gateways []gateway
	routes   []httpRoute
}

// list is a list of objects, and the version from which a watch of it goes on.
type list[T any] struct {
	Metadata struct{ ResourceVersion string }
	Items    []T
}

// addresses brings the cluster to what it should be, and does so again after every change, until ctx ends.
func addresses(ctx context.Context) error {
	a, err := newAPI(account)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := follow(ctx, a); err != nil && ctx.Err() == nil {
			slog.Warn("begins again", "because", err.Error())
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

// follow returns when a watch or a call ends in an error.
func follow(ctx context.Context, a api) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	changed := make(chan struct{}, 1)
	watch := func(path, version string) {
		go func() {
			stop(a.watch(ctx, path, version, func() {
				select {
				case changed <- struct{}{}:
				default: // it will look anyway
				}
			}))
		}()
	}
	for first := true; ; first = false {
		var services list[service]
		var gateways list[gateway]
		var routes list[httpRoute]
		for path, into := range map[string]any{servicesPath: &services, gatewaysPath: &gateways, httpRoutesPath: &routes} {
			if err := a.call(ctx, http.MethodGet, path, "application/json", nil, into); err != nil {
				return err
			}
		}
		if first {
			watch(servicesPath, services.Metadata.ResourceVersion)
			watch(gatewaysPath, gateways.Metadata.ResourceVersion)
			watch(httpRoutesPath, routes.Metadata.ResourceVersion)
		}
		if err := settleWorld(ctx, a, world{services.Items, gateways.Items, routes.Items}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		select {
		case <-time.After(settle):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// settleWorld gives addresses to the Services that lack one, and writes the routes.
func settleWorld(ctx context.Context, a api, w world) error {
	for _, s := range w.services {
		if !s.ours() || s.Spec.ClusterIP == "" || len(s.Status.LoadBalancer.Ingress) > 0 {
			continue
		}
		// kube-proxy leaves an address alone that a load balancer of its own answers for; and the Service's own is one that
		// it answers for anyway, from each pod and from the node.
		// https://kubernetes.io/docs/concepts/services-networking/service/#load-balancer-ip-mode
		body := fmt.Appendf(nil, `{"status":{"loadBalancer":{"ingress":[{"ip":%q,"ipMode":"Proxy"}]}}}`, s.Spec.ClusterIP)
		path := fmt.Sprintf("/api/v1/namespaces/%s/services/%s/status", s.Metadata.Namespace, s.Metadata.Name)
		if err := a.call(ctx, http.MethodPatch, path, "application/merge-patch+json", body, nil); err != nil {
			return err
		}
		slog.Info("gave an address", "service", s.Metadata.Namespace+"/"+s.Metadata.Name, "address", s.Spec.ClusterIP)
	}
	want := w.virtualServices()
	var have list[virtualService]
	if err := a.call(ctx, http.MethodGet, virtualServicesPath, "application/json", nil, &have); err != nil {
		return err
	}
	for _, h := range have.Items {
		if _, wanted := want[h.Metadata.Name]; wanted || h.Metadata.Labels[managed] != manager {
			continue
		}
		if err := a.call(ctx, http.MethodDelete, virtualServicesPath+"/"+h.Metadata.Name, "application/json", nil, nil); err != nil {
			return err
		}
		slog.Info("removed a route", "name", h.Metadata.Name)
	}
	for name, o := range want {
		if slices.ContainsFunc(have.Items, func(h virtualService) bool { return h.Metadata.Name == name && reflect.DeepEqual(h.Spec, o.Spec) }) {
			continue
		}
		body, err := json.Marshal(o)
		if err != nil {
			return err
		}
		if err := a.call(ctx, http.MethodPatch, virtualServicesPath+"/"+name+"?fieldManager="+manager+"&force=true", "application/apply-patch+yaml", body, nil); err != nil {
			return err
		}
	}
	return nil
}

// ours says whether the Service wants a load balancer of this lab: one that names a class wants somebody else's.
func (s service) ours() bool { return s.Spec.Type == "LoadBalancer" && s.Spec.LoadBalancerClass == "" }

// port is where HTTP is expected: port 80, or the first one of TCP.
func (s service) port() int {
	first := 0
	for _, p := range s.Spec.Ports {
		if p.Protocol != "" && p.Protocol != "TCP" || p.Name == "status-port" { // Istio's own, for probes
			continue
		}
		if p.Port == 80 {
			return 80
		}
		first = cmp.Or(first, p.Port)
	}
	return first
}

// virtualServices route hosts from the lab's one port to the Services of type LoadBalancer, by their names.
func (w world) virtualServices() map[string]virtualService {
	all := map[string]virtualService{}
	taken := map[string]bool{}
	// The same each time: two Services may want the same host.
	services := slices.SortedFunc(slices.Values(w.services), func(a, b service) int {
		return cmp.Or(cmp.Compare(a.Metadata.Namespace, b.Metadata.Namespace), cmp.Compare(a.Metadata.Name, b.Metadata.Name))
	})
	for _, s := range services {
		m := s.Metadata
		if !s.ours() || s.port() == 0 || m.Namespace == frontNamespace && m.Name == frontName {
			continue
		}
		var hosts []string
		for _, h := range append(w.hosts(m), s.address()) {
			if h != "" && !taken[h] {
				taken[h] = true
				hosts = append(hosts, h)
			}
		}
		if len(hosts) == 0 {
			continue
		}
		name := m.Namespace + "." + m.Name
		v := virtualService{
			APIVersion: "networking.istio.io/v1", Kind: "VirtualService",
			Metadata: meta{namespace, name, map[string]string{managed: manager}},
			Spec:     virtualServiceSpec{Gateways: []string{"lab"}, Hosts: hosts, HTTP: make([]httpRule, 1)},
		}
		to := make([]destination, 1)
		to[0].Destination.Host, to[0].Destination.Port.Number = m.Name+"."+m.Namespace+".svc.cluster.local", s.port()
		v.Spec.HTTP[0].Route = to
		all[name] = v
	}
	return all
}

// address is the one that was given, or will be.
func (s service) address() string {
	if in := s.Status.LoadBalancer.Ingress; len(in) > 0 {
		return in[0].IP
	}
	return s.Spec.ClusterIP
}

// hosts are those of the Gateway that a Service is of: of its listeners, and of the routes that name it.
func (w world) hosts(of meta) []string {
	name := of.Labels[gatewayTag]
	if name == "" {
		return nil
	}
	var hosts []string
	for _, g := range w.gateways {
		if g.Metadata.Namespace == of.Namespace && g.Metadata.Name == name {
			for _, l := range g.Spec.Listeners {
				hosts = append(hosts, l.Hostname)
			}
		}
	}
	for _, r := range w.routes {
		for _, p := range r.Spec.ParentRefs {
			if (p.Kind == "" || p.Kind == "Gateway") && p.Name == name && cmp.Or(p.Namespace, r.Metadata.Namespace) == of.Namespace {
				hosts = append(hosts, r.Spec.Hostnames...)
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}
