package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
)

// volume is a folder that is a filesystem of its own, or empty.
type volume string

// maxFilled bounds the filesystem that a fault fills, in bytes: it is never a machine's disk.
const maxFilled = 64 << 20

// space returns how large the filesystem is, and how much of it is free, in bytes.
func (v volume) space() (size, free uint64, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(string(v), &s); err != nil {
		return 0, 0, fmt.Errorf("asking for the space of %s: %w", v, err)
	}
	return s.Blocks * uint64(s.Bsize), s.Bavail * uint64(s.Bsize), nil
}

// measure adds the space to what the metrics have, under the names that node_exporter gives it.
// https://github.com/prometheus/node_exporter
func (v volume) measure(registry *prometheus.Registry) {
	for name, of := range map[string]func(size, free uint64) uint64{
		"node_filesystem_size_bytes":  func(size, _ uint64) uint64 { return size },
		"node_filesystem_avail_bytes": func(_, free uint64) uint64 { return free },
	} {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: name, Help: "Of the volume's filesystem, in bytes.", ConstLabels: prometheus.Labels{"mountpoint": string(v)},
		}, func() float64 {
			size, free, err := v.space()
			if err != nil {
				return math.NaN()
			}
			return float64(of(size, free))
		}))
	}
}

// fill makes the volume percent full by a file; with 0 the file is removed.
func (v volume) fill(percent float64) error {
	if v == "" {
		return errors.New("want VOLUME set")
	}
	file := filepath.Join(string(v), "fill")
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	size, free, err := v.space()
	switch {
	case err != nil:
		return err
	case size > maxFilled:
		return fmt.Errorf("want a VOLUME of at most %d bytes, got %d", maxFilled, size)
	}
	if more := percent/100*float64(size) - float64(size-free); more > 0 {
		return os.WriteFile(file, make([]byte, int(more)), 0o600)
	}
	return nil
}
