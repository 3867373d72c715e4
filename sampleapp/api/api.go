// Package api is the contract of the sample model with those who use it: headers, /seen, /faults and captured requests.
package api

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"time"
)

// What the model says about itself in every answer's header. A proxy on the way does not add these, so an answer without
// any of them is the proxy's own.
const (
	HeaderTarget   = "X-Mllab-Target"
	HeaderRevision = "X-Mllab-Revision"
	HeaderPod      = "X-Mllab-Pod"
)

// The request's ID, sent under both names and echoed. Envoy may replace the first at the edge or change a digit of it for
// tracing, and leaves the second alone, so the second is the one to trust.
// https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#x-request-id
const (
	HeaderRequestID = "X-Request-Id"
	HeaderID        = "X-Mllab-Id"
)

const (
	// HeaderConverted says whether an answer led to a business result, such as an order.
	HeaderConverted = "X-Mllab-Converted"
	// HeaderModel is "sha256:" and the hash of a trained model's file.
	HeaderModel = "X-Mllab-Model"
	// HeaderRelay names the pod of each relay that an answer passed, or whose own answer it is.
	HeaderRelay = "X-Mllab-Relay"
)

// Paths are those that every model answers to GET; a trained one and a relay have more.
var Paths = []string{"/", "/alerts", "/healthz", "/metrics", "/readyz", "/seen"}

// SeenKeep is how many requests the model remembers unless SEEN_KEEP says otherwise.
const SeenKeep = 20_000

// Seen is the answer to GET /seen?since=N. IDs[i] is the ID of request number From+i, Outputs[i] its prediction, and
// AtOnce[i] how many requests had come and were not answered when it came, itself included;
// requests before From are no longer remembered, or were not asked for. A pod that is replaced starts at 0: read every
// pod.
type Seen struct {
	Target   string   `json:"target"`
	Revision string   `json:"revision"`
	Pod      string   `json:"pod"`
	Count    int      `json:"count"`
	From     int      `json:"from"`
	IDs      []string `json:"ids"`
	Outputs  []string `json:"outputs"` // as JSON; empty for a GET, a refused input, and until it is computed
	AtOnce   []int    `json:"atOnce"`
}

// Faults is the answer to GET and PUT /faults of the admin port: what goes wrong while the process runs.
type Faults struct {
	Ready       bool    `json:"ready"`
	Hang        bool    `json:"hang"`
	FailPercent float64 `json:"failPercent"`
	Delay       string  `json:"delay"`       // as of time.ParseDuration
	FillPercent float64 `json:"fillPercent"` // of its volume
}

// FaultsChange is the body of PUT /faults; what is not set stays.
type FaultsChange struct {
	Ready       *bool    `json:"ready,omitempty"`
	Hang        *bool    `json:"hang,omitempty"`
	FailPercent *float64 `json:"failPercent,omitempty"`
	Delay       string   `json:"delay,omitempty"`
	FillPercent *float64 `json:"fillPercent,omitempty"`
}

// Alert is one alert that came from Alertmanager: an item of the answer to GET /alerts, in the order in which they came.
type Alert struct {
	Received time.Time         `json:"received"`
	Status   string            `json:"status"` // "firing" or "resolved"
	Labels   map[string]string `json:"labels"` // alertname, and what the rule's query has: namespace, app, pod
}

// Captured is a line of the log with Msg CapturedMsg: a request to the model, what it was asked and what it answered. Input
// and Output are JSON as it came and went, null when there was none, or a string: what is no JSON, and the beginning of
// what is larger than CapturedSize, with "… (N bytes)" after it.
type Captured struct {
	Time     time.Time       `json:"time"`
	Level    string          `json:"level"`
	Msg      string          `json:"msg"`
	ID       string          `json:"id"` // the request's
	Target   string          `json:"target"`
	Revision string          `json:"revision"`
	Pod      string          `json:"pod"`
	Model    string          `json:"model,omitempty"` // of a trained one, as in HeaderModel
	Shadow   bool            `json:"shadow"`          // a proxy's copy, whose answer nobody gets
	Path     string          `json:"path"`
	Status   int             `json:"status"` // 499: the client left before its answer
	MS       float64         `json:"ms"`     // milliseconds from the request's headers to its answer
	Input    json.RawMessage `json:"input"`
	Output   json.RawMessage `json:"output"`
}

const (
	// CapturedMsg is what a captured request's line has as its "msg".
	CapturedMsg = "captured"
	// CapturedSize bounds an input and an output in such a line, in bytes.
	CapturedSize = 64 << 10
)

// IsCaptured picks percent of all requests, by the ID alone: every version and every copy captures the same ones, and
// those of a lower percentage are among those of a higher one. IDs need not be random.
func IsCaptured(id string, percent float64) bool {
	sum := sha256.Sum256([]byte(id))
	return float64(binary.BigEndian.Uint32(sum[:])) < percent/100*(1<<32)
}
