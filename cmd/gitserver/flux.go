package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"mllab.local/internal/incluster"
)

// flux asks Flux to fetch this repository at once, without waiting for the interval. It sets an annotation on every
// GitRepository that has the repository's URL. https://fluxcd.io/flux/components/source/gitrepositories/#triggering-a-reconcile
type flux struct {
	url     string            // of the repository
	api     *incluster.Client // nil outside a cluster
	pending chan struct{}
	log     *slog.Logger
}

// newFlux reads the API's address from the environment of a pod. Without url, or outside of a cluster, flux does nothing.
func newFlux(url string, log *slog.Logger) (*flux, error) {
	f := &flux{url: url, pending: make(chan struct{}, 1), log: log}
	if url == "" {
		return f, nil
	}
	var err error
	if f.api, err = incluster.New(incluster.Account); errors.Is(err, incluster.ErrNoCluster) {
		return f, nil
	}
	return f, err
}

// ask makes run ask Flux, and does not wait.
func (f *flux) ask() {
	select {
	case f.pending <- struct{}{}:
	default: // run will ask anyway
	}
}

const (
	askAgain = time.Second
	askTries = 60
)

// run asks Flux after each call of ask, until ctx ends.
func (f *flux) run(ctx context.Context) {
	again := time.NewTicker(askAgain)
	defer again.Stop()
	for {
		select {
		case <-f.pending:
		case <-ctx.Done():
			return
		}
		for try := 1; f.api != nil; try++ {
			err := f.reconcile(ctx)
			if err == nil || ctx.Err() != nil {
				break
			}
			if try == askTries {
				f.log.Error("asking Flux failed; it fetches when its interval has passed", "error", err)
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

// reconcile asks Flux once. It is no error if Flux is not installed.
func (f *flux) reconcile(ctx context.Context) error {
	var list struct {
		Items []struct {
			Metadata struct{ Name, Namespace string }
			Spec     struct{ URL string }
		}
	}
	err := f.api.Get(ctx, repositories+"gitrepositories", &list)
	if incluster.Is(err, http.StatusNotFound) {
		return nil
	}
	if err != nil {
		return err
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
		_, err := f.api.Call(ctx, http.MethodPatch, repositories+"namespaces/"+o.Metadata.Namespace+"/gitrepositories/"+o.Metadata.Name+"?fieldManager=gitserver", patch)
		switch {
		case err == nil:
			f.log.Info("asked Flux to fetch", "gitrepository", name)
		case incluster.Is(err, http.StatusForbidden):
			f.log.Warn("not allowed to annotate this GitRepository: its namespace has no RoleBinding for that", "gitrepository", name)
		case !incluster.Is(err, http.StatusNotFound): // not found means that it was deleted meanwhile
			errs = append(errs, fmt.Errorf("GitRepository %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
