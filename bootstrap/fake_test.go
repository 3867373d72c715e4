package bootstrap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mllab.local/addons"
	"mllab.local/bootstrap/images"
	"mllab.local/internal/kube"
	"mllab.local/internal/proxy"
	"mllab.local/internal/report"
	"mllab.local/internal/run"
)

// world is a machine in memory: podman with its records, kind, the image cache and the lab's API.
type world struct {
	t            *testing.T
	containers   []container
	dead         map[string]bool // containers whose processes are gone although the record says up
	volumes      map[string]string
	images       []string
	network      bool
	otherNodes   []string // of kind clusters with another state folder
	users        []string // other containers on kind's network
	onNode       []string // images in the node's containerd
	calls        []string // of the engine, those that change something
	failing      map[string]error
	env          map[string]string
	machine      machine
	installs     int
	installErr   error
	gitops       bool     // of the last install
	outOfGit     []string // addons that somebody took out of the lab's Git
	awaitErr     error
	cordoned     string // node
	addonErr     map[string]error
	verifyErr    map[string]error
	building     func() error // makes the images that the core does not need
	afterCore    func()       // called when the core's addons are verified, before the others are
	rejected     []proxy.Rejection
	troubles     kube.Trouble
	unready      []addons.Unready
	created      []string // configurations given to kind
	createErr    []error  // one for each creation, nil for success
	duringKind   func()
	removing     func()        // before a container is removed, if it is set
	watched      atomic.Bool   // a node's kubelet and etcd
	blockKind    bool          // kind comes back only when it is interrupted
	serving      chan struct{} // if any, closed when addons are being applied
	written      []string      // what went into the engine or the node
	node         images.Node
	portErr      error         // of listening on a port
	forgotten    []int         // ports whose connections the kernel was to forget
	awaitSince   time.Time     // of the last wait for the node
	startedAt    time.Time     // of its container
	sampleErr    error         // of a request from outside
	kubeletFails chan struct{} // closed when it begins to
	journal      []string      // the kubelet's
	etcdLog      []string
	nodeLines    []string // of followNode, one every three minutes
	kindText     string   // of kind's log
}

const testRef = "localhost/mllab-node:abc"

func newWorld(t *testing.T) *world {
	im := map[string]string{"kube-apiserver": "registry.k8s.io/kube-apiserver:v1.36.5"}
	for _, a := range addons.All() {
		for _, c := range a.Images {
			im[c] = "kind.local/" + c + ":1"
		}
	}
	return &world{
		t: t, dead: map[string]bool{}, volumes: map[string]string{}, failing: map[string]error{}, env: map[string]string{}, addonErr: map[string]error{}, verifyErr: map[string]error{},
		machine: goodMachine(), node: images.Node{Ref: testRef, Source: "source", Images: im},
	}
}

// goodMachine is one that nothing is wrong with.
func goodMachine() machine {
	tools := map[string]bool{}
	for _, t := range []string{"go", "cc", "gcc", "mmdebstrap", "python3", "pip", "runc", "seccomp.h", "pkg-config", "keyring"} {
		tools[t] = true
	}
	return machine{
		OS: "linux", Root: true, Cgroup: "v2", SysResource: true, Nofile: 1 << 20, Nproc: 1 << 16, PidMax: 1 << 15,
		InotifyInstances: 1024, InotifyWatches: 1 << 20, MemoryAvailable: 16 * gib, CPUs: 4, LibModules: true, Tools: tools,
		CacheFree: 100 * gib, EngineFree: 100 * gib, EngineDisk: true,
	}
}

func (w *world) deps() deps {
	return deps{
		run: run.Func(w.podman),
		lookPath: func(program string) (string, error) {
			if program == "podman" {
				return "/usr/bin/podman", nil
			}
			return "", exec.ErrNotFound
		},
		getenv:   func(k string) string { return w.env[k] },
		setenv:   func(k, v string) error { w.env[k] = v; return nil },
		machine:  func(context.Context, UpOptions, *engine, int) machine { return w.machine },
		freePort: func() (int, error) { return 40123, nil },
		listen:   func(int) error { return w.portErr },
		forget:   func(port int) { w.forgotten = append(w.forgotten, port) },
		resolve: func(_ context.Context, o images.Options) (images.Node, error) {
			if w.building != nil {
				o.Ready(images.Node{Ref: testRef, Source: "source", Images: w.node.Images})
				return w.node, w.building()
			}
			return w.node, nil
		},
		write: func(n images.Node, _ context.Context, out io.Writer) error {
			_, err := io.WriteString(out, "image "+n.Ref)
			return err
		},
		archive: func(_ images.Node, _ context.Context, names []string, out io.Writer) error {
			_, err := io.WriteString(out, strings.Join(names, " "))
			return err
		},
		render: func(list []addons.Addon, _ addons.Images) ([]addons.Rendered, error) {
			var all []addons.Rendered
			for _, a := range list {
				a.Verify = func(context.Context, addons.Env, func(string)) error { return w.verifyErr[a.Name] }
				all = append(all, addons.Rendered{Addon: a})
			}
			return all, nil
		},
		cluster: func(e *engine, name, kubeconfig string, log func(string)) cluster {
			log(w.kindText)
			return &fakeKind{w, name, kubeconfig}
		},
		lab: func(string) (lab, error) { return w, nil },
	}
}

func (w *world) await(ctx context.Context, since time.Time, _ func(string)) (string, error) {
	if !since.IsZero() { // else two wait at a time
		w.awaitSince = since
	}
	if w.awaitErr != nil {
		return "", w.awaitErr
	}
	return "v1.36.5", ctx.Err()
}

func (w *world) install(ctx context.Context, gitops bool, _ string, pods addons.Use, list []addons.Rendered, _ report.Reporter) ([]addons.Result, error) {
	if w.serving != nil {
		close(w.serving)
	}
	if err := pods(ctx, addons.Env{}, func(string) {}); err != nil {
		return nil, err
	}
	w.installs++
	w.gitops = gitops
	var results []addons.Result
	for i, a := range list {
		if i == len(addons.Core()) && w.afterCore != nil {
			w.afterCore()
		}
		if err := a.Verify(ctx, addons.Env{}, func(string) {}); err != nil {
			return results, err
		}
		if gitops && slices.Contains(w.outOfGit, a.Name) {
			continue
		}
		action := "unchanged"
		if w.installs == 1 {
			action = "created"
		}
		results = append(results, addons.Result{Name: a.Name, Changes: []kube.Change{{Object: "Namespace/" + a.Name, Action: action}}})
	}
	return results, errors.Join(w.installErr, ctx.Err())
}

func (w *world) ready(_ context.Context, _ bool, a addons.Addon, _ addons.Images) error {
	return w.addonErr[a.Name]
}

func (w *world) ask(_ context.Context, gateway, addon string) (string, string, error) {
	if addon != "sample" {
		return "", "", nil
	}
	return "GET " + gateway, "200 from sample", w.sampleErr
}

func (w *world) requests(context.Context) (kube.Requests, error) {
	return kube.Requests{Cordoned: w.cordoned, CPU: 700, CPUCapacity: 2000, Memory: 1 << 30, MemoryCapacity: 24 << 30}, nil
}

func (w *world) fluxUnready(context.Context) ([]addons.Unready, error) {
	return w.unready, w.addonErr["flux"]
}
func (w *world) rejections(context.Context) ([]proxy.Rejection, error) {
	return w.rejected, w.addonErr["istiod"]
}
func (w *world) trouble(context.Context) (kube.Trouble, error) { return w.troubles, nil }
func (w *world) followed(context.Context) (string, error)      { return "main@sha1:abc", w.addonErr["lab"] }

// fakeKind makes the container and the volume that kind would make.
type fakeKind struct {
	w                *world
	name, kubeconfig string
}

func (k *fakeKind) create(ctx context.Context, config, image string) error {
	w := k.w
	w.created = append(w.created, config)
	port := 0
	for _, l := range strings.Split(config, "\n") {
		_, _ = fmt.Sscanf(strings.TrimSpace(l), "hostPort: %d", &port)
	}
	w.add(container{ID: "id-" + k.name, Name: nodeName(k.name), Image: image, Status: "up", Port: port})
	w.volumes["vol-"+k.name] = nodeName(k.name)
	w.network = true
	if w.duringKind != nil {
		w.duringKind()
	}
	if w.blockKind {
		<-ctx.Done()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(w.createErr) > 0 {
		err := w.createErr[0]
		w.createErr = w.createErr[1:]
		if err != nil {
			return err
		}
	}
	for _, ref := range w.node.Images {
		w.onNode = append(w.onNode, ref)
	}
	return k.writeKubeconfig()
}

func (k *fakeKind) serving(context.Context, int) (lab, error) { return k.w, nil }

func (k *fakeKind) writeKubeconfig() error {
	return writeFile(k.kubeconfig, fmt.Appendf(nil, `
clusters: [{name: kind-%[1]s, cluster: {server: "https://127.0.0.1:%[2]d"}}]
contexts: [{name: kind-%[1]s, context: {cluster: kind-%[1]s, user: kind-%[1]s}}]
users: [{name: kind-%[1]s}]
`, k.name, len(k.w.created)))
}

func (k *fakeKind) load(_ context.Context, write func(io.Writer) error) error {
	var b strings.Builder
	err := write(&b)
	k.w.written = append(k.w.written, "node: "+b.String())
	return err
}

func (w *world) add(c container) { w.containers = append(w.containers, c) }

// podman answers like podman 4.3.1.
func (w *world) podman(ctx context.Context, c run.Cmd) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	line := strings.Join(c.Args, " ")
	for prefix, err := range w.failing {
		if strings.HasPrefix(line, prefix) {
			return err
		}
	}
	add := func(lines ...string) error {
		_, err := io.WriteString(c.Stdout, strings.Join(lines, "\n")+"\n")
		return err
	}
	find := func(name string) int {
		return slices.IndexFunc(w.containers, func(c container) bool { return c.Name == name || c.ID == name })
	}
	last := c.Args[len(c.Args)-1]
	switch {
	case strings.HasPrefix(line, "info"):
		data, err := os.ReadFile(filepath.Join("testdata", "podman-info.json"))
		if err != nil {
			return err
		}
		return add(string(data))
	case line == "ps -a --quiet --filter label="+clusterLabel:
		return add(w.otherNodes...)
	case strings.HasPrefix(line, "ps -a --quiet --filter ancestor="):
		var users []string
		for _, c := range w.containers {
			if strings.HasSuffix(line, "="+c.Image) {
				users = append(users, c.ID)
			}
		}
		return add(users...)
	case strings.HasPrefix(line, "ps -a --quiet --filter network="):
		users := slices.Clone(w.users)
		for _, c := range w.containers {
			users = append(users, c.ID)
		}
		return add(users...)
	case strings.HasPrefix(line, "ps -a --no-trunc --filter label="):
		var lines []string
		for _, c := range w.containers {
			if strings.Contains(line, "cluster="+strings.TrimSuffix(c.Name, "-control-plane")+" ") {
				lines = append(lines, psLine(c))
			}
		}
		return add(lines...)
	case strings.HasPrefix(line, "ps -a --no-trunc --filter name="), strings.HasPrefix(line, "container inspect"):
		if strings.Contains(line, "StartedAt") {
			return add(w.startedAt.Format(`"` + time.RFC3339Nano + `"`))
		}
		return add("")
	case strings.HasPrefix(line, "exec") && last == "true":
		if i := find(c.Args[1]); i < 0 || w.containers[i].Status != "up" || w.dead[c.Args[1]] {
			return errors.New("cannot exec in a stopped container")
		}
		return nil
	case strings.HasSuffix(line, followNode):
		w.watched.Store(true)
		told := make(chan error, 1)
		go func() { _, err := io.Copy(io.Discard, c.Stdin); told <- err }()
		for {
			select {
			case <-w.kubeletFails:
				_, err := io.WriteString(c.Stdout, crashed)
				return errors.Join(err, <-told)
			case <-time.After(3 * time.Minute):
				if len(w.nodeLines) == 0 {
					continue
				}
				if _, err := io.WriteString(c.Stdout, w.nodeLines[0]); err != nil {
					return err
				}
				w.nodeLines = w.nodeLines[1:]
			case err := <-told: // to end
				return err
			}
		}
	case strings.HasSuffix(line, "systemctl is-active kubelet"):
		return add("active")
	case strings.Contains(line, "/etcd/*.log"):
		return add(w.etcdLog...)
	case strings.Contains(line, "journalctl"), strings.HasPrefix(line, "logs "):
		return add(w.journal...)
	case strings.Contains(line, " ctr "):
		return add(w.onNode...)
	case strings.Contains(line, "memory.current"):
		return add("1000", "total_inactive_file 400")
	case strings.HasPrefix(line, "image inspect"):
		if !slices.Contains(w.images, last) {
			return errors.New("image not known")
		}
		return nil
	case strings.HasPrefix(line, "images"):
		return add(w.images...)
	case strings.HasPrefix(line, "network inspect"):
		if !w.network {
			return errors.New("network not found")
		}
		return nil
	case strings.HasPrefix(line, "volume ls"):
		var names []string
		for v, label := range w.volumes {
			if last == "label="+label {
				names = append(names, v)
			}
		}
		return add(names...)
	}
	// The rest changes something.
	w.calls = append(w.calls, line)
	switch {
	case c.Args[0] == "start":
		w.containers[find(last)].Status = "up"
	case c.Args[0] == "kill":
	case c.Args[0] == "rm":
		if w.removing != nil {
			w.removing()
		}
		if i := find(last); i >= 0 {
			w.containers = slices.Delete(w.containers, i, i+1)
		}
	case strings.HasPrefix(line, "volume rm"):
		delete(w.volumes, last)
	case strings.HasPrefix(line, "network rm"):
		w.network = false
	case c.Args[0] == "rmi":
		w.images = slices.DeleteFunc(w.images, func(i string) bool { return i == last })
	case c.Args[0] == "load":
		data, err := io.ReadAll(c.Stdin)
		if err != nil {
			return err
		}
		w.written = append(w.written, "engine: "+string(data))
		w.images = append(w.images, strings.TrimPrefix(string(data), "image "))
	default:
		w.t.Errorf("unexpected call: podman %s", line)
	}
	return nil
}

func psLine(c container) string {
	status := map[string]string{"up": "Up 3 minutes ago", "exited": "Exited (137) 2 minutes ago", "created": "Created"}[c.Status]
	ports := ""
	if c.Port != 0 {
		ports = fmt.Sprintf("127.0.0.1:%d->30080/tcp, 127.0.0.1:37747->6443/tcp", c.Port)
	}
	return strings.Join([]string{c.ID, c.Name, c.Image, cmp.Or(status, c.Status), ports}, "\t")
}

// options are those of a call in this world, with fresh folders.
func (w *world) options() UpOptions {
	return UpOptions{Port: DefaultPort, Options: Options{State: filepath.Join(w.t.TempDir(), "state"), Cache: filepath.Join(w.t.TempDir(), "cache")}}
}

// down are the options of a Down of what an Up with o made.
func (o UpOptions) down() DownOptions { return DownOptions{Options: o.Options, Engine: o.Engine} }

// purge is down with --purge.
func (o UpOptions) purge() DownOptions {
	d := o.down()
	d.Purge = true
	return d
}

// clean fails the test unless nothing is left of any cluster.
func (w *world) clean(o UpOptions) {
	w.t.Helper()
	if len(w.containers) > 0 || len(w.volumes) > 0 {
		w.t.Errorf("left in the engine: %v %v", w.containers, w.volumes)
	}
	if files, _ := filepath.Glob(filepath.Join(o.State, "*", "*")); len(files) > 0 {
		w.t.Errorf("left in the state folder: %v", files)
	}
}
