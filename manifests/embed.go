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

// Node is what every node's root file system gets from us, below node/.
//
//go:embed all:node
var Node embed.FS

// Addons has the files of addons/ that mllab reads at run time. The build renders
// the others to upstream/.
//
//go:embed addons/*/verify.yaml addons/*/refused.yaml addons/istio/injected.yaml addons/git/follow.yaml addons/git/addon.yaml
var Addons embed.FS

// AlertRules are the rules by which Prometheus alerts, with places for what they compare with.
//
//go:embed alerts/rules.yaml
var AlertRules string

// NotebookRunner is the program that runs one step of a notebook.
//
//go:embed pipeline/run.py
var NotebookRunner []byte

// NotebookWorkflow is the template of a notebook's Workflow, and of the rights that it needs.
//
//go:embed pipeline/workflow.yaml
var NotebookWorkflow string

// NotebookOverlay is the kustomization of the folder to which a notebook's runner
// commits its model.
//
//go:embed pipeline/overlay.yaml
var NotebookOverlay []byte

// KindCluster is the template of kind's configuration.
//
//go:embed kind/cluster.yaml
var KindCluster string

// Scenarios is the YAML of the stories, one folder each below scenarios/.
//
//go:embed scenarios
var Scenarios embed.FS

// Upstream returns a rendered file, for example "knative.yaml". The error
// names the command that renders it.
func Upstream(name string) ([]byte, error) {
	data, err := FS.ReadFile("upstream/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Hinted(fmt.Errorf("manifests/upstream/%s was not rendered before this binary was built: run make build", name), "make build")
	}
	return data, err
}
