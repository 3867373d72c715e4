package images

import (
	"fmt"
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
	free, err := freeDisk(dir)
	if err != nil {
		return fmt.Errorf("free disk of %s: %w", dir, err)
	}
	return checkFree(dir, p, free)
}

func checkFree(dir string, p plan, free int64) error {
	need := int64(registryDisk)
	if p.source.Name() == "source" {
		need = sourceDisk
	}
	// A part needs its share; the last image alone needs little.
	need = need * int64(len(p.missing)) / int64(len(p.list))
	if free < need {
		return fault.Usage("free some, or name another folder with --cache",
			"making %d images needs about %.1f GB under %s, and %.1f GB are free", len(p.missing), float64(need)/1e9, dir, float64(free)/1e9)
	}
	return nil
}

func freeDisk(dir string) (int64, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return 0, err
	}
	return int64(fs.Bavail) * int64(fs.Bsize), nil
}
