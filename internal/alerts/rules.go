// Package alerts has the rules by which Prometheus alerts somebody of the lab's
// models, and reads which alerts there are.
package alerts

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"mllab.local/internal/prom"
)

// rulesName is the ConfigMap that has the rules, and rulesFile its one file.
const (
	rulesName = "alert-rules"
	rulesFile = "lab.yaml"
)

// The names of the alerts.
const (
	ModelErrors = "ModelErrors"
	ModelSlow   = "ModelSlow"
	ModelUnused = "ModelUnused"
	ReplicaDown = "ReplicaDown"
	ModelDrift  = "ModelDrift"
	DiskFull    = "DiskNearlyFull"
)

const (
	// Window is what the rules about requests look back at.
	Window = 20 * time.Second
	// For is how long a rule must find the same before its alert fires; until then
	// the alert is pending.
	For = 10 * time.Second
	// Every is how often the rules are looked at.
	Every = 2 * time.Second
)

// Thresholds are what the rules compare with.
type Thresholds struct {
	ErrorPercent float64       // of a model's requests that are answered 5xx
	Latency      time.Duration // that 95 of 100 requests to a model take at most
	DiskPercent  float64       // of the node's disk, or of a volume, that is used
}

// The thresholds of the lab. The latency is a bound of the sample model's
// histogram.
const (
	MaxErrorPercent = 5
	MaxLatency      = time.Second
	MaxDiskPercent  = 90
)

// Default are the thresholds of the lab.
var Default = Thresholds{ErrorPercent: MaxErrorPercent, Latency: MaxLatency, DiskPercent: MaxDiskPercent}

// Rule is one rule of Prometheus.
// https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/
type Rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for"`
	Annotations map[string]string `json:"annotations"`
}

// Rules returns the rules with these thresholds.
func Rules(t Thresholds) []Rule {
	rule := func(name, summary, expr string, args ...any) Rule {
		return Rule{Alert: name, Expr: fmt.Sprintf(expr, args...), For: For.String(), Annotations: map[string]string{"summary": summary}}
	}
	const model = "{{ $labels.app }} in {{ $labels.namespace }}"
	return []Rule{
		rule(ModelErrors, `{{ printf "%.1f" $value }} % of the requests to `+model+` are answered 5xx`,
			`100 * sum by (namespace, app) (rate(sampleapp_requests_total{code=~"5.."}[%[1]s])) / sum by (namespace, app) (rate(sampleapp_requests_total[%[1]s])) > %[2]g`,
			Window, t.ErrorPercent),
		rule(ModelSlow, `5 % of the requests to `+model+` take {{ printf "%.2f" $value }} s or more`,
			`histogram_quantile(0.95, sum by (namespace, app, le) (rate(sampleapp_request_duration_seconds_bucket[%s]))) > %g`,
			Window, t.Latency.Seconds()),
		rule(ModelUnused, model+` had requests, and has none now`,
			`sum by (namespace, app) (increase(sampleapp_requests_total[%s])) == 0 and sum by (namespace, app) (sampleapp_requests_total) > 0`, Window),
		rule(ReplicaDown, `Pod {{ $labels.pod }} of `+model+` does not answer Prometheus`,
			`max by (namespace, app, pod) (up{pod!=""}) == 0`),
		rule(ModelDrift, `{{ $labels.kind }} drift of {{ $labels.model }} in {{ $labels.namespace }}{{ with $labels.feature }}: {{ . }}{{ end }}`,
			`max by (namespace, app, model, kind, feature) (mllab_drift_alarm) == 1`),
		// A node's disk has no namespace: its alert goes where the lab's own parts are.
		rule(DiskFull, `{{ printf "%.0f" $value }} % of {{ with $labels.mountpoint }}{{ . }} of Pod {{ $labels.pod }}{{ else }}the disk of {{ $labels.instance }}{{ end }} is used`,
			`(max by (namespace, app, pod, mountpoint) (100 * (1 - node_filesystem_avail_bytes / node_filesystem_size_bytes)) or `+
				`label_replace(max by (instance) (100 * container_fs_usage_bytes{id="/"} / (container_fs_limit_bytes{id="/"} > 0)), "namespace", "%s", "", "")) > %g`,
			prom.Namespace, t.DiskPercent),
	}
}

// ConfigMap returns the rules as Prometheus reads them.
func ConfigMap(rules []Rule) (*unstructured.Unstructured, error) {
	type group struct {
		Name     string `json:"name"`
		Interval string `json:"interval"`
		Rules    []Rule `json:"rules"`
	}
	text, err := yaml.Marshal(map[string][]group{"groups": {{Name: "lab", Interval: Every.String(), Rules: rules}}})
	if err != nil {
		return nil, fmt.Errorf("writing the alerts' rules: %w", err)
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": rulesName, "namespace": prom.Namespace},
		"data":     map[string]any{rulesFile: string(text)},
	}}, nil
}
