package file

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// noteRouting keeps that an object by which the gateway finds pods has a new form. The gateway follows later, and until a
// wait has seen it, a request may still go the old way.
func (t *validator) noteRouting(ref Ref, spec *value) {
	was := t.state.routing[ref]
	t.state.routing[ref] = spec
	if was != nil && same(was, spec) {
		return
	}
	if ref.Kind == "VirtualService" {
		for _, mark := range marksOf(spec) {
			if t.state.stale[mark] == ref {
				delete(t.state.stale, mark)
			}
			if slices.Contains(marksOf(was), mark) {
				t.state.stale[mark] = ref
			}
		}
		t.noteUnseen(ref, spec)
		return
	}
	if was == nil {
		return
	}
	t.noteBehind(ref, func(service string, destination *value) bool {
		own := service == ref.Name
		if ref.Kind == "DestinationRule" {
			own = service == serviceOf(spec)
		}
		return own && !reflect.DeepEqual(usedBy(destination, was), usedBy(destination, spec))
	})
}

// noteRollout keeps that pods with these labels are replaced: the gateway sends requests to the former ones until it knows
// of the new ones. own is a Service of theirs.
func (t *validator) noteRollout(because Ref, labels map[string]string, own string) {
	t.noteBehind(because, func(service string, destination *value) bool {
		spec := t.state.routing[Ref{"", "Service", service}]
		if spec == nil {
			return service == own
		}
		wanted := dictOf(spec.get("selector"))
		for ref, rule := range t.state.routing {
			if ref.Kind != "DestinationRule" || serviceOf(rule) != service {
				continue
			}
			for _, subset := range rule.get("subsets").list() {
				if subset.get("name").str() == destination.get("subset").str() {
					maps.Copy(wanted, dictOf(subset.get("labels")))
				}
			}
		}
		return selects(wanted, labels)
	})
}

// noteBehind keeps that an object has changed the way to the pods of the hosts that have such a destination.
func (t *validator) noteBehind(because Ref, is func(service string, destination *value) bool) {
	for ref, spec := range t.state.routing {
		if ref.Kind != "VirtualService" {
			continue
		}
		for _, rule := range spec.get("http").list() {
			for _, destination := range destinations(rule) {
				if is(serviceOf(destination), destination) {
					t.noteUnseen(because, spec)
				}
			}
		}
	}
}

// usedBy returns what requests to a destination depend on in the spec of its Service or DestinationRule.
func usedBy(destination, spec *value) (used []any) {
	for _, f := range spec.all() {
		if f.name == "selector" || f.name == "trafficPolicy" {
			used = append(used, f.name, f.any())
		}
	}
	for _, port := range spec.get("ports").list() {
		number, asked := port.get("port").str(), destination.get("port").get("number").str()
		if asked == "" || asked == number {
			used = append(used, number, cmp.Or(port.get("targetPort").str(), number))
		}
	}
	for _, subset := range spec.get("subsets").list() {
		if subset.get("name").str() == destination.get("subset").str() {
			used = append(used, subset.any())
		}
	}
	return used
}

// serviceOf returns the name of the Service that is the host of a destination or a DestinationRule.
func serviceOf(v *value) string {
	name, _, _ := strings.Cut(v.get("host").str(), ".")
	return name
}

// same reports whether two parts of the file say the same; nil says nothing.
func same(a, b *value) bool {
	if a == nil || b == nil {
		return a == b
	}
	return reflect.DeepEqual(a.any(), b.any())
}

// noteUnseen keeps that the hosts of a VirtualService are served in a new way because of an object.
func (t *validator) noteUnseen(because Ref, route *value) {
	for _, h := range route.get("hosts").list() {
		if name := t.hostName(h.text); name != "" {
			t.state.unseen[name] = because
		}
	}
}

// routesFor reports whether a VirtualService routes the requests to a host; one that is deleted routes none any more.
func (t *validator) routesFor(ref Ref, host string) bool {
	spec := t.state.routing[ref]
	return spec == nil || slices.ContainsFunc(spec.get("hosts").list(), func(h *value) bool {
		name := t.hostName(h.text)
		return name == host || name == "*"
	})
}

// checkSeen checks that a wait has seen the gateway follow the last change of a host's routes, and reports whether it has.
// Without it what was before may be judged. v is what says that the host is asked, and place where the wait can be.
func (t *validator) checkSeen(v *value, host, place string) bool {
	because, is := t.state.unseen[host]
	if !is && t.state.hosts[host] == "" { // else Envoy prefers what serves it by name
		because, is = t.state.unseen["*"]
	}
	if !is || host == "" {
		return true
	}
	fix := "add"
	if because.Kind == "VirtualService" && t.state.routing[because] != nil {
		fix = "have its rules set the response header X-Mllab-Route to a new value, and add"
	}
	t.wrong(v, "no wait sees the gateway follow the change of %s, so what was before could be judged; %s `wait: {mark: …, of: %s}` to %s", because, fix, host, place)
	return false
}

// delays reports whether the rules of a VirtualService delay requests: the wait for a mark may not be answered in time.
func delays(spec *value) bool {
	return slices.ContainsFunc(spec.get("http").list(), func(rule *value) bool { return rule.get("fault").get("delay") != nil })
}

// asked returns the host whose routes an expectation asks, or "".
func asked(x Expect) string {
	switch x := x.(type) {
	case ExpectSplit:
		return x.Of
	case ExpectAll:
		return x.Of
	}
	return ""
}

// marksOf returns the marks that a part of a VirtualService gives answers.
func marksOf(v *value) (marks []string) {
	for _, change := range []string{"set", "add"} {
		for _, f := range v.get("headers").get("response").get(change).all() {
			if strings.EqualFold(f.name, "X-Mllab-Route") {
				marks = append(marks, f.text)
			}
		}
	}
	for _, each := range append(v.get("http").list(), v.get("route").list()...) {
		marks = append(marks, marksOf(each)...)
	}
	return marks
}
