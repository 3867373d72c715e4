//go:build e2e

package main

import (
	"context"
	"io"
	"log"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"mllab.local/bootstrap/images"
)

// registrySource fills a registry over HTTP with what was built from source,
// under upstream's names, and has `images build` pull all of it.
func registrySource(t *testing.T, c cli) {
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	var rows []images.Row
	c.run("images", "list", "--core", "--image-source", "source", "-o", "json").ok(t, &rows)

	dir, err := images.DefaultCache()
	if err != nil {
		t.Fatal(err)
	}
	cache, err := layout.FromPath(filepath.Join(dir, "images"))
	if err != nil {
		t.Fatal(err)
	}
	index, err := cache.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	digests := map[string]string{}
	for _, d := range manifest.Manifests {
		component := d.Annotations["org.opencontainers.image.ref.name"]
		digests[component] = d.Digest.String()
		i := slices.IndexFunc(rows, func(r images.Row) bool { return r.Name == component })
		if i < 0 || rows[i].Upstream == "" {
			continue
		}
		img, err := cache.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		upstream, err := name.ParseReference(rows[i].Upstream)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.ParseReference(host + "/" + upstream.Context().RepositoryStr() + ":" + upstream.Identifier())
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, img, remote.WithContext(context.Background())); err != nil {
			t.Fatal(err)
		}
	}

	pulled := t.TempDir()
	args := []string{"images", "build", "--core", "--image-source", "registry", "--registry-mirror", host, "--cache-dir", pulled}
	c.run(args...).ok(t, nil)
	cache, err = layout.FromPath(filepath.Join(pulled, "images"))
	if err != nil {
		t.Fatal(err)
	}
	if index, err = cache.ImageIndex(); err != nil {
		t.Fatal(err)
	}
	if manifest, err = index.IndexManifest(); err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != len(rows) {
		t.Errorf("%d images were pulled, the table has %d", len(manifest.Manifests), len(rows))
	}
	for _, d := range manifest.Manifests {
		component := d.Annotations["org.opencontainers.image.ref.name"]
		if d.Digest.String() != digests[component] {
			t.Errorf("%s: pulled %s, built %s", component, d.Digest, digests[component])
		}
	}
	if r := c.run(args...); strings.Contains(r.err, "pull ") {
		t.Errorf("the second build pulled: %s", r)
	}
}
