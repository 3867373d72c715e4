package scenarios

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

// EventVersion is the version of the stream of events. A version may get more
// types and fields; none of them goes or changes its meaning.
const EventVersion = 1

// EventType says what happened, and which fields of an Event it has.
type EventType string

// The types of events. docs/events.md describes them.
const (
	EventRun    EventType = "run"    // a run begins: Story
	EventBegin  EventType = "begin"  // a step begins
	EventChange EventType = "change" // something is about to be applied: Text is a diff of YAML
	EventPause  EventType = "pause"  // it waits for a person
	EventResume EventType = "resume" // the person went on
	EventWait   EventType = "wait"   // Text is the newest reason why the step is not done
	EventActive EventType = "active" // the step's change is active: Seconds
	EventClaim  EventType = "claim"  // the counts that will be accepted: Claim
	EventSample EventType = "sample" // a sample begins: N
	EventAnswer EventType = "answer" // one request was answered, or failed: Answer
	EventEnd    EventType = "end"    // a step ends: Text, Error, and Step's Checked
	EventResult EventType = "result" // a run ends: Result
)

// Event is one thing that happened in a run. A stream of them is all that is
// shown of a run, in a terminal, a page or a report.
type Event struct {
	Version int           `json:"v"`
	Type    EventType     `json:"type"`
	At      time.Time     `json:"at"`
	Run     string        `json:"run"`            // such as "canary" or "canary, control weights"
	Step    string        `json:"step,omitempty"` // that runs; of the plan, or "dry run", "namespace", "clean up", or the plan's undo
	Text    string        `json:"text,omitempty"`
	Error   string        `json:"error,omitempty"`
	Seconds float64       `json:"seconds,omitempty"`
	N       int           `json:"n,omitempty"`
	Story   *Story        `json:"story,omitempty"`
	Claim   *ClaimedSplit `json:"claim,omitempty"`
	Answer  *Answered     `json:"answer,omitempty"`
	Checked *StepResult   `json:"checked,omitempty"`
	Result  *Result       `json:"result,omitempty"`
}

// Story is the description of a run, and the command that repeats it.
type Story struct {
	Call
	Scenario string      `json:"scenario"`
	Summary  string      `json:"summary"`
	Control  string      `json:"control,omitempty"`
	Breaks   string      `json:"breaks,omitempty"` // of a control: what it breaks
	Catches  Claim       `json:"catches,omitempty"`
	Steps    []StoryStep `json:"steps"`
}

// StoryStep is a step as it is explained.
type StoryStep struct {
	Name     string `json:"name"`
	Why      string `json:"why,omitempty"`
	WatchFor string `json:"watchFor,omitempty"`
}

// Call is the command that asked for a run, and what it met.
type Call struct {
	Command  string            `json:"command,omitempty"`
	Lab      string            `json:"lab,omitempty"`
	Versions map[string]string `json:"versions,omitempty"` // of mllab, and of what it installs
}

// ClaimedSplit is a claim about shares before it is judged.
type ClaimedSplit struct {
	By      string         `json:"by"` // what names a leg: an answer's "target" or "pod"
	Of      string         `json:"of,omitempty"`
	N       int            `json:"n"`
	Alpha   float64        `json:"alpha"`
	Regions []split.Region `json:"regions"`
}

// Answered is one answer. The evidence file has all of it.
type Answered struct {
	From         string  `json:"from"` // "sample" or "watcher"
	ID           string  `json:"id"`
	Of           string  `json:"of,omitempty"` // the model that was asked, in a run that asks several
	Target       string  `json:"target,omitempty"`
	Pod          string  `json:"pod,omitempty"`
	Milliseconds float64 `json:"ms"`
	Problem      string  `json:"problem,omitempty"` // why it does not count
}

// Who sends the requests whose answers are events.
const (
	FromSample  = "sample"
	FromWatcher = "watcher"
)

// EventsFile is the name of the file in a run's evidence that has its events,
// one JSON object a line.
const EventsFile = "events.jsonl"

// stream is where a run's events go: to a file of its evidence, and to whoever
// listens. Nil is a stream that nobody reads.
type stream struct {
	run  string
	to   func(Event) // may be nil
	mu   sync.Mutex
	step string
	file *os.File // nil: none is kept
	err  error    // of the first write that failed
	n    int      // answers so far
}

// openStream makes the folder of the evidence and the file in it; without a
// folder no file is kept.
func openStream(run, folder string, to func(Event)) *stream {
	s := &stream{run: run, to: to}
	if folder == "" {
		return s
	}
	if s.err = os.MkdirAll(folder, 0o700); s.err == nil {
		s.file, s.err = os.OpenFile(filepath.Join(folder, EventsFile), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	}
	return s
}

// emit completes e and passes it on. An event is passed on whole, and never two
// at once.
func (s *stream) emit(e Event) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case e.Type == EventBegin:
		s.step = e.Step
	case e.Type == EventAnswer:
		s.n++
	case e.Type == EventWait && s.step == "":
		return // a control breaks the world before the first step: nobody waits for that
	}
	e.Version, e.At, e.Run, e.Step = EventVersion, time.Now(), s.run, s.step
	if e.Type == EventEnd {
		s.step = ""
	}
	if s.file != nil && s.err == nil { // a line that is torn is the last one
		var line []byte
		if line, s.err = json.Marshal(e); s.err == nil {
			_, s.err = s.file.Write(append(line, '\n'))
		}
	}
	if s.to != nil {
		s.to(e)
	}
}

// soFar returns how many answers were passed on, and why the file is not whole.
func (s *stream) soFar() (answers int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		err = fmt.Errorf("keeping events: %w", s.err)
	}
	return s.n, err
}

// close ends the file; each write has had its own error.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
}

// saw passes on an answer of this model.
func (s *stream) saw(from, of string, a probe.Answer) {
	s.emit(Event{Type: EventAnswer, Answer: &Answered{
		From: from, ID: a.ID, Of: of, Target: a.Target, Pod: short(a.Pod), Milliseconds: float64(a.Latency.Microseconds()) / 1000, Problem: a.Problem(),
	}})
}

// claims passes on what a sample of this model is going to be judged by.
func (s *stream) claims(by, of string, c split.Claim) {
	if regions, err := c.Regions(); err == nil { // who judges says what is wrong with it
		s.emit(Event{Type: EventClaim, Claim: &ClaimedSplit{By: by, Of: of, N: c.N, Alpha: c.Alpha, Regions: regions}})
	}
}

func (s *stream) begin(step string) { s.emit(Event{Type: EventBegin, Step: step}) }

// wait says the newest reason why the step is not done.
func (s *stream) wait(reason string) { s.emit(Event{Type: EventWait, Text: reason}) }

// end ends a step that is not of the plan, and returns err.
func (s *stream) end(says string, err error) error {
	e := Event{Type: EventEnd, Text: says}
	if err != nil {
		e.Text, e.Error = "", err.Error()
	}
	s.emit(e)
	return err
}

// checked ends a step of the plan with what it saw.
func (s *stream) checked(r StepResult, err error) {
	e := Event{Type: EventEnd, Checked: &r}
	if r.Evidence != nil {
		e.Text = r.Evidence.Summary
	}
	if err != nil {
		e.Error = err.Error()
	}
	s.emit(e)
}
