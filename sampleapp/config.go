package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// config is the environment, read and checked.
type config struct {
	target, revision, pod string
	port                  int
	failShare             float64 // 0..1
	delay                 time.Duration
	drain                 time.Duration
	seenKeep              int
	maxBody               int64
}

// defaultDrain covers the way of "this pod ends" to the last proxy, which Kubernetes starts at the same moment as it
// sends SIGTERM: EndpointSlice, at most 1 s of kube-proxy's batching, Istio's debounce (100 ms, up to 10 s only while
// changes keep coming), the push to Envoy. On a small busy machine that is 1 to 3 s. A pod of a Knative Service can set
// DRAIN=0s: there SIGTERM comes only when the queue-proxy has drained.
// https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination-flow
const defaultDrain = "5s"

// readConfig reads the environment. The error names every bad variable with its value. An empty variable counts as
// unset.
func readConfig(env func(string) (string, bool), hostname func() (string, error)) (config, error) {
	var errs []error
	get := func(name, fallback string) string {
		if v, _ := env(name); v != "" {
			return v
		}
		return fallback
	}
	bad := func(name, value, want string) { errs = append(errs, fmt.Errorf("%s=%q: want %s", name, value, want)) }
	// What goes into a header must be what comes out of it.
	text := func(name, fallback string) string {
		v := get(name, fallback)
		if len(v) > 253 || v != strings.TrimSpace(v) || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' }) {
			bad(name, v, "at most 253 printable ASCII characters without spaces at the ends")
		}
		return v
	}
	integer := func(name, fallback string, low, high int) int {
		v := get(name, fallback)
		n, err := strconv.Atoi(v)
		if err != nil || n < low || n > high {
			bad(name, v, fmt.Sprintf("a whole number from %d to %d", low, high))
		}
		return n
	}
	duration := func(name, fallback string) time.Duration {
		v := get(name, fallback)
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 {
			bad(name, v, `a duration of 0 or more, such as "250ms"`)
		}
		return d
	}

	c := config{
		target:   text("TARGET", "world"),
		revision: text("K_REVISION", ""),
		port:     integer("PORT", "8080", 0, 65535),
		delay:    duration("DELAY", "0s"),
		drain:    duration("DRAIN", defaultDrain),
		seenKeep: integer("SEEN_KEEP", "20000", 1, 1_000_000),
		maxBody:  int64(integer("MAX_BODY", "2097152", 1, 1<<30)),
	}
	host, err := hostname()
	if c.pod = text("POD_NAME", host); c.pod == "" {
		errs = append(errs, fmt.Errorf("POD_NAME is not set, and there is no host name to take instead: %v", err))
	}
	percent := get("FAIL_PERCENT", "0")
	p, err := strconv.ParseFloat(percent, 64)
	if err != nil || math.IsNaN(p) || p < 0 || p > 100 {
		bad("FAIL_PERCENT", percent, "a number from 0 to 100")
	}
	c.failShare = p / 100
	return c, errors.Join(errs...)
}
