package images

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"mllab.local/internal/fault"
)

// Measured disk space of a full build, in bytes: the images, temporary binaries
// and, from source, Go's own caches.
const (
	SourceDisk   = 16 << 30
	RegistryDisk = 6 << 30
)

// checkFree returns a fault.Usage if the free bytes at dir are too few for the missing images.
func checkFree(dir string, p plan, free uint64) error {
	need := uint64(RegistryDisk)
	if p.source.Name() == "source" {
		need = SourceDisk
	}
	// Missing images need their share of the space.
	need = need * uint64(len(p.missing)) / uint64(len(table))
	if free < need {
		return fault.Usage("free some space, or name another folder with --cache-dir",
			"%d images need about %.1f GB in %s, but %.1f GB are free", len(p.missing), float64(need)/1e9, dir, float64(free)/1e9)
	}
	return nil
}

// withSpaceHint returns err, with what to do if it is that of a full disk.
func withSpaceHint(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fault.Hinted(err, "free some space, or name another folder with --cache-dir; what was made stays in the cache")
	}
	return err
}

// Free returns the free bytes for this user at path, or at its first existing parent. A file system that has no limit, such as
// a tmpfs of size 0, has the most bytes of all.
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
	if fs.Blocks == 0 {
		return math.MaxInt64, nil
	}
	return uint64(fs.Bavail) * uint64(fs.Bsize), nil
}
