package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mllab.local/internal/report"
	"mllab.local/internal/run"
	"mllab.local/internal/split"
	"mllab.local/scenarios"
)

// readers are called with every event of a call, one after the other. Safe for
// concurrent use.
type readers struct {
	mu   sync.Mutex
	each []func(scenarios.Event)
}

func (r *readers) read(e scenarios.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.each {
		f(e)
	}
}

// jsonLines is the reader that writes each event as a line of JSON. It stops when
// nobody reads it any more.
func jsonLines(w io.Writer) func(scenarios.Event) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	gone := false
	return func(e scenarios.Event) { gone = gone || enc.Encode(e) != nil }
}

type gathered []scenarios.Result

func (g *gathered) read(e scenarios.Event) {
	if e.Result != nil {
		*g = append(*g, *e.Result)
	}
}

// inOrder returns the results in the order of what was asked for.
func (g gathered) inOrder(asked []plan) []scenarios.Result {
	place := func(r scenarios.Result) (scenario, control int) {
		scenario = slices.IndexFunc(asked, func(p plan) bool { return p.Name == r.Scenario })
		if scenario >= 0 {
			control = slices.IndexFunc(asked[scenario].Controls, func(c scenarios.Control) bool { return c.Name == r.Control })
		}
		return scenario, control
	}
	ordered := slices.Clone(g)
	slices.SortStableFunc(ordered, func(a, b scenarios.Result) int {
		as, ac := place(a)
		bs, bc := place(b)
		// What was skipped comes last.
		return cmp.Or(cmp.Compare(len(a.Skipped), 0)-cmp.Compare(len(b.Skipped), 0), cmp.Compare(as, bs), cmp.Compare(ac, bc))
	})
	return ordered
}

// progress is the reader that shows on stderr what runs.
type progress struct {
	report report.Reporter
	runs   map[string]*seen
}

type seen struct {
	task              report.Task
	counts            map[string]int
	done, failed, all int
	watched, lost     int // since the watcher's start
}

func (p *progress) read(e scenarios.Event) {
	s := p.runs[e.Run]
	if s == nil {
		s = &seen{task: report.Discard().Step("")}
		p.runs[e.Run] = s
	}
	switch e.Type {
	case scenarios.EventBegin:
		s.task = p.report.Step(e.Run + ": " + e.Step)
		s.sample(0)
		s.task.Bars(s.bars())
	case scenarios.EventWait:
		s.task.Update(e.Text)
	case scenarios.EventActive:
		s.task.Update("") // what the change waited for is there
	case scenarios.EventSample:
		s.sample(e.N)
	case scenarios.EventAnswer:
		s.count(*e.Answer)
		s.task.Bars(s.bars())
	case scenarios.EventEnd:
		if e.Error != "" {
			s.task.Fail(errors.New(e.Error))
		} else {
			s.task.Done(e.Text)
		}
		if c := e.Checked; c != nil && c.Evidence != nil && c.Evidence.Watch != nil {
			s.watched, s.lost = 0, 0 // it has been judged
		}
	}
}

// sample begins to count n answers.
func (s *seen) sample(n int) { s.counts, s.done, s.failed, s.all = map[string]int{}, 0, 0, n }

func (s *seen) count(a scenarios.Answered) {
	bad := a.Problem != ""
	if a.From == scenarios.FromWatcher {
		s.watched++
		if bad {
			s.lost++
		}
		return
	}
	s.done++
	if bad {
		s.failed++
	} else {
		s.counts[a.Target]++
	}
	if s.all > 0 {
		s.task.Progress(int64(s.done), int64(s.all), "requests")
	}
}

// bars are the counts of this moment as a person watches them grow. The terminal
// asks for them when it draws.
func (s *seen) bars() func() []report.Bar {
	now := *s
	now.counts = maps.Clone(s.counts)
	return now.drawn
}

func (s seen) drawn() (all []report.Bar) {
	for _, target := range slices.Sorted(maps.Keys(s.counts)) {
		lo, hi := split.Interval(s.counts[target], s.done, 0.95)
		share := float64(s.counts[target]) / float64(s.done)
		all = append(all, report.Bar{Name: target, Share: share,
			Text: fmt.Sprintf("%6d  %5.1f %% (%.1f..%.1f %%)", s.counts[target], 100*share, 100*lo, 100*hi)})
	}
	if s.failed > 0 {
		all = append(all, report.Bar{Name: "errors", Share: float64(s.failed) / float64(s.done), Text: fmt.Sprintf("%6d", s.failed), Bad: true})
	}
	if s.watched > 0 {
		all = append(all, report.Bar{Name: "watcher", Share: float64(s.watched-s.lost) / float64(s.watched),
			Text: fmt.Sprintf("%6d sent, %d lost", s.watched, s.lost), Bad: s.lost > 0})
	}
	return all
}

// call is the command line as a person would repeat it, without where its results
// were written to, and the versions of what it is run with.
func (a *app) call(c *cobra.Command) (scenarios.Call, error) {
	v, err := readVersion()
	if err != nil {
		return scenarios.Call{}, err
	}
	words := append(strings.Fields(c.CommandPath()), c.Flags().Args()...)
	c.Flags().Visit(func(f *pflag.Flag) {
		if !slices.Contains([]string{"output", "junit", "html"}, f.Name) {
			words = append(words, "--"+f.Name+"="+f.Value.String())
		}
	})
	for i, w := range words {
		words[i] = run.ShellWord(w)
	}
	versions := maps.Clone(v.Components)
	versions["mllab"] = strings.TrimSpace(v.Version + " " + v.Revision)
	versions["go"] = v.Go
	return scenarios.Call{Command: strings.Join(words, " "), Lab: a.global.name, Versions: versions}, nil
}
