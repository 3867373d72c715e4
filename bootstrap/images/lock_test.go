package images

import (
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"mllab.local/internal/fault"
	"mllab.local/internal/report"
)

// writeIndex pushes an index of small images, which differ by text, and returns that of this machine's architecture.
func writeIndex(t *testing.T, ref name.Reference, text string, archs ...string) (here v1.Image) {
	t.Helper()
	var index v1.ImageIndex = empty.Index
	for _, arch := range archs {
		img := small(t, t.TempDir(), text+" "+arch)
		if arch == runtime.GOARCH {
			here = img
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	return here
}

func TestTheLockFileOfThisMllabNamesReferencesOfTheTable(t *testing.T) {
	pins, err := parseLock(lockFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range table {
		delete(pins, c.Upstream)
	}
	if len(pins) > 0 {
		t.Errorf("the lock file has %v too: write it again", pins)
	}
	for _, bad := range []string{"a sha256:00\n", "a b c d\n"} {
		if _, err := parseLock(bad); err == nil {
			t.Errorf("%q is a lock file", bad)
		}
	}
}

func TestAReferenceIsHeldToTheLock(t *testing.T) {
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	o := Options{Mirror: strings.TrimPrefix(srv.URL, "http://"), Report: report.Discard()}
	r := &registrySource{mirror: o.Mirror}
	pushed := map[string]v1.Image{}
	push := func(upstream, text string, archs ...string) {
		t.Helper()
		ref, err := r.tag(upstream)
		if err != nil {
			t.Fatal(err)
		}
		pushed[upstream] = writeIndex(t, ref, text, archs...)
	}
	for i, c := range table {
		if c.Upstream != "" {
			push(c.Upstream, fmt.Sprint(i), lockArchs...)
		}
	}
	look := func() (rows []Locked, problems map[string]string) {
		t.Helper()
		rows, err := Lock(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		problems = map[string]string{}
		for _, row := range rows {
			if row.Problem != "" {
				problems[row.Reference] = row.Problem
			}
		}
		return rows, problems
	}

	rows, problems := look()
	if len(problems) > 0 || len(rows) != len(pushed) || rows[0].Pinned {
		t.Fatalf("of %d references: %v", len(rows), problems)
	}
	text, err := LockFile(rows)
	if err != nil {
		t.Fatal(err)
	}
	o.lock = text
	if rows, problems = look(); len(problems) > 0 || !rows[0].Pinned {
		t.Errorf("just written, and %v", problems)
	}
	if again, err := LockFile(rows); err != nil || again != text {
		t.Errorf("written again: %v\n%s\nwant\n%s", err, again, text)
	}

	const pilot, proxy, etcd, pause = "docker.io/istio/pilot:" + istioVersion, "docker.io/istio/proxyv2:" + istioVersion, "registry.k8s.io/etcd:3.6.8-0", pauseImage
	first := pushed[pilot]
	push(pilot, "moved", lockArchs...)
	push(proxy, "for one", "amd64")
	ref, err := r.tag(etcd)
	if err == nil {
		err = remote.Delete(ref)
	}
	single, _ := r.tag(pause)
	if err == nil {
		err = remote.Write(single, first)
	}
	if err != nil {
		t.Fatal(err)
	}
	rows, problems = look()
	want := map[string]string{pilot: "the tag moved: the lock file has sha256:", proxy: "it has no image for linux/arm64", etcd: "does not have this image (404 Not Found)", pause: "it is one image, and no index"}
	for reference, problem := range want {
		if !strings.Contains(problems[reference], problem) {
			t.Errorf("%s: got %q, want %q", reference, problems[reference], problem)
		}
	}
	if len(problems) != len(want) {
		t.Errorf("got %v", problems)
	}
	if _, err := LockFile(rows); err == nil {
		t.Error("a lock file with missing images was written")
	}

	// A pull takes what is pinned, whatever the tag is now.
	o.Cache, o.Mode, o.Components = t.TempDir(), "registry", []string{"istio-pilot"}
	said := &told{Reporter: report.Discard()}
	o.Report = said
	ref, err = r.tag(etcd)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, pushed[etcd]); err != nil { // what is pinned is there by digest
		t.Fatal(err)
	}
	n, err := Resolve(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if got := digestOf(t, n.images[n.Images["istio-pilot"]]); got != digestOf(t, first) {
		t.Errorf("pulled %s, want the pinned %s", got, digestOf(t, first))
	}
	if strings.Contains(said.String(), "no digest in the lock file") {
		t.Errorf("all are pinned, and it said %s", said)
	}

	// Without an entry it says so, and takes the tag.
	o.Cache, o.lock = t.TempDir(), strings.ReplaceAll(text, pilot+" ", "docker.io/other:1 ")
	if n, err = Resolve(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got := digestOf(t, n.images[n.Images["istio-pilot"]]); got != digestOf(t, pushed[pilot]) {
		t.Errorf("pulled %s, want what the tag is", got)
	}
	if !strings.Contains(said.String(), "1 of 9 upstream references have no digest in the lock file") {
		t.Errorf("it said %s", said)
	}

	// An image that is pinned and gone is not replaced by another.
	o.Cache, o.lock = t.TempDir(), strings.ReplaceAll(text, digestOf(t, first), "sha256:"+strings.Repeat("0", 64))
	if _, err := Resolve(t.Context(), o); err == nil || !strings.Contains(err.Error(), pilot) || !strings.Contains(err.Error(), "does not have this image") || fault.Code(err) != 1 {
		t.Errorf("got %v", err)
	}
}
