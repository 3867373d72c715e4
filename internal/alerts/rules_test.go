package alerts

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// read returns the rules as Prometheus reads them.
func read(t *testing.T, thresholds Thresholds) map[string]Rule {
	t.Helper()
	config, err := ConfigMap(thresholds)
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := unstructured.NestedString(config.Object, "data", rulesFile)
	var file struct {
		Groups []struct {
			Interval string
			Rules    []Rule
		}
	}
	if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(text, "name: lab", "")), &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Groups) != 1 || file.Groups[0].Interval != "2s" {
		t.Fatalf("the groups are %+v", file.Groups)
	}
	all := map[string]Rule{}
	for _, r := range file.Groups[0].Rules {
		all[r.Alert] = r
	}
	return all
}

func TestEachRuleComparesWithItsThreshold(t *testing.T) {
	moved := read(t, Thresholds{ErrorPercent: 12.5, Latency: 2 * MaxLatency, DiskPercent: 70})
	for name, ends := range map[string][2]string{
		ModelErrors: {"> 5", "> 12.5"}, ModelSlow: {"> 1", "> 2"}, DiskFull: {"> 90", "> 70"}, ModelUnused: {"== 0 and sum by (namespace, app) (sampleapp_requests_total) > 0", "> 0"}, ReplicaDown: {"== 0", "== 0"}, ModelDrift: {"== 1", "== 1"},
	} {
		for i, r := range []Rule{read(t, Default)[name], moved[name]} {
			if !strings.HasSuffix(r.Expr, " "+ends[i]) || strings.Contains(r.Expr, "%!") || r.For != "10s" || r.Annotations["summary"] == "" {
				t.Errorf("%s ends with %q: %+v", name, ends[i], r)
			}
		}
	}
	if len(moved) != 6 {
		t.Errorf("the rules are %v", moved)
	}
}

func TestThePageHasTheThresholds(t *testing.T) {
	text, err := os.ReadFile("../../docs/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	page := strings.Join(strings.Fields(string(text)), " ")
	for name, says := range map[string]string{
		ModelErrors: fmt.Sprintf("| %g %% |", Default.ErrorPercent), ModelSlow: fmt.Sprintf("| %s |", MaxLatency), DiskFull: fmt.Sprintf("| %g %% |", Default.DiskPercent),
		ModelUnused: fmt.Sprintf("look at the last %s.", Window), ReplicaDown: fmt.Sprintf("every %s; what a rule finds is pending for %s,", Every, For),
	} {
		if !strings.Contains(page, "| `"+name+"` |") || !strings.Contains(page, says) {
			t.Errorf("docs/alerts.md does not have %s with %q", name, says)
		}
	}
}
