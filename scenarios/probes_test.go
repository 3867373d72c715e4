package scenarios

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"mllab.local/internal/probe"
)

// probedModel is the manifest's Deployment.
func probedModel(t *testing.T, p probed) appsv1.Deployment {
	t.Helper()
	p.Image = "img"
	objs, err := render(probedFile, p)
	if err != nil {
		t.Fatal(err)
	}
	var d appsv1.Deployment
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(objs[0].Object, &d, true); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestTheBoundsAreThoseOfTheManifestsProbes(t *testing.T) {
	c := probedModel(t, probed{Version: "v1", Ready: "/readyz"}).Spec.Template.Spec.Containers[0]
	fails := func(p *corev1.Probe) time.Duration {
		return time.Duration(p.PeriodSeconds+p.FailureThreshold*max(p.PeriodSeconds, p.TimeoutSeconds)) * time.Second
	}
	if got := fails(c.ReadinessProbe); got != unreadyAfter {
		t.Errorf("readiness fails after %s, claimed %s", got, unreadyAfter)
	}
	grace := time.Duration(*c.LivenessProbe.TerminationGracePeriodSeconds) * time.Second
	if got := fails(c.LivenessProbe) + grace; got != killedAfter {
		t.Errorf("liveness kills after %s, claimed %s", got, killedAfter)
	}
}

func TestAProbeThatIsTakenAwayIsGone(t *testing.T) {
	c := probedModel(t, probed{Version: "v1", NoLiveness: true}).Spec.Template.Spec.Containers[0]
	if c.ReadinessProbe != nil || c.LivenessProbe != nil {
		t.Errorf("got %v and %v", c.ReadinessProbe, c.LivenessProbe)
	}
}

func TestWhatAHangMayCostIsBounded(t *testing.T) {
	hungAt := time.Now()
	for _, tc := range []struct {
		name    string
		lost    int
		every   time.Duration // from the hang
		refutes Claim
	}{
		{"nothing", 0, 0, ""},
		{"a third for three seconds", 50, 60 * time.Millisecond, ""},
		{"a third for twelve seconds", 200, 60 * time.Millisecond, Bounds},
		{"all for six seconds", 300, 20 * time.Millisecond, Bounds},
		{"few, but to the end", 10, time.Second, Bounds},
	} {
		e := Evidence{Tally: &probe.Tally{Sent: 600}}
		for i := range tc.lost {
			e.Tally.Failed = append(e.Tally.Failed, probe.Answer{Scheduled: hungAt.Add(time.Duration(i) * tc.every)})
		}
		h := &hanging{rotation: rotation{pods: []string{"a", "b", "c"}}, at: hungAt}
		if err := h.judgeCost(&e, 1e-6); refutedClaim(err) != tc.refutes || (err == nil) != (tc.refutes == "") {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}
