package images

import (
	"archive/tar"
	"bytes"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// embedded has the files that `make build` packs: modules.tar, and the programs of mllab that run in containers.
//
//go:embed all:embedded
var embedded embed.FS

// embeddedProgram reports whether a module is a program of mllab itself, compiled
// with it.
func embeddedProgram(name string) bool {
	_, err := fs.Stat(embedded, "embedded/"+name)
	return err == nil
}

func embeddedFile(name string) ([]byte, error) {
	data, err := embedded.ReadFile("embedded/" + name)
	if err != nil {
		return nil, fmt.Errorf("%s is not part of this binary: build it with `make build`", name)
	}
	return data, nil
}

// moduleFiles returns the pinned files (go.mod, go.sum, sources, or
// requirements.txt) of one module by file name.
func moduleFiles(module string) (map[string][]byte, error) {
	archive, err := embeddedFile("modules.tar")
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	err = eachEntry(bytes.NewReader(archive), func(h *tar.Header, body io.Reader) (err error) {
		if name, ok := strings.CutPrefix(h.Name, module+"/"); ok {
			files[name], err = io.ReadAll(body)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("modules.tar: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("module %q is not pinned under bootstrap/images/modules", module)
	}
	return files, nil
}

func unpackModule(module, dir string) error {
	files, err := moduleFiles(module)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
