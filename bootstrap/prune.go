package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"mllab.local/bootstrap/images"
)

// PruneReport is what Prune removed, and what it kept.
type PruneReport struct {
	images.Other          // removed from the cache
	Nodes        []string `json:"nodeImages"` // removed from the engines
	Freed        uint64   `json:"nodeBytes"`  // on the engines' disks; 0 if they are not on this machine
	Kept         []string `json:"kept"`       // node images, each with its use
}

// Prune removes what no lab needs: the node images that no container uses and that `up` of this mllab would not use, and
// the cached images for labs of another minor version of Kubernetes.
func Prune(ctx context.Context, o Options) (PruneReport, error) { return prune(ctx, o, realDeps()) }

func prune(ctx context.Context, o Options, p deps) (r PruneReport, err error) {
	r.Nodes, r.Kept = []string{}, []string{}
	if o, err = o.withDefaults(); err != nil {
		return r, err
	}
	if r.Other, err = images.Prune(images.Options{Cache: o.Cache}); err != nil {
		return r, err
	}
	current, err := currentNodes()
	if err != nil {
		return r, err
	}
	engines, err := enginesFor(ctx, DownOptions{Options: o}, p, nil)
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	if err != nil {
		o.Report.Note("no engine works, so mllab did not look for node images")
	}
	var errs []error
	for _, e := range engines {
		errs = append(errs, pruneNodes(ctx, e, current, &r))
	}
	return r, errors.Join(errs...)
}

// currentNodes returns the node images that `up` uses without a mirror: for the small lab (by Git, too), the whole one, and all
// addons.
func currentNodes() (refs []string, err error) {
	for _, with := range []struct {
		core   bool
		addons []string
	}{{core: true}, {core: true, addons: []string{"git"}}, {}, {addons: []string{"all"}}} {
		names, err := Components(with.core, with.addons)
		if err != nil {
			return nil, err
		}
		more, err := images.NodeRefs(names)
		if err != nil {
			return nil, err
		}
		refs = append(refs, more...)
	}
	return refs, nil
}

// pruneNodes removes the node images of an engine but for the current ones and for those of a container. It goes on after an
// image that cannot be removed.
func pruneNodes(ctx context.Context, e *engine, current []string, r *PruneReport) error {
	refs, err := e.nodeImages(ctx)
	if err != nil {
		return fmt.Errorf("listing the node images: %w", err)
	}
	before, _ := images.Free(e.Root)
	var errs []error
	for _, ref := range refs {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		used, err := e.usesImage(ctx, ref)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("looking for containers of %s: %w", ref, err))
			continue
		case used:
			r.Kept = append(r.Kept, ref+", which a lab uses")
			continue
		case slices.Contains(current, ref):
			r.Kept = append(r.Kept, ref+", which the next up uses")
			continue
		}
		if _, err := e.out(ctx, "rmi", ref); err != nil {
			errs = append(errs, fmt.Errorf("removing %s: %w", ref, err))
			continue
		}
		r.Nodes = append(r.Nodes, ref)
	}
	if after, err := images.Free(e.Root); err == nil && exists(e.Root) && after > before {
		r.Freed += after - before
	}
	return errors.Join(errs...)
}
