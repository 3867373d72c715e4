package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strconv"
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

// defaultDrain covers the way of "this pod ends" to the last proxy, which Kubernetes starts at the same moment as it
// sends SIGTERM: EndpointSlice, at most 1 s of kube-proxy's batching (0.1 s in a lab), Istio's debounce (100 ms, up to 10 s only while
// changes keep coming), the push to Envoy. On a small busy machine that is 1 to 3 s. A pod of a Knative Service can set
// DRAIN=0s: there SIGTERM comes only when the queue-proxy has drained.
// https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination-flow
const defaultDrain = "5s"

// readConfig reads the environment, and the model that it names. The error names every bad variable with its value. An empty variable counts as
// unset.
func readConfig(env func(string) (string, bool), hostname func() (string, error)) (config, error) {
	var errs []error
	bad := func(name, value, want string) { errs = append(errs, fmt.Errorf("%s=%q: want %s", name, value, want)) }
	get := func(name, fallback string) string {
		v, _ := env(name)
		v = cmp.Or(v, fallback)
		if want := api.CheckVariable(name, v); want != "" {
			bad(name, v, want)
		}
		return v
	}
	// What has no form is unset, or in errs.
	integer := func(name, fallback string) int {
		n, err := strconv.Atoi(get(name, fallback))
		if err != nil {
			return unset
		}
		return n
	}
	percent := func(name, fallback string) float64 {
		p, err := strconv.ParseFloat(get(name, fallback), 64)
		if err != nil {
			return unset
		}
		return p
	}
	duration := func(name, fallback string) time.Duration {
		d, _ := time.ParseDuration(get(name, fallback))
		return d
	}

	c := config{
		target:         get("TARGET", "world"),
		revision:       get("K_REVISION", ""),
		port:           integer("PORT", "8080"),
		adminPort:      integer("ADMIN_PORT", ""),
		failPercent:    percent("FAIL_PERCENT", "0"),
		convertPercent: percent("CONVERT_PERCENT", ""),
		driftPercent:   percent("DRIFT_PERCENT", "0"),
		capturePercent: percent("CAPTURE_PERCENT", "0"),
		delay:          duration("DELAY", "0s"),
		drain:          duration("DRAIN", defaultDrain),
		seenKeep:       integer("SEEN_KEEP", strconv.Itoa(api.SeenKeep)),
		maxBody:        int64(integer("MAX_BODY", "2097152")),
		volume:         volume(get("VOLUME", "")),
	}
	host, err := hostname()
	if c.pod = get("POD_NAME", host); c.pod == "" {
		errs = append(errs, fmt.Errorf("POD_NAME is not set, and there is no host name to take instead: %v", err))
	}
	if c.adminPort == c.port && c.port > 0 {
		bad("ADMIN_PORT", strconv.Itoa(c.adminPort), "another port than PORT")
	}
	if u, err := url.Parse(get("RELAY", "")); err == nil {
		c.relay = *u
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
