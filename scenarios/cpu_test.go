package scenarios

import (
	"context"
	"errors"
	"math"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTheNodesCPUTimeIsDividedAmongTheRunsUnderWay(t *testing.T) {
	now, failed := 100.0, error(nil)
	m := newCPUMeter(func(ctx context.Context) (float64, error) { return now, errors.Join(failed, ctx.Err()) })
	a := m.begin(t.Context()) // 100
	now = 110
	b := m.begin(t.Context()) // of a alone: 10
	now = 130
	if got := a(); got != 20 { // and half of 20
		t.Errorf("a: %v, want 20", got)
	}
	now = 135
	ctx, stop := context.WithCancel(t.Context())
	c := m.begin(ctx)
	stop() // ^C: the share is known all the same
	now = 145
	if gotB, gotC := b(), c(); gotB != 20 || gotC != 5 { // 10 + 5 + 5, and 5
		t.Errorf("b: %v, want 20; c: %v, want 5", gotB, gotC)
	}
	if sum := 20.0 + 20 + 5; sum != now-100 {
		t.Errorf("the shares add up to %v of %v", sum, now-100)
	}

	d := m.begin(t.Context())
	failed = errors.New("no engine")
	e := m.begin(t.Context())
	failed, now = nil, 150
	f := m.begin(t.Context())
	now = 153
	if got := []float64{d(), e(), f()}; got[0] != 0 || got[1] != 0 || math.Abs(got[2]-1) > 1e-9 {
		t.Errorf("with a question that failed: %v, want only the last to be known, and 1", got)
	}
	if got := newCPUMeter(nil).begin(t.Context())(); got != 0 {
		t.Errorf("of what is not measured: %v", got)
	}
}

func TestTheLabsOwnNamespacesAreNotThoseOfRunsOrUsers(t *testing.T) {
	for name, c := range map[string]struct {
		labels map[string]string
		want   bool
	}{
		"kube-system":  {nil, true},
		"istio-system": {map[string]string{managedLabel: managedBy}, true},
		"mllab-canary": {map[string]string{managedLabel: managedBy, scenarioLabel: "canary"}, false},
		"mine":         {nil, false},
		"others":       {map[string]string{managedLabel: "Helm"}, false},
	} {
		if got := isLabs(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: c.labels}}); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
