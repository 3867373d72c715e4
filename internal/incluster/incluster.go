// Package incluster talks to Kubernetes' API from a pod, with the account of the pod. It is for programs that need so
// little of the API that a client library would be most of them.
package incluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
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

// callLimit limits one call. A watch has no limit.
const callLimit = 10 * time.Second

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
	e, is := errors.AsType[*Error](err)
	return is && e.Code == code
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
		http:      &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}},
	}, nil
}

// Call sends body, JSON or nil, as a merge patch where the method is PATCH, and returns the answer's body.
//
// Errors: *Error for an answer that is not a success.
func (c *Client) Call(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	kind := "application/json"
	if method == http.MethodPatch {
		kind = "application/merge-patch+json"
	}
	return c.call(ctx, method, path, kind, body)
}

// Get reads the object or the list at path.
//
// Errors: *Error for an answer that is not a success.
func (c *Client) Get(ctx context.Context, path string, into any) error {
	text, err := c.Call(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// Apply creates the object at path, or changes it, by server-side apply. It takes the fields that others manage.
//
// Errors: *Error for an answer that is not a success.
func (c *Client) Apply(ctx context.Context, path, manager string, object []byte) error {
	_, err := c.call(ctx, http.MethodPatch, path+"?fieldManager="+manager+"&force=true", "application/apply-patch+yaml", object)
	return err
}

// Watch calls changed for every change of the objects at path since a version, until the server or ctx ends the watch. It
// always returns an error.
func (c *Client) Watch(ctx context.Context, path, version string, changed func()) error {
	resp, err := c.do(ctx, http.MethodGet, path+"?watch=true&resourceVersion="+version, "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for events := json.NewDecoder(resp.Body); ; {
		var event struct{ Type string }
		if err := events.Decode(&event); err != nil {
			return fmt.Errorf("watching %s: %w", path, err)
		}
		if event.Type == "ERROR" {
			return fmt.Errorf("watching %s: the version is too old", path)
		}
		changed()
	}
}

func (c *Client) call(ctx context.Context, method, path, kind string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	resp, err := c.do(ctx, method, path, kind, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// do returns a successful answer, whose body the caller closes.
func (c *Client) do(ctx context.Context, method, path, kind string, body []byte) (*http.Response, error) {
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
		req.Header.Set("Content-Type", kind)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		answer, _ := io.ReadAll(resp.Body) // an incomplete error text is enough
		return nil, &Error{Method: method, Path: path, Code: resp.StatusCode, Answer: string(answer)}
	}
	return resp, nil
}
