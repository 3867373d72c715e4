package kustomize

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mllab.local/internal/kube"
)

// disk is files below a folder that nobody may write to, as in a module cache.
func disk(t *testing.T, files map[string]string) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, text := range files {
		at := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	mode := func(m fs.FileMode) {
		for _, at := range append(entries(t, root), "") {
			if info, err := os.Stat(filepath.Join(root, at)); err == nil && info.IsDir() {
				if err := os.Chmod(filepath.Join(root, at), m); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	mode(0o555)
	t.Cleanup(func() { mode(0o755) })
	return root
}

// entries are all files and folders below root.
func entries(t *testing.T, root string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(at string, _ fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(root, at); rel != "." {
			all = append(all, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// times are the times of all that is below root, and of root: a file that came
// and went has changed its folder's, even where root may write everywhere.
func times(t *testing.T, root string) (all []string) {
	t.Helper()
	for _, at := range append(entries(t, root), "") {
		info, err := os.Stat(filepath.Join(root, at))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, at+" "+info.ModTime().String())
	}
	return all
}

var upstream = map[string]string{
	"config/manager/kustomization.yaml": "resources: [manager.yaml]\nnamePrefix: the-\n",
	"config/manager/manager.yaml":       "{apiVersion: v1, kind: ServiceAccount, metadata: {name: manager, namespace: system}}\n",
	"config/rbac/kustomization.yaml":    "resources: [role.yaml, ../crd]\n",
	"config/rbac/role.yaml":             "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: role}}\n",
	"config/crd/kustomization.yaml":     "resources: [set.yaml]\n",
	"config/crd/set.yaml":               "{apiVersion: v1, kind: ConfigMap, metadata: {name: set, namespace: system}}\n",
	"config/none/readme.txt":            "",
	"config/far/kustomization.yaml":     "resources: ['https://example.com/x.yaml']\n",
	"config/above/kustomization.yaml":   "resources: [../rbac, ../far]\n",
}

func built(t *testing.T, text []byte) string {
	t.Helper()
	objs, err := kube.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	return list(objs)
}

func TestFoldersAreBuiltTogetherInOneNamespace(t *testing.T) {
	root := disk(t, upstream)
	before := times(t, root)
	for namespace, want := range map[string]string{
		"lab": "ClusterRole/role ConfigMap/lab/set ServiceAccount/lab/the-manager",
		"":    "ClusterRole/role ConfigMap/system/set ServiceAccount/system/the-manager",
	} {
		text, err := Folders(root, namespace, "config/manager", "config/rbac")
		if err != nil {
			t.Fatal(err)
		}
		if got := built(t, text); got != want {
			t.Errorf("in namespace %q built were %s, want %s", namespace, got, want)
		}
	}
	if after := times(t, root); !slices.Equal(before, after) {
		t.Errorf("upstream's folder was written to: %v, and was %v", after, before)
	}
}

func TestFoldersLeaveNothingInATemporaryFolderThatMayBeALink(t *testing.T) {
	root, real := disk(t, upstream), filepath.Join(t.TempDir(), "deep", "deeper")
	link := filepath.Join(t.TempDir(), "tmp")
	if err := os.MkdirAll(real, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", link)
	if _, err := Folders(root, "", "config/rbac"); err != nil {
		t.Error(err)
	}
	if left := entries(t, real); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestAFolderThatCannotBeBuiltIsNamed(t *testing.T) {
	for folder, cause := range map[string]string{
		"config/absent": "config/absent",
		"config/none":   "unable to find one of 'kustomization.yaml'",
		"config/above":  `it names "https://example.com/x.yaml", which mllab does not fetch`,
	} {
		text, err := Folders(disk(t, upstream), "", "config/rbac", folder)
		if err == nil || text != nil || !strings.Contains(err.Error(), folder) || !strings.Contains(err.Error(), cause) {
			t.Errorf("%s: got %s, %v", folder, text, err)
		}
	}
}
