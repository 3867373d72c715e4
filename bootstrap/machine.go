package bootstrap

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"mllab.local/bootstrap/images"
	"mllab.local/internal/folder"
	"mllab.local/internal/run"
)

// machine has the measured values that doctor checks. A zero number means unknown.
type machine struct {
	OS, Arch         string // as Go calls them
	Root             bool
	Cgroup           string // "v1", "hybrid", "v2"
	SysResource      bool   // this process's bounding set has CAP_SYS_RESOURCE
	Nofile           uint64 // hard limits of this process
	Nproc            uint64
	PidMax           uint64
	InotifyInstances uint64
	InotifyWatches   uint64
	MemoryAvailable  uint64 // bytes
	CPUs             int
	LibModules       bool            // /lib/modules exists
	Tools            map[string]bool // programs and headers that `source` and podman need
	CacheFree        uint64          // bytes
	CacheUsed        uint64          // bytes in the image cache
	EngineFree       uint64          // free bytes of the engine's storage
	EngineDisk       bool            // whether that is on this machine
	PortErr          error           // why mllab cannot listen on it, or nil
	PortHolder       string          // process that listens on it, if known
	Folders          []folderUse
	BadProxies       []string // variables
}

// folderUse is a folder that a later step writes to. Err is why it cannot, or nil.
type folderUse struct {
	ID, What, Path string
	Err            error
	Fix            string
	Level          string // of the finding if Err is set
}

// readFolders checks the folders that mllab, the engine, kind and Go write to.
func readFolders(ctx context.Context, p deps, o UpOptions, hasGo bool) []folderUse {
	tmp, home := cmp.Or(p.getenv("TMPDIR"), "/tmp"), p.getenv("HOME")
	list := []folderUse{
		{"tmp", "temporary files" + prefixed(", TMPDIR=", p.getenv("TMPDIR")), tmp, roomNow(tmp, tmpNeeded), "set TMPDIR to an existing folder with room, or unset it", LevelFail},
		{"home", "HOME", home, isFolder(home), "set HOME to an existing folder: the engine, pip and Go need it", LevelFail},
		{"state", "kubeconfig and records", o.State, o.store().check(), "", LevelFail},
		{"cache", "the image cache", o.Cache, images.CheckCache(o.Cache), "", LevelFail},
	}
	switch own := &list[1]; {
	case home == "":
		own.Err, own.Level = errors.New("HOME is not set"), LevelWarn
	case !filepath.IsAbs(home):
		own.Err = errors.New("it must be an absolute path")
		fallthrough
	case own.Err != nil:
		own.What += "=" + home
		return list // Go would make it
	}
	if !hasGo || o.Mode == "registry" {
		return list
	}
	level := LevelFail
	if o.Mode == "auto" || usedBytes(o.Cache) >= cacheFilled {
		level = LevelWarn
	}
	if own := &list[0]; own.Err == nil {
		own.Level = level
		if own.Err = roomNow(tmp, tmpBuilds); own.Err == nil && noexec(tmp) {
			own.Err = fmt.Errorf("%s is mounted noexec, and mmdebstrap runs programs in it", tmp)
			own.Fix = "set TMPDIR to a folder with room that is not mounted noexec"
		}
	}
	keys := []string{"GOCACHE", "GOMODCACHE", "GOTMPDIR"}
	var out bytes.Buffer
	// A build has a GOTOOLCHAIN of its own, whatever the user's is, and nothing is downloaded here.
	err := p.run.Run(ctx, run.Cmd{Path: "go", Args: append([]string{"env"}, keys...), Env: []string{"GOTOOLCHAIN=local"}, Stdout: &out})
	values := strings.Split(out.String(), "\n")
	if err != nil {
		return append(list, folderUse{"go-env", "Go's settings", "", errors.New(said(err)[0]), "correct the variable that Go names", level})
	}
	for i, key := range keys {
		path := ""
		if i < len(values) {
			path = values[i]
		}
		use := folderUse{"go-" + strings.ToLower(strings.TrimPrefix(key, "GO")), "Go's " + key, path, nil, "set " + key + " to a folder that this user can write to, or HOME", level}
		switch {
		case key == "GOTMPDIR" && path == "":
			continue // Go uses TMPDIR then
		case key == "GOTMPDIR":
			use.Err = roomNow(path, tmpBuilds)
		case path == "":
			use.Err = fmt.Errorf("neither %s nor HOME is set", key)
		case path == "off":
			use.Err = fmt.Errorf("%s is off", key)
			for _, variable := range []string{key, "XDG_CACHE_HOME"} { // Go says off for these, too
				if value := p.getenv(variable); value != "" && value != "off" && !filepath.IsAbs(value) {
					use.Err, use.Fix = fmt.Errorf("%s must be an absolute path, got %s", variable, value), "set "+variable+" to an absolute path, or unset it"
					break
				}
			}
		default:
			use.Err = folder.Usable(path)
		}
		list = append(list, use)
	}
	return list
}

func isFolder(path string) error {
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		return fmt.Errorf("%s is not a folder", path)
	}
	return err
}

// roomNow returns nil if path is an existing folder that this process can write need bytes to.
func roomNow(path string, need uint64) error {
	if err := isFolder(path); err != nil {
		return err
	}
	if err := folder.Usable(path); err != nil {
		return err
	}
	if free, err := images.Free(path); err != nil || free < need {
		return cmp.Or(err, fmt.Errorf("%s free at %s (needed %s)", size(free), path, size(need)))
	}
	return nil
}

// noexec reports whether programs cannot be run from path. It is false where images are not built from source.
func noexec(path string) bool {
	const noexecMount = 0x8 // ST_NOEXEC of statfs(2)
	var fs syscall.Statfs_t
	return runtime.GOOS == "linux" && syscall.Statfs(path, &fs) == nil && fs.Flags&noexecMount != 0
}

// readMachine measures the machine. e is nil if no engine works.
func readMachine(ctx context.Context, p deps, o UpOptions, e *engine, port int) machine {
	m := machine{OS: runtime.GOOS, Arch: runtime.GOARCH, Root: os.Geteuid() == 0, CPUs: runtime.NumCPU(), Tools: map[string]bool{}, SysResource: true}
	for _, tool := range []string{"go", "cc", "gcc", "mmdebstrap", "pkg-config", "python3", "runc"} {
		_, err := p.lookPath(tool)
		m.Tools[tool] = err == nil
	}
	if m.Tools["python3"] {
		_, err := run.Output(ctx, p.run, "python3", "-c", "import pip")
		m.Tools["pip"] = err == nil
	}
	m.Tools["seccomp.h"] = exists("/usr/include/seccomp.h") || exists("/usr/local/include/seccomp.h")
	m.Tools["keyring"] = exists("/usr/share/keyrings/debian-archive-keyring.gpg")
	m.BadProxies = run.BadProxies(p.getenv)
	m.Folders = readFolders(ctx, p, o, m.Tools["go"])
	m.CacheFree, _ = images.Free(o.Cache)
	m.CacheUsed = usedBytes(o.Cache)
	if port != 0 {
		if m.PortErr = listen(port); errors.Is(m.PortErr, syscall.EADDRINUSE) {
			m.PortHolder = portHolder(port)
		}
	}
	if e != nil {
		free, err := images.Free(e.Root)
		m.EngineFree, m.EngineDisk = free, err == nil && exists(e.Root)
	}
	if m.OS == "linux" {
		m.readLinux("/")
	}
	return m
}

// readLinux reads /proc and /sys below root. Tests use another root than /.
func (m *machine) readLinux(root string) {
	switch {
	case exists(root + "sys/fs/cgroup/cgroup.controllers"):
		m.Cgroup = "v2"
	case exists(root + "sys/fs/cgroup/unified/cgroup.controllers"):
		m.Cgroup = "hybrid"
	default:
		m.Cgroup = "v1"
	}
	m.SysResource = sysResource(root + "proc/self/status")
	limits := readText(root + "proc/self/limits")
	m.Nofile, m.Nproc = hardLimit(limits, "Max open files"), hardLimit(limits, "Max processes")
	m.PidMax = number(readText(root + "proc/sys/kernel/pid_max"))
	m.InotifyInstances = number(readText(root + "proc/sys/fs/inotify/max_user_instances"))
	m.InotifyWatches = number(readText(root + "proc/sys/fs/inotify/max_user_watches"))
	if _, after, ok := strings.Cut(readText(root+"proc/meminfo"), "MemAvailable:"); ok {
		m.MemoryAvailable = number(after) * 1024
	}
	m.LibModules = exists(root + "lib/modules")
}

const capSysResource = 24 // linux/capability.h

// sysResource reads the bounding set in a process's status file. If it cannot read the file it returns true.
func sysResource(status string) bool {
	_, after, ok := strings.Cut(readText(status), "CapBnd:")
	if !ok {
		return true
	}
	set, err := strconv.ParseUint(strings.Fields(after + " -")[0], 16, 64)
	return err != nil || set&(1<<capSysResource) != 0
}

// hardLimit returns the hard limit of a line in /proc/PID/limits. "unlimited" and a missing line are 0.
func hardLimit(limits, name string) uint64 {
	_, after, _ := strings.Cut(limits, name)
	line, _, _ := strings.Cut(after, "\n")
	if f := strings.Fields(line); len(f) >= 2 {
		return number(f[1])
	}
	return 0
}

func number(s string) uint64 {
	f := strings.Fields(s)
	if len(f) == 0 {
		return 0
	}
	n, err := strconv.ParseUint(f[0], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func readText(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(data)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// usedBytes returns the size of the files below path. Files that disappear meanwhile do not count.
func usedBytes(path string) (sum uint64) {
	_ = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			sum += uint64(info.Size())
		}
		return nil
	})
	return sum
}

func listen(port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return l.Close()
}

// portHolder returns the process that listens on the port; "" if unknown (without root it may be another user's).
func portHolder(port int) string {
	inodes := map[string]bool{}
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		for _, line := range strings.Split(readText(filepath.Join("/proc", table)), "\n") {
			// columns: sl local_address rem_address st ... inode; 0A is LISTEN
			if f := strings.Fields(line); len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
	}
	if len(inodes) == 0 {
		return ""
	}
	fds, _ := filepath.Glob(filepath.Join("/proc", "[0-9]*", "fd", "*")) // the pattern is well-formed
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && inodes[target] {
			pid := filepath.Dir(filepath.Dir(fd))
			return fmt.Sprintf("%s (process %s)", strings.TrimSpace(readText(filepath.Join(pid, "comm"))), filepath.Base(pid))
		}
	}
	return ""
}
