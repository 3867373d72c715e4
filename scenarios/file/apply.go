package file

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

func (t *validator) apply(items []itemForm) Apply {
	var a Apply
	revisions := map[string]bool{}
	for _, item := range items {
		switch {
		case item.Model != nil:
			a.Models = append(a.Models, t.model(item.At.get("model"), *item.Model))
		case item.Knative != nil:
			v := item.At.get("knative")
			m := t.knative(v, *item.Knative)
			if revisions[m.Name] {
				t.wrong(v, "a second version of %s in one step, and each change of a Knative Service makes one revision; make it a step of its own", m.Name)
			}
			revisions[m.Name] = true
			a.Models = append(a.Models, m)
		default:
			a.Objects = append(a.Objects, t.object(item.At))
		}
	}
	return a
}

func (t *validator) model(v *value, m Model) Model {
	m.Where = t.where(v)
	was, again := t.state.models[m.Name]
	switch {
	case again && was.knative:
		t.wrong(v.get("name"), "%s is a Knative Service already; use another name", m.Name)
	case again && was.routed != m.Route:
		t.wrong(v, "%s has versions with a route and without; say the same `route` for each", m.Name)
	}
	deployment := Ref{"apps", "Deployment", m.Name + "-" + m.Version}
	t.addObject(v, "model", deployment, again)
	t.addObject(v, "model", Ref{"", "Service", m.Name + "-" + m.Version}, again)
	t.ports[m.Name+"-"+m.Version] = []string{"80"} // as in userfile/service.yaml
	t.backends.noteModel(m)
	if env, there := t.state.routing[deployment]; there && !m.Route && !same(env, v.get("env")) {
		t.noteRollout(deployment, map[string]string{"app": m.Name, "version": m.Version}, m.Name+"-"+m.Version)
	}
	t.state.routing[deployment] = v.get("env")
	if m.Route {
		t.need("istio")
		t.addObject(v, "model", Ref{istio, "Gateway", m.Name}, again)
		t.addObject(v, "model", Ref{istio, "VirtualService", m.Name}, again)
		t.serve(v, "model "+m.Name, m.Name, m.Version+"-"+m.Name)
		t.serves[m.Name] = with(with(t.serves[m.Name], m.Name), m.Version+"-"+m.Name)
	}
	t.state.models[m.Name] = modelState{false, m.Route, with(was.versions, m.Version)}
	return m
}

const (
	istio   = "networking.istio.io"
	serving = "serving.knative.dev"
)

func (t *validator) knative(v *value, m Model) Model {
	m.Where, m.Knative = t.where(v), true
	was, again := t.state.models[m.Name]
	switch {
	case again && !was.knative:
		t.wrong(v.get("name"), "%s is a Deployment already; use another name", m.Name)
	case slices.Contains(was.versions, m.Version):
		t.wrong(v.get("version"), "version %s of %s is there already, and a revision does not change; use another version", m.Version, m.Name)
	case m.MinScale > m.MaxScale:
		t.wrong(v, "min-scale %d is more than max-scale %d; change one of them", m.MinScale, m.MaxScale)
	}
	t.need("knative")
	t.addObject(v, "knative", Ref{serving, "Service", m.Name}, again)
	t.serve(v, "model "+m.Name, m.Name, m.Version+"-"+m.Name)
	t.state.models[m.Name] = modelState{true, true, with(was.versions, m.Version)}
	return m
}

// with returns a new list that has one, too.
func with(list []string, one string) []string {
	if slices.Contains(list, one) {
		return list
	}
	return append(slices.Clone(list), one)
}

// addObject records an object. It reports a problem if another field applies the
// same object: the two would overwrite each other.
func (t *validator) addObject(v *value, field string, ref Ref, again bool) {
	if by, there := t.state.objects[ref]; there && !(again && by == field) {
		t.wrong(v, "%s is made by `%s:` already; use another name", ref, by)
	}
	if ref == (Ref{istio, "Gateway", "mesh"}) {
		t.wrong(v, "to Istio mesh means the sidecars, so no request from outside of the pods would go by it; use another name")
	}
	t.state.objects[ref] = field
	t.made[ref] = true
}

// serve records that one serves these hosts. It reports a problem if another one does: a request would reach either. The rules
// of VirtualServices for one host come together, whatever Gateways they are for.
func (t *validator) serve(v *value, one string, hosts ...string) {
	for _, host := range hosts {
		if by := t.state.hosts[host]; by != "" && by != one && !strings.HasPrefix(by, "VirtualService.") {
			t.wrong(v, "host %s is served by %s already; use another name", host, by)
		}
		t.state.hosts[host] = one
	}
}

// unserve records that the object that serves some hosts is deleted. Another VirtualService may have been for them, too.
func (t *validator) unserve(ref Ref) {
	delete(t.state.routing, ref)
	one := ref.String()
	if by := t.state.objects[ref]; (by == "model" || by == "knative") && (ref.Group == istio || ref.Group == serving) {
		one = "model " + ref.Name
	}
	maps.DeleteFunc(t.state.hosts, func(_, by string) bool { return by == one })
	for other, spec := range t.state.routing {
		if other.Kind != "VirtualService" {
			continue
		}
		for _, h := range spec.get("hosts").list() {
			if name := t.hostName(h.text); name != "" && t.state.hosts[name] == "" {
				t.state.hosts[name], t.state.unseen[name] = other.String(), ref
			}
		}
	}
}

func (t *validator) object(v *value) Object {
	o := Object{t.where(v), v.any().(map[string]any)}
	ref := o.Ref()
	t.addObject(v, "apply", ref, true)
	spec, _ := o.fields["spec"].(map[string]any)
	switch {
	case ref.Group == istio:
		t.need("istio")
		o.fields["apiVersion"] = istio + "/v1" // the older ones have the same form
		if ref.Kind != "Gateway" && spec["exportTo"] == nil {
			spec["exportTo"] = []any{".", "istio-system"}
		}
	case ref.Group == serving:
		t.need("knative")
		if v.get("metadata").get("labels").get("networking.knative.dev/visibility").str() == "cluster-local" {
			break // not behind the gateway
		}
		t.serve(v, ref.String(), ref.Name)
		for _, each := range v.get("spec").get("traffic").list() {
			if tag := each.get("tag"); tag != nil {
				t.serve(tag, ref.String(), tag.text+"-"+ref.Name)
			}
		}
	case ref.Kind == "Deployment":
		neverPull(spec)
	}
	t.note(ref, v)
	return o
}

// note keeps what an object says that others refer to.
func (t *validator) note(ref Ref, object *value) {
	switch v := object.get("spec"); ref.Kind {
	case "ConfigMap":
		t.backends.maps[ref.Name] = append(t.backends.maps[ref.Name], ref.Name)
		for _, f := range object.get("data").all() {
			t.backends.maps[ref.Name] = append(t.backends.maps[ref.Name], f.name)
		}
	case "Deployment":
		t.backends.notePods(ref.Name, v)
		template := v.get("template")
		if was := t.state.routing[ref]; was != nil && !same(was, template) {
			t.noteRollout(ref, dictOf(template.get("metadata").get("labels")), "")
		}
		t.state.routing[ref] = template
	case "Service":
		if ref.Group == "" {
			t.backends.services[ref.Name] = append(t.backends.services[ref.Name], v)
			t.noteRouting(ref, v)
		}
		for _, port := range v.get("ports").list() {
			t.ports[ref.Name] = with(t.ports[ref.Name], fmt.Sprint(port.get("port").int))
		}
	case "DestinationRule":
		t.noteRouting(ref, v)
		service := serviceOf(v)
		for _, subset := range v.get("subsets").list() {
			name := subset.get("name").str()
			t.subsets[service] = with(t.subsets[service], name)
			t.backends.subsets[service+"/"+name] = append(t.backends.subsets[service+"/"+name], subset.get("labels"))
		}
	case "Gateway":
		for _, server := range v.get("servers").list() {
			for _, h := range server.get("hosts").list() {
				t.serves[ref.Name] = with(t.serves[ref.Name], t.hostName(h.text))
			}
		}
	case "VirtualService":
		for _, mark := range marksOf(v) {
			t.marks[mark] = true
		}
		if len(gatewaysOf(v)) == 0 {
			return // the sidecars' only
		}
		t.noteRouting(ref, v)
		for _, rule := range v.get("http").list() {
			for _, d := range destinations(rule) {
				t.uses[serviceOf(d)+"/"+d.get("subset").str()] = true
			}
		}
		for _, h := range v.get("hosts").list() {
			if name := t.hostName(h.text); name != "" && t.state.hosts[name] == "" { // several may share one
				t.state.hosts[name] = ref.String()
			}
		}
	}
}

// neverPull makes a Deployment fail at once if its image is not on the node.
func neverPull(spec map[string]any) {
	template, _ := spec["template"].(map[string]any)
	pod, _ := template["spec"].(map[string]any)
	for _, kind := range []string{"initContainers", "containers"} {
		all, _ := pod[kind].([]any)
		for _, c := range all {
			if c, ok := c.(map[string]any); ok {
				c["imagePullPolicy"] = "Never"
			}
		}
	}
}
