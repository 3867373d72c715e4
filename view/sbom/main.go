// Command sbom names in a release's bill of materials what mllab embeds and is no Go module: the library of plots.
//
// usage: sbom package-lock.json BOM    a CycloneDX file in JSON, which it writes again
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: sbom package-lock.json BOM")
		os.Exit(2)
	}
	if err := rewrite(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func rewrite(lockFile, file string) error {
	lock, err := os.ReadFile(lockFile)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	bom := new(cdx.BOM)
	if err := cdx.NewBOMDecoder(bytes.NewReader(text), cdx.BOMFileFormatJSON).Decode(bom); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := addPackages(bom, lock); err != nil {
		return fmt.Errorf("adding %s to %s: %w", lockFile, file, err)
	}
	var out bytes.Buffer
	if err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).Encode(bom); err != nil {
		return err
	}
	return os.WriteFile(file, out.Bytes(), 0o644)
}

// addPackages adds the packages of a package-lock.json to the components that the program of bom depends on. Their hash is
// that of npm's archive.
func addPackages(bom *cdx.BOM, lock []byte) error {
	var npm struct {
		Packages map[string]struct{ Version, Integrity, License string }
	}
	if err := json.Unmarshal(lock, &npm); err != nil {
		return err
	}
	if bom.Metadata == nil || bom.Metadata.Component == nil || bom.Components == nil || bom.Dependencies == nil {
		return errors.New("it is no bill of a program's modules")
	}
	program := slices.IndexFunc(*bom.Dependencies, func(d cdx.Dependency) bool { return d.Ref == bom.Metadata.Component.BOMRef })
	if program < 0 || (*bom.Dependencies)[program].Dependencies == nil {
		return errors.New("its program depends on nothing")
	}
	needs := (*bom.Dependencies)[program].Dependencies
	added := 0
	for _, path := range slices.Sorted(maps.Keys(npm.Packages)) {
		name, is := strings.CutPrefix(path, "node_modules/")
		if !is {
			continue // what names the packages
		}
		p := npm.Packages[path]
		encoded, known := strings.CutPrefix(p.Integrity, "sha512-")
		sum, err := base64.StdEncoding.DecodeString(encoded)
		if !known || err != nil || p.Version == "" {
			return fmt.Errorf("%s must have a version and a SHA-512, got %q and %q", name, p.Version, p.Integrity)
		}
		ref := "pkg:npm/" + name + "@" + p.Version
		*bom.Components = append(*bom.Components, cdx.Component{
			BOMRef: ref, Type: cdx.ComponentTypeLibrary, Name: name, Version: p.Version, PackageURL: ref, Scope: cdx.ScopeRequired,
			Hashes:   &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA512, Value: hex.EncodeToString(sum)}},
			Licenses: &cdx.Licenses{{License: &cdx.License{ID: p.License}}},
		})
		*bom.Dependencies = append(*bom.Dependencies, cdx.Dependency{Ref: ref})
		*needs = append(*needs, ref)
		added++
	}
	if added == 0 {
		return errors.New("there is no package")
	}
	return nil
}
