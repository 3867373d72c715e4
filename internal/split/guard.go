package split

import (
	"fmt"
	"math"
	"time"
)

// GuardConfig says what a Guard compares. Share is the new version's, in 0..1.
// Alpha is the chance that a new version that is no worse ever raises an alarm.
// An answer is slow when it took longer than Slow; SlowFactor times as many slow
// ones as the old version has are tolerated.
type GuardConfig struct {
	Share, Alpha float64
	Slow         time.Duration
	SlowFactor   float64
}

// Guard compares a new version with an old one while both answer: errors, slow
// answers, and the whole distribution of latencies. It may be asked after every
// answer, which a test with a fixed n does not allow. Each of the three has a
// third of alpha.
//
// That holds when each request's version is drawn by itself with probability
// Share, and what becomes of a request depends on nothing but its version.
type Guard struct {
	GuardConfig
	errors, slow *Worse
	old, new     Latencies // of answers that are no error
	answers      [2]int    // of old and new
	alarm        string
}

// guardTests is how many tests share a guard's alpha.
const guardTests = 3

// NewGuard begins a comparison. A new share needs a new Guard.
func NewGuard(c GuardConfig) (*Guard, error) {
	if !(c.Alpha > 0 && c.Alpha < 0.5) || c.Slow <= 0 {
		return nil, fmt.Errorf("guarding: alpha must be between 0 and 0.5 and slow more than 0, got %v and %s", c.Alpha, c.Slow)
	}
	g := &Guard{GuardConfig: c}
	var err error
	if g.errors, err = NewWorse(c.Share, 1); err == nil {
		g.slow, err = NewWorse(c.Share, c.SlowFactor)
	}
	if err != nil {
		return nil, fmt.Errorf("guarding: %w", err)
	}
	return g, nil
}

// Add takes the next answer and reports whether the guard has raised the alarm.
// What comes after an alarm changes nothing.
func (g *Guard) Add(ofNew, failed bool, latency time.Duration) bool {
	if g.alarm != "" {
		return true
	}
	alpha, to, seen := g.Alpha/guardTests, 0, &g.old
	if ofNew {
		to, seen = 1, &g.new
	}
	g.answers[to]++
	if failed {
		g.errors.Add(ofNew)
		if p := g.errors.P(); p <= alpha {
			g.alarm = fmt.Sprintf("it fails more requests, E %.2g (alarm at %.2g): %s", 1/p, 1/alpha, g.shares(g.errors))
		}
		return g.alarm != ""
	}
	seen.Add(latency)
	if latency > g.Slow {
		g.slow.Add(ofNew)
	}
	if p := g.slow.P(); p <= alpha {
		g.alarm = fmt.Sprintf("more of its answers take over %s, E %.2g (alarm at %.2g): %s", round(g.Slow), 1/p, 1/alpha, g.shares(g.slow))
	} else if apart, at := Slower(&g.old, &g.new, alpha); apart > 0 {
		g.alarm = fmt.Sprintf("its latencies are longer: the bands of both distributions are %.2f apart at %s", apart, round(at))
	}
	return g.alarm != ""
}

// Alarm returns why the guard raised the alarm, or "".
func (g *Guard) Alarm() string { return g.alarm }

// ErrorsE returns the evidence that the new version fails more requests: 1 before there is any.
func (g *Guard) ErrorsE() float64 { return g.errors.E() }

// guardPower is the chance with which the least regression that String names would have been found.
const guardPower = 0.9

// String says in one line where the comparison stands.
func (g *Guard) String() string {
	alpha := g.Alpha / guardTests
	p95, low, high := g.new.Quantile(0.95, alpha)
	return fmt.Sprintf("guard (alpha %.0e, alarm at E %.2g): errors E %.2g (%s), over %s E %.2g (%s); p95 of the new version %s (%s); %s",
		g.Alpha, 1/alpha, g.errors.E(), g.shares(g.errors), round(g.Slow), g.slow.E(), g.shares(g.slow), round(p95), between(low, high),
		found(g.errors.FoundFrom(g.answers[1], alpha, guardPower)))
}

func (g *Guard) shares(w *Worse) string {
	old, new := w.Events()
	return fmt.Sprintf("old %d of %d, new %d of %d", old, g.answers[0], new, g.answers[1])
}

func found(rate float64) string {
	if math.IsNaN(rate) {
		return "no error rate of the new version would have been found yet"
	}
	return fmt.Sprintf("an error rate of %.1f %% of the new version would have been found by now with %.0f %%", 100*rate, 100*guardPower)
}

func between(low, high time.Duration) string {
	if high == math.MaxInt64 {
		return fmt.Sprintf("%s or more", round(low))
	}
	return fmt.Sprintf("%s..%s", round(low), round(high))
}

// round leaves a duration the three digits that the grid has.
func round(d time.Duration) string {
	if d == math.MaxInt64 {
		return "unknown"
	}
	unit := time.Duration(1)
	for d >= 1000*unit {
		unit *= 10
	}
	return d.Round(unit).String()
}
