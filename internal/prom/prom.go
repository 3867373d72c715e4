// Package prom reads what the lab's Prometheus has measured.
package prom

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/prometheus/common/model"

	"mllab.local/internal/kube"
)

// Namespace is where Prometheus is, and where users look for it.
const Namespace = "monitoring"

// Query has Prometheus answer a query whose result is an instant vector. Nobody
// measured is no values, and no error.
//
// https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries
func Query(ctx context.Context, k *kube.Client, query string) (model.Vector, error) {
	var answer vector
	err := Ask(ctx, k, "prometheus", 9090, "api/v1/query?query="+query, &answer)
	return answer.Data.Result, err
}

// vector is Prometheus' answer.
type vector struct{ Data struct{ Result model.Vector } }

// Ask decodes what the one pod of a program in Namespace answers, which is JSON.
func Ask(ctx context.Context, k *kube.Client, app string, port int, path string, answer any) error {
	pods, err := k.Pods(ctx, Namespace, map[string]string{"app": app})
	if err != nil {
		return err
	}
	if len(pods) == 0 {
		return fmt.Errorf("no pod of %s is there", app)
	}
	body, err := k.FromPod(ctx, Namespace, pods[0].Name, port, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("reading what %s says: %w", app, err)
	}
	return nil
}
