package scenarios

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Result is the outcome of one run: of a scenario, or of one of its controls.
type Result struct {
	Scenario string       `json:"scenario"`
	Control  string       `json:"control,omitempty"`
	Pass     bool         `json:"pass"`
	Steps    []StepResult `json:"steps"`
	Refuted  Claim        `json:"refuted,omitempty"` // the first claim that did not hold
	Catches  Claim        `json:"catches,omitempty"` // of a control: the claim that must not hold
	Reasons  []string     `json:"reasons,omitempty"`
	Error    string       `json:"error,omitempty"`   // why nothing could be tested
	Skipped  string       `json:"skipped,omitempty"` // why it was not tried at all
	Seconds  float64      `json:"seconds"`
	// CPUSeconds is the CPU time that the node has used during the run; of what it used for several runs at once each has
	// the same share. 0: not measured.
	CPUSeconds float64 `json:"cpuSeconds,omitempty"`
	// Answers counts the requests of samples and watchers, also of those that are no evidence; what only waited for a state is not
	// counted. 0: see Sent.
	Answers int `json:"requests,omitempty"`
}

// StepResult is the result of one step. Barrier is the time that its change took to
// be active; what a person took to think is in none of the times.
type StepResult struct {
	Name     string    `json:"name"`
	Pass     bool      `json:"pass"`
	Barrier  float64   `json:"barrierSeconds"`
	Seconds  float64   `json:"seconds"` // of the check
	Evidence *Evidence `json:"evidence,omitempty"`
}

// Err is nil for a pass and for what was skipped, and else what the exit code is
// made from: a claim that does not hold is 1.
func (r Result) Err() error {
	switch {
	case r.Error != "":
		return errors.New(r.Error)
	case r.Pass, r.Skipped != "":
		return nil
	case r.Control == "":
		return fmt.Errorf("%s: claim %q does not hold: %s", r.Scenario, r.Refuted, strings.Join(r.Reasons, "; "))
	case r.Refuted == "":
		return fmt.Errorf("%s: control %s was not caught: every claim held in a broken world", r.Scenario, r.Control)
	}
	if r.Refuted == r.Catches {
		return fmt.Errorf("%s: control %s was caught, but not in a world that it had broken, or what it broke could not be undone: %s", r.Scenario, r.Control, strings.Join(r.Reasons, "; "))
	}
	return fmt.Errorf("%s: control %s was caught for the wrong reason: %q instead of %q: %s", r.Scenario, r.Control, r.Refuted, r.Catches, strings.Join(r.Reasons, "; "))
}

// Sent returns how many requests samples and watchers sent. Kept results of former versions have no other count than their evidence.
func (r Result) Sent() int {
	sampled, watched := r.Requests()
	return max(r.Answers, sampled+watched)
}

// Requests counts what evidence was made of: requests of samples, and those of a watcher. A step that takes several
// samples has the last one as its evidence.
func (r Result) Requests() (sampled, watched int) {
	for _, s := range r.Steps {
		switch e := s.Evidence; {
		case e == nil:
		case e.Watch != nil:
			watched += e.Watch.Sent
		case e.Tally != nil:
			sampled += e.Tally.Sent
		}
	}
	return sampled, watched
}

// Verdict is the outcome in one word: PASS, FAIL, ERROR or SKIPPED.
func (r Result) Verdict() string {
	switch {
	case r.Skipped != "":
		return "SKIPPED"
	case r.Error != "":
		return "ERROR"
	case r.Pass:
		return "PASS"
	}
	return "FAIL"
}

// Title names the run that r is the result of.
func (r Result) Title() string {
	if r.Control != "" {
		return r.Scenario + ", control " + r.Control
	}
	return r.Scenario
}

// Event returns the event that ends r's run. Its steps have events of their own.
func (r Result) Event() Event {
	return Event{Version: EventVersion, Type: EventResult, At: time.Now(), Run: r.Title(), Result: &r}
}
