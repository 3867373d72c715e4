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

	"mllab.local/internal/incluster"
)

const (
	// namespace is the namespace of the routes and of their Gateway.
	namespace  = "lab-network"
	managed    = "app.kubernetes.io/managed-by"
	manager    = "mllab-agent"
	gatewayTag = "gateway.networking.k8s.io/gateway-name" // label of the Service that istiod creates for a Gateway
	// The Service whose pods serve the lab's one port.
	frontNamespace, frontName = "istio-system", "istio-ingressgateway"
	namespacePath             = "/api/v1/namespaces/" + namespace
	servicesPath              = "/api/v1/services"
	gatewaysPath              = "/apis/gateway.networking.k8s.io/v1/gateways"
	httpRoutesPath            = "/apis/gateway.networking.k8s.io/v1/httproutes"
	grpcRoutesPath            = "/apis/gateway.networking.k8s.io/v1/grpcroutes"
	virtualServicesPath       = "/apis/networking.istio.io/v1/namespaces/" + namespace + "/virtualservices"
	// Proxies of istio-system read only the rules there, and those next to a Service.
	destinationRulesPath = "/apis/networking.istio.io/v1/namespaces/" + frontNamespace + "/destinationrules"
	// pause is the wait after an error. settle is the wait after a change for related changes.
	pause, settle = time.Second, 50 * time.Millisecond
)

type meta struct {
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Labels    map[string]string `json:"labels,omitempty"`
	UID       string            `json:"uid,omitempty"`
	Owners    []owner           `json:"ownerReferences,omitempty"`
}

// owner is an object with which Kubernetes removes those that it owns.
type owner struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
}

// object is an object that the agent writes.
type object[S any] struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   meta   `json:"metadata"`
	Spec       S      `json:"spec"`
}

// virtualService is Istio's route of hosts to one Service.
type virtualService = object[virtualServiceSpec]

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

// route is an HTTPRoute or a GRPCRoute.
type route struct {
	Metadata meta
	Spec     struct {
		Hostnames  []string
		ParentRefs []struct{ Kind, Namespace, Name string }
	}
}

type world struct {
	owner    owner // the agent's namespace
	services []service
	gateways []gateway
	routes   []route
}

// list is a list of objects and the version from which a watch continues.
type list[T any] struct {
	Metadata struct{ ResourceVersion string }
	Items    []T
}

func (l *list[T]) version() string { return l.Metadata.ResourceVersion }

// addresses reconciles the cluster, and again after every change, until ctx ends.
func addresses(ctx context.Context) error {
	api, err := incluster.New(incluster.Account)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := follow(ctx, api); err != nil && ctx.Err() == nil {
			slog.Warn("restarting", "error", err.Error())
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

// follow reconciles on every change. It returns when a watch or a call fails.
func follow(ctx context.Context, api *incluster.Client) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	changed := make(chan struct{}, 1)
	watch := func(path, version string) {
		go func() {
			stop(api.Watch(ctx, path, version, func() {
				select {
				case changed <- struct{}{}:
				default: // a reconcile is due already
				}
			}))
		}()
	}
	var own struct{ Metadata meta }
	if err := api.Get(ctx, namespacePath, &own); err != nil {
		return err
	}
	for first := true; ; first = false {
		var services list[service]
		var gateways list[gateway]
		var httpRoutes, grpcRoutes list[route]
		for path, list := range map[string]interface{ version() string }{servicesPath: &services, gatewaysPath: &gateways, httpRoutesPath: &httpRoutes, grpcRoutesPath: &grpcRoutes} {
			if err := api.Get(ctx, path, list); err != nil {
				return err
			}
			if first {
				watch(path, list.version())
			}
		}
		if err := reconcile(ctx, api, world{owner{"v1", "Namespace", namespace, own.Metadata.UID}, services.Items, gateways.Items, append(httpRoutes.Items, grpcRoutes.Items...)}); err != nil {
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

// reconcile gives addresses to the Services that have none, and writes the routes.
func reconcile(ctx context.Context, api *incluster.Client, w world) error {
	for _, s := range w.services {
		if !s.ours() || s.Spec.ClusterIP == "" || len(s.Status.LoadBalancer.Ingress) > 0 {
			continue
		}
		// The Service's own address works from each pod and from the node. With ipMode Proxy kube-proxy adds no rules for it.
		// https://kubernetes.io/docs/concepts/services-networking/service/#load-balancer-ip-mode
		body := fmt.Appendf(nil, `{"status":{"loadBalancer":{"ingress":[{"ip":%q,"ipMode":"Proxy"}]}}}`, s.Spec.ClusterIP)
		path := fmt.Sprintf("/api/v1/namespaces/%s/services/%s/status", s.Metadata.Namespace, s.Metadata.Name)
		if _, err := api.Call(ctx, http.MethodPatch, path, body); err != nil {
			return err
		}
		slog.Info("set an address", "service", s.Metadata.Namespace+"/"+s.Metadata.Name, "address", s.Spec.ClusterIP)
	}
	if err := replace(ctx, api, virtualServicesPath, w.virtualServices()); err != nil {
		return err
	}
	return replace(ctx, api, destinationRulesPath, w.destinationRules())
}

// replace makes the agent's objects at path those that are wanted, by name.
func replace[S any](ctx context.Context, api *incluster.Client, path string, want map[string]object[S]) error {
	var have list[object[S]]
	if err := api.Get(ctx, path, &have); err != nil {
		return err
	}
	for _, h := range have.Items {
		if _, wanted := want[h.Metadata.Name]; wanted || h.Metadata.Labels[managed] != manager {
			continue
		}
		if _, err := api.Call(ctx, http.MethodDelete, path+"/"+h.Metadata.Name, nil); err != nil {
			return err
		}
		slog.Info("removed", "path", path, "name", h.Metadata.Name)
	}
	for name, o := range want {
		if slices.ContainsFunc(have.Items, func(h object[S]) bool {
			return h.Metadata.Name == name && reflect.DeepEqual(h.Spec, o.Spec) && slices.Equal(h.Metadata.Owners, o.Metadata.Owners)
		}) {
			continue
		}
		body, err := json.Marshal(o)
		if err != nil {
			return err
		}
		if err := api.Apply(ctx, path+"/"+name, manager, body); err != nil {
			return err
		}
	}
	return nil
}

// ours reports whether the Service asks for this lab's load balancer. A Service with a class asks for another one.
func (s service) ours() bool { return s.Spec.Type == "LoadBalancer" && s.Spec.LoadBalancerClass == "" }

// port returns the HTTP port: port 80, or else the first TCP port.
func (s service) port() int {
	first := 0
	for _, p := range s.Spec.Ports {
		if p.Protocol != "" && p.Protocol != "TCP" || p.Name == "status-port" { // Istio's probe port
			continue
		}
		if p.Port == 80 {
			return 80
		}
		first = cmp.Or(first, p.Port)
	}
	return first
}

// virtualServices returns the routes by name. They send hosts from the lab's one port to the Services of type LoadBalancer.
func (w world) virtualServices() map[string]virtualService {
	all := map[string]virtualService{}
	taken := map[string]bool{}
	// Use a fixed order, because two Services may ask for the same host.
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
			Metadata: meta{Namespace: namespace, Name: name, Labels: map[string]string{managed: manager}},
			Spec:     virtualServiceSpec{Gateways: []string{"lab"}, Hosts: hosts, HTTP: make([]httpRule, 1)},
		}
		to := make([]destination, 1)
		to[0].Destination.Host, to[0].Destination.Port.Number = m.Name+"."+m.Namespace+".svc.cluster.local", s.port()
		v.Spec.HTTP[0].Route = to
		all[name] = v
	}
	return all
}

// destinationRules returns rules by name that keep a client's protocol on the way to users' Gateways, which gRPC needs.
// istiod says of their Services' ports that they speak HTTP/1.1 only. They are in another namespace than the agent, and go
// with its own: https://kubernetes.io/docs/concepts/architecture/garbage-collection/#owners-dependents
func (w world) destinationRules() map[string]object[map[string]any] {
	all := map[string]object[map[string]any]{}
	for _, s := range w.services {
		if m := s.Metadata; s.ours() && m.Labels[gatewayTag] != "" {
			name := m.Namespace + "." + m.Name
			all[name] = object[map[string]any]{
				APIVersion: "networking.istio.io/v1", Kind: "DestinationRule",
				Metadata: meta{Namespace: frontNamespace, Name: name, Labels: map[string]string{managed: manager}, Owners: []owner{w.owner}},
				Spec: map[string]any{
					"host":          m.Name + "." + m.Namespace + ".svc.cluster.local",
					"trafficPolicy": map[string]any{"connectionPool": map[string]any{"http": map[string]any{"useClientProtocol": true}}},
				},
			}
		}
	}
	return all
}

// address returns the Service's address: the one in its status, or the one that reconcile will set.
func (s service) address() string {
	if in := s.Status.LoadBalancer.Ingress; len(in) > 0 {
		return in[0].IP
	}
	return s.Spec.ClusterIP
}

// hosts returns the hosts of the Gateway that a Service belongs to: those of its listeners, and of the routes that name it.
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
