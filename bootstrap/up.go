package bootstrap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mllab.local/addons"
	"mllab.local/bootstrap/images"
	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/report"
)

// Summary is the result of `up`, and the next command.
type Summary struct {
	Cluster     string          `json:"cluster"`
	Engine      string          `json:"engine"`
	URL         string          `json:"url"`
	Kubeconfig  string          `json:"kubeconfig"`
	Kubernetes  string          `json:"kubernetes"`
	NodeImage   string          `json:"nodeImage"`
	ImageSource string          `json:"imageSource"`
	Created     bool            `json:"created"` // this call created the cluster
	Seconds     float64         `json:"seconds"`
	CoreSeconds float64         `json:"coreSeconds,omitempty"` // until the core could be used, if there is more
	Steps       []StepTime      `json:"steps"`
	Addons      []addons.Result `json:"addons"`
	Next        string          `json:"next"`
}

// StepTime is a step of `up` with its duration and its changes.
type StepTime struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Changed string  `json:"changed"`
}

// Limits of the single waits. The first three are without progress; UpOptions.Timeout is the hard limit.
const (
	createBound  = 4 * time.Minute // of kind, or of the number of containers on the node
	apiBound     = 3 * time.Minute // of Kubernetes, or of the number of containers on the node
	addonsBound  = 5 * time.Minute // of an addon
	cleanupBound = 90 * time.Second
)

// Up creates the cluster and its addons, or completes a partial lab. A second call changes nothing. After an interruption
// or a kill the next call continues or starts again.
//
// Errors: fault.Usage with every reason if this machine or the input is not suitable, before Up changes anything; ctx.Err()
// if ctx ended, and then Up leaves no partial cluster.
func Up(ctx context.Context, o UpOptions) (Summary, error) { return up(ctx, o, realDeps()) }

func up(ctx context.Context, o UpOptions, p deps) (Summary, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Summary{}, err
	}
	if _, err := addons.Select(o.addons()...); err != nil {
		return Summary{}, err
	}
	unlock, done, err := o.store().lockAll("up")
	if err != nil {
		return Summary{}, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()

	ctx, stop := context.WithCancelCause(ctx)
	u := &upRun{UpOptions: o, deps: p, store: o.store(), unlock: unlock, began: time.Now(), stop: stop}
	defer u.watching.Wait()
	defer stop(nil)
	u.sum = Summary{Cluster: o.Name, Kubeconfig: u.store.kubeconfig(), Next: o.Command("scenario canary")}
	// Each step ends as soon as the next one can begin: the addons are rendered, and a cluster is completed, meanwhile.
	for _, step := range []func(context.Context) error{u.checkMachine, u.resolveImages, u.ensureCluster, u.loadMissing, u.installAddons, u.installRest} {
		if err := u.cause(step(ctx)); err != nil {
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				err = fault.Hinted(err, fmt.Sprintf("the time limit was %s: raise --timeout; `mllab up` continues where it stopped", o.Timeout))
			}
			return u.sum, err
		}
	}
	u.sum.Seconds = time.Since(u.began).Seconds()
	if u.sum.Created {
		if err := u.remerge(); err != nil { // the lab is ready nevertheless
			u.Report.Note("a kubeconfig that this lab was merged into still has the old cluster: %v", err)
		}
	}
	return u.sum, nil
}

type upRun struct {
	UpOptions
	deps
	store      store
	unlock     func() // lets others use the cluster
	began      time.Time
	sum        Summary
	list       []addons.Addon
	now        []addons.Addon                    // of list, those that are installed first, or all
	rest       chan resolved                     // if any, has the images for the others
	opened     bool                              // others may use the lab
	rendered   func() ([]addons.Rendered, error) // of now; it waits for them
	inspection inspection
	st         state
	node       images.Node
	live       *liveCluster // the cluster, from ensureCluster on

	mu sync.Mutex // of sum.Steps

	stop     context.CancelCauseFunc // ends this call
	watching sync.WaitGroup
	dead     atomic.Pointer[error]       // the error of a kubelet or an etcd that does not run
	waiting  atomic.Pointer[idleContext] // of the wait for the node
}

// cause returns err, or the error of the kubelet or etcd if that canceled this call.
func (u *upRun) cause(err error) error {
	if dead := u.dead.Load(); dead != nil && errors.Is(err, context.Canceled) {
		return *dead
	}
	return err
}

// timed runs one step, reports it and records its time. do returns what it changed.
func (u *upRun) timed(name string, do func(report.Task) (string, error)) error {
	began, task := time.Now(), u.Report.Step(name)
	changed, err := do(task)
	if err = u.cause(err); err != nil {
		task.Fail(err)
		return err
	}
	task.Done(changed)
	u.recordStep(name, began, changed)
	return nil
}

func (u *upRun) recordStep(step string, since time.Time, changed string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sum.Steps = append(u.sum.Steps, StepTime{step, time.Since(since).Seconds(), changed})
}

func (u *upRun) checkMachine(ctx context.Context) error {
	return u.timed("check this machine", func(report.Task) (string, error) {
		s, err := inspect(ctx, u.UpOptions, u.deps)
		if err != nil {
			return "", err
		}
		if err := s.refusal(); err != nil {
			return "", err
		}
		for _, f := range s.Findings {
			if f.Level == LevelWarn && s.Action != keep {
				u.Report.Note("%s: %s\n    fix: %s", f.ID, f.What, f.Fix)
			}
		}
		u.inspection, u.st = s, state{Engine: s.Engine.Name, Port: s.Port}
		if s.State != nil {
			u.st = *s.State
			u.st.Port = s.Port
		}
		u.GitOps = u.GitOps || u.st.GitOps
		u.st.GitOps = u.GitOps
		if u.list, err = addons.Select(append(u.addons(), u.st.Addons...)...); err != nil {
			return "", err
		}
		u.noteKept()
		if u.st.Port == 0 {
			if u.st.Port, err = u.freePort(); err != nil {
				return "", err
			}
		}
		if u.Port != u.st.Port && u.Port != 0 {
			u.Report.Note("the gateway stays on port %d", u.st.Port)
		}
		u.sum.Engine, u.sum.URL = s.Engine.Name, url(u.st.Port)
		return fmt.Sprintf("%s %s", s.Engine.Name, s.Engine.Version), s.Engine.prepare(u.deps, u.store, s.Machine)
	})
}

// addons returns the names of the requested addons.
func (o UpOptions) addons() []string {
	names := addons.Whole()
	if o.Core {
		names = addons.Core()
	}
	if o.GitOps {
		names = append(names, "git") // which needs flux
	}
	return append(names, o.Addons...)
}

// noteKept says what --core does not remove.
func (u *upRun) noteKept() {
	asked, err := addons.Select(u.addons()...)
	if err != nil || !u.Core {
		return
	}
	kept := slices.DeleteFunc(addons.Names(u.list), func(name string) bool { return slices.Contains(addons.Names(asked), name) })
	if len(kept) > 0 {
		u.Report.Note("the lab keeps %s: --core removes nothing. For a small lab: `%s`, then `%s`", strings.Join(kept, ", "), u.Command("down"), u.Command("up --core"))
	}
}

// Components returns the images that `up` needs on the node for the whole lab, or for its core, and the addons of with. An
// unknown addon is a fault.Usage.
func Components(core bool, with []string) ([]string, error) {
	list, err := addons.Select(UpOptions{Core: core, Addons: with}.addons()...)
	return components(list), err
}

func components(list []addons.Addon) []string {
	var all []string
	for _, a := range list {
		all = append(all, a.Images...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// resolveImages gets the images. If some are still to be made when the core has its own, it returns then: installRest waits
// for the others.
func (u *upRun) resolveImages(ctx context.Context) error {
	began := time.Now() // resolve reports its own steps
	o := images.Options{Cache: u.Cache, Mode: u.Mode, Mirror: u.Mirror, Components: components(u.list), Report: u.Report, Run: u.run}
	core := make(chan images.Node, 1)
	if !u.GitOps { // else Git has all addons at once
		list, err := addons.Select(addons.Core()...)
		if err != nil {
			return err
		}
		o.First, o.Ready = components(list), func(n images.Node) { core <- n }
	}
	all := make(chan resolved, 1)
	u.watching.Go(func() {
		node, err := u.resolve(ctx, o)
		all <- resolved{node, err, time.Since(began)}
	})
	var node images.Node
	select {
	case node = <-core:
		u.rest, u.now = all, slices.DeleteFunc(slices.Clone(u.list), func(a addons.Addon) bool { return !slices.Contains(addons.Core(), a.Name) })
	case r := <-all:
		if r.err != nil {
			return fmt.Errorf("getting the images: %w", r.err)
		}
		node, u.now = r.node, u.list
	}
	u.sum.NodeImage, u.sum.ImageSource = node.Ref, node.Source
	u.use(node)
	u.recordStep("images", began, "from "+node.Source+prefixed(": ", node.Why))
	return nil
}

type resolved struct {
	node images.Node
	err  error
	took time.Duration
}

// use takes the images of a node, and renders the addons that are installed now, in the background.
func (u *upRun) use(node images.Node) {
	u.node = node
	list := u.now
	u.rendered = sync.OnceValues(func() ([]addons.Rendered, error) { return u.render(list, addons.Images(node.Images)) })
	go u.rendered()
}

// installRest waits for the images that resolveImages did not wait for, and installs what needs them.
func (u *upRun) installRest(ctx context.Context) error {
	if u.rest == nil {
		return nil
	}
	select {
	case r := <-u.rest:
		if r.err != nil {
			return fmt.Errorf("getting the images: %w", r.err)
		}
		u.recordStep("all images", time.Now().Add(-r.took), "made")
		u.rest, u.now, u.live = nil, u.list, complete(u.live.lab)
		u.use(r.node)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	core := u.sum.Addons
	if err := u.loadMissing(ctx); err != nil {
		return err
	}
	err := u.installAddons(ctx)
	for i, r := range u.sum.Addons { // the core's seconds are those of the first time
		if j := slices.IndexFunc(core, func(c addons.Result) bool { return c.Name == r.Name }); j >= 0 {
			u.sum.Addons[i] = core[j]
		}
	}
	return err
}

func (u *upRun) installAddons(ctx context.Context) error {
	began := time.Now()  // install reports its own steps
	if !u.live.created { // else the creation writes the record
		u.recordContent()
		if !u.opened && (u.rest != nil || u.st.Phase != phaseReady || u.inspection.State == nil || u.st.GitOps != u.inspection.State.GitOps || !slices.Equal(u.st.Addons, u.inspection.State.Addons)) {
			u.st.Phase = phaseCreated
			if err := u.store.save(u.st); err != nil {
				return err
			}
		}
	}
	waiting, stopWaiting := withIdleTimeout(ctx, addonsBound)
	defer stopWaiting()
	bounded, stop := context.WithCancelCause(waiting)
	defer stop(nil)
	c := u.live
	go func() {
		select {
		case <-c.done:
			if c.err != nil {
				stop(c.err)
			}
		case <-bounded.Done():
		}
	}()
	list, err := u.rendered()
	if bounded.Err() != nil { // while that ran
		err = context.Cause(bounded)
	}
	if err == nil {
		opening, end := context.WithCancel(bounded)
		opened := make(chan error, 1)
		verified := whenVerified(list, addons.Core())
		go func() { opened <- u.openCore(opening, verified) }()
		u.sum.Addons, err = c.lab.install(bounded, u.GitOps, u.sum.URL, c.wait, list, progressReporter{u.Report, waiting.changed})
		end()
		err = errors.Join(err, <-opened)
	}
	if <-c.done; c.err != nil {
		return c.err // the cause of the addons' error
	}
	if err != nil {
		return fmt.Errorf("installing addons: %w", err)
	}
	var changes []kube.Change
	for _, r := range u.sum.Addons {
		changes = append(changes, r.Changes...)
	}
	if u.rest != nil {
		u.recordStep("core", began, addons.Summary(changes))
		return nil
	}
	u.recordStep("addons", began, addons.Summary(changes))
	u.st.Phase, u.st.Addons = phaseReady, nil
	for _, r := range u.sum.Addons { // a commit may have removed one
		u.st.Addons = append(u.st.Addons, r.Name)
	}
	return u.store.save(u.st)
}

// openCore waits until the core is verified. Then, if more is to come, others may use the lab meanwhile.
func (u *upRun) openCore(ctx context.Context, verified <-chan struct{}) error {
	if u.opened || len(u.list) <= len(addons.Core()) {
		return nil
	}
	select {
	case <-verified:
	case <-ctx.Done():
		select {
		case <-verified: // just before
		default:
			return nil // install says why
		}
	}
	if <-u.live.done; u.live.err != nil { // a creation writes the record, too
		return nil
	}
	u.sum.CoreSeconds = time.Since(u.began).Seconds()
	if u.st.Phase != phaseReady {
		u.st.Phase = phaseCore
		if err := u.store.save(u.st); err != nil {
			return err
		}
	}
	u.opened = true
	u.unlock()
	u.Report.Note("the core is ready after %.0f s: what needs no more can start, such as `%s` in another terminal", u.sum.CoreSeconds, u.Command("scenario canary"))
	return nil
}

// whenVerified has the addons of list with these names report that they are verified. The channel is closed when all are.
func whenVerified(list []addons.Rendered, names []string) <-chan struct{} {
	all := make(chan struct{})
	var left atomic.Int32
	for i := range list {
		a := &list[i]
		if !slices.Contains(names, a.Name) {
			continue
		}
		left.Add(1)
		report := sync.OnceFunc(func() { // with GitOps an addon is verified twice
			if left.Add(-1) == 0 {
				close(all)
			}
		})
		verify := a.Verify
		a.Verify = func(ctx context.Context, env addons.Env, reason func(string)) error {
			err := verify(ctx, env, reason)
			if err == nil {
				report()
			}
			return err
		}
	}
	return all
}

func (u *upRun) recordContent() {
	u.st.Images, u.st.ImageSource, u.st.Addons = u.node.Images, u.node.Source, addons.Names(u.list)
}

// upAgain returns the command that completes, starts or repairs the lab of this record, if there is one, and adds nothing.
func (o Options) upAgain(st *state) string {
	if st != nil && !isWhole(st.Addons) {
		return o.Command("up --core")
	}
	return o.Command("up")
}

// isWhole reports whether a lab has all that `up` brings by default.
func isWhole(have []string) bool {
	return !slices.ContainsFunc(addons.Whole(), func(name string) bool { return !slices.Contains(have, name) })
}

// Command returns the command line of a verb, with its flags, for this cluster.
func (o Options) Command(verb string) string {
	if cmp.Or(o.Name, DefaultName) == DefaultName {
		return "mllab " + verb
	}
	return "mllab " + verb + " --name " + o.Name
}

// tag returns v1.36.5 for registry.k8s.io/kube-apiserver:v1.36.5.
func tag(ref string) string { return ref[strings.LastIndex(ref, ":")+1:] }
