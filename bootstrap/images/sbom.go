package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"debug/buildinfo"
	"fmt"
	"io"
	"maps"
	"net/textproto"
	"net/url"
	"path"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"mllab.local/internal/fault"
)

// dpkgRecords is where images without a package manager have their packages'
// records, a file for each, in which scanners look for them
// (https://github.com/GoogleContainerTools/distroless/blob/main/PACKAGE_METADATA.md).
const dpkgRecords = "var/lib/dpkg/status.d/"

const dpkgStatus = "var/lib/dpkg/status"

// debianRecords returns the files of dpkgRecords for the packages of an archive.
func debianRecords(archive string, want func(name string) bool) (tree, error) {
	files := tree{}
	return files, eachDebianEntry(archive, func(name string, _ *tar.Header, body io.Reader) error {
		if name != dpkgStatus {
			return nil
		}
		text, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		for _, record := range strings.Split(string(text), "\n\n") {
			if name := fields(record).Get("Package"); name != "" && want(name) {
				files["/"+dpkgRecords+name] = node{mode: 0o644, data: []byte(strings.TrimSpace(record) + "\n")}
			}
		}
		return nil
	})
}

// fields returns the fields of a Debian record, or of a wheel's METADATA, up to an empty line.
func fields(record string) textproto.MIMEHeader {
	// What cannot be read of the end does not matter: the names come first.
	header, _ := textproto.NewReader(bufio.NewReader(strings.NewReader(strings.TrimSpace(record) + "\n\n"))).ReadMIMEHeader()
	return header
}

// SBOM returns what a cached image contains, as CycloneDX has it
// (https://cyclonedx.org/docs/1.6/json/): its programs with their Go modules, its
// Debian packages and its Python packages.
func SBOM(ctx context.Context, o Options, component string) (*cdx.BOM, error) {
	i := slices.IndexFunc(table, func(c Component) bool { return c.Name == component })
	if i < 0 {
		return nil, fault.Usage("`mllab images list` has the names", "the image must be one of the table, got %q", component)
	}
	o.Components = []string{component}
	p, err := o.plan(ctx)
	if err != nil {
		return nil, err
	}
	img := p.cached[component]
	if img == nil {
		return nil, fault.Usage("run `mllab images build`", "the image %s is not in the cache", component)
	}
	_, fromSource := p.source.(*built)
	bom, err := contents(table[i], img, fromSource)
	if err != nil {
		return nil, fmt.Errorf("reading image %s: %w", component, err)
	}
	return bom, nil
}

// contents returns the SBOM of an image. fromSource says whether it was built here.
func contents(c Component, img v1.Image, fromSource bool) (*cdx.BOM, error) {
	digest, err := img.Digest()
	if err != nil {
		return nil, err
	}
	l := listing{components: map[string]cdx.Component{}, needs: map[string]map[string]bool{}, image: "image:" + c.Name}
	if err := l.read(img); err != nil {
		return nil, err
	}
	if fromSource && slices.Contains(c.modules(), wheelModule) {
		files, err := moduleFiles(wheelModule)
		if err != nil {
			return nil, err
		}
		pin, _, _ := strings.Cut(string(files["requirements.txt"]), " ")
		name, version, _ := strings.Cut(pin, "==")
		ref := "pkg:pypi/" + name + "@" + version
		l.add(l.image, cdx.ComponentTypeLibrary, name, version, ref)
		wheel := l.components[ref]
		wheel.CPE = "cpe:2.3:a:envoyproxy:envoy:" + version + ":*:*:*:*:*:*:*" // findings are filed under Envoy, not under its wheel
		l.components[ref] = wheel
	}
	if recorded := l.debian > 0; fromSource && !recorded && (len(c.Build.Debian) > 0 || c.Build.Python || c.Build.Git) {
		return nil, fault.Usage("remove it with `mllab down --purge`, then `mllab images build`",
			"an earlier mllab built this image without records of its Debian packages")
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &cdx.Component{BOMRef: l.image, Type: cdx.ComponentTypeContainer, Name: c.Name, Version: digest.String()}}
	components := slices.SortedFunc(maps.Values(l.components), func(a, b cdx.Component) int { return strings.Compare(a.BOMRef, b.BOMRef) })
	var needs []cdx.Dependency
	for _, of := range slices.Sorted(maps.Keys(l.needs)) {
		on := slices.Sorted(maps.Keys(l.needs[of]))
		needs = append(needs, cdx.Dependency{Ref: of, Dependencies: &on})
	}
	bom.Components, bom.Dependencies = &components, &needs
	return bom, nil
}

// listing collects the components of an image by their reference in the SBOM.
type listing struct {
	image      string
	components map[string]cdx.Component
	needs      map[string]map[string]bool
	debian     int
}

// add adds a component that of contains.
func (l *listing) add(of string, kind cdx.ComponentType, name, version, ref string) {
	c := cdx.Component{BOMRef: ref, Type: kind, Name: name, Version: version}
	if strings.HasPrefix(ref, "pkg:") {
		c.PackageURL = ref
	}
	l.components[ref] = c
	if l.needs[of] == nil {
		l.needs[of] = map[string]bool{}
	}
	l.needs[of][ref] = true
}

func (l *listing) read(img v1.Image) error {
	files := mutate.Extract(img)
	defer files.Close()
	return eachEntry(files, func(h *tar.Header, body io.Reader) error {
		if h.Typeflag != tar.TypeReg {
			return nil
		}
		name := strings.TrimPrefix(path.Clean(h.Name), "/")
		switch dir, base := path.Split(name); {
		case name == dpkgStatus || dir == dpkgRecords:
			text, err := io.ReadAll(body)
			if err != nil {
				return err
			}
			for _, record := range strings.Split(string(text), "\n\n") {
				l.addDebian(fields(record))
			}
		case base == "METADATA" && strings.HasSuffix(dir, ".dist-info/"):
			text, err := io.ReadAll(body)
			if err != nil {
				return err
			}
			meta := fields(string(text))
			pkg := strings.ToLower(meta.Get("Name"))
			l.add(l.image, cdx.ComponentTypeLibrary, pkg, meta.Get("Version"), "pkg:pypi/"+pkg+"@"+meta.Get("Version"))
		default:
			if err := l.addProgram("/"+name, body); err != nil {
				return fmt.Errorf("/%s: %w", name, err)
			}
		}
		return nil
	})
}

func (l *listing) addDebian(record textproto.MIMEHeader) {
	name, version := record.Get("Package"), record.Get("Version")
	if name == "" {
		return
	}
	l.debian++
	l.add(l.image, cdx.ComponentTypeLibrary, name, version, "pkg:deb/debian/"+name+"@"+url.QueryEscape(version)+"?arch="+record.Get("Architecture"))
}

// addProgram adds a Go program with its modules. Another file adds nothing.
func (l *listing) addProgram(name string, body io.Reader) error {
	magic := make([]byte, 4)
	if _, err := io.ReadFull(body, magic); err != nil || string(magic) != "\x7fELF" {
		return nil // also shorter files
	}
	rest, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	info, err := buildinfo.Read(bytes.NewReader(append(magic, rest...)))
	if err != nil {
		return nil // not of Go
	}
	program := "file:" + name
	l.add(l.image, cdx.ComponentTypeApplication, name, "", program)
	golang := func(module, version string) {
		l.add(program, cdx.ComponentTypeLibrary, module, version, "pkg:golang/"+strings.ToLower(module)+"@"+url.QueryEscape(version))
	}
	golang("std", strings.TrimPrefix(info.GoVersion, "go"))
	for _, m := range append(info.Deps, &info.Main) {
		// A patched copy has no version: it is that of the original.
		if r := m.Replace; r != nil && strings.HasPrefix(r.Version, "v") {
			m = r
		}
		if strings.HasPrefix(m.Version, "v") { // mllab's own has none
			golang(m.Path, m.Version)
		}
	}
	return nil
}
