package scenarios

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"knative.dev/pkg/apis"
	"knative.dev/serving/pkg/apis/autoscaling"
	"knative.dev/serving/pkg/apis/serving"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/fault"
	"mllab.local/internal/input"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
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
	rules.Alpha = cmp.Or(o.Alpha, DefaultAlpha)
	if rules.Requests = o.Requests; rules.Requests == 0 {
		rules.Requests = DefaultRequests
		if o.Short {
			rules.Requests = ShortRequests
		}
	}
	for _, s := range All() {
		rules.Taken = append(rules.Taken, s.Name)
	}
	f, err := file.Read(path, data, rules)
	if err != nil {
		return s, err
	}
	if err := rehearse(f, rules.Domain); err != nil {
		return s, fault.Usage("correct the file; nothing was applied", "%w", err)
	}
	return Scenario{
		Name: f.Name, Summary: f.Summary, Needs: f.Needs, SidecarInjection: f.Mesh, Untrusted: true,
		New: func(Options) (*Plan, error) { return planFile(f, rules.Alpha), nil },
	}, nil
}

// author is the account that writes the objects of a user's scenario.
const author = "author"

// confineBound is how long the API server may take to know a policy.
const confineBound = 30 * time.Second

// confine has the run write with the rights of its author, and the cluster judge
// its pods. It returns once both hold: it asks for a pod that must be refused, and
// makes none.
func (l *Session) confine(ctx context.Context) error {
	fence, err := render("userfile/fence.yaml", nil)
	if err != nil {
		return err
	}
	rights, err := render("userfile/rights.yaml", map[string]string{"Account": author, "Namespace": l.Namespace})
	if err != nil {
		return err
	}
	if _, err := l.Kube.Apply(ctx, append(rights, fence...)); err != nil {
		return err
	}
	if l.writer, err = l.Kube.As(l.Namespace, author); err != nil {
		return err
	}
	bad, err := l.deployment(model{Name: "fence", Version: "v1"})
	if err != nil {
		return err
	}
	bad.SetNamespace(l.Namespace)
	if err := unstructured.SetNestedField(bad.Object, true, "spec", "template", "spec", "hostNetwork"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, confineBound)
	defer cancel()
	return l.until(ctx, "policy "+fence[0].GetName(), func() string {
		switch err := l.writer.Create(ctx, bad.DeepCopy(), client.DryRunAll); {
		case err == nil:
			return "it refuses nothing yet"
		case !strings.Contains(err.Error(), fence[0].GetName()): // no type says which policy it was
			return err.Error()
		}
		return ""
	})
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

// userService is a Knative Service and the percents of its versions, in order.
type userService struct {
	*revisions
	percents []int64
}

// userRoute has the parameters of userfile/route.yaml.
type userRoute struct {
	Name, Host    string
	Versions      []userLeg
	Mark          string
	Mirror        string // Service
	MirrorPercent float64
}

type userLeg struct {
	Version, Host, Service string
	Percent                int64
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

// planFile plans one run of f.
func planFile(f *file.File, alpha float64) *Plan {
	u := newUserStory(f, alpha)
	p := &Plan{Admitted: func(ctx context.Context, l *Session) error { return admitted(ctx, l, f) }}
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

// inFile adds the line of the file that an error is from, if it has none: that one is the more precise.
func inFile(where string, err error) error {
	if err == nil || strings.HasPrefix(err.Error(), where[:strings.LastIndex(where, ":")+1]) {
		return err
	}
	return fmt.Errorf("%s: %w", where, err)
}

// refusedFile makes wrong use of an object that the cluster does not take: the error has the reason of who judges it,
// such as istiod.
func refusedFile(err error) error {
	if apierrors.IsBadRequest(err) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err) {
		return fault.Usage("correct the file", "%w", err)
	}
	return err
}

// rehearse makes every object of f, in every run that there can be, as if on a
// lab, and checks it as the cluster would: what Kubernetes' and Knative's own
// types refuse is refused before anything is touched.
func rehearse(f *file.File, domain string) error {
	l := &Session{Env: &Env{Image: "kind.local/sampleapp:1", Domain: domain}, Namespace: Namespace(f.Name)}
	return rehearsed(f, l, func(*unstructured.Unstructured) error { return nil })
}

// rehearsed gives every object that f makes in any run, in the state of each
// step, to each. Its error has the line of the file.
func rehearsed(f *file.File, l *Session, each func(*unstructured.Unstructured) error) error {
	for _, control := range append([]file.Control{{}}, f.Controls...) {
		u := newUserStory(f, DefaultAlpha)
		l := &Session{Env: l.Env, Namespace: l.Namespace}
		made := func(where string, c file.Change) error {
			objs, err := u.objects(l, c)
			for _, o := range objs {
				if err == nil {
					err = inFile(whereOf(c, o), each(o))
				}
			}
			return inFile(where, err)
		}
		broken := func(after string) error {
			if control.After != after {
				return nil
			}
			for _, b := range control.Break {
				if err := made(control.Where, b.Change); err != nil {
					return err
				}
			}
			return nil
		}
		if err := broken(""); err != nil {
			return err
		}
		for _, s := range f.Steps {
			if err := made(s.Where, s.Change); err != nil {
				return err
			}
			if err := broken(s.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// whereOf is the line of the file that has an object itself; "" if none has.
func whereOf(c file.Change, o *unstructured.Unstructured) string {
	a, _ := c.(file.Apply)
	for _, each := range a.Objects {
		if ref := each.Ref(); ref.Group == o.GroupVersionKind().Group && ref.Kind == o.GetKind() && ref.Name == o.GetName() {
			return each.Where
		}
	}
	return ""
}

// admitBound is how long the cluster may take to judge a file.
const admitBound = time.Minute

// judgeNamespace is where a file's objects are tried, and none is made: it is in
// every cluster, and a run's own does not exist yet.
const judgeNamespace = "default"

// admitted has the cluster judge all objects of f, those of its controls too:
// what Kubernetes or a webhook such as istiod's refuses is wrong use, and nothing
// was touched.
func admitted(ctx context.Context, l *Session, f *file.File) error {
	ctx, cancel := context.WithTimeout(ctx, admitBound)
	defer cancel()
	var tried []string
	return refusedFile(rehearsed(f, l, func(o *unstructured.Unstructured) error {
		o.SetNamespace(l.Namespace)
		text := asYAML(o)
		if slices.Contains(tried, text) {
			return nil
		}
		tried = append(tried, text)
		return l.Kube.Accepts(ctx, o, judgeNamespace)
	}))
}

// objects notes what a change does to the story's models, and returns what must
// be applied for it.
func (u *userStory) objects(l *Session, c file.Change) (objs []*unstructured.Unstructured, err error) {
	switch c := c.(type) {
	case file.Apply:
		return u.applied(l, c)
	case file.Split:
		if s := u.services[c.Of]; s != nil {
			s.percents = percentsOf(c.Shares, s.order)
			o, err := s.object(s.percents)
			return []*unstructured.Unstructured{o}, err
		}
		route := u.routes[c.Of]
		for i, percent := range percentsOf(c.Shares, route.order()) {
			route.Versions[i].Percent = percent
		}
		return route.objects(l)
	case file.Mirror:
		route := u.routes[c.Of]
		route.Mirror, route.MirrorPercent = c.Of+"-"+c.To, c.Percent
		return route.objects(l)
	case file.Env:
		if u.env[c.Of+"-"+c.Version] == nil {
			u.env[c.Of+"-"+c.Version] = map[string]string{}
		}
		maps.Copy(u.env[c.Of+"-"+c.Version], c.Set)
	}
	return nil, nil
}

// percentsOf are the percents of versions; one that is not named has none.
func percentsOf(shares []file.Share, versions []string) []int64 {
	out := make([]int64, len(versions))
	for _, s := range shares {
		out[slices.Index(versions, s.Version)] = int64(s.Percent)
	}
	return out
}

func (r *userRoute) order() (versions []string) {
	for _, leg := range r.Versions {
		versions = append(versions, leg.Version)
	}
	return versions
}

// objects are the route with a new mark.
func (r *userRoute) objects(l *Session) ([]*unstructured.Unstructured, error) {
	r.Mark = l.mark()
	return render("userfile/route.yaml", r)
}

// applied are the objects of an apply. The first version of a model has all of
// its traffic, further ones have none until a split.
func (u *userStory) applied(l *Session, a file.Apply) (objs []*unstructured.Unstructured, err error) {
	var routes []*userRoute
	for _, m := range a.Models {
		env := maps.Clone(m.Env)
		if env == nil {
			env = map[string]string{}
		}
		maps.Copy(env, u.env[m.Name+"-"+m.Version])
		if m.Knative {
			o, err := u.revision(l, m, env)
			if err != nil {
				return nil, inFile(m.Where, err)
			}
			objs = append(objs, o)
			continue
		}
		deployment, err := l.deployment(model{Name: m.Name, Version: m.Version, Env: env, Replicas: m.Replicas})
		if err != nil {
			return nil, inFile(m.Where, err)
		}
		service, err := render("userfile/service.yaml", m)
		if err != nil {
			return nil, inFile(m.Where, err)
		}
		objs = append(append(objs, deployment), service...)
		if !m.Route {
			continue
		}
		route := u.routes[m.Name]
		if route == nil {
			route = &userRoute{Name: m.Name, Host: l.host(m.Name)}
			u.routes[m.Name] = route
		}
		if !slices.Contains(route.order(), m.Version) {
			leg := userLeg{m.Version, l.host(m.Version + "-" + m.Name), m.Name + "-" + m.Version, 0}
			if len(route.Versions) == 0 {
				leg.Percent = 100
			}
			route.Versions = append(route.Versions, leg)
		}
		if !slices.Contains(routes, route) {
			routes = append(routes, route)
		}
	}
	for _, route := range routes {
		more, err := route.objects(l)
		if err != nil {
			return nil, err
		}
		objs = append(objs, more...)
	}
	for _, o := range a.Objects {
		obj := &unstructured.Unstructured{Object: o.Fill(file.Vars{Image: l.Image, Namespace: l.Namespace, Domain: l.Domain})}
		if err := validObject(obj); err != nil {
			return nil, inFile(o.Where, fmt.Errorf("%s is not valid: %w", o.Ref(), err))
		}
		objs = append(objs, obj)
	}
	return objs, nil
}

// revision is the Knative Service of a model with a new version.
func (u *userStory) revision(l *Session, m file.Model, env map[string]string) (*unstructured.Unstructured, error) {
	s := u.services[m.Name]
	if s == nil {
		base, err := loadRevisions("scenarios/canary/service.yaml")
		if err != nil {
			return nil, err
		}
		base.base.Name = m.Name
		s = &userService{revisions: base}
		u.services[m.Name] = s
	}
	s.image, s.version, s.env = l.Image, m.Version, env
	s.order, s.percents = append(s.order, m.Version), append(s.percents, 0)
	if len(s.percents) == 1 {
		s.percents[0] = 100
	}
	s.base.Spec.Template.Annotations = map[string]string{
		autoscaling.MinScaleAnnotationKey: strconv.Itoa(m.MinScale), autoscaling.MaxScaleAnnotationKey: strconv.Itoa(m.MaxScale),
	}
	if m.Window != "" {
		s.base.Spec.Template.Annotations[autoscaling.WindowAnnotationKey] = m.Window
	}
	return s.object(s.percents)
}

// validObject checks an author's own object by its Go type. Istio's are the cluster's
// to judge.
func validObject(o *unstructured.Unstructured) error {
	var into any
	switch o.GetAPIVersion() + " " + o.GetKind() {
	case "apps/v1 Deployment":
		into = &appsv1.Deployment{}
	case "v1 Service":
		into = &corev1.Service{}
	case "v1 ConfigMap":
		into = &corev1.ConfigMap{}
	case "serving.knative.dev/v1 Service":
		into = &servingv1.Service{}
	default:
		return nil
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, into, true); err != nil {
		return err
	}
	if s, ok := into.(*servingv1.Service); ok {
		ctx := apis.WithinCreate(context.Background())
		s.SetDefaults(ctx)
		if err := s.Validate(ctx).Filter(apis.ErrorLevel); err != nil { // what Knative only warns of it takes
			return err
		}
	}
	return nil
}

// bring makes a change and waits.
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
		for _, each := range legs {
			if !slices.Contains(all, each) {
				all = append(all, each)
			}
		}
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
		if err := l.marked(ctx, w.Mark, anyone, u.asks(l, w.Of)...); err != nil {
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
		each, err := legOf(map[string]any{"destination": destination}, nil)
		if err != nil {
			return err
		}
		legs = append(legs, each)
	}
	return u.answered(ctx, l, legs, w.Empty)
}

// check observes what a step expects, once.
func (u *userStory) check(ctx context.Context, l *Session, s file.Step) (Evidence, error) {
	switch x := s.Expect.(type) {
	case file.ExpectSplit:
		c := split.Claim{N: x.Requests, Alpha: x.Alpha}
		for _, share := range x.Shares {
			c.Legs = append(c.Legs, split.Leg{Name: share.Version, Share: share.Percent / 100})
		}
		return l.sample(ctx, l.to(x.Of), c)
	case file.ExpectAll:
		return u.all(ctx, l, x)
	case file.ExpectMirror:
		return u.mirrored(ctx, l, x)
	case file.ExpectZeroPods:
		return u.zeroPods(ctx, l, x)
	case file.ExpectNoLoss:
		w := u.watchers[x.Of]
		delete(u.watchers, x.Of)
		return w.lostNone(ctx, l)
	}
	switch c := s.Change.(type) {
	case file.Watch:
		return Evidence{Summary: fmt.Sprintf("%s gets %g requests a second from here on", c.Of, c.Rate)}, nil
	case nil:
		return Evidence{Summary: "waited; nothing is claimed"}, nil
	}
	return Evidence{Summary: "changed; nothing is claimed"}, nil
}

// all claims that one version answers everything. Of a request that says who
// it is this is a claim about routes.
func (u *userStory) all(ctx context.Context, l *Session, x file.ExpectAll) (Evidence, error) {
	r := l.to(x.Of)
	r.Header = headerOf(x)
	e, err := l.sample(ctx, r, split.Claim{Legs: []split.Leg{{Name: x.Version, Share: 1}}, N: x.Requests, Alpha: u.alpha})
	if refuted := (*ClaimError)(nil); errors.As(err, &refuted) && refuted.Claim == Shares {
		refuted.Claim = Claim(x.Claim())
	}
	return e, err
}

// headerOf returns the headers of an expectation's requests.
func headerOf(x file.ExpectAll) http.Header {
	h := http.Header{}
	for _, name := range sortedKeys(x.Headers) {
		h.Set(name, x.Headers[name])
	}
	// A browser sends one header with all of them, and a route matches that text:
	// https://www.rfc-editor.org/rfc/rfc6265#section-5.4
	var cookies []string
	for _, name := range sortedKeys(x.Cookies) {
		cookies = append(cookies, name+"="+x.Cookies[name])
	}
	if len(cookies) > 0 {
		h.Set("Cookie", strings.Join(cookies, "; "))
	}
	return h
}

// asks are the ways in which the file's requests ask for a name, the plain one
// first. A route's state may carry its mark in the rule for one of them only; a
// proxy's worker gets all rules of a host at once, so one is as good as all.
func (u *userStory) asks(l *Session, of string) []probe.Request {
	all := []probe.Request{l.to(of)}
	for _, h := range u.requests[of] {
		r := l.to(of)
		r.Header = h
		all = append(all, r)
	}
	return all
}

// copiesQuiet is how long no copy may have arrived until the last one has: the
// proxy sends it together with the request that was answered.
const copiesQuiet = 2 * time.Second

// mirrored sends requests that are all answered, and claims that this part of
// them reached the shadow, each once.
func (u *userStory) mirrored(ctx context.Context, l *Session, x file.ExpectMirror) (Evidence, error) {
	answers, e, err := l.burst(ctx, l.to(x.Of), x.Requests)
	if err != nil {
		return e, err
	}
	if err := e.answered(); err != nil {
		return e, err
	}
	var came []string // IDs of requests
	count := func() (int, error) {
		pods, err := l.seen(ctx, model{Name: x.Of, Version: x.To}.labels())
		came = nil
		for _, p := range pods {
			came = append(came, p.IDs...)
		}
		got := received(answers, came)
		return got.once + got.again, err
	}
	if err := l.settle(ctx, copiesQuiet, count, func(n int) bool { return float64(n) >= float64(len(answers))*x.Percent/100 }); err != nil {
		return e, err
	}
	return judgeCopies(e, received(answers, came), x)
}

// judgeCopies compares what the shadow got with what was sent.
func judgeCopies(e Evidence, came arrivals, x file.ExpectMirror) (Evidence, error) {
	got := came.once + came.again
	const without = "not mirrored"
	c := split.Claim{N: x.Requests, Alpha: x.Alpha, Legs: []split.Leg{{Name: x.To, Share: x.Percent / 100}, {Name: without, Share: 1 - x.Percent/100}}}
	v, err := c.Judge(map[string]int{x.To: got, without: x.Requests - got})
	if err != nil {
		return e, err
	}
	e.Verdict, e.Summary = &v, describe(v)
	switch {
	case came.again > 0:
		return e, refute(Mirror, "%d of %d requests reached %s more than once", came.again, x.Requests, x.To)
	case !v.Pass:
		return e, &ClaimError{Mirror, v.Reasons}
	}
	return e, nil
}

// zeroPods claims that a quiet Knative Service has no pod left in time, not
// even one that is about to end.
func (u *userStory) zeroPods(ctx context.Context, l *Session, x file.ExpectZeroPods) (Evidence, error) {
	began := time.Now()
	err := l.within(ctx, x.Within, Zero, "no pod of "+x.Of+" left", func() (string, error) {
		pods, err := l.Kube.Pods(ctx, l.Namespace, map[string]string{serving.ServiceLabelKey: x.Of})
		var left []string
		for _, p := range pods {
			left = append(left, p.Name)
		}
		return strings.Join(left, ", "), err
	})
	if err != nil {
		return Evidence{}, err
	}
	took := time.Since(began).Seconds()
	return Evidence{Summary: fmt.Sprintf("no pod of %s is left after %.0f s", x.Of, took), Figures: []Figure{{"to zero", took, "s"}}}, nil
}
