package alerts

import (
	"cmp"
	"context"
	"slices"
	"time"

	"mllab.local/internal/kube"
	"mllab.local/internal/prom"
)

// Alert is one alert as Prometheus has it. State is "pending" or "firing".
type Alert struct {
	Name      string    `json:"name"`
	State     string    `json:"state"`
	Namespace string    `json:"namespace"`
	App       string    `json:"app,omitempty"`
	Pod       string    `json:"pod,omitempty"`
	Since     time.Time `json:"since"`
	Summary   string    `json:"summary"`
	// Taken says whether Alertmanager has it, which then notifies its receiver.
	Taken bool `json:"taken"`
}

// Active returns the alerts that are pending or firing, by name, namespace, app
// and pod.
func Active(ctx context.Context, k *kube.Client) ([]Alert, error) {
	var found struct {
		Data struct {
			Alerts []struct {
				Labels, Annotations map[string]string
				State               string
				ActiveAt            time.Time
			}
		}
	}
	if err := prom.Ask(ctx, k, "prometheus", 9090, "api/v1/alerts", &found); err != nil {
		return nil, err
	}
	var taken []struct{ Labels map[string]string }
	if err := prom.Ask(ctx, k, "alertmanager", 9093, "api/v2/alerts", &taken); err != nil {
		return nil, err
	}
	key := func(labels map[string]string) Alert {
		return Alert{Name: labels["alertname"], Namespace: labels["namespace"], App: labels["app"], Pod: labels["pod"]}
	}
	has := map[Alert]bool{}
	for _, t := range taken {
		has[key(t.Labels)] = true
	}
	all := []Alert{} // never null in JSON
	for _, f := range found.Data.Alerts {
		a := key(f.Labels)
		a.Taken = has[a]
		a.State, a.Since, a.Summary = f.State, f.ActiveAt, f.Annotations["summary"]
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b Alert) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.App, b.App), cmp.Compare(a.Pod, b.Pod))
	})
	return all, nil
}

// Evaluated returns Prometheus' rules, by name: the query of each, and why it
// cannot be answered; "" when it can.
func Evaluated(ctx context.Context, k *kube.Client) (map[string]RuleState, error) {
	var found struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Query, Health, LastError string }
			}
		}
	}
	if err := prom.Ask(ctx, k, "prometheus", 9090, "api/v1/rules", &found); err != nil {
		return nil, err
	}
	all := map[string]RuleState{}
	for _, g := range found.Data.Groups {
		for _, r := range g.Rules {
			state := RuleState{Query: r.Query}
			if r.Health != "ok" {
				state.Problem = cmp.Or(r.LastError, r.Health)
			}
			all[r.Name] = state
		}
	}
	return all, nil
}

// RuleState is what Prometheus says of one rule.
type RuleState struct{ Query, Problem string }

// Targets returns how many Alertmanagers Prometheus sends alerts to.
func Targets(ctx context.Context, k *kube.Client) (int, error) {
	var found struct {
		Data struct{ ActiveAlertmanagers []any }
	}
	err := prom.Ask(ctx, k, "prometheus", 9090, "api/v1/alertmanagers", &found)
	return len(found.Data.ActiveAlertmanagers), err
}
