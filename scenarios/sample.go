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
	l.claims("target", r, claim)
	_, e, err := l.served(ctx, l, r, claim.N)
	if err != nil {
		return e, err
	}
	return e.judge(claim, e.Tally.Counts, Shares)
}

// claims says by what a sample of r is going to be judged; by is what names a leg.
func (l *Session) claims(by string, r probe.Request, c split.Claim) {
	l.events.claims(by, l.asked(r), c)
}

// served is burst, of which each request must be answered 200 by the application.
func (l *Session) served(ctx context.Context, by probe.Sender, r probe.Request, n int) ([]probe.Answer, Evidence, error) {
	answers, e, err := l.burst(ctx, by, r, n)
	if err == nil {
		err = e.answered()
	}
	return answers, e, err
}

// burst sends a request n times, by a sender that may change each, and keeps the
// answers as evidence. It judges nothing.
func (l *Session) burst(ctx context.Context, by probe.Sender, r probe.Request, n int) ([]probe.Answer, Evidence, error) {
	return l.burstUntil(ctx, by, r, n, sampleWorkers, nil)
}

// burstUntil is burst with a number of workers of its own, which send no more
// once enough, if any, has returned true for an answer. That is no error.
func (l *Session) burstUntil(ctx context.Context, by probe.Sender, r probe.Request, n, workers int, enough func(probe.Answer) bool) ([]probe.Answer, Evidence, error) {
	l.events.emit(Event{Type: EventSample, N: n})
	answers := probe.Burst(ctx, by, r, n, workers, func(a probe.Answer) bool {
		l.events.saw(FromSample, l.asked(r), a)
		return enough != nil && enough(a)
	})
	if err := ctx.Err(); err != nil {
		return answers, Evidence{}, err
	}
	e, err := l.evidenceOf(answers)
	return answers, e, err
}

// saw shows an answer that a check has asked for by itself.
func (l *Session) saw(a probe.Answer) { l.events.saw(FromSample, "", a) }

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
	var legs []string
	caught := "" // of the first leg that is not the larger one
	for _, r := range v.Regions {
		legs = append(legs, fmt.Sprintf("%s %d (accepted %d..%d)", r.Leg, v.Counts[r.Leg], r.Lo, r.Hi))
		if caught == "" && r.Share > 0 && r.Share <= 0.5 {
			caught = fmt.Sprintf("%s at <= %.1f %% or >= %.1f %%", r.Leg, 100*r.CaughtBelow, 100*r.CaughtAbove)
		}
	}
	counts := fmt.Sprintf("n=%d %s", v.N, strings.Join(legs, ", "))
	if caught == "" {
		return counts + ", exact: one stray answer fails"
	}
	return fmt.Sprintf("%s, alpha %.0e, power %.2f against %s", counts, v.Alpha, split.Power, caught)
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
	l.claims("pod", r, c)
	answers, e, err := l.served(ctx, l, r, c.N)
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

// claim is that v2 answers this percent of the requests, and v1 the others.
func (o Options) claim(v2 int) split.Claim {
	return split.Claim{N: o.Requests, Alpha: o.Alpha, Legs: []split.Leg{
		{Name: "v1", Share: float64(100-v2) / 100}, {Name: "v2", Share: float64(v2) / 100},
	}}
}

// inTurn sends n requests with each of the headers, one after the other, so
// that what changes with time meets all alike. It returns the answers by
// header, and judges nothing.
func (l *Session) inTurn(ctx context.Context, headers []http.Header, n int) ([][]probe.Answer, Evidence, error) {
	t := l.inOrder(len(headers), func(turn int, r *probe.Request) { r.Header = headers[turn] })
	all, e, err := l.burst(ctx, t, l.to("model"), n*len(headers))
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

// turns is a Sender that makes each request the next of n sorts, and begins again
// after the last.
type turns struct {
	probe.Sender
	n    int
	vary func(turn int, r *probe.Request)
	mu   sync.Mutex
	next int
	turn map[string]int // by the request's ID
}

func (l *Session) inOrder(n int, vary func(turn int, r *probe.Request)) *turns {
	return &turns{Sender: l, n: n, vary: vary, turn: map[string]int{}}
}

func (t *turns) Send(ctx context.Context, r probe.Request) probe.Answer {
	t.mu.Lock()
	turn := t.next % t.n
	t.next++
	t.mu.Unlock()
	t.vary(turn, &r)
	a := t.Sender.Send(ctx, r)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn[a.ID] = turn
	return a
}

// evenly claims that each pod answers as many requests as any other.
func evenly(pods []string, n int, alpha float64) split.Claim {
	c := split.Claim{N: n, Alpha: alpha}
	for _, p := range pods {
		c.Legs = append(c.Legs, split.Leg{Name: short(p), Share: 1 / float64(len(pods))})
	}
	return c
}

func countBy[T any](all []T, name func(T) string) map[string]int {
	counts := map[string]int{}
	for _, each := range all {
		counts[name(each)]++
	}
	return counts
}

func itself(text string) string { return text }

// countsText is a tally in words, such as "v1 1000".
func countsText(counts map[string]int) string {
	var parts []string
	for _, target := range sortedKeys(counts) {
		parts = append(parts, fmt.Sprintf("%s %d", target, counts[target]))
	}
	return strings.Join(parts, ", ")
}

// short is the part of a pod's name that differs from its siblings'.
func short(pod string) string { return pod[strings.LastIndexByte(pod, '-')+1:] }

// What becomes of a request here.
const (
	isOK    = "ok"
	isError = "errors" // the model's own
)

// errorClaim claims which share of n requests the model fails.
func errorClaim(share float64, n int, alpha float64) split.Claim {
	return split.Claim{N: n, Alpha: alpha, Legs: []split.Leg{{Name: isOK, Share: 1 - share}, {Name: isError, Share: share}}}
}

// outcomes counts what became of requests. What is neither OK nor the model's
// own 500 counts under its problem, which is no leg of any claim.
func outcomes(answers []probe.Answer) map[string]int {
	return countBy(answers, func(a probe.Answer) string {
		switch {
		case a.OK():
			return isOK
		case a.Err == "" && !a.Router && a.Status == 500:
			return isError
		}
		return a.Problem()
	})
}

// triesOf is how often each request came to pods, which say that these did.
func triesOf(answers []probe.Answer, ids []string) []int {
	came, tries := countBy(ids, itself), make([]int, len(answers))
	for i, a := range answers {
		tries[i] = came[a.ID]
	}
	return tries
}
