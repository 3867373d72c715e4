package images

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"k8s.io/apimachinery/pkg/util/wait"

	"mllab.local/internal/folder"
)

// DefaultCache returns $MLLAB_CACHE_DIR, or mllab in the user's cache folder. Without HOME it returns a fault.Usage.
func DefaultCache() (string, error) {
	if dir := os.Getenv("MLLAB_CACHE_DIR"); dir != "" {
		return dir, nil
	}
	below := ".cache"
	if runtime.GOOS == "darwin" {
		below = filepath.Join("Library", "Caches")
	}
	return folder.Default(os.Getenv, "XDG_CACHE_HOME", below, "name the folder with --cache-dir")
}

// cache is the local OCI image layout. It has one image per component and minor
// version of Kubernetes, with the key of its inputs: who goes back to an earlier
// mllab finds the images of its lab. Its folder is a standard layout
// (https://github.com/opencontainers/image-spec/blob/main/image-layout.md).
type cache struct {
	dir string
	mu  sync.Mutex
}

// Annotations of an image's descriptor in index.json.
const (
	nameAnnotation = "org.opencontainers.image.ref.name"
	keyAnnotation  = "mllab.key"
	laneAnnotation = "mllab.kubernetes"
)

// lane is the minor version of Kubernetes, which images of one cache share: 1.36.
var lane = strings.TrimPrefix(KubeVersion[:strings.LastIndex(KubeVersion, ".")], "v")

// workLock is a file that every cache has, and no other folder.
const workLock = "work.lock"

// Folders that are emptied: in which images are made, the node image is assembled,
// and the layout's next index is written.
const workshop, assembly, staging = "work", "node", "images.new"

func openCache(dir string) (*cache, error) {
	if err := CheckCache(dir); err != nil {
		return nil, err
	}
	if err := folder.Own("--cache-dir", dir, workLock); err != nil {
		return nil, err
	}
	return &cache{dir: dir}, nil
}

// in calls f with a temporary folder in the cache: workshop or, meanwhile, assembly.
// One process works in each at a time, and removes the folder that a killed one left.
func (c *cache) in(ctx context.Context, name string, f func(dir string) error) error {
	lock, err := os.OpenFile(filepath.Join(c.dir, name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("image cache: %w", err)
	}
	defer lock.Close() // closing releases the lock
	err = wait.PollUntilContextCancel(ctx, 200*time.Millisecond, true, func(context.Context) (bool, error) {
		return syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for another mllab that builds images: %w", context.Cause(ctx))
	}
	dir := filepath.Join(c.dir, name)
	if err := folder.NoLink(dir); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil {
		return fmt.Errorf("image cache: %w", err)
	}
	defer os.RemoveAll(dir)
	return f(dir)
}

// CheckCache returns a fault.Usage if mllab must not use a folder as image cache. It changes nothing.
func CheckCache(dir string) error {
	err := folder.Check("--cache-dir", dir, workLock)
	for _, name := range []string{workshop, assembly, staging} {
		err = cmp.Or(err, folder.NoLink(filepath.Join(dir, name)))
	}
	return err
}

// IsCache reports whether a folder is an image cache of mllab.
func IsCache(dir string) bool { return folder.Owned(dir, workLock) }

// Purge removes an image cache. It also removes the folder if mllab created it and nothing else is in it. It keeps
// symbolic links and their targets, and returns them. It does not change a folder that is not a cache of mllab.
func Purge(dir string) (kept []string, err error) {
	if !IsCache(dir) {
		return nil, nil
	}
	parts := folder.Glob(dir, "debian-*.tar")
	for _, name := range []string{"images", "images.lock", staging, assembly, assembly + ".lock", workshop, workLock} {
		parts = append(parts, filepath.Join(dir, name))
	}
	for _, part := range parts {
		link, failed := folder.Remove(part)
		if link != "" {
			kept = append(kept, link)
		}
		err = errors.Join(err, failed)
	}
	return kept, errors.Join(err, folder.Leave(dir))
}

func (c *cache) layout() (layout.Path, error) {
	dir := filepath.Join(c.dir, "images")
	p, err := layout.FromPath(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return layout.Write(dir, empty.Index)
	}
	return p, err
}

// descriptors returns the layout and what its index lists.
func (c *cache) descriptors() (p layout.Path, all []v1.Descriptor, err error) {
	var manifest *v1.IndexManifest
	if p, err = c.layout(); err == nil {
		var index v1.ImageIndex
		if index, err = p.ImageIndex(); err == nil {
			manifest, err = index.IndexManifest()
		}
	}
	if err != nil {
		return p, nil, fmt.Errorf("image cache: %w", err)
	}
	return p, manifest.Manifests, nil
}

// get returns the image with a key, or nil if the cache lacks it or it has a missing
// blob.
func (c *cache) get(name, key string) (v1.Image, error) {
	p, all, err := c.descriptors()
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		if d.Annotations[nameAnnotation] != name || d.Annotations[keyAnnotation] != key {
			continue
		}
		img, err := p.Image(d.Digest)
		if err != nil || !c.complete(img) {
			return nil, nil
		}
		return img, nil
	}
	return nil, nil
}

// complete reports whether the cache has every blob of the image in full length.
func (c *cache) complete(img v1.Image) bool {
	m, err := img.Manifest()
	if err != nil {
		return false
	}
	for _, d := range append(m.Layers, m.Config) {
		st, err := os.Stat(c.blob(d.Digest))
		if err != nil || st.Size() != d.Size {
			return false
		}
	}
	return true
}

func (c *cache) blob(h v1.Hash) string {
	return filepath.Join(c.dir, "images", "blobs", h.Algorithm, h.Hex)
}

// put stores the image as the only one of its name and lane, and returns it as read
// from the cache. It moves layers of newLayer in this cache, and does not copy them.
func (c *cache) put(name, key string, img v1.Image) (stored v1.Image, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("image cache: storing %s: %w", name, err)
		}
	}()
	digest, err := img.Digest()
	if err != nil {
		return nil, err
	}
	err = c.change(func(p layout.Path) error {
		layers, err := img.Layers()
		if err != nil {
			return err
		}
		for _, l := range layers {
			f, ok := l.(*fileLayer)
			if !ok {
				continue
			}
			blob := c.blob(f.digest)
			if err := os.MkdirAll(filepath.Dir(blob), 0o755); err != nil {
				return err
			}
			if err := os.Rename(f.path, blob); err != nil {
				return err
			}
			f.path = blob
		}
		if err := c.removeShort(img); err != nil {
			return err
		}
		return p.ReplaceImage(unopened{img}, func(d v1.Descriptor) bool {
			return d.Annotations[nameAnnotation] == name && d.Annotations[laneAnnotation] == lane
		}, layout.WithAnnotations(map[string]string{
			nameAnnotation: name, keyAnnotation: key, laneAnnotation: lane,
		}))
	})
	if err != nil {
		return nil, err
	}
	p, err := c.layout()
	if err != nil {
		return nil, err
	}
	return p.Image(digest)
}

// removeShort removes the image's manifest and configuration if they have another
// length, as a full disk leaves them: a layout writes only layers again.
func (c *cache) removeShort(img v1.Image) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	size, err := img.Size()
	if err != nil {
		return err
	}
	for _, d := range []v1.Descriptor{m.Config, {Digest: digest, Size: size}} {
		if st, err := os.Stat(c.blob(d.Digest)); err == nil && st.Size() != d.Size {
			if err := os.Remove(c.blob(d.Digest)); err != nil {
				return err
			}
		}
	}
	return nil
}

// unopened is an image whose layers are opened when they are read: a layout opens
// those that it has, too, which is a request to the registry.
type unopened struct{ v1.Image }

func (i unopened) Layers() ([]v1.Layer, error) {
	layers, err := i.Image.Layers()
	for n, l := range layers {
		layers[n] = unopenedLayer{l}
	}
	return layers, err
}

type unopenedLayer struct{ v1.Layer }

func (l unopenedLayer) Compressed() (io.ReadCloser, error) {
	return &lateReader{open: l.Layer.Compressed}, nil
}

// lateReader opens its content when it is first read.
type lateReader struct {
	open func() (io.ReadCloser, error)
	io.ReadCloser
}

func (r *lateReader) Read(p []byte) (int, error) {
	if r.ReadCloser == nil {
		var err error
		if r.ReadCloser, err = r.open(); err != nil {
			return 0, err
		}
	}
	return r.ReadCloser.Read(p)
}

func (r *lateReader) Close() error {
	if r.ReadCloser == nil {
		return nil
	}
	return r.ReadCloser.Close()
}

// other returns how many images the cache has of other lanes, without the ones whose
// keys are needed, and the bytes that only those images use.
func (c *cache) other(needed map[string]bool) (o Other, err error) {
	p, all, err := c.descriptors()
	if err != nil {
		return o, err
	}
	shared := map[v1.Hash]bool{}
	var theirs []v1.Descriptor
	for _, d := range all {
		img, err := p.Image(d.Digest)
		if err != nil {
			continue // one that get does not find, either
		}
		m, err := img.Manifest()
		if err != nil {
			continue
		}
		blobs := append(m.Layers, m.Config)
		if isOther(needed)(d) {
			o.Images++
			theirs = append(theirs, blobs...)
			continue
		}
		for _, b := range blobs {
			shared[b.Digest] = true
		}
	}
	for _, b := range theirs {
		if !shared[b.Digest] {
			shared[b.Digest] = true
			o.Bytes += b.Size
		}
	}
	return o, nil
}

// removeOther removes the images that other counts.
func (c *cache) removeOther(needed map[string]bool) error {
	err := c.change(func(p layout.Path) error { return p.RemoveDescriptors(isOther(needed)) })
	if err == nil {
		err = c.prune()
	}
	if err != nil {
		return fmt.Errorf("image cache: %w", err)
	}
	return nil
}

func isOther(needed map[string]bool) match.Matcher {
	return func(d v1.Descriptor) bool {
		return d.Annotations[laneAnnotation] != lane && !needed[d.Annotations[keyAnnotation]]
	}
}

// prune removes blobs that no image refers to any more, and what killed processes left of blobs: a layout writes to the
// name of a blob and a number, and only one process writes at a time.
func (c *cache) prune() error {
	return c.locked(func(p layout.Path) error {
		blobs := filepath.Join(string(p), "blobs", "sha256")
		entries, err := os.ReadDir(blobs)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if len(e.Name()) > hex.EncodedLen(sha256.Size) {
				if err := os.Remove(filepath.Join(blobs, e.Name())); err != nil {
					return err
				}
			}
		}
		hashes, err := p.GarbageCollect()
		if err != nil {
			return err
		}
		for _, h := range hashes {
			if err := p.RemoveBlob(h); err != nil {
				return err
			}
		}
		return nil
	})
}

// locked runs f with an exclusive lock on this layout, also between processes. f must
// not change the index.
func (c *cache) locked(f func(layout.Path) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	lock, err := os.OpenFile(filepath.Join(c.dir, "images.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close() // closing releases the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	p, err := c.layout()
	if err != nil {
		return err
	}
	return f(p)
}

// change is locked for f that changes the index. f gets a layout with the same blobs
// and a copy of the index, which replaces it when f has succeeded: a layout writes its
// index in place, and what a full disk leaves of that is the loss of all images.
func (c *cache) change(f func(layout.Path) error) error {
	return c.locked(func(p layout.Path) error {
		const index = "index.json"
		staged := filepath.Join(c.dir, staging)
		if err := cmp.Or(folder.NoLink(staged), folder.NoLink(filepath.Join(string(p), index))); err != nil {
			return err
		}
		defer os.RemoveAll(staged)
		was, err := os.ReadFile(filepath.Join(string(p), index))
		if err := errors.Join(err, os.RemoveAll(staged), os.MkdirAll(filepath.Join(string(p), "blobs"), 0o755)); err != nil {
			return err
		}
		copied, err := layout.Write(staged, empty.Index)
		if err != nil {
			return err
		}
		if err := errors.Join(os.Symlink(filepath.Join("..", "images", "blobs"), filepath.Join(staged, "blobs")), copied.WriteFile(index, was, 0o644)); err != nil {
			return err
		}
		if err := f(copied); err != nil {
			return err
		}
		return os.Rename(filepath.Join(staged, index), filepath.Join(string(p), index))
	})
}
