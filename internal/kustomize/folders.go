package kustomize

import (
	"fmt"
	"os"
	"path"
	"path/filepath"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// Folders builds folders below root, an absolute path on the disk, into one
// stream of YAML documents, in a namespace if one is given.
//
// Errors: kustomize's own; a folder that needs a file outside of root, or a
// program.
func Folders(root, namespace string, folders ...string) ([]byte, error) {
	// A kustomization in a folder of its own lists them: root may be read-only.
	dir, err := os.MkdirTemp("", "kustomize-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	const link = "root" // kustomize accepts only relative paths, and takes a path with an @ for a URL
	if err := os.Symlink(root, filepath.Join(dir, link)); err != nil {
		return nil, err
	}
	over := types.Kustomization{Namespace: namespace}
	for _, f := range folders {
		over.Resources = append(over.Resources, path.Join(link, f))
	}
	text, err := yaml.Marshal(over)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, konfig.DefaultKustomizationFileName()), text, 0o600); err != nil {
		return nil, err
	}
	inside := &sealed{FileSystem: filesys.MakeFsOnDisk()}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(inside, dir)
	if inside.refused != nil {
		err = inside.refused
	}
	if err != nil {
		return nil, fmt.Errorf("building %v: %w", folders, err)
	}
	return built.AsYaml()
}
