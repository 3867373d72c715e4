package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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
	if _, err := selectAddons(o.addons(), nil); err != nil {
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
	u.sum = Summary{Cluster: o.Name, Kubeconfig: u.store.kubeconfig(), Next: o.command("scenario canary")}
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

// upRun is one call of Up.
type upRun struct {
	UpOptions
	deps
	store  store
	unlock func() // lets others use the cluster
	began  time.Time
	sum    Summary
	list   []addons.Addon
	now    []addons.Addon // of list, those that are installed first, or all
	rest   chan resolved  // if any, has the images for the others
	opened bool           // others may use the lab
	// rendering gets one value when the addons are rendered.
	rendering  chan rendering
	inspection inspection
	st         state
	node       images.Node

	mu       sync.Mutex // of sum.Steps
	creation *creation  // of a cluster that this call creates

	stop     context.CancelCauseFunc // ends this call
	watching sync.WaitGroup
	dead     atomic.Pointer[error]       // the error of a kubelet or an etcd that does not run
	waiting  atomic.Pointer[idleContext] // of the wait for the node
}

// withProgress returns a context that ends after the time quiet without progress of the task or of the node, and a task
// that reports the progress.
func (u *upRun) withProgress(ctx context.Context, quiet time.Duration, t report.Task) (*idleContext, report.Task, func()) {
	c, stop := withIdleTimeout(ctx, quiet)
	u.waiting.Store(c)
	return c, &progressTask{Task: t, changed: c.changed}, stop
}

// rendering is the result of rendering the addons.
type rendering struct {
	list []addons.Rendered
	err  error
}

// watchNode ends this call, in any step, if the node's kubelet or etcd does not run.
func (u *upRun) watchNode(ctx context.Context, e *engine) {
	progress := func() {
		if c := u.waiting.Load(); c != nil {
			c.changed()
		}
	}
	u.watching.Go(func() {
		if err := e.watchNode(ctx, nodeName(u.Name), progress); err != nil {
			err = u.withFix(err)
			u.dead.Store(&err)
			u.stop(err)
		}
	})
}

// cause returns err, or the error of the kubelet or etcd if that canceled this call.
func (u *upRun) cause(err error) error {
	if dead := u.dead.Load(); dead != nil && errors.Is(err, context.Canceled) {
		return *dead
	}
	return err
}

// creation is a cluster that is being created. When done is closed, the cluster exists or err says why not.
type creation struct {
	lab  lab           // of its API
	runs chan struct{} // closed when the node can run pods, a second or two before done
	done chan struct{}
	err  error
}

// wait returns when the node can run pods.
func (c *creation) wait(ctx context.Context) error {
	select {
	case <-c.runs:
		return nil
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
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
		if u.list, err = selectAddons(u.addons(), u.st.Addons); err != nil {
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

// selectAddons returns the requested addons and those that the cluster has, in install order.
func selectAddons(names, have []string) ([]addons.Addon, error) {
	return addons.Select(append(slices.Clone(names), have...)...)
}

// noteKept says what --core does not remove.
func (u *upRun) noteKept() {
	asked, err := selectAddons(u.addons(), nil)
	if err != nil || !u.Core {
		return
	}
	var kept []string
	for _, a := range u.list {
		if !slices.ContainsFunc(asked, func(b addons.Addon) bool { return a.Name == b.Name }) {
			kept = append(kept, a.Name)
		}
	}
	if len(kept) > 0 {
		u.Report.Note("the lab keeps %s: --core removes nothing. For a small lab: `%s`, then `%s`", strings.Join(kept, ", "), u.command("down"), u.command("up --core"))
	}
}

// Components returns the images that `up` needs on the node for the whole lab, or for its core, and the addons of with. An
// unknown addon is a fault.Usage.
func Components(core bool, with []string) ([]string, error) {
	list, err := selectAddons(UpOptions{Core: core, Addons: with}.addons(), nil)
	if err != nil {
		return nil, err
	}
	return components(list), nil
}

// components returns the images that the addons need on the node.
func components(list []addons.Addon) []string {
	set := map[string]bool{}
	for _, a := range list {
		for _, c := range a.Images {
			set[c] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
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

// resolved is the result of getting all images.
type resolved struct {
	node images.Node
	err  error
	took time.Duration
}

// use takes the images of a node, and renders the addons that are installed now, in the background.
func (u *upRun) use(node images.Node) {
	u.node = node
	done, list := make(chan rendering, 1), u.now
	u.rendering = done
	go func() {
		list, err := u.render(list, addons.Images(node.Images))
		done <- rendering{list, err}
	}()
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
		u.rest, u.now, u.creation = nil, u.list, nil
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

// ensureCluster returns when the API of the cluster answers. A new cluster may still be in creation.
func (u *upRun) ensureCluster(ctx context.Context) error {
	e := u.inspection.Engine
	u.watchNode(ctx, e)
	switch u.inspection.Action {
	case keep:
		err := u.timed("cluster", func(report.Task) (string, error) {
			if old, now := u.st.Images["kube-apiserver"], u.node.Images["kube-apiserver"]; old != now && old != "" {
				u.Report.Note("this cluster keeps Kubernetes %s; `%s` and then up changes it to %s", old, u.command("down"), now)
			}
			if !exists(u.store.kubeconfig()) {
				return "kubeconfig written", u.cluster(e, u.Name, u.store.kubeconfig(), func(string) {}).writeKubeconfig()
			}
			return "unchanged", nil
		})
		if err != nil {
			return err
		}
		// Somebody may have started the node by hand. Then the API has an old state.
		since := e.startedAt(ctx, nodeName(u.Name))
		if !since.After(u.st.Changed.Add(time.Second)) { // Changed has whole seconds
			since = time.Time{}
		}
		return u.awaitKubernetes(ctx, since)
	case restart:
		err := u.timed("cluster", func(t report.Task) (string, error) { return "started", u.restart(ctx, e, t) })
		if err == nil {
			return u.awaitKubernetes(ctx, time.Time{})
		}
		if ctx.Err() != nil {
			return err
		}
		if errors.Is(err, syscall.EADDRINUSE) { // a new node would lose the contents of this one
			return fault.Usage("stop the program that listens on that port, then up again; or `"+u.command("down")+"` and up, which creates a new cluster", "%w", err)
		}
		u.Report.Note("cluster %s could not be started again, so up creates a new one: %v", u.Name, err)
	}
	if err := u.loadNodeImage(ctx, e); err != nil {
		return err
	}
	return u.startCreation(ctx, e)
}

// startCreation starts to create the cluster, and returns when its API answers. Then up can apply objects without pods
// while the rest of the node starts.
func (u *upRun) startCreation(ctx context.Context, e *engine) error {
	apiPort, err := u.freePort()
	if err != nil {
		return err
	}
	c := &creation{runs: make(chan struct{}), done: make(chan struct{})}
	u.creation = c
	serving, stop := context.WithCancel(ctx)
	go func() {
		defer close(c.done)
		defer stop()
		if c.err = u.timed("cluster", func(t report.Task) (string, error) { return "created", u.create(ctx, e, apiPort, t) }); c.err == nil {
			c.err = u.awaitKubernetes(ctx, time.Time{})
		}
	}()
	if c.lab, err = u.cluster(e, u.Name, u.store.kubeconfig(), func(string) {}).serving(serving, apiPort); err == nil {
		go func() {
			if _, err := c.lab.await(serving, time.Time{}, func(string) {}); err == nil {
				close(c.runs)
			}
		}()
		return nil
	}
	if <-c.done; c.err != nil {
		return c.err
	}
	c.lab, err = u.lab(u.store.kubeconfig()) // the cluster was ready before serving checked again
	return err
}

// restart starts a stopped node and returns when its API answers.
func (u *upRun) restart(ctx context.Context, e *engine, t report.Task) error {
	waiting, t, stop := u.withProgress(ctx, apiBound, t)
	defer stop()
	ctx = waiting
	t.Update("starting " + nodeName(u.Name))
	u.forget(u.st.Port)
	started := time.Now()
	if err := e.start(ctx, nodeName(u.Name)); err != nil {
		// Add the kernel's error number to the engine's text.
		return fmt.Errorf("starting cluster %s: %w", u.Name, errors.Join(err, u.listen(u.st.Port)))
	}
	if err := u.cluster(e, u.Name, u.store.kubeconfig(), t.Update).writeKubeconfig(); err != nil {
		return fmt.Errorf("reading the kubeconfig of cluster %s: %w", u.Name, err)
	}
	l, err := u.lab(u.store.kubeconfig())
	if err != nil {
		return err
	}
	_, err = l.await(ctx, started, t.Update)
	return err
}

func (u *upRun) loadNodeImage(ctx context.Context, e *engine) error {
	return u.timed("node image", func(t report.Task) (string, error) {
		if e.hasImage(ctx, u.node.Ref) {
			return "unchanged", nil
		}
		err := e.loadImage(ctx, func(w io.Writer) error { return u.write(u.node, ctx, &counter{w: w, task: t}) })
		if err != nil {
			return "", fmt.Errorf("loading %s into %s: %w", u.node.Ref, e.Name, err)
		}
		return "loaded", nil
	})
}

// counter reports the number of bytes written.
type counter struct {
	w    io.Writer
	task report.Task
	n    int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.task.Progress(c.n, 0, "B")
	return n, err
}

// create creates the cluster. It first records the phase "creating", so that the next up or down removes a partial
// cluster, however this process ends.
func (u *upRun) create(ctx context.Context, e *engine, apiPort int, t report.Task) error {
	u.st.Phase, u.st.NodeImage, u.st.Engine = phaseCreating, u.node.Ref, e.Name
	u.recordContent()
	if err := u.store.save(u.st); err != nil {
		return err
	}
	if u.inspection.Action != create {
		t.Update("removing the rest of the old cluster")
		if _, err := removeCluster(ctx, e, u.Name, u.inspection.Found); err != nil {
			return err
		}
	}
	if err := u.createHostRecord(ctx, e); err != nil {
		return err
	}
	u.forget(u.st.Port)
	config, err := clusterConfig(u.Name, u.st.Port, apiPort, u.inspection.Machine, tag(u.node.Images["kube-apiserver"]))
	if err != nil {
		return err
	}
	waiting, t, stop := u.withProgress(ctx, createBound, t)
	defer stop()
	bounded, end := context.WithCancel(ctx)
	defer end()
	var last atomic.Value // kind's last message; kind may still log after a timeout
	var idle error        // of a creation without progress
	context.AfterFunc(waiting, func() {
		if errors.Is(waiting.Err(), context.DeadlineExceeded) && ctx.Err() == nil { // the end of bounded removes the node
			idle = fmt.Errorf("no progress for %s (last: %v); the kubelet's last errors:\n  %s", createBound, last.Load(), strings.Join(e.kubeletWords(ctx, nodeName(u.Name)), "\n  "))
		}
		end()
	})
	c := u.cluster(e, u.Name, u.store.kubeconfig(), func(s string) { last.Store(s); t.Update(s) })
	if err = c.create(bounded, config, u.node.Ref); err != nil && isNameTaken(err) && ctx.Err() == nil {
		// A process of an earlier, killed up was still creating a container.
		if err = u.removePartial(ctx, e); err == nil {
			err = c.create(bounded, config, u.node.Ref)
		}
	}
	if err != nil {
		switch {
		case bounded.Err() != nil && idle != nil:
			err = idle
		case errors.Is(err, context.DeadlineExceeded):
			err = fmt.Errorf("%w (last: %v)", err, last.Load())
		}
		if gone := u.removePartial(ctx, e); gone != nil {
			return fmt.Errorf("creating cluster %s: %w; removing the rest of it failed: %w", u.Name, err, gone)
		}
		if _, kept := u.store.unmerge(); len(kept) > 0 {
			u.Report.Note("stays: %s", strings.Join(kept, "; "))
		}
		_, left := u.store.forget()
		return errors.Join(fmt.Errorf("creating cluster %s: %w", u.Name, err), left, u.store.removeShared())
	}
	u.sum.Created = true
	u.st.Phase = phaseCreated
	return u.store.save(u.st)
}

// removePartial removes a partial cluster, even if ctx has ended.
func (u *upRun) removePartial(ctx context.Context, e *engine) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupBound)
	defer cancel()
	found, err := e.containers(ctx, u.Name)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(found, func(c container) bool { return !c.ours(u.Name) }) {
		return fmt.Errorf("container %s is not mllab's", found[0].Name)
	}
	_, err = removeCluster(ctx, e, u.Name, found)
	return err
}

// createHostRecord records which shared parts of this host mllab will create (a network, /lib/modules), before kind
// creates them.
func (u *upRun) createHostRecord(ctx context.Context, e *engine) error {
	m, err := u.store.loadHostRecord()
	if err != nil {
		return err
	}
	before := hostRecord{slices.Clone(m.Networks), m.LibModules}
	if !slices.Contains(m.Networks, e.networkKey()) && !e.hasNetwork(ctx) {
		m.Networks = append(m.Networks, e.networkKey())
	}
	mkdir := u.inspection.Machine.OS == "linux" && u.inspection.Machine.Root && !u.inspection.Machine.LibModules
	m.LibModules = m.LibModules || mkdir
	if !slices.Equal(before.Networks, m.Networks) || before.LibModules != m.LibModules {
		if err := u.store.saveHostRecord(m); err != nil {
			return err
		}
	}
	if mkdir {
		return os.MkdirAll("/lib/modules", 0o755)
	}
	return nil
}

// awaitKubernetes waits for the API, and for a report of the node after since.
func (u *upRun) awaitKubernetes(ctx context.Context, since time.Time) error {
	return u.timed("kubernetes", func(t report.Task) (string, error) {
		l, err := u.lab(u.store.kubeconfig())
		if err != nil {
			return "", err
		}
		waiting, t, stop := u.withProgress(ctx, apiBound, t)
		defer stop()
		u.sum.Kubernetes, err = l.await(waiting, since, t.Update)
		if err != nil {
			if outOfInotify(err.Error()) {
				err = u.withFix(err)
			} else if ctx.Err() == nil {
				err = fault.Hinted(err, "the node runs, but Kubernetes in it does not answer: `"+u.command("down")+"`, then up again")
			}
			return "", err
		}
		return "ready " + u.sum.Kubernetes, nil
	})
}

// loadMissing loads the images that the addons need and that the node does not have, such as after an update of mllab.
func (u *upRun) loadMissing(ctx context.Context) error {
	if u.creation != nil {
		return nil // they are in the node image
	}
	return u.timed("images on the node", func(t report.Task) (string, error) {
		e := u.inspection.Engine
		there, err := e.lines(ctx, "exec", nodeName(u.Name), "ctr", "--namespace=k8s.io", "images", "ls", "-q")
		if err != nil {
			return "", fmt.Errorf("listing the images on %s: %w", nodeName(u.Name), err)
		}
		var missing []string
		for _, c := range components(u.now) {
			if !slices.Contains(there, u.node.Images[c]) {
				missing = append(missing, c)
			}
		}
		if len(missing) == 0 {
			return "unchanged", nil
		}
		c := u.cluster(e, u.Name, u.store.kubeconfig(), t.Update)
		if err := c.load(ctx, func(w io.Writer) error { return u.archive(u.node, ctx, missing, &counter{w: w, task: t}) }); err != nil {
			return "", fmt.Errorf("loading %s into %s: %w", strings.Join(missing, ", "), nodeName(u.Name), err)
		}
		return "loaded " + strings.Join(missing, ", "), nil
	})
}

func (u *upRun) installAddons(ctx context.Context) error {
	began := time.Now()    // install reports its own steps
	if u.creation == nil { // else the creation writes the record
		u.recordContent()
		if !u.opened && (u.rest != nil || u.st.Phase != phaseReady || u.inspection.State == nil || u.st.GitOps != u.inspection.State.GitOps || !slices.Equal(u.st.Addons, u.inspection.State.Addons)) {
			u.st.Phase = phaseCreated
			if err := u.store.save(u.st); err != nil {
				return err
			}
		}
	}
	var l lab
	if u.creation != nil {
		l = u.creation.lab
	} else {
		var err error
		if l, err = u.lab(u.store.kubeconfig()); err != nil {
			return err
		}
	}
	waiting, stopWaiting := withIdleTimeout(ctx, addonsBound)
	defer stopWaiting()
	bounded := context.Context(waiting)
	pods := func(context.Context, addons.Env, func(string)) error { return nil }
	if c := u.creation; c != nil {
		stopped, stop := context.WithCancelCause(bounded)
		defer stop(nil)
		bounded = stopped
		go func() {
			select {
			case <-c.done:
				if c.err != nil {
					stop(c.err)
				}
			case <-stopped.Done():
			}
		}()
		pods = func(ctx context.Context, _ addons.Env, reason func(string)) error {
			reason("applied, waiting for the node")
			return c.wait(ctx)
		}
	}
	var err error
	select {
	case rendered := <-u.rendering:
		if err = rendered.err; err == nil {
			opening, end := context.WithCancel(bounded)
			opened := make(chan error, 1)
			verified := whenVerified(rendered.list, addons.Core())
			go func() { opened <- u.openCore(opening, verified) }()
			u.sum.Addons, err = l.install(bounded, u.GitOps, u.sum.URL, pods, rendered.list, progressReporter{u.Report, waiting.changed})
			end()
			err = errors.Join(err, <-opened)
		}
	case <-bounded.Done():
		err = context.Cause(bounded)
	}
	if u.creation != nil {
		if <-u.creation.done; u.creation.err != nil {
			return u.creation.err // the cause of the addons' error
		}
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
	if c := u.creation; c != nil { // which writes the record, too
		if <-c.done; c.err != nil {
			return nil
		}
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
	u.Report.Note("the core is ready after %.0f s: what needs no more can start, such as `%s` in another terminal", u.sum.CoreSeconds, u.command("scenario canary"))
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

// recordContent sets the record's images and addons to those of this call.
func (u *upRun) recordContent() {
	u.st.Images, u.st.ImageSource, u.st.Addons = u.node.Images, u.node.Source, nil
	for _, a := range u.list {
		u.st.Addons = append(u.st.Addons, a.Name)
	}
}

// upAgain returns the command that completes, starts or repairs the lab of this record, if there is one, and adds nothing.
func (o Options) upAgain(st *state) string {
	if st != nil && !isWhole(st.Addons) {
		return o.command("up --core")
	}
	return o.command("up")
}

// isWhole reports whether a lab has all that `up` brings by default.
func isWhole(have []string) bool {
	return !slices.ContainsFunc(addons.Whole(), func(name string) bool { return !slices.Contains(have, name) })
}

// command returns the command line of a verb for this cluster.
func (o Options) command(verb string) string {
	if o.Name == DefaultName {
		return "mllab " + verb
	}
	return "mllab " + verb + " --name " + o.Name
}

// tag returns v1.36.5 for registry.k8s.io/kube-apiserver:v1.36.5.
func tag(ref string) string { return ref[strings.LastIndex(ref, ":")+1:] }
