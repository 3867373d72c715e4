package kube

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAPodThatComesFurtherIsProgress(t *testing.T) {
	pod := func(change func(*corev1.Pod)) []corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "1"}, Status: corev1.PodStatus{
			Phase:             corev1.PodPending,
			ContainerStatuses: []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}}},
		}}
		change(&p)
		return []corev1.Pod{p, {ObjectMeta: metav1.ObjectMeta{UID: "2"}}}
	}
	was := progressOf(pod(func(*corev1.Pod) {}))
	for name, change := range map[string]func(*corev1.Pod){
		"scheduled": func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}
		},
		"running":  func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning },
		"pulling":  func(p *corev1.Pod) { p.Status.ContainerStatuses[0].State.Waiting.Reason = "ErrImagePull" },
		"ready":    func(p *corev1.Pod) { p.Status.ContainerStatuses[0].Ready = true },
		"restarts": func(p *corev1.Pod) { p.Status.ContainerStatuses[0].RestartCount++ },
		"another":  func(p *corev1.Pod) { p.UID = "3" },
		"going":    func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} },
	} {
		if progressOf(pod(change)) == was {
			t.Errorf("%s: no progress", name)
		}
	}
	same := pod(func(p *corev1.Pod) { p.ResourceVersion = "7"; p.Annotations = map[string]string{"x": "y"} })
	if same[0], same[1] = same[1], same[0]; progressOf(same) != was {
		t.Error("an annotation, or the order of the list, was taken for progress")
	}
}
