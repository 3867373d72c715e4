package main

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

	"mllab.local/internal/notebook"
)

// account is where Kubernetes gives a pod the means to talk to the API.
const account = "/var/run/secrets/kubernetes.io/serviceaccount"

// api is the little of Kubernetes' API that is needed, in the pod's namespace. A client library would be most of this
// program.
type api struct {
	url, account, namespace string
	client                  *http.Client
}

func newAPI(account string) (api, error) {
	a := api{account: account, url: "https://" + net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))}
	namespace, err := os.ReadFile(filepath.Join(account, "namespace"))
	if err != nil {
		return a, fmt.Errorf("reading the pod's namespace: %w", err)
	}
	a.namespace = string(namespace)
	ca, err := os.ReadFile(filepath.Join(account, "ca.crt"))
	if err != nil {
		return a, fmt.Errorf("reading the cluster's certificate: %w", err)
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(ca) {
		return a, errors.New("ca.crt contains no certificate")
	}
	a.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}}
	return a, nil
}

// kinds are the API's paths of the objects that the runner creates.
var kinds = map[string]string{
	"ConfigMap": "/api/v1/namespaces/%s/configmaps",
	"Workflow":  "/apis/argoproj.io/v1alpha1/namespaces/%s/workflows",
}

// create creates an object. It returns false if there is one already, which it leaves as it is.
func (a api) create(ctx context.Context, kind string, object []byte) (bool, error) {
	_, err := a.call(ctx, http.MethodPost, fmt.Sprintf(kinds[kind], a.namespace), object)
	if errors.Is(err, errThere) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("creating the %s: %w", kind, err)
	}
	return true, nil
}

// workflow reads which one a Workflow is, and how far.
func (a api) workflow(ctx context.Context, name string) (string, notebook.Status, error) {
	text, err := a.call(ctx, http.MethodGet, fmt.Sprintf(kinds["Workflow"], a.namespace)+"/"+name, nil)
	var object struct {
		Metadata struct{ UID string }
		Status   json.RawMessage
	}
	if err == nil {
		err = json.Unmarshal(text, &object)
	}
	if err != nil {
		return "", notebook.Status{}, fmt.Errorf("reading Workflow %s: %w", name, err)
	}
	status, err := notebook.ReadStatus(object.Status)
	return object.Metadata.UID, status, err
}

// errThere says that an object of that name is there, and errRefused that the API server will not do it the next time
// either.
var errThere, errRefused = errors.New("it is there already"), errors.New("refused")

func (a api) call(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	token, err := os.ReadFile(filepath.Join(a.account, "token")) // Kubernetes renews it
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusConflict:
		return nil, errThere
	case resp.StatusCode >= 400 && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests:
		return nil, fmt.Errorf("%w: %s %s: %s: %s", errRefused, method, path, resp.Status, answer)
	case resp.StatusCode >= 300:
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	return answer, nil
}
