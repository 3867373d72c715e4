package bootstrap

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"mllab.local/internal/run"
)

// engine is a container engine that answers.
type engine struct {
	run      run.Runner
	Name     string
	Version  string
	Arch     string // of its machine or virtual machine, as Go names it; empty if unknown
	Root     string // folder of its images and containers
	Runtime  string // podman's OCI runtime
	Rootless bool
	Network  string // that kind attaches nodes to
	// Variables are the environment variables, as KEY=VALUE, that select this engine. Misled is the error of an engine
	// that comes before this one but fails because of an environment variable.
	Variables []string
	Misled    error
	Memory    uint64 // bytes of its host or virtual machine
}

// podmanConf returns the settings that podman needs to start a node on this machine; "" if it needs none.
//
// Podman sets its own default limits. The kernel refuses limits above the hard limits of a process without
// CAP_SYS_RESOURCE (podman lowers nproc to pid_max first). crun refuses hybrid cgroups. A node also needs more than
// podman's 2048 threads.
func podmanConf(m machine, e *engine) string {
	var containers, eng string
	if !e.Rootless && !m.SysResource && m.Nofile > 0 && m.Nofile < 1<<20 {
		nproc := m.Nproc
		if m.PidMax > 0 {
			nproc = min(nproc, m.PidMax)
		}
		containers = fmt.Sprintf("[containers]\ndefault_ulimits = [\"nofile=%[1]d:%[1]d\", \"nproc=%[2]d:%[2]d\"]\npids_limit = 0\n", m.Nofile, nproc)
	}
	if m.OS == "linux" && m.Cgroup != "v2" && e.Runtime == "crun" && m.Tools["runc"] {
		eng = "[engine]\nruntime = \"runc\"\n"
	}
	return containers + eng
}

// prepare passes the settings of podmanConf to podman, also when kind runs it, in a file of mllab and an environment
// variable. It changes nothing in /etc. If the user has set CONTAINERS_CONF, prepare does nothing.
func (e *engine) prepare(p deps, s store, m machine) error {
	conf := podmanConf(m, e)
	if e.Name != "podman" || conf == "" || p.getenv("CONTAINERS_CONF") != "" {
		return nil
	}
	// https://github.com/containers/common/blob/main/docs/containers.conf.5.md: CONTAINERS_CONF replaces the
	// files. CONTAINERS_CONF_OVERRIDE adds to them, but old versions do not have it.
	key := "CONTAINERS_CONF_OVERRIDE"
	if major, _, _ := strings.Cut(e.Version, "."); len(major) == 1 && major < "5" {
		key = "CONTAINERS_CONF"
	}
	if err := writeFile(s.podmanConf(), []byte("# written by mllab for its own podman calls\n"+conf)); err != nil {
		return fmt.Errorf("writing %s: %w", s.podmanConf(), err)
	}
	return p.setenv(key, s.podmanConf())
}

func (e *engine) out(ctx context.Context, args ...string) (string, error) {
	return run.Output(ctx, e.run, e.Name, args...)
}

func (e *engine) lines(ctx context.Context, args ...string) ([]string, error) {
	out, err := e.out(ctx, args...)
	return strings.FieldsFunc(out, func(r rune) bool { return r == '\n' || r == '\r' }), err
}

type container struct {
	ID, Name, Image string
	Status          string // up, exited, created, ...: the first word of the status in `ps`
	Port            int    // host port of the gateway's node port; 0 if it is not published
}

const clusterLabel = "io.x-k8s.kind.cluster" // kind sets it on all its containers

// containers lists the containers with kind's label for the cluster, and any other with the node's name.
func (e *engine) containers(ctx context.Context, cluster string) ([]container, error) {
	var list []container
	for _, filter := range []string{"label=" + clusterLabel + "=" + cluster, "name=^" + nodeName(cluster) + "$"} {
		lines, err := e.lines(ctx, "ps", "-a", "--no-trunc", "--filter", filter, "--format", "{{.ID}}\t{{.Names}}\t{{.Image}}\t{{.Status}}\t{{.Ports}}")
		if err != nil {
			return nil, fmt.Errorf("listing the containers of cluster %s: %w", cluster, err)
		}
		for _, l := range lines {
			c := readContainer(l)
			if !slices.ContainsFunc(list, func(o container) bool { return o.ID == c.ID }) {
				if c.Port == 0 { // docker lists no ports of a stopped container
					c.Port = e.boundPort(ctx, c.ID)
				}
				list = append(list, c)
			}
		}
	}
	return list, nil
}

func readContainer(line string) container {
	f := append(strings.Split(line, "\t"), make([]string, 5)...)
	c := container{ID: f[0], Name: f[1], Image: f[2]}
	c.Status, _, _ = strings.Cut(strings.ToLower(f[3]), " ")
	for _, p := range strings.Split(f[4], ", ") {
		if host, inside, ok := strings.Cut(p, "->"); ok && inside == gatewayPort {
			c.Port, _ = strconv.Atoi(host[strings.LastIndex(host, ":")+1:])
		}
	}
	return c
}

// boundPort returns the port in the container's configuration, or 0.
func (e *engine) boundPort(ctx context.Context, id string) int {
	out, err := e.out(ctx, "container", "inspect", id)
	var list []struct {
		HostConfig struct {
			PortBindings map[string][]struct{ HostPort string }
		}
	}
	if err != nil || json.Unmarshal([]byte(out), &list) != nil || len(list) != 1 {
		return 0
	}
	for _, b := range list[0].HostConfig.PortBindings[gatewayPort] {
		if port, err := strconv.Atoi(b.HostPort); err == nil {
			return port
		}
	}
	return 0
}

// alive reports whether a command runs in the container. Podman's status can be "running" when all processes of the
// container have ended, or when their ids belong to other processes.
func (e *engine) alive(ctx context.Context, name string) bool {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	_, err := e.out(ctx, "exec", name, "true")
	return err == nil
}

// startedAt returns when a container was last started, or zero if that is unknown.
func (e *engine) startedAt(ctx context.Context, name string) (at time.Time) {
	out, err := e.out(ctx, "container", "inspect", "--format", "{{json .State.StartedAt}}", name)
	if err != nil || json.Unmarshal([]byte(out), &at) != nil {
		return time.Time{}
	}
	return at
}

// remove removes a container by force. If podman has lost track of its processes, the first attempt fails: podman waits for
// an exit that it never sees, and only then records that the container has ended.
func (e *engine) remove(ctx context.Context, id string) error {
	if e.Name == "podman" {
		_, _ = e.out(ctx, "kill", id) // podman's rm first waits ten seconds after SIGTERM; kill fails for a stopped container
	}
	var err error
	for range 3 {
		if _, err = e.out(ctx, "rm", "-f", "-v", id); err == nil || isNoContainer(err) {
			return nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return fmt.Errorf("removing container %s: %w", id, err)
}

// An engine is a program: what went wrong is in the words that it writes, and kind's own errors are words, too.

func isNoContainer(err error) bool {
	return strings.Contains(strings.ToLower(err.Error()), "no such container")
}

func isNameTaken(err error) bool {
	text := err.Error()
	return strings.Contains(text, "node(s) already exist") || strings.Contains(text, "name") && strings.Contains(text, "already in use")
}

// volumes lists the volumes that kind labeled with the node's name. With podman they outlive the container.
func (e *engine) volumes(ctx context.Context, node string) ([]string, error) {
	return e.lines(ctx, "volume", "ls", "--quiet", "--filter", "label="+node)
}

const kindNetwork = "kind"

// has reports whether the engine has a "network" or an "image" of that name.
func (e *engine) has(ctx context.Context, kind, name string) bool {
	_, err := e.out(ctx, kind, "inspect", name)
	return err == nil
}

// networkKey returns the network's name in made.json: the engine, and the network unless it is kind's default.
func (e *engine) networkKey() string {
	if e.Network == kindNetwork {
		return e.Name
	}
	return e.Name + "/" + e.Network
}

// removeNetwork removes a network unless a container, running or stopped, is attached to it.
func (e *engine) removeNetwork(ctx context.Context, name string) (removed bool, err error) {
	users, err := e.lines(ctx, "ps", "-a", "--quiet", "--filter", "network="+name)
	if err != nil || len(users) > 0 {
		return false, err
	}
	if !e.has(ctx, "network", name) {
		return true, nil
	}
	_, err = e.out(ctx, "network", "rm", name)
	return err == nil, err
}

// nodeImages lists the node images that mllab built.
func (e *engine) nodeImages(ctx context.Context) ([]string, error) {
	refs, err := e.lines(ctx, "images", "--format", "{{.Repository}}:{{.Tag}}")
	return slices.DeleteFunc(refs, func(r string) bool { return !strings.HasPrefix(r, nodeImagePrefix) }), err
}

func (e *engine) usesImage(ctx context.Context, ref string) (bool, error) {
	users, err := e.lines(ctx, "ps", "-a", "--quiet", "--filter", "ancestor="+ref)
	return len(users) > 0, err
}

// loadImage loads the docker-archive that write writes.
func (e *engine) loadImage(ctx context.Context, write func(io.Writer) error) error {
	return pipe(write, func(in io.Reader) error {
		return e.run.Run(ctx, run.Cmd{Path: e.Name, Args: []string{"load"}, Stdin: in})
	})
}

// pipe connects write to read. If write fails, pipe returns its error, which caused that of read.
func pipe(write func(io.Writer) error, read func(io.Reader) error) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := write(w)
		_ = w.CloseWithError(err)
		written <- err
	}()
	err := read(r)
	_ = r.Close()
	if werr := <-written; werr != nil && !errors.Is(werr, io.ErrClosedPipe) {
		return werr
	}
	return err
}

// nodeMemory returns the working set of the node in bytes: its memory without inactive file pages.
func (e *engine) nodeMemory(ctx context.Context, name string) (uint64, error) {
	const script = "cd /sys/fs/cgroup; cat memory.current memory/memory.usage_in_bytes 2>/dev/null; cat memory.stat memory/memory.stat 2>/dev/null; true"
	out, err := e.out(ctx, "exec", name, "sh", "-c", script)
	if err != nil {
		return 0, err
	}
	return workingSet(out)
}

func workingSet(out string) (uint64, error) {
	first, rest, _ := strings.Cut(out, "\n")
	used, err := strconv.ParseUint(strings.TrimSpace(first), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading the node's memory: %w", err)
	}
	for _, key := range []string{"\ntotal_inactive_file ", "\ninactive_file "} { // cgroup v1, v2
		if _, after, ok := strings.Cut("\n"+rest, key); ok {
			var idle uint64
			if _, err := fmt.Fscan(bytes.NewBufferString(after), &idle); err == nil && idle < used {
				return used - idle, nil
			}
		}
	}
	return used, nil
}

// nodeCPU returns the CPU time that the node has used since it was started, in seconds.
func (e *engine) nodeCPU(ctx context.Context, name string) (float64, error) {
	const script = "cd /sys/fs/cgroup; cat cpu.stat cpuacct/cpuacct.usage 2>/dev/null; true"
	out, err := e.out(ctx, "exec", name, "sh", "-c", script)
	if err != nil {
		return 0, err
	}
	return cpuSeconds(out)
}

// cpuSeconds reads cpu.stat of cgroup v2 ("usage_usec N", among others) or cpuacct.usage of v1, in nanoseconds.
func cpuSeconds(out string) (float64, error) {
	number, unit := strings.TrimSpace(out), 1e-9
	if _, after, v2 := strings.Cut("\n"+out, "\nusage_usec "); v2 {
		number, _, _ = strings.Cut(after, "\n")
		unit = 1e-6
	}
	n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading the node's CPU time: %w", err)
	}
	return float64(n) * unit, nil
}
