package bootstrap

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree writes files under a root of their own.
func tree(t *testing.T, files map[string]string) string {
	root := t.TempDir() + "/"
	for name, text := range files {
		if err := writeFile(root+name, []byte(text), 0o600); err != nil {
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
		"proc/7/comm":                              "dockerd\n",
		"proc/7/status":                            "CapBnd:\t000001ffffffffff\n",
		"proc/sys/kernel/pid_max":                  "32768\n",
		"proc/sys/fs/inotify/max_user_instances":   "128\n",
		"proc/sys/fs/inotify/max_user_watches":     "192536\n",
		"proc/meminfo":                             "MemTotal: 9 kB\nMemAvailable:   2048 kB\n",
		"sys/fs/cgroup/unified/cgroup.controllers": "",
		"lib/modules/x":                            "",
	})
	var m machine
	m.readLinux(root, &engine{Name: "podman"})
	want := machine{Cgroup: "hybrid", Nofile: 20000, Nproc: 96365, PidMax: 32768, InotifyInstances: 128, InotifyWatches: 192536, MemoryAvailable: 2048 * 1024, LibModules: true}
	if fmt.Sprint(m) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", m, want)
	}
	m.readLinux(root, &engine{Name: "docker"})
	if m.SysResource || !m.EngineSysResource {
		t.Errorf("docker's daemon has the capability that this process lacks: %+v", m)
	}
	if err := os.WriteFile(root+"proc/7/status", []byte("CapBnd:\t000001fffeffffff\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if m.readLinux(root, &engine{Name: "docker"}); m.EngineSysResource {
		t.Error("docker's daemon lacks the capability")
	}
	if m.readLinux(tree(t, map[string]string{"sys/fs/cgroup/cgroup.controllers": ""}), nil); m.Cgroup != "v2" || !m.SysResource {
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
	if got, want := portHolder("/proc", port), fmt.Sprintf("(process %d)", os.Getpid()); !strings.HasSuffix(got, want) {
		t.Errorf("holder %q, want …%s", got, want)
	}
	free, err := freePort()
	if err != nil || listen(free) != nil || portHolder("/proc", free) != "" {
		t.Errorf("free port %d: %v, %v, %q", free, err, listen(free), portHolder("/proc", free))
	}
}

func TestUsedDiskIsThatOfTheFiles(t *testing.T) {
	dir := t.TempDir()
	if err := writeFile(filepath.Join(dir, "a", "b"), make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if usedBytes(dir) != 1000 || usedBytes(dir+"/nothing") != 0 {
		t.Errorf("used %d", usedBytes(dir))
	}
}
