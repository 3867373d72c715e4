// Package probe sends requests and notes who answered each one.
//
// Sending, noting and judging are separate: a Sender turns one request into one Answer and never hides anything (no
// retries, no redirects, no cookies); Burst and Watch decide when to send; Count adds up. What the numbers mean is for
// package split and the scenarios to say.
package probe

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"mllab.local/sampleapp/api"
)

// headerOverloaded is set by Envoy on its own answer when a circuit breaker refused a request.
// https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter#x-envoy-overloaded
const headerOverloaded = "X-Envoy-Overloaded"

// HeaderRoute is set by a route of the mesh on its answers, and says which state of it answered. Knative's routes say it
// under HeaderKnativeRoute, to probes only (knative.dev/networking, pkg/http/header).
const (
	HeaderRoute        = "X-Mllab-Route"
	HeaderKnativeRoute = "K-Network-Hash"
)

// maxBody is how many bytes of an answer's body are read. A longer one is an error of that answer.
const maxBody = 1 << 20

// Request is a request to send. Method "" is GET; Host "" is the URL's. Fresh asks for a connection of its own, which is
// closed after the answer; otherwise a kept-alive one is used when there is one.
type Request struct {
	URL, Host, Method string
	Header            http.Header
	Body              []byte
	Fresh             bool
}

// Answer is the result of one request.
type Answer struct {
	ID        string        `json:"id"`             // the one sent
	Echo      string        `json:"echo,omitempty"` // the one the application says it got
	Target    string        `json:"target,omitempty"`
	Revision  string        `json:"revision,omitempty"`
	Pod       string        `json:"pod,omitempty"`
	Route     string        `json:"route,omitempty"`
	Converted string        `json:"converted,omitempty"`
	Model     string        `json:"model,omitempty"`
	Relay     string        `json:"relay,omitempty"`  // the pod that passed the request on, or answered it itself
	Shed      bool          `json:"shed,omitempty"`   // a proxy refused it by a circuit breaker
	Status    int           `json:"status,omitempty"` // 0: no answer came
	Body      string        `json:"body,omitempty"`
	Err       string        `json:"err,omitempty"`
	Router    bool          `json:"router,omitempty"` // answered, but by a proxy: no target, no revision and no pod
	Fresh     bool          `json:"fresh,omitempty"`
	Scheduled time.Time     `json:"scheduled"` // when it should have been sent
	Sent      time.Time     `json:"sent"`
	Latency   time.Duration `json:"latency"` // nanoseconds from Scheduled to the last byte, or to the error
}

// OK reports whether the application answered 200, completely, and said who it is.
func (a Answer) OK() bool { return a.Problem() == "" }

// Problem says in a few words why the answer is not OK, and is empty if it is.
func (a Answer) Problem() string {
	switch {
	case a.Err != "":
		return a.Err
	case a.Router:
		return fmt.Sprintf("status %d from a proxy, not from the application", a.Status)
	case a.Status != http.StatusOK:
		return fmt.Sprintf("status %d from %s", a.Status, a.Target)
	case a.Target == "":
		return "the answer does not say which target it is from"
	}
	return ""
}

// Sender sends one request, once, and always returns an Answer: an error is part of it.
type Sender interface {
	Send(ctx context.Context, r Request) Answer
}

// HTTP is the Sender over real connections. It sends a request at most once, follows no redirect, keeps no cookie and
// ignores proxies named in the environment. Safe for concurrent use.
type HTTP struct {
	kept, fresh *http.Transport
	timeout     time.Duration
}

// NewHTTP returns a Sender that gives every request up to timeout, from dialling to the last byte; 0 is no limit.
func NewHTTP(timeout time.Duration) *HTTP {
	return &HTTP{
		// As many idle connections as Watch may have open: none is closed only to be dialled again.
		kept:    &http.Transport{MaxIdleConnsPerHost: MaxInFlight, IdleConnTimeout: 30 * time.Second, DisableCompression: true},
		fresh:   &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		timeout: timeout,
	}
}

// Close closes the idle connections. The HTTP can still be used.
func (h *HTTP) Close() { h.kept.CloseIdleConnections() }

// Send sends r under a new random ID. Headers of r under the names of the ID are replaced.
func (h *HTTP) Send(ctx context.Context, r Request) (a Answer) {
	a = Answer{ID: uuid.NewString(), Fresh: r.Fresh, Sent: time.Now()}
	a.Scheduled = a.Sent
	defer func() { a.Latency = time.Since(a.Scheduled) }()
	if h.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, h.timeout, fmt.Errorf("timeout after %v", h.timeout))
		defer cancel()
	}
	// A body that net/http cannot rewind, even an empty one: with any other it silently sends a GET a second time when
	// a kept-alive connection breaks before the answer, which hides just the loss that is looked for.
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, io.NopCloser(bytes.NewReader(r.Body)))
	if err != nil {
		a.Err = "making the request: " + err.Error()
		return a
	}
	req.ContentLength, req.Host = int64(len(r.Body)), r.Host
	if r.Header != nil {
		req.Header = r.Header.Clone()
	}
	req.Header.Set(api.HeaderRequestID, a.ID)
	req.Header.Set(api.HeaderID, a.ID)

	transport := h.kept
	if r.Fresh {
		transport = h.fresh
	}
	// RoundTrip and not http.Client: redirects, cookies and the rest are the client's doing.
	resp, err := transport.RoundTrip(req)
	if err != nil {
		a.Err = "no answer: " + cause(ctx, err)
		return a
	}
	defer resp.Body.Close()
	a.Status = resp.StatusCode
	a.Target, a.Revision, a.Pod = resp.Header.Get(api.HeaderTarget), resp.Header.Get(api.HeaderRevision), resp.Header.Get(api.HeaderPod)
	a.Route = cmp.Or(resp.Header.Get(HeaderRoute), resp.Header.Get(HeaderKnativeRoute))
	a.Converted, a.Model, a.Relay = resp.Header.Get(api.HeaderConverted), resp.Header.Get(api.HeaderModel), resp.Header.Get(api.HeaderRelay)
	a.Shed = resp.Header.Get(headerOverloaded) != ""
	a.Router = a.Target == "" && a.Revision == "" && a.Pod == ""
	if a.Echo = resp.Header.Get(api.HeaderID); a.Echo == "" && !a.Router {
		a.Echo = resp.Header.Get(api.HeaderRequestID)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		a.Err = fmt.Sprintf("the answer broke off after %d bytes: %s", len(body), cause(ctx, err))
	case len(body) > maxBody:
		body = body[:maxBody]
		a.Err = fmt.Sprintf("the answer is longer than %d bytes", maxBody)
	}
	a.Body = string(body)
	return a
}

// cause prefers why the context ended (the timeout, ^C) to what that did to the connection.
func cause(ctx context.Context, err error) string {
	if ctx.Err() != nil {
		return context.Cause(ctx).Error()
	}
	return err.Error()
}

// Burst sends r exactly n times, from the given number of workers (at least one) as fast as they are answered. When ctx
// ends it starts no more and returns what was sent, the broken-off ones too. Answers come in the order they were
// received; each, unless nil, is called with every one of them, never twice at once. When it returns true, no more are
// started, and those in flight are waited for.
func Burst(ctx context.Context, s Sender, r Request, n, workers int, each func(Answer) (enough bool)) []Answer {
	var (
		mu      sync.Mutex
		started int
		enough  bool
		answers []Answer
		wg      sync.WaitGroup
	)
	next := func() bool {
		mu.Lock()
		defer mu.Unlock()
		if started >= n || enough || ctx.Err() != nil {
			return false
		}
		started++
		return true
	}
	for range min(max(workers, 1), n) {
		wg.Go(func() {
			for next() {
				a := s.Send(ctx, r)
				mu.Lock()
				answers = append(answers, a)
				if each != nil && each(a) {
					enough = true
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return answers
}

// Tally adds up answers. Latencies are over all of them, failed ones too, so that a stall that ends in timeouts shows.
type Tally struct {
	Sent   int            `json:"sent"`
	Counts map[string]int `json:"counts"` // by Target, OK answers only
	Failed []Answer       `json:"failed,omitempty"`
	Min    time.Duration  `json:"min"`
	P50    time.Duration  `json:"p50"`
	P95    time.Duration  `json:"p95"` // of fewer than 59 answers it says little
	P99    time.Duration  `json:"p99"`
	Max    time.Duration  `json:"max"`
}

// Count tallies answers. Percentiles are by nearest rank: the least latency that p % of the answers do not exceed.
func Count(answers []Answer) Tally {
	t := Tally{Sent: len(answers), Counts: map[string]int{}}
	if len(answers) == 0 {
		return t
	}
	latencies := make([]time.Duration, len(answers))
	for i, a := range answers {
		latencies[i] = a.Latency
		if a.OK() {
			t.Counts[a.Target]++
		} else {
			t.Failed = append(t.Failed, a)
		}
	}
	slices.Sort(latencies)
	rank := func(p float64) time.Duration { return latencies[int(math.Ceil(p*float64(len(latencies))/100))-1] }
	t.Min, t.P50, t.P95, t.P99, t.Max = latencies[0], rank(50), rank(95), rank(99), rank(100)
	return t
}
