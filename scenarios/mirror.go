package scenarios

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

// mirrorSample is the result of the requests of one check.
type mirrorSample struct {
	claim    split.Claim
	answers  []probe.Answer
	evidence Evidence
	v1, v2   seen // what reached them since the check began
}

// observe sends the requests of a claim and returns when nothing more arrives.
func (s *shadowed) observe(ctx context.Context, l *Session, by probe.Sender, r probe.Request, claim split.Claim) (mirrorSample, error) {
	sample := mirrorSample{claim: claim}
	before := map[string]int{}
	for version, pod := range s.pods {
		has, err := l.seenBy(ctx, pod, math.MaxInt)
		if err != nil {
			return sample, err
		}
		before[version] = has.Count
	}
	var err error
	if sample.answers, sample.evidence, err = l.burst(ctx, by, r, claim.N); err != nil {
		return sample, err
	}
	want := int(math.Round(float64(claim.N) * claim.Legs[0].Share))
	for version, pod := range s.pods {
		if version == "v2" {
			count := func() (int, error) {
				has, err := l.seenBy(ctx, pod, math.MaxInt)
				return has.Count - before[version], err
			}
			if err := l.settle(ctx, silence, count, func(n int) bool { return n == want }); err != nil {
				return sample, err
			}
		}
		got, err := l.seenBy(ctx, pod, before[version])
		switch {
		case err != nil:
			return sample, err
		case got.From != before[version]:
			return sample, fmt.Errorf("%s has %d requests on record, from number %d on, instead of all since number %d: it was restarted, or got far more than were sent",
				version, got.Count, got.From, before[version])
		case version == "v1":
			sample.v1 = got
		default:
			sample.v2 = got
		}
	}
	return sample, nil
}

// A mirrored request may arrive after the caller has its answer. The last one
// has come when nothing did for a while: a short one if the count is as it
// should be.
const (
	silence     = time.Second
	longQuiet   = 10 * time.Second
	settleBound = time.Minute
)

// settle returns when a count of copies that arrived has not grown for a while:
// for short when there are enough, and else for longQuiet.
func (l *Session) settle(ctx context.Context, short time.Duration, count func() (int, error), enough func(int) bool) error {
	ctx, cancel := context.WithTimeout(ctx, settleBound)
	defer cancel()
	last, since := -1, time.Now()
	var failed error
	err := l.until(ctx, "the last mirrored request", func() string {
		var now int
		if now, failed = count(); failed != nil {
			return failed.Error()
		}
		if now != last {
			last, since = now, time.Now()
		}
		quiet := longQuiet
		if enough(now) {
			quiet = short
		}
		if time.Since(since) < quiet {
			return fmt.Sprintf("%d so far", now)
		}
		return ""
	})
	return errors.Join(err, failed)
}

// copies says how often requests reached the pods with these labels, when no more do
// for a while: a short one when there are enough.
func (l *Session) copies(ctx context.Context, labels map[string]string, sent []probe.Answer, short time.Duration, enough float64) (a arrivals, err error) {
	count := func() (int, error) {
		ids, err := l.reached(ctx, labels)
		a = received(sent, ids)
		return a.once + a.again, err
	}
	err = l.settle(ctx, short, count, func(n int) bool { return float64(n) >= enough })
	return a, err
}

// judge refutes Caller or Mirror, or says what holds.
func (m mirrorSample) judge() (Evidence, error) {
	e := m.evidence
	if refuted := caller(*e.Tally); refuted != nil {
		e.Summary = refuted.Reasons[0]
		return e, refuted
	}
	v1, v2 := received(m.answers, m.v1.IDs), received(m.answers, m.v2.IDs)
	verdict, err := m.claim.Judge(map[string]int{"mirrored": v2.once, "not mirrored": v2.missing})
	if err != nil {
		return e, err
	}
	e.Verdict = &verdict
	region := verdict.Regions[0]
	switch {
	case v1 != arrivals{once: m.claim.N}:
		e.Summary = fmt.Sprintf("v1 received %s of %d requests", v1, m.claim.N)
	case !verdict.Pass || v2.strange > 0:
		e.Summary = fmt.Sprintf("v2 received %s of %d requests: %d..%d are accepted, each once", v2, m.claim.N, region.Lo, region.Hi)
	default:
		e.Summary = fmt.Sprintf("v1 answered %d of %d (loss below %.2f %% with %.0f %% confidence), the slowest after %s; ",
			m.claim.N, m.claim.N, 100*split.UpperBound(0, m.claim.N, confidence), 100*confidence, e.Tally.Max.Round(time.Millisecond))
		switch {
		case region.Lo != region.Hi:
			e.Summary += describe(verdict)
		case v2.once == 0:
			e.Summary += "v2 received none"
		default:
			e.Summary += fmt.Sprintf("v2 received %d, each once", v2.once)
		}
		return e, nil
	}
	return e, &ClaimError{Mirror, []string{e.Summary}}
}

// caller refutes that every request was answered 200 by v1, and by far sooner
// than v2 may take.
func caller(t probe.Tally) *ClaimError {
	refuted := lost(Caller, t)
	switch {
	case refuted != nil:
	case t.Counts["v1"] != t.Sent:
		refuted = &ClaimError{Caller, []string{fmt.Sprintf("%d of %d answers are not v1's", t.Sent-t.Counts["v1"], t.Sent)}}
	case t.Max >= callerBound:
		refuted = &ClaimError{Caller, []string{fmt.Sprintf("the slowest answer took %s, and below %s is claimed", t.Max.Round(time.Millisecond), callerBound)}}
	}
	return refuted
}

// arrivals says how often the requests of a sample reached a version.
type arrivals struct {
	once, missing, again int // of those that were sent: arrived once, never, more than once
	strange              int // others that arrived
}

func (a arrivals) String() string {
	return fmt.Sprintf("%d once, %d never, %d more than once, and %d that nobody sent,", a.once, a.missing, a.again, a.strange)
}

func received(sent []probe.Answer, ids []string) (a arrivals) {
	times := countBy(ids, itself)
	for _, s := range sent {
		switch times[s.ID] {
		case 0:
			a.missing++
		case 1:
			a.once++
		default:
			a.again++
		}
		delete(times, s.ID)
	}
	for _, n := range times {
		a.strange += n
	}
	return a
}
