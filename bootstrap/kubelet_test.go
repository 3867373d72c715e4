package bootstrap

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/run"
)

const crashed = "0 active 0\n1 active 2\n3 active 2\n"

func TestUpEndsWithTheLastWordsOfAKubeletThatDoesNotRun(t *testing.T) {
	for _, c := range []struct{ name, word, fix string }{
		{"no inotify instances", "E1128 18:16:13.123456     421 run.go:72] \"command failed\" err=\"failed to run Kubelet: inotify_init: too many open files\"", "sysctl fs.inotify.max_user_instances=512"},
		{"a flag", "E1128 18:16:13.123456     421 run.go:72] \"command failed\" err=\"failed to parse kubelet flag: unknown flag: --no-such\"", "fix that error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			o := w.options()
			w.journal = []string{"I1128 18:16:13.123456     421 server.go:1] \"starting\"", c.word, strings.Replace(c.word, "421", "422", 1)}
			w.kubeletFails, w.blockKind = make(chan struct{}), true
			w.duringKind = func() { close(w.kubeletFails) }
			_, err := up(t.Context(), o, w.deps())
			_, text, _ := strings.Cut(c.word, "] ")
			if err == nil || !strings.HasSuffix(err.Error(), "the node's kubelet does not run; its last errors:\n  "+text) || !strings.Contains(fault.Hint(err), c.fix) || fault.Code(err) != 1 {
				t.Errorf("%v\nhint: %s", err, fault.Hint(err))
			}
			w.clean(o)
		})
	}
}

// Only that etcd cannot run ends the call: what it says, without the stack of a panic.
func TestUpEndsWithTheLastWordsOfAnEtcdThatDoesNotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		o := w.options()
		w.etcdLog = []string{
			`2026-11-30T01:18:31.948Z stderr F {"level":"info","ts":"2026-11-30T01:18:31Z","msg":"Opening db file"}`,
			"2026-11-30T01:18:31.954Z stderr F panic: assertion failed: Page expected to be: 104, but self identifies as 0",
			"2026-11-30T01:18:31.954Z stderr F goroutine 111 [running]:",
		}
		w.blockKind, w.nodeLines = true, []string{"0 active 2 4\n0 active 2 5\n0 active 1 6\n0 active 2 7\n0 active 2 8\n"}
		_, err := up(t.Context(), o, w.deps())
		if err == nil || !strings.HasSuffix(err.Error(), "the node's etcd does not run; its last errors:\n  assertion failed: Page expected to be: 104, but self identifies as 0") ||
			!strings.HasPrefix(fault.Hint(err), "fix that error, then up again") || fault.Code(err) != 1 {
			t.Errorf("%v\nhint: %s", err, fault.Hint(err))
		}
		// Of a cluster that is not new, everything was in it.
		there := &upRun{UpOptions: o, inspection: inspection{Action: restart}}
		if hint := fault.Hint(there.withFix(&deadError{part: "etcd"})); !strings.HasPrefix(hint, "`mllab down") {
			t.Errorf("hint: %s", hint)
		}
	})
}

// What does not run on the old node is no fault of the new one.
func TestANodeIsFollowedOnceTheOldOneIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		o := w.options()
		mustUp(t, w, o)
		st := *record(t, o)
		st.Phase = phaseCreating
		full, err := o.withDefaults()
		if err == nil {
			err = full.store().save(st)
		}
		if err != nil {
			t.Fatal(err)
		}
		w.watched.Store(false)
		w.duringKind = synctest.Wait
		w.removing = func() {
			if synctest.Wait(); w.watched.Load() {
				t.Error("the old node is followed while it is removed")
			}
		}
		if mustUp(t, w, o); len(w.created) != 2 || !w.watched.Load() {
			t.Errorf("created %d times, the new node is followed: %v", len(w.created), w.watched.Load())
		}
	})
}

// The kubelet keeps the log of a container that runs and of the one before it, and names each by its number of restarts.
func TestTheLineOfANodeHasTheRestartsOfItsNewestEtcd(t *testing.T) {
	for name, c := range map[string]struct {
		logs    []string // the oldest first
		systemd bool
		want    string
	}{
		"not started":                      {nil, true, "5 active 0 -\n"},
		"started":                          {[]string{"a/etcd/0.log"}, true, "5 active 0 0\n"},
		"started again":                    {[]string{"a/etcd/2.log", "a/etcd/3.log"}, true, "5 active 0 3\n"},
		"the node has another address":     {[]string{"a/etcd/7.log", "b/etcd/0.log"}, true, "5 active 0 0\n"},
		"the log of a start was continued": {[]string{"a/etcd/1.log.20261130-010101", "a/etcd/1.log"}, true, "5 active 0 1\n"},
		"systemd does not run yet":         {[]string{"a/etcd/3.log"}, false, "- - 0 3\n"},
	} {
		t.Run(name, func(t *testing.T) {
			pods, bin := t.TempDir(), t.TempDir()
			for i, log := range c.logs {
				path := filepath.Join(pods, "kube-system_etcd-"+log)
				at := time.Unix(int64(i), 0)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644), os.Chtimes(path, at, at)); err != nil {
					t.Fatal(err)
				}
			}
			systemctl := "#!/bin/sh\nexit 1\n"
			if c.systemd {
				systemctl = "#!/bin/sh\n[ \"$4\" = NRestarts ] && echo 5 || echo active\n"
			}
			if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte(systemctl), 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("sh", "-c", strings.NewReplacer("/var/log/pods", pods, "/run/containerd", filepath.Join(pods, "none")).Replace(nodeLine))
			cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH")}
			if out, err := cmd.Output(); err != nil || string(out) != c.want {
				t.Errorf("%v: %q, want %q", err, out, c.want)
			}
		})
	}
}

// A node that was stopped starts its etcd once, and a machine that is busy may fail to twice.
func TestAnEtcdThatFailsThriceIsGivenTime(t *testing.T) {
	f := &failures{stop: func() {}, progress: func() {}, now: time.Now, etcd: restarts{within: etcdWindow}, kubelet: restarts{within: kubeletWindow}}
	for _, line := range []string{"- - 0 9", "0 active 0 9", "0 active 9 10", "0 active 9 11", "0 active 9 12"} {
		f.read(line)
	}
	if f.dead != "" {
		t.Error("three restarts were taken for final")
	}
	if f.read("0 active 9 13"); f.dead != "etcd" {
		t.Error("four restarts were not seen")
	}
}

func TestAKubeletThatFailsTwiceIsGivenTime(t *testing.T) {
	now, stopped := time.Now(), 0
	steps := 0
	f := &failures{stop: func() { stopped++ }, progress: func() { steps++ }, now: func() time.Time { return now }, kubelet: restarts{within: kubeletWindow}}
	node := run.EachLine(f.read)
	for n := range 10 {
		now = now.Add(kubeletWindow/2 + time.Second)
		if _, err := fmt.Fprintf(node, "%d active %d\n", n, n%3); err != nil {
			t.Fatal(err)
		}
	}
	if steps != 2 { // from 0 to 1 and to 2
		t.Errorf("%d times more containers, want 2", steps)
	}
	_, _ = io.WriteString(node, "\n0 active 0\n1 active 0\n") // somebody started it again
	if f.dead != "" || stopped > 0 {
		t.Error("two failures in a window were taken for final")
	}
	for _, c := range "2 active 0\n3 active 0\n" { // pipes cut lines anywhere
		_, _ = io.WriteString(node, string(c))
	}
	if f.dead != "kubelet" {
		t.Error("three failures in a window were not seen")
	}
	f = &failures{stop: func() {}, now: time.Now}
	node = run.EachLine(f.read)
	if _, err := io.WriteString(node, "0 failed 0\n"); err != nil || f.dead != "kubelet" {
		t.Error("what it needs failed, and systemd does not try again")
	}
}

func TestACreationEndsWithoutProgressOnly(t *testing.T) {
	for name, c := range map[string]struct {
		node []string // one line every three minutes
		want string
	}{
		"one more container each time": {[]string{"0 active 1\n", "0 active 2\n", "0 active 3\n", "0 active 4\n"}, ""},
		"the same containers":          {[]string{"0 active 2\n", "0 active 2\n", "0 active 1\n", "0 active 2\n"}, "no progress for 4m0s (last: starting control-plane); the kubelet's last errors:\n  etcd is slow"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				o := w.options()
				w.journal = []string{"etcd is slow"}
				w.kindText, w.nodeLines = "starting control-plane", c.node
				w.duringKind = func() { <-time.After(13 * time.Minute) }
				_, err := up(t.Context(), o, w.deps())
				if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasSuffix(err.Error(), c.want)) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

func TestTheKubeletsLastWordsAreItsErrors(t *testing.T) {
	got := lastWords([]string{
		"E1128 18:16:10.000000     400 run.go:72] \"command failed\" err=\"old\"",
		"I1128 18:16:12.000000     421 server.go:5] \"Kubelet version\"",
		"E1128 18:16:12.000001     421 kubelet.go:9] \"cannot\" err=\"x\"",
		"F1128 18:16:13.000000     421 run.go:72] \"command failed\" err=\"y\"",
		"F1128 18:16:14.000000     433 run.go:72] \"command failed\" err=\"y\"", "",
	}, klogHead)
	if want := []string{`"command failed" err="old"`, `"cannot" err="x"`, `"command failed" err="y"`}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := lastWords([]string{"", "iptables: no chain by that name", "iptables: no chain by that name"}, klogHead); !slices.Equal(got, []string{"iptables: no chain by that name"}) {
		t.Errorf("without errors: %q", got)
	}
}
