package kube

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
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
		return body, fmt.Errorf("asking Pod/%s/%s port %d for %s: %w: %s", ns, pod, port, path, err, firstLine(string(body)))
	}
	return body, nil
}

// ToPod sends body with PUT path to a pod's HTTP server, as FromPod does, and returns the answer.
func (c *Client) ToPod(ctx context.Context, ns, pod string, port int, path string, body []byte) ([]byte, error) {
	answer, err := c.core.RESTClient().Put().Namespace(ns).Resource("pods").Name(fmt.Sprintf("%s:%d", pod, port)).SubResource("proxy").Suffix(path).
		SetHeader("Content-Type", "application/json").Body(body).DoRaw(ctx)
	if err != nil {
		return answer, fmt.Errorf("sending %s to Pod/%s/%s port %d: %w: %s", path, ns, pod, port, err, firstLine(string(answer)))
	}
	return answer, nil
}

// loopbackBound limits the time in which the API server opens a forwarded port, which cannot be canceled.
const loopbackBound = 10 * time.Second

// FromLoopback sends GET path to a pod's HTTP server over the pod's own loopback interface, and returns the answer. Some
// servers accept only such requests. The request goes through a port forward, but opens no port on this machine.
// An answer other than 2xx is an error with its text.
func (c *Client) FromLoopback(ctx context.Context, ns, pod string, port int, path string) (body []byte, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("asking Pod/%s/%s port %d for %s: %w", ns, pod, port, path, err)
		}
	}()
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return nil, err
	}
	url := c.core.RESTClient().Post().Namespace(ns).Resource("pods").Name(pod).SubResource("portforward").URL()
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport, Timeout: loopbackBound}, http.MethodPost, url)
	conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	errorStream, err := conn.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	errorStream.Close() // nothing is written to it
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := conn.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return nil, err
	}
	request.Close = true
	if err := request.Write(data); err != nil {
		return nil, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(data), request)
	if err != nil {
		if text, _ := io.ReadAll(errorStream); len(text) > 0 { // the kubelet's reason
			err = fmt.Errorf("%s", firstLine(string(text)))
		}
		return nil, err
	}
	defer answer.Body.Close()
	if body, err = io.ReadAll(answer.Body); err == nil && answer.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", answer.Status, firstLine(string(body)))
	}
	return body, err
}
