package kube

import (
	"context"
	"fmt"
	"strings"
)

// FromPod sends GET path to a pod's HTTP server through the API server, and returns the answer. No Service, gateway or
// sidecar of another pod is between. An answer other than 2xx is an error with its text.
func (c *Client) FromPod(ctx context.Context, ns, pod string, port int, path string) ([]byte, error) {
	path, query, _ := strings.Cut(path, "?")
	r := c.core.RESTClient().Get().Namespace(ns).Resource("pods").Name(fmt.Sprintf("%s:%d", pod, port)).SubResource("proxy").Suffix(path)
	for _, pair := range strings.Split(query, "&") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			r = r.Param(key, value)
		}
	}
	body, err := r.DoRaw(ctx)
	if err != nil {
		return body, fmt.Errorf("asking Pod/%s/%s port %d for %s: %w: %s", ns, pod, port, path, err, line(string(body)))
	}
	return body, nil
}

// ToPod sends body with PUT path to a pod's HTTP server, as FromPod does, and returns the answer.
func (c *Client) ToPod(ctx context.Context, ns, pod string, port int, path string, body []byte) ([]byte, error) {
	answer, err := c.core.RESTClient().Put().Namespace(ns).Resource("pods").Name(fmt.Sprintf("%s:%d", pod, port)).SubResource("proxy").Suffix(path).
		SetHeader("Content-Type", "application/json").Body(body).DoRaw(ctx)
	if err != nil {
		return answer, fmt.Errorf("sending %s to Pod/%s/%s port %d: %w: %s", path, ns, pod, port, err, line(string(answer)))
	}
	return answer, nil
}
