// Package routes reads where the lab's gateway sends requests.
package routes

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/kube"
)

// Route is an object by which the gateway routes: an HTTPRoute, a GRPCRoute or a
// VirtualService. A lab has no other kind: the standard channel of its Gateway API
// has no TCPRoute, TLSRoute and UDPRoute.
type Route struct {
	Object string   `json:"object"` // Kind/namespace/name
	Hosts  []string `json:"hosts"`  // empty: every host
	Rules  []Rule   `json:"rules"`  // in the object's order
}

// Rule is where requests of one sort go.
type Rule struct {
	When string    `json:"when,omitempty"` // what a request must have; empty: each has it
	To   []Backend `json:"to"`
}

// Backend gets a part of a rule's requests, or of copies of them.
type Backend struct {
	Name    string  `json:"name"`    // of its Service, with the subset; "status 301": the gateway answers by itself
	Percent float64 `json:"percent"` // of the requests that get there
	Mirror  bool    `json:"mirror,omitempty"`
}

// Read returns the gateway's routes, the newest first. Of Knative's it returns
// those by which a Service is called from outside, and not those of its tags.
func Read(ctx context.Context, k *kube.Client) ([]Route, error) {
	var objs []*unstructured.Unstructured
	for kind, version := range map[string]string{
		"HTTPRoute": "gateway.networking.k8s.io/v1", "GRPCRoute": "gateway.networking.k8s.io/v1", "VirtualService": "networking.istio.io/v1",
	} {
		some, err := k.Objects(ctx, version, kind)
		if err != nil {
			return nil, err
		}
		objs = append(objs, some...)
	}
	return routes(objs)
}

// routes reads the objects as routes.
func routes(objs []*unstructured.Unstructured) ([]Route, error) {
	slices.SortFunc(objs, func(a, b *unstructured.Unstructured) int {
		return cmp.Or(b.GetCreationTimestamp().Compare(a.GetCreationTimestamp().Time), cmp.Compare(kube.Name(a), kube.Name(b)))
	})
	services := map[string]virtualService{}
	for _, o := range objs {
		if o.GetKind() == "VirtualService" {
			var s virtualService
			if err := read(o, "spec", &s); err != nil {
				return nil, err
			}
			services[kube.Name(o)] = s
		}
	}
	all := []Route{} // never null in JSON
	for _, o := range objs {
		r := Route{Object: kube.Name(o)}
		if s, ok := services[r.Object]; ok {
			r.fromVirtualService(s, o.GetNamespace(), services)
		} else if err := r.fromGatewayAPI(o); err != nil {
			return nil, err
		}
		if len(r.Rules) > 0 { // else the gateway does not use it
			all = append(all, r)
		}
	}
	return all, nil
}

// read reads an object's spec or status into a value.
func read(o *unstructured.Unstructured, field string, into any) error {
	if err := kube.Into(o.Object[field], into); err != nil {
		return fmt.Errorf("reading %s: %w", kube.Name(o), err)
	}
	return nil
}

// Labels of the HTTPRoutes that Knative makes, and a header in those by which it
// asks a proxy for its newest routes.
// https://github.com/knative-extensions/net-gateway-api
const (
	knativeVisibility = "networking.knative.dev/visibility"
	knativeRoute      = "serving.knative.dev/route"
	knativeProbe      = "K-Network-Hash"
)

// fromGatewayAPI takes up an HTTPRoute or a GRPCRoute, whose fields have the same names.
// https://gateway-api.sigs.k8s.io/reference/spec/#httproute
func (r *Route) fromGatewayAPI(o *unstructured.Unstructured) error {
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
				RequestRedirect *struct{ StatusCode int }
			}
		}
	}
	if err := read(o, "spec", &s); err != nil {
		return err
	}
	if !slices.ContainsFunc(s.ParentRefs, func(p struct{ Kind string }) bool { return cmp.Or(p.Kind, "Gateway") == "Gateway" }) {
		return nil // of a mesh
	}
	if refused, err := refused(o); refused || err != nil {
		return err
	}
	r.Hosts = s.Hostnames
	for _, each := range s.Rules {
		var to, mirrors []Backend
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
				mirrors = append(mirrors, b)
			}
			if f.RequestRedirect != nil {
				to = answer(cmp.Or(f.RequestRedirect.StatusCode, 302))
			}
		}
		if len(to) == 0 {
			to = answer(500) // as the Gateway API wants it
		}
		r.add("", each.Matches, append(to, mirrors...))
	}
	return nil
}

// refused reports whether no gateway has accepted a route that some have judged.
func refused(o *unstructured.Unstructured) (bool, error) {
	type parent struct{ Conditions []kube.Condition }
	var status struct{ Parents []parent }
	if err := read(o, "status", &status); err != nil {
		return false, err
	}
	return len(status.Parents) > 0 && !slices.ContainsFunc(status.Parents, func(p parent) bool {
		return slices.ContainsFunc(p.Conditions, func(c kube.Condition) bool { return c.Type == "Accepted" && c.True() })
	}), nil
}

// virtualService is the spec of a VirtualService.
// https://istio.io/latest/docs/reference/config/networking/virtual-service/
type virtualService struct {
	Hosts, Gateways []string
	HTTP, TLS, TCP  []serviceRule
}

type serviceRule struct {
	Match []map[string]any
	Route []struct {
		Destination destination
		Weight      float64
	}
	Redirect         *struct{ RedirectCode int }
	DirectResponse   *struct{ Status int }
	Delegate         *struct{ Name, Namespace string }
	Fault            struct{ Abort *abort }
	Mirror           *destination
	MirrorPercentage *percentage
	Mirrors          []struct {
		Destination destination
		Percentage  *percentage
	}
}

type abort struct {
	HTTPStatus int
	Percentage percentage
}

type percentage struct{ Value float64 }

type destination struct{ Host, Subset string }

// name is a Service's, without its namespace, and the subset.
func (d destination) name() string {
	service, _, _ := strings.Cut(d.Host, ".")
	return strings.TrimSpace(service + " " + d.Subset)
}

// fromVirtualService takes up a VirtualService of a namespace. Others may be its delegates.
func (r *Route) fromVirtualService(s virtualService, namespace string, others map[string]virtualService) {
	if !slices.ContainsFunc(s.Gateways, func(g string) bool { return g != "mesh" }) {
		return // of the sidecars, or a delegate
	}
	if !slices.Contains(s.Hosts, "*") {
		r.Hosts = slices.Clone(s.Hosts)
		if slices.ContainsFunc(s.Hosts, full) { // the others are names for the sidecars
			r.Hosts = slices.DeleteFunc(r.Hosts, func(h string) bool { return !full(h) })
		}
	}
	for _, rule := range s.HTTP {
		d := rule.Delegate
		if d == nil {
			r.addRule("", rule)
			continue
		}
		for _, sub := range others["VirtualService/"+cmp.Or(d.Namespace, namespace)+"/"+d.Name].HTTP {
			if sub, ok := rule.delegated(sub); ok {
				r.addRule("", sub)
			}
		}
	}
	for _, rule := range s.TLS {
		r.addRule("TLS", rule)
	}
	for _, rule := range s.TCP {
		r.addRule("TCP", rule)
	}
}

// full reports whether a host has a domain.
func full(host string) bool { return strings.Contains(host, ".") }

// delegated returns a delegate's rule as Istio makes it of the root's and the
// delegate's own. Istio drops one that asks for requests that the root's does not.
// https://istio.io/latest/docs/reference/config/networking/virtual-service/#Delegate
func (root serviceRule) delegated(sub serviceRule) (serviceRule, bool) {
	var matches []map[string]any
	for _, own := range sub.Match {
		narrowed := false
		for _, outer := range root.Match {
			if both := within(outer, own); both != nil {
				matches, narrowed = append(matches, both), true
			}
		}
		if len(root.Match) > 0 && !narrowed {
			return sub, false
		}
	}
	switch {
	case len(sub.Match) == 0:
		sub.Match = root.Match
	case len(root.Match) > 0:
		sub.Match = matches
	}
	sub.DirectResponse = cmp.Or(sub.DirectResponse, root.DirectResponse)
	sub.Fault.Abort = cmp.Or(sub.Fault.Abort, root.Fault.Abort)
	if sub.Mirror == nil {
		sub.Mirror, sub.MirrorPercentage = root.Mirror, root.MirrorPercentage
	}
	if sub.Mirrors == nil {
		sub.Mirrors = root.Mirrors
	}
	return sub, true
}

// within returns what a delegate's match asks for together with the root's; nil if
// no request can have both, or Istio does not see that one can.
func within(root, sub map[string]any) map[string]any {
	both := maps.Clone(root)
	for field, own := range sub {
		outer, shared := root[field]
		a, _ := outer.(map[string]any)
		b, _ := own.(map[string]any)
		switch field {
		case "name", "statPrefix", "gateways":
		case "headers", "withoutHeaders", "queryParams":
			merged := maps.Clone(b)
			for name, condition := range a {
				if _, ok := b[name]; !ok {
					merged[name] = condition
				} else if !narrower(condition, b[name]) {
					return nil
				}
			}
			own = merged
		default:
			if shared && !narrower(outer, own) {
				return nil
			}
		}
		both[field] = own
	}
	return both
}

// narrower reports whether Istio takes the inner condition as a part of the outer.
func narrower(outer, inner any) bool {
	a, _ := outer.(map[string]any)
	b, _ := inner.(map[string]any)
	if prefix, ok := a["prefix"].(string); ok {
		for _, kind := range []string{"prefix", "exact"} {
			if text, ok := b[kind].(string); ok {
				return strings.HasPrefix(text, prefix)
			}
		}
	}
	return a["regex"] == nil && reflect.DeepEqual(outer, inner)
}

// addRule adds a rule of a VirtualService, unless it is for the sidecars only.
func (r *Route) addRule(protocol string, rule serviceRule) {
	matches := slices.DeleteFunc(slices.Clone(rule.Match), func(m map[string]any) bool {
		gateways, limited := m["gateways"].([]any)
		return limited && !slices.ContainsFunc(gateways, func(g any) bool { return g != "mesh" })
	})
	if len(rule.Match) > 0 && len(matches) == 0 {
		return
	}
	var to []Backend
	for _, b := range rule.Route {
		if len(rule.Route) == 1 { // its weight does not matter
			b.Weight = 100
		}
		to = append(to, Backend{Name: b.Destination.name(), Percent: b.Weight})
	}
	percents(to)
	switch {
	case rule.Redirect != nil:
		to = answer(cmp.Or(rule.Redirect.RedirectCode, 301))
	case rule.DirectResponse != nil:
		to = answer(rule.DirectResponse.Status)
	}
	if a := rule.Fault.Abort; a != nil && a.Percentage.Value > 0 {
		for i := range to {
			to[i].Percent *= 1 - a.Percentage.Value/100
		}
		aborted := answer(a.HTTPStatus)
		aborted[0].Percent = a.Percentage.Value
		to = append(to, aborted...)
	}
	mirror := func(d destination, p *percentage) {
		b := Backend{Name: d.name(), Percent: 100, Mirror: true}
		if p != nil {
			b.Percent = p.Value
		}
		to = append(to, b)
	}
	if rule.Mirror != nil {
		mirror(*rule.Mirror, rule.MirrorPercentage)
	}
	for _, m := range rule.Mirrors {
		mirror(m.Destination, m.Percentage)
	}
	r.add(protocol, matches, to)
}

// answer is what stands for a backend where the gateway answers by itself.
func answer(status int) []Backend {
	return []Backend{{Name: fmt.Sprintf("status %d", status), Percent: 100}}
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

// add adds a rule, unless it is Knative's own.
func (r *Route) add(protocol string, matches []map[string]any, to []Backend) {
	var sorts []string
	for _, m := range matches {
		sort := matchText(m)
		if strings.Contains(sort, knativeProbe) {
			return
		}
		sorts = append(sorts, sort)
	}
	if slices.Contains(sorts, "") { // it takes all
		sorts = nil
	}
	r.Rules = append(r.Rules, Rule{When: strings.TrimSpace(protocol + " " + strings.Join(sorts, " or ")), To: to})
}

// matchText returns what a match asks of a request, as words.
func matchText(match map[string]any) string {
	var words []string
	for _, field := range slices.Sorted(maps.Keys(match)) {
		v := match[field]
		switch field {
		case "gateways", "name", "statPrefix", "ignoreUriCase", "sourceLabels": // they ask nothing of it
		case "headers", "queryParams", "withoutHeaders":
			sort := map[string]string{"queryParams": "query ", "withoutHeaders": "not "}[field]
			switch v := v.(type) {
			case []any: // the Gateway API's
				for _, each := range v {
					named, _ := each.(map[string]any)
					words = append(words, fmt.Sprintf("%s%v: %s", sort, named["name"], conditionText(named)))
				}
			case map[string]any: // a VirtualService's
				for _, name := range slices.Sorted(maps.Keys(v)) {
					words = append(words, fmt.Sprintf("%s%s: %s", sort, name, conditionText(v[name])))
				}
			}
		default:
			name := map[string]string{"uri": "path", "sniHosts": "SNI"}[field]
			if text := conditionText(v); text != "prefix /" { // every path
				words = append(words, cmp.Or(name, field)+" "+text)
			}
		}
	}
	return strings.Join(words, ", ")
}

// conditionText is what a field, a header or a parameter must be, as words.
func conditionText(v any) string {
	switch v := v.(type) {
	case []any: // one of them
		var texts []string
		for _, each := range v {
			texts = append(texts, fmt.Sprint(each))
		}
		return strings.Join(texts, " or ")
	case map[string]any:
		kind := v["type"]
		text, has := v["value"] // the Gateway API's
		for _, of := range []string{"exact", "prefix", "regex"} {
			if each, ok := v[of]; ok { // a VirtualService's
				kind, text, has = of, each, true
			}
		}
		if v["service"] != nil || v["method"] != nil { // of gRPC
			text, has = fmt.Sprintf("%v/%v", cmp.Or(v["service"], any("*")), cmp.Or(v["method"], any("*"))), true
		}
		switch {
		case !has:
			return "*" // it must be there
		case kind == "prefix" || kind == "PathPrefix":
			return fmt.Sprintf("prefix %v", text)
		case kind == "regex" || kind == "RegularExpression":
			return fmt.Sprintf("regex %v", text)
		}
		return fmt.Sprint(text)
	}
	return fmt.Sprint(v)
}
