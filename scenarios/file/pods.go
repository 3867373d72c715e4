package file

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mllab.local/sampleapp/api"
)

// podForm is what the steps say of a Deployment's pods.
type podForm struct {
	of     string // the Deployment
	labels map[string]string
	named  []string // ports of its containers
	open   []string // the ports on which its containers listen; nil if only they know
}

// backends are the Services of a file, their subsets, and the pods behind them. A
// name has several forms if several steps apply it.
type backends struct {
	pods     []podForm
	services map[string][]*value // specs by name
	subsets  map[string][]*value // labels by SERVICE/SUBSET
	maps     map[string][]string // keys of ConfigMaps by name
}

// checkMaps checks that steps make the ConfigMaps that an object's pods need, with
// their keys: a pod waits for one that is not there.
func (t *validator) checkMaps(object *value) {
	const waits = "so the pod would wait for it"
	var needed []*value
	for _, name := range []string{"configMap", "configMapRef", "configMapKeyRef"} {
		for _, each := range allNamed(object, name) {
			if optional := each.get("optional"); each.get("name") != nil && (optional == nil || !optional.truth) {
				needed = append(needed, each)
			}
		}
	}
	for _, each := range needed {
		name := each.get("name")
		keys := t.backends.maps[name.text]
		if keys == nil {
			if name.text != "istio-ca-root-cert" { // every namespace has that
				t.wrong(name, "no step makes ConfigMap %s, %s%s", name.text, waits, thereAre(sorted(t.backends.maps)))
			}
			continue
		}
		wanted := []*value{each.get("key")}
		for _, item := range each.get("items").list() {
			wanted = append(wanted, item.get("key"))
		}
		for _, key := range wanted {
			if key != nil && !slices.Contains(keys[1:], key.text) {
				t.wrong(key, "ConfigMap %s has no key %s, %s%s", name.text, key.text, waits, thereAre(keys[1:]))
			}
		}
	}
}

// checkProbes checks that each container of a pod has ports of its own, and those that its probes ask: a name is the
// container's own, and a number is asked at the pod's address.
func (t *validator) checkProbes(containers []*value) {
	open, taken := openOf(containers), map[string]string{}
	for _, container := range containers {
		for _, port := range listens(container) {
			if by, name := taken[port], container.get("name").str(); by != "" && by != name {
				t.wrong(container, "it listens on port %s as container %s of its pod does, and would not start; set its variable PORT", port, by)
			}
			taken[port] = container.get("name").str()
		}
		var named []string
		for _, port := range container.get("ports").list() {
			named = append(named, port.get("name").str())
		}
		for _, probe := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
			for _, by := range []string{"httpGet", "tcpSocket", "grpc"} {
				switch port := container.get(probe).get(by).get("port"); {
				case port == nil:
				case port.kind == text && !slices.Contains(named, port.text):
					t.wrong(port, "no port of the container is called %s, so the probe could not pass; there are: %s", port.text, strings.Join(named, ", "))
				case port.kind == whole && open != nil && !slices.Contains(open, port.text):
					t.wrong(port, "no container of the pod listens on port %s, so the probe could not pass; there are: %s", port.text, strings.Join(open, ", "))
				}
			}
		}
	}
}

// checkAsked checks that the sample model answers what the probes of a pod ask.
func (t *validator) checkAsked(containers []*value) {
	for _, container := range containers {
		if listens(container) == nil || slices.ContainsFunc(container.get("env").list(), func(v *value) bool {
			return slices.Contains([]string{"ADMIN_PORT", "MODEL_DIR", "RELAY"}, v.get("name").str()) // it has more paths
		}) {
			continue
		}
		for _, probe := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
			asked := container.get(probe)
			if by := asked.get("grpc"); by != nil {
				t.wrong(by, "${image} speaks no gRPC, so the probe could not pass; use httpGet")
			}
			path := asked.get("httpGet").get("path")
			if only, _, _ := strings.Cut(path.str(), "?"); path != nil && !slices.Contains(api.Paths, "/"+strings.TrimPrefix(only, "/")) {
				t.wrong(path, "${image} has no path %s, so the probe could not pass; there are: %s", only, strings.Join(api.Paths, ", "))
			}
		}
	}
}

// checkVariables checks that the sample model starts with the variables that steps and breaks give it. One that does not
// wait may be meant to have a model that does not.
func (t *validator) checkVariables(root *value) {
	check := func(name string, v *value) {
		if v == nil || strings.Contains(v.text, "$(") || placeholder.MatchString(v.text) {
			return
		}
		if want := api.CheckVariable(name, v.text); want != "" {
			t.wrong(v, "%s is not %s, and the model does not start with it; write one", quote(v.text), want)
		}
	}
	parts := slices.Clone(root.get("steps").list())
	for _, control := range root.get("controls").list() {
		parts = append(parts, control.get("break").list()...)
	}
	for _, part := range parts {
		if wait := part.get("wait"); wait != nil && wait.kind == boolean {
			continue
		}
		given := part.get("env").get("set").all()
		for _, item := range part.get("apply").list() {
			given = slices.Concat(given, item.get("model").get("env").all(), item.get("knative").get("env").all())
			for _, containers := range allNamed(item, "containers") {
				for _, c := range containers.list() {
					if c.get("image").str() != "${image}" || c.get("command") != nil {
						continue
					}
					for _, v := range c.get("env").list() {
						check(v.get("name").str(), v.get("value"))
					}
				}
			}
		}
		for _, f := range given {
			check(f.name, f.value)
		}
	}
}

// noteModel keeps what is behind a `model:`, as in scenarios/model.yaml.
func (b *backends) noteModel(m Model) {
	b.pods = append(b.pods, podForm{m.Name + "-" + m.Version, map[string]string{"app": m.Name, "version": m.Version}, []string{"http"}, portsOf(m.Env)})
}

// notePods keeps what is behind a Service, from the spec of a Deployment.
func (b *backends) notePods(name string, spec *value) {
	template := spec.get("template")
	containers := template.get("spec").get("containers").list()
	p := podForm{of: name, labels: dictOf(template.get("metadata").get("labels")), open: openOf(containers)}
	for _, c := range containers {
		for _, port := range c.get("ports").list() {
			if name := port.get("name").str(); name != "" {
				p.named = append(p.named, name)
			}
		}
	}
	b.pods = append(b.pods, p)
}

// openOf returns the ports on which the containers of a pod listen; nil if only
// they know.
func openOf(containers []*value) (all []string) {
	for _, c := range containers {
		open := listens(c)
		if open == nil {
			return nil
		}
		all = append(all, open...)
	}
	return all
}

// listens returns the ports of a container of the sample model; nil if it is
// another program's, or if a ConfigMap may set them.
func listens(container *value) []string {
	if container.get("image").str() != "${image}" || container.get("command") != nil || container.get("envFrom") != nil {
		return nil
	}
	env := map[string]string{}
	for _, v := range container.get("env").list() {
		env[v.get("name").str()] = v.get("value").str()
	}
	return portsOf(env)
}

// portsOf returns the ports on which the sample model listens with these variables;
// nil if one is no plain number, such as $(OTHER), or 0, which has it choose.
func portsOf(env map[string]string) []string {
	ports := map[string]string{"PORT": "8080"}
	for name, value := range env {
		if name == "PORT" || name == "ADMIN_PORT" {
			ports[name] = value
		}
	}
	all := slices.Sorted(maps.Values(ports))
	for _, each := range all {
		if n, _ := strconv.Atoi(each); n == 0 || strconv.Itoa(n) != each {
			return nil
		}
	}
	return all
}

// checkBackends checks that the steps make pods that can answer each destination
// of their VirtualServices, and that those that a step waits for can become ready.
// A control may break all of it. Kubernetes and Istio take a Service that selects none,
// and Envoy answers 503. One that a wait calls empty is meant to.
func (t *validator) checkBackends(root *value) {
	empty := map[string]bool{}
	for _, wait := range allNamed(root, "wait") {
		for _, name := range wait.get("empty").list() {
			empty[name.text] = true
		}
	}
	said, revisions := map[*value]bool{}, map[string]*revisionsMade{}
	for _, step := range root.get("steps").list() {
		wait := step.get("wait")
		for _, item := range step.get("apply").list() {
			name := item.get("metadata").get("name").str()
			if revisions[name] == nil {
				revisions[name] = &revisionsMade{templates: map[string]*value{}}
			}
			if item.get("apiVersion").str() == serving+"/v1" {
				t.noteRevision(name, item.get("spec").get("template"), revisions[name])
			}
			if wait == nil || wait.kind != boolean { // with `wait: false` a pod may be meant never to become ready
				t.checkMaps(item)
				containers := item.get("spec").get("template").get("spec").get("containers").list()
				t.checkAsked(containers)
				t.checkRevisions(item.get("spec").get("traffic").list(), revisions[name].names)
				if item.get("kind").str() == "Deployment" {
					t.checkProbes(containers)
				}
				for _, first := range item.get("spec").get("template").get("spec").get("initContainers").list() {
					if listens(first) != nil {
						t.wrong(first.get("image"), "${image} serves until it is stopped, so the containers after it would not start; remove it, or use an image that ends")
					}
				}
			}
			if item.get("kind").str() != "VirtualService" {
				continue
			}
			for _, rule := range item.get("spec").get("http").list() {
				for _, d := range destinations(rule) {
					service, _, _ := strings.Cut(d.get("host").str(), ".")
					if subset := d.get("subset").str(); subset != "" {
						service += "/" + subset
					}
					if !empty[service] {
						t.checkBackend(service, d.get("port").get("number"), said)
					}
				}
			}
		}
	}
}

// revisionsMade are the revisions of a Knative Service.
type revisionsMade struct {
	names     []string
	templates map[string]*value // by name, of those that have one
	applied   int               // how often the Service was
}

// noteRevision keeps the revision that a template makes. Knative gives one without a name the number of the Service's
// template, which is at most how often the Service was applied.
func (t *validator) noteRevision(service string, template *value, made *revisionsMade) {
	made.applied++
	name := template.get("metadata").get("name")
	if name == nil {
		for n := range made.applied {
			made.names = with(made.names, fmt.Sprintf("%s-%05d", service, n+1))
		}
		return
	}
	if was := made.templates[name.text]; was != nil && !same(was, template) {
		t.wrong(name, "revision %s is there already with another template, and a revision does not change; use another name", name.text)
	}
	made.names, made.templates[name.text] = with(made.names, name.text), template
}

// checkRevisions checks that the traffic of a Knative Service goes to revisions that the steps have made: Knative waits for
// one that is not there.
func (t *validator) checkRevisions(traffic []*value, made []string) {
	for _, each := range traffic {
		if name := each.get("revisionName"); name != nil && !slices.Contains(made, name.text) {
			t.wrong(name, "no step up to here makes revision %s, so Knative would wait for it%s", name.text, thereAre(made))
		}
	}
}

// allNamed returns the fields of that name at any depth.
func allNamed(v *value, name string) (all []*value) {
	for _, f := range v.fields {
		if f.name == name {
			all = append(all, f.value)
		}
		all = append(all, allNamed(f.value, name)...)
	}
	for _, item := range v.items {
		all = append(all, allNamed(item, name)...)
	}
	return all
}

// weighted returns the destinations of a rule that get a share of its requests.
func weighted(rule *value) (all []*value) {
	routes := rule.get("route").list()
	for _, route := range routes {
		if weight := route.get("weight"); len(routes) == 1 || weight != nil && weight.int > 0 {
			all = append(all, route.get("destination"))
		}
	}
	return all
}

// destinations returns the destinations that requests by a rule can reach.
func destinations(rule *value) (all []*value) {
	all = weighted(rule)
	copies := func(to, percentage *value) {
		if percent := percentage.get("value"); to != nil && (percent == nil || percent.float > 0) {
			all = append(all, to)
		}
	}
	copies(rule.get("mirror"), rule.get("mirrorPercentage"))
	for _, mirror := range rule.get("mirrors").list() {
		copies(mirror.get("destination"), mirror.get("percentage"))
	}
	return all
}

// checkBackend checks a destination of that name and port; nil is the Service's only
// port. It reports no value twice.
func (t *validator) checkBackend(name string, number *value, said map[*value]bool) {
	wrong := func(v *value, format string, args ...any) {
		if !said[v] {
			t.wrong(v, format, args...)
		}
		said[v] = true
	}
	service, _, _ := strings.Cut(name, "/")
	subsets := t.backends.subsets[name]
	if service == name {
		subsets = []*value{nil}
	}
	for _, spec := range t.backends.services[service] {
		selector := spec.get("selector")
		if selector == nil {
			wrong(spec, "Service %s selects no pod, %s; add `selector`", service, unanswered)
			continue
		}
		for _, subset := range subsets {
			want, at := dictOf(selector), selector
			if subset != nil && t.backends.selected(want) != nil {
				maps.Copy(want, dictOf(subset))
				at = subset
			}
			pods := t.backends.selected(want)
			if pods == nil {
				wrong(at, "no Deployment of the steps has pods with the labels %s, %s%s", labelText(want), unanswered, thereAre(t.backends.labels()))
				continue
			}
			t.checkTarget(spec, number, pods, wrong)
		}
	}
}

// checkTarget checks that the pods have the port to which a Service sends.
func (t *validator) checkTarget(spec, number *value, pods []podForm, wrong func(*value, string, ...any)) {
	ports := spec.get("ports").list()
	if number == nil && len(ports) > 1 {
		return
	}
	for _, port := range ports {
		if number != nil && port.get("port").int != number.int {
			continue
		}
		if by := asHTTP2(port); by != nil && !slices.ContainsFunc(pods, func(p podForm) bool { return p.open == nil }) {
			wrong(by, "the gateway speaks HTTP/2 to a port of that protocol, and ${image} speaks HTTP/1.1 only, %s; call it http", unanswered)
		}
		target := port.get("targetPort")
		if target == nil {
			target = port.get("port")
		}
		var names, has []string
		for _, p := range pods {
			open := p.open
			if target.kind == text {
				open = p.named
			} else if open == nil {
				return
			}
			names = with(names, p.of)
			for _, each := range open {
				has = with(has, each)
			}
		}
		fix := "; give a port of a container that name"
		if has != nil {
			fix = thereAre(has)
		}
		switch one := strings.Join(names, ", "); {
		case slices.Contains(has, target.text):
		case target.kind == text:
			wrong(target, "no container of Deployment %s has a port called %s, %s%s", one, target.text, unanswered, fix)
		default:
			wrong(target, "no container of Deployment %s listens on port %s, %s%s", one, target.text, unanswered, fix)
		}
	}
}

// asHTTP2 returns what of a Service's port has Istio speak HTTP/2 to it, or nil.
// https://istio.io/latest/docs/ops/configuration/traffic-management/protocol-selection/
func asHTTP2(port *value) *value {
	by := port.get("appProtocol")
	if by == nil {
		by = port.get("name")
	}
	if http2.MatchString(by.str()) {
		return by
	}
	return nil
}

var http2 = regexp.MustCompile(`^(http2|grpc|kubernetes\.io/h2c)(-|$)`)

func (b *backends) selected(labels map[string]string) (found []podForm) {
	for _, p := range b.pods {
		if selects(labels, p.labels) {
			found = append(found, p)
		}
	}
	return found
}

// selects reports whether a selector takes pods with these labels.
func selects(selector, labels map[string]string) bool {
	for name, value := range selector {
		if labels[name] != value {
			return false
		}
	}
	return true
}

func (b *backends) labels() (all []string) {
	for _, p := range b.pods {
		all = with(all, fmt.Sprintf("%s (%s)", p.of, labelText(p.labels)))
	}
	return all
}

// labelText writes labels as kubectl does.
func labelText(labels map[string]string) string {
	var all []string
	for _, name := range sorted(labels) {
		all = append(all, name+"="+labels[name])
	}
	return strings.Join(all, ",")
}
