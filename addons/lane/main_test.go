package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mllab.local/addons"
)

// write writes files, by their paths in dir.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// proxy makes go ask a folder, which serves and lists these.
func proxy(t *testing.T, files map[string]string) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, files)
	t.Setenv("GOPROXY", "file://"+dir)
	t.Setenv("GOSUMDB", "off")
	t.Setenv("GOMODCACHE", t.TempDir())

}

func TestWhatIsNewerThanAPinIsFound(t *testing.T) {
	const info = `{"Version":"%","Time":"2026-01-01T00:00:00Z"}`
	served := func(v, mod string) map[string]string {
		return map[string]string{"example.test/a/@v/" + v + ".info": strings.Replace(info, "%", v, 1), "example.test/a/@v/" + v + ".mod": mod}
	}
	files := map[string]string{"example.test/a/@v/list": "v1.2.0\nv1.2.3\nv1.2.4\nv1.3.0\nv1.4.0\nv1.5.0-rc.1\nv2.0.0+incompatible\n"}
	for _, f := range []map[string]string{
		served("v1.2.4", "module example.test/a\n"),
		served("v1.3.0", "module example.test/a\ngo 1.26.0\nrequire k8s.io/client-go v0.37.2\nreplace k8s.io/client-go => k8s.io/client-go v0.37.3\n"),
		served("v1.5.0-rc.1", "module example.test/a\n"),
	} {
		maps.Copy(files, f)
	}
	proxy(t, files)
	r := look(t.Context(), pin{"example.test/a", "v1.2.3"})
	if r.err != nil || r.newest != "v1.3.0" || r.patch != "v1.2.4" || !slices.Equal(r.failed, []string{"v1.4.0"}) || strings.Join(r.pulls, ", ") != "k8s.io 0.37.3, go 1.26.0" {
		t.Errorf("%+v: %v", r, r.err)
	}
	if r := look(t.Context(), pin{"example.test/a", "v1.4.0"}); r.err != nil || r.newest != "" || r.patch != "" {
		t.Errorf("the newest: %+v", r)
	}
	if r := look(t.Context(), pin{"example.test/none", "v1.4.0"}); r.err == nil {
		t.Errorf("one that nobody has: %+v", r)
	}
}

func TestThePinsAreWhatTheModulesAreThereFor(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"go.mod":                  "module mllab.local\nrequire (\n\tsigs.k8s.io/kind v0.33.0\n\tgolang.org/x/mod v0.42.0\n)\n",
		nested + "/tools/go.mod":  "module mllab.local/source/tools\ntool (\n\texample.test/a/cmd/x\n\texample.test/a/server/v3\n)\nrequire (\n\texample.test/a v1.0.0 // indirect\n\texample.test/a/server/v3 v3.1.0 // indirect\n\texample.test/other v1.0.0 // indirect\n)\n",
		nested + "/direct/go.mod": "module mllab.local/source/direct\nrequire example.test/b v1.1.0\nrequire example.test/c v1.0.0 // indirect\n",
		nested + "/none/go.mod":   "module mllab.local/source/none\n",
	})
	pins, err := readPins(root)
	if err != nil {
		t.Fatal(err)
	}
	want := []pin{{"example.test/b", "v1.1.0"}, {"example.test/a", "v1.0.0"}, {"example.test/a/server/v3", "v3.1.0"}, {"sigs.k8s.io/kind", "v0.33.0"}}
	if !slices.Equal(pins, want) {
		t.Errorf("got %v, want %v", pins, want)
	}
	if _, err := readPins(t.TempDir()); err == nil {
		t.Error("a folder that is not the repository has pins")
	}
	mine, err := readPins("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"k8s.io/kubernetes", "istio.io/istio", "knative.dev/serving", "go.etcd.io/etcd/server/v3", "github.com/coredns/coredns", "sigs.k8s.io/kind"} {
		if !slices.ContainsFunc(mine, func(p pin) bool { return p.path == path }) {
			t.Errorf("%s is not among the pins of this repository", path)
		}
	}
}

func TestTheLibraryOfPlotsIsAskedForAtNpm(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	npm := func(script string) {
		if err := os.WriteFile(filepath.Join(bin, "npm"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mine, err := uplot.look(t.Context(), "../..")
	if err != nil || mine.path != "uplot" || mine.version == "" || mine.err == nil {
		t.Errorf("without npm: %+v, %v", mine, err)
	}
	npm(`[ "$*" = "view uplot version" ] && echo ` + mine.version)
	if r, err := uplot.look(t.Context(), "../.."); err != nil || r.err != nil || r.newest != "" {
		t.Errorf("the newest: %+v, %v", r, err)
	}
	npm("echo 9.9.9")
	if r, err := uplot.look(t.Context(), "../.."); err != nil || r.newest != "9.9.9" {
		t.Errorf("an older one: %+v, %v", r, err)
	}
	root := t.TempDir()
	write(t, root, map[string]string{"view/uplot/package.json": `{"dependencies": {"other": "1.0.0"}}`})
	if _, err := uplot.look(t.Context(), root); err == nil {
		t.Error("a file without the pin is taken")
	}
}

func TestGoIsAskedForFixesOfItself(t *testing.T) {
	root := t.TempDir()
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	write(t, bin, map[string]string{"go": "#!/bin/sh\n[ \"$*\" = 'list -m -f {{.Version}} toolchain@patch' ] && echo go1.26.2\n"})
	if err := os.Chmod(filepath.Join(bin, "go"), 0o755); err != nil {
		t.Fatal(err)
	}
	for mod, pinned := range map[string]string{"go 1.25.0\n\ntoolchain go1.26.1\n": "1.26.1", "go 1.26.0\n": "1.26.0"} {
		write(t, root, map[string]string{"go.mod": "module mllab.local\n\n" + mod})
		if r, err := toolchain.look(t.Context(), root); err != nil || r.err != nil || r.version != pinned || r.newest != "1.26.2" {
			t.Errorf("%s: %+v, %v", mod, r, err)
		}
	}
	if r, err := toolchain.look(t.Context(), "../.."); err != nil || r.version == "" {
		t.Errorf("of this repository: %+v, %v", r, err)
	}
}

func TestTheTableSaysWhatHasPassed(t *testing.T) {
	var out strings.Builder
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	err := print(&out, []row{
		{pin: pin{"example.test/new", "v1.0.0"}},
		{pin: pin{"example.test/old", "v0.0.0-20260101000000-abcdefabcdef"}, newest: "v2.0.0", pulls: []string{"go 1.27"}, failed: []string{"v2.1.0"}},
	}, map[string]addons.Version{"example.test/new": {End: "2027-06-28"}, "example.test/old": {End: "2026-12-01"}}, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"example.test/new v1.0.0 2027-06-28 - - -", "example.test/old v0.0.0-20260101000000 2026-12-01 (past) - v2.0.0 go 1.27", "example.test/old: listed, and not served: v2.1.0"} {
		if !strings.Contains(strings.Join(strings.Fields(out.String()), " "), line) {
			t.Errorf("no line %q in\n%s", line, out.String())
		}
	}
}
