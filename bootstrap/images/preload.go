package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	cimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// Paths on the node. containerd's state is on the anonymous volume that kind
// mounts at /var, and the engine copies the image's files into it. So the large
// files stay in other layers of the image, and the state has only links to them.
const (
	containerdRoot = "/var/lib/containerd"
	contentDir     = "io.containerd.content.v1.content"
	metadataDir    = "io.containerd.metadata.v1.bolt"
	snapshotDir    = "io.containerd.snapshotter.v1.overlayfs"
	unpackedRoot   = "/kind/unpacked"
)

// preload writes containerd's own records of the given images, as if it had
// pulled and unpacked them and then discarded the layers, as kind configures it.
// It returns the layers for the node: one with the records, and one per image
// with its unpacked files.
func preload(ctx context.Context, dir string, list map[string]v1.Image) (layers []v1.Layer, err error) {
	root := filepath.Join(dir, "containerd")
	store, err := openContainerd(root)
	if err != nil {
		return nil, fmt.Errorf("preloading images: %w", err)
	}
	records := tree{}
	for _, ref := range slices.Sorted(maps.Keys(list)) {
		l, snapshot, err := store.add(ctx, dir, ref, list[ref])
		if err != nil {
			return nil, errors.Join(fmt.Errorf("preloading image %s: %w", ref, err), store.close())
		}
		if l != nil {
			layers = append(layers, l)
		}
		records[path.Join(containerdRoot, snapshotDir, "snapshots", snapshot.id)] = node{link: path.Join(unpackedRoot, snapshot.chain)}
	}
	if err := store.close(); err != nil {
		return nil, fmt.Errorf("preloading images: %w", err)
	}
	for _, d := range []string{contentDir, metadataDir} {
		if err := records.addDir(filepath.Join(root, d), path.Join(containerdRoot, d)); err != nil {
			return nil, fmt.Errorf("preloading images: %w", err)
		}
	}
	records[path.Join(containerdRoot, snapshotDir, "metadata.db")] = node{mode: 0o600, from: filepath.Join(root, snapshotDir, "metadata.db")}
	// Hide the images that an upstream node image has.
	records[path.Join(containerdRoot, ".wh..wh..opq")] = node{mode: 0o644}
	l, err := newLayer(dir, records.write)
	if err != nil {
		return nil, fmt.Errorf("preloading images: %w", err)
	}
	return append([]v1.Layer{l}, layers...), nil
}

type containerdStore struct {
	db          *bolt.DB
	content     content.Store
	snapshotter snapshots.Snapshotter
	images      cimages.Store
	unpacked    map[string]string // chain ID -> snapshot ID
}

// recorder writes the records of the overlay snapshotter, which itself compiles for Linux alone. The files are not
// here but in the node image's layers, so it makes no folders. Of a snapshotter's methods it has those that recording
// takes: the embedded one is nil.
type recorder struct {
	snapshots.Snapshotter
	records *storage.MetaStore
}

// Prepare returns one mount, whose source is the new snapshot's ID.
func (r recorder) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) (mounts []mount.Mount, err error) {
	err = r.records.WithTransaction(ctx, true, func(ctx context.Context) error {
		s, err := storage.CreateSnapshot(ctx, snapshots.KindActive, key, parent, opts...)
		mounts = []mount.Mount{{Source: s.ID}}
		return err
	})
	return mounts, err
}

// Commit ends a snapshot under its name.
func (r recorder) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return r.records.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := storage.CommitActive(ctx, key, name, snapshots.Usage{}, opts...)
		return err
	})
}

// Close releases the records.
func (r recorder) Close() error { return r.records.Close() }

func openContainerd(root string) (*containerdStore, error) {
	for _, d := range []string{contentDir, metadataDir, snapshotDir} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o711); err != nil {
			return nil, err
		}
	}
	blobs, err := local.NewStore(filepath.Join(root, contentDir))
	if err != nil {
		return nil, err
	}
	records, err := storage.NewMetaStore(filepath.Join(root, snapshotDir, "metadata.db"))
	if err != nil {
		return nil, err
	}
	db, err := bolt.Open(filepath.Join(root, metadataDir, "meta.db"), 0o644, nil)
	if err != nil {
		return nil, err
	}
	meta := metadata.NewDB(db, blobs, map[string]snapshots.Snapshotter{"overlayfs": recorder{records: records}})
	if err := meta.Init(context.Background()); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &containerdStore{
		db: db, content: meta.ContentStore(),
		snapshotter: meta.Snapshotter("overlayfs"), images: metadata.NewImageStore(meta),
		unpacked: map[string]string{},
	}, nil
}

func (s *containerdStore) close() error {
	return errors.Join(s.snapshotter.Close(), s.db.Close())
}

type snapshot struct{ id, chain string }

// add records one image and returns a layer with its unpacked files. It returns
// no layer if an earlier reference has the same files.
func (s *containerdStore) add(ctx context.Context, dir, ref string, img v1.Image) (v1.Layer, snapshot, error) {
	ctx = namespaces.WithNamespace(ctx, "k8s.io")
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, snapshot{}, err
	}
	var diffIDs []digest.Digest
	for _, d := range cfg.RootFS.DiffIDs {
		diffIDs = append(diffIDs, digest.Digest(d.String()))
	}
	chainID := identity.ChainID(diffIDs).String()

	var layer v1.Layer
	chain := strings.TrimPrefix(chainID, "sha256:")
	id, known := s.unpacked[chain]
	if !known {
		if id, err = s.snapshot(ctx, chainID); err != nil {
			return nil, snapshot{}, err
		}
		s.unpacked[chain] = id
		if layer, err = unpackedLayer(dir, path.Join(unpackedRoot, chain), img); err != nil {
			return nil, snapshot{}, err
		}
	}
	return layer, snapshot{id, chain}, s.record(ctx, ref, img, chainID)
}

// snapshot commits one empty snapshot under the image's chain ID, without those
// of the lower layers: the runtime only uses the last.
func (s *containerdStore) snapshot(ctx context.Context, chainID string) (id string, err error) {
	key := "unpack " + chainID
	mounts, err := s.snapshotter.Prepare(ctx, key, "")
	if err != nil {
		return "", err
	}
	return mounts[0].Source, s.snapshotter.Commit(ctx, chainID, key)
}

// record stores manifest, configuration and the image's name, with the labels
// that containerd's garbage collector needs
// (https://github.com/containerd/containerd/blob/main/docs/garbage-collection.md).
func (s *containerdStore) record(ctx context.Context, ref string, img v1.Image, chainID string) error {
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	mediaType, err := img.MediaType()
	if err != nil {
		return err
	}
	configDigest := digest.FromBytes(config)
	if err := s.blob(ctx, config, map[string]string{"containerd.io/gc.ref.snapshot.overlayfs": chainID}); err != nil {
		return err
	}
	if err := s.blob(ctx, manifest, map[string]string{"containerd.io/gc.ref.content.config": configDigest.String()}); err != nil {
		return err
	}
	target := ocispec.Descriptor{MediaType: string(mediaType), Digest: digest.FromBytes(manifest), Size: int64(len(manifest))}
	// The CRI plugin also looks images up by their configuration's digest.
	for _, name := range []string{ref, configDigest.String()} {
		_, err := s.images.Create(ctx, cimages.Image{
			Name: name, Target: target, Labels: map[string]string{"io.cri-containerd.image": "managed"},
		})
		if err != nil && (name == ref || !errdefs.IsAlreadyExists(err)) {
			return err
		}
	}
	return nil
}

func (s *containerdStore) blob(ctx context.Context, data []byte, labels map[string]string) error {
	d := digest.FromBytes(data)
	return content.WriteBlob(ctx, s.content, d.String(), bytes.NewReader(data),
		ocispec.Descriptor{Digest: d, Size: int64(len(data))}, content.WithLabels(labels))
}

// unpackedLayer returns a layer with the image's flattened file system below
// at/fs, in the format of the overlay snapshotter.
func unpackedLayer(dir, at string, img v1.Image) (v1.Layer, error) {
	files := mutate.Extract(img)
	defer files.Close()
	at = strings.TrimPrefix(at, "/")
	return newLayer(dir, func(tw *tar.Writer) error {
		for _, d := range []string{at, path.Join(at, "fs"), path.Join(at, "work")} {
			mode := int64(0o755)
			if path.Base(d) == "work" {
				mode = 0o711
			}
			if err := (node{mode: mode, dir: true}).write(tw, d); err != nil {
				return err
			}
		}
		return eachEntry(files, func(h *tar.Header, body io.Reader) error {
			if path.Clean(h.Name) == "." {
				return nil
			}
			h.Name = path.Join(at, "fs", h.Name)
			if h.Typeflag == tar.TypeDir {
				h.Name += "/"
			}
			if h.Typeflag == tar.TypeLink {
				h.Linkname = path.Join(at, "fs", h.Linkname)
			}
			return copyEntry(tw, h, body)
		})
	})
}
