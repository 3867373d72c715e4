package main

import (
	"os"
	"path/filepath"
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

func rewritten(t *testing.T, lock, bom string) (*cdx.BOM, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "bom.json")
	if err := os.WriteFile(file, []byte(bom), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := rewrite(lock, file); err != nil {
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

func TestTheLibraryOfPlotsIsInTheBill(t *testing.T) {
	bom, err := rewritten(t, lockFile, goBOM)
	if err != nil {
		t.Fatal(err)
	}
	if len(*bom.Components) != 2 || (*bom.Components)[0].PackageURL != "pkg:golang/a@v1" {
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
	needs := (*bom.Dependencies)[0]
	if needs.Ref != "pkg:golang/mllab.local@v1" || !slices.Equal(*needs.Dependencies, []string{"pkg:golang/a@v1", c.BOMRef}) {
		t.Errorf("the program needs %+v", needs)
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
	for name, c := range map[string]struct{ lock, bom, says string }{
		"no package":    {none, goBOM, "there is no package"},
		"no hash":       {bare, goBOM, "x must have a version and a SHA-512"},
		"empty bill":    {lockFile, `{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}`, "no bill"},
		"no such lock":  {"no-such.json", goBOM, "no-such.json"},
		"not CycloneDX": {lockFile, "no JSON", "bom.json"},
	} {
		if _, err := rewritten(t, c.lock, c.bom); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
