// Package view shows events of runs to people: as one page that follows them,
// and as one file that is kept.
package view

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/scenarios"
)

// Record is what events say about runs, in the order of their beginnings. The zero
// value is one without a run.
type Record struct {
	Runs []*run
}

type run struct {
	Title  string
	Story  scenarios.Story
	Began  time.Time
	Result *scenarios.Result // nil: it was not finished
	Steps  []*step

	answers []answer
	Of      string   // of a part of a run: the model that was asked; empty: the run asks no other
	legs    []string // of a part: those of all its run, which have their colors by their places
}

// step is one that the plan has, or its undo: what it is about and what it saw.
type step struct {
	scenarios.StoryStep
	Began, Ended time.Time
	Changes      []string                  // diffs of YAML
	Claims       []*scenarios.ClaimedSplit // of each of its samples; nil: it is judged otherwise
	Checked      *scenarios.StepResult     // nil: it was not judged
	Text, Error  string
	Lost         []scenarios.Answered // the first mostLost answers that do not count
	LostMore     int
}

// mostLost is how many answers that do not count are listed for a step. The
// evidence file has all of them.
const mostLost = 20

// answer is one answer, small enough to keep all of them.
type answer struct {
	at     time.Duration // since the run began
	took   float32       // milliseconds
	of     string        // the model that was asked; empty: the run asks one only
	leg    string
	lost   bool
	step   int
	sample int // of the step; -1: it is the watcher's
}

// Add takes up an event. Those of one run must come in their order.
func (r *Record) Add(e scenarios.Event) {
	i := slices.IndexFunc(r.Runs, func(each *run) bool { return each.Title == e.Run && each.Result == nil })
	if i < 0 {
		i = len(r.Runs)
		r.Runs = append(r.Runs, &run{Title: e.Run, Began: e.At, Story: scenarios.Story{Scenario: e.Run}})
	}
	r.Runs[i].add(e)
}

func (r *run) add(e scenarios.Event) {
	switch e.Type {
	case scenarios.EventRun:
		r.Story = *e.Story
	case scenarios.EventBegin:
		s := &step{StoryStep: scenarios.StoryStep{Name: e.Step}, Began: e.At}
		for _, told := range r.Story.Steps {
			if told.Name == e.Step {
				s.StoryStep = told
			}
		}
		r.Steps = append(r.Steps, s)
	case scenarios.EventResult:
		r.Result = e.Result
	}
	if len(r.Steps) == 0 {
		return
	}
	s := r.Steps[len(r.Steps)-1]
	switch e.Type {
	case scenarios.EventChange:
		s.Changes = append(s.Changes, e.Text)
	case scenarios.EventClaim:
		s.Claims = append(s.Claims, e.Claim)
	case scenarios.EventSample:
		if n := len(s.Claims); n == 0 || len(r.sampled(len(r.Steps)-1, n-1)) > 0 { // it has no claim
			s.Claims = append(s.Claims, nil)
		}
	case scenarios.EventAnswer:
		r.count(s, e)
	case scenarios.EventEnd:
		s.Ended, s.Checked, s.Text, s.Error = e.At, e.Checked, e.Text, e.Error
	}
}

func (r *run) count(s *step, e scenarios.Event) {
	a := answer{
		at: e.At.Sub(r.Began), took: float32(e.Answer.Milliseconds), of: e.Answer.Of, leg: e.Answer.Target,
		lost: e.Answer.Problem != "", step: len(r.Steps) - 1, sample: -1,
	}
	if e.Answer.From == scenarios.FromSample {
		if len(s.Claims) == 0 { // requests one by one
			s.Claims = append(s.Claims, nil)
		}
		a.sample = len(s.Claims) - 1
		if c := s.Claims[a.sample]; c != nil && c.By == "pod" {
			a.leg = e.Answer.Pod
		}
	}
	r.answers = append(r.answers, a)
	switch {
	case !a.lost:
	case len(s.Lost) < mostLost:
		s.Lost = append(s.Lost, *e.Answer)
	default:
		s.LostMore++
	}
}

// Parts are the run by the model that was asked, as they were first asked: versions
// of the same name need have nothing in common. Of a run that asks one model that is
// the run itself.
func (r *run) Parts() []*run {
	var parts []*run
	for _, a := range r.answers {
		i := slices.IndexFunc(parts, func(p *run) bool { return p.Of == a.of })
		if i < 0 {
			i = len(parts)
			part := *r
			part.Of, part.legs, part.answers = a.of, r.Legs(), nil
			parts = append(parts, &part)
		}
		parts[i].answers = append(parts[i].answers, a)
	}
	return parts
}

// sampled are the answers of one of a step's samples.
func (r *run) sampled(step, sample int) (own []answer) {
	for _, a := range r.answers {
		if a.step == step && a.sample == sample {
			own = append(own, a)
		}
	}
	return own
}

// ErrNoRun is the error of a folder that does not exist, or has no events.
var ErrNoRun = errors.New("no run has left evidence")

// Read reads the events that are kept in a folder of evidence and the folders in
// it. The end of a run that was killed is missing; all else that cannot be read is
// an error.
func Read(dir string) (*Record, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() == scenarios.EventsFile {
			files = append(files, path)
		}
		return err
	})
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && len(files) == 0:
		return nil, fault.Usage("name a folder of evidence, such as .../evidence/canary", "%w in %s", ErrNoRun, dir)
	case err != nil:
		return nil, fault.Usage("name a folder that this user can read", "looking for events: %w", err)
	}
	var r Record
	for _, path := range files {
		if err := r.read(path); err != nil {
			return nil, fault.Usage("name a folder without this file, or remove it", "reading %s: %w", path, err)
		}
	}
	slices.SortStableFunc(r.Runs, func(a, b *run) int { return a.Began.Compare(b.Began) })
	return &r, nil
}

func (r *Record) read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewReader(f)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) { // what has no end is not whole
			return nil
		}
		if err != nil {
			return err
		}
		var e scenarios.Event
		if err := json.Unmarshal(bytes.TrimSpace(line), &e); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if e.Version != scenarios.EventVersion {
			return fmt.Errorf("line %d: events must be of version %d, got %d", n, scenarios.EventVersion, e.Version)
		}
		r.Add(e)
	}
}

// verdict is a run's in one word.
func (r *run) Verdict() string {
	if r.Result == nil {
		return "NOT FINISHED"
	}
	return r.Result.Verdict()
}

// Why says what a verdict that is no plain pass depends on.
func (r *run) Why() string {
	switch {
	case r.Result == nil:
		return "its last event is missing: it runs still, or was killed"
	case r.Result.Skipped != "":
		return r.Result.Skipped
	case !r.Result.Pass:
		return r.Result.Err().Error()
	case r.Result.Control != "":
		return fmt.Sprintf("caught: claim %q failed as it must: %s", r.Result.Refuted, strings.Join(r.Result.Reasons, "; "))
	}
	return ""
}
