// Command sbom names in a release's bill of materials what mllab embeds besides its own Go modules: the library of plots,
// and the modules of the programs that run in the lab.
//
// usage: sbom package-lock.json PROGRAMS BOM    a folder, and a CycloneDX file in JSON, which it writes again
package main

import (
	"bytes"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: sbom package-lock.json PROGRAMS BOM")
		os.Exit(2)
	}
	if err := rewrite(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func rewrite(lockFile, programs, file string) error {
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
	plots, err := packages(lock)
	if err != nil {
		return fmt.Errorf("%s: %w", lockFile, err)
	}
	used, err := modules(programs)
	if err != nil {
		return fmt.Errorf("%s: %w", programs, err)
	}
	if err := add(bom, append(plots, used...)); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	var out bytes.Buffer
	if err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).Encode(bom); err != nil {
		return err
	}
	return os.WriteFile(file, out.Bytes(), 0o644)
}

// add adds to bom the components that it lacks, as what its program depends on.
func add(bom *cdx.BOM, list []cdx.Component) error {
	if bom.Metadata == nil || bom.Metadata.Component == nil || bom.Components == nil || bom.Dependencies == nil {
		return errors.New("it is no bill of a program's modules")
	}
	program := slices.IndexFunc(*bom.Dependencies, func(d cdx.Dependency) bool { return d.Ref == bom.Metadata.Component.BOMRef })
	if program < 0 || (*bom.Dependencies)[program].Dependencies == nil {
		return errors.New("its program depends on nothing")
	}
	needs := (*bom.Dependencies)[program].Dependencies
	for _, c := range list {
		if slices.ContainsFunc(*bom.Components, func(has cdx.Component) bool { return has.Name == c.Name && has.Version == c.Version }) {
			continue
		}
		c.BOMRef, c.Type, c.Scope = c.PackageURL, cdx.ComponentTypeLibrary, cdx.ScopeRequired
		*bom.Components = append(*bom.Components, c)
		*bom.Dependencies = append(*bom.Dependencies, cdx.Dependency{Ref: c.BOMRef})
		*needs = append(*needs, c.BOMRef)
	}
	return nil
}

// packages returns the packages of a package-lock.json. Their hash is that of npm's archive.
func packages(lock []byte) (list []cdx.Component, err error) {
	var npm struct {
		Packages map[string]struct{ Version, Integrity, License string }
	}
	if err := json.Unmarshal(lock, &npm); err != nil {
		return nil, err
	}
	for _, path := range slices.Sorted(maps.Keys(npm.Packages)) {
		name, is := strings.CutPrefix(path, "node_modules/")
		if !is {
			continue // what names the packages
		}
		p := npm.Packages[path]
		encoded, known := strings.CutPrefix(p.Integrity, "sha512-")
		sum, err := base64.StdEncoding.DecodeString(encoded)
		if !known || err != nil || p.Version == "" {
			return nil, fmt.Errorf("%s must have a version and a SHA-512, got %q and %q", name, p.Version, p.Integrity)
		}
		list = append(list, cdx.Component{
			Name: name, Version: p.Version, PackageURL: "pkg:npm/" + name + "@" + p.Version,
			Hashes:   &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA512, Value: hex.EncodeToString(sum)}},
			Licenses: &cdx.Licenses{{License: &cdx.License{ID: p.License}}},
		})
	}
	if len(list) == 0 {
		return nil, errors.New("there is no package")
	}
	return list, nil
}

// modules returns the Go modules of the programs in a folder.
func modules(folder string) (list []cdx.Component, err error) {
	files, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		info, err := buildinfo.ReadFile(filepath.Join(folder, f.Name()))
		if err != nil {
			continue // no program of Go
		}
		for _, m := range info.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			list = append(list, cdx.Component{Name: m.Path, Version: m.Version, PackageURL: "pkg:golang/" + m.Path + "@" + m.Version + "?type=module"})
		}
	}
	if len(list) == 0 {
		return nil, errors.New("there is no program of Go with modules")
	}
	return list, nil
}
