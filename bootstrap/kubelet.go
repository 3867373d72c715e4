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

// kubeletError says that a node's kubelet does not run, with its own last words.
type kubeletError struct{ words []string }

func (e *kubeletError) Error() string {
	if len(e.words) == 0 {
		return "the node's kubelet does not run, and says nothing"
	}
	return "the node's kubelet does not run; its last words:\n  " + strings.Join(e.words, "\n  ")
}

const (
	kubeletFailures = 3                // after which it does not run: systemd starts it again a second later
	kubeletWindow   = 30 * time.Second // within which these are
	kubeletRetry    = time.Second      // until the node is there to be asked
	kubeletGoodbye  = 5 * time.Second  // for the engine to end a process in the node
)

// followKubelet prints every two seconds how often systemd has started the kubelet again, and the state of the unit that
// it needs. It follows no journal, which takes an inotify instance. It ends when its input does: an engine that is killed
// leaves behind what it runs in a container.
const followKubelet = `while :; do echo $(systemctl show --value -p NRestarts kubelet) $(systemctl show --value -p ActiveState mllab-network); sleep 2; done & cat >/dev/null; kill $!`

// watchKubelet follows a node's kubelet, also one that does not exist yet, until ctx ends, and then returns nil. When the
// kubelet keeps failing it returns a *kubeletError. kubeadm and kind would wait for minutes, and then not say why.
func (e *engine) watchKubelet(ctx context.Context, node string) error {
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
		counted := &failures{stop: stop, now: time.Now}
		_ = e.run.Run(polite, run.Cmd{Path: e.Name, Args: []string{"exec", "-i", node, "sh", "-c", followKubelet}, Stdin: in, Stdout: counted}) // the node is not there yet, or no more
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

// failures reads the lines of followKubelet, and calls stop when the kubelet was started again too often.
type failures struct {
	stop  func()
	now   func() time.Time
	part  []byte
	seen  []restarts // within the window
	final bool
}

// restarts is how often systemd had started the kubelet again.
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
		count, needed, _ := strings.Cut(string(line), " ")
		n, err := strconv.Atoi(count)
		if err != nil {
			continue // systemd is not there yet
		}
		now := f.now()
		f.seen = slices.DeleteFunc(f.seen, func(r restarts) bool { return now.Sub(r.at) > kubeletWindow || r.n > n })
		f.seen = append(f.seen, restarts{now, n})
		if n-f.seen[0].n >= kubeletFailures || needed == "failed" { // which systemd does not try again
			f.final = true
			f.stop()
		}
	}
}

// klogHead is what klog writes before an error's text: "E1128 18:16:13.123456     421 run.go:72] ".
var klogHead = regexp.MustCompile(`^[EF]\d{4} [\d:.]+ +\d+ \S+\] `)

// kubeletWords returns the last errors that the kubelet, or the unit that it needs, said, each once.
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

// outOfInotify tells the kernel's words for a user who has no inotify instance, or no watch, left.
func outOfInotify(text string) bool {
	return strings.Contains(text, "too many open files") || strings.Contains(text, "inotify") && strings.Contains(text, "no space left on device")
}

// withKubeletFix adds what to do about a kubelet that does not run.
func withKubeletFix(err error, m machine) error {
	if outOfInotify(err.Error()) {
		return fault.Hinted(err, inotifyFix(m.InotifyWatches)+", then up again")
	}
	return fault.Hinted(err, "correct what it names, then up again; `mllab doctor` shows what this machine lacks")
}
