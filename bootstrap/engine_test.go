package bootstrap

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"mllab.local/internal/fault"
	"mllab.local/internal/run"
)

// engines is a machine where the named ones are in PATH and answer `info` with a text or an error.
func engines(answers map[string]any) deps {
	w := &world{env: map[string]string{}}
	p := w.deps()
	p.getenv = func(k string) string { return w.env[k] }
	p.setenv = func(k, v string) error { w.env[k] = v; return nil }
	p.lookPath = func(name string) (string, error) {
		if _, ok := answers[name]; ok {
			return "/usr/bin/" + name, nil
		}
		return "", exec.ErrNotFound
	}
	p.run = run.Func(func(_ context.Context, c run.Cmd) error {
		if err, bad := answers[c.Path].(error); bad {
			return err
		}
		_, err := io.WriteString(c.Stdout, answers[c.Path].(string))
		return err
	})
	return p
}

func podmanInfo(t *testing.T) string {
	data, err := os.ReadFile("testdata/podman-info.json")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

const dockerInfo = `{"ServerVersion":"28.2.2","DockerRootDir":"/var/lib/docker","CgroupVersion":"2","MemTotal":8323072000,"Architecture":"aarch64","NCPU":4,"SecurityOptions":["name=seccomp,profile=builtin","name=rootless"]}`

var errDockerDown = errors.New("running docker info --format {{json .}}: exit status 1: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?")

func TestTheFirstEngineThatWorksIsTaken(t *testing.T) {
	both := map[string]any{"docker": dockerInfo, "podman": podmanInfo(t)}
	down := map[string]any{"docker": errDockerDown, "podman": podmanInfo(t)}
	for _, c := range []struct {
		name, flag, env, want string
		record                *state
		answers               map[string]any
	}{
		{"docker before podman", "", "", "docker", nil, both},
		{"one that answers before one that does not", "", "", "podman", nil, down},
		{"kind's variable before the order", "", "podman", "podman", nil, both},
		{"the cluster's record before kind's variable", "", "docker", "podman", &state{Engine: "podman"}, both},
		{"the flag before everything", "podman", "docker", "podman", &state{Engine: "docker"}, both},
	} {
		p := engines(c.answers)
		if c.env != "" {
			if err := p.setenv("KIND_EXPERIMENTAL_PROVIDER", c.env); err != nil {
				t.Fatal(err)
			}
		}
		e, err := findEngine(t.Context(), p, c.flag, c.record)
		if err != nil || e.Name != c.want {
			t.Errorf("%s: %v, %v", c.name, e, err)
		}
	}
}

func TestWhatEnginesSayOfThemselvesIsRead(t *testing.T) {
	p := engines(map[string]any{"podman": podmanInfo(t), "docker": dockerInfo})
	e, err := findEngine(t.Context(), p, "podman", nil)
	if err != nil {
		t.Fatal(err)
	}
	e.run = nil
	if !reflect.DeepEqual(*e, engine{Name: "podman", Version: "4.3.1", Arch: "amd64", Network: "kind", Root: "/var/lib/containers/storage", Runtime: "runc", Memory: 25276510208}) {
		t.Errorf("podman: %+v", *e)
	}
	if e, err = findEngine(t.Context(), p, "docker", nil); err != nil {
		t.Fatal(err)
	}
	e.run = nil
	if !reflect.DeepEqual(*e, engine{Name: "docker", Version: "28.2.2", Arch: "arm64", Network: "kind", Root: "/var/lib/docker", Rootless: true, Memory: 8323072000}) {
		t.Errorf("docker: %+v", *e)
	}
}

func TestWhyNoEngineCanBeUsedIsSaidWithItsFix(t *testing.T) {
	for _, c := range []struct {
		name, flag string
		answers    map[string]any
		what, fix  string
	}{
		{"none installed", "", nil, "docker is not in PATH; podman is not in PATH; nerdctl is not in PATH", "apt-get install podman"},
		{"the wanted one is not installed", "nerdctl", nil, "nerdctl is not in PATH", "install nerdctl"},
		{"docker's daemon is down", "docker", map[string]any{"docker": errDockerDown}, "its daemon is not running", "sudo systemctl start docker"},
		{"docker's daemon is down and nothing else is installed", "", map[string]any{"docker": errDockerDown}, "Is the docker daemon running?; podman is not in PATH", "sudo systemctl start docker"},
		{"docker's server is down and the client says so in its answer", "docker", map[string]any{"docker": `{"ServerErrors":["Cannot connect"]}`}, "its server reports: Cannot connect", "docker info"},
		{"docker's socket is not for this user", "docker", map[string]any{"docker": errors.New("exit status 1: permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock")}, "permission denied", "usermod -aG docker"},
		{"containerd is not for this user", "nerdctl", map[string]any{"nerdctl": errors.New("exit status 1: rootless containerd not running? (hint: use `containerd-rootless-setuptool.sh install`)")}, "its daemon is not running", "systemctl start containerd"},
		{"podman's machine is off", "podman", map[string]any{"podman": errors.New("exit status 125: Cannot connect to Podman. Please verify your connection")}, "its machine is not running: Cannot connect to Podman. Please", "podman machine start"},
		{"podman fails in another way", "podman", map[string]any{"podman": errors.New("exit status 125:\n  Error: database is malformed")}, "fails: database is malformed", "podman info"},
		{"podman calls itself docker", "docker", map[string]any{"docker": podmanInfo(t)}, "has no server version", "--engine"},
		{"it answers nonsense", "podman", map[string]any{"podman": "hello"}, "its info cannot be read", "podman info"},
	} {
		_, err := findEngine(t.Context(), engines(c.answers), c.flag, nil)
		if fault.Code(err) != 2 || !strings.Contains(err.Error(), c.what) || !strings.Contains(fault.Hint(err), c.fix) {
			t.Errorf("%s: %v\n  hint: %s", c.name, err, fault.Hint(err))
		}
	}
	for flag, c := range map[string]struct {
		answer any
		fix    string
	}{
		"":       {nil, "brew install podman"},
		"docker": {errDockerDown, "open -a Docker"},
		"podman": {errors.New("exit status 125: Cannot connect to Podman. Please verify your connection"), "`podman machine start`; the first time, `podman machine init"},
	} {
		p := engines(map[string]any{flag: c.answer})
		p.os = "darwin"
		if _, err := findEngine(t.Context(), p, flag, nil); !strings.Contains(fault.Hint(err), c.fix) || strings.Contains(fault.Hint(err), "sudo") {
			t.Errorf("%q on macOS: %v\n  hint: %s", flag, err, fault.Hint(err))
		}
	}
	p := engines(nil)
	if err := p.setenv("KIND_EXPERIMENTAL_PROVIDER", "lima"); err != nil {
		t.Fatal(err)
	}
	if _, err := findEngine(t.Context(), p, "", nil); fault.Code(err) != 2 || !strings.Contains(err.Error(), `KIND_EXPERIMENTAL_PROVIDER must be docker, podman or nerdctl, got "lima"`) {
		t.Errorf("kind's variable: %v", err)
	}
}

// The engines' words are those of podman 4.3.1 and docker 28.2.2.
func TestAVariableThatMisleadsAnEngineIsNamedWithTheEnginesOwnWords(t *testing.T) {
	for _, c := range []struct {
		engine   string
		env      map[string]string
		code     string
		says     string
		variable string // "" when none is to blame
		want     string
	}{
		{"podman", map[string]string{"CONTAINER_HOST": "unix:///nowhere/podman.sock", "TMPDIR": "/tmp"}, "125",
			"Cannot connect to Podman. Please verify your connection to the Linux system using `podman system connection list`, or try `podman machine init`\n  Error: unable to connect to Podman socket: Get \"http://d/v4.3.1/libpod/_ping\": dial unix /nowhere/podman.sock: connect: no such file or directory",
			"CONTAINER_HOST", "fails with CONTAINER_HOST=unix:///nowhere/podman.sock: unable to connect to Podman socket: Get \"http://d/v4.3.1/libpod/_ping\": dial unix /nowhere/podman.sock: connect: no such file or directory"},
		{"podman", map[string]string{"CONTAINER_HOST": "garbage"}, "125", "Error: unable to create connection. \"\" is not a supported schema", "CONTAINER_HOST", "fails with CONTAINER_HOST=garbage: unable to create connection. \"\" is not a supported schema"},
		{"podman", map[string]string{"CONTAINER_CONNECTION": "foo"}, "125", "Error: unable to connect to Podman socket: dial unix ///run/podman/podman.sock: connect: no such file or directory", "CONTAINER_CONNECTION", "CONTAINER_CONNECTION=foo: unable to connect"},
		{"podman", map[string]string{"CONTAINERS_CONF": "/nowhere/containers.conf"}, "1", `time="2026-11-28T18:16:13Z" level=error msg="finding config on system: CONTAINERS_CONF file: stat /nowhere/containers.conf: no such file or directory"`,
			"CONTAINERS_CONF", "fails with CONTAINERS_CONF=/nowhere/containers.conf: finding config on system: CONTAINERS_CONF file: stat /nowhere/containers.conf: no such file or directory"},
		{"podman", map[string]string{"CONTAINERS_STORAGE_CONF": "/nowhere/storage.conf", "XDG_RUNTIME_DIR": "/run/user/0"}, "1", `time="2026-11-28T18:16:13Z" level=error msg="stat /nowhere/storage.conf: no such file or directory"`, "CONTAINERS_STORAGE_CONF", "stat /nowhere/storage.conf"},
		{"podman", map[string]string{"HOME": "/etc/passwd", "CONTAINER_HOST": "unix:///run/x"}, "125", "Error: getting registries: reading registries.conf.d: lstat /etc/passwd/.config/containers/registries.conf.d: not a directory",
			"HOME", "fails with HOME=/etc/passwd: getting registries"},
		{"podman", map[string]string{"XDG_RUNTIME_DIR": "/run/user/0"}, "125", "Error: database is malformed", "", "is installed, but fails: database is malformed"},
		{"docker", map[string]string{"DOCKER_HOST": "tcp://127.0.0.1:1"}, "1", "Cannot connect to the Docker daemon at tcp://127.0.0.1:1. Is the docker daemon running?", "DOCKER_HOST", "fails with DOCKER_HOST=tcp://127.0.0.1:1: Cannot connect to the Docker daemon"},
		{"docker", map[string]string{"DOCKER_CONTEXT": "nope"}, "1", `Failed to initialize: unable to resolve docker endpoint: context "nope": context not found: open /root/.docker/contexts/meta/ca/meta.json: no such file or directory`, "DOCKER_CONTEXT", `context "nope": context not found`},
		{"docker", map[string]string{"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/nowhere"}, "1", "Failed to initialize: unable to resolve docker endpoint: open /nowhere/ca.pem: no such file or directory", "DOCKER_CERT_PATH", "open /nowhere/ca.pem"},
		{"docker", map[string]string{"DOCKER_CONFIG": "/root/.docker"}, "1", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?", "", "its daemon is not running: Cannot connect to the Docker daemon at unix:///var/run/docker.sock"},
		{"nerdctl", map[string]string{"CONTAINERD_ADDRESS": "/nowhere.sock"}, "1", `time="2026-11-28T18:16:13Z" level=fatal msg="cannot access containerd socket \"/nowhere.sock\": no such file or directory"`, "CONTAINERD_ADDRESS", `fails with CONTAINERD_ADDRESS=/nowhere.sock: cannot access containerd socket "/nowhere.sock"`},
	} {
		p := engines(map[string]any{c.engine: errors.New("running " + c.engine + " info --format \"{{json .}}\": exit status " + c.code + ": " + c.says)})
		for key, value := range c.env {
			if err := p.setenv(key, value); err != nil {
				t.Fatal(err)
			}
		}
		_, err := findEngine(t.Context(), p, "", nil) // the other two are not installed
		if fault.Code(err) != 2 || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c.env, err)
		}
		if hint := fault.Hint(err); c.variable != "" && hint != "unset "+c.variable+", or correct it" || c.variable == "" && strings.Contains(hint, "unset") {
			t.Errorf("%v: hint %q", c.env, hint)
		}
	}
	p := engines(map[string]any{"podman": podmanInfo(t)})
	if err := p.setenv(providerVariable, "docker"); err != nil {
		t.Fatal(err)
	}
	if _, err := findEngine(t.Context(), p, "", nil); fault.Code(err) != 2 || !strings.Contains(err.Error(), "KIND_EXPERIMENTAL_PROVIDER=docker: docker is not in PATH") || !strings.Contains(fault.Hint(err), "or unset KIND_EXPERIMENTAL_PROVIDER") {
		t.Errorf("%v, hint %q", err, fault.Hint(err))
	}
}

func TestAnEngineThatAVariableMisledIsNotPassedOverInSilence(t *testing.T) {
	w := newWorld(t)
	p := w.deps()
	p.lookPath = func(string) (string, error) { return "/usr/bin/x", nil }
	p.run = run.Func(func(ctx context.Context, c run.Cmd) error {
		if c.Path == "docker" {
			return errors.New("exit status 1: Cannot connect to the Docker daemon at unix:///nowhere. Is the docker daemon running?")
		}
		return w.podman(ctx, c)
	})
	for value, level := range map[string]string{"unix:///nowhere": LevelWarn, "": LevelOK} {
		w.env["DOCKER_HOST"] = value
		list, err := doctor(t.Context(), w.options(), p)
		f := find(list, "engine")
		if err != nil || f.Level != level || (level == LevelWarn) != strings.Contains(f.What, "but docker is installed, but fails with DOCKER_HOST=unix:///nowhere: Cannot connect") {
			t.Errorf("DOCKER_HOST=%s: %+v, %v", value, f, err)
		}
	}
}

func TestKindsOwnNetworkVariableIsFollowed(t *testing.T) {
	w := newWorld(t)
	w.env["KIND_EXPERIMENTAL_PODMAN_NETWORK"] = "mine"
	o := w.options()
	w.failing["network inspect mine"] = errors.New("network not found")
	mustUp(t, w, o)
	delete(w.failing, "network inspect mine")
	delete(w.env, "KIND_EXPERIMENTAL_PODMAN_NETWORK") // another terminal
	mustDown(t, w, o.down())
	if !slices.Contains(w.calls, "network rm mine") || slices.Contains(w.calls, "network rm kind") {
		t.Errorf("calls %v", w.calls)
	}
}

func TestPodmanSettingsAreMadeOnlyWhereTheyAreNeeded(t *testing.T) {
	crun, runc := engine{Name: "podman", Runtime: "crun"}, engine{Name: "podman", Runtime: "runc"}
	limited := goodMachine()
	limited.SysResource, limited.Nofile, limited.Nproc = false, 20000, 96365
	hybrid := goodMachine()
	hybrid.Cgroup = "hybrid"
	rootless := engine{Name: "podman", Runtime: "crun", Rootless: true}
	noRunc := hybrid
	noRunc.Tools = nil
	for _, c := range []struct {
		name string
		m    machine
		e    engine
		want string
	}{
		{"a usual machine", goodMachine(), crun, ""},
		{"limits that podman cannot raise", limited, runc, "[containers]\ndefault_ulimits = [\"nofile=20000:20000\", \"nproc=32768:32768\"]\npids_limit = 0\n"},
		{"rootless podman lowers them itself", limited, rootless, ""},
		{"hybrid cgroups with crun", hybrid, crun, "[engine]\nruntime = \"runc\"\n"},
		{"hybrid cgroups with runc", hybrid, runc, ""},
		{"hybrid cgroups without runc are doctor's", noRunc, crun, ""},
	} {
		if got := podmanConf(c.m, &c.e); got != c.want {
			t.Errorf("%s:\n%s", c.name, got)
		}
	}
}

func TestANewPodmanKeepsTheUsersFileUnderneath(t *testing.T) {
	m := goodMachine()
	m.SysResource, m.Nofile, m.Nproc = false, 20000, 96365
	for version, key := range map[string]string{"4.3.1": "CONTAINERS_CONF", "4.9.3": "CONTAINERS_CONF", "5.0.0": "CONTAINERS_CONF_OVERRIDE", "10.1.0": "CONTAINERS_CONF_OVERRIDE"} {
		p, s := engines(nil), store{root: t.TempDir(), name: "x"}
		e := engine{Name: "podman", Version: version}
		if err := e.prepare(p, s, m); err != nil || p.getenv(key) != s.podmanConf() {
			t.Errorf("%s: %s is %q, %v", version, key, p.getenv(key), err)
		}
	}
}

// Recorded from podman 4.3.1; the last two as docker writes them.
func TestContainersAreReadFromPs(t *testing.T) {
	for line, want := range map[string]container{
		"91a7\tmllab-control-plane\tlocalhost/mllab-node:e24\tUp 3 minutes ago\t127.0.0.1:18080->30080/tcp, 127.0.0.1:37747->6443/tcp": {ID: "91a7", Name: "mllab-control-plane", Image: "localhost/mllab-node:e24", Status: "up", Port: 18080},
		"cbc4\tbt-x\tlocalhost/mllab-node:b\tExited (-1) Less than a second ago\t127.0.0.1:18099->30080/tcp":                           {ID: "cbc4", Name: "bt-x", Image: "localhost/mllab-node:b", Status: "exited", Port: 18099},
		"dfba\tbt-x\tlocalhost/mllab-node:b\tStopping\t127.0.0.1:18099->30080/tcp":                                                     {ID: "dfba", Name: "bt-x", Image: "localhost/mllab-node:b", Status: "stopping", Port: 18099},
		"16cb\tbt-x\tkindest/node:v1\tUp 2 hours\t0.0.0.0:8080->80/tcp, [::]:30080->80/tcp":                                            {ID: "16cb", Name: "bt-x", Image: "kindest/node:v1", Status: "up"},
		"16cb\tbt-x\tkindest/node:v1\tExited (137) 3 minutes ago\t":                                                                    {ID: "16cb", Name: "bt-x", Image: "kindest/node:v1", Status: "exited"},
	} {
		if got := readContainer(line); got != want {
			t.Errorf("%q:\n got %+v\nwant %+v", line, got, want)
		}
	}
}

func TestThePortOfAStoppedContainerComesFromItsConfiguration(t *testing.T) {
	e := &engine{Name: "docker", run: run.Func(func(_ context.Context, c run.Cmd) error {
		out := ""
		switch {
		case c.Args[0] == "ps" && strings.Contains(strings.Join(c.Args, " "), "label="):
			out = "16cb\tmllab-control-plane\tlocalhost/mllab-node:b\tExited (137) 3 minutes ago\t\n"
		case c.Args[0] == "ps": // the same one, found by its name
			out = "16cb\tmllab-control-plane\tlocalhost/mllab-node:b\tExited (137) 3 minutes ago\t\n"
		case c.Args[0] == "container":
			out = `[{"Id":"16cb","HostConfig":{"PortBindings":{"30080/tcp":[{"HostIp":"127.0.0.1","HostPort":"18099"}],"6443/tcp":[{"HostIp":"127.0.0.1","HostPort":"37747"}]}}}]`
		}
		_, err := io.WriteString(c.Stdout, out)
		return err
	})}
	found, err := e.containers(t.Context(), "mllab")
	if err != nil || len(found) != 1 || !found[0].ours("mllab") || found[0].Port != 18099 {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestAContainerThatTheEngineLostTrackOfIsRemovedInTheEnd(t *testing.T) {
	tries := 0
	e := &engine{Name: "podman", run: run.Func(func(_ context.Context, c run.Cmd) error {
		if c.Args[0] == "kill" {
			return errors.New("can only kill running containers")
		}
		if tries++; tries == 1 {
			return errors.New("cannot remove container cbc4 as it could not be stopped: timed out waiting for file /run/libpod/exits/cbc4: internal libpod error")
		}
		return nil
	})}
	if err := e.remove(t.Context(), "cbc4"); err != nil || tries != 2 {
		t.Errorf("%v after %d tries", err, tries)
	}
	e.run = run.Func(func(context.Context, run.Cmd) error { return errors.New("Error: No such container: cbc4") })
	if err := e.remove(t.Context(), "cbc4"); err != nil {
		t.Errorf("one that is gone: %v", err)
	}
	e.run = run.Func(func(context.Context, run.Cmd) error { return errors.New("storage is read-only") })
	if err := e.remove(t.Context(), "cbc4"); err == nil || !strings.Contains(err.Error(), "removing container cbc4: storage is read-only") {
		t.Errorf("one that stays: %v", err)
	}
}

func TestTheWorkingSetLeavesOutWhatTheKernelCouldDrop(t *testing.T) {
	for name, out := range map[string]string{
		"cgroup v1": "1000\ncache 5\ninactive_file 1\ntotal_inactive_file 400\ntotal_active_file 7\n",
		"cgroup v2": "1000\nanon 5\ninactive_file 400\nactive_file 7\n",
	} {
		if got, err := workingSet(out); err != nil || got != 600 {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
	if _, err := workingSet(""); err == nil {
		t.Error("no error for nothing")
	}
}

func TestTheNodesCPUTimeIsReadFromItsCgroup(t *testing.T) {
	for name, out := range map[string]string{
		"cgroup v1": "27924996212\n",
		"cgroup v2": "nice_usec 7\nusage_usec 27924996\nuser_usec 14000000\nsystem_usec 13924996\n",
		"v2, first": "usage_usec 27924996\nuser_usec 14000000\n",
	} {
		if got, err := cpuSeconds(out); err != nil || got < 27.924995 || got > 27.924997 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for _, none := range []string{"", "usage_usec many\n", "user_usec 14000000\n"} {
		if got, err := cpuSeconds(none); err == nil {
			t.Errorf("%q is %v", none, got)
		}
	}
	asked := ""
	p := engines(map[string]any{"podman": podmanInfo(t)})
	info := p.run
	p.run = run.Func(func(ctx context.Context, c run.Cmd) error {
		if c.Args[0] != "exec" {
			return info.Run(ctx, c)
		}
		asked = c.Path + " " + strings.Join(c.Args[:2], " ")
		_, err := io.WriteString(c.Stdout, "1000000000\n")
		return err
	})
	cpu := nodeCPU("lab-1", &state{Engine: "podman"}, p)
	for range 2 {
		if got, err := cpu(t.Context()); err != nil || got != 1 || asked != "podman exec lab-1-control-plane" {
			t.Errorf("%v, %v; asked %q", got, err, asked)
		}
	}
}

func TestAnImageThatCannotBeWrittenIsTheReasonWhyItIsNotLoaded(t *testing.T) {
	read := func(r io.Reader) error {
		if _, err := io.ReadAll(r); err != nil {
			return errors.New("load: unexpected end of archive")
		}
		return nil
	}
	full := errors.New("no space left on device")
	if err := pipe(func(io.Writer) error { return full }, read); !errors.Is(err, full) {
		t.Errorf("a writer that fails: %v", err)
	}
	refused := errors.New("load: no such driver")
	err := pipe(func(w io.Writer) error { _, err := w.Write(make([]byte, 1<<20)); return err }, func(io.Reader) error { return refused })
	if !errors.Is(err, refused) {
		t.Errorf("a reader that fails: %v", err)
	}
}

func TestOnlyMllabsNodeImagesAreListed(t *testing.T) {
	w := newWorld(t)
	w.images = []string{"docker.io/kindest/node:v1", testRef, "localhost/other:1"}
	e := &engine{Name: "podman", run: run.Func(w.podman)}
	if got, err := e.nodeImages(t.Context()); err != nil || !slices.Equal(got, []string{testRef}) {
		t.Errorf("%v, %v", got, err)
	}
}
