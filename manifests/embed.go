// Package manifests holds every YAML file of the lab. Ours are committed. At build
// time manifests/render writes one file for each addon to upstream/: what its
// folder in addons/ makes of upstream's objects and ours.
package manifests

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"mllab.local/internal/fault"
)

// FS is upstream/, rendered from pinned modules, and charts/, which are ours.
// On a fresh clone upstream/ holds only its .gitignore, so that this compiles
// before anything is rendered; read its files with Upstream.
//
//go:embed all:charts all:upstream
var FS embed.FS

// Upstream returns a rendered file, for example "knative.yaml". The error
// names the command that renders it.
func Upstream(name string) ([]byte, error) {
	data, err := FS.ReadFile("upstream/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Hinted(fmt.Errorf("manifests/upstream/%s was not rendered before this binary was built: run make build", name), "make build")
	}
	return data, err
}
