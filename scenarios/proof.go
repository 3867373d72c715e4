package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"mllab.local/internal/delivery"
)

// Proof is the result of a run for a commit. It is a note on that commit.
type Proof = delivery.Proof[Evidence]

// proofOf returns the proof of a commit, whose check returned e and err. There is none
// of what could not be tested.
func proofOf(l *Session, scenario string, p pushed, e Evidence, err error) (proof Proof, judged bool) {
	var refuted *ClaimError
	if err != nil && !errors.As(err, &refuted) {
		return proof, false
	}
	proof = Proof{
		Scenario: scenario, Control: l.control, Step: l.stepName, Pass: err == nil,
		Applied: p.applied, SecondsToTraffic: p.activeAfter.Seconds(), Evidence: e,
	}
	if refuted != nil {
		proof.Reasons = refuted.Reasons
	}
	return proof, true
}

// prove writes the note about a commit, whose check returned e and err. It
// returns err, joined with why there is no note.
func (f *followed) prove(ctx context.Context, l *Session, p pushed, e Evidence, err error) error {
	return errors.Join(err, f.note(ctx, l, p, e, err))
}

// proveRefuted is prove of what the step shows to be wrong with a commit: the step
// passes, and the commit's proof says FAIL.
func (f *followed) proveRefuted(verdict func(Evidence) error) prover {
	return func(ctx context.Context, l *Session, p pushed, e Evidence, err error) error {
		if err != nil {
			return f.prove(ctx, l, p, e, err)
		}
		return f.note(ctx, l, p, e, verdict(e))
	}
}

// note is prove that returns only why there is no note.
func (f *followed) note(ctx context.Context, l *Session, p pushed, e Evidence, err error) error {
	proof, judged := proofOf(l, f.scenario, p, e, err)
	if !judged {
		return nil
	}
	note, failed := json.Marshal(proof)
	if failed == nil {
		bounded, cancel := context.WithTimeout(ctx, deliveryBound)
		defer cancel()
		failed = f.repo.Note(bounded, p.commit, note)
	}
	if failed != nil {
		failed = fmt.Errorf("noting the proof of commit %s: %w", p.short(), failed)
	}
	return failed
}
