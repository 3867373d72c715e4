package manifests

import "embed"

// Addons has the files of addons/ that mllab reads at run time. The build renders
// the others to upstream/.
//
//go:embed addons/*/verify.yaml addons/*/refused.yaml addons/istio/injected.yaml addons/git/follow.yaml addons/git/addon.yaml
var Addons embed.FS

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
