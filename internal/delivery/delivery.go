// Package delivery is what a delivery of a model says in Git and in the cluster: what the notebook's runner commits, its
// last word, and the proof that a scenario notes on a commit. Each is written at one end and read at another one.
package delivery

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// The files of the overlay that a runner commits. The Service itself is in ../../base.
const (
	KustomizationFile = "kustomization.yaml"
	ModelFile         = "model.yaml"
	TrafficFile       = "traffic.yaml"
	CardFile          = "card.yaml"
)

// CardName is the name of the ConfigMap with the card of the model that came last.
const CardName = "model-card"

// Card describes a model. It is the data of ConfigMap CardName.
type Card struct {
	Run            string `json:"run"`            // that made it
	Revision       string `json:"revision"`       // of Knative, that serves it
	Image          string `json:"image"`          // by its digest
	Model          string `json:"model"`          // digest of its file
	Data           string `json:"data"`           // digest of what it was trained with
	Notebook       string `json:"notebook"`       // digest
	NotebookCommit string `json:"notebookCommit"` // that brought it
	Accuracy       string `json:"accuracy"`       // share of held-out rows that it gets right
	Interval       string `json:"interval95"`     // of the accuracy: "low..high"
	HeldOut        string `json:"heldOut"`        // how many rows these are
}

// Fields returns the card as a ConfigMap has it.
func (c Card) Fields() (map[string]string, error) { return as[map[string]string](c) }

// ReadCard reads what Fields returned.
func ReadCard(fields map[string]string) (Card, error) { return as[Card](fields) }

// as returns a value as another type that has the same JSON.
func as[T any](value any) (to T, err error) {
	text, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(text, &to)
	}
	return to, err
}

// Patch is one of RFC 6902; a file of an overlay is a list of them.
type Patch struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// TrafficPath is where the traffic of a Knative Service is.
const TrafficPath = "/spec/traffic"

// Leg is an entry of a Knative Service's traffic. One without a name is the newest revision that is ready: so a commit
// that brings a revision moves no traffic before it can serve.
type Leg struct {
	RevisionName   string `json:"revisionName,omitempty"`
	LatestRevision bool   `json:"latestRevision"`
	Percent        int64  `json:"percent"`
}

// Traffic returns the content of TrafficFile.
func Traffic(legs ...Leg) []Patch { return []Patch{{"add", TrafficPath, legs}} }

// End is the message of a runner's pod: its last word.
type End struct {
	Run      string `json:"run"`
	Workflow string `json:"workflow,omitempty"` // the newest of the run
	Commit   string `json:"commit,omitempty"`   // that has the model
	Error    string `json:"error,omitempty"`
}

// maxMessage is how many bytes of a message Kubernetes keeps: what is cut off there is no JSON any more.
// https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
const maxMessage = 4096

// Message returns the end as JSON, with as much of its error as fits into a pod's message.
func (e End) Message() ([]byte, error) {
	text, err := json.Marshal(e)
	if over := len(text) - maxMessage; err == nil && over > 0 {
		const more = "…"
		keep := max(0, len(e.Error)-over-len(more)) // no byte is shorter in JSON
		for keep > 0 && !utf8.RuneStart(e.Error[keep]) {
			keep--
		}
		e.Error = e.Error[:keep] + more
		return json.Marshal(e)
	}
	return text, err
}

// ReadEnd reads a message; one of another program is an error.
func ReadEnd(message string) (e End, err error) {
	if err = json.Unmarshal([]byte(message), &e); err == nil && e.Run == "" {
		err = fmt.Errorf("it names no run")
	}
	return e, err
}

// Proof is the result of a scenario's run for a commit. It is a note on that commit, which
// `git log --notes=mllab` shows. E is the type of the evidence, or json.RawMessage.
type Proof[E any] struct {
	Scenario string `json:"scenario"`
	Control  string `json:"control,omitempty"` // that was run; empty: the scenario itself
	Step     string `json:"step"`
	Pass     bool   `json:"pass"`              // what must hold after this commit does
	Applied  string `json:"applied,omitempty"` // the revision that Flux had applied when it was judged, such as "main@sha1:…"
	// SecondsToTraffic is from just before the commit was made until it was active: until the first answer by the new
	// state, or where only some of the answers change, until Flux and Knative said so. 0: it never was.
	SecondsToTraffic float64  `json:"secondsToTraffic,omitempty"`
	Evidence         E        `json:"evidence,omitempty"` // as in the scenario's own report
	Reasons          []string `json:"reasons,omitempty"`  // why it did not pass
}
