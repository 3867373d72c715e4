package file

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"mllab.local/internal/split"
	"mllab.local/sampleapp/api"
)

// The fields of a file, as in schema.yaml. At is the position of each part.
type document struct {
	At         *value        `file:""`
	APIVersion string        `file:"apiVersion"`
	Kind       string        `file:"kind"`
	Name       string        `file:"name"`
	Summary    string        `file:"summary"`
	Needs      []string      `file:"needs"`
	Mesh       bool          `file:"mesh"`
	Steps      []stepForm    `file:"steps"`
	Controls   []controlForm `file:"controls"`
}

type changeForm struct {
	At     *value     `file:""`
	Apply  []itemForm `file:"apply"`
	Delete []string   `file:"delete"`
	Split  *Split     `file:"split"`
	Mirror *Mirror    `file:"mirror"`
	Wait   *waitForm  `file:"wait"`
}

type stepForm struct {
	changeForm
	Name           string          `file:"name"`
	Idea           string          `file:"idea"`
	Look           string          `file:"look"`
	Watch          *Watch          `file:"watch"`
	ExpectSplit    *ExpectSplit    `file:"expect-split"`
	ExpectAll      *ExpectAll      `file:"expect-all"`
	ExpectMirror   *ExpectMirror   `file:"expect-mirror"`
	ExpectZeroPods *ExpectZeroPods `file:"expect-zero-pods"`
	ExpectNoLoss   *ExpectNoLoss   `file:"expect-no-loss"`
}

type breakForm struct {
	changeForm
	Env *Env `file:"env"`
}

type controlForm struct {
	At      *value      `file:""`
	Name    string      `file:"name"`
	Summary string      `file:"summary"`
	After   string      `file:"after"`
	Catches string      `file:"catches"`
	Break   []breakForm `file:"break"`
}

// itemForm is one item of an apply: a knative, a model, or else an object.
type itemForm struct {
	At      *value `file:""`
	Model   *Model `file:"model"`
	Knative *Model `file:"knative"`
}

type waitForm struct {
	At     *value        `file:""`
	Mark   string        `file:"mark"`
	Of     string        `file:"of"`
	Empty  []string      `file:"empty"`
	Ready  string        `file:"ready"`
	Within time.Duration `file:"within"`
}

// Defaults of a file.
func (m *Model) defaults()          { m.Replicas, m.Route, m.MinScale, m.MaxScale = 1, true, 1, 1 }
func (m *Mirror) defaults()         { m.Percent = 100 }
func (w *Watch) defaults()          { w.Rate = 50 }
func (e *ExpectMirror) defaults()   { e.Percent = 100 }
func (e *ExpectZeroPods) defaults() { e.Within = 2 * time.Minute }

// fileState has the objects that the steps of a file have applied so far.
type fileState struct {
	models   map[string]modelState
	hosts    map[string]bool // behind the gateway; "*" means all
	objects  map[Ref]string  // with the field that applied them
	watching map[string]bool
}

type modelState struct {
	knative, routed bool
	versions        []string
}

func (w fileState) clone() fileState {
	return fileState{maps.Clone(w.models), maps.Clone(w.hosts), maps.Clone(w.objects), maps.Clone(w.watching)}
}

// validator checks the steps of one file.
type validator struct {
	*reader
	name string
	file *File
	w    fileState
	made map[Ref]bool // by any step

	// What the steps' objects say of themselves.
	ports   map[string][]string // of a Service
	subsets map[string][]string // of a Service, by DestinationRules
	serves  map[string][]string // hosts of a Gateway, as hostName has them
	marks   map[string]bool     // that VirtualServices give answers
}

// story checks a file whose fields are valid.
func (r *reader) story(name string, root *value) *File {
	var d document
	fill(root, reflect.ValueOf(&d).Elem())
	f := &File{Name: d.Name, Summary: d.Summary, Mesh: d.Mesh}
	t := &validator{r, name, f, fileState{map[string]modelState{}, map[string]bool{}, map[Ref]string{}, map[string]bool{}}, map[Ref]bool{}, map[string][]string{}, map[string][]string{}, map[string][]string{}, map[string]bool{}}
	t.checkNamespace(root.get("name"), f.Name)
	for _, addon := range d.Needs {
		t.need(addon)
	}
	if f.Mesh {
		t.need("istio")
	}
	after := []fileState{t.w.clone()} // before the first step, after it, …
	for i, form := range d.Steps {
		s := t.step(i, form)
		if slices.ContainsFunc(f.Steps, func(each Step) bool { return each.Name == s.Name }) {
			r.wrong(form.At, "another step is called %q; give each a name of its own", s.Name)
		}
		f.Steps = append(f.Steps, s)
		after = append(after, t.w.clone())
	}
	for _, step := range root.get("steps").items {
		t.checkRoutes(step.get("apply"))
	}
	t.checkUnfilled(root)
	// Each watch must be judged.
	for _, of := range sorted(t.w.watching) {
		f.Steps = append(f.Steps, Step{Where: name, Name: "no request to " + of + " lost", Expect: ExpectNoLoss{of}})
	}
	if !slices.ContainsFunc(f.Steps, func(s Step) bool { return s.Expect != nil }) {
		r.wrong(root.get("steps"), "no step expects anything, so nothing could fail; add an expect-split, expect-all or another")
	}
	for _, form := range d.Controls {
		f.Controls = append(f.Controls, t.control(form, after))
	}
	slices.Sort(f.Needs)
	return f
}

// checkUnfilled refuses placeholders in what a file says outside of objects, where nothing is filled in: they would be
// sent as they are.
func (t *validator) checkUnfilled(v *value) {
	for _, f := range v.fields {
		switch f.name {
		case "env", "set", "headers", "cookies":
			for _, each := range f.fields {
				if p := placeholder.FindString(each.text); p != "" {
					t.wrong(each.value, "%s is filled in in objects only, and would be sent as it is here; write out what it stands for", p)
				}
			}
		default:
			t.checkUnfilled(f.value)
		}
	}
	for _, item := range v.items {
		if item.get("apiVersion") == nil { // no object
			t.checkUnfilled(item)
		}
	}
}

// checkNamespace checks that a run's namespace is not reserved for others.
func (t *validator) checkNamespace(v *value, run string) {
	namespace := NamespacePrefix + run
	for _, taken := range t.rules.Taken {
		if run == taken || strings.HasPrefix(run, taken+"-") {
			t.wrong(v, "namespace %s is for scenario %s, which is mllab's own; use another name, such as my-%s", namespace, taken, v.text)
		}
	}
	if slices.Contains(t.rules.Reserved, namespace) {
		t.wrong(v, "namespace %s is an addon's; use another name, such as my-%s", namespace, v.text)
	}
}

func (t *validator) need(addon string) {
	if !slices.Contains(t.file.Needs, addon) {
		t.file.Needs = append(t.file.Needs, addon)
	}
}

func (t *validator) where(v *value) string { return fmt.Sprintf("%s:%d", t.name, v.line) }

func (t *validator) step(i int, f stepForm) Step {
	s := Step{Where: t.where(f.At), Name: strings.TrimSpace(f.Name), Idea: f.Idea, Look: f.Look}
	verbs, does, expects := verbsOf(f.At)
	if s.Name == "" {
		s.Name = fmt.Sprintf("%d %s", i+1, strings.Join(verbs, ", "))
	}
	switch {
	case len(verbs) == 0:
		t.wrong(f.At, "the step does nothing; give it a change such as apply, or an expectation such as expect-split")
	case len(does) > 1:
		t.wrong(f.At, "the step has %d changes: %s; make them steps of their own", len(does), strings.Join(does, ", "))
	case len(expects) > 1:
		t.wrong(f.At, "the step has %d expectations: %s; make them steps of their own", len(expects), strings.Join(expects, ", "))
	}
	if s.Change = t.change(f.changeForm); f.Watch != nil {
		of := f.At.get("watch").get("of")
		t.host(of)
		if t.w.watching[of.text] {
			t.wrong(of, "%s is being watched already; end that with expect-no-loss first", of.text)
		}
		t.w.watching[of.text] = true
		s.Change = *f.Watch
	}
	s.Wait = t.wait(f.changeForm)
	s.Expect = t.expect(f)
	return s
}

// verbsOf returns the fields of a step that do something, and which of them are
// changes and which are expectations.
func verbsOf(v *value) (all, does, expects []string) {
	for _, f := range v.fields {
		switch f.name {
		case "name", "idea", "look":
			continue
		case "wait":
		default:
			if strings.HasPrefix(f.name, "expect-") {
				expects = append(expects, f.name)
			} else {
				does = append(does, f.name)
			}
		}
		all = append(all, f.name)
	}
	return all, does, expects
}

// change reads the one change that steps and breaks have in common.
func (t *validator) change(f changeForm) Change {
	switch {
	case f.Apply != nil:
		return t.apply(f.Apply)
	case f.Delete != nil:
		var refs []Ref
		for _, item := range f.At.get("delete").items {
			if ref, ok := t.ref(item); ok {
				refs = append(refs, ref)
				delete(t.w.objects, ref)
			}
		}
		return Delete{refs}
	case f.Split != nil:
		t.checkRoutable(f.At.get("split").get("of"))
		t.shares(f.At.get("split"))
		return *f.Split
	case f.Mirror != nil:
		t.checkMirror(f.At.get("mirror"))
		return *f.Mirror
	}
	return nil
}

// checkMirror checks that a model's version can mirror requests to another one.
func (t *validator) checkMirror(v *value) {
	of := v.get("of")
	if t.checkRoutable(of) && t.w.models[of.text].knative {
		t.wrong(of, "%s is a Knative Service, and Knative mirrors nothing; make it with `model:`", of.text)
	}
	t.checkVersion(of.text, v.get("to"))
}

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
	was, again := t.w.models[m.Name]
	switch {
	case again && was.knative:
		t.wrong(v.get("name"), "%s is a Knative Service already; use another name", m.Name)
	case again && was.routed != m.Route:
		t.wrong(v, "%s has versions with a route and without; say the same `route` for each", m.Name)
	}
	t.addObject(v, Ref{"apps", "Deployment", m.Name + "-" + m.Version}, again)
	t.addObject(v, Ref{"", "Service", m.Name + "-" + m.Version}, again)
	t.ports[m.Name+"-"+m.Version] = []string{"80"} // as in userfile/service.yaml
	if m.Route {
		t.need("istio")
		t.addObject(v, Ref{istio, "Gateway", m.Name}, again)
		t.addObject(v, Ref{istio, "VirtualService", m.Name}, again)
		t.w.hosts[m.Name], t.w.hosts[m.Version+"-"+m.Name] = true, true
		t.serves[m.Name] = appended(appended(t.serves[m.Name], m.Name), m.Version+"-"+m.Name)
	}
	t.w.models[m.Name] = modelState{false, m.Route, appended(was.versions, m.Version)}
	return m
}

const (
	istio   = "networking.istio.io"
	serving = "serving.knative.dev"
)

func (t *validator) knative(v *value, m Model) Model {
	m.Where, m.Knative = t.where(v), true
	was, again := t.w.models[m.Name]
	switch {
	case again && !was.knative:
		t.wrong(v.get("name"), "%s is a Deployment already; use another name", m.Name)
	case slices.Contains(was.versions, m.Version):
		t.wrong(v.get("version"), "version %s of %s is there already, and a revision does not change; use another version", m.Version, m.Name)
	case m.MinScale > m.MaxScale:
		t.wrong(v, "min-scale %d is more than max-scale %d; change one of them", m.MinScale, m.MaxScale)
	}
	t.need("knative")
	t.addObject(v, Ref{serving, "Service", m.Name}, again)
	t.w.hosts[m.Name], t.w.hosts[m.Version+"-"+m.Name] = true, true
	t.w.models[m.Name] = modelState{true, true, appended(was.versions, m.Version)}
	return m
}

// appended returns a new list with one more element.
func appended(list []string, one string) []string {
	if slices.Contains(list, one) {
		return list
	}
	return append(slices.Clone(list), one)
}

// addObject records an object. It reports a problem if another field applies the
// same object: the two would overwrite each other.
func (t *validator) addObject(v *value, ref Ref, again bool) {
	by, there := t.w.objects[ref]
	if there && !(again && by == v.path[strings.LastIndex(v.path, ".")+1:]) {
		t.wrong(v, "%s is made by `%s:` already; use another name", ref, by)
	}
	t.w.objects[ref] = v.path[strings.LastIndex(v.path, ".")+1:]
	t.made[ref] = true
}

const inline = "apply"

func (t *validator) object(v *value) Object {
	o := Object{t.where(v), v.any().(map[string]any)}
	ref := o.Ref()
	if by, there := t.w.objects[ref]; there && by != inline {
		t.wrong(v, "%s is made by `%s:` already; use another name", ref, by)
	}
	t.w.objects[ref] = inline
	t.made[ref] = true
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
		t.w.hosts[ref.Name] = true
		if traffic := v.get("spec").get("traffic"); traffic != nil {
			for _, each := range traffic.items {
				if tag := each.get("tag"); tag != nil {
					t.w.hosts[tag.text+"-"+ref.Name] = true
				}
			}
		}
	case ref.Kind == "Deployment":
		neverPull(spec)
	}
	t.note(ref, v.get("spec"))
	return o
}

// note keeps what the spec of an object says that others refer to.
func (t *validator) note(ref Ref, v *value) {
	switch ref.Kind {
	case "Service":
		for _, port := range v.get("ports").list() {
			t.ports[ref.Name] = appended(t.ports[ref.Name], fmt.Sprint(port.get("port").int))
		}
	case "DestinationRule":
		service, _, _ := strings.Cut(v.get("host").str(), ".")
		for _, subset := range v.get("subsets").list() {
			t.subsets[service] = appended(t.subsets[service], subset.get("name").str())
		}
	case "Gateway":
		for _, server := range v.get("servers").list() {
			for _, h := range server.get("hosts").list() {
				t.serves[ref.Name] = appended(t.serves[ref.Name], t.hostName(h.text))
			}
		}
	case "VirtualService":
		t.noteMarks(v)
		if len(gatewaysOf(v)) == 0 {
			return // the sidecars' only
		}
		for _, h := range v.get("hosts").list() {
			if name := t.hostName(h.text); name != "" {
				t.w.hosts[name] = true
			}
		}
	}
}

// gatewaysOf returns the names of the Gateways that a VirtualService's spec is for.
func gatewaysOf(spec *value) (names []string) {
	for _, each := range spec.get("gateways").list() {
		if own := strings.TrimPrefix(each.text, "${namespace}/"); own != "mesh" {
			names = append(names, own)
		}
	}
	return names
}

// noteMarks keeps the marks that a part of a VirtualService gives answers.
func (t *validator) noteMarks(v *value) {
	for _, change := range []string{"set", "add"} {
		for _, f := range v.get("headers").get("response").get(change).all() {
			if strings.EqualFold(f.name, "X-Mllab-Route") {
				t.marks[f.text] = true
			}
		}
	}
	for _, each := range append(v.get("http").list(), v.get("route").list()...) {
		t.noteMarks(each)
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
		case "DestinationRule":
			t.checkService(spec.get("host"), "so nothing would come of it")
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
			t.wrong(h, "Gateway %s takes no request to this host%s", strings.Join(gateways, ", "), there(taken))
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
					t.wrong(name, "no step makes Gateway %s, so nothing would be served by it%s", own, there(t.names(istio, "Gateway")))
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
		t.wrong(port, "Service %s has no port %d%s", service, port.int, there(known))
	}
	if subset := v.get("subset"); subset != nil && !slices.Contains(t.subsets[service], subset.text) {
		fix := "; apply a DestinationRule with it"
		if all := t.subsets[service]; all != nil {
			fix = there(all)
		}
		t.wrong(subset, "no DestinationRule of the steps has the subset %s of Service %s, %s%s", subset.text, service, unanswered, fix)
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
	t.wrong(host, "no step makes Service %s, %s%s", service, so, there(append(own, knative...)))
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
	for ref := range t.w.objects {
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
	if t.w.hosts[of.text] || t.w.hosts["*"] {
		return true
	}
	t.wrong(of, "nothing is served as %q at this point of the story%s", of.text, there(sorted(t.w.hosts)))
	return false
}

func there(names []string) string {
	if len(names) == 0 {
		return "; apply it first"
	}
	return "; there are: " + strings.Join(names, ", ")
}

// checkRoutable checks that mllab routes the traffic of a model.
func (t *validator) checkRoutable(of *value) bool {
	m, ok := t.w.models[of.text]
	if ok && m.routed {
		return true
	}
	var names []string
	for name, m := range t.w.models {
		if m.routed {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	t.wrong(of, "%q was not made by `knative:`, or by `model:` with a route%s", of.text, there(names))
	return false
}

// checkVersion checks that a model of mllab has a version.
func (t *validator) checkVersion(of string, v *value) {
	m, ok := t.w.models[of]
	if ok && !slices.Contains(m.versions, v.str()) {
		t.wrong(v, "%s has no version %s at this point of the story; there are: %s", of, v.str(), strings.Join(m.versions, ", "))
	}
}

// shares checks the field percent of v. Its field of names the model.
func (t *validator) shares(v *value) {
	m, ok := t.w.models[v.get("of").text]
	sum := 0.0
	for _, f := range v.get("percent").fields {
		if ok && !slices.Contains(m.versions, f.name) {
			t.say(f.place, f.path, "%s has no version %s at this point of the story; there are: %s", v.get("of").text, f.name, strings.Join(m.versions, ", "))
		}
		sum += f.float
	}
	if math.Abs(sum-100) > 1e-9 {
		t.wrong(v.get("percent"), "the percentages add up to %g, not 100; change one of them", sum)
	}
}

func (t *validator) wait(f changeForm) Wait {
	w := f.Wait
	switch {
	case w == nil:
		return Wait{}
	case w.At.kind == boolean:
		if f.Apply == nil {
			t.wrong(w.At, "there is nothing to wait for in this step; `wait: false` goes with apply")
		}
		return Wait{No: true}
	case w.Mark != "":
		if mark := w.At.get("mark"); t.host(w.At.get("of")) && !t.marks[w.Mark] {
			t.wrong(mark, "no VirtualService up to here sets the response header X-Mllab-Route: %s, so the wait could not end%s", w.Mark, there(sorted(t.marks)))
		}
	case w.Ready == "" && f.Apply == nil && f.Delete == nil && f.Split == nil && f.Mirror == nil:
		t.wrong(w.At, "nothing changes in this step; `empty` goes with apply, split, mirror, delete, or with mark")
	}
	wait := Wait{Within: w.Within, Mark: w.Mark, Of: w.Of, Empty: w.Empty}
	if w.Ready != "" {
		if ref, ok := t.ref(w.At.get("ready")); ok {
			wait.Ready = &ref
		}
	}
	return wait
}

func (t *validator) expect(f stepForm) Expect {
	switch {
	case f.ExpectSplit != nil:
		x, v := *f.ExpectSplit, f.At.get("expect-split")
		x.Requests, x.Alpha = cmp.Or(x.Requests, t.rules.Requests), cmp.Or(x.Alpha, t.rules.Alpha)
		t.host(v.get("of"))
		t.shares(v)
		legs := make([]split.Leg, len(x.Shares))
		for i, s := range x.Shares {
			legs[i] = split.Leg{Name: s.Version, Share: s.Percent / 100}
		}
		t.checkPower(v, split.Claim{Legs: legs, N: x.Requests, Alpha: x.Alpha})
		return x
	case f.ExpectAll != nil:
		x, v := *f.ExpectAll, f.At.get("expect-all")
		x.Requests = cmp.Or(x.Requests, t.rules.Requests)
		t.host(v.get("of"))
		t.checkVersion(x.Of, v.get("version"))
		t.checkHeaders(v)
		return x
	case f.ExpectMirror != nil:
		x, v := *f.ExpectMirror, f.At.get("expect-mirror")
		x.Requests, x.Alpha = cmp.Or(x.Requests, t.rules.Requests), cmp.Or(x.Alpha, t.rules.Alpha)
		t.checkMirror(v)
		if x.Requests > api.SeenKeep {
			t.wrong(v, "%d requests are more than the %d that the shadow remembers; use fewer", x.Requests, api.SeenKeep)
		}
		t.checkPower(v, split.Claim{Legs: []split.Leg{{Name: x.To, Share: x.Percent / 100}, {Name: "not mirrored", Share: 1 - x.Percent/100}}, N: x.Requests, Alpha: x.Alpha})
		return x
	case f.ExpectZeroPods != nil:
		of := f.At.get("expect-zero-pods").get("of")
		if _, there := t.w.objects[Ref{serving, "Service", of.text}]; !there {
			t.wrong(of, "%s is no Knative Service at this point of the story, and only those go down to no pod", of.text)
		}
		if t.w.watching[of.text] {
			t.wrong(of, "the watch of %s keeps it awake; end that with expect-no-loss first", of.text)
		}
		return *f.ExpectZeroPods
	case f.ExpectNoLoss != nil:
		of := f.At.get("expect-no-loss").get("of")
		if !t.w.watching[of.text] {
			t.wrong(of, "nobody watches %s at this point of the story; begin with watch", of.text)
		}
		delete(t.w.watching, of.text)
		return *f.ExpectNoLoss
	}
	return nil
}

// ownHeaders are those that a request has whatever a file says: who it is for and
// which one it is, and those of its connection.
var ownHeaders = []string{
	"host", "x-request-id", "connection", "keep-alive", "proxy-connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade",
}

// checkHeaders checks that a request can have all headers and cookies of an
// expectation.
func (t *validator) checkHeaders(v *value) {
	seen := map[string]bool{}
	for _, f := range v.get("headers").all() {
		name := strings.ToLower(f.name)
		switch {
		case slices.Contains(ownHeaders, name) || strings.HasPrefix(name, "x-mllab-"):
			t.say(f.place, f.path, "mllab or HTTP itself sets this header of a request; remove it")
		case seen[name]:
			t.say(f.place, f.path, "it is here a second time: capitals do not count; remove one of them")
		case name == "cookie" && v.get("cookies") != nil:
			t.say(f.place, f.path, "there are `cookies` too, and a browser sends one header with all of them; write it as one of these")
		}
		seen[name] = true
	}
}

// checkPower checks that the claim would refuse a version without traffic.
func (t *validator) checkPower(v *value, c split.Claim) {
	if err := c.Check(); err != nil {
		t.wrong(v, "%v; change the numbers", err)
	} else if need := c.Needed(); c.N < need {
		t.wrong(v, "%d requests are too few: a version that gets nothing would pass; use requests: %d or more", c.N, need)
	}
}

func (t *validator) control(f controlForm, after []fileState) Control {
	v := f.At
	c := Control{Where: t.where(v), Name: f.Name, Summary: f.Summary, After: strings.TrimSpace(f.After), Catches: f.Catches}
	if slices.ContainsFunc(t.file.Controls, func(each Control) bool { return each.Name == c.Name }) {
		t.wrong(v.get("name"), "another control is called %s; give each a name of its own", c.Name)
	}
	t.checkNamespace(v.get("name"), t.file.Name+"-"+c.Name)
	first := 0 // first step whose check comes after the break
	if c.After != "" {
		first = slices.IndexFunc(t.file.Steps, func(s Step) bool { return s.Name == c.After })
		if first < 0 || first+1 >= len(after) {
			var names []string
			for _, s := range t.file.Steps[:len(after)-1] {
				names = append(names, s.Name)
			}
			t.wrong(v.get("after"), "no step is called %q; steps are: %s", c.After, strings.Join(names, ", "))
			return c
		}
		t.w = after[first+1].clone()
	} else {
		t.w = after[0].clone()
	}
	claims := map[string]bool{}
	for _, s := range t.file.Steps[first:] {
		if s.Expect != nil {
			for _, claim := range s.Expect.Claims() {
				claims[claim] = true
			}
		}
	}
	if !claims[c.Catches] {
		t.wrong(v.get("catches"), "%s is claimed by no step that the break comes before; those claim: %s", short(c.Catches), strings.Join(sorted(claims), ", "))
	}
	for _, b := range f.Break {
		if _, does, _ := verbsOf(b.At); len(does) != 1 {
			t.wrong(b.At, "a break is a list of single changes, and this has %d; give each an item of its own", len(does))
			continue
		}
		change := t.change(b.changeForm)
		if b.Env != nil {
			change = *b.Env
			t.checkUnapplied(b.At.get("env"), *b.Env, first, c.After != "")
		}
		c.Break = append(c.Break, Break{change, t.wait(b.changeForm)})
	}
	return c
}

// checkUnapplied checks that a later step applies the version that a break changes.
func (t *validator) checkUnapplied(v *value, e Env, first int, after bool) {
	if after {
		first++
	}
	for _, s := range t.file.Steps[first:] {
		if a, ok := s.Change.(Apply); ok && slices.ContainsFunc(a.Models, func(m Model) bool { return m.Name == e.Of && m.Version == e.Version }) {
			return
		}
	}
	t.wrong(v, "no later step applies version %s of %s, so this would change nothing; set an earlier `after`, or apply it again in the break", e.Version, e.Of)
}
