//go:build envtest

package kube

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// nodeLogs is the part of a kubelet that serves logs: the node's files, with the file server that a kubelet uses, and
// streams of one run each.
type nodeLogs struct {
	dir     string
	mu      sync.Mutex
	streams map[string]chan string // namespace/pod/container -> its lines; closed when the run ends
	since   map[string][]string    // what each stream was asked for
}

func (n *nodeLogs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if name, ok := strings.CutPrefix(r.URL.Path, "/containerLogs/"); ok {
		n.mu.Lock()
		n.since[name] = append(n.since[name], r.URL.Query().Get("sinceTime"))
		lines := n.streams[name]
		n.mu.Unlock()
		w.(http.Flusher).Flush()
		for {
			select {
			case l, more := <-lines:
				if !more {
					return
				}
				fmt.Fprintln(w, l)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	}
	http.StripPrefix("/logs/", http.FileServer(http.Dir(n.dir))).ServeHTTP(w, r)
}

// makeNodeLogs makes a node with logs, and a client that reaches it. The API server passes no request on to a loopback
// address but those for a pod's log, so requests for files go to the node directly.
func makeNodeLogs(t *testing.T, c *Client, name string) (*nodeLogs, *Client) {
	t.Helper()
	n := &nodeLogs{dir: t.TempDir(), streams: map[string]chan string{}, since: map[string][]string{}}
	makeNode(t, c, name, n)
	cfg := rest.CopyConfig(c.config)
	cfg.Wrap(func(api http.RoundTripper) http.RoundTripper {
		return roundTrip(func(r *http.Request) (*http.Response, error) {
			path, ok := strings.CutPrefix(r.URL.Path, "/api/v1/nodes/"+name+"/proxy")
			if !ok {
				return api.RoundTrip(r)
			}
			w := httptest.NewRecorder()
			n.ServeHTTP(w, httptest.NewRequestWithContext(r.Context(), r.Method, path, nil))
			return w.Result(), nil
		})
	})
	with, err := New(cfg)
	must(t, err)
	return n, with
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (n *nodeLogs) stream(name string) chan string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.streams[name] = make(chan string)
	return n.streams[name]
}

// write writes a file of the log of a pod's container app.
func (n *nodeLogs) write(t *testing.T, pod *corev1.Pod, name string, lines ...string) {
	t.Helper()
	dir := filepath.Join(n.dir, "pods", pod.Namespace+"_"+pod.Name+"_"+string(pod.UID), "app")
	must(t, os.MkdirAll(dir, 0o755))
	text := strings.Join(lines, "\n") + "\n"
	f, err := os.Create(filepath.Join(dir, name))
	must(t, err)
	defer f.Close()
	if strings.HasSuffix(name, ".gz") {
		z := gzip.NewWriter(f)
		defer z.Close()
		_, err = z.Write([]byte(text))
	} else {
		_, err = f.WriteString(text)
	}
	must(t, err)
}

// at is a line as a container runtime writes it, and as a kubelet streams it.
func at(second int, text string) string {
	return fmt.Sprintf("2026-11-29T12:00:%02d.5Z stdout F %s", second, text)
}

func streamed(second int, text string) string {
	return fmt.Sprintf("2026-11-29T12:00:%02d.500000000Z %s", second, text)
}

// logging makes a pod on the node whose container app runs, or has ended.
func logging(t *testing.T, c *Client, ns, name, node, id string, restarts int32) *corev1.Pod {
	t.Helper()
	pod := makePod(t, c, ns, name, nil)
	must(t, c.SubResource("binding").Create(t.Context(), pod, &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: node}}))
	must(t, c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod))
	if id != "" {
		kubelet(t, c, pod, running(id, restarts))
	}
	return pod
}

func running(id string, restarts int32) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: "app", ContainerID: id, RestartCount: restarts, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
}

// logsOfNamespace reads what does not begin with "not".
func logsOfNamespace(ns string) Logs {
	return Logs{
		Of: func(p *corev1.Pod) string {
			if p.Namespace != ns {
				return ""
			}
			return "app"
		},
		Keep: func(text []byte) bool { return !strings.HasPrefix(string(text), "not") },
	}
}

func logsAreRead(t *testing.T, c *Client) {
	namespace(t, c, "logs")
	n, c := makeNodeLogs(t, c, "logs")
	a, b := logging(t, c, "logs", "a", "logs", "a-2", 2), logging(t, c, "logs", "b", "logs", "b-1", 0)
	logging(t, c, "logs", "gone", "logs", "gone-1", 0) // whose files the kubelet has removed
	logging(t, c, "logs", "starting", "logs", "", 0)
	n.write(t, a, "1.log", at(1, "a1"))
	n.write(t, a, "2.log.20261129-120000.gz", at(3, "a3"), at(4, "not this"), at(5, "a5"))
	n.write(t, a, "2.log.20261129-120000", at(3, "half of it is compressed"))
	n.write(t, a, "2.log.20261129-120010", at(7, "a7"), at(7, "a7 again"))
	n.write(t, a, "2.log.20261129-120010.tmp", "no line")
	n.write(t, a, "2.log",
		"2026-11-29T12:00:08.5Z stdout P a8 ", "2026-11-29T12:00:08.6Z stderr F err", "2026-11-29T12:00:08.7Z stdout F goes on", at(2, "the clock went back"))
	n.write(t, b, "0.log", at(2, "b2"), at(6, "b6"), at(9, "b9"))
	end, err := os.OpenFile(filepath.Join(n.dir, "pods", "logs_b_"+string(b.UID), "app", "0.log"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = end.WriteString("2026-11-29T12:00:10.5Z stdout F half a li")
	must(t, err)
	must(t, end.Close())

	read := func(since int) (got []string) {
		t.Helper()
		q := logsOfNamespace("logs")
		if since > 0 {
			q.Since = time.Date(2026, 11, 29, 12, 0, since, 500_000_000, time.UTC)
		}
		must(t, c.Logs(t.Context(), q, func(l LogLine) error {
			if l.Namespace != "logs" {
				t.Errorf("%s is of namespace %q", l.Text, l.Namespace)
			}
			got = append(got, string(l.Text))
			return nil
		}))
		return got
	}
	want := []string{"a1", "the clock went back", "b2", "a3", "a5", "b6", "a7", "a7 again", "a8 goes on", "err", "b9"}
	if got := read(0); !slices.Equal(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
	want = []string{"the clock went back", "a7", "a7 again", "a8 goes on", "err", "b9"}
	if got := read(7); !slices.Equal(got, want) {
		t.Errorf("since second 7 read %q, want %q", got, want)
	}
	full := errors.New("the disk is full")
	if err := c.Logs(t.Context(), logsOfNamespace("logs"), func(LogLine) error { return full }); !errors.Is(err, full) {
		t.Errorf("a writer's error: %v", err)
	}
	n.write(t, b, "0.log", "<html>")
	if err := c.Logs(t.Context(), logsOfNamespace("logs"), func(LogLine) error { return nil }); err == nil || !strings.Contains(err.Error(), "0.log of the log of Pod/logs/b") {
		t.Errorf("a file that is no log: %v", err)
	}
}

func logsAreFollowed(t *testing.T, c *Client) {
	namespace(t, c, "follow")
	n, c := makeNodeLogs(t, c, "follow")
	first := logging(t, c, "follow", "first", "follow", "first-1", 0)
	n.write(t, first, "0.log", at(1, "one"), at(2, "two"), at(2, "two again"))
	lines := n.stream("follow/first/app")

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	q := logsOfNamespace("follow")
	q.Follow = true
	got, ended := make(chan string), make(chan error)
	go func() {
		ended <- c.Logs(ctx, q, func(l LogLine) error {
			got <- string(l.Text)
			return nil
		})
	}()
	next := func(want ...string) {
		t.Helper()
		for _, w := range want {
			select {
			case g := <-got:
				if g != w {
					t.Fatalf("got %q, want %q", g, w)
				}
			case err := <-ended:
				t.Fatalf("it ended before %q: %v", w, err)
			case <-time.After(30 * time.Second):
				t.Fatalf("%q never came", w)
			}
		}
	}
	say := func(stream chan<- string, lines ...string) {
		t.Helper()
		for _, l := range lines {
			select {
			case stream <- l:
			case <-time.After(30 * time.Second):
				t.Fatalf("nobody reads the stream of %q", l)
			}
		}
	}
	next("one", "two", "two again")
	// As the API takes whole seconds, what was read comes again.
	say(lines, streamed(2, "two"), streamed(2, "two again"), streamed(2, "two once more"), streamed(3, "not this"), streamed(4, "four"))
	next("two once more", "four")

	// The stream breaks; what was written until the next one is in the files, and comes in the stream again.
	n.write(t, first, "0.log", at(4, "four"), at(5, "five"))
	again := n.stream("follow/first/app")
	close(lines)
	next("five")
	say(again, streamed(5, "five"), streamed(6, "six"))
	next("six")

	// A pod that comes later, with a file that was rotated meanwhile.
	second := logging(t, c, "follow", "second", "follow", "", 0)
	n.write(t, second, "0.log.20261129-120010", at(7, "its first"))
	n.write(t, second, "0.log", at(8, "its second"))
	its := n.stream("follow/second/app")
	kubelet(t, c, second, running("second-1", 0))
	next("its first", "its second")
	say(its, streamed(9, "its third"))
	next("its third")

	// A pod that is deleted is read to its end, and one of its name is another one.
	must(t, c.Client.Delete(ctx, first, client.GracePeriodSeconds(0)))
	say(again, streamed(10, "the last"))
	close(again)
	next("the last")
	third := logging(t, c, "follow", "first", "follow", "", 0)
	n.write(t, third, "0.log", at(1, "of another pod"))
	n.stream("follow/first/app")
	kubelet(t, c, third, running("third-1", 0))
	next("of another pod")

	// A container that starts again.
	n.write(t, second, "1.log", at(11, "after its restart"))
	restarted := n.stream("follow/second/app")
	must(t, c.Get(ctx, client.ObjectKeyFromObject(second), second))
	kubelet(t, c, second, running("second-2", 1))
	close(its)
	next("after its restart")
	say(restarted, streamed(12, "and more"))
	next("and more")

	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if since := n.since["follow/first/app"]; len(since) < 2 || since[0] != "2026-11-29T12:00:02Z" {
		t.Errorf("the first stream was asked for since %q", since)
	}
}
