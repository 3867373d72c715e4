package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"mllab.local/bootstrap/images"
	"mllab.local/internal/fault"
)

// DownReport is what `down` removed, and what it kept on purpose.
type DownReport struct {
	Cluster string   `json:"cluster"`
	Removed []string `json:"removed"` // empty if there was nothing to remove
	Kept    []string `json:"kept"`
}

// Down removes the cluster in any state: container, volumes, kubeconfig and record. It removes the network if mllab created
// it and nothing uses it. A second call removes nothing and is no error. The image cache and the node images stay, unless
// o.Purge. A cluster without mllab's marks is a fault.Usage, and Down does not touch it.
func Down(ctx context.Context, o DownOptions) (DownReport, error) { return down(ctx, o, realDeps()) }

func down(ctx context.Context, o DownOptions, p deps) (DownReport, error) {
	var err error
	if o.Options, err = o.Options.withDefaults(); err != nil {
		return DownReport{}, err
	}
	r := DownReport{Cluster: o.Name, Removed: []string{}, Kept: []string{}}
	s := o.store()
	_, done, err := s.lockAll("down")
	if err != nil {
		return r, err
	}
	defer done()

	st, broken := s.load() // an unreadable record is a record, too
	if fault.Code(broken) == 2 {
		return r, broken // it belongs to another program
	}
	var unasked error
	engines, err := enginesFor(ctx, o, p, st)
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	if err != nil {
		if st != nil || broken != nil {
			return r, fmt.Errorf("cluster %s has a record, but its engine does not work: %w", o.Name, err)
		}
		switch {
		case o.Engine == "":
			o.Report.Note("no engine works, so mllab did not look for containers")
		case o.Purge: // the cache needs no engine
			unasked = fmt.Errorf("mllab did not look for a cluster or node images in %s: %w", o.Engine, err)
		default:
			return r, err
		}
	}
	recorded := st != nil || broken != nil
	for _, e := range engines {
		if err := downOn(ctx, e, o, recorded, &r); err != nil {
			return r, err
		}
	}
	if recorded || exists(s.dir()) {
		removed, stays := s.unmerge()
		r.Removed, r.Kept = append(r.Removed, removed...), append(r.Kept, stays...)
		kept, err := s.forget()
		if err != nil {
			return r, fmt.Errorf("removing the record of cluster %s: %w", o.Name, err)
		}
		if recorded {
			r.Removed = append(r.Removed, "kubeconfig and record "+s.dir())
		}
		for _, name := range kept {
			r.Kept = append(r.Kept, "files in "+name+" that mllab did not create")
		}
	}
	if err := removeShared(ctx, engines, s, &r); err != nil {
		return r, err
	}
	return r, errors.Join(cacheAfterDown(ctx, engines, o, &r), unasked)
}

// enginesFor returns the engine of --engine and that of the cluster's record. Without either it returns every engine that
// works.
func enginesFor(ctx context.Context, o DownOptions, p deps, st *state) (list []*engine, err error) {
	var names []string
	for _, name := range Engines {
		if name == o.Engine || st != nil && name == st.Engine {
			names = append(names, name)
		}
	}
	must := len(names) > 0
	if !must {
		names = Engines
	}
	var errs []error
	for _, name := range names {
		e, err := openEngine(ctx, p, name)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil:
			list = append(list, e)
		case must:
			_, err = findEngine(ctx, p, name, nil) // for its fix
			return nil, err
		default:
			errs = append(errs, err)
		}
	}
	if len(list) == 0 {
		return nil, errors.Join(errs...)
	}
	return list, nil
}

// downOn removes the cluster's containers and volumes from one engine. If there is no container, volumes are mllab's only
// if there is a record.
func downOn(ctx context.Context, e *engine, o DownOptions, recorded bool, r *DownReport) error {
	found, err := e.containers(ctx, o.Name)
	if err != nil {
		return err
	}
	for _, c := range found {
		if !c.ours(o.Name) {
			return fault.Usage(fmt.Sprintf("mllab did not touch it; to remove it yourself: `kind delete cluster --name %s`", o.Name),
				"cluster %s in %s is not mllab's (container %s, image %s)", o.Name, e.Name, c.Name, c.Image)
		}
	}
	if len(found) == 0 && !recorded {
		return nil
	}
	task := o.Report.Step("remove cluster " + o.Name)
	removed, err := removeCluster(ctx, e, o.Name, found)
	r.Removed = append(r.Removed, removed...)
	if err != nil {
		task.Fail(err)
		return err
	}
	task.Done("removed")
	return nil
}

// removeShared removes what mllab created for all its clusters, if this was the last one.
func removeShared(ctx context.Context, engines []*engine, s store, r *DownReport) error {
	m, err := s.loadHostRecord()
	if err != nil {
		return err
	}
	left := []string{}
	for _, entry := range m.Networks {
		name, network, named := strings.Cut(entry, "/")
		if !named {
			network = kindNetwork
		}
		i := slices.IndexFunc(engines, func(e *engine) bool { return e.Name == name })
		if i < 0 {
			left = append(left, entry)
			continue
		}
		if s.starting() { // its node is about to need the network
			left = append(left, entry)
			r.Kept = append(r.Kept, "network "+network+", which another up may use")
			continue
		}
		gone, err := engines[i].removeNetwork(ctx, network)
		if err != nil {
			return fmt.Errorf("removing network %s: %w", network, err)
		}
		if gone {
			r.Removed = append(r.Removed, "network "+network)
		} else {
			left = append(left, entry)
			r.Kept = append(r.Kept, "network "+network+", which other containers use")
		}
	}
	m.Networks = left
	if s.last() {
		nodes, err := kindNodes(ctx, engines)
		switch {
		case err != nil:
			return err
		case m.LibModules && nodes > 0: // a node that mounts it needs it to start pods
			r.Kept = append(r.Kept, "/lib/modules, which other clusters use")
		default:
			if m.LibModules && syscall.Rmdir("/lib/modules") == nil { // only if it is empty and not a link
				r.Removed = append(r.Removed, "/lib/modules, which was empty")
			}
			m.LibModules = false
		}
		if err := s.removeShared(); err != nil {
			return err
		}
	}
	return s.saveHostRecord(m)
}

func kindNodes(ctx context.Context, engines []*engine) (n int, err error) {
	for _, e := range engines {
		nodes, err := e.lines(ctx, "ps", "-a", "--quiet", "--filter", "label="+clusterLabel)
		if err != nil {
			return 0, fmt.Errorf("listing kind's nodes: %w", err)
		}
		n += len(nodes)
	}
	return n, nil
}

func cacheAfterDown(ctx context.Context, engines []*engine, o DownOptions, r *DownReport) error {
	var errs []error
	for _, e := range engines {
		refs, err := e.nodeImages(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("listing the node images: %w", err))
		}
		for _, ref := range refs {
			if !o.Purge {
				r.Kept = append(r.Kept, "node image "+ref)
				continue
			}
			used, err := e.usesImage(ctx, ref)
			if err == nil && used {
				r.Kept = append(r.Kept, "node image "+ref+", which another lab uses")
				continue
			}
			if err := errors.Join(err, errorOf(e.out(ctx, "rmi", ref))); err != nil {
				errs = append(errs, fmt.Errorf("removing %s: %w", ref, err))
				continue
			}
			r.Removed = append(r.Removed, "node image "+ref)
		}
	}
	if !images.IsCache(o.Cache) {
		if o.Purge && exists(o.Cache) {
			r.Kept = append(r.Kept, o.Cache+", which is not an image cache of mllab")
		}
		return errors.Join(errs...)
	}
	cache := fmt.Sprintf("image cache %s (%s)", o.Cache, size(usedBytes(o.Cache)))
	if !o.Purge {
		r.Kept = append(r.Kept, cache)
		return errors.Join(errs...)
	}
	links, err := images.Purge(o.Cache)
	r.Removed = append(r.Removed, cache)
	for _, link := range links {
		r.Kept = append(r.Kept, link+", a symbolic link, and what it points to")
	}
	return errors.Join(append(errs, err)...)
}
