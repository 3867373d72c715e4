package addons

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/alerts"
	"mllab.local/internal/kube"
	"mllab.local/internal/prom"
)

// prometheus measures the pods that are annotated for it.
func prometheus() Addon {
	return Addon{
		Name:    "prometheus",
		Summary: "Prometheus: metrics of the pods that are annotated for it",
		Images:  []string{"prometheus"},
		Render: func(Images) ([]*unstructured.Unstructured, error) {
			rules, err := alerts.ConfigMap(alerts.Default) // by which it alerts
			return []*unstructured.Unstructured{rules}, err
		},
		Verify: verifyPrometheus,
	}
}

// verifyPrometheus asks for what it has measured of itself: it has then found a
// pod by its annotations, and kept what that said.
func verifyPrometheus(ctx context.Context, env Env, reason func(string)) error {
	return poll(ctx, reason, "having Prometheus measure itself", func(ctx context.Context) error {
		found, err := prom.Query(ctx, env.Kube, `prometheus_build_info{namespace="`+prom.Namespace+`",app="prometheus"}`)
		if err == nil && len(found) == 0 {
			err = errors.New("it has not found itself yet")
		}
		return err
	})
}

// alertmanager notifies who wants to know of what Prometheus finds wrong.
func alertmanager() Addon {
	return Addon{
		Name:    "alertmanager",
		Summary: "Alertmanager: notifies a namespace's Service called alerts of what Prometheus finds wrong",
		Needs:   []string{"prometheus"},
		Images:  []string{"alertmanager"},
		Verify:  verifyAlertmanager,
	}
}

// verifyAlertmanager returns when Prometheus sends alerts to it, and can answer
// each rule, and Alertmanager answers which alerts it has.
func verifyAlertmanager(ctx context.Context, env Env, reason func(string)) error {
	return poll(ctx, reason, "having Prometheus look at its rules", func(ctx context.Context) error {
		targets, err := alerts.Targets(ctx, env.Kube)
		if err == nil && targets == 0 {
			err = errors.New("it does not know Alertmanager yet")
		}
		if err != nil {
			return err
		}
		states, err := alerts.Evaluated(ctx, env.Kube)
		if err != nil {
			return err
		}
		rules, err := alerts.Rules(alerts.Default)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if state, known := states[r.Alert]; !known {
				return fmt.Errorf("it does not have rule %s yet", r.Alert)
			} else if state.Problem != "" {
				return fmt.Errorf("rule %s: %s", r.Alert, state.Problem)
			}
		}
		_, err = alerts.Active(ctx, env.Kube)
		return err
	})
}

// flagger is Flagger for Istio, from its own module.
func flagger() Addon {
	return Addon{
		Name:    "flagger",
		Summary: "Flagger: moves a new version forward or back by what Prometheus measures",
		Needs:   []string{"istio", "prometheus"},
		Images:  []string{"flagger"},
		Verify:  verifyFlagger,
	}
}

func verifyFlagger(ctx context.Context, env Env, reason func(string)) error {
	return use(ctx, env, reason, "having Flagger look for a Deployment", "flagger", func(ctx context.Context, live *unstructured.Unstructured) error {
		var events corev1.EventList
		if err := env.Kube.List(ctx, &events, client.InNamespace(verifyNamespace)); err != nil {
			return err
		}
		if !slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.InvolvedObject.UID == live.GetUID() }) {
			return errors.New("it says nothing yet")
		}
		return nil
	})
}

// progressive is what Flagger judges versions by.
func progressive() Addon {
	return Addon{
		Name:    "progressive",
		Summary: "progressive delivery: Flagger, Prometheus and Alertmanager, and the metrics that versions are judged by",
		Needs:   []string{"alertmanager", "flagger"},
		Verify:  verifyProgressive,
	}
}

// verifyProgressive has Prometheus answer the queries: of nobody it knows no
// values, and a wrong query is an error.
func verifyProgressive(ctx context.Context, env Env, reason func(string)) error {
	objs, err := upstream("progressive.yaml")
	if err != nil {
		return err
	}
	return poll(ctx, reason, "asking Prometheus the queries", func(ctx context.Context) error {
		for _, o := range objs {
			query, _, _ := unstructured.NestedString(o.Object, "spec", "query")
			filled := strings.NewReplacer("{{ namespace }}", "none", "{{ target }}", "none", "{{ interval }}", "20s").Replace(query)
			if _, err := prom.Query(ctx, env.Kube, filled); err != nil {
				return fmt.Errorf("%s: %w", kube.Name(o), err)
			}
		}
		return nil
	})
}
