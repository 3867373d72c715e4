package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// patience is how long a pull waits. Zeros mean what registries need.
type patience struct {
	first time.Duration // wait before the second try, which doubles with each; 0 means a second
	stall time.Duration // limit for an answer, and for each next part of it; 0 means a minute
}

func (p patience) limit() time.Duration { return cmp.Or(p.stall, time.Minute) }

// pullTries limits how often one request of a pull is sent.
const pullTries = 6

// maxRedirects limits the redirects of one request, as Go's client does where the
// library that pulls has no rule of its own.
const maxRedirects = 10

// maxRetryAfter limits one wait. A longer one is reported as an error.
const maxRetryAfter = 2 * time.Minute

// retryTransport sends a request again if the registry is busy or has a fault (429,
// 5xx), and if the connection breaks or stalls. In the middle of a body it requests
// the rest. It waits for the time of the Retry-After header, or else for a doubling
// time (https://www.rfc-editor.org/rfc/rfc9110#field.retry-after). A web page in
// place of an image is an error.
type retryTransport struct {
	next http.RoundTripper
	patience
	tries  int
	reason func(string) // gets why it waits
}

// refusal is why a registry gives no image, in words for the user, and what to do.
type refusal struct{ reason, hint string }

func (r *refusal) Error() string { return r.reason }

var errStalled = errors.New("stalled")

// RoundTrip returns the answer of the last try. A status that more tries do not
// change is a refusal.
func (t *retryTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		return t.next.RoundTrip(req)
	}
	d := &download{retryTransport: t, req: req}
	redirects := 0
	for r := req.Response; r != nil; r = r.Request.Response {
		redirects++
	}
	if redirects > maxRedirects {
		return nil, &refusal{d.server() + " redirects again and again", "a proxy or a login page may be between this machine and the registry: log in there, or set HTTPS_PROXY and NO_PROXY; " + buildHere}
	}
	resp, err := d.send()
	if err != nil {
		return nil, err
	}
	resp.Body = d
	return resp, nil
}

// download is one request with all its tries, and the body of its answer.
type download struct {
	*retryTransport
	req   *http.Request
	tried int
	at    int64  // bytes of the body that are read
	skip  int64  // bytes to read once more, because the registry does not send parts
	last  string // position of the body's last byte; empty if unknown
	// Of the latest try:
	body    io.ReadCloser
	timer   *time.Timer // ends it when it stalls
	end     func()
	stalled func() bool
}

// send sends the request until the answer is final. It asks for the body's rest.
func (d *download) send() (*http.Response, error) {
	for {
		resp, err := d.try()
		var after time.Duration
		switch {
		case err != nil && !broken(err):
			d.end()
			return nil, err
		case err == nil && resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode < http.StatusInternalServerError:
			d.body = resp.Body
			return resp, d.check(resp)
		case err == nil:
			after = retryAfter(resp.Header.Get("Retry-After"), time.Now())
			resp.Body.Close()
			err = &refusal{d.server() + " answers " + resp.Status, "try again later: what was pulled stays in the cache; " + buildHere}
			if resp.StatusCode == http.StatusTooManyRequests {
				err.(*refusal).hint = "the registry limits pulls: `docker login` raises the limit, and what was pulled stays in the cache; " + buildHere
			}
		}
		if err := d.wait(err, after); err != nil {
			return nil, err
		}
	}
}

func (d *download) try() (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(d.req.Context())
	d.timer = time.AfterFunc(d.limit(), func() { cancel(errStalled) })
	d.end = func() { d.timer.Stop(); cancel(nil) }
	d.stalled = func() bool { return context.Cause(ctx) == errStalled }
	req := d.req.Clone(ctx)
	if d.at > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%s", d.at, d.last))
	}
	resp, err := d.next.RoundTrip(req)
	d.timer.Stop()
	if d.stalled() {
		err = errStalled
	}
	return resp, err
}

// check returns why an answer is not what was requested.
func (d *download) check(resp *http.Response) error {
	// Of the base of the API only the status counts, and some send a page with it.
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode == http.StatusOK && kind == "text/html" && resp.Request.URL.Path != "/v2/" {
		d.Close()
		return &refusal{d.server() + " answers with a web page (text/html) in place of an image",
			"a proxy or a login page is between this machine and the registry: log in there, or set HTTPS_PROXY and NO_PROXY; " + buildHere}
	}
	switch {
	case d.at == 0 && resp.ContentLength > 0:
		d.last = strconv.FormatInt(resp.ContentLength-1, 10)
	case d.at == 0:
	case resp.StatusCode == http.StatusOK:
		d.skip = d.at
	case !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", d.at)):
		defer d.Close()
		return transport.CheckError(resp)
	}
	return nil
}

// wait pauses before the next try. Its error is the reason why there is no next try.
func (d *download) wait(why error, after time.Duration) error {
	d.end()
	if err := context.Cause(d.req.Context()); err != nil {
		return err
	}
	var known *refusal
	if !errors.As(why, &known) {
		reason := fmt.Sprintf("the connection to %s broke (%v)", d.server(), why)
		if errors.Is(why, errStalled) {
			reason = fmt.Sprintf("%s sent nothing for %s", d.server(), d.limit())
		}
		known = &refusal{reason, "try again: what was pulled stays in the cache; " + buildHere}
	}
	d.tried++
	switch pause := cmp.Or(after, cmp.Or(d.first, time.Second)<<(d.tried-1)); {
	case after > maxRetryAfter:
		return &refusal{fmt.Sprintf("%s and asks to wait %s", known.reason, after.Round(time.Second)), known.hint}
	case d.tries == 1:
		return known
	case d.tried >= d.tries:
		return &refusal{fmt.Sprintf("%s (tried %d times)", known.reason, d.tries), known.hint}
	default:
		d.reason(fmt.Sprintf("%s: try %d of %d in %s", known.reason, d.tried+1, d.tries, pause.Round(time.Millisecond)))
		select {
		case <-time.After(pause):
			return nil
		case <-d.req.Context().Done():
			return context.Cause(d.req.Context())
		}
	}
}

// Read reads the body, over as many tries as it takes.
func (d *download) Read(p []byte) (int, error) {
	for {
		d.timer.Reset(d.limit())
		n, err := d.body.Read(p)
		d.timer.Stop()
		if again := min(int(d.skip), n); again > 0 {
			d.skip -= int64(again)
			n = copy(p, p[again:n])
		}
		d.at += int64(n)
		switch {
		case err == io.EOF:
			return n, err
		case n > 0:
			return n, nil // the next call returns the error
		case err == nil:
			continue
		case d.stalled():
			err = errStalled
		}
		d.body.Close()
		if err := d.wait(err, 0); err != nil {
			return 0, err
		}
		if _, err := d.send(); err != nil {
			return 0, err
		}
	}
}

// Close ends the latest try.
func (d *download) Close() error {
	defer d.end()
	return d.body.Close()
}

// server returns the host that is asked, and what for if it has no images.
func (d *download) server() string {
	if d.req.URL.Query().Has("scope") { // https://distribution.github.io/distribution/spec/auth/token/
		return "the token service " + d.req.URL.Host
	}
	return d.req.URL.Host
}

// broken reports whether a connection broke or stalled before there was an answer.
func broken(err error) bool {
	ends := []error{errStalled, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE}
	return slices.ContainsFunc(ends, func(end error) bool { return errors.Is(err, end) })
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
