package file

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mllab.local/internal/split"
)

// MaxRequests bounds one sample: about ten minutes on two cores.
const MaxRequests = 500_000

// The form of a file. What its parts mean together is story's to judge.
var (
	requests = wholeFrom(1, MaxRequests)
	alpha    = between(0, 0.5, true)
	percent  = between(0, 100, false)
	env      = dict{"an environment variable that a scenario may set (who the model is, and where, is the lab's)", func(k string) bool {
		return envName.MatchString(k) && !slices.Contains([]string{"TARGET", "PORT", "POD_NAME", "K_REVISION"}, k) && !slices.Contains(notText, strings.ToLower(k))
	}, anyText}
	words = dict{"a header's or cookie's name of letters, digits and dashes", headerName.MatchString, matching(printable, "printable ASCII")}

	shorthand = fields{
		"model":   fields{"name!": shortName, "version!": shortName, "env": env, "replicas": wholeFrom(1, maxReplicas), "route": anyBool},
		"knative": fields{"name!": shortName, "version!": shortName, "env": env, "min-scale": wholeFrom(0, maxReplicas), "max-scale": wholeFrom(1, maxReplicas), "window": window},
	}
	// window is Knative's: https://knative.dev/docs/serving/autoscaling/kpa-specific/#stable-window
	window leaf = func(r *reader, v *value) {
		if !r.is(v, text) {
			return
		}
		if d, err := time.ParseDuration(v.text); err != nil || d < 6*time.Second || d > time.Hour || d%time.Second != 0 {
			r.wrong(v, "%s is not whole seconds from 6s to 1h; write some such as 6s", short(v.text))
		}
	}

	changes = fields{
		"apply":  each{leaf(applied)},
		"delete": each{object},
		"split":  fields{"of!": label, "percent!": percents(wholeFrom(0, 100))},
		"mirror": fields{"of!": label, "to!": shortName, "percent": percent},
		"wait":   leaf(waited),
	}
	step = with(changes, fields{
		"name": title, "idea": sentence, "look": sentence,
		"watch":            fields{"of!": label, "rate": between(1, 100, false)},
		"expect-split":     fields{"of!": label, "percent!": percents(percent), "requests": requests, "alpha": alpha},
		"expect-all":       fields{"of!": label, "version!": shortName, "headers": words, "cookies": words, "requests": requests},
		"expect-mirror":    fields{"of!": label, "to!": shortName, "percent": percent, "requests": requests, "alpha": alpha},
		"expect-zero-pods": fields{"of!": label, "within": leaf(within)},
		"expect-no-loss":   fields{"of!": label},
	})
	control = fields{
		"name!": shortName, "summary!": sentence, "after": title,
		"break!": each{with(changes, fields{"env": fields{"of!": label, "version!": shortName, "set!": env}})}, "catches!": anyText,
	}
	scenario = fields{
		"apiVersion!": oneOf(APIVersion), "kind!": oneOf(Kind), "name!": shortName,
		"summary!": sentence, "needs": each{leaf(addon)}, "mesh": anyBool, "steps!": each{step}, "controls": each{control},
	}
)

func with(a, b fields) fields {
	a = maps.Clone(a)
	maps.Copy(a, b)
	return a
}

func addon(r *reader, v *value) { oneOf(r.rules.Addons...)(r, v) }

// waited is `false`, or what to wait for.
func waited(r *reader, v *value) {
	if v.kind == boolean {
		if v.truth {
			r.wrong(v, "waiting is what a step does anyway; write false, or what else to wait for")
		}
		return
	}
	switch {
	case v.get("mark") != nil:
		fields{"mark!": shortName, "of!": label, "empty": each{legName}, "within": leaf(within)}.check(r, v)
	case v.get("empty") != nil:
		fields{"empty!": each{legName}}.check(r, v)
	default:
		fields{"ready!": object, "within": leaf(within)}.check(r, v)
	}
}

// world is what a story has made so far.
type world struct {
	models   map[string]made
	hosts    map[string]bool // behind the gateway; "*" is all
	objects  map[Ref]string  // and what made them
	watching map[string]bool
}

type made struct {
	knative, routed bool
	versions        []string
}

func (w world) clone() world {
	return world{maps.Clone(w.models), maps.Clone(w.hosts), maps.Clone(w.objects), maps.Clone(w.watching)}
}

// teller reads the steps of one file.
type teller struct {
	*reader
	name string
	file *File
	w    world
}

// story reads a file whose form is right.
func (r *reader) story(name string, root *value) *File {
	f := &File{Name: root.get("name").text, Summary: root.get("summary").text}
	t := &teller{r, name, f, world{map[string]made{}, map[string]bool{}, map[Ref]string{}, map[string]bool{}}}
	t.free(root.get("name"), f.Name)
	if needs := root.get("needs"); needs != nil {
		for _, n := range needs.items {
			t.need(n.text)
		}
	}
	if mesh := root.get("mesh"); mesh != nil && mesh.truth {
		f.Mesh = true
		t.need("istio")
	}
	after := []world{t.w.clone()} // before the first step, after it, …
	for i, v := range root.get("steps").items {
		s := t.step(i, v)
		if slices.ContainsFunc(f.Steps, func(each Step) bool { return each.Name == s.Name }) {
			r.wrong(v, "another step is called %q; give each a name of its own", s.Name)
		}
		f.Steps = append(f.Steps, s)
		after = append(after, t.w.clone())
	}
	// Whoever watches must also judge.
	for _, of := range sorted(t.w.watching) {
		f.Steps = append(f.Steps, Step{Where: name, Name: "no request to " + of + " lost", Expect: ExpectNoLoss{of}})
	}
	if !slices.ContainsFunc(f.Steps, func(s Step) bool { return s.Expect != nil }) {
		r.wrong(root.get("steps"), "no step expects anything, so nothing could fail; add an expect-split, expect-all or another")
	}
	if controls := root.get("controls"); controls != nil {
		for _, v := range controls.items {
			f.Controls = append(f.Controls, t.control(v, after))
		}
	}
	slices.Sort(f.Needs)
	return f
}

// free judges that the namespace of a run can be nobody else's.
func (t *teller) free(v *value, run string) {
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

func (t *teller) need(addon string) {
	if !slices.Contains(t.file.Needs, addon) {
		t.file.Needs = append(t.file.Needs, addon)
	}
}

func (t *teller) where(v *value) string { return fmt.Sprintf("%s:%d", t.name, v.line) }

func (t *teller) step(i int, v *value) Step {
	s := Step{Where: t.where(v), Idea: v.get("idea").str(), Look: v.get("look").str()}
	verbs, does, expects := verbsOf(v)
	if s.Name = strings.TrimSpace(v.get("name").str()); s.Name == "" {
		s.Name = fmt.Sprintf("%d %s", i+1, strings.Join(verbs, ", "))
	}
	switch {
	case len(verbs) == 0:
		t.wrong(v, "the step does nothing; give it a change such as apply, or an expectation such as expect-split")
	case len(does) > 1:
		t.wrong(v, "the step has %d changes: %s; make them steps of their own", len(does), strings.Join(does, ", "))
	case len(expects) > 1:
		t.wrong(v, "the step has %d expectations: %s; make them steps of their own", len(expects), strings.Join(expects, ", "))
	}
	s.Change = t.change(v)
	s.Wait = t.wait(v)
	s.Expect = t.expect(v)
	return s
}

// verbsOf are the fields of a step that do something, those of them that are
// changes, and those that are expectations.
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

// change reads the one change of a step or of a break.
func (t *teller) change(v *value) Change {
	if a := v.get("apply"); a != nil {
		return t.apply(a)
	}
	if d := v.get("delete"); d != nil {
		var refs []Ref
		for _, item := range d.items {
			if ref, ok := t.ref(item); ok {
				refs = append(refs, ref)
				delete(t.w.objects, ref)
			}
		}
		return Delete{refs}
	}
	if s := v.get("split"); s != nil {
		of := s.get("of")
		t.routed(of)
		shares := t.shares(s)
		return Split{of.text, shares}
	}
	if m := v.get("mirror"); m != nil {
		of := m.get("of")
		if t.routed(of) && t.w.models[of.text].knative {
			t.wrong(of, "%s is a Knative Service, and Knative mirrors nothing; make it with `model:`", of.text)
		}
		t.known(of.text, m.get("to"))
		return Mirror{of.text, m.get("to").text, floatOr(m.get("percent"), 100)}
	}
	if w := v.get("watch"); w != nil {
		of := w.get("of")
		t.host(of)
		if t.w.watching[of.text] {
			t.wrong(of, "%s is being watched already; end that with expect-no-loss first", of.text)
		}
		t.w.watching[of.text] = true
		return Watch{of.text, floatOr(w.get("rate"), 50)}
	}
	if e := v.get("env"); e != nil {
		return Env{e.get("of").text, e.get("version").text, dictOf(e.get("set"))}
	}
	return nil
}

func (t *teller) apply(v *value) Apply {
	var a Apply
	revisions := map[string]bool{}
	for _, item := range v.items {
		switch m, k := item.get("model"), item.get("knative"); {
		case m != nil && k != nil:
			t.wrong(item, "this is model and knative at once; make them two items")
		case m != nil:
			a.Models = append(a.Models, t.model(m))
		case k != nil:
			m := t.knative(k)
			if revisions[m.Name] {
				t.wrong(k, "a second version of %s in one step, and each change of a Knative Service makes one revision; make it a step of its own", m.Name)
			}
			revisions[m.Name] = true
			a.Models = append(a.Models, m)
		default:
			a.Objects = append(a.Objects, t.object(item))
		}
	}
	return a
}

func (t *teller) model(v *value) Model {
	m := Model{Where: t.where(v), Name: v.get("name").text, Version: v.get("version").text, Env: dictOf(v.get("env")), Replicas: 1, Route: true}
	if n := v.get("replicas"); n != nil {
		m.Replicas = int(n.int)
	}
	if route := v.get("route"); route != nil {
		m.Route = route.truth
	}
	was, again := t.w.models[m.Name]
	switch {
	case again && was.knative:
		t.wrong(v.get("name"), "%s is a Knative Service already; use another name", m.Name)
	case again && was.routed != m.Route:
		t.wrong(v, "%s has versions with a route and without; say the same `route` for each", m.Name)
	}
	t.makes(v, Ref{"apps", "Deployment", m.Name + "-" + m.Version}, again)
	t.makes(v, Ref{"", "Service", m.Name + "-" + m.Version}, again)
	if m.Route {
		t.need("istio")
		t.makes(v, Ref{istio, "Gateway", m.Name}, again)
		t.makes(v, Ref{istio, "VirtualService", m.Name}, again)
		t.w.hosts[m.Name], t.w.hosts[m.Version+"-"+m.Name] = true, true
	}
	t.w.models[m.Name] = made{false, m.Route, with1(was.versions, m.Version)}
	return m
}

const (
	istio   = "networking.istio.io"
	serving = "serving.knative.dev"
)

func (t *teller) knative(v *value) Model {
	m := Model{
		Where: t.where(v), Name: v.get("name").text, Version: v.get("version").text, Env: dictOf(v.get("env")), Knative: true, Route: true,
		MinScale: int(floatOr(v.get("min-scale"), 1)), MaxScale: int(floatOr(v.get("max-scale"), 1)), Window: v.get("window").str(),
	}
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
	t.makes(v, Ref{serving, "Service", m.Name}, again)
	t.w.hosts[m.Name], t.w.hosts[m.Version+"-"+m.Name] = true, true
	t.w.models[m.Name] = made{true, true, with1(was.versions, m.Version)}
	return m
}

// with1 is a new list with one more.
func with1(list []string, one string) []string {
	if slices.Contains(list, one) {
		return list
	}
	return append(slices.Clone(list), one)
}

// makes notes an object. Two makers of one would undo each other's work.
func (t *teller) makes(v *value, ref Ref, again bool) {
	by, there := t.w.objects[ref]
	if there && !(again && by == v.path[strings.LastIndex(v.path, ".")+1:]) {
		t.wrong(v, "%s is made by `%s:` already; use another name", ref, by)
	}
	t.w.objects[ref] = v.path[strings.LastIndex(v.path, ".")+1:]
}

const inline = "apply"

func (t *teller) object(v *value) Object {
	o := Object{t.where(v), v.any().(map[string]any)}
	ref := o.Ref()
	if by, there := t.w.objects[ref]; there && by != inline {
		t.wrong(v, "%s is made by `%s:` already; use another name", ref, by)
	}
	t.w.objects[ref] = inline
	spec, _ := o.fields["spec"].(map[string]any)
	switch {
	case ref.Group == istio:
		t.need("istio")
		if ref.Kind != "Gateway" && spec["exportTo"] == nil {
			spec["exportTo"] = []any{exportTo[0], exportTo[1]}
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
	if hosts := v.get("spec").get("hosts"); hosts != nil && ref.Kind == "VirtualService" {
		for _, h := range hosts.items {
			if name := t.hostName(h.text); name != "" {
				t.w.hosts[name] = true
			}
		}
	}
	return o
}

// neverPull has a Deployment fail at once when its image is not on the node.
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

// ref reads the name of an object that is there.
func (t *teller) ref(v *value) (Ref, bool) {
	parts := objectRef.FindStringSubmatch(v.text)
	want := Ref{parts[2], parts[1], parts[3]}
	var found []Ref
	var all []string
	for ref := range t.w.objects {
		all = append(all, ref.String())
		if ref.Kind == want.Kind && ref.Name == want.Name && (want.Group == "" || want.Group == ref.Group) {
			found = append(found, ref)
		}
	}
	if slices.Contains(found, want) { // Service/x is the core one when there are two
		return want, true
	}
	if len(found) == 1 {
		return found[0], true
	}
	slices.Sort(all)
	t.wrong(v, "there is no %s at this point of the story; there are: %s", v.text, strings.Join(all, ", "))
	return Ref{}, false
}

// host judges that something answers to a name.
func (t *teller) host(of *value) bool {
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

// routed judges that a model's traffic is mllab's to divide.
func (t *teller) routed(of *value) bool {
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

// known judges that a model has a version, if mllab made it.
func (t *teller) known(of string, v *value) {
	m, ok := t.w.models[of]
	if ok && !slices.Contains(m.versions, v.str()) {
		t.wrong(v, "%s has no version %s at this point of the story; there are: %s", of, v.str(), strings.Join(m.versions, ", "))
	}
}

// shares reads `percent` of v, whose `of` names the model.
func (t *teller) shares(v *value) []Share {
	var all []Share
	m, ok := t.w.models[v.get("of").text]
	for _, f := range v.get("percent").fields {
		if ok && !slices.Contains(m.versions, f.name) {
			t.say(f.place, f.path, "%s has no version %s at this point of the story; there are: %s", v.get("of").text, f.name, strings.Join(m.versions, ", "))
		}
		all = append(all, Share{f.name, f.float})
	}
	return all
}

func (t *teller) wait(v *value) Wait {
	w := v.get("wait")
	if w == nil {
		return Wait{}
	}
	if w.kind == boolean {
		if v.get("apply") == nil {
			t.wrong(w, "there is nothing to wait for in this step; `wait: false` goes with apply")
		}
		return Wait{No: true}
	}
	wait := Wait{Within: durationOr(w.get("within"), 0), Mark: w.get("mark").str(), Of: w.get("of").str()}
	if empty := w.get("empty"); empty != nil {
		for _, each := range empty.items {
			wait.Empty = append(wait.Empty, each.text)
		}
	}
	switch ready := w.get("ready"); {
	case wait.Mark != "":
		t.host(w.get("of"))
	case ready == nil:
		if v.get("apply") == nil && v.get("split") == nil && v.get("mirror") == nil && v.get("delete") == nil {
			t.wrong(w, "nothing changes in this step; `empty` goes with apply, split, mirror, delete, or with mark")
		}
	default:
		if ref, ok := t.ref(ready); ok {
			wait.Ready = &ref
		}
	}
	return wait
}

func (t *teller) expect(v *value) Expect {
	if e := v.get("expect-split"); e != nil {
		t.host(e.get("of"))
		x := ExpectSplit{e.get("of").text, t.shares(e), t.requests(e), t.alpha(e)}
		legs := make([]split.Leg, len(x.Shares))
		for i, s := range x.Shares {
			legs[i] = split.Leg{Name: s.Version, Share: s.Percent / 100}
		}
		t.enough(e, split.Claim{Legs: legs, N: x.Requests, Alpha: x.Alpha})
		return x
	}
	if e := v.get("expect-all"); e != nil {
		t.host(e.get("of"))
		t.known(e.get("of").text, e.get("version"))
		return ExpectAll{e.get("of").text, e.get("version").text, dictOf(e.get("headers")), dictOf(e.get("cookies")), t.requests(e)}
	}
	if e := v.get("expect-mirror"); e != nil {
		of := e.get("of")
		if t.routed(of) && t.w.models[of.text].knative {
			t.wrong(of, "%s is a Knative Service, and Knative mirrors nothing; make it with `model:`", of.text)
		}
		t.known(of.text, e.get("to"))
		x := ExpectMirror{of.text, e.get("to").text, floatOr(e.get("percent"), 100), t.requests(e), t.alpha(e)}
		if x.Requests > seenKeep {
			t.wrong(e, "%d requests are more than the %d that the shadow remembers; use fewer", x.Requests, seenKeep)
		}
		t.enough(e, split.Claim{Legs: []split.Leg{{Name: x.To, Share: x.Percent / 100}, {Name: "not mirrored", Share: 1 - x.Percent/100}}, N: x.Requests, Alpha: x.Alpha})
		return x
	}
	if e := v.get("expect-zero-pods"); e != nil {
		of := e.get("of")
		if _, there := t.w.objects[Ref{serving, "Service", of.text}]; !there {
			t.wrong(of, "%s is no Knative Service at this point of the story, and only those go down to no pod", of.text)
		}
		if t.w.watching[of.text] {
			t.wrong(of, "the watch of %s keeps it awake; end that with expect-no-loss first", of.text)
		}
		return ExpectZeroPods{of.text, durationOr(e.get("within"), 2*time.Minute)}
	}
	if e := v.get("expect-no-loss"); e != nil {
		of := e.get("of")
		if !t.w.watching[of.text] {
			t.wrong(of, "nobody watches %s at this point of the story; begin with watch", of.text)
		}
		delete(t.w.watching, of.text)
		return ExpectNoLoss{of.text}
	}
	return nil
}

// seenKeep is how many requests the sample model remembers.
const seenKeep = 20_000

func (t *teller) requests(v *value) int {
	if n := v.get("requests"); n != nil {
		return int(n.int)
	}
	return t.rules.Requests
}

func (t *teller) alpha(v *value) float64 { return floatOr(v.get("alpha"), t.rules.Alpha) }

// enough judges that a version that gets nothing would be refused.
func (t *teller) enough(v *value, c split.Claim) {
	if err := c.Check(); err != nil {
		t.wrong(v, "%v; change the numbers", err)
	} else if need := c.Needed(); c.N < need {
		t.wrong(v, "%d requests are too few: a version that gets nothing would pass; use requests: %d or more", c.N, need)
	}
}

func (t *teller) control(v *value, after []world) Control {
	c := Control{Where: t.where(v), Name: v.get("name").text, Summary: v.get("summary").text, After: strings.TrimSpace(v.get("after").str()), Catches: v.get("catches").text}
	if slices.ContainsFunc(t.file.Controls, func(each Control) bool { return each.Name == c.Name }) {
		t.wrong(v.get("name"), "another control is called %s; give each a name of its own", c.Name)
	}
	t.free(v.get("name"), t.file.Name+"-"+c.Name)
	first := 0 // step whose check sees the break
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
	for _, b := range v.get("break").items {
		if _, does, _ := verbsOf(b); len(does) != 1 {
			t.wrong(b, "a break is a list of single changes, and this has %d; give each an item of its own", len(does))
			continue
		}
		change := t.change(b)
		if e, ok := change.(Env); ok {
			t.later(b.get("env"), e, first, c.After != "")
		}
		c.Break = append(c.Break, Break{change, t.wait(b)})
	}
	return c
}

// later judges that a version which is to be broken is still to come.
func (t *teller) later(v *value, e Env, first int, after bool) {
	if after {
		first++
	}
	for _, s := range t.file.Steps[first:] {
		if a, ok := s.Change.(Apply); ok && slices.ContainsFunc(a.Models, func(m Model) bool { return m.Name == e.Of && m.Version == e.Version }) {
			return
		}
	}
	t.wrong(v, "no later step applies version %s of %s, so this would change nothing; set an earlier `after`, or apply it anew in the break", e.Version, e.Of)
}

func floatOr(v *value, other float64) float64 {
	if v == nil {
		return other
	}
	return v.float
}

func durationOr(v *value, other time.Duration) time.Duration {
	if v == nil {
		return other
	}
	d, _ := time.ParseDuration(v.text) // its shape was checked
	return d
}

func dictOf(v *value) map[string]string {
	if v == nil {
		return nil
	}
	m := map[string]string{}
	for _, f := range v.fields {
		m[f.name] = f.text
	}
	return m
}
