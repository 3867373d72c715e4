package images

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"mllab.local/internal/fault"
	"mllab.local/internal/run"
)

// pythonSite is where the wheels' packages are in an image.
const pythonSite = "/opt/python"

// pythonPackages are unpacked with all they need: Python 3.11, and the
// libraries that wheels expect of a Linux.
var pythonPackages = []string{"python3-minimal", "python3.11", "libgomp1", "libstdc++6"}

// python makes the two parts of a Python image in a folder: base.tar, which
// mmdebstrap unpacks from packages whose signatures it checks, and site, the
// wheels.
func (b *built) python(ctx context.Context, work string) (string, error) {
	task := b.report.Step("python")
	dir := filepath.Join(work, pythonModule)
	err := b.wheels(ctx, dir, task.Update)
	if err == nil {
		err = b.run.Run(ctx, run.Cmd{
			Path:   "mmdebstrap",
			Args:   []string{"--variant=extract", "--format=tar", "--include=" + strings.Join(pythonPackages, ","), debianSuite, filepath.Join(dir, "base.tar")},
			Env:    []string{"SOURCE_DATE_EPOCH=0"},
			Stderr: &lastLine{each: func(_ int64, line string) { task.Update(strings.TrimPrefix(line, "I: ")) }},
		})
	}
	if err != nil {
		err = fault.Hinted(fmt.Errorf("making the Python image: %w", err), pipHint+"; and mmdebstrap: `mllab doctor`")
		task.Fail(err)
		return "", err
	}
	task.Done("made")
	return dir, nil
}

// wheels has pip put the wheels of the pinned hashes into dir/site.
func (b *built) wheels(ctx context.Context, dir string, update func(string)) error {
	if err := unpackModule(pythonModule, dir); err != nil {
		return err
	}
	site := filepath.Join(dir, "site")
	install := append([]string{"-m", "pip", "install", "--target=" + site, "--no-compile", "--no-deps"}, pipPinned...)
	for _, glibc := range []string{"_2_28", "_2_27", "2014"} { // each wheel names the oldest that it runs on
		install = append(install, "--platform=manylinux"+glibc+"_x86_64")
	}
	install = append(install, "-r", filepath.Join(dir, "requirements.txt"))
	// Byte code that Python does not compare with its source's time: all times
	// in an image are the same. It is for this machine's Python: if that is
	// another version than the image's, nobody reads it.
	compile := []string{"-m", "compileall", "-q", "--invalidation-mode=unchecked-hash", "-s", site, "-p", pythonSite, site}
	lines := &lastLine{each: func(_ int64, line string) { update(line) }}
	for _, args := range [][]string{install, compile} {
		if err := b.run.Run(ctx, run.Cmd{Path: "python3", Args: args, Stdout: lines, Stderr: lines}); err != nil {
			return err
		}
	}
	return nil
}

// onPython puts a component's wheels and programs on a Python image of another
// maker.
func (b *built) onPython(ctx context.Context, work string, c Component, base v1.Image, update func(string)) (v1.Image, error) {
	if here := "linux/" + runtime.GOARCH; here != builtPlatform {
		return nil, fault.Usage("bring the lab up without kubeflow", "the wheels of Python's image are pinned for %s only, and this is %s", builtPlatform, here)
	}
	dir := filepath.Join(work, pythonModule)
	if err := b.wheels(ctx, dir, update); err != nil {
		return nil, fault.Hinted(fmt.Errorf("putting wheels on it: %w", err), pipHint)
	}
	files, err := siteFiles(dir)
	if err != nil {
		return nil, err
	}
	for p, bin := range c.Build.Binaries {
		from, err := unpackOwn(work, bin.Module)
		if err != nil {
			return nil, err
		}
		files[p] = node{mode: 0o755, from: filepath.Join(from, bin.Name)}
	}
	layer, err := newLayer(work, files.write)
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, err
	}
	return mutate.Config(img, v1.Config{Env: c.Build.Env, User: c.Build.User, Entrypoint: c.Build.Entrypoint})
}

// siteFiles are the wheels' files less their tests.
func siteFiles(dir string) (tree, error) {
	site := tree{}
	err := site.addDir(filepath.Join(dir, "site"), pythonSite, func(string) int64 { return 0o644 })
	for p := range site {
		if strings.Contains(p, "/tests/") {
			delete(site, p)
		}
	}
	return site, err
}

// pythonLayer is Python's base less what no program reads, and the wheels.
func pythonLayer(dir, from string) (v1.Layer, error) {
	site, err := siteFiles(from)
	if err != nil {
		return nil, err
	}
	return newLayer(dir, func(tw *tar.Writer) error {
		err := eachDebianEntry(filepath.Join(from, "base.tar"), func(name string, h *tar.Header, body io.Reader) error {
			if strings.HasPrefix(name, "usr/share/") && !strings.HasSuffix(name, "/copyright") || strings.HasPrefix(name, "var/") {
				return nil
			}
			return copyEntry(tw, h, body)
		})
		if err != nil {
			return err
		}
		return site.write(tw)
	})
}
