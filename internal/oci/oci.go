// Package oci puts files into the lab's registry and takes them out, as images
// whose files are below /models, through the lab's gateway.
package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// folder is where a model's files are in its image.
const folder = "models"

// maxSize bounds the files that are read of one image, in bytes.
const maxSize = 1 << 30

// base is an image of OCI's types, not Docker's.
var base = mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)

// Image returns an image of layers, for linux on an architecture.
func Image(layers []v1.Layer, config v1.Config, arch string) (v1.Image, error) {
	img, err := mutate.AppendLayers(base, layers...)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", arch, config
	return mutate.ConfigFile(img, file)
}

// Push puts files into a repository of the registry behind the gateway at that
// URL, and returns the image's digest (sha256:…). The same files have the same
// digest.
func Push(ctx context.Context, gateway, repository string, files map[string][]byte) (string, error) {
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	for _, f := range slices.Sorted(maps.Keys(files)) {
		if err := tw.WriteHeader(&tar.Header{Name: path.Join(folder, f), Mode: 0o644, Size: int64(len(files[f])), Format: tar.FormatPAX}); err != nil {
			return "", fmt.Errorf("packing %s: %w", f, err)
		}
		if _, err := tw.Write(files[f]); err != nil {
			return "", fmt.Errorf("packing %s: %w", f, err)
		}
	}
	if err := tw.Close(); err != nil {
		return "", err
	}
	img, err := mutate.AppendLayers(base, static.NewLayer(layer.Bytes(), types.OCIUncompressedLayer))
	if err != nil {
		return "", err
	}
	digest, err := img.Digest()
	if err != nil {
		return "", err
	}
	ref, err := reference(gateway, repository+"@"+digest.String())
	if err != nil {
		return "", err
	}
	if err := remote.Write(ref, img, remote.WithContext(ctx)); err != nil {
		return "", fmt.Errorf("pushing to %s: %w", ref.Context(), err)
	}
	return digest.String(), nil
}

// Pull returns the files of an image, REPOSITORY:TAG or REPOSITORY@sha256:…, by
// their names. What comes is compared with its digests.
//
// Errors: of an image that is not there, has no such files, or is not what its
// digests say.
func Pull(ctx context.Context, gateway, image string) (map[string][]byte, error) {
	ref, err := reference(gateway, image)
	if err != nil {
		return nil, err
	}
	img, err := remote.Image(ref, remote.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("pulling %s: %w", ref, err)
	}
	files, err := read(img)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", ref, err)
	}
	return files, nil
}

// Has reports whether the registry has an image, REPOSITORY:TAG or
// REPOSITORY@sha256:…
func Has(ctx context.Context, gateway, image string) (bool, error) {
	ref, err := reference(gateway, image)
	if err != nil {
		return false, err
	}
	_, err = remote.Head(ref, remote.WithContext(ctx))
	if answer, is := errors.AsType[*transport.Error](err); is && answer.StatusCode == http.StatusNotFound {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking for %s: %w", ref, err)
	}
	return true, nil
}

func reference(gateway, image string) (name.Reference, error) {
	u, err := url.Parse(gateway)
	if err != nil {
		return nil, fmt.Errorf("the gateway's address: %w", err)
	}
	ref, err := name.ParseReference(u.Host+"/"+image, name.Insecure)
	if err != nil {
		return nil, fmt.Errorf("the image %q: %w", image, err)
	}
	return ref, nil
}

// read returns the files below folder. All layers are read to their ends, for
// their digests are judged there.
func read(img v1.Image) (map[string][]byte, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	files, left := map[string][]byte{}, int64(maxSize)
	for _, l := range layers {
		if err := readLayer(l, files, &left); err != nil {
			return nil, err
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("the image has no files below /%s", folder)
	}
	return files, nil
}

// readLayer adds a layer's files, of so many bytes at most.
func readLayer(l v1.Layer, files map[string][]byte, left *int64) error {
	in, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer in.Close()
	for tr := tar.NewReader(in); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, in) // an archive ends before its layer does
			return err
		}
		if err != nil {
			return err
		}
		file, found := strings.CutPrefix(path.Clean(strings.TrimPrefix(h.Name, "/")), folder+"/")
		if !found {
			continue
		}
		// https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
		if strings.HasPrefix(path.Base(file), ".wh.") {
			return fmt.Errorf("%s deletes a file of the layer before: make the image of one layer with files", h.Name)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if *left -= h.Size; *left < 0 {
			return fmt.Errorf("its files are larger than %d bytes", int64(maxSize))
		}
		if files[file], err = io.ReadAll(tr); err != nil {
			return err
		}
	}
}
