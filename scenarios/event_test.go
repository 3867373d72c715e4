package scenarios

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

// eventsIn reads the events of a folder of evidence, as a stranger would.
func eventsIn(t *testing.T, folder string) (all []Event) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(folder, EventsFile))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		var e Event
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, e)
	}
	return all
}

func TestTheEventsOfARunAreAllThatItSaw(t *testing.T) {
	l := gateway(t, mix(1)...)
	var heard []Event
	l.events = openStream("story", l.evidence, func(e Event) { heard = append(heard, e) })
	claim := nineToOne(1000)
	p := &Plan{Steps: []Step{{
		Name: "90/10", Why: "why",
		Change: func(ctx context.Context, l *Session) error {
			l.events.wait("waiting")
			return l.teach(ctx, "+ weight: 10\n")
		},
		Check: func(ctx context.Context, l *Session) (Evidence, error) { return l.sample(ctx, l.to("model"), claim) },
	}}}
	none := func(context.Context) error { return nil }
	r, err := l.runIn(t.Context(), p, nil, Result{Scenario: "story"}, none, none)
	if err != nil || !r.Pass {
		t.Fatalf("%+v, %v", r, err)
	}
	l.events.emit(r.Event())
	l.events.close()
	if _, err := l.events.soFar(); err != nil {
		t.Fatal(err)
	}
	events := eventsIn(t, l.evidence)
	if len(events) != len(heard) {
		t.Errorf("%d events are kept of %d", len(events), len(heard))
	}
	var order []EventType
	ids := map[string]bool{}
	counts := map[string]int{}
	for _, e := range events {
		if e.Version != EventVersion || e.Run != "story" || e.At.IsZero() || (e.Step != "90/10") != (e.Type == EventResult) {
			t.Errorf("got %+v", e)
		}
		if e.Type == EventAnswer {
			ids[e.Answer.ID] = true
			counts[e.Answer.Target]++
			if e.Answer.From != FromSample || e.Answer.Milliseconds <= 0 || e.Answer.Pod != "pod" {
				t.Errorf("got %+v", e.Answer)
			}
		}
		if len(order) == 0 || order[len(order)-1] != e.Type {
			order = append(order, e.Type)
		}
	}
	want := []EventType{EventBegin, EventWait, EventChange, EventActive, EventWait, EventClaim, EventSample, EventAnswer, EventEnd, EventResult}
	if !slices.Equal(order, want) {
		t.Errorf("in the order %q, want %q", order, want)
	}
	end := events[len(events)-2].Checked
	if end == nil || !end.Pass || counts["v2"] != end.Evidence.Tally.Counts["v2"] || counts["v1"]+counts["v2"] != 1000 {
		t.Errorf("counted %v; the step ends with %+v", counts, end)
	}
	kept, err := os.ReadFile(end.Evidence.File)
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(kept)); lines.Scan(); {
		var a struct{ ID string }
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil || !ids[a.ID] {
			t.Fatalf("answer %q is evidence and no event (%v)", a.ID, err)
		}
	}
	claimed := events[slices.IndexFunc(events, func(e Event) bool { return e.Type == EventClaim })].Claim
	if claimed.N != 1000 || claimed.By != "target" || claimed.Regions[1].Lo != 57 || claimed.Regions[1].Hi != 149 {
		t.Errorf("claimed %+v", claimed)
	}
	if got := events[len(events)-1].Result; got == nil || !got.Pass || len(got.Steps) != 1 {
		t.Errorf("the result is %+v", got)
	}
}

func TestEventsSayWhichOfSeveralModelsWasAsked(t *testing.T) {
	for _, several := range []bool{false, true} {
		l := gateway(t, mix(1)...)
		var said []string
		watched := make(chan struct{}, 1)
		l.events = openStream("story", "", func(e Event) {
			switch {
			case e.Answer != nil && !slices.Contains(said, e.Answer.From+" "+e.Answer.Of):
				said = append(said, e.Answer.From+" "+e.Answer.Of)
			case e.Claim != nil:
				said = append(said, "claim "+e.Claim.Of)
			}
			if e.Answer != nil && e.Answer.From == FromWatcher {
				select {
				case watched <- struct{}{}:
				default:
				}
			}
		})
		p := &Plan{SeveralModels: several, Steps: []Step{{Name: "both", Check: func(ctx context.Context, l *Session) (Evidence, error) {
			if _, err := l.sample(ctx, l.to("one"), nineToOne(1000)); err != nil {
				return Evidence{}, err
			}
			var w prober
			w.start(ctx, l, l.to("two"), watchRate)
			select {
			case <-watched:
			case <-time.After(time.Minute):
				return Evidence{}, errors.New("no answer of the watcher became an event")
			}
			w.Stop()
			return Evidence{}, nil
		}}}}
		none := func(context.Context) error { return nil }
		if _, err := l.runIn(t.Context(), p, nil, Result{Scenario: "story"}, none, none); err != nil {
			t.Fatal(err)
		}
		want := []string{"claim ", "sample ", "watcher "}
		if several {
			want = []string{"claim one", "sample one", "watcher two"}
		}
		if !slices.Equal(said, want) {
			t.Errorf("several %t: they say %q, want %q", several, said, want)
		}
	}
}

func TestWhoAsksSeveralModelsSaysSo(t *testing.T) {
	for name, want := range map[string]bool{"progressive": true, "model-canary": true, "alerts": true, "canary": false} {
		s, err := Find(name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Plan(Options{})
		if err != nil || p.SeveralModels != want {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	const first = `- {name: a, apply: [{model: {name: one, version: v1}}, {model: {name: two, version: v1}}], expect-all: {of: one, version: v1}}` + "\n"
	for second, want := range map[string]bool{"expect-all: {of: one, version: v1}": false, "expect-all: {of: two, version: v1}": true, "watch: {of: two, rate: 10}": true} {
		s, err := readMine(t, mine(first+"- {name: b, "+second+"}\n"))
		if err != nil {
			t.Fatal(err)
		}
		if p, err := s.Plan(Options{}); err != nil || p.SeveralModels != want {
			t.Errorf("%s: %+v, %v", second, p, err)
		}
	}
}

// A step that takes several samples has the last one as its evidence, and what only keeps a model busy is not kept.
func TestAResultCountsEveryRequest(t *testing.T) {
	server := gateway(t, "v1")
	story := Scenario{Name: "story", New: func(Options) (*Plan, error) {
		return &Plan{Admitted: func(ctx context.Context, l *Session) error {
			for _, n := range []int{30, 10} {
				if _, _, err := l.burst(ctx, l, l.to("model"), n); err != nil {
					return err
				}
			}
			return errors.New("enough")
		}}, nil
	}}
	env := &Env{Gateway: server.Gateway, Kube: &kube.Client{Client: fake.NewClientBuilder().Build()}}
	r, err := Job{Scenario: story}.run(t.Context(), env, newCPUMeter(nil), false, func() {})
	if err == nil || !strings.Contains(err.Error(), "enough") || r.Answers != 40 || r.Sent() != 40 {
		t.Errorf("%+v, %v", r, err)
	}
	kept := Result{Steps: []StepResult{{Evidence: &Evidence{Tally: &probe.Tally{Sent: 7}}}}} // by a former version
	if got := kept.Sent(); got != 7 {
		t.Errorf("of a result without the count: %d, want 7", got)
	}
}

func TestARefutedStepSaysSoInItsEnd(t *testing.T) {
	l := gateway(t, mix(5)...)
	l.evidence = ""
	var ends []Event
	l.events = openStream("story", "", func(e Event) {
		if e.Type == EventEnd {
			ends = append(ends, e)
		}
	})
	check := func(ctx context.Context, l *Session) (Evidence, error) {
		return l.sample(ctx, l.to("model"), nineToOne(1000))
	}
	p := &Plan{Steps: []Step{{Name: "90/10", Check: check}}, Undo: &Step{Name: "back", Check: func(context.Context, *Session) (Evidence, error) { return Evidence{Summary: "it is back"}, nil }}}
	none := func(context.Context) error { return nil }
	if r, err := l.runIn(t.Context(), p, nil, Result{Scenario: "story"}, none, none); err != nil || r.Pass {
		t.Fatalf("%+v, %v", r, err)
	}
	if len(ends) != 2 || ends[0].Checked.Pass || !strings.Contains(ends[0].Error, `claim "shares" does not hold`) || ends[1].Step != "back" || ends[1].Text != "it is back" || ends[1].Error != "" {
		t.Errorf("got %+v", ends)
	}
}

func TestEventsThatCannotBeKeptAreAnError(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openStream("story", blocked, nil)
	s.emit(Event{Type: EventBegin, Step: "a"})
	if _, err := s.soFar(); err == nil || !strings.Contains(err.Error(), "keeping events") {
		t.Errorf("%v", err)
	}
	s.close()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	s = &stream{file: full}
	s.emit(Event{Type: EventBegin})
	if _, err := s.soFar(); err == nil {
		t.Error("a full disk is no error")
	}
	s.close()
}

func TestAJobThatIsNotBegunEndsItsStream(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var last []Event
	err := RunAll(ctx, &Env{Events: func(e Event) { last = append(last, e) }}, several("a"), false, 1)
	if err == nil || len(last) != 1 || last[0].Run != "a" || last[0].Result == nil || last[0].Result.Error == "" {
		t.Errorf("%v, %+v", err, last)
	}
}

func TestAClaimThatCannotBeIsNoEvent(t *testing.T) {
	s := openStream("story", "", func(e Event) { t.Errorf("got %+v", e) })
	s.claims("target", "", split.Claim{})
}
