package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// startFront serves a registry behind a front, and returns its host.
func startFront(t *testing.T, behind http.Handler) string {
	t.Helper()
	back := httptest.NewServer(behind)
	t.Cleanup(back.Close)
	to, err := url.Parse(back.URL)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(newFront(to))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

func image(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestATagOfARunIsGivenOnce(t *testing.T) {
	host := startFront(t, registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	push := func(ref string, img v1.Image) error {
		r, err := name.ParseReference(host+"/"+ref, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		return remote.Write(r, img)
	}
	first, other := image(t), image(t)
	digest, err := other.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ref     string
		img     v1.Image
		refused bool
	}{
		{"mllab-mlops/model:v1", first, false},
		{"mllab-mlops/model:v1", first, false}, // the same again
		{"mllab-mlops/model:v1", other, true},
		{"mllab-mlops/model:v2", other, false},
		{"mllab-mlops/other:v1", other, false},
		{"mllab-mlops/model@" + digest.String(), other, false},
		{"mine/app:latest", first, false},
		{"mine/app:latest", other, false}, // who builds again pushes again
		{"mllabs/app:latest", first, false},
		{"mllabs/app:latest", other, false},
	} {
		err := push(c.ref, c.img)
		if c.refused != (err != nil) {
			t.Errorf("pushing %s: %v, want a refusal: %v", c.ref, err, c.refused)
		}
		if c.refused && (!strings.Contains(err.Error(), "DENIED") || !strings.Contains(err.Error(), "mllab-mlops/model:v1 is sha256:")) {
			t.Errorf("the refusal does not say why: %v", err)
		}
	}
	r, err := name.ParseReference(host+"/mllab-mlops/model:v1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.Image(r)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := first.Digest()
	if has, err := got.Digest(); err != nil || has != want {
		t.Errorf("the tag is %s (%v), want %s", has, err, want)
	}
}

func TestATagThatCannotBeLookedUpIsNotGiven(t *testing.T) {
	host := startFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			t.Errorf("%s %s came to the registry", r.Method, r.URL.Path)
		}
		w.WriteHeader(http.StatusInternalServerError)
	}))
	for body, want := range map[string]int{"{}": http.StatusBadGateway, strings.Repeat("x", maxManifest+1): http.StatusRequestEntityTooLarge} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, fmt.Sprintf("http://%s/v2/mllab-mlops/model/manifests/v1", host), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("a manifest of %d bytes: %s, want %d", len(body), resp.Status, want)
		}
	}
}
