package bootstrap

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/run"
)

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
		return nil, whyItFails(name, err, p.os, p.getenv)
	}
	e := &engine{Name: name, run: p.run, Network: cmp.Or(p.getenv(networkVariables[name]), kindNetwork)}
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
			Arch       string
			MemTotal   uint64
			OCIRuntime struct{ Name string }
			Security   struct{ Rootless bool }
		}
		Store   struct{ GraphRoot string }
		Version struct{ Version string }
	}
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		return fmt.Errorf("its info cannot be read: %w", err)
	}
	e.Version, e.Root, e.Memory = info.Version.Version, info.Store.GraphRoot, info.Host.MemTotal
	e.Rootless, e.Runtime, e.Arch = info.Host.Security.Rootless, info.Host.OCIRuntime.Name, goArch(info.Host.Arch)
	return nil
}

func (e *engine) readDocker(out string) error {
	var info struct {
		ServerVersion, DockerRootDir, Architecture string
		MemTotal                                   uint64
		SecurityOptions, ServerErrors              []string
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
	e.Version, e.Root, e.Memory, e.Arch = info.ServerVersion, info.DockerRootDir, info.MemTotal, goArch(info.Architecture)
	e.Rootless = slices.ContainsFunc(info.SecurityOptions, func(o string) bool { return strings.Contains(o, "rootless") })
	return nil
}

// goArch returns Go's name of an architecture. Engines use Go's names or the kernel's.
func goArch(name string) string {
	return cmp.Or(map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[name], name)
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

// networkVariables are kind's own variables that select a network. kind has none for nerdctl.
var networkVariables = map[string]string{
	"docker": "KIND_EXPERIMENTAL_DOCKER_NETWORK",
	"podman": "KIND_EXPERIMENTAL_PODMAN_NETWORK",
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

// whyItFails finds the fix for an error of an engine's `info`. The result always has the engine's own message.
func whyItFails(name string, err error, goos string, getenv func(string) string) error {
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
