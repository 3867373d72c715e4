package images

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"mllab.local/internal/fault"
	"mllab.local/internal/report"
	"mllab.local/internal/run"
)

// Options select the images and their source.
type Options struct {
	Cache      string   // folder of the image cache; empty means DefaultCache
	Mode       string   // auto, source or registry
	Mirror     string   // host that replaces every registry; empty for none
	Components []string // names from the table, besides the cluster's own; empty means all
	// First are the components that the cluster starts with. If Ready is set, it is
	// called once these and the cluster's own are there and others are still to be
	// made that take time, with a node image of these; its Images name all.
	First  []string
	Ready  func(Node)
	Report report.Reporter
	Run    run.Runner

	patience patience
	lock     string // a lock file; empty means the one of this mllab
}

// Node is a node image. The components' keys determine it.
type Node struct {
	Ref    string            // name of the node image in the engine, tagged by a hash of all components' keys
	Source string            // "source" or "registry"
	Why    string            // why this source, for the user
	Images map[string]string // component -> reference on the node

	cache  *cache
	images map[string]v1.Image
	base   v1.Image
}

// nodeFormat is part of every node image's key. Raise it when the code that
// assembles the image changes.
const nodeFormat = "3"

// Row is what List returns for a component.
type Row struct {
	Name      string `json:"name"`
	Source    string `json:"source"`
	Reference string `json:"reference"` // on the node
	Upstream  string `json:"upstream,omitempty"`
	Cached    bool   `json:"cached"`
	Bytes     int64  `json:"bytes,omitempty"` // uncompressed, if cached
}

// plan is the chosen source and the images that it must deliver.
type plan struct {
	opts    Options
	cache   *cache
	source  Source
	why     string
	list    []Component
	keys    map[string]string
	cached  map[string]v1.Image
	missing []Component
	early   bool // Options.Ready was called
}

// Resolve builds or pulls the images that the cache lacks. It is cheap if none is
// missing.
func Resolve(ctx context.Context, o Options) (Node, error) {
	p, err := o.plan(ctx)
	if err == nil && len(p.missing) > 0 {
		err = p.makeMissing(ctx)
	}
	if err != nil {
		return Node{}, err
	}
	return p.node(p.list)
}

// makeMissing makes the missing images, and says what the cache has besides.
func (p *plan) makeMissing(ctx context.Context) error {
	o, c := p.opts, p.cache
	first, err := Select(o.First)
	if err != nil {
		return err
	}
	free, err := Free(c.dir)
	if err == nil {
		err = checkFree(c.dir, *p, free)
	}
	if err != nil {
		return err
	}
	o.Report.Note("images: %d of %d to make from %s (%s)", len(p.missing), len(p.list), p.source.Name(), p.why)
	if pull, is := p.source.(*registrySource); is {
		if byTag, all := pull.unpinned(p.missing); byTag > 0 {
			o.Report.Note("images: %d of %d upstream references have no digest in the lock file: their tags are trusted", byTag, all)
		}
	}
	task := o.Report.Step("images")
	err = c.in(ctx, workshop, func(work string) error { return p.make(ctx, work, task, first) })
	if err == nil {
		err = c.prune()
	}
	if err != nil {
		task.Fail(err)
		return withSpaceHint(err)
	}
	task.Done(fmt.Sprintf("%d made", len(p.missing)))
	needed, err := o.needed(c)
	if err != nil {
		return err
	}
	other, err := c.other(needed)
	if err == nil && other.Images > 0 {
		o.Report.Note("images: the cache keeps %s; `mllab images prune` removes them", other)
	}
	return err
}

// ready calls Options.Ready if the first components are there and others are not. Of these, mllab's own programs do not count:
// they are made in a second, and loading all others into a running node takes longer.
func (p *plan) ready(first []Component) error {
	missing := func(c Component) bool { return p.cached[c.Name] == nil }
	if p.opts.Ready == nil || p.early || slices.ContainsFunc(first, missing) || !slices.ContainsFunc(p.list, func(c Component) bool { return missing(c) && !c.own() }) {
		return nil
	}
	p.early = true
	n, err := p.node(first)
	if err == nil {
		p.opts.Ready(n)
	}
	return err
}

// node returns the node image that has these components.
func (p plan) node(list []Component) (Node, error) {
	n := Node{
		Source: p.source.Name(), Why: p.why, Images: map[string]string{},
		cache: p.cache, images: map[string]v1.Image{}, base: p.cached[nodeComponent],
	}
	for _, comp := range p.list {
		if comp.Name != nodeComponent {
			n.Images[comp.Name] = comp.reference(p.keys[comp.Name])
		}
	}
	for _, comp := range list {
		if comp.Name == nodeComponent {
			continue
		}
		n.images[n.Images[comp.Name]] = p.cached[comp.Name]
		for _, alias := range comp.Aliases {
			n.images[alias] = p.cached[comp.Name]
		}
	}
	var err error
	n.Ref, err = nodeRef(list, p.keys)
	return n, err
}

// nodeRef returns the name of a node image with the components of list, which have these keys.
func nodeRef(list []Component, keys map[string]string) (string, error) {
	lock := []string{nodeFormat}
	for _, comp := range list {
		lock = append(lock, comp.Name, keys[comp.Name])
		if comp.Name != nodeComponent {
			lock = append(lock, comp.Aliases...)
		}
	}
	files, err := nodeFiles()
	if err != nil {
		return "", err
	}
	for _, f := range slices.Sorted(maps.Keys(files)) {
		lock = append(lock, f, string(files[f].data))
	}
	texts, err := storedTexts()
	if err != nil {
		return "", err
	}
	lock = append(lock, texts...)
	return "localhost/mllab-node:" + shortHash("node", lock...), nil
}

// NodeRefs returns what Node.Ref is with these components, from each source.
func NodeRefs(components []string) ([]string, error) {
	list, err := Select(components)
	if err != nil {
		return nil, err
	}
	pull, err := Options{}.registry(nil)
	if err != nil {
		return nil, err
	}
	var refs []string
	for _, s := range []Source{&pull.built, pull} {
		keys, err := keysOf(s, list)
		if err != nil {
			return nil, err
		}
		ref, err := nodeRef(list, keys)
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

// keysOf returns the keys of components by their names.
func keysOf(s Source, list []Component) (map[string]string, error) {
	keys := map[string]string{}
	for _, comp := range list {
		var err error
		if keys[comp.Name], err = s.Key(comp); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// make gets the missing images from the source and stores them in the cache. It
// calls ready before the first one and after each.
func (p *plan) make(ctx context.Context, work string, task report.Task, first []Component) error {
	if err := p.ready(first); err != nil {
		return err
	}
	done := int64(0)
	return p.source.Images(ctx, work, p.missing, func(comp Component, img v1.Image) error {
		stored, err := p.cache.put(comp.Name, p.keys[comp.Name], img)
		if err != nil {
			return err
		}
		p.cached[comp.Name] = stored
		done++
		task.Progress(done, int64(len(p.missing)), "images")
		task.Update(comp.Name)
		return p.ready(first)
	})
}

func (c Component) reference(key string) string {
	if c.Node != "" {
		return c.Node
	}
	return "kind.local/" + c.Name + ":" + shortHash(c.Name, key)
}

// List returns the rows of the table, and which images are cached. It builds
// nothing.
func List(ctx context.Context, o Options) ([]Row, error) {
	p, err := o.plan(ctx)
	if err != nil {
		return nil, err
	}
	var rows []Row
	for _, c := range p.list {
		row := Row{Name: c.Name, Source: p.source.Name(), Reference: c.reference(p.keys[c.Name]), Upstream: c.Upstream}
		if img := p.cached[c.Name]; img != nil {
			row.Cached = true
			m, err := img.Manifest()
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", c.Name, err)
			}
			for _, l := range m.Layers {
				row.Bytes += l.Size
			}
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// Other is what a cache has for labs of another minor version of Kubernetes.
type Other struct {
	Images int   `json:"images"`
	Bytes  int64 `json:"bytes"` // on disk
}

func (o Other) String() string {
	return fmt.Sprintf("%d images for labs of another Kubernetes than %s, %.1f GB", o.Images, lane, float64(o.Bytes)/1e9)
}

// Prune removes from the cache what it has for labs of another minor version of
// Kubernetes, and returns what that was. It keeps the images of this one.
func Prune(o Options) (Other, error) {
	if !IsCache(o.Cache) {
		return Other{}, nil
	}
	c, err := openCache(o.Cache)
	if err != nil {
		return Other{}, err
	}
	needed, err := o.needed(c)
	if err != nil {
		return Other{}, err
	}
	other, err := c.other(needed)
	if err != nil || other.Images == 0 {
		return other, err
	}
	if err := c.removeOther(needed); err != nil {
		return Other{}, err
	}
	return other, nil
}

// needed returns the keys of all images of this mllab, from either source.
func (o Options) needed(c *cache) (map[string]bool, error) {
	keys := map[string]bool{}
	pull, err := o.registry(c)
	if err != nil {
		return nil, err
	}
	for _, s := range []Source{&pull.built, pull} {
		of, err := keysOf(s, table)
		if err != nil {
			return nil, err
		}
		for _, key := range of {
			keys[key] = true
		}
	}
	return keys, nil
}

func (o Options) registry(c *cache) (*registrySource, error) {
	if err := CheckMirror(o.Mirror); err != nil {
		return nil, err
	}
	pins, err := parseLock(cmp.Or(o.lock, lockFile))
	return &registrySource{built: built{cache: c, run: o.Run, report: o.Report}, mirror: o.Mirror, pins: pins, patience: o.patience}, err
}

// CheckMirror returns a fault.Usage if host cannot replace the host of a reference. It
// may be empty, for none.
func CheckMirror(host string) error {
	if host == "" {
		return nil
	}
	ref, err := name.ParseReference(host + "/any:tag")
	first, _, _ := strings.Cut(host, "/")
	_, port, _ := net.SplitHostPort(first)
	_, large := strconv.ParseUint(cmp.Or(port, "0"), 10, 16)
	if err != nil || large != nil || ref.Context().RegistryStr() != first || strings.Contains(host, "//") { // a mere word is a folder of Docker Hub
		return fault.Usage("such as --registry-mirror 127.0.0.1:5000", "--registry-mirror must be a host, with its port if it has one, got %q", host)
	}
	return nil
}

func (o Options) plan(ctx context.Context) (plan, error) {
	if o.Cache == "" {
		var err error
		if o.Cache, err = DefaultCache(); err != nil {
			return plan{}, err
		}
	}
	c, err := openCache(o.Cache)
	if err != nil {
		return plan{}, err
	}
	list, err := Select(o.Components)
	if err != nil {
		return plan{}, err
	}
	pull, err := o.registry(c)
	if err != nil {
		return plan{}, err
	}
	source := &pull.built
	switch o.Mode {
	case "source":
		return o.planFor(c, source, "as asked", list)
	case "registry":
		return o.planFor(c, pull, "as asked", list)
	case "auto", "":
	default:
		return plan{}, fault.Usage("use --image-source auto", "--image-source must be auto, source or registry, got %q", o.Mode)
	}
	// Prefer cached images: they need no network, and another source would restart
	// every pod.
	for _, s := range []Source{pull, source} {
		p, err := o.planFor(c, s, "cached", list)
		if err != nil || len(p.missing) == 0 {
			return p, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if err := pull.reachable(ctx, list[0]); err != nil {
		reason, _, _ := strings.Cut(err.Error(), "\n")
		return o.planFor(c, source, "no registry reachable: "+reason, list)
	}
	return o.planFor(c, pull, "registry reachable", list)
}

func (o Options) planFor(c *cache, s Source, why string, list []Component) (plan, error) {
	p := plan{opts: o, cache: c, source: s, why: why, list: list, cached: map[string]v1.Image{}}
	var err error
	if p.keys, err = keysOf(s, list); err != nil {
		return p, err
	}
	for _, comp := range list {
		img, err := c.get(comp.Name, p.keys[comp.Name])
		if err != nil {
			return p, err
		}
		if img == nil {
			p.missing = append(p.missing, comp)
			continue
		}
		p.cached[comp.Name] = img
	}
	return p, nil
}

// Write writes the node image as a docker-archive, which every engine's `load`
// reads. It temporarily needs about the image's size in the cache.
func (n Node) Write(ctx context.Context, w io.Writer) error {
	err := n.cache.in(ctx, assembly, func(dir string) error {
		img, err := nodeImage(ctx, dir, n.base, n.images)
		if err != nil {
			return err
		}
		ref, err := name.NewTag(n.Ref)
		if err != nil {
			return err
		}
		return tarball.Write(ref, img, until(ctx, w))
	})
	if err != nil {
		return fmt.Errorf("node image: %w", err)
	}
	return nil
}

// Archive writes the named components' images as a docker-archive for a running
// node.
func (n Node) Archive(ctx context.Context, names []string, w io.Writer) error {
	list := map[name.Reference]v1.Image{}
	for _, c := range table {
		if !slices.Contains(names, c.Name) {
			continue
		}
		for _, as := range append([]string{n.Images[c.Name]}, c.Aliases...) {
			ref, err := name.NewTag(as)
			if err != nil {
				return fmt.Errorf("image %s: %w", c.Name, err)
			}
			list[ref] = n.images[as]
		}
	}
	if err := tarball.MultiRefWrite(list, until(ctx, w)); err != nil {
		return fmt.Errorf("image archive: %w", err)
	}
	return nil
}

// Extract writes the binaries of the named components into dir, for tests that
// run a control plane without a cluster.
func (n Node) Extract(names []string, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("extracting binaries: %w", err)
	}
	for _, c := range table {
		if !slices.Contains(names, c.Name) {
			continue
		}
		for p := range c.Build.Binaries {
			if err := extract(n.images[n.Images[c.Name]], p, filepath.Join(dir, filepath.Base(p))); err != nil {
				return fmt.Errorf("extracting %s: %w", c.Name, err)
			}
		}
	}
	return nil
}

func extract(img v1.Image, from, to string) error {
	files := mutate.Extract(img)
	defer files.Close()
	for tr := tar.NewReader(files); ; {
		h, err := tr.Next()
		if err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
		if "/"+strings.TrimPrefix(h.Name, "/") != from {
			continue
		}
		// Write a new file, because a running binary must not be changed.
		if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return writeProgram(to, tr)
	}
}

// writeProgram writes a new file that can be executed.
func writeProgram(path string, from io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// until is w, whose writes fail when ctx has ended.
func until(ctx context.Context, w io.Writer) io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		return w.Write(p)
	})
}

// shortHash returns 12 hex digits of a hash of all its arguments.
func shortHash(first string, rest ...string) string {
	h := sha256.New()
	for _, s := range append([]string{first}, rest...) {
		fmt.Fprintf(h, "%d %s\n", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}
