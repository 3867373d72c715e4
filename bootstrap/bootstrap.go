// Package bootstrap creates the cluster with the lab, and removes it.
//
// How mllab recognizes its own clusters. kind cannot label a node container for its caller. So mllab uses what the engine
// records about the container, whatever happens to mllab's files: kind's cluster label, an image named
// localhost/mllab-node, and the published node port 30080 of the gateway. mllab never touches a cluster of the same name
// that lacks one of these marks. The state folder has a record of each cluster: its phase, port and images. `down` removes
// a marked cluster without a record, but `up` does not use it.
//
// How mllab recognizes its own network. All kind clusters of an engine share the network "kind". The first `up` that finds
// no such network records in the state folder that mllab created it. `down` removes that network when no container uses
// it. A network that existed before stays.
package bootstrap

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
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

// Defaults of the options.
const (
	DefaultName    = "mllab"
	DefaultPort    = 8080
	DefaultMode    = "auto"
	DefaultTimeout = time.Hour // building all images takes up to 20 minutes on two cores
)

// Options say which lab a verb uses. Zero values are the defaults.
type Options struct {
	Name   string // of the cluster
	Cache  string // folder of the image cache
	State  string // state folder
	Report report.Reporter
}

// UpOptions are the options of Up, and of Plan and Doctor, which say what it would do. Zero values are the defaults, except
// that Port 0 picks a free port.
type UpOptions struct {
	Options
	Port      int      // of the gateway on 127.0.0.1
	PortGiven bool     // the user chose Port: a running cluster on another port is then an error, not a note
	Mode      string   // image source: auto, source, registry
	Mirror    string   // host that replaces every registry, for tests
	Core      bool     // only the small lab, and Addons; else the whole lab, and Addons
	Addons    []string // more addons
	GitOps    bool     // install the addons from the lab's own Git; a lab that does so keeps doing it
	Engine    string   // docker, podman, nerdctl; "" is that of the lab's record, or the first one that works
	Timeout   time.Duration
}

// DownOptions are the options of Down.
type DownOptions struct {
	Options
	Engine string // docker, podman, nerdctl; "" is that of the lab's record, or every one that works
	Purge  bool   // also remove the node images and the image cache
}

// Engines are the container engines that kind supports, in the order in which mllab tries them.
var Engines = []string{"docker", "podman", "nerdctl"}

// Modes are the values of UpOptions.Mode.
var Modes = []string{"auto", "source", "registry"}

// The node's host name is the cluster's name and "-control-plane". A host name has at most 63 characters.
var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$`)

// withDefaults returns o with defaults in place of zero values, or a fault.Usage.
func (o Options) withDefaults() (Options, error) {
	o.Name = cmp.Or(o.Name, DefaultName)
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
	if strings.ContainsRune(o.State, os.PathListSeparator) { // the kubeconfig is there, and KUBECONFIG is a list
		return o, fault.Usage("name another folder with --state-dir", "--state-dir must not contain %q, which separates the files of KUBECONFIG, got %s", os.PathListSeparator, o.State)
	}
	if !validName.MatchString(o.Name) {
		return o, fault.Usage("use a name such as --name lab-2", "--name must be at most 48 lower-case letters, digits and dashes, got %q", o.Name)
	}
	return o, nil
}

// withDefaults returns o with defaults in place of zero values, or a fault.Usage.
func (o UpOptions) withDefaults() (UpOptions, error) {
	o.Mode = cmp.Or(o.Mode, DefaultMode)
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	var err error
	if o.Options, err = o.Options.withDefaults(); err != nil {
		return o, err
	}
	return o, images.CheckMirror(o.Mirror)
}

// DefaultState returns mllab in $XDG_STATE_HOME, or in ~/.local/state (macOS: ~/Library/Application Support). Without HOME it returns a fault.Usage.
func DefaultState() (string, error) {
	below := filepath.Join(".local", "state")
	if runtime.GOOS == "darwin" {
		below = filepath.Join("Library", "Application Support")
	}
	return folder.Default(os.Getenv, "XDG_STATE_HOME", below, "name the folder with --state-dir")
}

// deps are the dependencies of the verbs outside this package. Tests replace them.
type deps struct {
	run      run.Runner
	os       string // of this machine, as Go names it
	lookPath func(program string) (string, error)
	getenv   func(string) string
	setenv   func(key, value string) error
	machine  func(ctx context.Context, o UpOptions, e *engine, port int) machine
	freePort func() (int, error)
	listen   func(port int) error // on 127.0.0.1, and closes the port again
	forget   func(port int)       // the connections to the node of before
	resolve  func(context.Context, images.Options) (images.Node, error)
	write    func(images.Node, context.Context, io.Writer) error // writes the node image as a docker-archive
	archive  func(images.Node, context.Context, []string, io.Writer) error
	render   func([]addons.Addon, addons.Images) ([]addons.Rendered, error)
	cluster  func(e *engine, name, kubeconfig string, progress func(string)) cluster
	lab      func(kubeconfig string) (lab, error)
}

// cluster has the operations that need kind.
type cluster interface {
	// create creates the cluster and its kubeconfig. When ctx ends, create returns as soon as kind has stopped.
	create(ctx context.Context, config, image string) error
	// serving returns when the API of a cluster that create is creating answers on that port.
	serving(ctx context.Context, port int) (lab, error)
	// writeKubeconfig writes the kubeconfig of a running node again.
	writeKubeconfig() error
	// load imports a docker-archive into the node's containerd.
	load(ctx context.Context, write func(io.Writer) error) error
}

// lab has the operations that need the cluster's API.
type lab interface {
	// await returns the node's Kubernetes version when the API answers and the node has reported ready since that time.
	// After a restart the API still has the conditions from before.
	await(ctx context.Context, since time.Time, reason func(string)) (version string, err error)
	// install applies the addons, or commits them to the lab's Git. Before it waits for an addon's pods it calls pods,
	// which returns when the node can run them.
	install(ctx context.Context, gitops bool, gateway string, pods addons.Use, list []addons.Rendered, r report.Reporter) ([]addons.Result, error)
	// ready waits until the addon's objects are ready, or until ctx ends.
	ready(ctx context.Context, gitops bool, a addons.Addon, im addons.Images) error
	// ask checks an addon once from outside the cluster. asked is "" if the addon has no such check.
	ask(ctx context.Context, gateway, addon string) (asked, answer string, err error)
	// followed returns the revision of the lab's Git that Flux has applied.
	followed(ctx context.Context) (revision string, err error)
	// fluxUnready returns the users' Flux objects that are not ready.
	fluxUnready(ctx context.Context) ([]addons.Unready, error)
	// rejections returns the proxies that reject their configuration.
	rejections(ctx context.Context) ([]proxy.Rejection, error)
	// requests returns the resource requests of the pods.
	requests(ctx context.Context) (kube.Requests, error)
	// trouble returns what helps to find a failure's cause, and what is secret in it.
	trouble(ctx context.Context) (kube.Trouble, error)
}

func realDeps() deps {
	p := deps{
		run: run.Exec{}, os: runtime.GOOS, lookPath: exec.LookPath, getenv: os.Getenv, setenv: os.Setenv, freePort: freePort, listen: listen,
		forget:  forgetConnections,
		resolve: images.Resolve, write: images.Node.Write, archive: images.Node.Archive, render: addons.Render, cluster: newKindCluster, lab: connect,
	}
	p.machine = func(ctx context.Context, o UpOptions, e *engine, port int) machine {
		return readMachine(ctx, p, o, e, port)
	}
	return p
}

// freePort picks a port below the ephemeral ones. An outgoing connection could otherwise have the port just when a stopped
// node is started again.
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

// The range of freePort. Linux uses ports from 32768 on for outgoing connections.
// https://docs.kernel.org/networking/ip-sysctl.html (ip_local_port_range)
const firstPort, ports = 20000, 10000

func url(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }
