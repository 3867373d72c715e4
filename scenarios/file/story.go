package file

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// fileState has the objects that the steps of a file have applied so far.
type fileState struct {
	models   map[string]modelState
	hosts    map[string]string // behind the gateway, with what serves them; "*" means all
	objects  map[Ref]string    // with the field that applied them
	watching map[string]bool
	routing  map[Ref]*value // what the gateway finds pods by: specs, and the templates of Deployments or the variables of models
	unseen   map[string]Ref // hosts whose way to the pods has changed by this, and no wait has seen the gateway follow
	stale    map[string]Ref // marks that say nothing of an unseen change: its VirtualService gave them before, too
}

type modelState struct {
	knative, routed bool
	versions        []string
}

func (s fileState) clone() fileState {
	return fileState{maps.Clone(s.models), maps.Clone(s.hosts), maps.Clone(s.objects), maps.Clone(s.watching), maps.Clone(s.routing), maps.Clone(s.unseen), maps.Clone(s.stale)}
}

// validator checks the steps of one file.
type validator struct {
	*reader
	name  string
	file  *File
	state fileState
	made  map[Ref]bool // by any step

	// What the steps' objects say of themselves.
	ports   map[string][]string // of a Service
	subsets map[string][]string // of a Service, by DestinationRules
	serves  map[string][]string // hosts of a Gateway, as hostName has them
	uses    map[string]bool     // SERVICE/SUBSET that the gateway's routes have
	marks   map[string]bool     // that VirtualServices give answers

	backends backends
}

// story checks a file whose fields are valid.
func (r *reader) story(name string, root *value) *File {
	var d document
	fill(root, reflect.ValueOf(&d).Elem())
	f := &File{Name: d.Name, Summary: d.Summary, Mesh: d.Mesh}
	t := &validator{
		reader: r, name: name, file: f, made: map[Ref]bool{},
		state: fileState{map[string]modelState{}, map[string]string{}, map[Ref]string{}, map[string]bool{}, map[Ref]*value{}, map[string]Ref{}, map[string]Ref{}},
		ports: map[string][]string{}, subsets: map[string][]string{}, serves: map[string][]string{}, uses: map[string]bool{}, marks: map[string]bool{},
		backends: backends{services: map[string][]*value{}, subsets: map[string][]*value{}, maps: map[string][]string{}},
	}
	t.checkNamespace(root.get("name"), f.Name)
	for _, addon := range d.Needs {
		t.need(addon)
	}
	if f.Mesh {
		t.need("istio")
	}
	after := []fileState{t.state.clone()} // before the first step, after it, …
	for i, form := range d.Steps {
		s := t.step(i, form)
		if slices.ContainsFunc(f.Steps, func(each Step) bool { return each.Name == s.Name }) {
			r.wrong(form.At, "another step is called %q; give each a name of its own", s.Name)
		}
		f.Steps = append(f.Steps, s)
		after = append(after, t.state.clone())
	}
	for _, step := range root.get("steps").items {
		t.checkRoutes(step.get("apply"))
	}
	t.checkBackends(root)
	t.checkVariables(root)
	t.checkUnfilled(root)
	// Each watch must be judged.
	for _, of := range sorted(t.state.watching) {
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

func (t *validator) where(v *value) string { return fmt.Sprintf("%s:%d:%d", t.name, v.line, v.column) }

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
		t.checkSeen(of, of.text, "a step before it")
		if t.state.watching[of.text] {
			t.wrong(of, "%s is being watched already; end that with expect-no-loss first", of.text)
		}
		t.state.watching[of.text] = true
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
				t.unserve(ref)
				delete(t.state.objects, ref)
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
	if t.checkRoutable(of) && t.state.models[of.text].knative {
		t.wrong(of, "%s is a Knative Service, and Knative mirrors nothing; make it with `model:`", of.text)
	}
	t.checkVersion(of.text, v.get("to"))
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
		t.state = after[first+1].clone()
	} else {
		t.state = after[0].clone()
	}
	claims := map[string]bool{}
	last := first - 1 // step that claims what the control catches
	for i, s := range t.file.Steps[first:] {
		if s.Expect != nil {
			for _, claim := range s.Expect.Claims() {
				if claims[claim] = true; claim == c.Catches {
					last = first + i
				}
			}
		}
	}
	if !claims[c.Catches] {
		t.wrong(v.get("catches"), "%s is claimed by no step that the break comes before; those claim: %s", quote(c.Catches), strings.Join(sorted(claims), ", "))
	}
	clear(t.state.unseen)
	clear(t.state.stale)
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
		wait := t.wait(b.changeForm)
		maps.DeleteFunc(t.state.unseen, func(_ string, because Ref) bool { // what no wait could see
			return wait.No && because.Kind == "Deployment" || delays(t.state.routing[because])
		})
		c.Break = append(c.Break, Break{change, wait})
	}
	for i, s := range t.file.Steps[first : last+1] {
		if s.Wait.Mark != "" && (i > 0 || c.After == "") { // it comes after the break
			break
		}
		if !t.checkSeen(v.get("break"), asked(s.Expect), "an item of `break`") {
			break
		}
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
