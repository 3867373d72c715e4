package images

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"mllab.local/internal/fault"
)

// What a source makes on disk, in bytes, measured on a full build: the images,
// the binaries beside them while it runs, and, from source, Go's own caches.
const (
	sourceDisk   = 16 << 30
	registryDisk = 6 << 30
)

// checkDisk refuses to start what would fill the disk half an hour later.
func checkDisk(dir string, p plan) error {
	free, err := Free(dir)
	if err != nil {
		return err
	}
	return checkFree(dir, p, int64(free))
}

func checkFree(dir string, p plan, free int64) error {
	need := int64(registryDisk)
	if p.source.Name() == "source" {
		need = sourceDisk
	}
	// A part needs its share; the last image alone needs little.
	need = need * int64(len(p.missing)) / int64(len(p.list))
	if free < need {
		return fault.Usage("free some, or name another folder with --cache-dir",
			"making %d images needs about %.1f GB under %s, and %.1f GB are free", len(p.missing), float64(need)/1e9, dir, float64(free)/1e9)
	}
	return nil
}

// Free is how many bytes this user may still write at path, or where it would be made.
func Free(path string) (uint64, error) {
	for path != filepath.Dir(path) {
		if _, err := os.Stat(path); err == nil {
			break
		}
		path = filepath.Dir(path)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(path, &fs); err != nil {
		return 0, fmt.Errorf("reading the free space at %s: %w", path, err)
	}
	return uint64(fs.Bavail) * uint64(fs.Bsize), nil
}
