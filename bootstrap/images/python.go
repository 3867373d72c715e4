package images

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"mllab.local/internal/fault"
	"mllab.local/internal/run"
)

// pythonVersion is the version of Debian's Python. The wheels and upstream's image
// have the same.
const pythonVersion = "3.11"

// pythonAliases returns the references that clients use for an image with Python:
// Hera's scripts use python:3.10, older versions of Hera 3.8 and 3.9. Code for an
// older Python runs on this one. Code for a newer one may not, so there are no
// newer references.
func pythonAliases() (names []string) {
	for _, minor := range []string{"3.8", "3.9", "3.10", pythonVersion} {
		names = append(names, "docker.io/library/python:"+minor, "docker.io/library/python:"+minor+"-slim")
	}
	return names
}

const (
	pythonSite = "/opt/python" // the wheels' packages in an image
	pythonHome = "/home/python"
)

// pythonPackages are unpacked with their dependencies: Python, the libraries that
// wheels need, and the commands of upstream's image that clients use.
var pythonPackages = []string{
	"python3-minimal", "python" + pythonVersion, "python-is-python3", "libgomp1", "libstdc++6",
	"bash", "coreutils", "dash", "findutils", "grep", "gzip", "hostname", "sed", "tar",
	"libc-bin", "netbase", "tzdata",
}

// pythonFiles are the lab's own files in a Python image, based on Debian or on
// upstream's image. Python finds the wheels by default, so PYTHONPATH is free for
// the user. The image's user has a name and a home. pip is that of the wheel.
var pythonFiles = func() tree {
	files := tree{
		"/etc/passwd": {mode: 0o644, data: []byte("root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n" +
			"python:x:65532:65532:python:" + pythonHome + ":/bin/bash\n")},
		"/etc/group": {mode: 0o644, data: []byte("root:x:0:\nnogroup:x:65534:\npython:x:65532:\n")},
	}
	// The first is Debian's name for it, the second upstream's.
	for _, dir := range []string{"dist-packages", "site-packages"} {
		files["/usr/local/lib/python"+pythonVersion+"/"+dir] = node{link: pythonSite}
	}
	for _, name := range []string{"pip", "pip3", "pip" + pythonVersion} {
		files["/usr/local/bin/"+name] = node{mode: 0o755, data: []byte("#!/bin/sh\nexec python3 -m pip \"$@\"\n")}
	}
	return files
}()

// python builds the two parts of a Python image in a folder: base.tar with Debian
// packages, whose signatures mmdebstrap verifies, and site with the wheels.
func (b *built) python(ctx context.Context, work string) (string, error) {
	dir := filepath.Join(work, pythonModule)
	return dir, b.step("python", "made", "building the Python image", pipHint+"; and mmdebstrap: `mllab doctor`", func(update func(string)) error {
		if err := b.wheels(ctx, dir, update); err != nil {
			return err
		}
		if err := b.unpack(ctx, filepath.Join(dir, "base.tar"), pythonPackages, update); err != nil {
			return err
		}
		return b.compileLibrary(ctx, dir, update)
	})
}

// wheels installs the wheels with pinned hashes into dir/site, with pip.
func (b *built) wheels(ctx context.Context, dir string, update func(string)) error {
	if err := unpackModule(pythonModule, dir); err != nil {
		return err
	}
	site := filepath.Join(dir, "site")
	install := []string{"install", "--target=" + site, "--no-compile", "--no-deps", "-r", filepath.Join(dir, "requirements.txt")}
	for _, glibc := range []string{"_2_28", "_2_27", "2014"} { // a wheel's tag has the oldest glibc that it supports
		install = append(install, "--platform=manylinux"+glibc+"_"+wheelArchs[b.goarch()])
	}
	lines := run.EachLine(update)
	if err := b.pip(ctx, lines, install...); err != nil {
		return err
	}
	// Replace pip's main, so that it reports why the lab has no package index. Do so
	// before compiling, because Python does not compare byte code with its source.
	if err := os.Rename(filepath.Join(dir, "pip_main.py"), filepath.Join(site, "pip", "__main__.py")); err != nil {
		return err
	}
	return b.byteCode(ctx, site, pythonSite, lines)
}

// pythonCompile has Python compile a folder. It must not compare the byte code with the source's time: all times in an
// image are the same. If this machine's Python has another version than the image's, the image does not use this byte code.
var pythonCompile = []string{"-m", "compileall", "-q", "--invalidation-mode=unchecked-hash"}

// byteCode compiles the folder dir, which is the folder to in the image.
func (b *built) byteCode(ctx context.Context, dir, to string, lines io.Writer) error {
	args := slices.Concat(pythonCompile, []string{"-s", dir, "-p", to, dir})
	return b.run.Run(ctx, run.Cmd{Path: "python3", Args: args, Stdout: lines, Stderr: lines})
}

// pythonLibrary is the standard library in Debian's packages.
const pythonLibrary = "usr/lib/python" + pythonVersion

// compileLibrary compiles the standard library of base.tar to the folder library. Debian's packages do so when they are
// installed, which they are not here. The image's user may not write there: without it each start compiles again what it uses.
func (b *built) compileLibrary(ctx context.Context, dir string, update func(string)) error {
	to := filepath.Join(dir, "library")
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	err := eachDebianEntry(filepath.Join(dir, "base.tar"), func(name string, h *tar.Header, body io.Reader) error {
		rel, found := strings.CutPrefix(name, pythonLibrary+"/")
		if !found || path.Ext(name) != ".py" || h.Typeflag != tar.TypeReg {
			return nil
		}
		file := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		text, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		return os.WriteFile(file, text, 0o644)
	})
	if err != nil {
		return err
	}
	return b.byteCode(ctx, to, "/"+pythonLibrary, run.EachLine(update))
}

// onPython adds a component's wheels and programs to an upstream Python image.
func (b *built) onPython(ctx context.Context, work string, c Component, base v1.Image, update func(string)) (v1.Image, error) {
	if wheelArchs[b.goarch()] == "" {
		return nil, fault.Usage("run `mllab up --core`", "the wheels of the Python image are pinned only for amd64 and arm64, but this machine is %s", b.goarch())
	}
	dir := filepath.Join(work, pythonModule)
	if err := b.wheels(ctx, dir, update); err != nil {
		return nil, fault.Hinted(fmt.Errorf("adding the wheels: %w", err), pipHint)
	}
	files := tree{}
	if err := addPython(files, dir); err != nil {
		return nil, err
	}
	parts, err := c.Build.ownParts(work)
	if err != nil {
		return nil, err
	}
	c.Build.add(files, parts)
	layer, err := newLayer(work, files.write)
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, err
	}
	return mutate.Config(img, c.Build.config())
}

// addPython adds the lab's own files of a Python image, and the wheels of
// from/site without tests and without the scripts for this machine's Python.
func addPython(files tree, from string) error {
	maps.Copy(files, pythonFiles)
	site := filepath.Join(from, "site")
	if err := files.addDir(site, pythonSite); err != nil {
		return err
	}
	maps.DeleteFunc(files, func(p string, _ node) bool {
		return strings.HasPrefix(p, pythonSite+"/") && strings.Contains(p, "/tests/") || strings.HasPrefix(p, pythonSite+"/bin/")
	})
	return nil
}

// pythonBase returns the base layer of Python, with byte code and without documentation. It omits
// Debian's file EXTERNALLY-MANAGED, which blocks pip and which upstream's image
// does not have.
func pythonBase(dir, from string) (v1.Layer, error) {
	archive := filepath.Join(from, "base.tar")
	records, err := debianRecords(archive, func(string) bool { return true })
	if err != nil {
		return nil, err
	}
	compiled := tree{}
	if err := compiled.addDir(filepath.Join(from, "library"), "/"+pythonLibrary); err != nil {
		return nil, err
	}
	maps.DeleteFunc(compiled, func(p string, _ node) bool { return path.Ext(p) != ".pyc" })
	maps.Copy(records, compiled)
	return debianLayer(dir, archive, records, func(name string, _ *tar.Header) bool {
		read := !strings.HasPrefix(name, "usr/share/") || strings.HasPrefix(name, "usr/share/zoneinfo") || strings.HasSuffix(name, "/copyright")
		return read && !strings.HasPrefix(name, "var/") && path.Base(name) != "EXTERNALLY-MANAGED"
	})
}
