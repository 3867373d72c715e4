// Package routes reads where the lab's gateway sends requests.
package routes

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/kube"
)

// Route is an HTTPRoute or a VirtualService of the gateway.
type Route struct {
	Object string   `json:"object"` // Kind/namespace/name
	Hosts  []string `json:"hosts"`  // empty: every host
	Rules  []Rule   `json:"rules"`  // the first one that matches a request decides
}

// Rule is where requests of one sort go.
type Rule struct {
	When string    `json:"when,omitempty"` // what a request must have; empty: each has it
	To   []Backend `json:"to"`
}

// Backend gets a part of a rule's requests, or of copies of them.
type Backend struct {
	Name    string  `json:"name"`    // of its Service, with the subset
	Percent float64 `json:"percent"` // of the requests that get there
	Mirror  bool    `json:"mirror,omitempty"`
}

// Read returns the gateway's routes, the newest first. Of Knative's it returns
// those by which a Service is called from outside, and not those of its tags.
func Read(ctx context.Context, k *kube.Client) ([]Route, error) {
	var objs []*unstructured.Unstructured
	for kind, version := range map[string]string{"HTTPRoute": "gateway.networking.k8s.io/v1", "VirtualService": "networking.istio.io/v1"} {
		some, err := k.Objects(ctx, version, kind)
		if err != nil {
			return nil, err
		}
		objs = append(objs, some...)
	}
	slices.SortFunc(objs, func(a, b *unstructured.Unstructured) int {
		return cmp.Or(b.GetCreationTimestamp().Compare(a.GetCreationTimestamp().Time), cmp.Compare(kube.Name(a), kube.Name(b)))
	})
	all := []Route{} // never null in JSON
	for _, o := range objs {
		r, err := read(o)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", kube.Name(o), err)
		}
		if len(r.Rules) > 0 {
			all = append(all, r)
		}
	}
	return all, nil
}

// read returns an object as a route. It has no rules if the gateway does not use the object.
func read(o *unstructured.Unstructured) (Route, error) {
	r := Route{Object: kube.Name(o)}
	spec, err := json.Marshal(o.Object["spec"])
	if err != nil {
		return r, err
	}
	if o.GetKind() == "HTTPRoute" {
		return r, r.fromHTTPRoute(o, spec)
	}
	return r, r.fromVirtualService(spec)
}

// Labels of the HTTPRoutes that Knative makes, and a header in those by which it
// asks a proxy for its newest routes.
// https://github.com/knative-extensions/net-gateway-api
const (
	knativeVisibility = "networking.knative.dev/visibility"
	knativeRoute      = "serving.knative.dev/route"
	knativeProbe      = "K-Network-Hash"
)

// fromHTTPRoute takes up the spec of an HTTPRoute.
// https://gateway-api.sigs.k8s.io/reference/spec/#httproute
func (r *Route) fromHTTPRoute(o *unstructured.Unstructured, spec []byte) error {
	labels := o.GetLabels()
	if labels[knativeVisibility] == "cluster-local" {
		return nil
	}
	if service := labels[knativeRoute]; service != "" && !strings.HasPrefix(o.GetName(), service+".") {
		return nil // of a tag
	}
	type backend struct {
		Name   string
		Weight *float64
	}
	var s struct {
		Hostnames  []string
		ParentRefs []struct{ Kind string }
		Rules      []struct {
			Matches     []map[string]any
			BackendRefs []backend
			Filters     []struct {
				RequestMirror *struct {
					BackendRef backend
					Percent    *float64
					Fraction   *struct{ Numerator, Denominator float64 }
				}
			}
		}
	}
	if err := json.Unmarshal(spec, &s); err != nil {
		return err
	}
	if !slices.ContainsFunc(s.ParentRefs, func(p struct{ Kind string }) bool { return cmp.Or(p.Kind, "Gateway") == "Gateway" }) {
		return nil // of a mesh
	}
	r.Hosts = s.Hostnames
	for _, each := range s.Rules {
		var to []Backend
		for _, b := range each.BackendRefs {
			weight := 1.0
			if b.Weight != nil {
				weight = *b.Weight
			}
			to = append(to, Backend{Name: b.Name, Percent: weight})
		}
		percents(to)
		for _, f := range each.Filters {
			if m := f.RequestMirror; m != nil {
				b := Backend{Name: m.BackendRef.Name, Percent: 100, Mirror: true}
				switch {
				case m.Percent != nil:
					b.Percent = *m.Percent
				case m.Fraction != nil:
					b.Percent = 100 * m.Fraction.Numerator / cmp.Or(m.Fraction.Denominator, 100)
				}
				to = append(to, b)
			}
		}
		r.add(each.Matches, to)
	}
	return nil
}

// destination is a backend of a VirtualService.
// https://istio.io/latest/docs/reference/config/networking/virtual-service/
type destination struct{ Host, Subset string }

// name is a Service's, without its namespace, and the subset.
func (d destination) name() string {
	service, _, _ := strings.Cut(d.Host, ".")
	return strings.TrimSpace(service + " " + d.Subset)
}

func (r *Route) fromVirtualService(spec []byte) error {
	type percentage struct{ Value float64 }
	var s struct {
		Hosts, Gateways []string
		HTTP            []struct {
			Match []map[string]any
			Route []struct {
				Destination destination
				Weight      float64
			}
			Mirror           *destination
			MirrorPercentage *percentage
			Mirrors          []struct {
				Destination destination
				Percentage  *percentage
			}
		}
	}
	if err := json.Unmarshal(spec, &s); err != nil {
		return err
	}
	if !slices.ContainsFunc(s.Gateways, func(g string) bool { return g != "mesh" }) {
		return nil // of the sidecars
	}
	r.Hosts = slices.DeleteFunc(s.Hosts, func(h string) bool { return h == "*" || !strings.Contains(h, ".") }) // others are the mesh's
	for _, each := range s.HTTP {
		var to []Backend
		for _, b := range each.Route {
			if len(each.Route) == 1 { // its weight does not matter
				b.Weight = 100
			}
			to = append(to, Backend{Name: b.Destination.name(), Percent: b.Weight})
		}
		percents(to)
		mirror := func(d destination, p *percentage) {
			b := Backend{Name: d.name(), Percent: 100, Mirror: true}
			if p != nil {
				b.Percent = p.Value
			}
			to = append(to, b)
		}
		if each.Mirror != nil {
			mirror(*each.Mirror, each.MirrorPercentage)
		}
		for _, m := range each.Mirrors {
			mirror(m.Destination, m.Percentage)
		}
		r.add(each.Match, to)
	}
	return nil
}

// percents makes percents of weights.
func percents(to []Backend) {
	sum := 0.0
	for _, b := range to {
		sum += b.Percent
	}
	for i := range to {
		to[i].Percent *= 100 / cmp.Or(sum, 1)
	}
}

// add adds a rule, unless it is Knative's own or has no backend.
func (r *Route) add(matches []map[string]any, to []Backend) {
	var sorts []string
	for _, m := range matches {
		sort := when(m)
		if strings.Contains(sort, knativeProbe) {
			return
		}
		sorts = append(sorts, sort)
	}
	if len(to) == 0 { // it answers by itself
		return
	}
	rule := Rule{To: to}
	if !slices.Contains(sorts, "") { // else one takes all
		rule.When = strings.Join(sorts, " or ")
	}
	r.Rules = append(r.Rules, rule)
}

// when returns what a match asks of a request, as words. Both kinds of routes
// have conditions of this form: a field with a value, or with headers by name.
func when(match map[string]any) string {
	var words []string
	for _, field := range slices.Sorted(maps.Keys(match)) {
		switch v := match[field].(type) {
		case []any: // HTTPRoute: headers and queryParams
			for _, each := range v {
				if named, ok := each.(map[string]any); ok {
					words = append(words, fmt.Sprintf("%v: %v", named["name"], named["value"]))
				}
			}
		case map[string]any:
			if v["value"] == "/" && v["type"] == "PathPrefix" { // every path
				continue
			}
			if value, ok := v["value"]; ok {
				words = append(words, fmt.Sprintf("%s %v", field, value))
				continue
			}
			for _, name := range slices.Sorted(maps.Keys(v)) {
				if named, ok := v[name].(map[string]any); ok { // VirtualService: headers
					value := any("*") // it must be there
					for _, kind := range named {
						value = kind
					}
					words = append(words, fmt.Sprintf("%s: %v", name, value))
					continue
				}
				words = append(words, fmt.Sprintf("%s %v", field, v[name]))
			}
		default:
			words = append(words, fmt.Sprintf("%s %v", field, v))
		}
	}
	return strings.Join(words, ", ")
}
