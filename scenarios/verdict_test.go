package scenarios

import (
	"context"
	"errors"
	"strings"
	"testing"

	"mllab.local/internal/fault"
)

// world is a fake of what a run goes through: nothing but what its parts return.
type world struct {
	first, second error // of the checks of the two steps
	breaks        error // of the control's break
	undo          error // of the check of what takes the step back
	undoChange    error
	foreign       error // what somebody else has done meanwhile
	open, clean   error
}

// run runs a story of two steps in w, with a control after the named step.
func (w world) run(ctx context.Context, after string, control, undo bool) (Result, error) {
	check := func(err error) Check {
		return func(context.Context, *Session) (Evidence, error) { return Evidence{Summary: "seen"}, err }
	}
	p := &Plan{Steps: []Step{{Name: "first", Check: check(w.first)}, {Name: "second", Check: check(w.second)}}}
	if undo {
		p.Undo = &Step{Name: "back", Change: func(context.Context, *Session) error { return w.undoChange }, Check: check(w.undo)}
	}
	r := Result{Scenario: "story"}
	var c *Control
	if control {
		c = &Control{Name: "off", Summary: "it is off", After: after, Catches: Shares, Break: func(context.Context, *Session) error { return w.breaks }}
		r.Control, r.Catches = c.Name, c.Catches
	}
	l := &Session{Env: &Env{}}
	l.untouched = append(l.untouched, func(context.Context) error { return w.foreign })
	return l.runIn(ctx, p, c, r,
		func(context.Context) error { return w.open }, func(context.Context) error { return w.clean })
}

func TestTheRuleThatDecidesAVerdict(t *testing.T) {
	no := func(c Claim) error { return refute(c, "%s it is not", c) }
	plain := errors.New("the pod is gone")
	const story, control, undo = 0, 1, 2
	for _, tc := range []struct {
		name    string
		kind    int    // story, or control, and whether there is an undo
		after   string // the step that the control breaks
		world   world
		pass    bool
		refuted Claim
		steps   int
		says    string // in the result's own error
		code    int    // of what kept it from being tested; 0: nothing did
	}{
		{name: "every claim holds", kind: story, pass: true, steps: 2},
		{name: "a claim does not hold", kind: story, world: world{first: no(Shares)}, refuted: Shares, steps: 1, says: "does not hold: shares it is not"},
		{name: "a later claim does not hold", kind: story, world: world{second: no(Answers)}, refuted: Answers, steps: 2, says: "does not hold"},
		{name: "what a failed claim did is undone", kind: story | undo, world: world{first: no(Shares)}, refuted: Shares, steps: 2, says: "does not hold"},

		{name: "a control is caught", kind: control, after: "second", world: world{second: no(Shares)}, pass: true, refuted: Shares, steps: 2},
		{name: "a control before the first step is caught", kind: control, world: world{first: no(Shares)}, pass: true, refuted: Shares, steps: 1},
		{name: "a control is not caught", kind: control, after: "second", steps: 2, says: "not caught"},
		{name: "a control is caught for another reason", kind: control, after: "second", world: world{second: no(Answers)}, refuted: Answers, steps: 2, says: "wrong reason"},
		{name: "the claim fails before the world is broken", kind: control, after: "second", world: world{first: no(Shares)}, refuted: Shares, steps: 1, says: "not in a world that it had broken"},
		{name: "another claim fails before the world is broken", kind: control, after: "second", world: world{first: no(Answers)}, refuted: Answers, steps: 1, says: "wrong reason"},

		{name: "a control is caught and undone", kind: control | undo, after: "second", world: world{second: no(Shares)}, pass: true, refuted: Shares, steps: 3},
		{name: "a control is caught, and the undo does not hold", kind: control | undo, after: "second", world: world{second: no(Shares), undo: no(Shares)}, refuted: Shares, steps: 3, says: "could not be undone: shares it is not; back: "},
		{name: "a control is caught, and the undo cannot be made", kind: control | undo, after: "second", world: world{second: no(Shares), undoChange: plain}, refuted: Shares, steps: 3, says: "back: the pod is gone"},
		{name: "a control is not caught, and there is nothing to undo", kind: control | undo, after: "second", steps: 2, says: "not caught"},

		{name: "a check cannot be made", kind: story, world: world{second: plain}, steps: 2, code: 3},
		{name: "a check cannot be made, and there is nothing to undo", kind: story | undo, world: world{second: plain}, steps: 2, code: 3},
		{name: "wrong use shows only in the check", kind: story, world: world{first: fault.Usage("", "too few")}, steps: 1, code: 2},
		{name: "the world cannot be broken", kind: control, after: "second", world: world{second: no(Shares), breaks: plain}, steps: 2, code: 3},
		{name: "there is no namespace", kind: story, world: world{open: plain}, code: 3},
		{name: "somebody else changes the world", kind: story, world: world{foreign: fault.CannotTest("", "somebody else")}, steps: 1, code: 3},
		{name: "every claim holds, and the clean-up fails", kind: story, world: world{clean: plain}, steps: 2, code: 3},
		{name: "a claim does not hold, and the clean-up fails", kind: story, world: world{first: no(Shares), clean: plain}, refuted: Shares, steps: 1, code: 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := tc.world.run(t.Context(), tc.after, tc.kind&control != 0, tc.kind&undo != 0)
			if (tc.code == 0) != (err == nil) || tc.code != 0 && fault.Code(err) != tc.code {
				t.Fatalf("got %v (exit %d), want exit %d", err, fault.Code(err), tc.code)
			}
			if err != nil { // which Run has the result say
				r.Pass, r.Error = false, err.Error()
			}
			if r.Pass != tc.pass || r.Refuted != tc.refuted || len(r.Steps) != tc.steps {
				t.Errorf("got %+v, want pass %v, refuted %q, %d steps", r, tc.pass, tc.refuted, tc.steps)
			}
			switch verdict := r.Err(); {
			case tc.code != 0:
				if verdict == nil {
					t.Error("what could not be tested is no error")
				}
			case tc.pass && verdict != nil:
				t.Errorf("a pass says %v", verdict)
			case !tc.pass && (verdict == nil || fault.Code(verdict) != 1 || !strings.Contains(verdict.Error(), tc.says)):
				t.Errorf("it says %v, want %q in it, and exit 1", verdict, tc.says)
			}
		})
	}
}

func TestAnInterruptedRunIsNoVerdict(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := world{first: refute(Shares, "no")}.run(ctx, "", true, false)
	if fault.Code(err) != 130 {
		t.Errorf("%v (exit %d)", err, fault.Code(err))
	}
}
