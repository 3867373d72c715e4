package scenarios

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"mllab.local/internal/fault"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

// sampleWorkers send the requests of a sample. Few enough not to queue on two
// cores, enough that a stuck connection does not stop the sample.
const sampleWorkers = 8

// sample sends n requests once and judges who answered.
func (l *Session) sample(ctx context.Context, r probe.Request, claim split.Claim) (Evidence, error) {
	if err := claim.Check(); err != nil {
		return Evidence{}, err
	}
	l.events.claims("target", claim)
	_, e, err := l.served(ctx, l.send, r, claim.N)
	if err != nil {
		return e, err
	}
	return e.judge(claim, e.Tally.Counts, Shares)
}

// served is burstBy, of which each request must be answered 200 by the
// application.
func (l *Session) served(ctx context.Context, by probe.Sender, r probe.Request, n int) ([]probe.Answer, Evidence, error) {
	answers, e, err := l.burstBy(ctx, by, r, n)
	if err == nil {
		err = e.answered()
	}
	return answers, e, err
}

// burst sends a request n times, and keeps the answers as
// evidence. It judges nothing.
func (l *Session) burst(ctx context.Context, r probe.Request, n int) ([]probe.Answer, Evidence, error) {
	return l.burstBy(ctx, l.send, r, n)
}

// burstBy is burst by a sender of its own, such as one that gives each request
// another body.
func (l *Session) burstBy(ctx context.Context, by probe.Sender, r probe.Request, n int) ([]probe.Answer, Evidence, error) {
	return l.burstUntil(ctx, by, r, n, sampleWorkers, nil)
}

// burstUntil is burstBy with a number of workers of its own, which send no more
// once enough, if any, has returned true for an answer. That is no error.
func (l *Session) burstUntil(ctx context.Context, by probe.Sender, r probe.Request, n, workers int, enough func(probe.Answer) bool) ([]probe.Answer, Evidence, error) {
	l.events.emit(Event{Type: EventSample, N: n})
	answers := probe.Burst(ctx, by, r, n, workers, func(a probe.Answer) bool {
		l.events.saw(FromSample, a)
		return enough != nil && enough(a)
	})
	if err := ctx.Err(); err != nil {
		return answers, Evidence{}, err
	}
	tally := probe.Count(answers)
	file, err := l.keep(answers)
	return answers, Evidence{Tally: &tally, File: file}, err
}

// refute says that a claim does not hold, and why.
func refute(claim Claim, format string, args ...any) error {
	return &ClaimError{claim, []string{fmt.Sprintf(format, args...)}}
}

// lost refutes claim unless every request was answered 200 by the application.
func lost(claim Claim, t probe.Tally) *ClaimError {
	if len(t.Failed) == 0 {
		return nil
	}
	first := t.Failed[0]
	return &ClaimError{claim, []string{fmt.Sprintf("%d of %d requests were not answered 200 by the application, the first: %s (request %s)",
		len(t.Failed), t.Sent, first.Problem(), first.ID)}}
}

// answered refutes that every request of a sample was answered 200 by the
// application.
func (e *Evidence) answered() error {
	refuted := lost(Answers, *e.Tally)
	if refuted == nil {
		return nil
	}
	e.Summary = refuted.Reasons[0]
	return refuted
}

// describe is a verdict in one line: counts, accepted interval, error rates.
func describe(v split.Verdict) string {
	var legs, caught []string
	for _, r := range v.Regions {
		legs = append(legs, fmt.Sprintf("%s %d (accepted %d..%d)", r.Leg, v.Counts[r.Leg], r.Lo, r.Hi))
		if r.Share > 0 && r.Share < 1 && r.Share <= 0.5 {
			caught = append(caught, fmt.Sprintf("%s at <= %.1f %% or >= %.1f %%", r.Leg, 100*r.CaughtBelow, 100*r.CaughtAbove))
		}
	}
	s := fmt.Sprintf("n=%d %s, alpha %.0e", v.N, strings.Join(legs, ", "), v.Alpha)
	if len(caught) == 0 {
		return fmt.Sprintf("n=%d %s, exact: one stray answer fails", v.N, strings.Join(legs, ", "))
	}
	return s + fmt.Sprintf(", power %.2f against %s", split.Power, strings.Join(caught[:1], ", "))
}

// confidence of the bounds and intervals that are stated.
const confidence = 0.95

// judge returns e with the verdict on counts, and refutes a claim that they do not
// fit.
func (e Evidence) judge(c split.Claim, counts map[string]int, refutes Claim) (Evidence, error) {
	v, err := c.Judge(counts)
	if err != nil {
		return e, err
	}
	e.Verdict, e.Summary = &v, describe(v)
	if !v.Pass {
		return e, &ClaimError{refutes, v.Reasons}
	}
	return e, nil
}

// sampleByPod sends n requests once. Each must be answered 200, and the pods'
// counts must fit the claim.
func (l *Session) sampleByPod(ctx context.Context, r probe.Request, c split.Claim, refutes Claim) (Evidence, error) {
	l.events.claims("pod", c)
	answers, e, err := l.served(ctx, l.send, r, c.N)
	if err != nil {
		return e, err
	}
	return e.judge(c, countBy(answers, func(a probe.Answer) string { return short(a.Pod) }), refutes)
}

// enough refuses claims that a sample could not refute: with few requests the
// accepted interval of a small share begins at 0, and who gets nothing would pass.
func enough(scenario string, claims ...split.Claim) error {
	for _, c := range claims {
		if err := c.Check(); err != nil {
			return fault.Usage("see `mllab scenario "+scenario+" --help`", "%s: %w", scenario, err)
		}
		if need := c.Needed(); c.N < need {
			return fault.Usage(fmt.Sprintf("use --requests %d or more", need),
				"%s: %d requests are too few: a version that gets nothing would pass", scenario, c.N)
		}
	}
	return nil
}

// claim is that v1 and v2 answer in these percents.
func (o Options) claim(percents []int64) split.Claim {
	c := split.Claim{N: o.Requests, Alpha: o.Alpha}
	for i, version := range []string{"v1", "v2"} {
		share := 0.0
		if i < len(percents) {
			share = float64(percents[i]) / 100
		}
		c.Legs = append(c.Legs, split.Leg{Name: version, Share: share})
	}
	return c
}

func splitName(percents []int64) string { return fmt.Sprintf("%d/%d", percents[0], percents[1]) }

// inTurn sends n requests with each of the headers, one after the other, so
// that what changes with time meets all alike. It returns the answers by
// header, and judges nothing.
func (l *Session) inTurn(ctx context.Context, headers []http.Header, n int) ([][]probe.Answer, Evidence, error) {
	t := &turns{Sender: l.send, headers: headers, turn: map[string]int{}}
	all, e, err := l.burstBy(ctx, t, l.to("model"), n*len(headers))
	if err != nil {
		return nil, e, err
	}
	by := make([][]probe.Answer, len(headers))
	for _, a := range all {
		by[t.turn[a.ID]] = append(by[t.turn[a.ID]], a)
	}
	return by, e, nil
}

// servedInTurn is inTurn, of which each request must be answered 200 by the
// application.
func (l *Session) servedInTurn(ctx context.Context, headers []http.Header, n int) ([][]probe.Answer, Evidence, error) {
	answers, e, err := l.inTurn(ctx, headers, n)
	if err == nil {
		err = e.answered()
	}
	return answers, e, err
}

// turns is a Sender that gives each request the next of its headers.
type turns struct {
	probe.Sender
	headers []http.Header
	mu      sync.Mutex
	next    int
	turn    map[string]int // request ID -> place among headers
}

func (t *turns) Send(ctx context.Context, r probe.Request) probe.Answer {
	t.mu.Lock()
	turn := t.next % len(t.headers)
	t.next++
	t.mu.Unlock()
	r.Header = t.headers[turn]
	a := t.Sender.Send(ctx, r)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn[a.ID] = turn
	return a
}
