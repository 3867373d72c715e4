package bootstrap

import (
	"context"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/run"
)

// deadError means that a part of a node, its kubelet or etcd, does not run. It has the part's last errors.
type deadError struct {
	part  string
	words []string
}

func (e *deadError) Error() string {
	if len(e.words) == 0 {
		return "the node's " + e.part + " does not run, and its log is empty"
	}
	return "the node's " + e.part + " does not run; its last errors:\n  " + strings.Join(e.words, "\n  ")
}

const (
	kubeletFailures = 3                // restarts after which the kubelet counts as not running; systemd restarts it after a second
	kubeletWindow   = 30 * time.Second // time for these restarts
	etcdFailures    = 4                // restarts after which etcd counts as not running, the start of its node among them: it depends on no other part
	etcdWindow      = 3 * time.Minute  // time for these restarts; the kubelet waits 10, 20 and 40 s
	kubeletRetry    = time.Second      // pause until the node exists
	kubeletGoodbye  = 5 * time.Second  // for the engine to end a process in the node
)

// followNode prints every two seconds the number of restarts of the kubelet, the state of the unit that it needs, the
// number of containers that run, and the number of restarts of etcd, by which the kubelet names its newest log.
// Following the journal would take an inotify instance. The script ends when its input ends: a killed engine client does
// not end its process in the container.
const followNode = `while :; do ` + nodeLine + `; sleep 2; done & cat >/dev/null; kill $!`

// nodeLine prints one line. A field that cannot be known yet is a dash.
const nodeLine = `k=$(systemctl show --value -p NRestarts kubelet); u=$(systemctl show --value -p ActiveState mllab-network); e=$(` + etcdLogs + ` | head -n 1)
e=${e##*/}; e=${e%.log}; echo "${k:--} ${u:--} $(ls /run/containerd/io.containerd.runtime.v2.task/k8s.io 2>/dev/null | wc -l) ${e:--}"`

// etcdLogs lists etcd's logs on a node, the newest first: of its pod, and of those that it had when the node had other addresses.
const etcdLogs = `ls -t /var/log/pods/kube-system_etcd-*/etcd/*.log 2>/dev/null`

// watchNode follows the kubelet and etcd of a node, which may not exist yet. It returns a *deadError if one of them keeps
// failing, and nil when ctx ends. kubeadm and kind would wait for minutes and not report the cause. watchNode calls
// progress when the node runs more containers than before.
func (e *engine) watchNode(ctx context.Context, node string, progress func()) error {
	retry := time.NewTicker(kubeletRetry)
	defer retry.Stop()
	for ctx.Err() == nil {
		failing, stop := context.WithCancel(ctx)
		in, end := io.Pipe()
		polite, kill := context.WithCancel(context.WithoutCancel(ctx))
		context.AfterFunc(failing, func() {
			_ = end.Close()
			time.AfterFunc(kubeletGoodbye, kill)
		})
		counted := &failures{stop: stop, now: time.Now, progress: progress, kubelet: restarts{within: kubeletWindow}, etcd: restarts{within: etcdWindow}}
		_ = e.run.Run(polite, run.Cmd{Path: e.Name, Args: []string{"exec", "-i", node, "sh", "-c", followNode}, Stdin: in, Stdout: run.EachLine(counted.read)}) // fails while there is no node
		stop()
		kill()
		switch {
		case ctx.Err() != nil:
			return nil
		case counted.dead == "kubelet":
			return &deadError{counted.dead, e.kubeletWords(ctx, node)}
		case counted.dead == "etcd":
			return &deadError{counted.dead, e.etcdWords(ctx, node)}
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// failures reads the lines of followNode, and calls stop after too many restarts.
type failures struct {
	stop          func()
	progress      func()
	most          int // containers at a time
	now           func() time.Time
	kubelet, etcd restarts
	dead          string // the part with too many restarts
}

// restarts counts the restarts of a part.
type restarts struct {
	within time.Duration // how long one is remembered
	seen   []seenRestarts
}

// seenRestarts is the number of restarts at a time.
type seenRestarts struct {
	at time.Time
	n  int
}

// recent records that a part has restarted n times, and returns how many of these are within its time.
func (r *restarts) recent(now time.Time, n int) int {
	r.seen = slices.DeleteFunc(r.seen, func(s seenRestarts) bool { return now.Sub(s.at) > r.within || s.n > n })
	r.seen = append(r.seen, seenRestarts{now, n})
	return n - r.seen[0].n
}

func (f *failures) read(line string) {
	words := append(strings.Fields(line), "", "", "", "")
	n, err := strconv.Atoi(words[0])
	if err != nil {
		return // systemd does not run yet
	}
	if running, err := strconv.Atoi(words[2]); err == nil && running > f.most {
		f.most = running
		f.progress()
	}
	now := f.now()
	if etcd, err := strconv.Atoi(words[3]); err == nil && f.etcd.recent(now, etcd) >= etcdFailures {
		f.dead = "etcd"
		f.stop()
	}
	if f.kubelet.recent(now, n) >= kubeletFailures || words[1] == "failed" { // systemd does not restart a failed unit
		f.dead = "kubelet"
		f.stop()
	}
}

// klogHead matches klog's prefix of an error: "E1128 18:16:13.123456     421 run.go:72] ".
var klogHead = regexp.MustCompile(`^[EF]\d{4} [\d:.]+ +\d+ \S+\] `)

// kubeletWords returns the last distinct errors of the kubelet and of the unit that it needs.
func (e *engine) kubeletWords(ctx context.Context, node string) []string {
	lines, err := e.lines(ctx, "exec", node, "journalctl", "--lines=400", "--output=cat", "_SYSTEMD_UNIT=kubelet.service", "+", "_SYSTEMD_UNIT=mllab-network.service")
	if err != nil {
		return []string{sentence(err)}
	}
	return lastWords(lines, klogHead)
}

// etcdHead matches what stands before a panic's text, or before an error, in a container's log of etcd.
var etcdHead = regexp.MustCompile(`^\S+ stderr F (panic: |fatal error: |\{"level":"(error|fatal|panic)",)`)

// etcdWords returns the last distinct errors of etcd.
func (e *engine) etcdWords(ctx context.Context, node string) []string {
	lines, err := e.lines(ctx, "exec", node, "sh", "-c", "cat $("+etcdLogs+" | head -n 2 | tac)") // the newest may have no more than a start
	if err != nil {
		return []string{sentence(err)}
	}
	return lastWords(lines, etcdHead)
}

// lastWords returns the last distinct lines that begin as errors do, without that beginning, or else the last lines.
func lastWords(lines []string, head *regexp.Regexp) []string {
	const most = 4
	var errs, rest []string
	for _, l := range slices.Backward(lines) {
		l = strings.TrimSpace(l)
		text := head.ReplaceAllString(l, "")
		switch {
		case l == "" || slices.Contains(errs, text) || slices.Contains(rest, text):
		case text != l && len(errs) < most:
			errs = append(errs, text)
		case text == l && len(rest) < most:
			rest = append(rest, text)
		}
	}
	if len(errs) == 0 {
		errs = rest
	}
	slices.Reverse(errs)
	return errs
}

// outOfInotify reports whether text is the kernel's error for a user without free inotify instances or watches.
func outOfInotify(text string) bool {
	return strings.Contains(text, "too many open files") || strings.Contains(text, "inotify") && strings.Contains(text, "no space left on device")
}

// withFix adds the fix for a part of the node that does not run.
func (u *upRun) withFix(err error) error {
	var dead *deadError
	switch {
	case outOfInotify(err.Error()):
		return fault.Hinted(err, inotifyFix(u.inspection.Machine.InotifyWatches)+", then up again")
	case errors.As(err, &dead) && dead.part == "etcd" && (u.inspection.Action == keep || u.inspection.Action == restart):
		return fault.Hinted(err, "`"+u.Command("down")+"`, then up: all objects of Kubernetes are in etcd, so the cluster is lost")
	}
	return fault.Hinted(err, "fix that error, then up again; `mllab doctor` shows what this machine lacks")
}
