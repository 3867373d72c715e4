package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"mllab.local/internal/fault"
)

// Levels of a Finding.
const (
	LevelOK   = "ok"
	LevelWarn = "warn" // `up` goes on, and says so
	LevelFail = "fail" // `up` refuses
)

// Finding is one thing that was looked at before anything is made: what was seen, in numbers, and the command that
// mends it.
type Finding struct {
	ID    string `json:"id"`
	Level string `json:"level"`
	What  string `json:"what"`
	Fix   string `json:"fix,omitempty"`
}

// Doctor looks at the machine and changes nothing. The error is a fault.Usage when `up` would refuse.
func Doctor(ctx context.Context, o Options) ([]Finding, error) { return doctor(ctx, o, realParts()) }

func doctor(ctx context.Context, o Options, p parts) ([]Finding, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s, err := look(ctx, o, p)
	if err != nil {
		return nil, err
	}
	if wrong := s.failed(); len(wrong) > 0 {
		return s.Findings, fault.Usage("mend what fails, then `mllab up`", "mllab up would refuse because of: %s", strings.Join(wrong, ", "))
	}
	return s.Findings, nil
}

// failed lists the findings that stop `up`.
func (s survey) failed() (ids []string) {
	for _, f := range s.Findings {
		if f.Level == LevelFail {
			ids = append(ids, f.ID)
		}
	}
	return ids
}

// survey is everything that `up` knows before it does anything.
type survey struct {
	State     *state // nil when there is no record
	Engine    *engine
	EngineErr error
	Found     []container
	Action    action
	Why       string
	Port      int // the gateway's; 0 for any free one
	Machine   machine
	Findings  []Finding
}

// look surveys without changing anything. Its errors are those of looking; what it sees is in Findings.
func look(ctx context.Context, o Options, p parts) (s survey, err error) {
	if s.State, err = o.store().load(); err != nil {
		return s, err
	}
	s.Engine, s.EngineErr = findEngine(ctx, p, o.Engine, s.State)
	if err := ctx.Err(); err != nil {
		return s, err
	}
	alive := false
	if s.Engine != nil {
		if s.Found, err = s.Engine.containers(ctx, o.Name); err != nil {
			return s, err
		}
		alive = len(s.Found) == 1 && s.Engine.alive(ctx, s.Found[0].Name)
	}
	s.Action, s.Why = decide(o.Name, s.Found, alive, s.State)
	s.Port = o.Port
	switch {
	case s.Action == keep || s.Action == revive:
		s.Port = s.Found[0].Port // published once and for all
	case s.State != nil && s.State.Port != 0 && (!o.PortGiven || o.Port == 0):
		s.Port = s.State.Port // a cluster that is made anew keeps its address
	}
	s.Machine = p.machine(ctx, o, s.Engine, s.Port)
	s.Findings = findings(o, s)
	return s, nil
}

// refusal is nil, or one error with all that is wrong and how to mend it.
func (s survey) refusal() error {
	var wrong []string
	for _, f := range s.Findings {
		if f.Level == LevelFail {
			wrong = append(wrong, fmt.Sprintf("%s: %s\n    fix: %s", f.ID, f.What, f.Fix))
		}
	}
	switch len(wrong) {
	case 0:
		return nil
	case 1:
		return fault.Usage("nothing was changed; `mllab doctor` shows everything that was looked at", "this machine is not ready: %s", wrong[0])
	}
	return fault.Usage("nothing was changed; `mllab doctor` shows everything that was looked at",
		"this machine is not ready, for %d reasons:\n  %s", len(wrong), strings.Join(wrong, "\n  "))
}

// What the lab needs, measured: a node with Istio, Knative and the sample takes 3.1 GB of memory; its image and its
// volume take 4.5 GB of the engine's disk. The cache's figures are those that bootstrap/images asks for; a node image is
// put together under the cache as well.
const (
	gib              = 1 << 30
	memoryNeeded     = 3 * gib
	memoryWanted     = 5 * gib
	engineNeeded     = 6 * gib
	sourceNeeded     = 16 * gib
	registryNeeded   = 6 * gib
	nodeWrite        = 3 * gib
	reserve          = gib / 2 // that a disk keeps free even when all is there already
	cacheFilled      = gib / 2 // a cache with less holds no lab
	nofileNeeded     = 4096
	nofileWanted     = 16384
	inotifyInstances = 512 // https://kind.sigs.k8s.io/docs/user/known-issues/#pod-errors-due-to-too-many-open-files
	inotifyWatches   = 65536
)

// findings judges a survey. What does not matter to a cluster that runs already is not asked of the machine again.
func findings(o Options, s survey) []Finding {
	var list []Finding
	say := func(id, level, fix, format string, args ...any) {
		if level == LevelOK {
			fix = ""
		}
		list = append(list, Finding{ID: id, Level: level, What: fmt.Sprintf(format, args...), Fix: fix})
	}
	worse := func(level string, when bool) string {
		if when {
			return level
		}
		return LevelOK
	}
	m, e := s.Machine, s.Engine
	linux, running := m.OS == "linux", s.Action == keep

	switch {
	case e == nil:
		say("engine", LevelFail, fault.Hint(s.EngineErr), "%v", s.EngineErr)
	case o.Engine != "" && s.State != nil && s.State.Engine != o.Engine:
		say("engine", LevelFail, fmt.Sprintf("leave out --engine, or `mllab down --name %s` first", o.Name), "cluster %s was made with %s, not %s", o.Name, s.State.Engine, o.Engine)
	case e.Rootless && linux && m.Cgroup != "v2":
		say("engine", LevelFail, "run mllab as root, or boot with systemd.unified_cgroup_hierarchy=1", "%s %s is rootless, which kind can use with cgroup v2 only; this machine has %s", e.Name, e.Version, m.Cgroup)
	case e.Name == "podman" && linux && m.Cgroup != "v2" && e.Runtime == "crun" && !m.Tools["runc"]:
		say("engine", LevelFail, "`sudo apt-get install runc`", "podman %s uses crun, which refuses cgroup %s, and runc is not installed", e.Version, m.Cgroup)
	default:
		say("engine", LevelOK, "", "%s %s works%s", e.Name, e.Version, map[bool]string{true: ", rootless"}[e.Rootless])
	}

	switch {
	case e == nil:
	case s.Action == refuse && s.State == nil && len(s.Found) == 1 && s.Found[0].ours(o.Name):
		say("cluster", LevelFail, fmt.Sprintf("`mllab down --name %s`, then up again; or name the --state-dir folder it was made with", o.Name), "cluster %s is mllab's, but %s has no record of it", o.Name, o.State)
	case s.Action == refuse:
		say("cluster", LevelFail, fmt.Sprintf("pick another --name, or remove that one yourself: `kind delete cluster --name %s`", o.Name), "a cluster named %s is there and is not mllab's (container %s, image %s): it is left alone", o.Name, s.Found[0].Name, s.Found[0].Image)
	case s.Action == revive, s.Action == replace:
		say("cluster", LevelWarn, "`mllab up` does it", "cluster %s has a record, but %s: up will %s it", o.Name, s.Why, s.Action)
	case running:
		say("cluster", LevelOK, "", "cluster %s runs", o.Name)
	default:
		say("cluster", LevelOK, "", "no cluster is named %s", o.Name)
	}

	switch {
	case (running || s.Action == revive) && o.PortGiven && o.Port != 0 && o.Port != s.Port:
		say("port", LevelFail, fmt.Sprintf("leave out --port, or `mllab down --name %s && mllab up --port %d`", o.Name, o.Port), "cluster %s has its gateway on port %d, which cannot be changed to %d while it exists", o.Name, s.Port, o.Port)
	case (running || s.Action == replace) && len(s.Found) == 1 && s.Found[0].Port == s.Port:
		say("port", LevelOK, "", "port %d is this cluster's", s.Port)
	case s.Port == 0:
		say("port", LevelOK, "", "a free one will be picked")
	case errors.Is(m.PortErr, syscall.EACCES):
		say("port", LevelFail, "use a port above 1023: `mllab up --port 8080`, or --port auto", "this user may not listen on port %d", s.Port)
	case m.PortErr != nil:
		say("port", LevelFail, "`mllab up --port auto` picks a free one", "127.0.0.1:%d is in use%s", s.Port, prefixed(" by ", m.PortHolder))
	default:
		say("port", LevelOK, "", "127.0.0.1:%d is free", s.Port)
	}

	if linux {
		say("cgroup", LevelOK, "", "%s%s", m.Cgroup, map[bool]string{true: ": Kubernetes 1.34 still runs on it, from 1.35 on it is deprecated"}[m.Cgroup != "v2"])
		say("capability", LevelOK, "", "%s", map[bool]string{
			true:  "CAP_SYS_RESOURCE is there",
			false: "CAP_SYS_RESOURCE is missing: containerd in the node is told not to lower oom_score_adj, and limits stay within this process's",
		}[m.EngineSysResource])
		if m.Nofile > 0 {
			level := worse(LevelWarn, m.Nofile < nofileWanted)
			if m.Nofile < nofileNeeded {
				level = LevelFail
			}
			say("nofile", level, fmt.Sprintf("`ulimit -Hn %d` as root, in the shell that runs mllab", nofileWanted), "hard limit of open files is %d (needed %d, wanted %d)", m.Nofile, nofileNeeded, nofileWanted)
		}
		if m.InotifyInstances > 0 {
			say("inotify", worse(LevelWarn, m.InotifyInstances < inotifyInstances || m.InotifyWatches < inotifyWatches),
				fmt.Sprintf("`sudo sysctl fs.inotify.max_user_instances=%d fs.inotify.max_user_watches=%d`", inotifyInstances, max(inotifyWatches, m.InotifyWatches)),
				"%d instances and %d watches for each user (wanted %d and %d; too few end in \"too many open files\")", m.InotifyInstances, m.InotifyWatches, inotifyInstances, inotifyWatches)
		}
		say("lib-modules", worse(LevelFail, !m.LibModules && !m.Root && (e == nil || e.Name != "docker")), "`sudo mkdir -p /lib/modules`",
			"/lib/modules, which kind mounts into the node, %s", map[bool]string{true: "is there", false: "is missing" + map[bool]string{true: ": up makes it"}[m.Root]}[m.LibModules])
	}

	if have := smallest(m.MemoryAvailable, e); have > 0 && !running {
		level := worse(LevelWarn, have < memoryWanted)
		if have < memoryNeeded {
			level = LevelFail
		}
		say("memory", level, "end something large, or give the machine (or the engine's virtual machine) more", "%s available (needed %s, wanted %s)", size(have), size(memoryNeeded), size(memoryWanted))
	}
	if !running {
		say("cpu", worse(LevelWarn, m.CPUs < 2), "give the machine a second core", "%d cores (wanted 2)", m.CPUs)
	}

	need, want := uint64(reserve), uint64(reserve)
	switch filled := m.CacheUsed >= cacheFilled; {
	case running || s.Action == revive:
	case filled:
		need, want = nodeWrite, nodeWrite
	case o.Mode == "source":
		need, want = sourceNeeded, sourceNeeded
	default:
		need, want = registryNeeded, map[bool]uint64{true: sourceNeeded, false: registryNeeded}[o.Mode == "auto"]
	}
	level := worse(LevelWarn, m.CacheFree < want)
	if m.CacheFree < need {
		level = LevelFail
	}
	say("disk-cache", level, "free some space, or put the cache elsewhere: `mllab up --cache-dir FOLDER`",
		"%s free at %s (needed %s%s; the image cache holds %s)", size(m.CacheFree), o.Cache, size(need),
		map[bool]string{true: ", and " + size(want) + " to build from source"}[want > need], size(m.CacheUsed))
	if e != nil && m.EngineDisk {
		need := uint64(reserve)
		if s.Action != keep && s.Action != revive {
			need = engineNeeded
		}
		say("disk-engine", worse(LevelFail, m.EngineFree < need), fmt.Sprintf("free some space: `%s system prune`", e.Name),
			"%s free at %s, where %s keeps images and containers (needed %s)", size(m.EngineFree), e.Root, e.Name, size(need))
	}

	// Tools are needed for the first build only, and `auto` may find a registry instead.
	if linux && o.Mode != "registry" {
		level := LevelFail
		if o.Mode == "auto" || m.CacheUsed >= cacheFilled {
			level = LevelWarn
		}
		for _, t := range []struct {
			id, fix, what string
			ok            bool
		}{
			{"tool-go", "install Go 1.26.8 or newer: https://go.dev/doc/install", "Go", m.Tools["go"]},
			{"tool-cc", "`sudo apt-get install gcc libc6-dev`", "a C compiler (for runc)", m.Tools["cc"] || m.Tools["gcc"]},
			{"tool-seccomp", "`sudo apt-get install libseccomp-dev`", "libseccomp's headers (for runc)", m.Tools["seccomp.h"]},
			{"tool-pkg-config", "`sudo apt-get install pkg-config`", "pkg-config (for runc)", m.Tools["pkg-config"]},
			{"tool-mmdebstrap", "`sudo apt-get install mmdebstrap`", "mmdebstrap (for the node's Debian)", m.Tools["mmdebstrap"]},
			{"tool-keyring", "`sudo apt-get install debian-archive-keyring`", "Debian's archive keys (for the node's Debian)", m.Tools["keyring"]},
			{"tool-pip", "`sudo apt-get install python3-pip`", "python3 with pip (for Envoy's wheel)", m.Tools["python3"] && m.Tools["pip"]},
		} {
			if t.ok {
				say(t.id, LevelOK, "", "%s: installed", t.what)
			} else {
				say(t.id, level, t.fix+"; or `mllab up --image-source registry`", "%s: missing, and images are built from source with it", t.what)
			}
		}
	}
	return list
}

// smallest is the memory that a node can have: the machine's, or the virtual machine's that the engine runs in.
func smallest(available uint64, e *engine) uint64 {
	if e != nil && e.Memory > 0 && (available == 0 || e.Memory < available) {
		return e.Memory
	}
	return available
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// size is a number of bytes for people.
func size(n uint64) string {
	switch {
	case n >= gib:
		return fmt.Sprintf("%.1f GiB", float64(n)/gib)
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}
