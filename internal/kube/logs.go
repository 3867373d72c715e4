package kube

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Logs says which logs to read, and which of their lines.
type Logs struct {
	Of     func(*corev1.Pod) (container string) // the one whose log is read; "" for none
	Keep   func(text []byte) bool
	Since  time.Time
	Follow bool // read on until the context ends, also of pods that come later
}

// LogLine is one line of a container's log.
type LogLine struct {
	Time      time.Time // when the container runtime received it
	Namespace string
	Text      []byte // without its end
}

// Logs calls each with the lines that are there, by their times, and then, to follow, with those that come: of one
// container in their order. None comes twice. What is there includes the files that the kubelet has rotated and still
// keeps, and the runs of a container before the last one. To follow, the kubelet reads the newest file alone: what a
// container writes while the kubelet replaces that file may be missing.
func (c *Client) Logs(ctx context.Context, q Logs, each func(LogLine) error) error {
	ctx, end := c.UntilGone(ctx)
	defer end()
	pods, err := c.Pods(ctx, "", nil)
	if err != nil {
		return err
	}
	var lines []LogLine
	tails := map[types.UID]*tail{}
	for i := range pods {
		if t := c.tailOf(&pods[i], q); t != nil {
			tails[t.pod.UID] = t
			if err := t.files(ctx, func(l LogLine) { lines = append(lines, l) }); err != nil {
				return cmp.Or(context.Cause(ctx), err)
			}
		}
	}
	slices.SortStableFunc(lines, func(a, b LogLine) int { return a.Time.Compare(b.Time) })
	for _, l := range lines {
		if err := each(l); err != nil {
			return err
		}
	}
	if !q.Follow {
		return nil
	}
	return c.followLogs(ctx, q, tails, each)
}

func (c *Client) followLogs(ctx context.Context, q Logs, tails map[types.UID]*tail, each func(LogLine) error) error {
	ctx, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer stop()
	lines := make(chan LogLine)
	out := func(l LogLine) {
		select {
		case lines <- l:
		case <-ctx.Done():
		}
	}
	for _, t := range tails {
		work.Go(func() { t.run(ctx, out) })
	}
	pods := make(chan watchUpdate)
	work.Go(func() { c.follow(ctx, podsIn(""), nil, pods) })
	for {
		select {
		case l := <-lines:
			if err := each(l); err != nil {
				return err
			}
		case n := <-pods: // an error of a watch is tried again, and a lab that is gone ends ctx
			for _, obj := range n.objects {
				pod := &corev1.Pod{}
				if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, pod); err != nil {
					return fmt.Errorf("reading %s: %w", Name(obj), err)
				}
				if t := c.tailOf(pod, q); t != nil && tails[pod.UID] == nil {
					tails[pod.UID] = t
					work.Go(func() { t.run(ctx, out) })
				}
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tail reads one container's log, from file to file and from run to run.
type tail struct {
	*Client
	pod       *corev1.Pod
	container string
	keep      func([]byte) bool
	at        position
}

// tailOf returns nil for a pod without a log to read: its container has not run yet.
func (c *Client) tailOf(pod *corev1.Pod, q Logs) *tail {
	container := q.Of(pod)
	if id, _ := ran(pod, container); id == "" {
		return nil
	}
	return &tail{c, pod, container, q.Keep, position{time: q.Since}}
}

// ran returns the ID of a container's last run, or "", and whether it has ended.
func ran(pod *corev1.Pod, container string) (id string, ended bool) {
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == container && s.ContainerID != "" {
			return s.ContainerID, s.State.Terminated != nil
		}
	}
	return "", false
}

// run reads the log on until ctx ends or the pod is gone. A stream outlives its pod: it ends where the log does.
func (t *tail) run(ctx context.Context, out func(LogLine)) {
	read := "" // the run that is read to its end
	_ = wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (gone bool, _ error) {
		var pod corev1.Pod
		err := t.Get(ctx, client.ObjectKeyFromObject(t.pod), &pod)
		if apierrors.IsNotFound(err) || err == nil && pod.UID != t.pod.UID {
			return true, nil
		}
		if id, ended := ran(&pod, t.container); err == nil && id != "" && id != read {
			// An error is tried again, by the position that it left.
			if err := errors.Join(t.files(ctx, out), t.stream(ctx, out)); err == nil && ended {
				read = id
			}
		}
		return false, nil
	})
}

// stream reads what the container has written and writes, until the container ends.
func (t *tail) stream(ctx context.Context, out func(LogLine)) error {
	opts := &corev1.PodLogOptions{Container: t.container, Follow: true, Timestamps: true}
	if !t.at.time.IsZero() {
		opts.SinceTime = &metav1.Time{Time: t.at.time} // of which the API takes the second alone
	}
	body, err := t.core.Pods(t.pod.Namespace).GetLogs(t.pod.Name, opts).Stream(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	p := t.at.pass()
	return eachLine(body, func(line []byte) error {
		stamp, text, _ := bytes.Cut(line, []byte(" "))
		at, err := time.Parse(time.RFC3339Nano, string(stamp))
		if err == nil && p.isNew(at) {
			t.send(at, text, out)
		}
		return err
	})
}

func (t *tail) send(at time.Time, text []byte, out func(LogLine)) {
	if t.keep(text) {
		out(LogLine{at, t.pod.Namespace, bytes.Clone(text)})
	}
}

// readsOfFiles bounds how often files are read that change their names meanwhile: the kubelet looks each 10 s whether
// there is something to rotate.
const readsOfFiles = 5

// files reads the log from the node's files, which the kubelet serves: the API for logs has the newest one alone.
//
// https://kubernetes.io/docs/concepts/cluster-administration/logging/#log-rotation
func (t *tail) files(ctx context.Context, out func(LogLine)) error {
	for range readsOfFiles {
		names, err := t.list(ctx)
		if err != nil {
			return err
		}
		at := t.at
		pass := at.pass()
		var lines []LogLine
		for _, name := range names {
			if err = t.file(ctx, name, pass, func(l LogLine) { lines = append(lines, l) }); err != nil {
				break
			}
		}
		after, listed := t.list(ctx)
		switch {
		case listed != nil:
			return listed
		case !slices.Equal(names, after): // a file was rotated or compressed, and what was read may be of another one
		case err != nil:
			return err
		default:
			t.at = at
			for _, l := range lines {
				out(l)
			}
			return nil
		}
	}
	return fmt.Errorf("reading the log of %s: it was rotated during each of %d tries", Name(t.pod), readsOfFiles)
}

// logFile is a file of a container's log: how often it had restarted, when the file was rotated, and compressed.
var logFile = regexp.MustCompile(`href="(\d+)\.log(\.\d{8}-\d{6})?(\.gz)?"`)

// list returns the files of the log, the oldest first; none when the kubelet has removed them.
func (t *tail) list(ctx context.Context) ([]string, error) {
	page, err := t.nodeLog(ctx, "")
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer page.Close()
	text, err := io.ReadAll(page)
	if err != nil {
		return nil, fmt.Errorf("listing the log of %s: %w", Name(t.pod), err)
	}
	found := logFile.FindAllStringSubmatch(string(text), -1)
	slices.SortFunc(found, func(a, b []string) int {
		n, _ := strconv.Atoi(a[1])
		m, _ := strconv.Atoi(b[1])
		return cmp.Or(cmp.Compare(n, m), cmp.Compare(cmp.Or(a[2], "~"), cmp.Or(b[2], "~")), -cmp.Compare(a[3], b[3]))
	})
	var names []string
	for _, f := range found {
		name := f[1] + ".log" + f[2]
		if !slices.Contains(names, name+".gz") { // it is compressed, and about to be removed
			names = append(names, name+f[3])
		}
	}
	return names, nil
}

// nodeLog opens a file in the folder of the container's log, or its list.
func (t *tail) nodeLog(ctx context.Context, name string) (io.ReadCloser, error) {
	folder := fmt.Sprintf("/api/v1/nodes/%s/proxy/logs/pods/%s_%s_%s/%s/", t.pod.Spec.NodeName, t.pod.Namespace, t.pod.Name, t.pod.UID, t.container)
	body, err := t.core.RESTClient().Get().AbsPath(folder + name).Stream(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the log of %s: %w", Name(t.pod), err)
	}
	return body, nil
}

// file reads one file, whose lines are "TIME STREAM TAGS TEXT"; P among the tags says that the text goes on in the next
// line of the stream.
//
// https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md
func (t *tail) file(ctx context.Context, name string, p *pass, out func(LogLine)) error {
	body, err := t.nodeLog(ctx, name)
	if err != nil {
		return err
	}
	defer body.Close()
	var text io.Reader = body
	if strings.HasSuffix(name, ".gz") {
		if text, err = gzip.NewReader(body); err != nil {
			return fmt.Errorf("reading %s of the log of %s: %w", name, Name(t.pod), err)
		}
	}
	type part struct {
		at   time.Time
		text []byte
	}
	open := map[string]*part{} // by stream
	err = eachLine(text, func(line []byte) error {
		fields := bytes.SplitN(line, []byte(" "), 4)
		if len(fields) < 4 {
			return fmt.Errorf("line %.100q is not that of a container runtime", line)
		}
		at, err := time.Parse(time.RFC3339Nano, string(fields[0]))
		if err != nil {
			return err
		}
		stream := string(fields[1])
		if open[stream] == nil {
			open[stream] = &part{at: at}
		}
		now := open[stream]
		now.text = append(now.text, fields[3]...)
		if bytes.HasPrefix(fields[2], []byte("P")) {
			return nil
		}
		delete(open, stream)
		if p.isNew(now.at) {
			t.send(now.at, now.text, out)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading %s of the log of %s: %w", name, Name(t.pod), err)
	}
	return nil
}

// eachLine calls f with each whole line; one without an end is still being written, or was cut off.
func eachLine(r io.Reader, f func(line []byte) error) error {
	for b := bufio.NewReader(r); ; {
		line, err := b.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = f(line[:len(line)-1])
		}
		if err != nil {
			return err
		}
	}
}

// position is how far a log was read: the time of the last line, and how many lines with this time were read.
type position struct {
	time time.Time
	n    int
}

// pass reads a log from before a position on, and moves the position.
type pass struct {
	at     *position
	again  int  // lines with the position's time that come again
	beyond bool // a new line has come, so all after it are new: a clock that goes back hides none, but lines may come again
}

func (p *position) pass() *pass { return &pass{at: p, again: p.n} }

// isNew says whether a line with this time was not read before.
func (p *pass) isNew(at time.Time) bool {
	if !p.beyond {
		if at.Before(p.at.time) {
			return false
		}
		if at.Equal(p.at.time) && p.again > 0 {
			p.again--
			return false
		}
		p.beyond = true
	}
	if !at.Equal(p.at.time) {
		*p.at = position{time: at}
	}
	p.at.n++
	return true
}
