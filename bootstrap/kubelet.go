package bootstrap

import (
	"bytes"
	"context"
	"io"
	"regexp"
	"slices"
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
	kubeletWindow   = 20 * time.Second // within which these are
	kubeletRetry    = time.Second      // until the node is there to be asked
	kubeletGoodbye  = 5 * time.Second  // for the engine to end a process in the node
)

// followKubelet prints what systemd says of the kubelet from now on, until its input ends: an engine that is killed leaves
// behind what it runs in a container.
const followKubelet = `journalctl --follow --lines=0 --output=cat UNIT=kubelet.service & cat >/dev/null; kill $!`

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

// failures reads systemd's lines about a unit, and calls stop when it has failed too often.
type failures struct {
	stop  func()
	now   func() time.Time
	part  []byte
	times []time.Time
	final bool
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
		// "kubelet.service: Failed with result 'exit-code'.", "Job kubelet.service/start failed with result 'dependency'."
		if !bytes.Contains(bytes.ToLower(line), []byte("failed with result")) {
			continue
		}
		now := f.now()
		f.times = append(slices.DeleteFunc(f.times, func(t time.Time) bool { return now.Sub(t) > kubeletWindow }), now)
		if len(f.times) >= kubeletFailures || bytes.Contains(line, []byte("'dependency'")) { // which systemd does not try again
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
