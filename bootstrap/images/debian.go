package images

import (
	"archive/tar"
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"mllab.local/internal/folder"
	"mllab.local/internal/run"
)

// debianSuite is the Debian release of the node. Its systemd still supports
// cgroup v1.
const debianSuite = "bookworm"

// debian builds one archive of nodePackages with mmdebstrap, which verifies
// Debian's signatures with the host's archive keyring, and returns its path. It
// keeps the archive in the cache until the package list changes.
func (b *built) debian(ctx context.Context, work string) (string, error) {
	kept := filepath.Join(b.cache.dir, "debian-"+shortHash(debianSuite, nodePackages...)+".tar")
	if _, err := os.Stat(kept); err == nil {
		return kept, nil
	}
	if err := folder.NoLink(kept); err != nil { // one that leads nowhere
		return "", err
	}
	tmp := filepath.Join(work, "debian.tar")
	return kept, b.step("debian "+debianSuite, "made", "building the Debian archive", debianHint, func(update func(string)) error {
		err := b.mmdebstrap(ctx, tmp, nodePackages, update, "--variant=minbase",
			// A third of the archive is manuals, which the node does not need.
			"--dpkgopt=path-exclude=/usr/share/man/*",
			"--dpkgopt=path-exclude=/usr/share/locale/*",
			"--dpkgopt=path-exclude=/usr/share/doc/*",
			"--dpkgopt=path-include=/usr/share/doc/*/copyright")
		if err != nil {
			return err
		}
		return os.Rename(tmp, kept)
	})
}

// unpack unpacks packages and their dependencies into an archive, with
// mmdebstrap. That verifies Debian's signatures and runs no maintainer script, and
// leaves dpkg's status empty: recordPackages fills it.
func (b *built) unpack(ctx context.Context, archive string, packages []string, update func(string)) error {
	return b.mmdebstrap(ctx, archive, packages, update, "--variant=extract", "--extract-hook="+recordPackages)
}

// mmdebstrap makes an archive of packages and their dependencies.
func (b *built) mmdebstrap(ctx context.Context, archive string, packages []string, update func(string), more ...string) error {
	return b.run.Run(ctx, run.Cmd{
		Path: "mmdebstrap",
		Args: append(more, "--format=tar", "--architectures="+b.goarch(), // Debian has Go's names for both
			"--include="+strings.Join(packages, ","), debianSuite, archive),
		Env:    []string{"SOURCE_DATE_EPOCH=0"},
		Stderr: run.EachLine(func(line string) { update(strings.TrimPrefix(line, "I: ")) }),
	})
}

const recordPackages = `for deb in "$1"/var/cache/apt/archives/*.deb; do dpkg-deb --field "$deb" Package Version Architecture; echo; done >>"$1/` + dpkgStatus + `"`

// eachDebianEntry calls f for every entry of a Debian archive. Names have no
// leading "./" and no trailing slash.
func eachDebianEntry(archive string, f func(name string, h *tar.Header, body io.Reader) error) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	err = eachEntry(bufio.NewReaderSize(file, 1<<20), func(h *tar.Header, body io.Reader) error {
		name := strings.TrimPrefix(path.Clean(h.Name), "/")
		if name == "." || strings.HasPrefix(name, "dev/") {
			return nil // the runtime provides /dev
		}
		if err := f(name, h, body); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(archive), err)
	}
	return nil
}

func copyEntry(tw *tar.Writer, h *tar.Header, body io.Reader) error {
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(tw, body)
	return err
}

// debianLayer returns a layer with the entries of an archive for which keep returns true, and more files.
func debianLayer(dir, archive string, more tree, keep func(name string, h *tar.Header) bool) (v1.Layer, error) {
	return newLayer(dir, func(tw *tar.Writer) error {
		err := eachDebianEntry(archive, func(name string, h *tar.Header, body io.Reader) error {
			if !keep(name, h) {
				return nil
			}
			return copyEntry(tw, h, body)
		})
		if err != nil {
			return err
		}
		return more.write(tw)
	})
}

// debianSubset returns a layer with the files of the named packages: a base image
// without a shell or a package manager, but with the files that the packages'
// maintainer scripts created.
func debianSubset(dir, archive string, packages []string) (v1.Layer, error) {
	records, err := debianRecords(archive, func(name string) bool { return slices.Contains(packages, name) })
	if err != nil {
		return nil, err
	}
	want := map[string]bool{}
	for _, p := range packages {
		want[p] = true
	}
	keep := map[string]bool{
		"bin": true, "sbin": true, "lib": true, "lib64": true, "tmp": true,
		"etc/passwd": true, "etc/group": true, "etc/ld.so.cache": true,
	}
	const lists = "var/lib/dpkg/info/"
	err = eachDebianEntry(archive, func(name string, _ *tar.Header, body io.Reader) error {
		pkg, ok := strings.CutSuffix(strings.TrimPrefix(name, lists), ".list")
		pkg, _, _ = strings.Cut(pkg, ":")
		if !ok || !strings.HasPrefix(name, lists) || !want[pkg] {
			return nil
		}
		delete(want, pkg)
		lines := bufio.NewScanner(body)
		for lines.Scan() {
			keep[mergedUsr(strings.TrimPrefix(path.Clean(lines.Text()), "/"))] = true
		}
		return lines.Err()
	})
	if err != nil {
		return nil, err
	}
	for p := range want {
		return nil, fmt.Errorf("package %s is not in the Debian archive", p)
	}
	return debianLayer(dir, archive, records, func(name string, h *tar.Header) bool {
		artifact := strings.HasPrefix(name, "etc/alternatives/") || strings.HasPrefix(h.Linkname, "/etc/alternatives/") ||
			strings.HasPrefix(name, "etc/ssl/certs/")
		manual := strings.HasPrefix(name, "usr/share/doc/") && !strings.HasSuffix(name, "/copyright")
		return (keep[name] || artifact) && !manual
	})
}

// mergedUsr maps a path in a package's list to its place since Debian merged
// /bin, /sbin and /lib into /usr.
func mergedUsr(p string) string {
	first, _, nested := strings.Cut(p, "/")
	switch first {
	case "bin", "sbin", "lib", "lib64":
		if nested {
			return "usr/" + p
		}
	}
	return p
}
