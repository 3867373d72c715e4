package bootstrap

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mllab.local/addons"
	"mllab.local/internal/fault"
)

func find(list []Finding, id string) Finding {
	i := slices.IndexFunc(list, func(f Finding) bool { return f.ID == id })
	if i < 0 {
		return Finding{}
	}
	return list[i]
}

func TestDoctorOnAGoodMachineFindsNothing(t *testing.T) {
	w := newWorld(t)
	list, err := doctor(t.Context(), w.options(), w.deps())
	if err != nil || len(list) < 10 {
		t.Fatalf("%d findings, %v", len(list), err)
	}
	for _, f := range list {
		if f.Level != LevelOK || f.Fix != "" || f.What == "" {
			t.Errorf("%+v", f)
		}
	}
	if len(w.calls) > 0 {
		t.Errorf("it changed something: %v", w.calls)
	}
}

func TestDoctorWarnsOfPartsWithoutFixes(t *testing.T) {
	parts := []addons.Version{{Name: "kubernetes", Version: "1.36.5", End: "2027-06-28"}, {Name: "knative", Version: "1.23.0", End: "2027-02-02"},
		{Name: "argo-workflows", Version: "4.1.4", End: "with 4.3"}, {Name: "jobset", Version: "0.12.0"}}
	for _, c := range []struct{ day, level, what string }{
		{"2027-02-02", LevelOK, "until 2027-02-02"},
		{"2027-02-03", LevelWarn, "knative 1.23.0 (2027-02-02)"},
		{"2027-06-30", LevelWarn, "kubernetes 1.36.5 (2027-06-28), knative 1.23.0"},
	} {
		now, err := time.Parse(time.DateOnly, c.day)
		if err != nil {
			t.Fatal(err)
		}
		f := ends(parts, now.Add(12*time.Hour))
		if f.ID != "ends" || f.Level != c.level || !strings.Contains(f.What, c.what) || strings.Contains(f.What, "argo") || (f.Fix == "") != (c.level == LevelOK) {
			t.Errorf("%s: %+v", c.day, f)
		}
	}
}

func TestDoctorNamesWhatItSawAndTheFix(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*machine, *UpOptions)
		id    string
		level string
		what  string
		fix   string
	}{
		{"port taken", func(m *machine, _ *UpOptions) { m.PortErr, m.PortHolder = syscall.EADDRINUSE, "nginx (process 7)" }, "port", LevelFail, "127.0.0.1:8080 is in use by nginx (process 7)", "--port auto"},
		{"port taken by somebody unknown", func(m *machine, _ *UpOptions) { m.PortErr = syscall.EADDRINUSE }, "port", LevelFail, "127.0.0.1:8080 is in use", "--port auto"},
		{"port below 1024 without rights", func(m *machine, o *UpOptions) { m.PortErr, o.Port = syscall.EACCES, 80 }, "port", LevelFail, "may not listen on port 80", "--port 8080"},
		{"hybrid cgroups", func(m *machine, _ *UpOptions) { m.Cgroup = "hybrid" }, "cgroup", LevelOK, "hybrid", ""},
		{"few open files", func(m *machine, _ *UpOptions) { m.Nofile = 8192 }, "nofile", LevelWarn, "open files is 8192 (needed 4096, wanted 16384)", "ulimit -Hn 16384"},
		{"too few open files", func(m *machine, _ *UpOptions) { m.Nofile = 1024 }, "nofile", LevelFail, "open files is 1024", "ulimit -Hn 16384"},
		{"few inotify instances", func(m *machine, _ *UpOptions) { m.InotifyInstances, m.InotifyWatches = 128, 192536 }, "inotify", LevelWarn, "128 instances and 192536 watches", "sysctl fs.inotify.max_user_instances=512 fs.inotify.max_user_watches=192536"},
		{"no /lib/modules", func(m *machine, _ *UpOptions) { m.LibModules = false }, "lib-modules", LevelOK, "is missing: up creates it", ""},
		{"no /lib/modules and no right to make it", func(m *machine, _ *UpOptions) { m.LibModules, m.Root = false, false }, "lib-modules", LevelFail, "is missing", "sudo mkdir -p /lib/modules"},
		{"little memory", func(m *machine, _ *UpOptions) { m.MemoryAvailable = 4 * gib }, "memory", LevelWarn, "4.0 GiB available (needed 3.0 GiB, wanted 5.0 GiB)", "give the machine"},
		{"too little memory", func(m *machine, _ *UpOptions) { m.MemoryAvailable = 2 * gib }, "memory", LevelFail, "2.0 GiB available", "give the machine"},
		{"one core", func(m *machine, _ *UpOptions) { m.CPUs = 1 }, "cpu", LevelWarn, "1 cores", "second core"},
		{"a small cache disk", func(m *machine, _ *UpOptions) { m.CacheFree = 64 << 20 }, "disk-cache", LevelFail, "64 MiB free at ", "--cache-dir FOLDER"},
		{"a cache disk for pulling, not for building", func(m *machine, _ *UpOptions) { m.CacheFree = 10 * gib }, "disk-cache", LevelWarn, "needed 6.0 GiB, and 16.0 GiB to build from source", "--cache-dir FOLDER"},
		{"the same when building was asked for", func(m *machine, o *UpOptions) { m.CacheFree, o.Mode = 10*gib, "source" }, "disk-cache", LevelFail, "needed 16.0 GiB", "--cache-dir FOLDER"},
		{"a small cache disk that has it all", func(m *machine, _ *UpOptions) { m.CacheFree, m.CacheUsed = 4*gib, 2*gib }, "disk-cache", LevelOK, "the image cache holds 2.0 GiB", ""},
		{"a small engine disk", func(m *machine, _ *UpOptions) { m.EngineFree = 2 * gib }, "disk-engine", LevelFail, "2.0 GiB free at /var/lib/containers/storage, where podman keeps", "podman system prune"},
		{"no mmdebstrap", func(m *machine, _ *UpOptions) { m.Tools["mmdebstrap"] = false }, "tool-mmdebstrap", LevelWarn, "mmdebstrap (for the node's Debian): missing", "apt-get install mmdebstrap"},
		{"no mmdebstrap to build with", func(m *machine, o *UpOptions) { m.Tools["mmdebstrap"], o.Mode = false, "source" }, "tool-mmdebstrap", LevelFail, "missing", "--image-source registry"},
		{"no mmdebstrap but everything built", func(m *machine, o *UpOptions) { m.Tools["mmdebstrap"], m.CacheUsed, o.Mode = false, 2*gib, "source" }, "tool-mmdebstrap", LevelWarn, "missing", "apt-get"},
		{"an engine of another architecture", func(m *machine, _ *UpOptions) { m.Arch = "arm64" }, "engine", LevelFail, "runs on amd64, and this mllab has programs for arm64", "the mllab that was built for amd64"},
		{"no pip", func(m *machine, _ *UpOptions) { m.Tools["pip"] = false }, "tool-pip", LevelWarn, "python3 with pip", "python3-pip"},
		{"no pip, images pulled", func(m *machine, o *UpOptions) { m.Tools["pip"], o.Mode = false, "registry" }, "tool-pip", LevelFail, "python3 with pip", "mllab up --core"},
		{"nothing to build with, images pulled, core", func(m *machine, o *UpOptions) { m.Tools, o.Mode, o.Core = map[string]bool{}, "registry", true }, "memory", LevelOK, "", ""},
		{"no Go", func(m *machine, _ *UpOptions) { m.Tools["go"] = false }, "tool-go", LevelWarn, "Go: missing", "go.dev/doc/install"},
		{"no compiler", func(m *machine, _ *UpOptions) { m.Tools["cc"], m.Tools["gcc"] = false, false }, "tool-cc", LevelWarn, "C compiler", "install gcc"},
		{"no seccomp headers", func(m *machine, _ *UpOptions) { m.Tools["seccomp.h"] = false }, "tool-seccomp", LevelWarn, "libseccomp", "libseccomp-dev"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			o := w.options()
			c.spoil(&w.machine, &o)
			list, err := doctor(t.Context(), o, w.deps())
			if (err != nil) != (c.level == LevelFail) || err != nil && fault.Code(err) != 2 {
				t.Errorf("error: %v", err)
			}
			f := find(list, c.id)
			if f.Level != c.level || !strings.Contains(f.What, c.what) || !strings.Contains(f.Fix, c.fix) || (f.Fix == "") != (c.fix == "") {
				t.Errorf("%+v", f)
			}
			for _, other := range list {
				if other.ID != c.id && other.Level != LevelOK {
					t.Errorf("also %+v", other)
				}
			}
		})
	}
}

func TestDoctorDoesNotAskForRoomThatARunningClusterHasTaken(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	w.machine.PortErr, w.machine.MemoryAvailable = syscall.EADDRINUSE, gib
	w.machine.CacheFree, w.machine.EngineFree = gib, gib
	list, err := doctor(t.Context(), o, w.deps())
	if err != nil || find(list, "port").What != "port 8080 is this cluster's" || find(list, "cluster").Level != LevelOK {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestThePortOfAHalfMadeClusterIsItsOwn(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	st := record(t, o)
	st.Phase = phaseCreating
	if err := (store{root: o.State, name: DefaultName}).save(*st); err != nil {
		t.Fatal(err)
	}
	w.machine.PortErr, w.machine.PortHolder = syscall.EADDRINUSE, "conmon (process 7)"
	if sum := mustUp(t, w, o); !sum.Created {
		t.Error("it was not replaced")
	}
	w.containers[0].Status = "exited" // it holds nothing now
	if _, err := up(t.Context(), o, w.deps()); fault.Code(err) != 2 {
		t.Errorf("a stopped node whose port somebody took: %v", err)
	}
}

func TestDoctorKnowsACluster(t *testing.T) {
	for name, c := range map[string]struct {
		leave func(w *world, o *UpOptions)
		level string
		what  string
	}{
		"stopped":             {func(w *world, _ *UpOptions) { w.containers[0].Status = "exited" }, LevelWarn, "its node is stopped: up will start it"},
		"dead":                {func(w *world, _ *UpOptions) { w.dead["mllab-control-plane"] = true }, LevelWarn, "up will replace it"},
		"not ours":            {func(w *world, _ *UpOptions) { w.containers[0].Image = "kindest/node:v1" }, LevelFail, "is not mllab's (container mllab-control-plane, image kindest/node:v1): mllab does not touch it"},
		"recorded elsewhere":  {func(w *world, o *UpOptions) { o.State = w.t.TempDir() }, LevelFail, "has no record of it"},
		"of another engine's": {func(_ *world, o *UpOptions) { o.Engine = "podman" }, LevelOK, "runs"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			o := w.options()
			mustUp(t, w, o)
			c.leave(w, &o)
			list, err := doctor(t.Context(), o, w.deps())
			f := find(list, "cluster")
			if f.Level != c.level || !strings.Contains(f.What, c.what) || (err != nil) != (c.level == LevelFail) {
				t.Errorf("%+v, %v", f, err)
			}
		})
	}
}

func TestAnEngineThatIsTooOldIsRefused(t *testing.T) {
	for _, c := range []struct {
		name, version string
		old           bool
	}{
		{"docker", "19.03.15", true}, {"docker", "20.10.0", false}, {"docker", "28.2.2", false},
		{"podman", "2.2.1", true}, {"podman", "3.0.0", false}, {"podman", "4.3.1", false},
		{"nerdctl", "1.0.0", false}, {"docker", "", false}, {"docker", "dev", false},
	} {
		s := inspection{Engine: &engine{Name: c.name, Version: c.version, Runtime: "runc"}, Machine: goodMachine()}
		f := find(findings(UpOptions{}, s), "engine")
		if (f.Level == LevelFail) != c.old || c.old && (!strings.Contains(f.What, c.version+" is too old") || !strings.Contains(f.Fix, "or newer")) {
			t.Errorf("%s %s: %+v", c.name, c.version, f)
		}
	}
}

func TestRootlessAndCrunOnOldCgroupsAreRefused(t *testing.T) {
	m := goodMachine()
	m.Cgroup = "v1"
	m.Tools["runc"] = false
	for want, e := range map[string]*engine{
		"rootless, which kind can use with cgroup v2 only": {Name: "podman", Version: "4.3.1", Rootless: true, Runtime: "runc"},
		"crun, which refuses cgroup v1":                    {Name: "podman", Version: "4.3.1", Runtime: "crun"},
	} {
		f := find(findings(UpOptions{Options: Options{Name: "mllab"}, Port: 8080}, inspection{Engine: e, Action: create, Port: 8080, Machine: m}), "engine")
		if f.Level != LevelFail || !strings.Contains(f.What, want) || f.Fix == "" {
			t.Errorf("%+v, want %s", f, want)
		}
	}
}
