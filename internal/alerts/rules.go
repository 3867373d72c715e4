// Package alerts has the rules by which Prometheus alerts somebody of the lab's
// models, and reads which alerts there are.
package alerts

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"mllab.local/internal/prom"
	"mllab.local/manifests"
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

// MaxLatency is the lab's threshold, a bound of the sample model's histogram.
const MaxLatency = time.Second

// Default are the thresholds of the lab.
var Default = Thresholds{ErrorPercent: 5, Latency: MaxLatency, DiskPercent: 90}

// Rule is one rule of Prometheus.
// https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/
type Rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for"`
	Annotations map[string]string `json:"annotations"`
}

// Rules returns the rules with these thresholds.
func Rules(t Thresholds) (rules []Rule, err error) {
	text := strings.NewReplacer("${window}", Window.String(), "${namespace}", prom.Namespace, "${errorPercent}", fmt.Sprint(t.ErrorPercent),
		"${seconds}", fmt.Sprint(t.Latency.Seconds()), "${diskPercent}", fmt.Sprint(t.DiskPercent)).Replace(manifests.AlertRules)
	if err := yaml.UnmarshalStrict([]byte(text), &rules); err != nil {
		return nil, fmt.Errorf("reading the alerts' rules: %w", err)
	}
	for i := range rules {
		rules[i].For = For.String()
	}
	return rules, nil
}

// ConfigMap returns the rules with these thresholds as Prometheus reads them.
func ConfigMap(t Thresholds) (*unstructured.Unstructured, error) {
	rules, err := Rules(t)
	if err != nil {
		return nil, err
	}
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
