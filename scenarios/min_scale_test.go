package scenarios

import (
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"mllab.local/internal/kube"
)

func TestAKeptPodIsTheSameOneAndTheOnlyOneEver(t *testing.T) {
	for _, tc := range []struct {
		name    string
		cluster cluster
		ever    []string
		refutes Claim
		says    string
	}{
		{"the pod is kept", cluster{pods: []corev1.Pod{pod("a")}}, []string{"a"}, "", ""},
		{"the pod is gone", cluster{}, []string{"a"}, Warm, "has 0 ()"},
		{"the pod is going", cluster{pods: []corev1.Pod{terminating(pod("a"))}}, []string{"a"}, Warm, "a (Terminating)"},
		{"another took its place", cluster{pods: []corev1.Pod{pod("b")}}, []string{"a", "b"}, Warm, "has 1 (b)"},
		{"another came too", cluster{pods: []corev1.Pod{pod("a"), pod("b")}}, []string{"a", "b"}, Warm, "a, b"},
		{"another came and went", cluster{pods: []corev1.Pod{pod("a")}}, []string{"a", "b"}, Warm, "there have been 2 (a, b)"},
		{"nobody knows", cluster{err: errors.New("no route to host")}, []string{"a"}, "error", "no route"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lives := map[string]*podLife{}
			for _, name := range tc.ever {
				lives[name] = &podLife{pod: pod(name)}
			}
			s := &minStory{model: &idleService{name: "model"}, idle: &idle{pods: &podTimes{lives: lives}}, pod: "a"}
			wantRefuted(t, s.same(t.Context(), &Session{Env: &Env{Kube: &kube.Client{Client: tc.cluster}}}), tc.refutes, tc.says)
		})
	}
}

func TestATwinThatStaysAwakeIsNoVerdictOnTheModel(t *testing.T) {
	wantRefuted(t, twinProvesNothing(fmt.Errorf("step: %w", refute(Zero, "it has 1 pods"))), "error", "it has 1 pods")
	wantRefuted(t, twinProvesNothing(errors.New("no route")), "error", "no route")
}
