// Package incluster talks to Kubernetes' API from a pod, with the account of the pod. It is for programs that need so
// little of the API that a client library would be most of them.
package incluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Account is the folder with what Kubernetes gives each pod: ca.crt, namespace, token.
// https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/
const Account = "/var/run/secrets/kubernetes.io/serviceaccount"

// ErrNoCluster means that this process does not run in a pod.
var ErrNoCluster = errors.New("KUBERNETES_SERVICE_HOST is not set: this is not a pod")

// Client calls the API. It is safe for use by several goroutines.
type Client struct {
	// Namespace is the pod's.
	Namespace string
	account   string
	url       string
	http      *http.Client
}

// Error is an answer of the API that is not a success.
type Error struct {
	Method, Path string
	Code         int // of HTTP
	Answer       string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s %s: %d %s: %s", e.Method, e.Path, e.Code, http.StatusText(e.Code), e.Answer)
}

// Final reports whether the API would refuse the same call again.
func (e *Error) Final() bool {
	return e.Code >= 400 && e.Code < 500 && e.Code != http.StatusTooManyRequests
}

// Is reports whether err holds an answer of the API with that code of HTTP.
func Is(err error, code int) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// New returns a client with the account in a folder, such as Account.
//
// Errors: ErrNoCluster; what is missing in the folder.
func New(account string) (*Client, error) {
	host := os.Getenv("KUBERNETES_SERVICE_HOST")
	if host == "" {
		return nil, ErrNoCluster
	}
	namespace, err := os.ReadFile(filepath.Join(account, "namespace"))
	if err != nil {
		return nil, fmt.Errorf("reading the pod's namespace: %w", err)
	}
	ca, err := os.ReadFile(filepath.Join(account, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's certificate: %w", err)
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s contains no certificate", filepath.Join(account, "ca.crt"))
	}
	return &Client{
		Namespace: string(namespace),
		account:   account,
		url:       "https://" + net.JoinHostPort(host, os.Getenv("KUBERNETES_SERVICE_PORT")),
		http:      &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}},
	}, nil
}

// Call sends body, JSON or nil, as a merge patch where the method is PATCH, and returns the answer's body.
//
// Errors: *Error for an answer that is not a success.
func (c *Client) Call(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	token, err := os.ReadFile(filepath.Join(c.account, "token")) // Kubernetes renews it
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Accept", "application/json")
	if body != nil {
		kind := "application/json"
		if method == http.MethodPatch {
			kind = "application/merge-patch+json"
		}
		req.Header.Set("Content-Type", kind)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = &Error{Method: method, Path: path, Code: resp.StatusCode, Answer: string(answer)}
	}
	return answer, err
}
