package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"mllab.local/addons"
	"mllab.local/internal/fault"
	"mllab.local/internal/report"
)

// liveCluster is a cluster whose API answers. This call may still be creating the rest of it.
type liveCluster struct {
	lab     lab           // of its API
	created bool          // by this call, with all images on its node
	runs    chan struct{} // closed when the node can run pods, a second or two before done
	done    chan struct{} // closed when the cluster is there, or err says why not
	err     error
}

// complete returns a cluster of which nothing is missing.
func complete(l lab) *liveCluster {
	c := &liveCluster{lab: l, runs: make(chan struct{}), done: make(chan struct{})}
	close(c.runs)
	close(c.done)
	return c
}

// wait returns when the node can run pods. It is an addons.Use.
func (c *liveCluster) wait(ctx context.Context, _ addons.Env, reason func(string)) error {
	select {
	case <-c.runs:
		return nil
	default:
		reason("applied, waiting for the node")
	}
	select {
	case <-c.runs:
		return nil
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ensureCluster returns when the API of the cluster answers. A new cluster may still be in creation.
func (u *upRun) ensureCluster(ctx context.Context) error {
	e := u.inspection.Engine
	switch u.inspection.Action {
	case keep:
		u.watchNode(ctx, e)
		err := u.timed("cluster", func(report.Task) (string, error) {
			if old, now := u.st.Images["kube-apiserver"], u.node.Images["kube-apiserver"]; old != now && old != "" {
				u.Report.Note("this cluster keeps Kubernetes %s; `%s` and then up changes it to %s", old, u.Command("down"), now)
			}
			if _, err := u.kubeconfig(); err != nil { // it is gone, or has another's context only
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
		return u.findKubernetes(ctx, since)
	case restart:
		unwatch := u.watchNode(ctx, e)
		err := u.timed("cluster", func(t report.Task) (string, error) { return "started", u.restart(ctx, e, t) })
		if err == nil {
			return u.findKubernetes(ctx, time.Time{})
		}
		if ctx.Err() != nil {
			return err
		}
		if errors.Is(err, syscall.EADDRINUSE) { // a new node would lose the contents of this one
			return fault.Usage("stop the program that listens on that port, then up again; or `"+u.Command("down")+"` and up, which creates a new cluster", "%w", err)
		}
		unwatch()
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
	c := &liveCluster{created: true, runs: make(chan struct{}), done: make(chan struct{})}
	u.live = c
	serving, stop := context.WithCancel(ctx)
	go func() {
		defer close(c.done)
		defer stop()
		if c.err = u.timed("cluster", func(t report.Task) (string, error) { return "created", u.create(ctx, e, apiPort, t) }); c.err == nil {
			_, c.err = u.awaitKubernetes(ctx, time.Time{})
		}
	}()
	if c.lab, err = u.cluster(e, u.Name, u.store.kubeconfig(), func(string) {}).serving(serving, apiPort); err == nil {
		u.watching.Go(func() {
			if _, err := c.lab.await(serving, time.Time{}, func(string) {}); err == nil {
				close(c.runs)
			}
		})
		return nil
	}
	if <-c.done; c.err != nil {
		return c.err
	}
	c.lab, err = u.lab(u.store.kubeconfig()) // the cluster was ready before serving checked again
	return err
}

func (u *upRun) restart(ctx context.Context, e *engine, t report.Task) error {
	waiting, t, stop := u.withProgress(ctx, apiBound, t)
	defer stop()
	ctx = waiting
	t.Update("starting " + nodeName(u.Name))
	u.forget(u.st.Port)
	started := time.Now()
	if _, err := e.out(ctx, "start", nodeName(u.Name)); err != nil {
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
		if e.has(ctx, "image", u.node.Ref) {
			return "unchanged", nil
		}
		err := e.loadImage(ctx, func(w io.Writer) error { return u.write(u.node, ctx, &counter{w: w, task: t}) })
		if err != nil {
			return "", fmt.Errorf("loading %s into %s: %w", u.node.Ref, e.Name, err)
		}
		return "loaded", nil
	})
}

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
	u.watchNode(ctx, e) // not before: the old node may have failed, which is no fault of the new one
	if err := u.createHostRecord(ctx, e); err != nil {
		return err
	}
	u.forget(u.st.Port)
	config, err := clusterConfig(u.Name, u.st.Port, apiPort, tag(u.node.Images["kube-apiserver"]))
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
	if !slices.Contains(m.Networks, e.networkKey()) && !e.has(ctx, "network", e.Network) {
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

// findKubernetes waits for a cluster that this call does not create.
func (u *upRun) findKubernetes(ctx context.Context, since time.Time) error {
	l, err := u.awaitKubernetes(ctx, since)
	u.live = complete(l)
	return err
}

// awaitKubernetes waits for the API, and for a report of the node after since.
func (u *upRun) awaitKubernetes(ctx context.Context, since time.Time) (l lab, err error) {
	err = u.timed("kubernetes", func(t report.Task) (string, error) {
		if l, err = u.lab(u.store.kubeconfig()); err != nil {
			return "", err
		}
		waiting, t, stop := u.withProgress(ctx, apiBound, t)
		defer stop()
		u.sum.Kubernetes, err = l.await(waiting, since, t.Update)
		if err != nil {
			if outOfInotify(err.Error()) {
				err = u.withFix(err)
			} else if ctx.Err() == nil {
				err = fault.Hinted(err, "the node runs, but Kubernetes in it does not answer: `"+u.Command("down")+"`, then up again")
			}
			return "", err
		}
		if q, err := l.requests(waiting); err == nil { // else installing the addons finds what is wrong
			if err := u.cordoned(q); err != nil {
				return "", err
			}
		}
		return "ready " + u.sum.Kubernetes, nil
	})
	return l, err
}

// loadMissing loads the images that the addons need and that the node does not have, such as after an update of mllab.
func (u *upRun) loadMissing(ctx context.Context) error {
	if u.live.created {
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

// withProgress returns a context that ends after the time quiet without progress of the task or of the node, and a task
// that reports the progress.
func (u *upRun) withProgress(ctx context.Context, quiet time.Duration, t report.Task) (*idleContext, report.Task, func()) {
	c, stop := withIdleTimeout(ctx, quiet)
	u.waiting.Store(c)
	return c, &progressTask{Task: t, changed: c.changed}, stop
}

// watchNode ends this call, in any step, if the node's kubelet or etcd does not run. The caller may end the watch.
func (u *upRun) watchNode(ctx context.Context, e *engine) (end func()) {
	ctx, end = context.WithCancel(ctx)
	progress := func() {
		if c := u.waiting.Load(); c != nil {
			c.changed()
		}
	}
	u.watching.Go(func() {
		defer end()
		if err := e.watchNode(ctx, nodeName(u.Name), progress); err != nil {
			err = u.withFix(err)
			u.dead.Store(&err)
			u.stop(err)
		}
	})
	return end
}
