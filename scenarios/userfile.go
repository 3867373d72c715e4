package scenarios

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/fault"
	"mllab.local/internal/input"
	"mllab.local/scenarios/file"
)

// ReadFile reads a user's own scenario. All of it is judged here: the error is
// wrong use, and nothing was touched. rules need Domain and Reserved; of the
// options Requests, Alpha and Short count.
func ReadFile(path string, rules file.Rules, o Options) (s Scenario, err error) {
	data, err := input.File(path, file.MaxBytes)
	if err != nil {
		return s, fault.Usage("give the path of a scenario's YAML file", "reading the scenario: %w", err)
	}
	o = o.withDefaults()
	rules.Alpha, rules.Requests = o.Alpha, o.Requests
	for _, s := range All() {
		rules.Taken = append(rules.Taken, s.Name)
	}
	f, err := file.Read(path, data, rules)
	if err != nil {
		return s, err
	}
	full, err := filepath.Abs(path)
	if err != nil {
		return s, fmt.Errorf("reading the scenario: %w", err)
	}
	resolved, _ := filepath.EvalSymlinks(full) // a shell's <(command) is nowhere
	l := &Session{Env: &Env{Image: "kind.local/sampleapp:1", Domain: rules.Domain}, Namespace: Namespace(f.Name)}
	if err := rehearsed(f, l, func(*unstructured.Unstructured) error { return nil }); err != nil {
		return s, fault.Usage("correct the file; nothing was applied", "%w", err)
	}
	return Scenario{
		Name: f.Name, Summary: f.Summary, Needs: f.Needs, SidecarInjection: f.Mesh, Untrusted: true, File: cmp.Or(resolved, full),
		New: func(Options) (*Plan, error) { return planFile(f, rules.Alpha), nil },
	}, nil
}

// userStory is a scenario from a file while it runs.
type userStory struct {
	alpha    float64
	services map[string]*userService      // Knative's, by name
	routes   map[string]*userRoute        // Istio's, by name
	env      map[string]map[string]string // of versions still to come, by userVersion
	requests map[string][]http.Header     // with which the file's expectations ask, by what they ask
	watchers map[string]*prober           // by what they watch
	gone     []*unstructured.Unstructured // what the file has deleted
	legs     []leg                        // that a barrier has asked so far
	broken   bool                         // a control has broken the world: what has lost its pods may do without
}

func newUserStory(f *file.File, alpha float64) *userStory {
	u := &userStory{
		alpha: alpha, services: map[string]*userService{}, routes: map[string]*userRoute{}, env: map[string]map[string]string{},
		requests: map[string][]http.Header{}, watchers: map[string]*prober{},
	}
	for _, each := range f.Steps {
		if x, ok := each.Expect.(file.ExpectAll); ok && x.Claim() == string(Routes) {
			u.requests[x.Of] = append(u.requests[x.Of], headerOf(x))
		}
	}
	return u
}

// askedIn are the names that a file's requests ask for.
func askedIn(f *file.File) map[string]bool {
	all := map[string]bool{}
	for _, each := range f.Steps {
		if c, ok := each.Change.(file.Watch); ok {
			all[c.Of] = true
		}
		switch x := each.Expect.(type) {
		case file.ExpectSplit:
			all[x.Of] = true
		case file.ExpectAll:
			all[x.Of] = true
		case file.ExpectMirror:
			all[x.Of] = true
		}
	}
	return all
}

func planFile(f *file.File, alpha float64) *Plan {
	u := newUserStory(f, alpha)
	p := &Plan{Admitted: func(ctx context.Context, l *Session) error { return admitted(ctx, l, f) }, SeveralModels: len(askedIn(f)) > 1}
	for _, each := range f.Steps {
		step := Step{Name: each.Name, Why: each.Idea, WatchFor: each.Look}
		if each.Change != nil || each.Wait.Some() {
			step.Change = func(ctx context.Context, l *Session) error {
				return refusedFile(inFile(each.Where, u.bring(ctx, l, each.Change, each.Wait)))
			}
		}
		step.Check = func(ctx context.Context, l *Session) (Evidence, error) { return u.check(ctx, l, each) }
		p.Steps = append(p.Steps, step)
	}
	for _, each := range f.Controls {
		p.Controls = append(p.Controls, Control{
			Name: each.Name, Summary: each.Summary, After: each.After, Catches: Claim(each.Catches),
			Break: func(ctx context.Context, l *Session) error {
				u.broken = true
				for _, b := range each.Break {
					if err := u.bring(ctx, l, b.Change, b.Wait); err != nil {
						return refusedFile(inFile(each.Where, err))
					}
				}
				return nil
			},
		})
	}
	return p
}

// fileError is an error of a line of a user's file, such as "my.yaml:12:5".
type fileError struct {
	where string
	err   error
}

func (e *fileError) Error() string { return e.where + ": " + e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }

// inFile adds the line of the file that an error is from, if it has none: that one is the more precise.
func inFile(where string, err error) error {
	if _, has := errors.AsType[*fileError](err); err == nil || where == "" || has {
		return err
	}
	return &fileError{where, err}
}

func (u *userStory) bring(ctx context.Context, l *Session, c file.Change, w file.Wait) error {
	if err := u.change(ctx, l, c, w); err != nil {
		return err
	}
	return u.wait(ctx, l, w)
}

// change makes a change and returns when it is active, or as soon as it is
// written if w says so.
func (u *userStory) change(ctx context.Context, l *Session, c file.Change, w file.Wait) error {
	switch c := c.(type) {
	case file.Delete:
		var objs []*unstructured.Unstructured
		for _, ref := range c.Refs {
			o, err := l.named(ref)
			if err != nil {
				return err
			}
			objs = append(objs, o)
		}
		u.gone = append(u.gone, objs...)
		return l.remove(ctx, objs...)
	case file.Watch:
		u.watchers[c.Of] = &prober{}
		u.watchers[c.Of].start(ctx, l, l.to(c.Of), c.Rate)
		return nil
	}
	objs, err := u.objects(l, c)
	if err != nil || len(objs) == 0 {
		return err
	}
	if w.No {
		return l.write(ctx, objs...)
	}
	if err := l.apply(ctx, objs...); err != nil {
		return err
	}
	return u.waitActive(ctx, l, c, w.Empty)
}

// waitActive returns when the routes that a change touches answer with their new
// marks, and so does what is behind them. Knative's own readiness says so much
// already.
func (u *userStory) waitActive(ctx context.Context, l *Session, c file.Change, empty []string) error {
	var names, hosts []string // of routes, and of those and their new versions
	switch c := c.(type) {
	case file.Apply:
		for _, m := range c.Models {
			if m.Route && !m.Knative {
				names, hosts = append(names, m.Name), append(hosts, m.Name, m.Version+"-"+m.Name)
			}
		}
	case file.Split:
		names, hosts = []string{c.Of}, []string{c.Of}
	case file.Mirror:
		names, hosts = []string{c.Of}, []string{c.Of}
	}
	for _, name := range names {
		if route := u.routes[name]; route != nil {
			if err := l.marked(ctx, route.Mark, anyone, l.to(name)); err != nil {
				return err
			}
		}
	}
	return u.hostsAnswered(ctx, l, hosts, empty)
}

// hostsAnswered returns when the legs of these hosts' routes are answered.
func (u *userStory) hostsAnswered(ctx context.Context, l *Session, hosts, empty []string) error {
	var all []leg
	for _, host := range hosts {
		legs, err := legsOf(l.applied, l.host(host))
		if err != nil {
			return err
		}
		all = union(all, legs...)
	}
	return u.answered(ctx, l, all, empty)
}

// named is an object that the run has applied.
func (l *Session) named(ref file.Ref) (*unstructured.Unstructured, error) {
	for _, o := range l.applied {
		if o.GroupVersionKind().Group == ref.Group && o.GetKind() == ref.Kind && o.GetName() == ref.Name {
			return o, nil
		}
	}
	return nil, fmt.Errorf("%s is not there any more", ref)
}

// wait waits for the objects and routes that a step names besides its change.
func (u *userStory) wait(ctx context.Context, l *Session, w file.Wait) error {
	if w.Within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.Within)
		defer cancel()
	}
	switch {
	case w.Ready != nil:
		o, err := l.named(*w.Ready)
		if err != nil {
			return err
		}
		return l.wait(ctx, o)
	case w.Mark != "":
		err := l.marked(ctx, w.Mark, anyone, u.asks(l, w.Of)...)
		if errors.Is(err, context.DeadlineExceeded) {
			return fault.Hinted(err, fmt.Sprintf("%s is asked as the file's expect-all do, and without their headers: have a rule that takes such a request set X-Mllab-Route: %s", w.Of, w.Mark))
		} else if err != nil {
			return err
		}
		return u.hostsAnswered(ctx, l, []string{w.Of}, w.Empty)
	}
	var legs []leg
	for _, name := range w.Empty {
		service, subset, _ := strings.Cut(name, "/")
		destination := map[string]any{"host": service}
		if subset != "" {
			destination["subset"] = subset
		}
		each, err := legOf(destination, nil, nil)
		if err != nil {
			return err
		}
		legs = append(legs, each)
	}
	return u.answered(ctx, l, legs, w.Empty)
}
