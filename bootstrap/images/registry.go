package images

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"mllab.local/internal/fault"
	"mllab.local/internal/report"
	"mllab.local/internal/run"
)

// registrySource is the Source that pulls upstream's images, with the credentials
// of `docker login`.
type registrySource struct {
	mirror string // host that replaces every registry; empty for none
	cache  *cache
	run    run.Runner
	report report.Reporter
}

func (r *registrySource) Name() string { return "registry" }

// Key returns the reference itself: upstream does not move its tags.
func (r *registrySource) Key(c Component) (string, error) {
	if c.Upstream == "" {
		return (&built{}).Key(c)
	}
	ref, err := r.reference(c)
	if err != nil {
		return "", err
	}
	key := "registry " + runtime.GOARCH + " " + ref.Name()
	if !c.Build.Python && !c.Build.Git {
		return key, nil
	}
	here, err := (&built{}).Key(c)
	return key + " " + here, err
}

func (r *registrySource) reference(c Component) (name.Reference, error) {
	ref, err := name.ParseReference(c.Upstream)
	if err != nil || r.mirror == "" {
		return ref, err
	}
	// As with a pull-through mirror, the path stays and the host changes.
	return name.ParseReference(r.mirror + "/" + ref.Context().RepositoryStr() + ":" + ref.Identifier())
}

// parallelPulls is a number of pulls that registries accept without 429.
const parallelPulls = 3

// Images pulls list. It assembles mllab's own images, which have no upstream.
func (r *registrySource) Images(ctx context.Context, work string, list []Component, each func(Component, v1.Image) error) error {
	var own []Component
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var one sync.Mutex
	slots := make(chan struct{}, parallelPulls)
	for _, c := range list {
		if c.Upstream == "" {
			own = append(own, c)
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
			case <-ctx.Done():
				return
			}
			task := r.report.Step("pull " + c.Name)
			img, err := r.pull(ctx, c, task.Update)
			switch finish := (&built{run: r.run}); {
			case err != nil:
			case c.Build.Python:
				img, err = finish.onPython(ctx, work, c, img, task.Update)
			case c.Build.Git:
				img, err = finish.onGit(work, c, img)
			}
			if err == nil {
				one.Lock()
				defer one.Unlock()
				err = each(c, img)
			}
			if err != nil {
				err = fmt.Errorf("pulling %s: %w", c.Upstream, err)
				task.Fail(err)
				cancel(err)
				return
			}
			task.Done("pulled")
		}()
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if len(own) == 0 {
		return nil
	}
	return (&built{cache: r.cache, run: r.run, report: r.report}).Images(ctx, work, own, each)
}

func (r *registrySource) pull(ctx context.Context, c Component, reason func(string)) (v1.Image, error) {
	ref, err := r.reference(c)
	if err != nil {
		return nil, err
	}
	return remote.Image(ref,
		remote.WithContext(ctx),
		remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}),
		remote.WithTransport(&retryTransport{next: remote.DefaultTransport, reason: reason}),
	)
}

// reachable returns nil if the registry answers for a component, else why not.
func (r *registrySource) reachable(ctx context.Context, c Component) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	ref, err := r.reference(c)
	if err != nil {
		return err
	}
	_, err = remote.Head(ref, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithRetryBackoff(remote.Backoff{Duration: time.Millisecond, Steps: 1}))
	return err
}

// retryTransport retries requests that a busy registry refuses (429, 503). It
// waits for the time of the Retry-After header, or else for a doubling time
// (https://www.rfc-editor.org/rfc/rfc9110#field.retry-after).
type retryTransport struct {
	next   http.RoundTripper
	reason func(string)
}

// maxRetryAfter limits one wait. A longer one is reported as an error.
const maxRetryAfter = 2 * time.Minute

func (p *retryTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	for try := 0; ; try++ {
		resp, err := p.next.RoundTrip(req)
		if err != nil || (resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable) || try == 5 || req.Body != nil {
			return resp, err
		}
		wait := retryAfter(resp.Header.Get("Retry-After"), time.Now())
		if wait == 0 {
			wait = time.Second << try
		}
		if wait > maxRetryAfter {
			return resp, nil
		}
		resp.Body.Close()
		p.reason(fmt.Sprintf("%s answers %s: waiting %s as it requests", req.URL.Host, resp.Status, wait.Round(time.Second)))
		select {
		case <-time.After(wait):
		case <-req.Context().Done():
			return nil, context.Cause(req.Context())
		}
	}
}

// retryAfter parses a Retry-After value, seconds or a date. It returns 0 for neither.
func retryAfter(value string, now time.Time) time.Duration {
	if s, err := strconv.Atoi(value); err == nil && s > 0 {
		return time.Duration(s) * time.Second
	}
	if t, err := http.ParseTime(value); err == nil && t.After(now) {
		return t.Sub(now)
	}
	return 0
}

// explain adds a hint to a registry's refusal.
func explain(err error) error {
	var refused *transport.Error
	if !errors.As(err, &refused) {
		return err
	}
	switch refused.StatusCode {
	case http.StatusTooManyRequests:
		return fault.Hinted(err, "the registry limits pulls: `docker login` raises the limit, or build here with --image-source source")
	case http.StatusUnauthorized, http.StatusForbidden:
		return fault.Hinted(err, "`docker login` to that registry, or build here with --image-source source")
	case http.StatusNotFound:
		return fault.Hinted(err, "this registry does not have that tag; build the image here with --image-source source")
	}
	return err
}
