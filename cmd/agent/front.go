package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"sync"
	"time"
)

const (
	// maxManifest is the registry's own limit for a manifest, in bytes.
	maxManifest = 4 << 20
	// frontDrain is how long requests in progress may take at shutdown.
	frontDrain = 20 * time.Second
)

// runs matches the path of a manifest by tag in a repository that runs of scenarios push to. The names of their namespaces
// begin with mllab-. https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-manifests
var runs = regexp.MustCompile(`^/v2/(mllab-[^/]+/.+)/manifests/([A-Za-z0-9_][A-Za-z0-9._-]*)$`)

func front(ctx context.Context, listen, registry string) error {
	to, err := url.Parse(registry)
	if err != nil {
		return fmt.Errorf("the registry must be a URL, got %s: %w", registry, err)
	}
	server := &http.Server{Addr: listen, Handler: newFront(to), ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		drain, stop := context.WithTimeout(context.WithoutCancel(ctx), frontDrain)
		defer stop()
		stopped <- server.Shutdown(drain)
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// newFront forwards every request, with one exception: it refuses to replace the manifest of a run's tag. Otherwise a pod
// could replace a model that a run has pushed and proven.
func newFront(to *url.URL) http.Handler {
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // the registry's answers have URLs with this host
	}}
	var pushing sync.Mutex // nobody else may tag between the check and the push
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		run := runs.FindStringSubmatch(r.URL.Path)
		if r.Method != http.MethodPut || run == nil {
			proxy.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxManifest))
		if err != nil {
			refuse(w, http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", "reading the manifest: "+err.Error())
			return
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		pushing.Lock()
		defer pushing.Unlock()
		has, err := tagged(r.Context(), to.JoinPath(r.URL.Path))
		switch digest := fmt.Sprintf("sha256:%x", sha256.Sum256(body)); {
		case err != nil:
			refuse(w, http.StatusBadGateway, "UNAVAILABLE", err.Error())
		case has != "" && has != digest:
			slog.Warn("refused to replace a tag", "repository", run[1], "tag", run[2], "has", has, "pushed", digest)
			refuse(w, http.StatusForbidden, "DENIED", fmt.Sprintf("%s:%s is %s and cannot be replaced by %s: push to another tag, or by digest", run[1], run[2], has, digest))
		default:
			proxy.ServeHTTP(w, r)
		}
	})
}

// tagged returns the digest of the manifest at a URL, or "" if the registry has no such tag.
func tagged(ctx context.Context, manifest *url.URL) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, manifest.String(), nil)
	if err != nil {
		return "", err
	}
	for _, kind := range []string{
		"application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json",
		"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json",
	} {
		req.Header.Add("Accept", kind)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("asking the registry for the tag: %w", err)
	}
	resp.Body.Close()
	switch digest := resp.Header.Get("Docker-Content-Digest"); {
	case resp.StatusCode == http.StatusNotFound:
		return "", nil
	case resp.StatusCode != http.StatusOK || digest == "":
		return "", fmt.Errorf("asking the registry for the tag: %s", resp.Status)
	default:
		return digest, nil
	}
}

// refuse answers with an error as a registry does.
// https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The client may be gone: ignore the error.
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]string{"code": code, "message": message}}})
}
