package images

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	bolt "go.etcd.io/bbolt"
)

// The records are written without containerd's overlay snapshotter, and are for it.
func TestContainerdFindsWhatWasPreloaded(t *testing.T) {
	dir, one := t.TempDir(), small(t, t.TempDir(), "one")
	layers, err := preload(t.Context(), dir, map[string]v1.Image{
		"kind.local/one:1": one, "kind.local/alias:1": one, "kind.local/two:1": small(t, t.TempDir(), "two!"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != 3 { // the records, and the files of two images
		t.Fatalf("%d layers", len(layers))
	}

	// As on the node, where the layers lie over each other.
	node := t.TempDir()
	for _, l := range layers {
		unpackLayer(t, l, node)
	}
	root := filepath.Join(node, containerdRoot)
	snapshotter, err := overlay.NewSnapshotter(filepath.Join(root, snapshotDir))
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := local.NewStore(filepath.Join(root, contentDir))
	if err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(filepath.Join(root, metadataDir, "meta.db"), 0o644, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	meta := metadata.NewDB(db, blobs, map[string]snapshots.Snapshotter{"overlayfs": snapshotter})
	ctx := namespaces.WithNamespace(context.Background(), "k8s.io")
	if _, err := meta.GarbageCollect(ctx); err != nil { // what nothing refers to goes
		t.Fatal(err)
	}
	for _, ref := range []string{"kind.local/one:1", "kind.local/alias:1", "kind.local/two:1"} {
		image, err := metadata.NewImageStore(meta).Get(ctx, ref)
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		if _, err := meta.ContentStore().Info(ctx, image.Target.Digest); err != nil {
			t.Errorf("the manifest of %s: %v", ref, err)
		}
	}
	var names []string
	if err := meta.Snapshotter("overlayfs").Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if i.Kind != snapshots.KindCommitted {
			t.Errorf("snapshot %s is %s", i.Name, i.Kind)
		}
		names = append(names, i.Name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(names) != 2 {
		t.Fatalf("the snapshots are %q", names)
	}
	var texts []string
	for _, name := range names {
		mounts, err := meta.Snapshotter("overlayfs").View(ctx, "view "+name, name)
		if err != nil {
			t.Fatal(err)
		}
		// One layer below nothing is a bind mount of its folder.
		text, err := os.ReadFile(filepath.Join(mounts[0].Source, "etc/text"))
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	if got := strings.Join(texts, " "); got != "one two!" && got != "two! one" {
		t.Errorf("the snapshots' files are %q", got)
	}
}

// unpackLayer writes a layer's files below root. Its absolute links lead there, too.
func unpackLayer(t *testing.T, l v1.Layer, root string) {
	t.Helper()
	in, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for tr := tar.NewReader(in); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(root, h.Name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(to, 0o755)
		case tar.TypeSymlink:
			link := h.Linkname
			if path.IsAbs(link) {
				link = filepath.Join(root, link)
			}
			err = os.Symlink(link, to)
		default:
			var data []byte
			if data, err = io.ReadAll(tr); err == nil {
				err = os.WriteFile(to, data, 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
