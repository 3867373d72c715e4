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
)

// gitArchive is the file in a work folder that gitBase reads.
const gitArchive = "git.tar"

var gitPackages = []string{"git"}

// gitFiles matches the paths of the files that the lab's Git server needs: git,
// its libraries, and their licenses. The package also needs Perl and curl, but for
// commands that no server runs.
var gitFiles = regexp.MustCompile(`^(` + strings.Join([]string{
	`usr/lib/git-core/git`, `usr/lib/git-core/git-http-backend`,
	`(usr/)?lib(64)?/([^/]+/)?(ld-linux[^/]*|libc\.so\.6|libpcre2-8\.so\.[^/]*|libz\.so\.[^/]*)`,
	`usr/share/doc/(git|libc6|libpcre2-8-0|zlib1g)/copyright`,
}, "|") + `)$`)

func (b *built) git(ctx context.Context, work string) (string, error) {
	archive := filepath.Join(work, gitArchive)
	return archive, b.step("git", "made", "building the Git image", debianHint, func(update func(string)) error {
		return b.unpack(ctx, archive, gitPackages, update)
	})
}

// onGit builds a component's image with the git of an upstream image.
func (b *built) onGit(ctx context.Context, work string, c Component, from v1.Image) (v1.Image, error) {
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
	parts, err := c.Build.ownParts(work)
	if err != nil {
		return nil, err
	}
	parts[gitModule] = archive
	return b.assemble(ctx, c, parts, work)
}

// gitBase returns the layer of git. It fails if the archive has no git.
func gitBase(dir, archive string) (v1.Layer, error) {
	missing := map[string]bool{"usr/lib/git-core/git": true, "usr/lib/git-core/git-http-backend": true}
	records, err := debianRecords(archive, func(name string) bool { return gitFiles.MatchString("usr/share/doc/" + name + "/copyright") })
	if err != nil {
		return nil, err
	}
	layer, err := debianLayer(dir, archive, records, func(name string, h *tar.Header) bool {
		delete(missing, name)
		merged := h.Typeflag == tar.TypeSymlink && (name == "lib" || name == "lib64") // has the loader
		return merged || gitFiles.MatchString(name)
	})
	for name := range missing {
		err = errors.Join(err, fmt.Errorf("the archive has no /%s", name))
	}
	return layer, err
}
