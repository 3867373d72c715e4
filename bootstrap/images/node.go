package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"mllab.local/internal/oci"
	"mllab.local/internal/run"
	"mllab.local/manifests"
)

// nodeComponent is the table's row of the node image's base: kind's node image
// without the images inside.
const nodeComponent = "node"

// nodeConfig follows the end of kind's images/base/Dockerfile.
var nodeConfig = v1.Config{
	Env:        []string{"container=docker", debianPath},
	Entrypoint: []string{"/usr/local/bin/entrypoint", "/sbin/init"},
	StopSignal: "SIGRTMIN+3",
}

// unwanted are units of a Debian archive that must not run in a node, as
// kind's images/base/Dockerfile removes them. "*" stands for a whole folder.
var unwanted = []string{
	"usr/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
	"usr/lib/systemd/system/multi-user.target.wants/*",
	"etc/systemd/system/*.wants/*",
	"usr/lib/systemd/system/local-fs.target.wants/*",
	"usr/lib/systemd/system/sockets.target.wants/*udev*",
	"usr/lib/systemd/system/sockets.target.wants/*initctl*",
	"usr/lib/systemd/system/basic.target.wants/*",
}

// debianRoot returns a layer with the whole archive, as a node's root file system.
func debianRoot(dir, archive string, _ []string) (v1.Layer, error) {
	return debianLayer(dir, archive, nil, func(name string, _ *tar.Header) bool {
		return !slices.ContainsFunc(unwanted, func(pattern string) bool {
			ok, _ := path.Match(pattern, name) // the patterns are well-formed
			return ok
		})
	})
}

// nodeBase adds kind's own files to the binaries of a node built from source.
func (b *built) nodeBase(ctx context.Context, files tree, containerdDir string) error {
	spec, err := b.containerSpec(ctx, containerdDir)
	if err != nil {
		return err
	}
	files["/etc/containerd/cri-base.json"] = node{mode: 0o644, data: spec}
	return nodeUpstream(files)
}

// nodeUpstream adds the files that kind's images/base/Dockerfile copies and
// changes.
func nodeUpstream(files tree) error {
	if err := embedTree(files, manifests.FS, "upstream/kind-base"); err != nil {
		return fmt.Errorf("kind's node files are not part of this binary: build it with `make build` (%w)", err)
	}
	for p, n := range files {
		if strings.HasPrefix(p, "/usr/local/bin/") || strings.HasPrefix(p, "/kind/bin/") {
			n.mode = 0o755
			files[p] = n
		}
	}
	// As kind's build does, set the pause image that kubeadm uses.
	config := files["/etc/containerd/config.toml"]
	config.data = regexp.MustCompile(`registry\.k8s\.io/pause:[0-9.]+`).ReplaceAll(config.data, []byte(pauseImage))
	files["/etc/containerd/config.toml"] = config
	files["/kind/version"] = node{mode: 0o644, data: []byte(KubeVersion)}
	files["/etc/systemd/journald.conf.d/kind.conf"] = node{mode: 0o644, data: []byte("[Journal]\nReadKMsg=no\n")}
	files["/etc/kubernetes/manifests"] = node{mode: 0o755, dir: true}
	files["/usr/sbin/init"] = node{link: "/lib/systemd/systemd"}
	for _, unit := range []string{"kubelet", "containerd", "undo-mount-hacks"} {
		files["/etc/systemd/system/multi-user.target.wants/"+unit+".service"] = node{link: "/etc/systemd/system/" + unit + ".service"}
	}
	// binfmt entries are global to the kernel.
	files["/etc/systemd/system/systemd-binfmt.service"] = node{link: "/dev/null"}
	return nil
}

// containerSpec returns the output of `ctr oci spec` of the node's containerd,
// without the resource limits, which would override those of the engine. It does
// not add kind's hook that hides the host's product ID from containers: that runs a
// shell at each container's start, and a lab does not need it.
func (b *built) containerSpec(ctx context.Context, containerdDir string) ([]byte, error) {
	out, err := run.Output(ctx, b.run, path.Join(containerdDir, "ctr"), "oci", "spec")
	if err != nil {
		return nil, err
	}
	var spec map[string]any
	if err := json.Unmarshal([]byte(out), &spec); err != nil {
		return nil, fmt.Errorf("ctr oci spec: %w", err)
	}
	if process, ok := spec["process"].(map[string]any); ok {
		delete(process, "rlimits")
	}
	return json.Marshal(spec)
}

// nodeFiles returns mllab's own files of a node, whatever its base.
func nodeFiles() (tree, error) {
	files := tree{}
	return files, embedTree(files, manifests.Node, "node")
}

func embedTree(files tree, from fs.FS, root string) error {
	return fs.WalkDir(from, root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(from, name)
		files[strings.TrimPrefix(name, root)] = node{mode: 0o644, data: data}
		return err
	})
}

// nodeImage assembles the node image in dir: base, mllab's files, what etcd has, and
// all images, unpacked.
func nodeImage(ctx context.Context, dir string, base v1.Image, list map[string]v1.Image) (v1.Image, error) {
	files, err := nodeFiles()
	if err != nil {
		return nil, err
	}
	etcd, err := etcdFiles(dir)
	if err != nil {
		return nil, err
	}
	maps.Copy(files, etcd)
	ours, err := newLayer(dir, files.write)
	if err != nil {
		return nil, err
	}
	preloaded, err := preload(ctx, dir, list)
	if err != nil {
		return nil, err
	}
	below, err := base.Layers()
	if err != nil {
		return nil, err
	}
	cfg, err := base.ConfigFile()
	if err != nil {
		return nil, err
	}
	return oci.Image(append(append(below, ours), preloaded...), cfg.Config, cfg.Architecture)
}
