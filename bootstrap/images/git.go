package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"mllab.local/internal/fault"
)

// gitArchive is the file in a work folder that gitBase reads.
const gitArchive = "git.tar"

// gitPackages are unpacked with their dependencies.
var gitPackages = []string{"git"}

// gitFiles matches the paths of the files that the lab's Git server needs: git,
// its libraries, and their licenses. The package also needs Perl and curl, but for
// commands that no server runs.
var gitFiles = regexp.MustCompile(`^(` + strings.Join([]string{
	`usr/lib/git-core/git`, `usr/lib/git-core/git-http-backend`,
	`(usr/)?lib(64)?/([^/]+/)?(ld-linux[^/]*|libc\.so\.6|libpcre2-8\.so\.[^/]*|libz\.so\.[^/]*)`,
	`usr/share/doc/(git|libc6|libpcre2-8-0|zlib1g)/copyright`,
}, "|") + `)$`)

// git unpacks Debian's git.
func (b *built) git(ctx context.Context, work string) (string, error) {
	task := b.report.Step("git")
	archive := filepath.Join(work, gitArchive)
	if err := b.unpack(ctx, archive, gitPackages, task.Update); err != nil {
		err = fault.Hinted(fmt.Errorf("building the Git image: %w", err), "`mllab doctor` checks what source builds need")
		task.Fail(err)
		return "", err
	}
	task.Done("made")
	return archive, nil
}

// onGit builds a component's image with the git of an upstream image.
func (b *built) onGit(work string, c Component, from v1.Image) (v1.Image, error) {
	archive := filepath.Join(work, gitArchive)
	f, err := os.Create(archive)
	if err != nil {
		return nil, err
	}
	files := mutate.Extract(from)
	_, err = io.Copy(f, files)
	if err := errors.Join(err, files.Close(), f.Close()); err != nil {
		return nil, err
	}
	base, err := gitBase(work, archive)
	if err != nil {
		return nil, err
	}
	top := tree{}
	if err := c.Build.addOwn(top, work); err != nil {
		return nil, err
	}
	layer, err := newLayer(work, top.write)
	if err != nil {
		return nil, err
	}
	return newImage([]v1.Layer{base, layer}, c.Build.config(), b.goarch())
}

// gitBase returns the layer of git. It fails if the archive has no git.
func gitBase(dir, archive string) (v1.Layer, error) {
	missing := map[string]bool{"usr/lib/git-core/git": true, "usr/lib/git-core/git-http-backend": true}
	records, err := debianRecords(archive, func(name string) bool { return gitFiles.MatchString("usr/share/doc/" + name + "/copyright") })
	if err != nil {
		return nil, err
	}
	layer, err := newLayer(dir, func(tw *tar.Writer) error {
		err := eachDebianEntry(archive, func(name string, h *tar.Header, body io.Reader) error {
			merged := h.Typeflag == tar.TypeSymlink && (name == "lib" || name == "lib64") // has the loader
			if !merged && !gitFiles.MatchString(name) {
				return nil
			}
			delete(missing, name)
			return copyEntry(tw, h, body)
		})
		if err != nil {
			return err
		}
		return records.write(tw)
	})
	for name := range missing {
		err = errors.Join(err, fmt.Errorf("the archive has no /%s", name))
	}
	return layer, err
}
