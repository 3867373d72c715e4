package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

const lockFile = "../uplot/package-lock.json"

// goBOM is what cyclonedx-gomod writes about a program of one module.
const goBOM = `{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
"metadata": {"component": {"bom-ref": "pkg:golang/mllab.local@v1", "type": "application", "name": "mllab.local"}},
"components": [{"bom-ref": "pkg:golang/a@v1", "type": "library", "name": "a", "version": "v1", "purl": "pkg:golang/a@v1"}],
"dependencies": [{"ref": "pkg:golang/mllab.local@v1", "dependsOn": ["pkg:golang/a@v1"]}, {"ref": "pkg:golang/a@v1"}]}`

// programs makes a folder with a program that has modules: this test's own.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	me, err := os.Executable()
	if err == nil {
		err = os.Symlink(me, filepath.Join(dir, "program"))
	}
	if err := errors.Join(err, os.WriteFile(filepath.Join(dir, "modules.tar"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func rewritten(t *testing.T, lock, programs, bom string) (*cdx.BOM, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "bom.json")
	if err := os.WriteFile(file, []byte(bom), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := rewrite(lock, programs, file); err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := new(cdx.BOM)
	return got, cdx.NewBOMDecoder(f, cdx.BOMFileFormatJSON).Decode(got)
}

func TestWhatIsEmbeddedIsInTheBill(t *testing.T) {
	bom, err := rewritten(t, lockFile, programs(t), goBOM)
	if err != nil {
		t.Fatal(err)
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || len(*bom.Components) != 2+len(info.Deps) || (*bom.Components)[0].PackageURL != "pkg:golang/a@v1" {
		t.Fatalf("components %+v", *bom.Components)
	}
	c := (*bom.Components)[1]
	library, err := os.ReadFile("../uplot/package.json")
	if err != nil || !strings.Contains(string(library), `"`+c.Name+`": "`+c.Version+`"`) || c.PackageURL != "pkg:npm/uplot@"+c.Version {
		t.Errorf("%s %s (%s), %v", c.Name, c.Version, c.PackageURL, err)
	}
	if hash := (*c.Hashes)[0]; len(hash.Value) != 128 || hash.Algorithm != cdx.HashAlgoSHA512 || (*c.Licenses)[0].License.ID != "MIT" {
		t.Errorf("hash %+v, license %+v", hash, *c.Licenses)
	}
	all := []string{"pkg:golang/a@v1", c.BOMRef}
	for _, m := range info.Deps {
		all = append(all, "pkg:golang/"+m.Path+"@"+m.Version+"?type=module")
	}
	needs := (*bom.Dependencies)[0]
	if needs.Ref != "pkg:golang/mllab.local@v1" || !slices.Equal(*needs.Dependencies, all) {
		t.Errorf("the program needs %+v, want %v", needs, all)
	}
}

func TestAModuleIsInTheBillOnce(t *testing.T) {
	dir := programs(t)
	bom, err := rewritten(t, lockFile, dir, goBOM)
	if err != nil {
		t.Fatal(err)
	}
	n := len(*bom.Components)
	used, err := modules(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := add(bom, used); err != nil || len(*bom.Components) != n {
		t.Errorf("%d components, then %d, %v", n, len(*bom.Components), err)
	}
}

func TestABillThatCannotBeCompletedIsAnError(t *testing.T) {
	none := filepath.Join(t.TempDir(), "package-lock.json")
	bare := filepath.Join(t.TempDir(), "package-lock.json")
	for file, text := range map[string]string{none: `{"packages": {"": {}}}`, bare: `{"packages": {"node_modules/x": {"version": "1.0.0"}}}`} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	some := programs(t)
	for name, c := range map[string]struct{ lock, programs, bom, says string }{
		"no package":    {none, some, goBOM, "there is no package"},
		"no hash":       {bare, some, goBOM, "x must have a version and a SHA-512"},
		"empty bill":    {lockFile, some, `{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}`, "no bill"},
		"no such lock":  {"no-such.json", some, goBOM, "no-such.json"},
		"no program":    {lockFile, t.TempDir(), goBOM, "there is no program"},
		"not CycloneDX": {lockFile, some, "no JSON", "bom.json"},
	} {
		if _, err := rewritten(t, c.lock, c.programs, c.bom); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
