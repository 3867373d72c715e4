package bootstrap

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
		"a crash loop, for kube.Wait": {[]warning{{"BackOff", "restarting", time.Second}, {"BackOff", "restarting", time.Minute}}, false},
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
