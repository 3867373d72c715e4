package file

import (
	"fmt"
	"slices"
	"strings"
)

// gatewaysOf returns the names of the Gateways that a VirtualService's spec is for.
func gatewaysOf(spec *value) (names []string) {
	for _, each := range spec.get("gateways").list() {
		if own := strings.TrimPrefix(each.text, "${namespace}/"); own != "mesh" {
			names = append(names, own)
		}
	}
	return names
}

// checkRoutes checks that steps make the Gateways and Services that the VirtualServices among some items name. Istio
// accepts a name that no object has, and serves no request by it: istioctl analyze reports IST0101.
func (t *validator) checkRoutes(items *value) {
	if items == nil {
		return
	}
	for _, item := range items.items {
		switch spec := item.get("spec"); item.get("kind").str() {
		case "VirtualService":
			t.checkNamed(spec)
			t.checkServed(spec)
			t.checkWeights(spec)
			if len(gatewaysOf(spec)) > 0 {
				t.checkExported(spec)
				t.checkPorts(spec)
			}
		case "DestinationRule":
			t.checkService(spec.get("host"), "so nothing would come of it")
			if slices.ContainsFunc(spec.get("subsets").list(), func(subset *value) bool { return t.uses[serviceOf(spec)+"/"+subset.get("name").str()] }) {
				t.checkExported(spec)
			}
		}
	}
}

// checkServed checks that a Gateway of a VirtualService takes requests to its
// hosts: istioctl analyze reports IST0132.
func (t *validator) checkServed(spec *value) {
	gateways := gatewaysOf(spec)
	if all := spec.get("gateways"); all == nil && slices.ContainsFunc(spec.get("hosts").list(), func(h *value) bool { return t.hostName(h.text) != "" }) {
		t.wrong(spec, "it names no Gateway, so no request from outside of the pods would go by it; add `gateways`")
	}
	var taken []string
	for _, each := range gateways {
		taken = append(taken, t.serves[each]...)
	}
	for _, h := range spec.get("hosts").list() {
		name := t.hostName(h.text)
		if name != "" && taken != nil && !slices.Contains(taken, name) && !slices.Contains(taken, "*") && name != "*" {
			t.wrong(h, "Gateway %s takes no request to this host%s", strings.Join(gateways, ", "), thereAre(taken))
		}
	}
}

// checkExported checks that the lab's gateway may know an object.
func (t *validator) checkExported(spec *value) {
	if to := spec.get("exportTo"); to != nil && !slices.ContainsFunc(to.items, func(v *value) bool { return v.text == "istio-system" }) {
		t.wrong(to, "the lab's gateway would not know it, and answer 404 or 503 instead; add istio-system, or remove `exportTo`")
	}
}

// checkWeights checks that a rule with several destinations gives one of them a weight: Istio takes a missing one for 0.
func (t *validator) checkWeights(spec *value) {
	for _, rule := range spec.get("http").list() {
		if route := rule.get("route"); len(route.list()) > 1 && len(weighted(rule)) == 0 {
			t.wrong(route, "no destination has a weight, so none would get a request; give each its `weight`, such as 50")
		}
	}
}

// checkNamed checks the names of Gateways and Services in v, which is a
// VirtualService's spec or a part of it.
func (t *validator) checkNamed(v *value) {
	for _, f := range v.fields {
		switch {
		case f.name == "gateways":
			for _, name := range f.items {
				own := strings.TrimPrefix(name.text, "${namespace}/")
				if !t.made[Ref{istio, "Gateway", own}] && own != "mesh" {
					t.wrong(name, "no step makes Gateway %s, so nothing would be served by it%s", own, thereAre(t.names(istio, "Gateway")))
				}
			}
		case f.name == "destination" || f.name == "mirror":
			t.checkDestination(f.value)
		default:
			t.checkNamed(f.value)
		}
	}
	for _, item := range v.items {
		t.checkNamed(item)
	}
}

// checkDestination checks that a destination of a route is there: its Service, the
// port of that, and its subset. Istio takes one that is not, and Envoy answers 503.
func (t *validator) checkDestination(v *value) {
	host := v.get("host")
	if !t.checkService(host, unanswered) {
		return
	}
	service, _, _ := strings.Cut(host.text, ".")
	if port, known := v.get("port").get("number"), t.ports[service]; port != nil && known != nil && !slices.Contains(known, fmt.Sprint(port.int)) {
		t.wrong(port, "Service %s has no port %d%s", service, port.int, thereAre(known))
	}
	if subset := v.get("subset"); subset != nil && !slices.Contains(t.subsets[service], subset.text) {
		fix := "; apply a DestinationRule with it"
		if all := t.subsets[service]; all != nil {
			fix = thereAre(all)
		}
		t.wrong(subset, "no DestinationRule of the steps has the subset %s of Service %s, %s%s", subset.text, service, unanswered, fix)
	}
}

// checkPorts checks that the destinations of a gateway's route name a port of a Service with several: Istio takes the
// gateway's own for one that does not.
func (t *validator) checkPorts(spec *value) {
	for _, d := range slices.Concat(allNamed(spec, "destination"), allNamed(spec, "mirror")) {
		for _, form := range t.backends.services[serviceOf(d)] {
			var ports []string
			for _, port := range form.get("ports").list() {
				ports = append(ports, port.get("port").str())
			}
			if d.get("port") == nil && len(ports) > 1 && !slices.Contains(ports, "80") {
				t.wrong(d.get("host"), "Service %s has several ports, %s; add `port: {number: …}`%s", serviceOf(d), unanswered, thereAre(ports))
				break
			}
		}
	}
}

const unanswered = "so its share of requests would get no answer"

// checkService checks the name of a Service of the run's namespace. so says what
// comes of one that no step makes.
func (t *validator) checkService(host *value, so string) bool {
	service, _, _ := strings.Cut(host.text, ".")
	own, knative := t.names("", "Service"), t.names(serving, "Service")
	revision := func(of string) bool { return service == of || strings.HasPrefix(service, of+"-") }
	if slices.Contains(own, service) || slices.ContainsFunc(knative, revision) {
		return true
	}
	t.wrong(host, "no step makes Service %s, %s%s", service, so, thereAre(append(own, knative...)))
	return false
}

// names returns the names of the objects of a kind that steps make.
func (t *validator) names(group, kind string) []string {
	var all []string
	for ref := range t.made {
		if ref.Group == group && ref.Kind == kind {
			all = append(all, ref.Name)
		}
	}
	slices.Sort(all)
	return all
}

// hostName returns NAME of a run's host behind the gateway, "*" for all hosts, and
// "" for a Service's host.
func (r *reader) hostName(host string) string {
	if name, ok := strings.CutPrefix(host, "${host:"); ok {
		return strings.TrimSuffix(name, "}")
	}
	name, ok := strings.CutSuffix(host, ".${namespace}."+r.rules.Domain)
	if !ok {
		return ""
	}
	return name
}

// ref reads the name of an object that a step has applied.
func (t *validator) ref(v *value) (Ref, bool) {
	kind, name, _ := strings.Cut(v.text, "/")
	kind, group, _ := strings.Cut(kind, ".")
	want := Ref{group, kind, name}
	var found []Ref
	var all []string
	for ref := range t.state.objects {
		all = append(all, ref.String())
		if ref.Kind == want.Kind && ref.Name == want.Name && (want.Group == "" || want.Group == ref.Group) {
			found = append(found, ref)
		}
	}
	if slices.Contains(found, want) { // if there are two, Service/x is the core one
		return want, true
	}
	if len(found) == 1 {
		return found[0], true
	}
	slices.Sort(all)
	t.wrong(v, "there is no %s at this point of the story; there are: %s", v.text, strings.Join(all, ", "))
	return Ref{}, false
}

// host checks that an applied object answers to a name.
func (t *validator) host(of *value) bool {
	if t.state.hosts[of.text] != "" || t.state.hosts["*"] != "" {
		return true
	}
	t.wrong(of, "nothing is served as %q at this point of the story%s", of.text, thereAre(sorted(t.state.hosts)))
	return false
}

// thereAre ends a problem with a name: which ones it could be.
func thereAre(names []string) string {
	if len(names) == 0 {
		return "; apply it first"
	}
	return "; there are: " + strings.Join(names, ", ")
}

// checkRoutable checks that mllab routes the traffic of a model.
func (t *validator) checkRoutable(of *value) bool {
	m, ok := t.state.models[of.text]
	if ok && m.routed {
		return true
	}
	var names []string
	for name, m := range t.state.models {
		if m.routed {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	t.wrong(of, "%q was not made by `knative:`, or by `model:` with a route%s", of.text, thereAre(names))
	return false
}

// checkVersion checks that a model of mllab has a version.
func (t *validator) checkVersion(of string, v *value) {
	m, ok := t.state.models[of]
	if ok && !slices.Contains(m.versions, v.str()) {
		t.wrong(v, "%s has no version %s at this point of the story; there are: %s", of, v.str(), strings.Join(m.versions, ", "))
	}
}
