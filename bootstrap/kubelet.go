package bootstrap

import (
	"bytes"
	"context"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/run"
)

// kubeletError means that a node's kubelet does not run. It has the kubelet's last errors.
type kubeletError struct{ words []string }

func (e *kubeletError) Error() string {
	if len(e.words) == 0 {
		return "the node's kubelet does not run, and its log is empty"
	}
	return "the node's kubelet does not run; its last errors:\n  " + strings.Join(e.words, "\n  ")
}

const (
	kubeletFailures = 3                // restarts after which the kubelet counts as not running; systemd restarts it after a second
	kubeletWindow   = 30 * time.Second // time for these restarts
	kubeletRetry    = time.Second      // pause until the node exists
	kubeletGoodbye  = 5 * time.Second  // for the engine to end a process in the node
)

// followKubelet prints every two seconds the number of restarts of the kubelet, the state of the unit that it needs, and
// the number of containers that run.
// Following the journal would take an inotify instance. The script ends when its input ends: a killed engine client does
// not end its process in the container.
const followKubelet = `while :; do echo $(systemctl show --value -p NRestarts kubelet) $(systemctl show --value -p ActiveState mllab-network) $(ls /run/containerd/io.containerd.runtime.v2.task/k8s.io 2>/dev/null | wc -l); sleep 2; done & cat >/dev/null; kill $!`

// watchKubelet follows the kubelet of a node, which may not exist yet. It returns a *kubeletError if the kubelet keeps
// failing, and nil when ctx ends. kubeadm and kind would wait for minutes and not report the cause. watchKubelet calls
// progress when the node runs more containers than before.
func (e *engine) watchKubelet(ctx context.Context, node string, progress func()) error {
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
		counted := &failures{stop: stop, now: time.Now, progress: progress}
		_ = e.run.Run(polite, run.Cmd{Path: e.Name, Args: []string{"exec", "-i", node, "sh", "-c", followKubelet}, Stdin: in, Stdout: counted}) // fails while there is no node
		stop()
		kill()
		if counted.final && ctx.Err() == nil {
			return &kubeletError{e.kubeletWords(ctx, node)}
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// failures reads the lines of followKubelet, and calls stop after too many restarts.
type failures struct {
	stop     func()
	progress func()
	most     int // containers at a time
	now      func() time.Time
	part     []byte
	seen     []restarts // within the window
	final    bool
}

// restarts is the number of restarts at a time.
type restarts struct {
	at time.Time
	n  int
}

// Write never fails.
func (f *failures) Write(p []byte) (int, error) {
	f.part = append(f.part, p...)
	for {
		line, rest, ok := bytes.Cut(f.part, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		f.part = bytes.Clone(rest)
		words := append(strings.Fields(string(line)), "", "", "")
		n, err := strconv.Atoi(words[0])
		if err != nil {
			continue // systemd does not run yet
		}
		if running, err := strconv.Atoi(words[2]); err == nil && running > f.most {
			f.most = running
			f.progress()
		}
		now := f.now()
		f.seen = slices.DeleteFunc(f.seen, func(r restarts) bool { return now.Sub(r.at) > kubeletWindow || r.n > n })
		f.seen = append(f.seen, restarts{now, n})
		if n-f.seen[0].n >= kubeletFailures || words[1] == "failed" { // systemd does not restart a failed unit
			f.final = true
			f.stop()
		}
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
	return lastWords(lines)
}

func lastWords(lines []string) []string {
	const most = 4
	var errs, rest []string
	for _, l := range slices.Backward(lines) {
		l = strings.TrimSpace(l)
		text := klogHead.ReplaceAllString(l, "")
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

// withKubeletFix adds the fix for a kubelet that does not run.
func withKubeletFix(err error, m machine) error {
	if outOfInotify(err.Error()) {
		return fault.Hinted(err, inotifyFix(m.InotifyWatches)+", then up again")
	}
	return fault.Hinted(err, "fix that error, then up again; `mllab doctor` shows what this machine lacks")
}
