package oci

import (
	"archive/tar"
	"bytes"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// files are contents by name.
func files(pairs ...string) map[string][]byte {
	f := map[string][]byte{}
	for i := 0; i < len(pairs); i += 2 {
		f[pairs[i]] = []byte(pairs[i+1])
	}
	return f
}

func same(a, b map[string][]byte) bool { return maps.EqualFunc(a, b, bytes.Equal) }

// store is a registry over HTTP; forge, once set, changes the blobs that it
// hands out.
type store struct {
	gateway string
	forge   atomic.Pointer[func([]byte) []byte]
}

func newStore(t *testing.T) *store {
	t.Helper()
	s := &store{}
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		forge := s.forge.Load()
		if forge == nil || r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			h.ServeHTTP(w, r)
			return
		}
		whole := httptest.NewRecorder()
		h.ServeHTTP(whole, r)
		w.Write((*forge)(whole.Body.Bytes()))
	}))
	t.Cleanup(srv.Close)
	s.gateway = srv.URL
	return s
}

func TestWhatIsPushedIsWhatIsPulled(t *testing.T) {
	s := newStore(t)
	model := files("model.json", strings.Repeat("0123456789", 100_000), "a/b", "", "a/c", "c", "z", "z", "b", "b", "heldout.json", "{}\n")
	digest, err := Push(t.Context(), s.gateway, "team/model", model)
	if err != nil || !strings.HasPrefix(digest, "sha256:") {
		t.Fatal(digest, err)
	}
	got, err := Pull(t.Context(), s.gateway, "team/model@"+digest)
	if err != nil || !same(got, model) {
		t.Errorf("%d files came back, %v", len(got), err)
	}

	again, err := Push(t.Context(), s.gateway, "team/again", maps.Clone(model))
	if err != nil || again != digest {
		t.Errorf("the same files are %s, and then %s, %v", digest, again, err)
	}
	for image, want := range map[string]bool{"team/model@" + digest: true, "team/other@" + digest: false, "team/model:v1": false} {
		if has, err := Has(t.Context(), s.gateway, image); has != want || err != nil {
			t.Errorf("it has %s: %t, %v", image, has, err)
		}
	}
	if has, err := Has(t.Context(), "http://127.0.0.1:1", "team/model:v1"); has || err == nil {
		t.Error("a registry that is not there has no such image, and says nothing")
	}
	model["model.json"] = append(model["model.json"], ' ')
	if other, err := Push(t.Context(), s.gateway, "team/model", model); err != nil || other == digest {
		t.Errorf("other files are %s as well, %v", other, err)
	}
}

// The digest of a blob is judged at its end, and an archive ends before that.
func TestABlobThatIsNotItsDigestIsRefused(t *testing.T) {
	model := files("model.json", strings.Repeat("0123456789", 100_000))
	for what, forge := range map[string]func([]byte) []byte{
		"one digit is another": func(b []byte) []byte { return bytes.Replace(b, []byte("56789"), []byte("56780"), 1) },
		"the last digit is another": func(b []byte) []byte {
			b[bytes.LastIndexByte(b, '9')] = '0'
			return b
		},
		"something is behind the archive": func(b []byte) []byte {
			b[len(b)-1] = 1
			return b
		},
		"the end is missing": func(b []byte) []byte { return b[:len(b)-512] },
	} {
		t.Run(what, func(t *testing.T) {
			s := newStore(t)
			digest, err := Push(t.Context(), s.gateway, "model", model)
			if err != nil {
				t.Fatal(err)
			}
			s.forge.Store(&forge)
			got, err := Pull(t.Context(), s.gateway, "model@"+digest)
			if err == nil || got != nil || !strings.Contains(err.Error(), digest) {
				t.Errorf("got %d files, %v", len(got), err)
			}
		})
	}
}

func TestAnImageThatIsNotThereIsNamed(t *testing.T) {
	s := newStore(t)
	if _, err := Push(t.Context(), s.gateway, "there", files("f", "")); err != nil {
		t.Fatal(err)
	}
	digest := "sha256:" + strings.Repeat("0", 64)
	for _, image := range []string{"absent:latest", "there:other", "there@" + digest, "No Name"} {
		if got, err := Pull(t.Context(), s.gateway, image); err == nil || got != nil || !strings.Contains(err.Error(), image) {
			t.Errorf("%s: got %d files, %v", image, len(got), err)
		}
	}
	if digest, err := Push(t.Context(), s.gateway, "No Name", files("f", "")); err == nil || !strings.Contains(err.Error(), "No Name") {
		t.Errorf("it was pushed as %s, %v", digest, err)
	}
	if _, err := Pull(t.Context(), "http://gate way", "there"); err == nil || !strings.Contains(err.Error(), "gate way") {
		t.Errorf("of a gateway that is no address: %v", err)
	}
}

// layer is a layer of entries, as other tools make one.
func layer(t *testing.T, entries ...*tar.Header) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range entries {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			io.WriteString(tw, h.Name)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return static.NewLayer(b.Bytes(), types.OCIUncompressedLayer)
}

// large is a layer that says it has a file of 2 GiB.
func large(t *testing.T) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(&tar.Header{Name: "models/a", Typeflag: tar.TypeReg, Size: 2 << 30}); err != nil {
		t.Fatal(err)
	}
	return static.NewLayer(b.Bytes(), types.OCIUncompressedLayer)
}

func TestAnImageOfAnotherToolIsReadForItsModel(t *testing.T) {
	s := newStore(t)
	for what, c := range map[string]struct {
		layers []v1.Layer
		want   map[string][]byte
		says   string // an error
	}{
		"other files, folders and links are left out": {[]v1.Layer{
			layer(t, &tar.Header{Name: "modelcar", Typeflag: tar.TypeReg}, &tar.Header{Name: "models.txt", Typeflag: tar.TypeReg}),
			layer(t, &tar.Header{Name: "./models/", Typeflag: tar.TypeDir}, &tar.Header{Name: "./models/a", Typeflag: tar.TypeReg},
				&tar.Header{Name: "/models/b/c", Typeflag: tar.TypeReg}, &tar.Header{Name: "models/link", Linkname: "a", Typeflag: tar.TypeSymlink}),
		}, files("a", "./models/a", "b/c", "/models/b/c"), ""},
		"the last layer's file is the image's": {[]v1.Layer{
			layer(t, &tar.Header{Name: "models/a", Typeflag: tar.TypeReg}), layer(t, &tar.Header{Name: "./models/a", Typeflag: tar.TypeReg}),
		}, files("a", "./models/a"), ""},
		"a file that a layer deletes is an error": {[]v1.Layer{
			layer(t, &tar.Header{Name: "models/a", Typeflag: tar.TypeReg}), layer(t, &tar.Header{Name: "models/.wh.a", Typeflag: tar.TypeReg}),
		}, nil, "models/.wh.a"},
		"a file too large is an error": {[]v1.Layer{large(t)}, nil, "larger than"},
		"no model is an error":         {[]v1.Layer{layer(t, &tar.Header{Name: "modelcar", Typeflag: tar.TypeReg})}, nil, "no files below /models"},
	} {
		t.Run(what, func(t *testing.T) {
			img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), c.layers...)
			if err != nil {
				t.Fatal(err)
			}
			ref, err := name.NewTag(strings.TrimPrefix(s.gateway, "http://") + "/model:latest")
			if err != nil {
				t.Fatal(err)
			}
			if err := remote.Write(ref, img); err != nil {
				t.Fatal(err)
			}
			got, err := Pull(t.Context(), s.gateway, "model:latest")
			if !same(got, c.want) || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}
