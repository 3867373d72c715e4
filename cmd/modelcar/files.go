package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// folder is the folder of a model's files in an image.
const folder = "models"

// maxSize limits the files of one model together, in bytes.
const maxSize = 1 << 30

type size int64

func (s *size) add(n int64) error {
	if n > maxSize-int64(*s) { // the sum could overflow: an archive may state any size
		return fmt.Errorf("the files must be at most %d MiB together", maxSize>>20)
	}
	*s += size(n)
	return nil
}

// file is a regular file that can be read repeatedly.
type file struct {
	name string // with slashes, relative
	mode int64
	size int64
	open func() (io.ReadCloser, error)
}

// regularFiles returns the files below root, always in the same order. It refuses anything but files and folders.
func regularFiles(root *os.Root) ([]file, error) {
	var list []file
	var total size
	err := fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return notRegular(name)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		list = append(list, file{name, 0o644, info.Size(), func() (io.ReadCloser, error) { return root.Open(name) }})
		return total.add(info.Size())
	})
	if err == nil && len(list) == 0 {
		err = errNoFiles
	}
	return list, err
}

var errNoFiles = errors.New("there are no files")

func notRegular(name string) error {
	return fmt.Errorf("%s must be a regular file or a folder", name)
}

// staging is the folder in a destination that has the files until all of them are written.
const staging = ".modelcar"

// place writes files into the folder dest, and creates it if necessary. It moves them to their places only after write
// has returned no error, so that an incomplete model changes nothing.
func place(dest string, write func(put func(name string, r io.Reader) error) error) error {
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dest) // so that no name can leave it
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.RemoveAll(staging); err != nil { // a killed process may have left it
		return err
	}
	defer root.RemoveAll(staging)

	names := map[string]bool{}
	err = write(func(name string, r io.Reader) error {
		if first, _, _ := strings.Cut(name, "/"); first == staging {
			return fmt.Errorf("%s: the name %s is reserved for modelcar", name, staging)
		}
		names[name] = true
		at := path.Join(staging, name)
		if err := root.MkdirAll(path.Dir(at), 0o755); err != nil {
			return err
		}
		f, err := root.OpenFile(at, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, r); err != nil {
			f.Close()
			return err
		}
		return f.Close()
	})
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return errNoFiles
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		if err := root.Rename(path.Join(staging, name), name); err != nil {
			return err
		}
	}
	return nil
}

func copyFiles(from, to string) error {
	fail := func(err error) error { return fmt.Errorf("copying %s to %s: %w", from, to, err) }
	root, err := os.OpenRoot(from)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	list, err := regularFiles(root)
	if err != nil {
		return fail(err)
	}
	err = place(to, func(put func(string, io.Reader) error) error {
		for _, f := range list {
			r, err := f.open()
			if err != nil {
				return err
			}
			err = put(f.name, r)
			r.Close()
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fail(err)
	}
	return nil
}
