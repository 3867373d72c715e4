// Package bootstrap takes a machine from nothing to a cluster with the lab on it, and back.
//
// Whose a cluster is. kind cannot put labels of its caller on a node container, so mllab's mark is what the engine
// keeps about that container from its creation to its removal, whatever happens to our files: kind's cluster label,
// an image named localhost/mllab-node, and the gateway's node port 30080 published. A cluster of that name without the
// mark is somebody else's and is never touched. What mllab itself has to remember (how far it came, the port, the
// images on the node) is in the state folder; a marked cluster without such a record is removed by `down`, but `up`
// does not build on it.
//
// Whose the network is. Every kind cluster of an engine shares the network "kind". The first `up` that finds none notes
// in the state folder that mllab made it; the `down` after which no container uses it any more removes it. A network
// that was there before stays.
package bootstrap

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"mllab.local/addons"
	"mllab.local/bootstrap/images"
	"mllab.local/internal/fault"
	"mllab.local/internal/folder"
	"mllab.local/internal/kube"
	"mllab.local/internal/proxy"
	"mllab.local/internal/report"
	"mllab.local/internal/run"
)

// Defaults of Options.
const (
	DefaultName    = "mllab"
	DefaultPort    = 8080
	DefaultMode    = "auto"
	DefaultTimeout = time.Hour // images built from nothing take up to 20 minutes on two cores
)

// Options is what all verbs take; zero values are the defaults, except that Port 0 picks a free port.
type Options struct {
	Name      string // of the cluster
	Port      int    // of the gateway on 127.0.0.1
	PortGiven bool   // Port was asked for by a person: a running cluster on another port is then an error, not a remark
	Mode      string // where images come from: auto, source, registry
	Mirror    string // another host for every registry, for tests
	Cache     string // image cache
	State     string // state folder
	Addons    []string
	GitOps    bool   // the addons come from the lab's own Git; a lab that has them from there keeps that
	Engine    string // docker, podman, nerdctl; "" is the first that works
	Timeout   time.Duration
	Purge     bool // Down: also the node images and the image cache
	Report    report.Reporter
}

// Engines are the container engines that kind can drive, in the order they are looked for.
var Engines = []string{"docker", "podman", "nerdctl"}

// Modes are the values of Options.Mode.
var Modes = []string{"auto", "source", "registry"}

// A cluster's name becomes a host name with "-control-plane" behind it, which may have 63 characters.
var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$`)

// withDefaults returns o with its zero values filled in, or a fault.Usage.
func (o Options) withDefaults() (Options, error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if o.Mode == "" {
		o.Mode = DefaultMode
	}
	var err error
	if o.Cache == "" {
		if o.Cache, err = images.DefaultCache(); err != nil {
			return o, err
		}
	}
	if o.State == "" {
		if o.State, err = DefaultState(); err != nil {
			return o, err
		}
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Report == nil {
		o.Report = report.Discard()
	}
	for _, dir := range []*string{&o.Cache, &o.State} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return o, fmt.Errorf("finding %s: %w", *dir, err)
		}
		*dir = abs
	}
	switch {
	case !validName.MatchString(o.Name):
		return o, fault.Usage("use up to 48 small letters, digits and dashes, such as --name lab-2", "cluster name %q is not valid", o.Name)
	case o.Port < 0 || o.Port > 65535:
		return o, fault.Usage("use --port 8080, or --port auto for a free one", "port %d is not between 1 and 65535", o.Port)
	case !slices.Contains(Modes, o.Mode):
		return o, fault.Usage("use --image-source auto, source or registry", "image source %q is not known", o.Mode)
	case o.Engine != "" && !slices.Contains(Engines, o.Engine):
		return o, fault.Usage("use --engine docker, podman or nerdctl", "engine %q is not known", o.Engine)
	}
	return o, nil
}

// DefaultState is mllab in $XDG_STATE_HOME, or in ~/.local/state. Without HOME it is a fault.Usage.
func DefaultState() (string, error) {
	return folder.Default(os.Getenv, "XDG_STATE_HOME", filepath.Join(".local", "state"), "name the folder with --state-dir")
}

// parts is everything outside this package that the verbs touch; tests replace it.
type parts struct {
	run      run.Runner
	look     func(program string) (string, error)
	getenv   func(string) string
	setenv   func(key, value string) error
	machine  func(ctx context.Context, o Options, e *engine, port int) machine
	freePort func() (int, error)
	listen   func(port int) error // on 127.0.0.1, for a moment
	resolve  func(context.Context, images.Options) (images.Node, error)
	write    func(images.Node, context.Context, io.Writer) error // the node image as a docker-archive
	archive  func(images.Node, context.Context, []string, io.Writer) error
	render   func([]addons.Addon, addons.Images) ([]addons.Rendered, error)
	cluster  func(e *engine, name, kubeconfig string, said func(string)) cluster
	lab      func(kubeconfig string) (lab, error)
}

// cluster is what only kind can do.
type cluster interface {
	// create makes the cluster and its kubeconfig; when ctx ends first it comes back as soon as kind has given up.
	create(ctx context.Context, config, image string) error
	// serving returns when the API on that port, of a cluster that create is making, answers.
	serving(ctx context.Context, port int) (lab, error)
	// writeKubeconfig writes it again for a node that runs.
	writeKubeconfig() error
	// load imports a docker-archive into the node's containerd.
	load(ctx context.Context, write func(io.Writer) error) error
}

// lab is what needs the cluster's API.
type lab interface {
	// await returns the node's Kubernetes version when the API answers and the node has reported ready since then:
	// after a restart the API still holds what was said before it.
	await(ctx context.Context, since time.Time, reason func(string)) (version string, err error)
	// install applies the addons, or commits them to the lab's Git. What has pods waits for pods to return: the node may
	// still be in the making.
	install(ctx context.Context, gitops bool, gateway string, pods addons.Use, list []addons.Rendered, r report.Reporter) ([]addons.Result, error)
	// ready returns nil when the addon's objects are; it waits as long as ctx lets it.
	ready(ctx context.Context, gitops bool, a addons.Addon, im addons.Images) error
	// ask asks an addon one question from outside, once; without a question asked is "".
	ask(ctx context.Context, gateway, addon string) (asked, answer string, err error)
	// followed returns the revision of the lab's Git that Flux has applied.
	followed(ctx context.Context) (revision string, err error)
	// fluxUnready returns what users of Flux wrote and is not ready.
	fluxUnready(ctx context.Context) ([]addons.Unready, error)
	// rejections returns which proxies refuse their configuration.
	rejections(ctx context.Context) ([]proxy.Rejection, error)
	// requests returns what the pods ask for.
	requests(ctx context.Context) (kube.Requests, error)
}

func realParts() parts {
	p := parts{
		run: run.Exec{}, look: exec.LookPath, getenv: os.Getenv, setenv: os.Setenv, freePort: freePort, listen: listen,
		resolve: images.Resolve, write: images.Node.Write, archive: images.Node.Archive, render: addons.Render, cluster: newKindCluster, lab: connect,
	}
	p.machine = func(ctx context.Context, o Options, e *engine, port int) machine {
		return readMachine(ctx, p, o, e, port)
	}
	return p
}

// freePort picks one below those that systems give to outgoing connections: one of these could have it just when a
// stopped node wants it back.
func freePort() (int, error) {
	var err error
	for range 100 {
		port := firstPort + rand.IntN(ports)
		if err = listen(port); err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("picking a free port from %d to %d: %w", firstPort, firstPort+ports-1, err)
}

// The ports that are picked from. Linux gives out those from 32768 on.
// https://docs.kernel.org/networking/ip-sysctl.html (ip_local_port_range)
const firstPort, ports = 20000, 10000

func url(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }
