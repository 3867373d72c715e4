package probe

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"mllab.local/sampleapp/api"
)

// server is an application over real TCP that counts what reaches it.
type server struct {
	*httptest.Server
	opened, closed atomic.Int64 // connections
	requests       atomic.Int64
}

// connKey is the key of a request's connection in its context.
type connKey struct{}

func serve(t *testing.T, handle http.HandlerFunc) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		handle(w, r)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			s.opened.Add(1)
		case http.StateClosed, http.StateHijacked:
			s.closed.Add(1)
		}
	}
	s.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// identify is what the application adds to each answer.
func identify(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(api.HeaderTarget, "v1")
	w.Header().Set(api.HeaderRevision, "model-00001")
	w.Header().Set(api.HeaderPod, "pod-a")
	w.Header().Set(api.HeaderRequestID, r.Header.Get(api.HeaderRequestID))
}

func hello(w http.ResponseWriter, r *http.Request) {
	identify(w, r)
	fmt.Fprint(w, "hello from v1")
}

func newHTTP(t *testing.T, timeout time.Duration) *HTTP {
	t.Helper()
	h := NewHTTP(timeout)
	t.Cleanup(h.Close)
	return h
}

// eventually polls until holds, for things that another goroutine or the kernel finishes after the answer.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}

// cut takes the connection from the server, writes text on it as it is and closes it.
func cut(t *testing.T, w http.ResponseWriter, text string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	io.WriteString(conn, text)
	conn.Close()
}

// fake is a Sender without a network.
type fake func(ctx context.Context, r Request) Answer

func (f fake) Send(ctx context.Context, r Request) Answer { return f(ctx, r) }

func TestAnAnswerSaysWhoItIsFrom(t *testing.T) {
	s := serve(t, hello)
	before := time.Now()
	a := newHTTP(t, time.Minute).Send(t.Context(), Request{URL: s.URL})
	if a.Target != "v1" || a.Revision != "model-00001" || a.Pod != "pod-a" || a.Status != 200 || a.Body != "hello from v1" || a.Err != "" || a.Router || !a.OK() {
		t.Errorf("got %+v", a)
	}
	if id, err := uuid.Parse(a.ID); err != nil || id.Version() != 4 || a.Echo != a.ID {
		t.Errorf("ID %q, echoed as %q: want a random UUID twice", a.ID, a.Echo)
	}
	if a.Sent.Before(before) || !a.Scheduled.Equal(a.Sent) || a.Latency <= 0 || a.Latency > time.Since(before) {
		t.Errorf("scheduled %v, sent %v, latency %v", a.Scheduled, a.Sent, a.Latency)
	}
}

func TestARequestArrivesAsAskedForAndWithNothingElse(t *testing.T) {
	seen := make(chan *http.Request, 1)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body)) // the server closes its own when it is done
		seen <- r
		hello(w, r)
	})
	h := newHTTP(t, time.Minute)
	header := http.Header{"X-Team": {"red"}, api.HeaderRequestID: {"mine"}}
	a := h.Send(t.Context(), Request{URL: s.URL + "/predict?x=1", Host: "model.mllab.test", Method: "PUT", Header: header, Body: []byte("data")})
	got := <-seen
	body, _ := io.ReadAll(got.Body)
	if got.Host != "model.mllab.test" || got.Method != "PUT" || got.RequestURI != "/predict?x=1" || string(body) != "data" || got.ContentLength != 4 ||
		got.Header.Get("X-Team") != "red" || got.Header.Get(api.HeaderRequestID) != a.ID || got.Header.Get(api.HeaderID) != a.ID {
		t.Errorf("got %+v with body %q", got, body)
	}
	if header.Get(api.HeaderRequestID) != "mine" {
		t.Error("the caller's header was written to")
	}
	h.Send(t.Context(), Request{URL: s.URL})
	got = <-seen
	if got.Method != "GET" || got.Host != strings.TrimPrefix(s.URL, "http://") || got.ContentLength != 0 || got.TransferEncoding != nil || got.Close || got.Header.Get("Accept-Encoding") != "" {
		t.Errorf("a plain request is not plain: %+v", got)
	}
}

func TestAProxysOwnAnswerIsNotTheApplications(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "istio-envoy")
		w.Header().Set(api.HeaderRequestID, r.Header.Get(api.HeaderRequestID))
		http.Error(w, "no healthy upstream", http.StatusServiceUnavailable)
	})
	a := newHTTP(t, time.Minute).Send(t.Context(), Request{URL: s.URL})
	if a.Status != 503 || !a.Router || a.OK() || a.Echo != "" || a.Problem() != "status 503 from a proxy, not from the application" {
		t.Errorf("got %+v, problem %q", a, a.Problem())
	}
}

func TestAnAnswerSaysWhoPassedItOnAndWhetherABreakerRefusedIt(t *testing.T) {
	for _, tc := range []struct {
		relay, overloaded string
		shed              bool
	}{{"", "", false}, {"shop-1", "", false}, {"", "true", true}} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if tc.relay != "" {
				w.Header().Set(api.HeaderRelay, tc.relay)
			}
			if tc.overloaded != "" {
				w.Header().Set("x-envoy-overloaded", tc.overloaded)
			}
			http.Error(w, "overflow", http.StatusServiceUnavailable)
		})
		if a := newHTTP(t, time.Minute).Send(t.Context(), Request{URL: s.URL}); a.Relay != tc.relay || a.Shed != tc.shed || !a.Router {
			t.Errorf("%+v gave %+v", tc, a)
		}
	}
}

func TestOnlyA200ThatSaysItsTargetIsOK(t *testing.T) {
	for want, a := range map[string]Answer{
		"":                      {Status: 200, Target: "v1"},
		"status 500 from v1":    {Status: 500, Target: "v1"},
		"status 204 from v1":    {Status: 204, Target: "v1"},
		"no answer: cut":        {Status: 200, Target: "v1", Err: "no answer: cut"},
		"status 200 from a pro": {Status: 200, Router: true},
		"the answer does not s": {Status: 200, Pod: "pod-a"},
		"status 0 from ":        {},
	} {
		if got := a.Problem(); !strings.HasPrefix(got, want) || a.OK() != (want == "") || (got == "") != (want == "") {
			t.Errorf("%+v: problem %q, OK %v", a, got, a.OK())
		}
	}
}

func TestTheApplicationsErrorIsNotTheRouters(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		identify(w, r)
		w.WriteHeader(http.StatusInternalServerError)
	})
	if a := newHTTP(t, time.Minute).Send(t.Context(), Request{URL: s.URL}); a.Status != 500 || a.Router || a.OK() || a.Target != "v1" {
		t.Errorf("got %+v", a)
	}
}

func TestFreshRequestsHaveAConnectionEachAndCloseIt(t *testing.T) {
	s := serve(t, hello)
	const n = 200
	for _, a := range Burst(t.Context(), newHTTP(t, time.Minute), Request{URL: s.URL, Fresh: true}, n, 4, nil) {
		if !a.OK() || !a.Fresh {
			t.Fatalf("got %+v", a)
		}
	}
	if got := s.opened.Load(); got != n {
		t.Errorf("%d connections for %d fresh requests", got, n)
	}
	eventually(t, "all fresh connections are closed", func() bool { return s.closed.Load() == n })
}

func TestKeptAliveRequestsShareTheWorkersConnections(t *testing.T) {
	s := serve(t, hello)
	h := NewHTTP(time.Minute)
	Burst(t.Context(), h, Request{URL: s.URL}, 100, 1, nil)
	// More than one where net/http gives up a connection whose writer was paused for 50 ms after its write.
	if got := s.opened.Load(); got > 20 {
		t.Errorf("%d connections for 100 requests of one worker", got)
	}
	Burst(t.Context(), h, Request{URL: s.URL}, 1000, 8, nil)
	if got := s.opened.Load(); got > 200 { // it also dials ahead while it waits for an idle one
		t.Errorf("%d connections for 1100 requests", got)
	}
	h.Close()
	eventually(t, "Close closes the idle connections", func() bool { return s.closed.Load() == s.opened.Load() })
}

func TestAGetWhoseKeptAliveConnectionBreaksIsLostAndNotSentAgain(t *testing.T) {
	var s *server
	s = serve(t, func(w http.ResponseWriter, r *http.Request) {
		if s.requests.Load() == 2 {
			cut(t, w, "")
			return
		}
		hello(w, r)
	})
	answers := Burst(t.Context(), newHTTP(t, time.Minute), Request{URL: s.URL}, 3, 1, nil)
	if !answers[0].OK() || answers[1].OK() || !answers[2].OK() || s.requests.Load() != 3 || answers[1].Status != 0 || !strings.HasPrefix(answers[1].Err, "no answer: ") {
		t.Errorf("the server saw %d requests; answers %+v", s.requests.Load(), answers)
	}
}

func TestRedirectsAreAnswersAndCookiesAreForgotten(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cookie") != "" {
			t.Errorf("a cookie came back: %q", r.Header.Get("Cookie"))
		}
		identify(w, r)
		http.SetCookie(w, &http.Cookie{Name: "sticky", Value: "v1"})
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	})
	answers := Burst(t.Context(), newHTTP(t, time.Minute), Request{URL: s.URL}, 2, 1, nil)
	if answers[0].Status != 302 || answers[0].OK() || s.requests.Load() != 2 {
		t.Errorf("%d requests; got %+v", s.requests.Load(), answers[0])
	}
}

func TestNoProxyIsTakenFromTheEnvironment(t *testing.T) {
	// net/http reads the environment once per process and spares loopback addresses: only the setting can be looked at.
	if h := NewHTTP(0); h.kept.Proxy != nil || h.fresh.Proxy != nil {
		t.Error("a proxy function is set")
	}
}

func TestASlowAnswerEndsInATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHTTP(t, 400*time.Millisecond)
		h.kept.DialContext = func(context.Context, string, string) (net.Conn, error) { // no socket: its pauses would be the machine's
			client, server := net.Pipe()
			go func() {
				defer server.Close()
				r, err := http.ReadRequest(bufio.NewReader(server))
				if err != nil {
					t.Error(err)
					return
				}
				if r.URL.Path == "/body" {
					io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello from v1")
				}
				io.Copy(io.Discard, server) // until the client leaves
			}()
			return client, nil
		}
		for path, want := range map[string]string{"/": "no answer: timeout after 400ms", "/body": "the answer broke off after 13 bytes: timeout after 400ms"} {
			a := h.Send(t.Context(), Request{URL: "http://model" + path})
			if a.Err != want || a.OK() || a.Latency != 400*time.Millisecond {
				t.Errorf("%s: %q after %v", path, a.Err, a.Latency)
			}
		}
	})
}

func TestATruncatedAnswerIsNotOK(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		cut(t, w, "HTTP/1.1 200 OK\r\n"+api.HeaderTarget+": v1\r\nContent-Length: 100\r\n\r\nhello")
	})
	for _, fresh := range []bool{false, true} {
		a := newHTTP(t, time.Minute).Send(t.Context(), Request{URL: s.URL, Fresh: fresh})
		if a.OK() || a.Status != 200 || a.Target != "v1" || a.Body != "hello" || a.Err != "the answer broke off after 5 bytes: unexpected EOF" {
			t.Errorf("fresh %v: %+v", fresh, a)
		}
	}
}

func TestAnEndlessAnswerIsReadUpToItsBoundOnly(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		identify(w, r)
		block := strings.Repeat("x", maxBody)
		for more := true; more; more = r.URL.Path == "/endless" {
			if _, err := io.WriteString(w, block); err != nil {
				return
			}
		}
	})
	a := newHTTP(t, time.Minute).Send(t.Context(), Request{URL: s.URL + "/endless"})
	if len(a.Body) != maxBody || a.OK() || a.Err != "the answer is longer than 1048576 bytes" {
		t.Errorf("%d bytes, err %q", len(a.Body), a.Err)
	}
	if a := newHTTP(t, time.Minute).Send(t.Context(), Request{URL: s.URL}); len(a.Body) != maxBody || !a.OK() {
		t.Errorf("an answer of just the bound: %d bytes, err %q", len(a.Body), a.Err)
	}
}

func TestNobodyListeningIsAnErrorInTheAnswer(t *testing.T) {
	s := serve(t, hello)
	s.Close()
	a := newHTTP(t, time.Minute).Send(t.Context(), Request{URL: s.URL})
	if a.Status != 0 || a.Router || a.OK() || !strings.HasPrefix(a.Err, "no answer: ") || !strings.Contains(a.Err, "refused") {
		t.Errorf("got %+v", a)
	}
	for _, bad := range []Request{{URL: "://"}, {URL: "http://127.0.0.1:1/", Method: "B AD"}} {
		if a := NewHTTP(0).Send(t.Context(), bad); a.OK() || !strings.HasPrefix(a.Err, "making the request: ") {
			t.Errorf("%+v: %+v", bad, a)
		}
	}
}

func TestBurstSendsExactlyNUnderNIDs(t *testing.T) {
	s := serve(t, hello)
	h := newHTTP(t, time.Minute)
	for _, c := range []struct{ n, workers int }{{1, 1}, {1, 50}, {257, 16}, {20, 0}, {20, -3}, {0, 4}, {-1, 4}} {
		before, ids, calls := s.requests.Load(), map[string]bool{}, 0
		answers := Burst(t.Context(), h, Request{URL: s.URL}, c.n, c.workers, func(Answer) bool { calls++; return false }) // unguarded: each is serial
		for _, a := range answers {
			ids[a.ID] = true
		}
		want := max(c.n, 0)
		if got := int(s.requests.Load() - before); len(answers) != want || got != want || len(ids) != want || calls != want {
			t.Errorf("%+v: %d answers, %d requests, %d IDs, %d calls", c, len(answers), got, len(ids), calls)
		}
	}
}

func TestBurstHasAsManyOpenAsWorkers(t *testing.T) {
	var open, most atomic.Int64
	all := make(chan struct{})
	answers := Burst(t.Context(), fake(func(context.Context, Request) Answer {
		now := open.Add(1)
		defer open.Add(-1)
		for was := most.Load(); was < now && !most.CompareAndSwap(was, now); was = most.Load() {
		}
		if now == 7 {
			select {
			case <-all:
			default:
				close(all)
			}
		}
		<-all // nobody returns before all seven are in
		return Answer{}
	}), Request{}, 100, 7, nil)
	if len(answers) != 100 || most.Load() != 7 {
		t.Errorf("%d answers, %d at once", len(answers), most.Load())
	}
}

func TestABurstThatIsEnoughBreaksNoRequestOff(t *testing.T) {
	var started atomic.Int64
	all, first := make(chan struct{}), make(chan struct{})
	answers := Burst(t.Context(), fake(func(ctx context.Context, _ Request) Answer {
		n := started.Add(1)
		if n == 3 {
			close(all)
		}
		<-all
		if n > 1 {
			<-first // the others are in flight when the first is enough
		}
		if ctx.Err() != nil {
			return Answer{Err: ctx.Err().Error()}
		}
		return Answer{Status: 200, Target: "v1"}
	}), Request{}, 100, 3, func(Answer) bool {
		select {
		case <-first:
		default:
			close(first)
		}
		return true
	})
	if tally := Count(answers); tally.Sent != 3 || len(tally.Failed) > 0 {
		t.Errorf("%d answers, %d of them failed, want the three that were in flight", tally.Sent, len(tally.Failed))
	}
}

func TestAnInterruptedBurstReturnsWhatWasSent(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := serve(t, hello)
	h := newHTTP(t, time.Minute)
	var sent atomic.Int64
	count := fake(func(ctx context.Context, r Request) Answer {
		sent.Add(1)
		return h.Send(ctx, r)
	})
	got := 0
	answers := Burst(ctx, count, Request{URL: s.URL}, 10_000, 4, func(Answer) bool {
		if got++; got == 25 {
			cancel()
		}
		return false
	})
	if len(answers) != int(sent.Load()) || len(answers) < 25 || len(answers) > 28 {
		t.Errorf("%d answers of %d sends, want 25 and up to 3 more that were under way", len(answers), sent.Load())
	}
	for _, a := range answers[:25] {
		if !a.OK() {
			t.Errorf("answered before the interruption, but %+v", a)
		}
	}
}

func TestAnInterruptedBurstDoesNotWaitForAStalledServer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var arrived sync.WaitGroup
	arrived.Add(3)
	release := make(chan struct{})
	s := serve(t, func(http.ResponseWriter, *http.Request) { arrived.Done(); <-release })
	defer close(release)
	go func() { arrived.Wait(); cancel() }()
	start := time.Now()
	answers := Burst(ctx, newHTTP(t, time.Minute), Request{URL: s.URL}, 100, 3, nil)
	if len(answers) != 3 || time.Since(start) > 30*time.Second {
		t.Fatalf("%d answers after %v", len(answers), time.Since(start))
	}
	for _, a := range answers {
		if a.Err != "no answer: context canceled" {
			t.Errorf("got %q", a.Err)
		}
	}
}

func TestCountTalliesOKAnswersByTargetAndKeepsTheFailedOnes(t *testing.T) {
	var answers []Answer
	for i := range 200 { // 1 ms .. 200 ms, in no order
		a := Answer{Status: 200, Target: "v1", Latency: time.Duration((i*77)%200+1) * time.Millisecond}
		switch {
		case i < 20:
			a.Target = "v2"
		case i == 20:
			a = Answer{ID: "lost", Err: "no answer: timeout", Latency: a.Latency}
		case i == 21:
			a = Answer{ID: "proxy", Status: 503, Router: true, Latency: a.Latency}
		case i == 22:
			a = Answer{ID: "broken", Status: 500, Target: "v1", Latency: a.Latency}
		}
		answers = append(answers, a)
	}
	got := Count(answers)
	if want := map[string]int{"v1": 177, "v2": 20}; got.Sent != 200 || !reflect.DeepEqual(got.Counts, want) {
		t.Errorf("sent %d, counts %v", got.Sent, got.Counts)
	}
	if len(got.Failed) != 3 || got.Failed[0].ID != "lost" || got.Failed[1].ID != "proxy" || got.Failed[2].ID != "broken" {
		t.Errorf("failed %+v", got.Failed)
	}
	ms := []time.Duration{got.Min, got.P50, got.P95, got.P99, got.Max}
	for i, want := range []time.Duration{1, 100, 190, 198, 200} {
		if ms[i] != want*time.Millisecond {
			t.Errorf("percentiles %v", ms)
			break
		}
	}
	if one := Count(answers[:1]); one.Min != one.Max || one.P50 != one.Max || one.P99 != one.Max || one.Max == 0 {
		t.Errorf("of one answer: %+v", one)
	}
	if none := Count(nil); none.Sent != 0 || none.Counts == nil || none.Max != 0 {
		t.Errorf("of none: %+v", none)
	}
}
