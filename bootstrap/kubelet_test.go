package bootstrap

import (
	"fmt"
	"io"
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
		w.blockKind, w.nodeLines = true, []string{"0 active 2 4\n0 active 2 5\n0 active 1 6\n0 active 2 7\n"}
		_, err := up(t.Context(), o, w.deps())
		if err == nil || !strings.HasSuffix(err.Error(), "the node's etcd does not run; its last errors:\n  assertion failed: Page expected to be: 104, but self identifies as 0") ||
			!strings.HasPrefix(fault.Hint(err), "`mllab down") || fault.Code(err) != 1 {
			t.Errorf("%v\nhint: %s", err, fault.Hint(err))
		}
	})
}

func TestAKubeletThatFailsTwiceIsGivenTime(t *testing.T) {
	now, stopped := time.Now(), 0
	steps := 0
	f := &failures{stop: func() { stopped++ }, progress: func() { steps++ }, now: func() time.Time { return now }, kubelet: restarts{within: kubeletWindow}, etcd: restarts{within: etcdWindow}}
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
	if _, err := io.WriteString(node, "3 active 0 1\n3 active 0 3\n"); err != nil || f.dead != "kubelet" {
		t.Error("two restarts of etcd were taken for final")
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
