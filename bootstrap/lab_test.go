package bootstrap

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"mllab.local/internal/kube"
)

func TestAKubeProxyOfBeforeTheRestartIsNone(t *testing.T) {
	since := time.Now()
	pod := func(name string, ready bool, at time.Time) []corev1.Pod {
		return []corev1.Pod{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name},
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
				Ready: ready, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(at.Truncate(time.Second))}},
			}}},
		}}
	}
	for name, c := range map[string]struct {
		pods []corev1.Pod
		want bool
	}{
		"started in the same second": {pod("kube-proxy-x", true, since), true},
		"started later":              {pod("kube-proxy-x", true, since.Add(time.Minute)), true},
		"remembered":                 {pod("kube-proxy-x", true, since.Add(-time.Minute)), false},
		"not ready":                  {pod("kube-proxy-x", false, since.Add(time.Minute)), false},
		"another pod":                {pod("coredns-x", true, since.Add(time.Minute)), false},
		"none":                       {nil, false},
	} {
		if got := proxySince(c.pods, since); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// The API server of a node whose etcd does not run takes connections for a while, and answers none.
func TestTheWaitForAnAPIThatNeverAnswersEndsWithItsContext(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		if c, err := silent.Accept(); err == nil {
			defer c.Close()
			stop()
			<-t.Context().Done()
		}
	}()
	client, err := kube.New(&rest.Config{Host: "http://" + silent.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := liveLab{client}.await(ctx, time.Now(), func(string) {})
		ended <- err
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the context has ended, and the wait goes on")
	}
}

func TestAKubeletThatRepeatsItsWarningCannotStartThePod(t *testing.T) {
	began := time.Now().Truncate(time.Second)
	type warning struct {
		reason, message string
		after           time.Duration
	}
	for name, c := range map[string]struct {
		warnings []warning
		want     bool
	}{
		"three times":                 {[]warning{{"FailedCreatePodSandBox", "no runc", 2 * time.Second}, {"FailedCreatePodSandBox", "no runc", 15 * time.Second}, {"FailedCreatePodSandBox", "no runc", 33 * time.Second}}, true},
		"once":                        {[]warning{{"FailedMount", "no ConfigMap", 2 * time.Second}, {"FailedMount", "no ConfigMap", 2 * time.Second}}, false},
		"an old one, and a new one":   {[]warning{{"FailedMount", "x", -time.Hour}, {"FailedMount", "x", time.Second}}, false},
		"an old one, and two new":     {[]warning{{"FailedMount", "x", -time.Hour}, {"FailedMount", "x", time.Second}, {"FailedMount", "x", 40 * time.Second}}, true},
		"two reasons":                 {[]warning{{"FailedMount", "x", time.Second}, {"FailedCreatePodSandBox", "y", 40 * time.Second}}, false},
		"a busy machine":              {[]warning{{"FailedCreatePodSandBox", "context deadline exceeded", time.Second}, {"FailedCreatePodSandBox", "code = DeadlineExceeded", time.Minute}}, false},
		"a crash loop, for crashLoop": {[]warning{{"BackOff", "restarting", time.Second}, {"BackOff", "restarting", time.Minute}}, false},
		"none":                        {[]warning{{}, {"", "", time.Minute}}, false},
	} {
		r, got := repeated{began: began}, false
		for _, w := range c.warnings {
			got = r.final(corev1.Event{Reason: w.reason, Message: w.message, LastTimestamp: metav1.NewTime(began.Add(w.after))})
		}
		if got != c.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
}

func TestAKubeProxyThatIsReadyBetweenTwoCrashesDoesNotRun(t *testing.T) {
	began := time.Now()
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	never := time.Time{}
	pod := func(name string, restarts int32, ended, started time.Time) corev1.Pod {
		s := corev1.ContainerStatus{Ready: true, RestartCount: restarts, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(started)}}}
		if !ended.IsZero() {
			s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, FinishedAt: metav1.NewTime(ended)}
		}
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{s}}}
	}
	waiting := pod("b", 3, at(22), never)
	waiting.Status.ContainerStatuses[0].State.Running = nil
	var loop crashLoop
	for i, c := range []struct {
		pod     corev1.Pod
		now     int
		crashes int32
		recent  bool
	}{
		{pod("a", 7, at(-60), at(1)), 1, 0, false}, // the node was stopped, and started at 0
		{pod("a", 8, at(2), at(3)), 3, 1, true},
		{pod("a", 8, at(2), at(3)), 14, 1, false},
		{pod("a", 11, at(19), at(20)), 20, proxyCrashes, true},
		{pod("b", 2, never, at(20)), 20, 0, false},
		{waiting, 40, 1, true},
	} {
		if loop.see(c.pod, began, at(c.now)); loop.crashes != c.crashes || loop.recent != c.recent {
			t.Errorf("look %d: %d crashes, recent %t, want %d, %t", i, loop.crashes, loop.recent, c.crashes, c.recent)
		}
	}
}
