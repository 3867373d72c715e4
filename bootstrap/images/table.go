// Package images gets the container images, and puts them on the node.
//
// The component table (this file) names every image of the lab. A Source turns
// a component into an image: Built compiles it from pinned Go modules, PyPI
// wheels and Debian packages, Registry pulls upstream's. Both store it in one
// local OCI layout, with a key of all its inputs. The node image has every other
// image unpacked inside, so that a new cluster pulls, copies and unpacks nothing.
package images

import (
	"fmt"
	"strings"
)

// Component is a row of the image table: an image's upstream reference and its
// build from source.
type Component struct {
	Name string
	// Upstream is the reference in a registry; empty for mllab's own images.
	Upstream string
	// Node is the reference that kubeadm uses on the node, so that the image is part
	// of every cluster. Empty means kind.local/NAME:TAG, a prefix that Knative never
	// resolves remotely.
	Node string
	// Aliases are more references on the node: defaults of clients, which then need
	// no registry.
	Aliases []string
	Build   Recipe
}

// Recipe is how a component's image is built: files over a base. Paths are
// absolute paths in the image.
type Recipe struct {
	Debian     []string // packages whose files are the base; none means scratch
	Python     bool     `json:",omitempty"` // the base is Debian's Python with the wheels of module python
	Git        bool     `json:",omitempty"` // the base is Debian's git
	Binaries   map[string]Binary
	Files      map[string]string // path in the image -> name of an embedded file
	Entrypoint []string
	Cmd        []string `json:",omitempty"`
	Env        []string
	User       string
	Dirs       []string // empty directories, mode 1777
	WorkingDir string   `json:",omitempty"` // one of Dirs
}

// Binary is one executable and the module that builds it. A module compiles
// all its commands at once.
type Binary struct{ Module, Name string }

type flags struct {
	cgo     bool
	tags    string
	ldflags string
	// pattern names the packages to build; empty means the module's tool lines.
	pattern string
}

// module is how one nested Go module under modules/ is compiled.
type module struct {
	flags
	// patch is a module that is compiled from a copy with more files. files maps
	// their names, next to the module's pins, to folders in the copy. edits maps
	// files of the copy to a text in them, and what is there instead.
	patch string
	files map[string]string
	edits map[string][2]string
}

// KubeVersion is the version of Kubernetes in the node image.
const KubeVersion = "v1.36.5"

const (
	pauseImage          = "registry.k8s.io/pause:3.10.2"
	istioVersion        = "1.31.0"
	envoyVersion        = "1.39.3"
	argoVersion         = "v4.1.4"
	prometheusVersion   = "3.16.0"
	alertmanagerVersion = "0.35.0"
)

// kubeLDFlags stamps the version that kubeadm and kubelet compare with each
// other; upstream's build does the same in hack/lib/version.sh.
var kubeLDFlags = func() string {
	var b strings.Builder
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		fmt.Fprintf(&b, " -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=1 -X %[1]s.gitMinor=%[3]s -X %[1]s.gitTreeState=clean", pkg, KubeVersion, strings.Split(KubeVersion, ".")[1])
	}
	return b.String()
}()

// moduleOrder is the order of compiling: the core lab's modules first, because a
// lab begins with these; and of each the largest first, so that no large one is
// left at the end.
var moduleOrder = []string{
	"kubernetes", "istio", "knative-serving", "containerd", "coredns", "knative-net-gateway-api", "etcd", "runc", "cni-plugins", "pause",
	"flux", "argo-workflows", "prometheus", "alertmanager", "kserve", "flagger", "trainer", "registry",
}

var modules = map[string]module{
	"kubernetes":              {flags: flags{ldflags: kubeLDFlags}},
	"istio":                   {flags: flags{ldflags: " -X istio.io/istio/pkg/version.buildVersion=" + istioVersion + " -X istio.io/istio/pkg/version.buildStatus=Clean"}},
	"knative-serving":         {},
	"knative-net-gateway-api": {},
	"containerd":              {flags: flags{tags: "no_aufs,no_zfs,no_btrfs,no_devmapper", ldflags: " -X github.com/containerd/containerd/v2/version.Version=v2.3.7"}},
	"coredns":                 {flags: flags{pattern: "."}},
	"flux":                    {},
	"trainer":                 {},
	"kserve":                  {},
	// The published module lacks a file that its executor needs on Linux, and two
	// methods that Kubernetes 0.36 needs. Its controller waits for ever for what a
	// step's pod reports that died before it could: a step counts as completed only
	// once it has reported.
	"argo-workflows": {
		patch: "github.com/argoproj/argo-workflows/v4",
		files: map[string]string{"signal_linux.go": "workflow/executor/osspecific", "store_bookmark.go": "server/workflow/store"},
		edits: map[string][2]string{"workflow/controller/taskresult.go": {`label == "false" && old.Completed()`, `label == "false" && old.Phase.Completed()`}},
		flags: flags{ldflags: " -X github.com/argoproj/argo-workflows/v4.version=" + argoVersion},
	},
	"flagger": {},
	// Compiled with one service discovery and without its pages, which are not
	// in its module.
	"prometheus": {flags: flags{tags: "remove_all_sd,enable_kubernetes_sd", ldflags: " -X github.com/prometheus/common/version.Version=" + prometheusVersion}},
	// Compiled without its pages, which are generated and not in its module.
	"alertmanager": {
		patch: "github.com/prometheus/alertmanager",
		files: map[string]string{"web.go": "ui"},
		flags: flags{ldflags: " -X github.com/prometheus/common/version.Version=" + alertmanagerVersion},
	},
	"registry":    {flags: flags{pattern: "."}},
	"etcd":        {},
	"runc":        {flags: flags{cgo: true, tags: "seccomp", ldflags: " -X main.version=1.5.3"}},
	"cni-plugins": {},
	"pause":       {flags: flags{pattern: "."}},
}

// debianPath is the PATH of images that are based on Debian.
const debianPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// iptablesPackages are the packages, with dependencies, that kube-proxy and
// Istio's init container need for iptables. They come from the node's archive.
var iptablesPackages = []string{
	"base-files", "libc6", "libgcc-s1", "gcc-12-base", "netbase", "ca-certificates",
	"iptables", "nftables", "libnftables1", "libnftnl11", "libxtables12", "libip4tc2", "libip6tc2",
	"libmnl0", "libnfnetlink0", "libnetfilter-conntrack3", "libedit2", "libbsd0", "libmd0",
	"libtinfo6", "libgmp10", "libjansson4", "conntrack", "kmod", "libkmod2", "libzstd1",
	"liblzma5", "libssl3", "libcrypt1",
}

// nodePackages are the Debian packages of kind's node image. The list follows
// kind's images/base/Dockerfile less its storage clients; bookworm, because its
// systemd 252 still boots on cgroup v1 hosts.
var nodePackages = []string{
	"systemd", "conntrack", "iptables", "nftables", "iproute2", "ethtool", "util-linux", "mount",
	"kmod", "libseccomp2", "pigz", "e2fsprogs", "ca-certificates", "jq", "procps", "netbase",
}

// table is every image of the lab. Tags of the control plane are the ones that
// kubeadm of this Kubernetes asks for.
var table = []Component{
	{
		Name: nodeComponent, Upstream: "docker.io/kindest/node:" + KubeVersion, Node: "localhost/mllab-node",
		Build: Recipe{Debian: nodePackages, Binaries: map[string]Binary{
			"/usr/local/bin/containerd":              {"containerd", "containerd"},
			"/usr/local/bin/containerd-shim-runc-v2": {"containerd", "containerd-shim-runc-v2"},
			"/usr/local/bin/ctr":                     {"containerd", "ctr"},
			"/usr/local/sbin/runc":                   {"runc", "runc"},
			"/opt/cni/bin/host-local":                {"cni-plugins", "host-local"},
			"/opt/cni/bin/loopback":                  {"cni-plugins", "loopback"},
			"/opt/cni/bin/ptp":                       {"cni-plugins", "ptp"},
			"/opt/cni/bin/portmap":                   {"cni-plugins", "portmap"},
			"/usr/bin/kubelet":                       {"kubernetes", "kubelet"},
			"/usr/bin/kubeadm":                       {"kubernetes", "kubeadm"},
			"/usr/bin/kubectl":                       {"kubernetes", "kubectl"},
		}},
	},
	kube("kube-apiserver", nil),
	kube("kube-controller-manager", nil),
	kube("kube-scheduler", nil),
	kube("kube-proxy", iptablesPackages),
	{
		Name: "etcd", Upstream: "registry.k8s.io/etcd:3.6.8-0", Node: "registry.k8s.io/etcd:3.6.8-0",
		Build: Recipe{Binaries: map[string]Binary{"/usr/local/bin/etcd": {"etcd", "server"}}, Env: []string{"PATH=/usr/local/bin"}, Dirs: []string{"/tmp"}},
	},
	{
		Name: "coredns", Upstream: "registry.k8s.io/coredns/coredns:v1.14.2", Node: "registry.k8s.io/coredns/coredns:v1.14.2",
		Build: Recipe{Binaries: map[string]Binary{"/coredns": {"coredns", "coredns"}}, Entrypoint: []string{"/coredns"}},
	},
	{
		Name: "pause", Upstream: pauseImage, Node: pauseImage,
		Build: Recipe{Binaries: map[string]Binary{"/pause": {"pause", "pause"}}, Entrypoint: []string{"/pause"}, User: "65535:65535"},
	},
	{
		Name: "istio-pilot", Upstream: "docker.io/istio/pilot:" + istioVersion,
		Build: Recipe{
			Binaries:   map[string]Binary{"/usr/local/bin/pilot-discovery": {"istio", "pilot-discovery"}},
			Files:      map[string]string{"/var/lib/istio/envoy/envoy_bootstrap_tmpl.json": "envoy_bootstrap.json"},
			Entrypoint: []string{"/usr/local/bin/pilot-discovery"}, User: "1337:1337", Dirs: []string{"/tmp"},
		},
	},
	{
		Name: "istio-proxyv2", Upstream: "docker.io/istio/proxyv2:" + istioVersion,
		Build: Recipe{
			Debian: iptablesPackages,
			Binaries: map[string]Binary{
				"/usr/local/bin/pilot-agent": {"istio", "pilot-agent"},
				"/usr/local/bin/envoy":       {"envoy", "envoy"},
			},
			Files:      map[string]string{"/var/lib/istio/envoy/envoy_bootstrap_tmpl.json": "envoy_bootstrap.json"},
			Env:        []string{"ISTIO_META_ISTIO_PROXY_SHA=envoy-" + envoyVersion, "ISTIO_META_ISTIO_VERSION=" + istioVersion, debianPath},
			Entrypoint: []string{"/usr/local/bin/pilot-agent"}, User: "1337:1337",
			Dirs: []string{"/tmp", "/var/lib/istio/data", "/etc/istio/proxy"},
		},
	},
	knative("activator"), knative("autoscaler"), knative("controller"), knative("webhook"), knative("queue"),
	{
		Name: "knative-net-gateway-api", Upstream: "gcr.io/knative-releases/knative.dev/net-gateway-api/cmd/controller:v1.21.0",
		Build: static("knative-net-gateway-api", "controller"),
	},
	withCertificates(flux("source-controller", "v1.9.6")), // the only one that may connect to hosts outside of the cluster, if a user configures it
	flux("kustomize-controller", "v1.9.6"),
	flux("helm-controller", "v1.6.2"),
	{
		Name: "jobset", Upstream: "registry.k8s.io/jobset/jobset:v0.12.0",
		Build: manager("trainer", "jobset"),
	},
	{
		Name: "trainer", Upstream: "ghcr.io/kubeflow/trainer/trainer-controller-manager:v2.3.0",
		Build: manager("trainer", "trainer-controller-manager"),
	},
	{
		Name: "kserve-controller", Upstream: "docker.io/kserve/kserve-controller:v0.20.0",
		Build: manager("kserve", "manager"),
	},
	{
		Name: "argo-workflow-controller", Upstream: "quay.io/argoproj/workflow-controller:" + argoVersion,
		Build: static("argo-workflows", "workflow-controller"),
	},
	{
		Name: "argo-executor", Upstream: "quay.io/argoproj/argoexec:" + argoVersion,
		Build: Recipe{
			Binaries: map[string]Binary{
				"/bin/argoexec": {"argo-workflows", "argoexec"},
				"/bin/kubectl":  {"kubernetes", "kubectl"}, // resource templates call it
			},
			Env: []string{"PATH=/bin"}, Entrypoint: []string{"argoexec"}, Dirs: []string{"/tmp"},
		},
	},
	{
		Name: "registry", Upstream: "docker.io/library/registry:3.1.2",
		Build: inBin("registry", "registry"),
	},
	{
		Name: "prometheus", Upstream: "quay.io/prometheus/prometheus:v" + prometheusVersion,
		Build: inBin("prometheus", "/bin/prometheus"),
	},
	{
		Name: "alertmanager", Upstream: "quay.io/prometheus/alertmanager:v" + alertmanagerVersion,
		Build: inBin("alertmanager", "/bin/alertmanager"),
	},
	{
		Name: "flagger", Upstream: "ghcr.io/fluxcd/flagger:1.44.0",
		Build: static("flagger", "flagger"),
	},
	{
		Name: "python", Upstream: "docker.io/library/python:" + pythonVersion + ".14-slim-bookworm", // the wheels go on it
		Aliases: pythonAliases(),
		Build: Recipe{
			Python:   true,
			Binaries: map[string]Binary{"/usr/local/bin/modelcar": {"modelcar", "modelcar"}},
			Env: []string{
				debianPath, "HOME=" + pythonHome, "PYTHONUNBUFFERED=1",
				// Use one thread each: the lab's pods share few cores.
				"OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1",
				// Ignore any index that a client names: a lab sends nothing out.
				"PIP_NO_INDEX=1",
			},
			User: "65532:65532", Cmd: []string{"python3"}, Dirs: []string{"/tmp", pythonHome}, WorkingDir: pythonHome,
		},
	},
	{
		Name:  "agent",
		Build: static("agent", "agent"),
	},
	{
		Name: "gitserver", Upstream: "docker.io/library/buildpack-deps:bookworm-scm", // mllab takes only git from it
		Build: withGit(static("gitserver", "gitserver")),
	},
	{
		Name:  "modelcar",
		Build: static("modelcar", "modelcar"),
	},
	{
		Name:  "runner",
		Build: static("notebook-runner", "notebook-runner"),
	},
	{
		Name:  "sampleapp",
		Build: static("sampleapp", "sampleapp"),
	},
}

func kube(name string, debian []string) Component {
	ref := "registry.k8s.io/" + name + ":" + KubeVersion
	return Component{
		Name: name, Upstream: ref, Node: ref,
		Build: Recipe{
			Debian:   debian,
			Binaries: map[string]Binary{"/usr/local/bin/" + name: {"kubernetes", name}},
			Env:      []string{debianPath},
		},
	}
}

func knative(name string) Component {
	return Component{
		Name:     "knative-" + name,
		Upstream: "gcr.io/knative-releases/knative.dev/serving/cmd/" + name + ":v1.23.0",
		Build:    static("knative-serving", name),
	}
}

func flux(name, version string) Component {
	return Component{
		Name:     "flux-" + name,
		Upstream: "ghcr.io/fluxcd/" + name + ":" + version,
		Build:    static("flux", name),
	}
}

func withCertificates(c Component) Component {
	c.Build.Debian = []string{"ca-certificates"}
	return c
}

func withGit(r Recipe) Recipe {
	r.Git, r.Env = true, []string{"PATH=/usr/lib/git-core"}
	return r
}

// static is an image of one static binary, run by a user without rights.
func static(mod, name string) Recipe { return staticAt("/usr/local/bin/"+name, mod, name) }

// manager is static at the path that upstream's manifests call.
func manager(mod, name string) Recipe { return staticAt("/manager", mod, name) }

// inBin is static in /bin, which is in its PATH.
func inBin(name, entrypoint string) Recipe {
	r := staticAt("/bin/"+name, name, name)
	r.Env, r.Entrypoint = []string{"PATH=/bin"}, []string{entrypoint}
	return r
}

func staticAt(path, mod, name string) Recipe {
	return Recipe{Binaries: map[string]Binary{path: {mod, name}}, Entrypoint: []string{path}, User: "65532:65532", Dirs: []string{"/tmp"}}
}

// Select returns the cluster's own components and the named ones, in the
// table's order. No names means all.
func Select(names []string) ([]Component, error) {
	want := map[string]bool{}
	for _, n := range names {
		want[n] = true
	}
	var out []Component
	for _, c := range table {
		if len(names) == 0 || c.Node != "" || want[c.Name] {
			out = append(out, c)
		}
		delete(want, c.Name)
	}
	for n := range want {
		return nil, fmt.Errorf("component %q is not in the image table", n)
	}
	return out, nil
}
