// Command sbom writes a CycloneDX bill of materials of a Go binary, of any platform, to stdout: its modules, as the
// compiler recorded them. https://cyclonedx.org/docs/1.6/json/
package main

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
)

type component struct {
	Type    string `json:"type"`
	Name    string `json:"name"`
	Version string `json:"version"`
	PURL    string `json:"purl"` // https://github.com/package-url/purl-spec
}

type document struct {
	Format     string               `json:"bomFormat"`
	Spec       string               `json:"specVersion"`
	Version    int                  `json:"version"`
	Metadata   map[string]component `json:"metadata"`
	Components []component          `json:"components"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: sbom BINARY")
		os.Exit(2)
	}
	if err := write(os.Stdout, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func write(w io.Writer, file string) error {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading the build information of %s: %w", file, err)
	}
	doc := document{Format: "CycloneDX", Spec: "1.6", Version: 1, Metadata: map[string]component{"component": of("application", &info.Main)}}
	doc.Components = append(doc.Components, component{"library", "std", info.GoVersion, "pkg:golang/std@" + info.GoVersion})
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		doc.Components = append(doc.Components, of("library", m))
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(doc)
}

func of(kind string, m *debug.Module) component {
	return component{kind, m.Path, m.Version, "pkg:golang/" + m.Path + "@" + m.Version}
}
