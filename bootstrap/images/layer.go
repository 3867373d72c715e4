package images

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// fileLayer is an uncompressed image layer in a file. Layers stay uncompressed:
// they never leave the machine, and gzip would take longer than the rest of the
// assembly.
type fileLayer struct {
	path   string
	digest v1.Hash
	size   int64
}

func (l *fileLayer) Digest() (v1.Hash, error)             { return l.digest, nil }
func (l *fileLayer) DiffID() (v1.Hash, error)             { return l.digest, nil }
func (l *fileLayer) Size() (int64, error)                 { return l.size, nil }
func (l *fileLayer) MediaType() (types.MediaType, error)  { return types.OCIUncompressedLayer, nil }
func (l *fileLayer) Compressed() (io.ReadCloser, error)   { return os.Open(l.path) }
func (l *fileLayer) Uncompressed() (io.ReadCloser, error) { return os.Open(l.path) }

// newLayer writes a layer into dir by calling write. The layer is reproducible if
// write is.
func newLayer(dir string, write func(tw *tar.Writer) error) (v1.Layer, error) {
	f, err := os.CreateTemp(dir, "layer-*.tar")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sum := sha256.New()
	tw := tar.NewWriter(io.MultiWriter(f, sum))
	if err := write(tw); err != nil {
		return nil, err
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	return &fileLayer{f.Name(), v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}, size}, f.Close()
}

// eachEntry calls f for every entry of an archive, until it returns an error.
func eachEntry(archive io.Reader, f func(h *tar.Header, body io.Reader) error) error {
	for tr := tar.NewReader(archive); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = f(h, tr)
		}
		if err != nil {
			return err
		}
	}
}

// tree has the files of one layer by path. write writes them in path order, after
// their parent directories, with fixed times and root as owner.
type tree map[string]node

type node struct {
	mode int64
	data []byte // content, unless from or link
	from string // a file of this machine
	link string // a symbolic link's target
	dir  bool
}

func (t tree) write(tw *tar.Writer) error {
	all := tree{}
	for p, n := range t {
		p = strings.TrimPrefix(path.Clean(p), "/")
		all[p] = n
		for d := path.Dir(p); d != "." && d != "/"; d = path.Dir(d) {
			if _, set := all[d]; !set {
				if n, given := t["/"+d]; given {
					all[d] = n
				} else {
					all[d] = node{mode: 0o755, dir: true}
				}
			}
		}
	}
	for _, p := range slices.Sorted(maps.Keys(all)) {
		if err := all[p].write(tw, p); err != nil {
			return fmt.Errorf("/%s: %w", p, err)
		}
	}
	return nil
}

// hash writes what the files are into a hash.
func (t tree) hash(h io.Writer) {
	for _, p := range slices.Sorted(maps.Keys(t)) {
		fmt.Fprintf(h, "%s %s\n%s", p, t[p].link, t[p].data)
	}
}

func (n node) write(tw *tar.Writer, p string) error {
	h := &tar.Header{Name: p, Mode: n.mode, Typeflag: tar.TypeReg, Size: int64(len(n.data)), Format: tar.FormatPAX}
	var body io.Reader = bytes.NewReader(n.data)
	switch {
	case n.dir:
		h.Typeflag, h.Name = tar.TypeDir, p+"/"
	case n.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, n.link, 0o777
	case n.from != "":
		f, err := os.Open(n.from)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		h.Size, body = st.Size(), f
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(tw, body)
	return err
}

func (t tree) addDir(dir, prefix string) error {
	return filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		t[path.Join(prefix, filepath.ToSlash(rel))] = node{mode: 0o644, from: p}
		return nil
	})
}
