// Command pack prepares what mllab embeds for building images: the pinned
// modules as one archive (go:embed refuses folders that hold a go.mod) and the
// binaries of mllab's own programs. Run it from the repository's root.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

const (
	from = "bootstrap/images/modules"
	to   = "bootstrap/images/embedded"
)

// programs are the packages of this module that run in the lab. Each is
// embedded as a binary, for a row of the image table.
var programs = []string{"sampleapp", "cmd/agent", "cmd/gitserver", "cmd/modelcar", "cmd/notebook-runner"}

func main() {
	arch := runtime.GOARCH
	if len(os.Args) > 1 {
		arch = os.Args[1]
	}
	if err := pack(arch); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func pack(arch string) error {
	var archive bytes.Buffer
	tw := tar.NewWriter(&archive)
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if err := tw.WriteHeader(&tar.Header{Name: filepath.ToSlash(rel), Mode: 0o644, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err = tw.Write(data)
		return err
	})
	if err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return err
	}
	if err := writeIfChanged(filepath.Join(to, "modules.tar"), archive.Bytes(), 0o644); err != nil {
		return err
	}

	made := map[string]bool{"modules.tar": true, ".gitignore": true}
	var errs []error
	for _, dir := range programs {
		made[filepath.Base(dir)] = true
		errs = append(errs, compile(dir, arch))
	}
	old, err := os.ReadDir(to)
	for _, f := range old { // programs that are no more
		if !made[f.Name()] {
			errs = append(errs, os.Remove(filepath.Join(to, f.Name())))
		}
	}
	return errors.Join(append(errs, err)...)
}

// compile builds the program in dir for the node, whatever this machine is.
func compile(dir, arch string) error {
	binary, err := filepath.Abs(filepath.Join(to, filepath.Base(dir)))
	if err != nil {
		return err
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-mod=readonly", "-trimpath", "-gcflags=all=-dwarf=false", "-ldflags", "-s -w -buildid=", "-o", binary, ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOWORK=off")
	build.Stderr = os.Stderr
	return build.Run()
}

// writeIfChanged keeps the file's time when nothing changed, so that the Go
// build cache keeps what embeds it.
func writeIfChanged(path string, data []byte, mode fs.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return os.WriteFile(path, data, mode)
}
