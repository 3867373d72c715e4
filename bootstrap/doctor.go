package bootstrap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/version"

	"mllab.local/addons"
	"mllab.local/bootstrap/images"
	"mllab.local/internal/fault"
)

// Levels of a Finding.
const (
	LevelOK   = "ok"
	LevelWarn = "warn" // `up` reports it and continues
	LevelFail = "fail" // `up` refuses
)

// Finding is the result of one check of the machine: the measured values, and the command that fixes a problem.
type Finding struct {
	ID    string `json:"id"`
	Level string `json:"level"`
	What  string `json:"what"`
	Fix   string `json:"fix,omitempty"`
}

// Doctor checks the machine and changes nothing. The error is a fault.Usage if `up` would refuse.
func Doctor(ctx context.Context, o UpOptions) ([]Finding, error) {
	list, err := doctor(ctx, o, realDeps())
	if list == nil {
		return nil, err
	}
	versions, unknown := addons.Versions()
	if unknown != nil {
		return list, errors.Join(err, unknown)
	}
	return append(list, ends(versions, time.Now())), err
}

func doctor(ctx context.Context, o UpOptions, p deps) ([]Finding, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s, err := inspect(ctx, o, p)
	if err != nil {
		return nil, err
	}
	if s.Action == keep {
		s.Findings = append(s.Findings, proxies(ctx, o.Options, p)...)
	}
	if wrong := s.failed(); len(wrong) > 0 {
		return s.Findings, fault.Usage("fix the failed checks, then run `"+o.Command("up")+"`", "mllab up would refuse because of: %s", strings.Join(wrong, ", "))
	}
	return s.Findings, nil
}

// proxies returns a warning for each proxy of a running lab that rejects its configuration. It ignores errors: status
// reports a lab that does not answer.
func proxies(ctx context.Context, o Options, p deps) (list []Finding) {
	l, err := p.lab(o.store().kubeconfig())
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, openBound)
	defer cancel()
	rejections, err := l.rejections(ctx)
	if err != nil {
		return nil
	}
	for _, r := range rejections {
		list = append(list, Finding{ID: "proxy", Level: LevelWarn, What: r.Error(), Fix: r.Hint()})
	}
	return list
}

// ends returns a warning if the project of a part has no fixes for it any more. It is Doctor's alone: `up` brings the same
// parts, whether or not it says so, and no trouble comes from it.
func ends(versions []addons.Version, now time.Time) Finding {
	j := checker{}
	var past []string
	first := ""
	for _, v := range versions {
		if v.Past(now) {
			past = append(past, fmt.Sprintf("%s %s (%s)", v.Name, v.Version, v.End))
		} else if _, err := time.Parse(time.DateOnly, v.End); err == nil && (first == "" || v.End < first) {
			first = v.End
		}
	}
	if len(past) > 0 {
		j.add("ends", LevelWarn, "use a newer mllab, if there is one; `mllab version` shows all parts", "no fixes any more from the projects of: %s", strings.Join(past, ", "))
	} else {
		j.ok("ends", "the projects of all parts fix them until %s, or name no day", first)
	}
	return j.list[0]
}

func (s inspection) failed() (ids []string) {
	for _, f := range s.Findings {
		if f.Level == LevelFail {
			ids = append(ids, f.ID)
		}
	}
	return ids
}

// inspection is everything that `up` knows before it changes anything.
type inspection struct {
	State     *state // nil when there is no record
	Engine    *engine
	EngineErr error
	Found     []container
	Action    action
	Why       string
	Port      int // of the gateway; 0 for a free one
	Machine   machine
	Findings  []Finding
}

// inspect inspects the machine and the cluster, and changes nothing. An error means that it could not inspect; problems of
// the machine are in Findings.
func inspect(ctx context.Context, o UpOptions, p deps) (s inspection, err error) {
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
	case s.Action == keep || s.Action == restart:
		s.Port = s.Found[0].Port // a node's published port never changes
	case s.State != nil && s.State.Port != 0 && (!o.PortGiven || o.Port == 0):
		s.Port = s.State.Port // a new cluster keeps the port
	}
	s.Machine = p.machine(ctx, o, s.Engine, s.Port)
	s.Findings = findings(o, s)
	return s, nil
}

// refusal returns one error with all problems and their fixes, or nil.
func (s inspection) refusal() error {
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
		return fault.Usage("nothing was changed; `mllab doctor` shows all checks", "this machine is not ready: %s", wrong[0])
	}
	return fault.Usage("nothing was changed; `mllab doctor` shows all checks",
		"this machine is not ready, for %d reasons:\n  %s", len(wrong), strings.Join(wrong, "\n  "))
}

// Measured needs of a lab. A node with Istio, Knative and the sample takes 3.1 GB of memory. Its image and its volume take
// 4.5 GB of the engine's disk. The needs of the cache are those of bootstrap/images; the node image is assembled in the
// cache, too.
const (
	gib              = 1 << 30
	memoryNeeded     = 3 * gib
	memoryWanted     = 5 * gib
	engineNeeded     = 6 * gib
	nodeWrite        = 3 * gib
	reserve          = gib / 2  // free space that a disk needs even if all images are there
	tmpNeeded        = 16 << 20 // for small files of mllab, kind and the engine
	tmpBuilds        = 2 * gib  // for what Go links, and for the Debian of the node
	cacheFilled      = gib / 2  // a smaller cache does not have the images of a lab
	nofileNeeded     = 4096
	nofileWanted     = 16384
	inotifyInstances = 512 // https://kind.sigs.k8s.io/docs/user/known-issues/#pod-errors-due-to-too-many-open-files
	inotifyWatches   = 65536
)

// findings returns the findings of an inspection. It skips some checks if a cluster runs, which has what it needs.
func findings(o UpOptions, s inspection) []Finding {
	j := checker{inspection: s, o: o}
	j.engine()
	j.cluster()
	j.port()
	j.folders()
	if bad := s.Machine.BadProxies; bad != nil {
		j.add("proxy", LevelWarn, "set it to a URL such as http://proxy.example:3128, or unset it", "%s must be the URL of a proxy: requests go without it", strings.Join(bad, ", "))
	}
	if s.Machine.OS == "linux" {
		j.kernel()
	}
	j.capacity()
	j.disks()
	if s.Machine.OS == "linux" {
		j.tools()
	}
	return j.list
}

type checker struct {
	inspection
	o    UpOptions
	list []Finding
}

func (j *checker) running() bool { return j.Action == keep }

func (j *checker) ok(id, format string, args ...any) { j.add(id, LevelOK, "", format, args...) }

func (j *checker) add(id, level, fix, format string, args ...any) {
	if level == LevelOK {
		fix = ""
	}
	j.list = append(j.list, Finding{ID: id, Level: level, What: fmt.Sprintf(format, args...), Fix: fix})
}

func levelFor(have, need, want uint64) string {
	switch {
	case have < need:
		return LevelFail
	case have < want:
		return LevelWarn
	}
	return LevelOK
}

func ifElse(cond bool, yes, no string) string {
	if cond {
		return yes
	}
	return no
}

// oldestEngine is the oldest version of an engine that kind works with: Docker's flag --cgroupns came with 20.10, and
// podman's inspect was broken before 3.0.
// https://github.com/kubernetes-sigs/kind/blob/v0.33.0/pkg/cluster/internal/providers/podman/provider.go
var oldestEngine = map[string]string{"docker": "20.10", "podman": "3.0"}

func tooOld(e *engine) bool {
	has, err := version.ParseGeneric(e.Version)
	oldest, none := version.ParseGeneric(oldestEngine[e.Name])
	return err == nil && none == nil && has.LessThan(oldest)
}

func (j *checker) engine() {
	m, e := j.Machine, j.Engine
	oldCgroup := m.OS == "linux" && m.Cgroup != "v2"
	switch {
	case e == nil:
		j.add("engine", LevelFail, fault.Hint(j.EngineErr), "%v", j.EngineErr)
	case j.o.Engine != "" && j.State != nil && j.State.Engine != j.o.Engine:
		j.add("engine", LevelFail, fmt.Sprintf("leave out --engine, or `mllab down --name %s` first", j.o.Name), "cluster %s was created with %s, not %s", j.o.Name, j.State.Engine, j.o.Engine)
	case e.Arch != "" && m.Arch != "" && e.Arch != m.Arch:
		j.add("engine", LevelFail, fmt.Sprintf("use the mllab that was built for %s, or another --engine", e.Arch), "%s %s runs on %s, and this mllab has programs for %s", e.Name, e.Version, e.Arch, m.Arch)
	case tooOld(e):
		j.add("engine", LevelFail, fmt.Sprintf("install %s %s or newer, or use another --engine", e.Name, oldestEngine[e.Name]), "%s %s is too old: kind, which creates the node, needs %s", e.Name, e.Version, oldestEngine[e.Name])
	case e.Rootless && oldCgroup:
		j.add("engine", LevelFail, "run mllab as root, or boot with systemd.unified_cgroup_hierarchy=1", "%s %s is rootless, which kind can use with cgroup v2 only; this machine has %s", e.Name, e.Version, m.Cgroup)
	case e.Name == "podman" && oldCgroup && e.Runtime == "crun" && !m.Tools["runc"]:
		j.add("engine", LevelFail, "`sudo apt-get install runc`", "podman %s uses crun, which refuses cgroup %s, and runc is not installed", e.Version, m.Cgroup)
	case e.Misled != nil:
		j.add("engine", LevelWarn, fault.Hint(e.Misled)+", or use this one: --engine "+e.Name, "%s %s works, but %v", e.Name, e.Version, e.Misled)
	default:
		j.ok("engine", "%s %s works%s%s", e.Name, e.Version, ifElse(e.Rootless, ", rootless", ""), prefixed(", with ", strings.Join(e.Variables, " ")))
	}
}

func (j *checker) cluster() {
	switch {
	case j.Engine == nil:
	case j.Action == refuse && j.State == nil && len(j.Found) == 1 && j.Found[0].ours(j.o.Name):
		j.add("cluster", LevelFail, fmt.Sprintf("`mllab down --name %s`, then up again; or use the --state-dir that it was created with", j.o.Name), "cluster %s is mllab's, but %s has no record of it", j.o.Name, j.o.State)
	case j.Action == refuse:
		j.add("cluster", LevelFail, fmt.Sprintf("pick another --name, or remove that one yourself: `kind delete cluster --name %s`", j.o.Name), "a cluster named %s exists and is not mllab's (container %s, image %s): mllab does not touch it", j.o.Name, j.Found[0].Name, j.Found[0].Image)
	case (j.Action == keep || j.Action == restart) && j.otherKubernetes() != "":
		j.add("cluster", LevelFail, fmt.Sprintf("`mllab down --name %[1]s`, then up, which creates a new lab on the same port; or go on with the mllab that created it, or with a second lab: `mllab up --name %[1]s-2 --port auto`", j.o.Name),
			"cluster %s is a lab of Kubernetes %s, and this mllab brings %s: it does not change the one into the other", j.o.Name, j.otherKubernetes(), images.KubeVersion)
	case j.Action == restart, j.Action == replace:
		j.add("cluster", LevelWarn, "`"+j.o.upAgain(j.State)+"` does it", "cluster %s has a record, but %s: up will %s it", j.o.Name, j.Why, j.Action)
	case j.running():
		j.ok("cluster", "cluster %s runs", j.o.Name)
	default:
		j.ok("cluster", "no cluster is named %s", j.o.Name)
	}
}

// otherKubernetes returns the version of the cluster's Kubernetes if its minor version is not the one that up brings.
func (j *checker) otherKubernetes() string {
	has := tag(j.State.Images["kube-apiserver"])
	if minor(has) == 0 || minor(has) == minor(images.KubeVersion) {
		return ""
	}
	return has
}

func (j *checker) port() {
	port, m := j.Port, j.Machine
	switch {
	case (j.running() || j.Action == restart) && j.o.PortGiven && j.o.Port != 0 && j.o.Port != port:
		j.add("port", LevelFail, fmt.Sprintf("leave out --port, or `mllab down --name %s && mllab up --port %d`", j.o.Name, j.o.Port), "cluster %s has its gateway on port %d, which cannot be changed to %d while it exists", j.o.Name, port, j.o.Port)
	case (j.running() || j.Action == replace) && len(j.Found) == 1 && j.Found[0].Port == port:
		j.ok("port", "port %d is this cluster's", port)
	case port == 0:
		j.ok("port", "a free one will be picked")
	case errors.Is(m.PortErr, syscall.EACCES):
		j.add("port", LevelFail, "use a port above 1023, such as --port 8080, or --port auto", "this user may not listen on port %d", port)
	case m.PortErr != nil:
		j.add("port", LevelFail, "--port auto picks a free one", "127.0.0.1:%d is in use%s", port, prefixed(" by ", m.PortHolder))
	default:
		j.ok("port", "127.0.0.1:%d is free", port)
	}
}

// folders checks the folders that later steps write to: mllab's own, the engine's and Go's.
func (j *checker) folders() {
	for _, f := range j.Machine.Folders {
		switch {
		case f.Err == nil:
			j.ok(f.ID, "%s: %s", f.What, f.Path)
		default:
			j.add(f.ID, f.Level, cmp.Or(f.Fix, fault.Hint(f.Err)), "%s: %v", f.What, f.Err)
		}
	}
}

// kernel checks the limits that Linux sets for this process and for the engine.
func (j *checker) kernel() {
	m, e := j.Machine, j.Engine
	j.ok("cgroup", "%s%s", m.Cgroup, ifElse(m.Cgroup != "v2", ": Kubernetes still runs on it where its configuration allows it, as in a lab; from 1.35 on it is deprecated", ""))
	if m.Nofile > 0 {
		j.add("nofile", levelFor(m.Nofile, nofileNeeded, nofileWanted), fmt.Sprintf("`ulimit -Hn %d` as root, in the shell that runs mllab", nofileWanted),
			"hard limit of open files is %d (needed %d, wanted %d)", m.Nofile, nofileNeeded, nofileWanted)
	}
	if m.InotifyInstances > 0 {
		j.add("inotify", ifElse(m.InotifyInstances < inotifyInstances || m.InotifyWatches < inotifyWatches, LevelWarn, LevelOK), inotifyFix(m.InotifyWatches),
			"%d instances and %d watches for each user (wanted %d and %d; too few end in \"too many open files\")", m.InotifyInstances, m.InotifyWatches, inotifyInstances, inotifyWatches)
	}
	missing := ifElse(m.Root, "is missing: up creates it", "is missing")
	j.add("lib-modules", ifElse(!m.LibModules && !m.Root && (e == nil || e.Name != "docker"), LevelFail, LevelOK), "`sudo mkdir -p /lib/modules`",
		"/lib/modules, which kind mounts into the node, %s", ifElse(m.LibModules, "is there", missing))
}

func inotifyFix(watches uint64) string {
	return fmt.Sprintf("`sudo sysctl fs.inotify.max_user_instances=%d fs.inotify.max_user_watches=%d`", inotifyInstances, max(inotifyWatches, watches))
}

func (j *checker) capacity() {
	if j.running() {
		return
	}
	if have := nodeMemoryLimit(j.Machine.MemoryAvailable, j.Engine); have > 0 {
		j.add("memory", levelFor(have, memoryNeeded, memoryWanted), "end a large program, or give the machine (or the engine's virtual machine) more memory",
			"%s available (needed %s, wanted %s)", size(have), size(memoryNeeded), size(memoryWanted))
	}
	j.add("cpu", ifElse(j.Machine.CPUs < 2, LevelWarn, LevelOK), "give the machine a second core", "%d cores (wanted 2)", j.Machine.CPUs)
}

func (j *checker) disks() {
	m, e := j.Machine, j.Engine
	there := j.running() || j.Action == restart
	need, want := uint64(reserve), uint64(reserve)
	switch {
	case there:
	case m.CacheUsed >= cacheFilled:
		need, want = nodeWrite, nodeWrite
	case j.o.Mode == "source":
		need, want = images.SourceDisk, images.SourceDisk
	case j.o.Mode == "auto":
		need, want = images.RegistryDisk, images.SourceDisk
	default:
		need, want = images.RegistryDisk, images.RegistryDisk
	}
	j.add("disk-cache", levelFor(m.CacheFree, need, want), "free some space, or put the cache elsewhere with --cache-dir FOLDER",
		"%s free at %s (needed %s%s; the image cache holds %s)", size(m.CacheFree), j.o.Cache, size(need),
		ifElse(want > need, ", and "+size(want)+" to build from source", ""), size(m.CacheUsed))
	if e == nil || !m.EngineDisk {
		return
	}
	need = reserve
	if !there {
		need = engineNeeded
	}
	j.add("disk-engine", levelFor(m.EngineFree, need, need), fmt.Sprintf("free some space: `%s system prune`", e.Name),
		"%s free at %s, where %s keeps images and containers (needed %s)", size(m.EngineFree), e.Root, e.Name, size(need))
}

// tools checks the tools of a build from source. Only the first build needs them, and `auto` may use a registry instead. Of
// Kubeflow's Python image no registry has a copy.
func (j *checker) tools() {
	have, level := j.Machine.Tools, LevelFail
	if j.o.Mode == "auto" || j.Machine.CacheUsed >= cacheFilled {
		level = LevelWarn
	}
	pulled := j.o.Mode == "registry"
	for _, t := range []struct {
		id, fix, what string
		ok            bool
	}{
		{"tool-go", "install Go 1.26.8 or newer: https://go.dev/doc/install", "Go", have["go"]},
		{"tool-cc", "`sudo apt-get install gcc libc6-dev`", "a C compiler (for runc)", have["cc"] || have["gcc"]},
		{"tool-seccomp", "`sudo apt-get install libseccomp-dev`", "libseccomp's headers (for runc)", have["seccomp.h"]},
		{"tool-pkg-config", "`sudo apt-get install pkg-config`", "pkg-config (for runc)", have["pkg-config"]},
		{"tool-mmdebstrap", "`sudo apt-get install mmdebstrap`", "mmdebstrap (for the node's Debian)", have["mmdebstrap"]},
		{"tool-keyring", "`sudo apt-get install debian-archive-keyring`", "Debian's archive keys (for the node's Debian)", have["keyring"]},
		{"tool-pip", "`sudo apt-get install python3-pip`", "python3 with pip (for the wheels of Envoy and of Kubeflow's Python)", have["python3"] && have["pip"]},
	} {
		if pulled && (t.id != "tool-pip" || j.o.Core) {
			continue
		}
		if t.ok {
			j.ok(t.id, "%s: installed", t.what)
		} else {
			j.add(t.id, level, t.fix+"; or `mllab up --"+ifElse(pulled, "core", "image-source registry")+"`", "%s: missing, but needed to build images from source", t.what)
		}
	}
}

// nodeMemoryLimit returns the memory that a node can have: that of the machine, or of the engine's virtual machine.
func nodeMemoryLimit(available uint64, e *engine) uint64 {
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

func size(n uint64) string {
	switch {
	case n >= gib:
		return fmt.Sprintf("%.1f GiB", float64(n)/gib)
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}
