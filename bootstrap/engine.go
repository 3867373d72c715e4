package bootstrap

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/run"
)

// engine is a container engine that answers.
type engine struct {
	run      run.Runner
	Name     string
	Version  string
	Arch     string // of its machine or virtual machine, as Go names it; empty if unknown
	Root     string // folder of its images and containers
	Cgroup   string // "v1" or "v2", as it sees it
	Runtime  string // podman's OCI runtime
	Rootless bool
	Network  string // that kind attaches nodes to
	// Variables are the environment variables, as KEY=VALUE, that select this engine. Misled is the error of an engine
	// that comes before this one but fails because of an environment variable.
	Variables []string
	Misled    error
	Memory    uint64 // bytes of its host or virtual machine
}

// engineError says why an engine cannot be used.
type engineError struct {
	name, what, fix string
	installed       bool
	misled          bool // by a variable of the environment, which somebody set on purpose
}

func (e *engineError) Error() string { return e.name + " " + e.what }

// providerVariable is kind's own variable that selects an engine.
const providerVariable = "KIND_EXPERIMENTAL_PROVIDER"

// findEngine returns the engine of --engine, else of the cluster's record, else of kind's own variable, else the first one
// of docker, podman and nerdctl that works. Errors are fault.Usage with the fix as the hint.
func findEngine(ctx context.Context, p deps, flag string, st *state) (*engine, error) {
	names, by := Engines, ""
	switch env := p.getenv(providerVariable); {
	case flag != "":
		names = []string{flag}
	case st != nil && st.Engine != "":
		names = []string{st.Engine}
	case env != "" && !slices.Contains(Engines, env):
		return nil, fault.Usage("unset "+providerVariable+", or set it to docker, podman or nerdctl", "%s must be docker, podman or nerdctl, got %q", providerVariable, env)
	case env != "":
		names, by = []string{env}, providerVariable+"="+env+": "
	}
	var tried []string
	var best *engineError // its fix is the hint: first an engine that a variable selects, then an installed one, then any
	for _, name := range names {
		e, err := openEngine(ctx, p, name)
		if err == nil {
			if best != nil && best.misled {
				e.Misled = fault.Hinted(best, best.fix)
			}
			return e, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if ee, is := errors.AsType[*engineError](err); is && (best == nil || ee.misled && !best.misled || ee.installed && !best.installed) {
			best = ee
		}
		tried = append(tried, err.Error())
	}
	fix := best.fix
	switch {
	case by != "":
		fix += "; or unset " + providerVariable
	case len(names) > 1 && !best.installed:
		fix = "install one, such as podman (`sudo apt-get install podman`) or Docker (https://docs.docker.com/engine/install)"
		if p.os == "darwin" {
			fix = "install Docker Desktop (https://docs.docker.com/desktop/setup/install/mac-install), or podman: `brew install podman`, then " + podmanMachine + " and `podman machine start`"
		}
	}
	if len(names) == 1 {
		return nil, fault.Usage(fix, "%s%s", by, tried[0])
	}
	return nil, fault.Usage(fix, "no container engine works: %s", strings.Join(tried, "; "))
}

// openEngine returns an engine if its `info` works, else an engineError with the reason.
func openEngine(ctx context.Context, p deps, name string) (*engine, error) {
	if _, err := p.lookPath(name); err != nil {
		return nil, &engineError{name: name, what: "is not in PATH", fix: cmp.Or(installFixes[name+" on "+p.os], installFixes[name])}
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second) // the daemon may hang
	defer cancel()
	out, err := run.Output(ctx, p.run, name, "info", "--format", "{{json .}}")
	if err != nil {
		if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, ctx.Err()
		}
		return nil, diagnose(name, err, p.os, p.getenv)
	}
	e := &engine{Name: name, run: p.run, Network: cmp.Or(p.getenv(networkVariable(name)), kindNetwork)}
	for _, key := range engineVariables[name].names[:engineVariables[name].endpoints] {
		if value := p.getenv(key); value != "" {
			e.Variables = append(e.Variables, key+"="+value)
		}
	}
	if name == "podman" {
		err = e.readPodman(out)
	} else {
		err = e.readDocker(out)
	}
	if err != nil {
		return nil, &engineError{name: name, installed: true, what: "is installed, but " + err.Error(), fix: fmt.Sprintf("see the output of `%s info`, or use another --engine", name)}
	}
	return e, nil
}

func (e *engine) readPodman(out string) error {
	var info struct {
		Host struct {
			Arch          string
			CgroupVersion string
			MemTotal      uint64
			OCIRuntime    struct{ Name string }
			Security      struct{ Rootless bool }
		}
		Store   struct{ GraphRoot string }
		Version struct{ Version string }
	}
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		return fmt.Errorf("its info cannot be read: %w", err)
	}
	e.Version, e.Root, e.Cgroup, e.Memory = info.Version.Version, info.Store.GraphRoot, info.Host.CgroupVersion, info.Host.MemTotal
	e.Rootless, e.Runtime, e.Arch = info.Host.Security.Rootless, info.Host.OCIRuntime.Name, goArch(info.Host.Arch)
	return nil
}

func (e *engine) readDocker(out string) error {
	var info struct {
		ServerVersion, DockerRootDir, CgroupVersion, Architecture string
		MemTotal                                                  uint64
		SecurityOptions, ServerErrors                             []string
	}
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		return fmt.Errorf("its info cannot be read: %w", err)
	}
	if len(info.ServerErrors) > 0 {
		return errors.New("its server reports: " + info.ServerErrors[0])
	}
	if info.ServerVersion == "" { // such as podman's replacement of docker
		return errors.New("its info has no server version")
	}
	e.Version, e.Root, e.Memory, e.Cgroup = info.ServerVersion, info.DockerRootDir, info.MemTotal, "v"+cmp.Or(info.CgroupVersion, "1")
	e.Arch = goArch(info.Architecture)
	e.Rootless = slices.ContainsFunc(info.SecurityOptions, func(o string) bool { return strings.Contains(o, "rootless") })
	return nil
}

// goArch returns Go's name of an architecture. Engines use Go's names or the kernel's.
func goArch(name string) string {
	switch name {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return name
}

// engineVariables has the environment variables, besides HOME, that change the behavior of an engine. The first endpoints
// of names select the engine's address.
var engineVariables = map[string]struct {
	endpoints int
	names     []string
}{
	// https://docs.docker.com/reference/cli/docker/#environment-variables
	"docker": {2, []string{"DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "DOCKER_API_VERSION"}},
	// https://docs.podman.io/en/latest/markdown/podman.1.html#environment-variables
	"podman": {2, []string{"CONTAINER_HOST", "CONTAINER_CONNECTION", "CONTAINER_SSHKEY", "CONTAINERS_CONF", "CONTAINERS_CONF_OVERRIDE", "CONTAINERS_STORAGE_CONF",
		"CONTAINERS_REGISTRIES_CONF", "REGISTRIES_CONFIG_PATH", "REGISTRY_AUTH_FILE", "STORAGE_DRIVER", "STORAGE_OPTS", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "TMPDIR"}},
	// https://github.com/containerd/nerdctl/blob/main/docs/config.md
	"nerdctl": {1, []string{"CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE", "CONTAINERD_SNAPSHOTTER", "NERDCTL_TOML", "CNI_PATH", "NETCONFPATH", "DOCKER_CONFIG", "XDG_RUNTIME_DIR"}},
}

// blamedVariable returns the variable, as KEY=VALUE, that an engine's error is about: one whose name or value is in its
// text, or HOME if that is no folder, else one that selects the engine's address; "" if none is set.
func blamedVariable(engine, text string, getenv func(string) string) string {
	about := engineVariables[engine]
	set := func(key string) string { return key + "=" + getenv(key) }
	for _, key := range about.names {
		value := getenv(key)
		if _, path, ok := strings.Cut(value, "://"); ok {
			value = path
		}
		const significant = 4 // a shorter value, such as "1", is in any text
		if value != "" && (strings.Contains(text, key) || len(value) >= significant && strings.Contains(text, value)) {
			return set(key)
		}
	}
	if home := getenv("HOME"); home != "" && isFolder(home) != nil && strings.Contains(text, home) {
		return set("HOME")
	}
	for _, key := range about.names[:about.endpoints] {
		if getenv(key) != "" {
			return set(key)
		}
	}
	return ""
}

var (
	ranAndFailed = regexp.MustCompile(`(?s)^(?:running .*?)?exit status \d+:?\s*`)
	logLine      = regexp.MustCompile(`^time="[^"]*" level=\w+ msg=(".*")$`)
)

// said returns the lines that a program has written, without mllab's prefix.
func said(err error) []string {
	return strings.Split(strings.TrimSpace(ranAndFailed.ReplaceAllString(err.Error(), "")), "\n")
}

// sentence returns the last line of an engine's error, without the prefix of a logger.
func sentence(err error) string {
	lines := said(err)
	last := strings.TrimSpace(lines[len(lines)-1])
	if m := logLine.FindStringSubmatch(last); m != nil {
		if text, err := strconv.Unquote(m[1]); err == nil {
			last = text
		}
	}
	return strings.TrimPrefix(last, "Error: ")
}

// diagnose finds the fix for an error of an engine's `info`. The result always has the engine's own message.
func diagnose(name string, err error, goos string, getenv func(string) string) error {
	e := &engineError{name: name, installed: true}
	if errors.Is(err, context.DeadlineExceeded) {
		e.what, e.fix = "is installed, but did not answer within 20 s", "restart it, then see the output of `"+name+" info`"
		return e
	}
	reason := sentence(err)
	text := strings.ToLower(err.Error())
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, w) })
	}
	service := map[string]string{"docker": "docker", "nerdctl": "containerd"}[name]
	variable := blamedVariable(name, err.Error(), getenv)
	switch {
	case has("permission denied", "operation not permitted", "must be root"):
		e.what = "is installed, but this user may not use it: " + reason
		e.fix = "run mllab as root (`sudo mllab …`)"
		if name == "docker" {
			e.fix = "`sudo usermod -aG docker $USER` and log in again, or run mllab as root"
		}
	case variable != "":
		key, _, _ := strings.Cut(variable, "=")
		e.what, e.fix, e.misled = "is installed, but fails with "+variable+": "+reason, "unset "+key+", or correct it", true
	case service != "" && has("cannot connect", "is the docker daemon running", "connection refused", "cannot access containerd", "rootless containerd not running", "no such file or directory"):
		e.what, e.fix = "is installed, but its daemon is not running: "+reason, "`sudo systemctl start "+service+"`"
		if goos == "darwin" {
			e.fix = "start Docker Desktop (`open -a Docker`), or the other program that runs docker on this machine"
		}
	case name == "podman" && has("cannot connect to podman", "unable to connect to podman"):
		e.what, e.fix = "is installed, but its machine is not running: "+reason, "`podman machine start`; the first time, "+podmanMachine+" before it"
	default:
		e.what, e.fix = "is installed, but fails: "+reason, "see the output of `"+name+" info`"
	}
	return e
}

// podmanMachine makes podman's virtual machine, which macOS needs, with what a lab takes.
const podmanMachine = "`podman machine init --cpus 4 --memory 8192 --disk-size 60`"

// installFixes say how to install an engine, on a system of its own way or on any.
var installFixes = map[string]string{
	"docker on darwin": "install Docker Desktop (https://docs.docker.com/desktop/setup/install/mac-install), or use another --engine",
	"podman on darwin": "`brew install podman`, then " + podmanMachine + " and `podman machine start`; or use another --engine",
	"docker":           "install Docker (https://docs.docker.com/engine/install), or use another --engine",
	"podman":           "`sudo apt-get install podman` (https://podman.io/docs/installation), or use another --engine",
	"nerdctl":          "install nerdctl and containerd (https://github.com/containerd/nerdctl/releases), or use another --engine",
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

// networkVariable returns kind's own variable that selects a network. kind has no such variable for nerdctl.
func networkVariable(engine string) string {
	switch engine {
	case "docker":
		return "KIND_EXPERIMENTAL_DOCKER_NETWORK"
	case "podman":
		return "KIND_EXPERIMENTAL_PODMAN_NETWORK"
	}
	return ""
}

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
