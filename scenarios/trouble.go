package scenarios

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/alerts"
	"mllab.local/internal/prom"
	"mllab.local/sampleapp/api"
)

// alertSlack is how long it may take until Prometheus has measured a fault, and
// from the rule to the receiver, on a small busy machine.
const alertSlack = 30 * time.Second

// alertsRate is how many requests per second go to each model that has users.
const alertsRate = 5

// trouble is what goes wrong with one model, and the alert that it must cause.
type trouble struct {
	model, alert string
	wrong, well  faults
	users        bool
	leave        bool          // its users leave
	within       time.Duration // from the fault to the receiver

	pod    string
	prober prober
	at     time.Time // of the fault, and then of its end
}

func (t *trouble) turn(ctx context.Context, l *Session, wrong bool) (err error) {
	switch {
	case t.leave && wrong:
		t.prober.Stop()
	case t.leave:
		t.prober.start(ctx, l, l.to(t.model), alertsRate)
	case wrong:
		err = l.breakPod(ctx, t.pod, t.wrong)
	default:
		err = l.breakPod(ctx, t.pod, t.well)
	}
	if t.at = time.Now(); !wrong {
		t.within = alerts.Window + alertSlack
	}
	return err
}

// about says whether a is the alert of t.
func (t *trouble) about(a api.Alert) bool {
	return t.alert != "" && a.Labels["alertname"] == t.alert && a.Labels["app"] == t.model
}

// first is when the receiver knew first that the alert of t has this status.
func (t *trouble) first(all []api.Alert, status string) (when time.Time, known bool) {
	for _, a := range all {
		if t.about(a) && a.Status == status {
			return a.Received, true
		}
	}
	return time.Time{}, false
}

func inWords(a api.Alert) string {
	return fmt.Sprintf("%s of %s is %s", a.Labels["alertname"], a.Labels["app"], a.Status)
}

// setRules has Prometheus alert by these thresholds, and returns when it does.
func (l *Session) setRules(ctx context.Context, t alerts.Thresholds) error {
	config, err := alerts.ConfigMap(t)
	if err != nil {
		return err
	}
	if _, err := l.Kube.Apply(ctx, []*unstructured.Unstructured{config}); err != nil {
		return err
	}
	pods, err := l.Kube.Pods(ctx, prom.Namespace, map[string]string{"app": "prometheus"})
	if err != nil {
		return err
	}
	for i := range pods {
		// The kubelet writes a ConfigMap's files when it looks at the pod anyway, which
		// takes it a minute; a change of the pod has it look now.
		patch := fmt.Sprintf(`{"metadata":{"annotations":{"mllab.local/rules":%q}}}`, uuid.NewString())
		if err := l.patch(ctx, &pods[i], patch); err != nil {
			return fmt.Errorf("having the kubelet look at Pod/%s: %w", pods[i].Name, err)
		}
	}
	want := fmt.Sprintf("> %g", t.ErrorPercent)
	return l.untilEvery(ctx, followEvery, "Prometheus' rules", func() string {
		state, err := alerts.Evaluated(ctx, l.Kube)
		if err == nil && strings.HasSuffix(state[alerts.ModelErrors].Query, want) {
			return ""
		}
		return fmt.Sprintf("%q, %v", state[alerts.ModelErrors].Query, err)
	})
}
