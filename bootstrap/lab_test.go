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
