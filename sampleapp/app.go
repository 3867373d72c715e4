package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"mllab.local/sampleapp/api"
)

// maxLogged bounds what is logged of one model input or output, in bytes.
const maxLogged = 1024

// statusGone is logged for a client that left before its answer; nothing is sent.
const statusGone = 499

type app struct {
	config
	log      *slog.Logger
	random   func() float64 // 0 <= x < 1
	seen     *seen
	faults   *faultState
	alerts   alerts
	draining atomic.Bool
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	captured *prometheus.CounterVec
}

// newApp returns the application; random decides which requests fail and which convert.
func newApp(c config, log *slog.Logger, random func() float64) *app {
	a := &app{
		config:   c,
		log:      log,
		random:   random,
		seen:     newSeen(c.seenKeep),
		faults:   newFaultState(c),
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sampleapp_requests_total", Help: "Requests to the model by status code.",
		}, []string{"code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sampleapp_request_duration_seconds", Help: "Time from a request's headers to the end of its answer.",
			Buckets: prometheus.DefBuckets,
		}, []string{"code"}),
		captured: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sampleapp_captured_total", Help: "Requests to the model whose input and output are in the log.",
		}, []string{"shadow"}),
	}
	who := prometheus.Labels{"target": c.target, "revision": c.revision}
	prometheus.WrapRegistererWith(who, a.registry).MustRegister(a.requests, a.seconds, a.captured)
	if c.volume != "" {
		c.volume.measure(a.registry)
	}
	return a
}

func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", a.model(a.hello))
	mux.Handle("POST /{$}", a.model(a.input(a.predict)))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "alive\n") })
	mux.HandleFunc("GET /readyz", a.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /seen", a.showSeen)
	mux.HandleFunc("POST /alerts", a.takeAlerts)
	mux.HandleFunc("GET /alerts", a.showAlerts)
	if a.trained != nil {
		a.protocols(mux)
	}
	relay := a.relayHandler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.faults.get().Hang {
			hang(r)
		}
		h := w.Header()
		if a.draining.Load() {
			// Let each client leave its connection after an answer: an idle one that is closed under a request loses it.
			h.Set("Connection", "close")
		}
		if a.relay.Host != "" && r.URL.Path != "/healthz" && r.URL.Path != "/readyz" {
			relay.ServeHTTP(w, r)
			return
		}
		h.Set(api.HeaderTarget, a.target)
		h.Set(api.HeaderRevision, a.revision)
		h.Set(api.HeaderPod, a.pod)
		if a.trained != nil {
			h.Set(api.HeaderModel, a.trained.digest)
		}
		mux.ServeHTTP(w, r)
	})
}

func (a *app) ready(w http.ResponseWriter, _ *http.Request) {
	if why := a.unready(); why != "" {
		text(w, http.StatusServiceUnavailable, why+"\n")
		return
	}
	text(w, http.StatusOK, "ready\n")
}

// unready says why new requests should go elsewhere; "" means that they should come.
func (a *app) unready() string {
	switch {
	case a.draining.Load():
		return "draining"
	case !a.faults.get().Ready:
		return "not ready (fault)"
	}
	return ""
}

func (a *app) showSeen(w http.ResponseWriter, r *http.Request) {
	n := 0
	if v := r.URL.Query().Get("since"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil || n < 0 {
			text(w, http.StatusBadRequest, fmt.Sprintf("since=%q: want a whole number of 0 or more\n", v))
			return
		}
	}
	s := a.seen.since(n)
	s.Target, s.Revision, s.Pod = a.target, a.revision, a.pod
	jsonAnswer(http.StatusOK, s).write(w)
}

type answer struct {
	code        int
	contentType string
	body        []byte
}

func (out answer) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", out.contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(out.body)))
	w.WriteHeader(out.code)
	_, _ = w.Write(out.body) // it can only fail when the client has left
}

// modelPath answers a request; the prediction is JSON, or empty if there is none.
type modelPath func(w http.ResponseWriter, r *http.Request) (in, prediction []byte, out answer)

// model wraps a model path: it notes the request's ID and prediction, waits, decides on a fault, captures, answers,
// measures and logs.
func (a *app) model(f modelPath) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		id := requestID(w.Header(), r.Header)
		n := a.seen.add(id)

		in, prediction, out := f(w, r) // the body is read even for a fault, as an application that fails late does
		a.seen.setOutput(n, prediction)
		faults := a.faults.get()
		if a.random() < faults.FailPercent/100 {
			out = answer{http.StatusInternalServerError, textType, []byte("injected fault\n")}
		}
		left := wait(r.Context(), faults.delay) != nil
		a.seen.done() // before who waits for the answer may send the next request
		if left {
			out = answer{code: statusGone}
		}
		a.capture(id, r, in, out, time.Since(begin))
		if !left {
			if out.code == http.StatusOK && a.convertPercent != unset {
				w.Header().Set(api.HeaderConverted, strconv.FormatBool(a.random() < a.convertPercent/100))
			}
			out.write(w)
		}

		took := time.Since(begin)
		code := strconv.Itoa(out.code)
		a.requests.WithLabelValues(code).Inc()
		a.seconds.WithLabelValues(code).Observe(took.Seconds())
		a.log.LogAttrs(context.WithoutCancel(r.Context()), slog.LevelInfo, "request",
			slog.String("request_id", id),
			slog.String("method", r.Method),
			slog.String("path", r.URL.Path),
			slog.Int("code", out.code),
			slog.Float64("duration_ms", float64(took.Microseconds())/1000),
			slog.String("input", bounded(in, maxLogged)),
			slog.String("output", bounded(out.body, maxLogged)),
		)
		if out.code == statusGone {
			panic(http.ErrAbortHandler) // otherwise net/http would answer 200
		}
	})
}

// requestID echoes the request's IDs into the answer and returns the one to trust, made up when there is none.
func requestID(answer, request http.Header) string {
	given, own := request.Get(api.HeaderRequestID), request.Get(api.HeaderID)
	id := cmp.Or(own, given, rand.Text())
	answer.Set(api.HeaderRequestID, cmp.Or(given, id))
	if own != "" {
		answer.Set(api.HeaderID, own)
	}
	return id
}

func (a *app) hello(http.ResponseWriter, *http.Request) (in, prediction []byte, out answer) {
	return nil, nil, answer{http.StatusOK, textType, []byte(a.target + "\n")}
}

// input is the model path that reads a model input and answers what f makes of it, or why f refuses it.
func (a *app) input(f func(body []byte) (prediction []float64, out any, err error)) modelPath {
	return func(w http.ResponseWriter, r *http.Request) (in, prediction []byte, out answer) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, a.maxBody))
		switch {
		case errors.As(err, new(*http.MaxBytesError)):
			return body, nil, refusal(http.StatusRequestEntityTooLarge, fmt.Errorf("the input is larger than %d bytes", a.maxBody))
		case err != nil:
			return body, nil, refusal(http.StatusBadRequest, fmt.Errorf("reading the input: %w", err))
		}
		numbers, says, err := f(body)
		if err != nil {
			return body, nil, refusal(http.StatusBadRequest, err)
		}
		prediction, _ = json.Marshal(numbers) // JSON can hold each of them
		return body, prediction, jsonAnswer(http.StatusOK, says)
	}
}

// predict answers a model input with the formula's numbers, or with the classes of a trained model.
func (a *app) predict(body []byte) (prediction []float64, out any, err error) {
	instances, err := readInput(body)
	if err != nil {
		return nil, nil, err
	}
	if a.trained != nil {
		prediction, _, err = a.trained.predict(instances, a.driftPercent)
	} else {
		prediction, err = predict(instances, a.driftPercent)
	}
	return prediction, output{a.target, prediction}, err
}

func refusal(code int, err error) answer {
	return jsonAnswer(code, map[string]string{"error": err.Error()})
}

// jsonAnswer is for values that JSON can hold.
func jsonAnswer(code int, v any) answer {
	body, err := json.Marshal(v)
	if err != nil {
		return answer{http.StatusInternalServerError, textType, []byte(err.Error() + "\n")}
	}
	return answer{code, "application/json", append(body, '\n')}
}

const textType = "text/plain; charset=utf-8"

func text(w http.ResponseWriter, code int, s string) { answer{code, textType, []byte(s)}.write(w) }

// wait returns after d, or with an error when ctx ends first.
func wait(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// bounded is the beginning of b for a log line, with its size if there is more.
func bounded(b []byte, size int) string {
	if len(b) <= size {
		return string(b)
	}
	return fmt.Sprintf("%s… (%d bytes)", b[:size], len(b))
}
