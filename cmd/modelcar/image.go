package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"mllab.local/internal/oci"
)

// layer is an image layer that is written from its files each time it is read, and so takes no memory. It is uncompressed:
// it stays in the lab, and its digest does not depend on a compressor.
type layer struct {
	files  []file
	digest v1.Hash
	size   int64
}

func newLayer(files []file) (*layer, error) {
	l := &layer{files: files}
	r, err := l.Uncompressed()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	l.digest, l.size, err = v1.SHA256(r)
	return l, err
}

func (l *layer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *layer) DiffID() (v1.Hash, error)            { return l.digest, nil }
func (l *layer) Size() (int64, error)                { return l.size, nil }
func (l *layer) MediaType() (types.MediaType, error) { return types.OCIUncompressedLayer, nil }
func (l *layer) Compressed() (io.ReadCloser, error)  { return l.Uncompressed() }

func (l *layer) Uncompressed() (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(l.write(w)) }() // it ends when r is closed
	return r, nil
}

// write writes the archive: the files in their order, each after its folders, without times, owned by root.
func (l *layer) write(w io.Writer) error {
	tw := tar.NewWriter(w)
	folders := map[string]bool{".": true}
	var mkdir func(string) error
	mkdir = func(dir string) error {
		if folders[dir] {
			return nil
		}
		folders[dir] = true
		if err := mkdir(path.Dir(dir)); err != nil {
			return err
		}
		return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, Format: tar.FormatPAX})
	}
	for _, f := range l.files {
		if err := mkdir(path.Dir(f.name)); err != nil {
			return err
		}
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: f.size, Format: tar.FormatPAX}); err != nil {
			return err
		}
		r, err := f.open()
		if err != nil {
			return err
		}
		_, err = io.Copy(tw, r)
		r.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return tw.Close()
}

func program(self string) (*layer, error) {
	info, err := os.Stat(self)
	if err != nil {
		return nil, err
	}
	return newLayer([]file{{"modelcar", 0o755, info.Size(), func() (io.ReadCloser, error) { return os.Open(self) }}})
}

func newImage(program, model v1.Layer) (v1.Image, error) {
	return oci.Image([]v1.Layer{program, model}, v1.Config{Entrypoint: []string{"/modelcar", "copy"}, User: "65532:65532"}, runtime.GOARCH)
}

// parse reads a reference. It must name its registry: a default would be somebody else's.
func parse(ref string, options ...name.Option) (r name.Reference, err error) {
	options = append(options, name.Insecure, name.WithDefaultRegistry(""))
	// The error of name.ParseReference would not say what is wrong.
	if plain := strings.TrimPrefix(ref, "oci://"); strings.Contains(plain, "@") {
		r, err = name.NewDigest(plain, options...)
	} else {
		r, err = name.NewTag(plain, options...)
	}
	if err == nil && r.Context().RegistryStr() == "" {
		err = errors.New("it names no registry")
	}
	if err != nil {
		return nil, fmt.Errorf("reference %q: %w; want HOST:PORT/NAME, HOST:PORT/NAME:TAG or HOST:PORT/NAME@sha256:…", ref, err)
	}
	return r, nil
}

// push builds an image of the files in dir and the program self, pushes it, and returns its reference by digest.
func push(ctx context.Context, self, dir, ref string) (string, error) {
	if _, err := parse(ref); err != nil {
		return "", err
	}
	fail := func(err error) (string, error) { return "", fmt.Errorf("packing %s: %w", dir, err) }
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	files, err := regularFiles(root)
	if err != nil {
		return fail(err)
	}
	for i := range files {
		files[i].name = path.Join(folder, files[i].name)
	}
	model, err := newLayer(files)
	if err != nil {
		return fail(err)
	}
	programLayer, err := program(self)
	if err != nil {
		return fail(err)
	}
	img, err := newImage(programLayer, model)
	if err != nil {
		return fail(err)
	}
	digest, err := img.Digest()
	if err != nil {
		return fail(err)
	}

	r, err := parse(ref, name.WithDefaultTag(model.digest.Hex[:12]))
	if err != nil {
		return "", err
	}
	if d, ok := r.(name.Digest); ok && d.DigestStr() != digest.String() {
		return "", fmt.Errorf("pushing %s: the image of %s is %s: push to a tag, or to this digest", ref, dir, digest)
	}
	err = remote.Write(r, img, remote.WithContext(ctx))
	// The lab's registry refuses to move a run's tag to another image. Then the image gets no tag, only its digest.
	var registryErr *transport.Error
	if _, tag := r.(name.Tag); tag && errors.As(err, &registryErr) && registryErr.StatusCode == http.StatusForbidden {
		err = remote.Write(r.Context().Digest(digest.String()), img, remote.WithContext(ctx))
	}
	if err != nil {
		return "", fmt.Errorf("pushing %s: %w", r, registryError{err})
	}
	return r.Context().Digest(digest.String()).String(), nil
}

// pull writes the files of the image into the folder dest and returns the image's reference by digest. It writes nothing
// unless all digests match.
func pull(ctx context.Context, ref, dest string) (string, error) {
	r, err := parse(ref)
	if err != nil {
		return "", err
	}
	img, err := remote.Image(r, remote.WithContext(ctx), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))
	var registryErr *transport.Error
	if errors.As(err, &registryErr) && registryErr.StatusCode == http.StatusNotFound {
		return "", fmt.Errorf("no model at %s: the registry has no such image; push it, or correct the name", ref)
	}
	fail := func(err error) (string, error) { return "", fmt.Errorf("fetching %s to %s: %w", ref, dest, err) }
	if err != nil {
		return fail(registryError{err})
	}
	digest, err := img.Digest()
	if err != nil {
		return fail(err)
	}
	layers, err := img.Layers()
	if err != nil {
		return fail(err)
	}
	var total size
	err = place(dest, func(put func(string, io.Reader) error) error {
		for _, l := range layers {
			if err := unpack(l, &total, put); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, errNoFiles) {
		return "", fmt.Errorf("no model at %s: the image has no files under /%s", ref, folder)
	}
	if err != nil {
		return fail(err)
	}
	return r.Context().Digest(digest.String()).String(), nil
}

// registryReader reads from the registry. Its errors are registryErrors.
type registryReader struct{ io.Reader }

func (f registryReader) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = registryError{err}
	}
	return n, err
}

func unpack(l v1.Layer, total *size, put func(name string, r io.Reader) error) error {
	blob, err := l.Uncompressed()
	if err != nil {
		return registryError{err}
	}
	defer blob.Close()
	r := registryReader{blob}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			// The digest is checked at the end of the layer, which may come after that of the archive.
			_, err := io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return err
		}
		inImage := strings.TrimPrefix(h.Name, "/")
		if !filepath.IsLocal(inImage) {
			return fmt.Errorf("%q must not leave the image", h.Name)
		}
		inImage = path.Clean(inImage)
		// https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
		dir, base := path.Split(inImage)
		deleted, whiteout := strings.CutPrefix(base, ".wh.")
		if whiteout {
			inImage = path.Join(dir, deleted)
		}
		name, inFolder := strings.CutPrefix(inImage, folder+"/")
		if !inFolder && inImage != folder {
			continue
		}
		switch {
		case whiteout:
			return fmt.Errorf("a layer deletes /%s of an earlier layer: build the image with one layer of files", inImage)
		case h.Typeflag == tar.TypeDir:
			continue
		case h.Typeflag != tar.TypeReg || !inFolder:
			return notRegular("/" + inImage)
		}
		if err := total.add(h.Size); err != nil {
			return err
		}
		if err := put(name, tr); err != nil {
			return fmt.Errorf("/%s: %w", inImage, err)
		}
	}
}
