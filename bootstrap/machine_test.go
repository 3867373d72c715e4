package bootstrap

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mllab.local/internal/fault"
	"mllab.local/internal/run"
)

// tree writes files under a root of their own.
func tree(t *testing.T, files map[string]string) string {
	root := t.TempDir() + "/"
	for name, text := range files {
		if err := writeFile(root+name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const limits = `Limit                     Soft Limit           Hard Limit           Units
Max core file size        0                    unlimited            bytes
Max processes             96365                96365                processes
Max open files            1024                 20000                files
`

func TestTheMachineIsReadFromProcAndSys(t *testing.T) {
	root := tree(t, map[string]string{
		"proc/self/status":                         "Name:\tx\nCapBnd:\t000001fffeffffff\n",
		"proc/self/limits":                         limits,
		"proc/sys/kernel/pid_max":                  "32768\n",
		"proc/sys/fs/inotify/max_user_instances":   "128\n",
		"proc/sys/fs/inotify/max_user_watches":     "192536\n",
		"proc/meminfo":                             "MemTotal: 9 kB\nMemAvailable:   2048 kB\n",
		"sys/fs/cgroup/unified/cgroup.controllers": "",
		"lib/modules/x":                            "",
	})
	var m machine
	m.readLinux(root)
	want := machine{Cgroup: "hybrid", Nofile: 20000, Nproc: 96365, PidMax: 32768, InotifyInstances: 128, InotifyWatches: 192536, MemoryAvailable: 2048 * 1024, LibModules: true}
	if fmt.Sprint(m) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", m, want)
	}
	if m.readLinux(tree(t, map[string]string{"sys/fs/cgroup/cgroup.controllers": ""})); m.Cgroup != "v2" || !m.SysResource {
		t.Errorf("cgroup v2 and nothing else to read: %+v", m)
	}
}

func TestTheHolderOfAPortIsFound(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	if err := listen(port); err == nil {
		t.Error("the port can be listened on twice")
	}
	if got, want := portHolder(port), fmt.Sprintf("(process %d)", os.Getpid()); !strings.HasSuffix(got, want) {
		t.Errorf("holder %q, want …%s", got, want)
	}
	free, err := freePort()
	if err != nil || listen(free) != nil || portHolder(free) != "" {
		t.Errorf("free port %d: %v, %v, %q", free, err, listen(free), portHolder(free))
	}
}

func TestUsedDiskIsThatOfTheFiles(t *testing.T) {
	dir := t.TempDir()
	if err := writeFile(filepath.Join(dir, "a", "b"), make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if usedBytes(dir) != 1000 || usedBytes(dir+"/nothing") != 0 {
		t.Errorf("used %d", usedBytes(dir))
	}
}

func TestFoldersOfLaterStepsAreLookedAtByTheirVariables(t *testing.T) {
	file, link, good := filepath.Join(t.TempDir(), "file"), filepath.Join(t.TempDir(), "link"), t.TempDir()
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink("/nowhere", link)); err != nil {
		t.Fatal(err)
	}
	goEnv := func(values ...string) string { return strings.Join(values, "\n") + "\n" }
	for _, c := range []struct {
		name      string
		env       map[string]string
		goEnv     any
		change    func(*UpOptions)
		id, error string // "" when all is well
	}{
		{"all is well", nil, goEnv(good, good, ""), nil, "", ""},
		{"TMPDIR points nowhere", map[string]string{"TMPDIR": "/nowhere"}, goEnv(good, good, ""), nil, "tmp", "stat /nowhere: no such file"},
		{"TMPDIR is a file", map[string]string{"TMPDIR": file}, goEnv(good, good, ""), nil, "tmp", file + " is not a folder"},
		{"HOME is not set", map[string]string{"HOME": ""}, goEnv(good, good, ""), nil, "home", "HOME is not set"},
		// Go would make that folder: it is not asked.
		{"HOME points nowhere", map[string]string{"HOME": "/nowhere"}, errors.New("Go is asked"), nil, "home", "no such file"},
		{"HOME is a file", map[string]string{"HOME": file}, errors.New("Go is asked"), nil, "home", "is not a folder"},
		{"HOME is relative", map[string]string{"HOME": "."}, errors.New("Go is asked"), nil, "home", "must be an absolute path"},
		{"GOCACHE is relative", map[string]string{"GOCACHE": "x/y"}, goEnv("off", good, ""), nil, "go-cache", "GOCACHE must be an absolute path, got x/y"},
		{"Go's default is relative", map[string]string{"XDG_CACHE_HOME": "x/y"}, goEnv("off", good, ""), nil, "go-cache", "XDG_CACHE_HOME must be an absolute path, got x/y"},
		{"GOCACHE is off", map[string]string{"GOCACHE": "off"}, goEnv("off", good, ""), nil, "go-cache", "GOCACHE is off"},
		{"GOPATH is relative", nil, errors.New("running go env: exit status 2: go: GOPATH entry is relative; must be absolute path: \"x\".\nFor more details see: 'go help gopath'"), nil, "go-env", `GOPATH entry is relative; must be absolute path: "x"`},
		{"the state folder is a file", nil, goEnv(good, good, ""), func(o *UpOptions) { o.State = file }, "state", "--state-dir must be a folder that mllab can write to, got " + file},
		{"the cache is below a link that leads nowhere", nil, goEnv(good, good, ""), func(o *UpOptions) { o.Cache = filepath.Join(link, "cache") }, "cache", "leads nowhere"},
		{"the state folder has other things", nil, goEnv(good, good, ""), func(o *UpOptions) { o.State = filepath.Dir(file) }, "state", "which holds file"},
		{"GOCACHE is a file", nil, goEnv(file, good, ""), nil, "go-cache", "is not a folder"},
		{"GOMODCACHE is below a file", nil, goEnv(good, file+"/x", ""), nil, "go-modcache", "not a directory"},
		{"GOTMPDIR points nowhere", nil, goEnv(good, good, "/nowhere"), nil, "go-tmpdir", "/nowhere"},
		{"Go has no folders", nil, goEnv("", "", ""), nil, "go-cache", "neither GOCACHE nor HOME is set"},
		{"Go refuses its variables", nil, errors.New(`running go env: exit status 1: go: parsing $GOFLAGS: non-flag "foo"`), nil, "go-env", `parsing $GOFLAGS: non-flag "foo"`},
		{"Go does not matter when images are pulled", nil, goEnv(file, file, file), func(o *UpOptions) { o.Mode = "registry" }, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := engines(map[string]any{"go": c.goEnv})
			p.getenv = func(key string) string {
				if v, set := c.env[key]; set {
					return v
				}
				return map[string]string{"HOME": good, "TMPDIR": good}[key]
			}
			o := newWorld(t).options()
			o.Mode = "source"
			if c.change != nil {
				c.change(&o)
			}
			var wrong []folderUse
			for _, f := range readFolders(t.Context(), p, o, true) {
				if f.Err != nil {
					wrong = append(wrong, f)
				}
			}
			if c.id == "" {
				if len(wrong) > 0 {
					t.Errorf("%+v", wrong)
				}
				return
			}
			if len(wrong) == 0 || c.id == "home" && len(wrong) > 1 || wrong[0].ID != c.id || !strings.Contains(wrong[0].Err.Error(), c.error) {
				t.Fatalf("%+v", wrong)
			}
			j := checker{inspection: inspection{Machine: machine{Folders: wrong}}}
			j.folders()
			if f := j.list[0]; f.Level == LevelOK || f.Fix == "" || !strings.Contains(f.What, c.error) || !strings.Contains(f.What, c.env["TMPDIR"]) || !strings.Contains(f.What, c.env["HOME"]) {
				t.Errorf("%+v", f)
			}
		})
	}
}

// A build overrides GOTOOLCHAIN, so the user's is no fault, and its Go is not downloaded for a check.
func TestGoIsAskedWithoutTheUsersToolchain(t *testing.T) {
	t.Setenv("GOTOOLCHAIN", "go1.99.0")
	t.Setenv("GOPROXY", "off")
	p := engines(nil)
	p.run, p.getenv = run.Exec{}, os.Getenv
	o := newWorld(t).options()
	o.Mode = "source"
	list := readFolders(t.Context(), p, o, true)
	for _, f := range list {
		if f.ID == "go-env" { // only there when Go fails
			t.Errorf("%+v", f)
		}
	}
	if !slices.ContainsFunc(list, func(f folderUse) bool { return f.ID == "go-cache" && f.Path != "" }) {
		t.Errorf("Go was not asked: %+v", list)
	}
}

func TestTheFolderOfTemporaryFilesHasRoomAndTakesPrograms(t *testing.T) {
	good := t.TempDir()
	if err := roomNow(good, math.MaxUint64); err == nil || !strings.Contains(err.Error(), " free at "+good+" (needed ") || noexec(good) {
		t.Errorf("%v, noexec: %t", err, noexec(good))
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "noexec,size=3g", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("this user mounts nothing: %v %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("%v %s", err, out)
		}
	})
	for mode, want := range map[string]string{"source": LevelFail, "auto": LevelWarn, "registry": ""} {
		p := engines(map[string]any{"go": good + "\n" + good + "\n\n"})
		p.getenv = func(key string) string { return map[string]string{"HOME": good, "TMPDIR": dir}[key] }
		o := newWorld(t).options()
		o.Mode = mode
		tmp := readFolders(t.Context(), p, o, true)[0]
		if (tmp.Err != nil) != (want != "") || tmp.Err != nil && (tmp.Level != want || !strings.Contains(tmp.Err.Error(), dir+" is mounted noexec")) {
			t.Errorf("%s: %+v", mode, tmp)
		}
	}
}

func TestWithoutHomeNothingGoesToTmp(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		says string // "" when it is not refused
	}{
		{map[string]string{}, "HOME is not set"},
		{map[string]string{"HOME": "/nowhere"}, "HOME must be a folder, got /nowhere"},
		{map[string]string{"XDG_STATE_HOME": "state"}, "XDG_STATE_HOME must be an absolute path, got state"},
		{map[string]string{"XDG_STATE_HOME": "/var/lib", "XDG_CACHE_HOME": "/var/cache"}, ""},
		{map[string]string{"XDG_STATE_HOME": "/var/lib", "MLLAB_CACHE_DIR": "/var/cache/mllab"}, ""},
	} {
		for _, key := range []string{"HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "MLLAB_CACHE_DIR"} {
			t.Setenv(key, c.env[key])
		}
		o, err := UpOptions{Port: DefaultPort}.withDefaults()
		if c.says == "" {
			if err != nil || o.State != "/var/lib/mllab" || o.Cache != "/var/cache/mllab" {
				t.Errorf("%v: %s, %s, %v", c.env, o.State, o.Cache, err)
			}
			continue
		}
		if c.env["XDG_STATE_HOME"] != "" {
			t.Setenv("MLLAB_CACHE_DIR", "/var/cache/mllab")
			_, err = UpOptions{Port: DefaultPort}.withDefaults()
		}
		if fault.Code(err) != 2 || !strings.Contains(err.Error(), c.says) || !strings.Contains(fault.Hint(err), "set ") {
			t.Errorf("%v: %v, hint %q", c.env, err, fault.Hint(err))
		}
	}
}

func TestAProxyThatIsNoURLIsSaid(t *testing.T) {
	for value, want := range map[string]string{
		"": "", "http://proxy:3128": "", "proxy:3128": "", "https://me:secret@proxy": "", "socks5://127.0.0.1:1080": "", "http://[::1]:3128": "",
		"http://[::1": "HTTPS_PROXY", "http://": "HTTPS_PROXY", "proxy:secret:x": "HTTPS_PROXY", "ftp://proxy": "HTTPS_PROXY", "http://proxy:port": "HTTPS_PROXY",
	} {
		bad := run.BadProxies(func(key string) string { return map[string]string{"HTTPS_PROXY": value}[key] })
		if got := strings.Join(bad, " "); got != want {
			t.Errorf("%q: got %q", value, got)
		}
		list := findings(UpOptions{}, inspection{Machine: machine{BadProxies: bad}})
		i := slices.IndexFunc(list, func(f Finding) bool { return f.ID == "proxy" })
		if (i >= 0) != (want != "") || i >= 0 && (list[i].Level != LevelWarn || !strings.HasPrefix(list[i].What, "HTTPS_PROXY must be") || strings.Contains(list[i].What, "secret")) {
			t.Errorf("%q: %+v", value, list)
		}
	}
}
