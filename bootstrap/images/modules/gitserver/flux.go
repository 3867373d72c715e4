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
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// account is where Kubernetes gives a pod the means to talk to the API.
const account = "/var/run/secrets/kubernetes.io/serviceaccount"

// flux asks Flux to look at this repository at once, and not when its interval has passed: it sets the annotation for that
// on every GitRepository that has our address. https://fluxcd.io/flux/components/source/gitrepositories/#triggering-a-reconcile
//
// It needs so little of the API that a client library would be most of this program.
type flux struct {
	url     string // of the repository
	api     string // of Kubernetes; "" means there is none to ask
	account string
	client  *http.Client
	wish    chan struct{}
	log     *slog.Logger
}

// newFlux takes the API from the environment of a pod. Without url, or outside of a cluster, nobody is asked.
func newFlux(url string, log *slog.Logger) (*flux, error) {
	f := &flux{url: url, account: account, wish: make(chan struct{}, 1), log: log}
	host := os.Getenv("KUBERNETES_SERVICE_HOST")
	if url == "" || host == "" {
		return f, nil
	}
	f.api = "https://" + net.JoinHostPort(host, os.Getenv("KUBERNETES_SERVICE_PORT"))
	ca, err := os.ReadFile(filepath.Join(account, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's certificate: %w", err)
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(ca) {
		return nil, errors.New("the cluster's certificate is none")
	}
	f.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}}
	return f, nil
}

// ask notes that Flux is to be asked, and does not wait for it.
func (f *flux) ask() {
	select {
	case f.wish <- struct{}{}:
	default: // there is a wish already
	}
}

const (
	askAgain = time.Second
	askTries = 60
)

// run does what was wished, until ctx ends.
func (f *flux) run(ctx context.Context) {
	again := time.NewTicker(askAgain)
	defer again.Stop()
	for {
		select {
		case <-f.wish:
		case <-ctx.Done():
			return
		}
		for try := 1; f.api != ""; try++ {
			err := f.reconcile(ctx)
			if err == nil || ctx.Err() != nil {
				break
			}
			if try == askTries {
				f.log.Error("Flux could not be asked, and will look when its interval has passed", "error", err)
				break
			}
			select {
			case <-again.C:
			case <-ctx.Done():
			}
		}
	}
}

const repositories = "/apis/source.toolkit.fluxcd.io/v1/"

// reconcile asks once. That Flux is not installed is no error.
func (f *flux) reconcile(ctx context.Context) error {
	var list struct {
		Items []struct {
			Metadata struct{ Name, Namespace string }
			Spec     struct{ URL string }
		}
	}
	answer, err := f.call(ctx, http.MethodGet, repositories+"gitrepositories", nil)
	if errors.Is(err, errNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, &list); err != nil {
		return fmt.Errorf("reading the GitRepositories: %w", err)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{
		"reconcile.fluxcd.io/requestedAt": time.Now().UTC().Format(time.RFC3339Nano),
	}}})
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range list.Items {
		if strings.TrimSuffix(o.Spec.URL, "/") != f.url {
			continue
		}
		name := o.Metadata.Namespace + "/" + o.Metadata.Name
		_, err := f.call(ctx, http.MethodPatch, repositories+"namespaces/"+o.Metadata.Namespace+"/gitrepositories/"+o.Metadata.Name+"?fieldManager=gitserver", patch)
		switch {
		case err == nil:
			f.log.Info("asked Flux to look", "gitrepository", name)
		case errors.Is(err, errForbidden):
			f.log.Warn("this GitRepository may not be asked: its namespace has no RoleBinding for that", "gitrepository", name)
		case !errors.Is(err, errNotFound): // else it is gone already
			errs = append(errs, fmt.Errorf("GitRepository %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

var errNotFound, errForbidden = errors.New("not found"), errors.New("forbidden")

func (f *flux) call(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	token, err := os.ReadFile(filepath.Join(f.account, "token")) // Kubernetes renews it
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, f.api+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+string(token))
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusNotFound:
		return nil, errNotFound
	case resp.StatusCode == http.StatusForbidden:
		return nil, errForbidden
	case resp.StatusCode >= 300:
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	return answer, nil
}
