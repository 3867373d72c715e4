package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
)

// askGateway asks the admin interface of the gateway's Envoy.
// https://www.envoyproxy.io/docs/envoy/latest/operations/admin
func (l *Session) askGateway(ctx context.Context, path string) ([]byte, error) {
	const namespace, adminPort = "istio-system", 15000
	pods, err := l.Kube.Pods(ctx, namespace, map[string]string{"istio": "ingressgateway"})
	if err == nil && len(pods) != 1 {
		err = fmt.Errorf("the gateway has %d pods instead of one", len(pods))
	}
	if err != nil {
		return nil, err
	}
	return l.Kube.FromLoopback(ctx, namespace, pods[0].Name, adminPort, path)
}

// gatewayWorkers is how many threads of the gateway's Envoy pass requests on.
func (l *Session) gatewayWorkers(ctx context.Context) (int, error) {
	body, err := l.askGateway(ctx, "/server_info")
	if err != nil {
		return 0, err
	}
	var info struct {
		Options struct{ Concurrency int } `json:"command_line_options"`
	}
	if err := json.Unmarshal(body, &info); err != nil || info.Options.Concurrency < 1 {
		return 0, fmt.Errorf("the gateway's Envoy does not say how many workers it has: %v %s", err, body)
	}
	return info.Options.Concurrency, nil
}
