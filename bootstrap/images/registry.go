package images

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"runtime"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"

	"mllab.local/internal/fault"
)

// registrySource is the Source that pulls upstream's images, with the credentials
// of `docker login`. What upstream does not have it leaves to the other Source.
type registrySource struct {
	built    built
	mirror   string // host that replaces every registry; empty for none
	pins     map[string]pin
	patience patience
}

func (r *registrySource) Name() string { return "registry" }

// Key returns the reference itself, pinned or not: upstream does not move its tags.
func (r *registrySource) Key(c Component) (string, error) {
	if c.Upstream == "" {
		return r.built.Key(c)
	}
	ref, err := r.reference(c)
	if err != nil {
		return "", err
	}
	key := "registry " + runtime.GOARCH + " " + ref.Name()
	if !c.Build.Python && !c.Build.Git {
		return key, nil
	}
	here, err := r.built.Key(c)
	return key + " " + here, err
}

// parallelPulls is a number of pulls that registries accept without 429.
const parallelPulls = 3

// Images pulls list. Those without an upstream are mllab's own, and are built.
func (r *registrySource) Images(ctx context.Context, work string, list []Component, each func(Component, v1.Image) error) error {
	var own []Component
	caller := ctx
	pulling, ctx := errgroup.WithContext(caller)
	pulling.SetLimit(parallelPulls)
	var one sync.Mutex
	for _, c := range list {
		if c.Upstream == "" {
			own = append(own, c)
			continue
		}
		pulling.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			task := r.built.report.Step("pull " + c.Name)
			img, err := r.pull(ctx, c, task.Update)
			switch {
			case err != nil:
			case c.Build.Python:
				img, err = r.built.onPython(ctx, work, c, img, task.Update)
			case c.Build.Git:
				img, err = r.built.onGit(ctx, work, c, img)
			}
			if err == nil {
				one.Lock()
				defer one.Unlock()
				err = each(c, img)
			}
			if err != nil {
				err = r.failed(c, err)
				if first := context.Cause(ctx); first != nil && !errors.Is(first, context.Canceled) {
					err = errors.New("not finished, because another pull failed")
				}
				task.Fail(err)
				return err
			}
			task.Done("pulled")
			return nil
		})
	}
	err := pulling.Wait()
	if caller.Err() != nil { // else what was broken off would be the reason
		return context.Cause(caller)
	}
	if err != nil || len(own) == 0 {
		return err
	}
	return r.built.Images(caller, work, own, each)
}

func (r *registrySource) pull(ctx context.Context, c Component, reason func(string)) (v1.Image, error) {
	ref, err := r.reference(c)
	if err != nil {
		return nil, err
	}
	img, err := remote.Image(ref, r.options(ctx, pullTries, reason)...)
	if err != nil {
		return nil, err
	}
	if m, err := img.Manifest(); err != nil || m.Config.Digest.Hex == "" {
		return nil, &refusal{ref.Context().RegistryStr() + " answers with something else in place of an image's manifest", changedHint}
	}
	return img, nil
}

// once turns the library's own retries off: they say nothing, wait when the user
// interrupts, and ignore Retry-After.
var once = remote.WithRetryBackoff(remote.Backoff{Steps: 1})

// reachable returns nil if the registry answers for a component, else why not.
func (r *registrySource) reachable(ctx context.Context, c Component) error {
	ref, err := r.reference(c)
	if err != nil {
		return err
	}
	_, err = remote.Head(ref, r.options(ctx, 1, nil)...)
	return err
}

// failed returns the error of a component's pull: the reference, the host, the
// reason, and what to do.
func (r *registrySource) failed(c Component, err error) error {
	from := ""
	if r.mirror != "" {
		from = " from " + r.mirror
	}
	return fmt.Errorf("pulling %s%s: %w", c.Upstream, from, explain(err))
}

const (
	buildHere   = "or build the images here with --image-source source"
	networkHint = "the network, and HTTPS_PROXY and NO_PROXY if it has a proxy; " + buildHere
	changedHint = "try again: what was pulled stays in the cache. If this error returns, a proxy or mirror changes what it passes on: " +
		"use another with --registry-mirror, " + buildHere
)

// explain returns the plain reason in the error of a pull, with a hint.
func explain(err error) error {
	var known *refusal
	var answer *transport.Error
	switch {
	case errors.Is(err, context.Canceled) || fault.Hint(err) != "" || errors.As(err, new(*fs.PathError)):
		return err
	// Certificates come before the answer to the try without TLS, which loopback gets.
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return fault.Hinted(err, "add the authority of the registry's certificate to those that this machine trusts, "+buildHere)
	case errors.As(err, new(*tls.CertificateVerificationError)): // expired, or of another host
		return fault.Hinted(err, "check this machine's clock and "+networkHint)
	case errors.Is(err, http.ErrSchemeMismatch):
		return fault.Hinted(err, "a registry without TLS is taken by a loopback or private address, or as localhost:PORT, not by another name: --registry-mirror 127.0.0.1:5000; "+buildHere)
	case errors.As(err, &known):
		return fault.Hinted(known, known.hint)
	case errors.As(err, &answer):
		return answerError(answer)
	case errors.As(err, new(*url.Error)):
		return fault.Hinted(err, "check "+networkHint)
	}
	return fault.Hinted(err, changedHint)
}

// answerError returns the reason in a final status, with a hint.
func answerError(e *transport.Error) error {
	host, said := e.Request.URL.Host, fmt.Sprintf("(%d %s)", e.StatusCode, http.StatusText(e.StatusCode))
	if len(e.Errors) > 0 && e.Errors[0].Message != "" {
		said += ": " + e.Errors[0].Message
	}
	does, hint := "gives no image", "try again: what was pulled stays in the cache; "
	switch e.StatusCode {
	case http.StatusUnauthorized:
		does, hint = "requires a login", "`docker login` to that registry, "
	case http.StatusForbidden:
		does, hint = "refuses this pull", "`docker login` to that registry, "
	case http.StatusNotFound:
		does, hint = "does not have this image", "check --registry-mirror, if you use one, "
	}
	return fault.Hinted(fmt.Errorf("%s %s %s", host, does, said), hint+buildHere)
}
