package alerts

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"mllab.local/internal/kube"
)

// cluster is an API server with a pod of each named app, and what these answer.
func cluster(t *testing.T, answers map[string]string, apps ...string) *kube.Client {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for path, answer := range answers {
			if strings.HasSuffix(r.URL.Path, "/proxy/"+path) {
				fmt.Fprint(w, answer)
				return
			}
		}
		switch app := strings.TrimPrefix(r.URL.Query().Get("labelSelector"), "app="); {
		case r.URL.Path == "/api":
			fmt.Fprint(w, `{"kind": "APIVersions", "versions": ["v1"]}`)
		case r.URL.Path == "/api/v1":
			fmt.Fprint(w, `{"kind": "APIResourceList", "groupVersion": "v1", "resources": [{"name": "pods", "kind": "Pod", "namespaced": true, "verbs": ["list"]}]}`)
		case r.URL.Path == "/apis":
			fmt.Fprint(w, `{"kind": "APIGroupList", "apiVersion": "v1", "groups": []}`)
		case r.URL.Path == "/api/v1/namespaces/monitoring/pods" && strings.Contains(strings.Join(apps, " "), app):
			fmt.Fprintf(w, `{"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": "%s-1", "namespace": "monitoring"}}]}`, app)
		case r.URL.Path == "/api/v1/namespaces/monitoring/pods":
			fmt.Fprint(w, `{"kind": "PodList", "apiVersion": "v1", "items": []}`)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	k, err := kube.Parse(fmt.Appendf(nil, `{"clusters": [{"name": "c", "cluster": {"server": %q}}], "contexts": [{"name": "c", "context": {"cluster": "c"}}], "current-context": "c"}`, srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAnAlertSaysWhetherAlertmanagerHasIt(t *testing.T) {
	answers := map[string]string{
		"api/v1/alerts": `{"status": "success", "data": {"alerts": [
			{"labels": {"alertname": "ReplicaDown", "namespace": "n", "app": "a", "pod": "a-2"}, "annotations": {"summary": "it does not answer"}, "state": "pending", "activeAt": "2026-01-02T03:04:05Z", "value": "0e+00"},
			{"labels": {"alertname": "ModelErrors", "namespace": "n", "app": "a"}, "annotations": {"summary": "50.0 %"}, "state": "firing", "activeAt": "2026-01-02T03:04:05Z", "value": "5e+01"}]}}`,
		"api/v2/alerts": `[{"labels": {"alertname": "ModelErrors", "namespace": "n", "app": "a"}, "status": {"state": "active"}}, {"labels": {"alertname": "ReplicaDown", "namespace": "n", "app": "a", "pod": "a-1"}}]`,
	}
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := []Alert{
		{Name: "ModelErrors", State: "firing", Namespace: "n", App: "a", Since: since, Summary: "50.0 %", Taken: true},
		{Name: "ReplicaDown", State: "pending", Namespace: "n", App: "a", Pod: "a-2", Since: since, Summary: "it does not answer"},
	}
	if got, err := Active(t.Context(), cluster(t, answers, "prometheus", "alertmanager")); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	answers["api/v1/alerts"], answers["api/v2/alerts"] = `{"data": {"alerts": []}}`, `[]`
	if got, err := Active(t.Context(), cluster(t, answers, "prometheus", "alertmanager")); err != nil || got == nil || len(got) > 0 {
		t.Errorf("of no alert it says %#v, %v", got, err)
	}
	if _, err := Active(t.Context(), cluster(t, answers, "prometheus")); err == nil || !strings.Contains(err.Error(), "no pod of alertmanager") {
		t.Errorf("without Alertmanager: %v", err)
	}
	answers["api/v2/alerts"] = "busy"
	if _, err := Active(t.Context(), cluster(t, answers, "prometheus", "alertmanager")); err == nil || !strings.Contains(err.Error(), "reading what alertmanager says") {
		t.Errorf("of no JSON it says %v", err)
	}
}

func TestARuleThatCannotBeAnsweredSaysWhy(t *testing.T) {
	k := cluster(t, map[string]string{
		"api/v1/rules":         `{"data": {"groups": [{"name": "lab", "rules": [{"name": "A", "query": "x > 5", "health": "ok"}, {"name": "B", "health": "err", "lastError": "too many"}, {"name": "C", "health": "unknown"}]}]}}`,
		"api/v1/alertmanagers": `{"data": {"activeAlertmanagers": [{"url": "http://10.0.0.1:9093/api/v2/alerts"}]}}`,
	}, "prometheus")
	want := map[string]RuleState{"A": {Query: "x > 5"}, "B": {Problem: "too many"}, "C": {Problem: "unknown"}}
	if got, err := Evaluated(t.Context(), k); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if n, err := Targets(t.Context(), k); err != nil || n != 1 {
		t.Errorf("it sends alerts to %d, %v", n, err)
	}
}
