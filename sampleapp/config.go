package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"mllab.local/sampleapp/api"
)

// config is the environment, read and checked.
type config struct {
	target, revision, pod string
	port                  int
	adminPort             int // or unset
	failPercent           float64
	convertPercent        float64 // or unset
	driftPercent          float64
	capturePercent        float64
	delay                 time.Duration
	drain                 time.Duration
	seenKeep              int
	maxBody               int64
	volume                volume
	relay                 url.URL  // without a host: not a relay
	trained               *trained // nil: the formula
}

// unset is a number that has no default.
const unset = -1

// Reasons why a value is refused, by the environment and by PUT /faults.
const (
	wantPercent  = "a number from 0 to 100"
	wantDuration = `a duration of 0 or more, such as "250ms"`
)

func isPercent(p float64) bool { return p >= 0 && p <= 100 }

// defaultDrain covers the way of "this pod ends" to the last proxy, which Kubernetes starts at the same moment as it
// sends SIGTERM: EndpointSlice, at most 1 s of kube-proxy's batching, Istio's debounce (100 ms, up to 10 s only while
// changes keep coming), the push to Envoy. On a small busy machine that is 1 to 3 s. A pod of a Knative Service can set
// DRAIN=0s: there SIGTERM comes only when the queue-proxy has drained.
// https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination-flow
const defaultDrain = "5s"

// readConfig reads the environment, and the model that it names. The error names every bad variable with its value. An empty variable counts as
// unset.
func readConfig(env func(string) (string, bool), hostname func() (string, error)) (config, error) {
	var errs []error
	get := func(name, fallback string) string {
		v, _ := env(name)
		return cmp.Or(v, fallback)
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
		if v == "" {
			return unset
		}
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
			bad(name, v, wantDuration)
		}
		return d
	}
	percent := func(name, fallback string) float64 {
		v := get(name, fallback)
		if v == "" {
			return unset
		}
		p, err := strconv.ParseFloat(v, 64)
		if err != nil || !isPercent(p) {
			bad(name, v, wantPercent)
		}
		return p
	}

	c := config{
		target:         text("TARGET", "world"),
		revision:       text("K_REVISION", ""),
		port:           integer("PORT", "8080", 0, 65535),
		adminPort:      integer("ADMIN_PORT", "", 0, 65535),
		failPercent:    percent("FAIL_PERCENT", "0"),
		convertPercent: percent("CONVERT_PERCENT", ""),
		driftPercent:   percent("DRIFT_PERCENT", "0"),
		capturePercent: percent("CAPTURE_PERCENT", "0"),
		delay:          duration("DELAY", "0s"),
		drain:          duration("DRAIN", defaultDrain),
		seenKeep:       integer("SEEN_KEEP", strconv.Itoa(api.SeenKeep), 1, 1_000_000),
		maxBody:        int64(integer("MAX_BODY", "2097152", 1, 1<<30)),
		volume:         volume(get("VOLUME", "")),
	}
	host, err := hostname()
	if c.pod = text("POD_NAME", host); c.pod == "" {
		errs = append(errs, fmt.Errorf("POD_NAME is not set, and there is no host name to take instead: %v", err))
	}
	if c.adminPort == c.port && c.port != 0 {
		bad("ADMIN_PORT", strconv.Itoa(c.adminPort), "another port than PORT")
	}
	if v := get("RELAY", ""); v != "" {
		u, err := url.Parse(v)
		if err != nil || u.Scheme != "http" || u.Hostname() == "" {
			bad("RELAY", v, `a URL such as "http://model.demo"`)
		} else {
			c.relay = *u
		}
	}
	if c.volume != "" {
		if _, _, err := c.volume.space(); err != nil {
			bad("VOLUME", string(c.volume), fmt.Sprintf("a folder: %v", err))
		}
	}
	name := get("MODEL_NAME", "")
	if name != "" && !isName(name) {
		bad("MODEL_NAME", name, wantName)
	}
	if dir := get("MODEL_DIR", ""); dir != "" {
		if c.trained, err = readTrained(dir); err != nil {
			errs = append(errs, fmt.Errorf("MODEL_DIR=%q: %w", dir, err))
		} else if name != "" {
			c.trained.Name = name
		}
		if c.relay.Host != "" {
			bad("MODEL_DIR", dir, "empty when RELAY is set: a relay is no model")
		}
	}
	return c, errors.Join(errs...)
}
