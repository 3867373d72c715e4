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
)

// account is the folder with a pod's credentials for the API server.
const account = "/var/run/secrets/kubernetes.io/serviceaccount"

// callBound limits one call. A watch has no limit.
const callBound = 10 * time.Second

// api is a small client of the Kubernetes API. A client library would be most of this program.
type api struct {
	url, account string
	client       *http.Client
}

func newAPI(account string) (api, error) {
	a := api{account: account, url: "https://" + net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))}
	ca, err := os.ReadFile(filepath.Join(account, "ca.crt"))
	if err != nil {
		return a, fmt.Errorf("reading the cluster's certificate: %w", err)
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(ca) {
		return a, errors.New("ca.crt contains no certificate")
	}
	a.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}}
	return a, nil
}

func (a api) do(ctx context.Context, method, path, kind string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(filepath.Join(a.account, "token")) // Kubernetes renews it
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", kind)
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	var status struct{ Message string }
	text, _ := io.ReadAll(resp.Body) // an incomplete error text is enough
	_ = json.Unmarshal(text, &status)
	return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, status.Message)
}

// call sends body and decodes the answer into the value that into points to, unless into is nil.
func (a api) call(ctx context.Context, method, path, kind string, body []byte, into any) error {
	ctx, stop := context.WithTimeout(ctx, callBound)
	defer stop()
	resp, err := a.do(ctx, method, path, kind, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("reading the answer to %s %s: %w", method, path, err)
	}
	return nil
}

// watch calls changed for every change of the objects at path since a version, until the server or ctx ends the watch.
func (a api) watch(ctx context.Context, path, version string, changed func()) error {
	resp, err := a.do(ctx, http.MethodGet, path+"?watch=true&resourceVersion="+version, "application/json", nil)
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
