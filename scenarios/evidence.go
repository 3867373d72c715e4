package scenarios

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"mllab.local/internal/fault"
	"mllab.local/internal/folder"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

// Claim names an assertion of a check.
type Claim string

// The claims that scenarios make.
const (
	Answers   Claim = "answers"   // every request is answered 200 by a version that is expected
	Shares    Claim = "shares"    // the versions answer in the stated shares
	NoLoss    Claim = "no-loss"   // no request of the watcher is lost
	Zero      Claim = "zero"      // a quiet service has no pod left
	OnePod    Claim = "one-pod"   // a cold request is answered by the one pod that it started
	Warm      Claim = "warm"      // a quiet service keeps its pod, which then answers
	Mirror    Claim = "mirror"    // the shadow gets the requests that it should, each once
	Caller    Claim = "caller"    // the caller sees nothing of the shadow
	Routes    Claim = "routes"    // every request reaches the version that its header or cookie names
	Outcome   Claim = "outcome"   // the arms' outcomes differ, or do not, as claimed
	Cutover   Claim = "cutover"   // after the drain window no old version answers
	Readiness Claim = "readiness" // an unready pod gets no request
	Liveness  Claim = "liveness"  // a hanging pod is restarted
	Ejection  Claim = "ejection"  // a failing replica gets no more requests
	Bounds    Claim = "bounds"    // the caller's wait and errors stay within what is configured
	NoWorse   Claim = "no-worse"  // the new version does not fail more requests than the old one, nor is it slower
	Guard     Claim = "guard"     // the judge ends the sample as soon as it can know that the new version is worse
	Release   Claim = "release"   // the release's history and what answers agree

	Encryption Claim = "encryption" // who has no certificate of the mesh is not served, and who has one is
	Identity   Claim = "identity"   // the identity that a policy names is served, and no other
	Overload   Claim = "overload"   // a busy model gets as many requests at once as its limit says, and the rest is refused

	Model       Claim = "model"       // what is served is what was trained, byte for byte
	Predictions Claim = "predictions" // every held-out row is answered as the trainer's own model did
	Gate        Claim = "gate"        // a model below the threshold goes no further

	Promotion Claim = "promotion" // a good version takes over, and what is said of it and who answers agree
	Rollback  Claim = "rollback"  // a version that is bad, or that nobody has measured, is taken back

	Calm  Claim = "calm"  // nothing alerts that nothing has caused
	Alarm Claim = "alarm" // each fault alerts, and its alert ends with it, within the bound

	Cause    Claim = "cause"    // an alarm names what has changed, and nothing else
	Recovery Claim = "recovery" // the model that is trained again is right more often than the old one was

	Delivery   Claim = "delivery"   // what a commit says is in the traffic, or on the cluster, within the bound
	Correction Claim = "correction" // what was changed by hand is as Git says again, within the bound
	Refusal    Claim = "refusal"    // a commit that cannot be applied is not taken for good, and the reason is said
)

// ClaimError says that a claim does not hold, with sentences that say why.
type ClaimError struct {
	Claim   Claim
	Reasons []string
}

func (r *ClaimError) Error() string {
	return fmt.Sprintf("claim %q does not hold: %s", r.Claim, strings.Join(r.Reasons, "; "))
}

// Evidence is the result of a check.
type Evidence struct {
	Summary string         `json:"says"`              // one line for a person
	Verdict *split.Verdict `json:"verdict,omitempty"` // of a sample
	Tally   *probe.Tally   `json:"tally,omitempty"`
	Watch   *Watched       `json:"watch,omitempty"`
	Figures []Figure       `json:"figures,omitempty"`
	File    string         `json:"file,omitempty"` // every answer with its request ID, one JSON object a line
}

// after is e with what is said before it, if anything, and more figures.
func (e Evidence) after(says string, more ...Figure) Evidence {
	if says != "" {
		e.Summary = says + "; " + e.Summary
	}
	e.Figures = append(e.Figures, more...)
	return e
}

// Figure is one measured number, such as {"sandbox", 0.31, "s"}.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"`
}

// Watched is the result of an open-loop watcher.
type Watched struct {
	Sent    int     `json:"sent"`
	Lost    int     `json:"lost"`   // not answered 200 by the application
	Missed  int     `json:"missed"` // due, but never sent
	Rate    float64 `json:"rate"`   // requests per second
	Bound   float64 `json:"bound"`  // the loss rate is below this with 95 % confidence
	Outage  float64 `json:"outage"` // seconds: a longer outage would have been seen with 95 %
	Seconds float64 `json:"seconds"`
}

// removeEvidence removes the last run's evidence. Its error is a fault.Usage if the folder is a person's: a link, or
// without a run's events. Where the folder of all evidence is a link, theirs may be in it, too.
func removeEvidence(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case dir == "" || errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(entries) > 0 && len(folder.Glob(dir, EventsFile)) == 0:
		return fault.Usage("move the folder away", "%s must have the evidence of a run, got a folder without %s: nothing was removed", dir, EventsFile)
	}
	if err := folder.NoLink(dir); err != nil {
		return err
	}
	for _, e := range entries { // what says whose they are goes last: a removal may be cut off
		if e.Name() != EventsFile {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// record is a run's folder of evidence, in which each file is named by number and
// step.
type record struct {
	evidence string // the folder; empty: nothing is kept
	files    int    // so far
	stepName string
}

// keep writes the answers to a file, and returns its path.
func (l *record) keep(answers []probe.Answer) (string, error) {
	var lines bytes.Buffer
	enc := json.NewEncoder(&lines)
	for _, a := range answers {
		if err := enc.Encode(a); err != nil {
			return "", fmt.Errorf("keeping evidence: %w", err)
		}
	}
	return l.keepText(".jsonl", lines.Bytes())
}

// evidenceOf keeps the answers and counts them.
func (l *record) evidenceOf(answers []probe.Answer) (Evidence, error) {
	tally := probe.Count(answers)
	file, err := l.keep(answers)
	return Evidence{Tally: &tally, File: file}, err
}

// keepJSON is keep for a value of any kind.
func (l *record) keepJSON(v any) (string, error) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return "", fmt.Errorf("keeping evidence: %w", err)
	}
	return l.keepText(".json", text)
}

// keepText is keep for a text of any kind, which the name's end says.
func (l *record) keepText(end string, text []byte) (string, error) {
	if l.evidence == "" {
		return "", nil
	}
	if err := os.MkdirAll(l.evidence, 0o700); err != nil {
		return "", fmt.Errorf("keeping evidence: %w", err)
	}
	l.files++
	words := strings.FieldsFunc(l.stepName, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	path := filepath.Join(l.evidence, fmt.Sprintf("%02d-%s%s", l.files, strings.Join(words, "-"), end))
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return "", fmt.Errorf("keeping evidence: %w", err)
	}
	return path, nil
}
