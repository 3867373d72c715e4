package images

import (
	"context"
	_ "embed" // the lock file
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"
)

// lockFile pins upstream's references by digest. Each line has a reference, the
// digest of its index, and those of its images for lockArchs. `mllab images lock
// --write` makes it.
//
//go:embed upstream.lock
var lockFile string

var lockArchs = []string{"amd64", "arm64"}

// pin is what a reference is: the digests of its index and of an image for each of lockArchs.
type pin struct {
	index  v1.Hash
	images [2]v1.Hash
}

func parseLock(text string) (map[string]pin, error) {
	pins := map[string]pin{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 4 {
			return nil, fmt.Errorf("a line of the lock file must be a reference and three digests, got %q", line)
		}
		var p pin
		for i, to := range []*v1.Hash{&p.index, &p.images[0], &p.images[1]} {
			h, err := v1.NewHash(f[i+1])
			if err != nil {
				return nil, fmt.Errorf("the lock file's %s: %w", f[0], err)
			}
			*to = h
		}
		pins[f[0]] = p
	}
	return pins, nil
}

// Locked is an upstream reference, and what a registry has there.
type Locked struct {
	Reference string `json:"reference"`
	Digest    string `json:"digest,omitempty"` // of the index
	Pinned    bool   `json:"pinned"`           // in the lock file
	Problem   string `json:"problem,omitempty"`

	pin   pin
	whole bool
}

// Lock asks the registries for every upstream reference, and for its image of each
// architecture, by HEAD. A reference that is missing, lacks an architecture or has
// another digest than in the lock file has a Problem. The rows are in order.
func Lock(ctx context.Context, o Options) ([]Locked, error) {
	r, err := o.registry(nil)
	if err != nil {
		return nil, err
	}
	var rows []Locked
	for _, c := range table {
		if c.Upstream != "" {
			_, pinned := r.pins[c.Upstream]
			rows = append(rows, Locked{Reference: c.Upstream, Pinned: pinned})
		}
	}
	slices.SortFunc(rows, func(a, b Locked) int { return strings.Compare(a.Reference, b.Reference) })
	task := o.Report.Step("references")
	var g errgroup.Group
	g.SetLimit(parallelPulls)
	for i := range rows {
		g.Go(func() error {
			row := &rows[i]
			was := r.pins[row.Reference]
			task.Update(row.Reference)
			now, err := r.look(ctx, row.Reference, was, task.Update)
			switch {
			case err != nil:
				row.Problem = explain(err).Error()
			case row.Pinned && now.index != was.index:
				row.Problem = fmt.Sprintf("the tag moved: the lock file has %s", was.index)
			}
			if now.index.Hex != "" {
				row.Digest = now.index.String()
			}
			row.pin, row.whole = now, err == nil
			return context.Cause(ctx)
		})
	}
	if err := g.Wait(); err != nil {
		task.Fail(err)
		return nil, err
	}
	task.Done(fmt.Sprintf("%d asked for", len(rows)))
	return rows, nil
}

// LockFile returns the lock file that pins what the rows have. It returns an error
// if a registry lacks one of the images.
func LockFile(rows []Locked) (string, error) {
	var b strings.Builder
	for _, r := range rows {
		if !r.whole {
			return "", fmt.Errorf("%s cannot be pinned: %s", r.Reference, r.Problem)
		}
		fmt.Fprintln(&b, r.Reference, r.pin.index, r.pin.images[0], r.pin.images[1])
	}
	return b.String(), nil
}

// look returns what an upstream reference is now. It reads the index only if that is not the one of was.
func (r *registrySource) look(ctx context.Context, upstream string, was pin, reason func(string)) (pin, error) {
	tag, err := r.tag(upstream)
	if err != nil {
		return pin{}, err
	}
	opts := r.options(ctx, pullTries, reason)
	head, err := remote.Head(tag, opts...)
	if err != nil {
		return pin{}, err
	}
	now := pin{index: head.Digest}
	if now.index == was.index {
		now = was
	} else if head.MediaType.IsIndex() {
		index, err := remote.Index(tag.Context().Digest(head.Digest.String()), opts...)
		if err != nil {
			return now, err
		}
		list, err := index.IndexManifest()
		if err != nil {
			return now, err
		}
		for i, arch := range lockArchs {
			for _, d := range list.Manifests {
				if d.Platform != nil && d.Platform.OS == "linux" && d.Platform.Architecture == arch {
					now.images[i] = d.Digest
				}
			}
		}
	} else {
		return now, &refusal{reason: "it is one image, and no index with an image for each architecture"}
	}
	for i, arch := range lockArchs {
		if now.images[i].Hex == "" {
			return now, &refusal{reason: "it has no image for linux/" + arch}
		}
		if _, err := remote.Head(tag.Context().Digest(now.images[i].String()), opts...); err != nil {
			return now, fmt.Errorf("its image for linux/%s: %w", arch, explain(err))
		}
	}
	return now, nil
}

// tag returns an upstream reference in the registry that is asked.
func (r *registrySource) tag(upstream string) (name.Reference, error) {
	ref, err := name.ParseReference(upstream)
	if err != nil || r.mirror == "" {
		return ref, err
	}
	// As with a pull-through mirror, the path stays and the host changes.
	return name.ParseReference(r.mirror + "/" + ref.Context().RepositoryStr() + ":" + ref.Identifier())
}

// reference is what of a component is pulled: the image that the lock file pins,
// or else the tag.
func (r *registrySource) reference(c Component) (name.Reference, error) {
	tag, err := r.tag(c.Upstream)
	if i := slices.Index(lockArchs, runtime.GOARCH); err == nil && i >= 0 && r.pins[c.Upstream].images[i].Hex != "" {
		return tag.Context().Digest(r.pins[c.Upstream].images[i].String()), nil
	}
	return tag, err
}

// unpinned returns how many of list are pulled by tag, and how many are pulled at all.
func (r *registrySource) unpinned(list []Component) (byTag, all int) {
	for _, c := range list {
		if c.Upstream != "" {
			all++
			if _, pinned := r.pins[c.Upstream]; !pinned {
				byTag++
			}
		}
	}
	return byTag, all
}

// options are those of each request, which is sent so many times at most.
func (r *registrySource) options(ctx context.Context, tries int, reason func(string)) []remote.Option {
	return []remote.Option{
		remote.WithContext(ctx),
		remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}),
		remote.WithTransport(&retryTransport{remote.DefaultTransport, r.patience, tries, reason}),
		once,
	}
}
