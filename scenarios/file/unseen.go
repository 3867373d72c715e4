package file

import (
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
			if delete(t.state.stale, mark); slices.Contains(marksOf(was), mark) {
				t.state.stale[mark] = ref
			}
		}
		t.noteUnseen(ref, spec)
		return
	}
	service := ref.Name
	if ref.Kind == "DestinationRule" {
		service, _, _ = strings.Cut(spec.get("host").str(), ".")
	}
	if was == nil {
		return
	}
	for _, route := range t.routesTo(service) {
		t.noteUnseen(ref, route)
	}
}

// noteRollout keeps that pods with these labels are replaced: the gateway sends requests to the former ones until it knows
// of the new ones.
func (t *validator) noteRollout(because Ref, labels map[string]string, services ...string) {
	for ref, spec := range t.state.routing {
		if ref.Kind == "Service" && selects(dictOf(spec.get("selector")), labels) {
			services = append(services, ref.Name)
		}
	}
	for _, service := range services {
		for _, route := range t.routesTo(service) {
			t.noteUnseen(because, route)
		}
	}
}

// routesTo returns the VirtualServices by which the gateway sends requests to a Service.
func (t *validator) routesTo(service string) (specs []*value) {
	for ref, spec := range t.state.routing {
		if ref.Kind == "VirtualService" && slices.ContainsFunc(allNamed(spec, "host"), func(host *value) bool {
			name, _, _ := strings.Cut(host.text, ".")
			return name == service
		}) {
			specs = append(specs, spec)
		}
	}
	return specs
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

// checkSeen checks that a wait has seen the gateway follow the last change of a host's routes. Without it what was before
// may be judged. v is what says that the host is asked.
func (t *validator) checkSeen(v *value, host string) {
	because, is := t.state.unseen[host]
	if !is {
		because, is = t.state.unseen["*"]
	}
	if !is || host == "" {
		return
	}
	fix := "add"
	if because.Kind == "VirtualService" {
		fix = "have its rules set the response header X-Mllab-Route to a new value, and add"
	}
	t.wrong(v, "no wait sees the gateway follow the change of %s, so what was before could be judged; %s `wait: {mark: …, of: %s}` to the step", because, fix, host)
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
