package split

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func newWorse(t *testing.T, share, factor float64) *Worse {
	t.Helper()
	w, err := NewWorse(share, factor)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// eBySum is the oracle: the mean of the likelihood ratio over evenly spaced probabilities above share.
func eBySum(old, new int, share float64) float64 {
	const points = 200_000
	sum := 0.0
	for i := range points {
		p := share + (1-share)*(float64(i)+0.5)/points
		sum += math.Exp(float64(new)*math.Log(p/share) + float64(old)*math.Log((1-p)/(1-share)))
	}
	return sum / points
}

func TestEIsTheMeanOfTheLikelihoodRatio(t *testing.T) {
	for _, c := range []struct {
		old, new int
		share    float64
	}{{0, 0, .1}, {1, 0, .1}, {0, 1, .1}, {0, 8, .1}, {9, 1, .1}, {40, 3, .5}, {3, 40, .5}, {200, 60, .1}, {95, 5, .01}, {5, 3, .99}} {
		near(t, fmt.Sprintf("%+v", c), math.Exp(logE(c.old, c.new, c.share)), eBySum(c.old, c.new, c.share), 1e-6)
	}
	// By hand: three of three at a share of 0.1 are (1-0.1^4) / (4 * 0.9 * 0.1^3).
	w := newWorse(t, .1, 1)
	for range 3 {
		w.Add(true)
	}
	near(t, "three of three", w.E(), 277.75, 1e-12)
	if p := w.P(); w.E() != 1/p {
		near(t, "p", p, 1/277.75, 1e-12)
	}
	for range 100 {
		w.Add(false)
	}
	if w.E() > 1 {
		t.Errorf("100 events of the old version leave E at %v", w.E())
	}
	near(t, "p, which never rises", w.P(), 1/277.75, 1e-12)
}

// ever returns the exact chance that E reaches 1/alpha within so many events, each the new version's with probability p.
func ever(share, p, alpha float64, events int) float64 {
	alarmed, open := 0.0, []float64{1} // not alarmed, by the new version's events
	for n := range events {
		next := make([]float64, n+2)
		for k, mass := range open {
			next[k] += mass * (1 - p)
			next[k+1] += mass * p
		}
		for k, mass := range next {
			if mass > 0 && logE(n+1-k, k, share) >= -math.Log(alpha) {
				alarmed += mass
				next[k] = 0
			}
		}
		open = next
	}
	return alarmed
}

func TestLookingAfterEveryEventKeepsAlphaExactly(t *testing.T) {
	for _, c := range []struct{ share, p, alpha float64 }{{.1, .1, .01}, {.5, .5, .01}, {.5, .5, .2}, {.1, .05, .01}, {.01, .01, .05}} {
		got := ever(c.share, c.p, c.alpha, 300)
		if got > c.alpha {
			t.Errorf("%+v: alarms with %v", c, got)
		}
		if c.share == c.p && got < c.alpha/20 {
			t.Errorf("%+v: alarms with %v only: it is no test at all", c, got)
		}
	}
	// A test with a fixed n that is looked at after every event does not keep it. Nor does an E of which a tenth is enough.
	if got := ever(.5, .5, .1, 300); got <= .01 {
		t.Errorf("a threshold of 1/0.1 alarms with %v: the test above could not fail", got)
	}
}

func TestAFactorIsTolerated(t *testing.T) {
	// Three times as many events per request at a share of 0.1 are a share of 0.25 of the events.
	w := newWorse(t, .1, 3)
	near(t, "share", w.share, .25, 1e-12)
}

func TestWhatWouldHaveBeenFoundByNow(t *testing.T) {
	w := newWorse(t, .1, 1)
	rate := w.FoundFrom(100, .01, .9) // E reaches 100 at the third event of the new version: 277
	near(t, "at the rate", newBinomial(100, rate).within(3, 100), .9, 1e-9)
	if !math.IsNaN(w.FoundFrom(2, .01, .9)) {
		t.Error("two requests cannot have three events")
	}
	for range 50 {
		w.Add(false)
	}
	if more := w.FoundFrom(100, .01, .9); more <= rate {
		t.Errorf("with errors of the old version too, %v is found, and %v without", more, rate)
	}
}

func TestWhatIsNoTestIsRefused(t *testing.T) {
	for _, c := range [][2]float64{{0, 1}, {1, 1}, {math.NaN(), 1}, {.1, .5}, {.1, math.NaN()}, {.1, math.Inf(1)}} {
		if _, err := NewWorse(c[0], c[1]); err == nil {
			t.Errorf("%v was accepted", c)
		}
	}
	good := GuardConfig{Share: .1, Alpha: .01, Slow: time.Second, SlowFactor: 1}
	for _, change := range []func(*GuardConfig){
		func(c *GuardConfig) { c.Share = 0 }, func(c *GuardConfig) { c.Alpha = .5 },
		func(c *GuardConfig) { c.Slow = 0 }, func(c *GuardConfig) { c.SlowFactor = 0 },
	} {
		c := good
		change(&c)
		if _, err := NewGuard(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

func TestTheBandIsThePublishedOne(t *testing.T) {
	// confseq's own test: 0.08204769 at n = 1000 from n = 100 on, alpha 0.05, with the exact constant for 0.8 log(1612/alpha).
	// From n = 1 on the same is true at n = 10, where it is 10 times as wide.
	if got := radius(10, .05); got < .8204769 || got > .8204769*1.011 {
		t.Errorf("got %v, published 0.8204769", got)
	}
	if radius(0, .05) != 1 || radius(1, .05) != 1 {
		t.Error("no request, or one, says something")
	}
}

func TestQuantilesAndTheirIntervals(t *testing.T) {
	var l Latencies
	if at, low, high := l.Quantile(.5, .05); at != math.MaxInt64 || low != 0 || high != math.MaxInt64 {
		t.Errorf("without a latency: %v in %v..%v", at, low, high)
	}
	for i := range 10_000 {
		l.Add(time.Duration(i+1) * 10 * time.Microsecond) // even up to 100 ms
	}
	at, low, high := l.Quantile(.5, .05)
	if at < 50*time.Millisecond || at > 53*time.Millisecond {
		t.Errorf("the median is %v, want 50ms", at)
	}
	r := radius(10_000, .05)
	near(t, "low", low.Seconds(), (.5-r)/10, .06)
	near(t, "high", high.Seconds(), (.5+r)/10, .06)
	l.Add(time.Hour)
	if _, _, high := l.Quantile(.9999, .05); high != math.MaxInt64 {
		t.Errorf("the end is %v", high)
	}
}

func TestTheBandsPartWhereTheNewVersionIsSlower(t *testing.T) {
	const alpha = .01
	for _, c := range []struct {
		name   string
		slower float64
		apart  bool
	}{{"equal", 1, false}, {"faster", .3, false}, {"slower", 3, true}} {
		// Slow is longer than any answer takes, so that only the bands can raise the alarm.
		g, err := NewGuard(GuardConfig{Share: .5, Alpha: alpha, Slow: time.Hour, SlowFactor: 1})
		if err != nil {
			t.Fatal(err)
		}
		s, r := stream{share: .5, slower: c.slower}, rand.New(rand.NewPCG(31, 0))
		for range 1000 {
			g.Add(s.next(r))
		}
		if (g.Alarm() != "") != c.apart || c.apart && !strings.Contains(g.Alarm(), "bands") {
			t.Errorf("%s: alarm %q", c.name, g.Alarm())
		}
	}
}

// stream is two versions that answer by turns of chance.
type stream struct {
	share          float64
	errOld, errNew float64
	slower         float64 // the new version's latencies are so many times the old one's
	requests       int
}

// latency draws one: its p95 is 11.4 ms.
func latency(r *rand.Rand) float64 { return 5e6 * math.Exp(r.NormFloat64()/2) }

const latencyP95 = 11_380 * time.Microsecond

// next is one answer.
func (s stream) next(r *rand.Rand) (ofNew, failed bool, took time.Duration) {
	ofNew, failed, took = r.Float64() < s.share, r.Float64() < s.errOld, time.Duration(latency(r))
	if ofNew {
		return ofNew, r.Float64() < s.errNew, time.Duration(float64(took) * s.slower)
	}
	return ofNew, failed, took
}

// until returns after how many requests the guard alarms, and how many the new version has failed by then; 0: never.
func (s stream) until(t *testing.T, r *rand.Rand, alpha float64) (n, lost int) {
	t.Helper()
	g, err := NewGuard(GuardConfig{Share: s.share, Alpha: alpha, Slow: latencyP95, SlowFactor: 1})
	if err != nil {
		t.Fatal(err)
	}
	for i := range s.requests {
		if g.Add(s.next(r)) {
			_, lost := g.errors.Events()
			return i + 1, lost
		}
	}
	return 0, 0
}

func TestSimulationKeepsAlphaWhenLookedAtAfterEveryRequest(t *testing.T) {
	const streams, alpha = 10_000, .01
	for i, s := range []stream{
		{share: .1, errOld: .05, errNew: .05, slower: 1, requests: 500},
		{share: .5, errOld: .3, errNew: .3, slower: 1, requests: 300},
		{share: .1, errOld: .3, errNew: .1, slower: .5, requests: 100}, // better
	} {
		alarms, r := 0, rand.New(rand.NewPCG(uint64(i), 11))
		for range streams {
			if n, _ := s.until(t, r, alpha); n > 0 {
				alarms++
			}
		}
		if cdf(streams, alpha, alarms-1) > 1-1e-9 {
			t.Errorf("%+v: %d of %d alarmed, more than %v allows", s, alarms, streams, alpha)
		}
		t.Logf("%+v: %d of %d alarmed", s, alarms, streams)
	}
}

func TestAWorseVersionIsFound(t *testing.T) {
	const streams = 200
	for i, c := range []struct {
		stream
		median int // at most
	}{
		{stream{share: .1, errNew: .5, slower: 1, requests: 1000}, 120},
		{stream{share: .5, errOld: .01, errNew: .05, slower: 1, requests: 4000}, 1500},
		{stream{share: .5, slower: 1.3, requests: 4000}, 2000},
		{stream{share: .1, slower: 10, requests: 1000}, 120},
	} {
		r := rand.New(rand.NewPCG(uint64(i), 12))
		var ns []int
		for range streams {
			n, _ := c.until(t, r, .01)
			if n == 0 {
				n = math.MaxInt
			}
			ns = append(ns, n)
		}
		slices.Sort(ns)
		if ns[streams/2] > c.median {
			t.Errorf("%+v: median %d", c.stream, ns[streams/2])
		}
		t.Logf("%+v: median %d, 95 %% %d", c.stream, ns[streams/2], ns[streams*95/100])
	}
}

// Rules that look at the last requests each time when so many have come, as Flagger and Argo Rollouts do.
const (
	window       = 200 // 10 s at 20 requests per second
	failedChecks = 5   // that end a rollout
	successRate  = .99 // below it a check fails
)

// untilIntervalRule returns after how many requests the fifth window has had a success rate of the new version below 99 %.
func (s stream) untilIntervalRule(r *rand.Rand) int {
	failed := 0
	for n := 0; n < s.requests; n += window {
		all, bad := 0, 0
		for range window {
			if ofNew, err, _ := s.next(r); ofNew {
				if all++; err {
					bad++
				}
			}
		}
		if float64(all-bad) < successRate*float64(all) {
			if failed++; failed == failedChecks {
				return n + window
			}
		}
	}
	return 0
}

// untilPeeked returns after how many requests Fisher's test, made anew after each window for all answers so far, finds more errors.
func (s stream) untilPeeked(t *testing.T, r *rand.Rand, alpha float64) int {
	t.Helper()
	var old, next Arm
	for n := 1; n <= s.requests; n++ {
		ofNew, err, _ := s.next(r)
		arm := &old
		if ofNew {
			arm = &next
		}
		if arm.Users++; err {
			arm.Converted++
		}
		if n%window > 0 || old.Users == 0 || next.Users == 0 {
			continue
		}
		if c, err := Compare(old, next, 2*alpha); err != nil {
			t.Fatal(err)
		} else if c.Conclusion == BMore {
			return n
		}
	}
	return 0
}

// The figures of docs/benchmarks.md. They take some CPU minutes: -timeout 60m -v.
func TestFiguresOfTheGuard(t *testing.T) {
	if os.Getenv("MLLAB_FIGURES") == "" {
		t.Skip("it prints the figures of docs/benchmarks.md and proves nothing: set MLLAB_FIGURES=1 to see them")
	}
	const streams, alpha, rollout = 1000, .01, 30 * window
	alarms := func(until func() int) (percent float64, median, most string) {
		var ns []int
		for range streams {
			if n := until(); n > 0 {
				ns = append(ns, n)
			}
		}
		slices.Sort(ns)
		at := func(i int) string {
			if i >= len(ns) {
				return "-"
			}
			return fmt.Sprint(ns[i])
		}
		return 100 * float64(len(ns)) / streams, at(streams / 2), at(streams * 95 / 100)
	}
	fmt.Println("| errors of both, share | guard | interval rule | fixed-n test at each interval |\n|---|---|---|---|")
	for _, rate := range []float64{.001, .005, .01, .02} {
		for _, share := range []float64{.1, .5} {
			s, r := stream{share: share, errOld: rate, errNew: rate, slower: 1, requests: rollout}, rand.New(rand.NewPCG(21, uint64(rate*1e4+share*10)))
			guard, _, _ := alarms(func() int { n, _ := s.until(t, r, alpha); return n })
			rule, _, _ := alarms(func() int { return s.untilIntervalRule(r) })
			peeked, _, _ := alarms(func() int { return s.untilPeeked(t, r, alpha) })
			fmt.Printf("| %.1f %%, %.0f %% | %.1f %% | %.1f %% | %.1f %% |\n", 100*rate, 100*share, guard, rule, peeked)
		}
	}
	fmt.Println("| what is worse, share | guard: median | 95 % | users lost, median | interval rule: median | 95 % | fixed n |\n|---|---|---|---|---|---|---|")
	for _, c := range []struct {
		name             string
		old, new, slower float64
		rateOld, rateNew float64 // that a test with a fixed n compares
	}{
		{"errors 1 % to 2 %", .01, .02, 1, .01, .02},
		{"errors 1 % to 5 %", .01, .05, 1, .01, .05},
		{"errors 0 % to 50 %", 0, .5, 1, 0.0001, .5},
		{"p95 + 30 %", 0, 0, 1.3, .05, .1314},
	} {
		for _, share := range []float64{.1, .5} {
			s, r := stream{share: share, errOld: c.old, errNew: c.new, slower: c.slower, requests: 100_000}, rand.New(rand.NewPCG(22, uint64(c.new*1e4+c.slower*100+share*10)))
			var losses []int
			_, median, most := alarms(func() int {
				n, lost := s.until(t, r, alpha)
				losses = append(losses, lost)
				return n
			})
			slices.Sort(losses)
			_, ruleMedian, ruleMost := alarms(func() int { return s.untilIntervalRule(r) })
			fixed := "-"
			if share == .5 {
				n, err := Users(c.rateOld, c.rateNew, 2*alpha, .05)
				if err != nil {
					t.Fatal(err)
				}
				fixed = fmt.Sprint(2 * n)
			}
			fmt.Printf("| %s, %.0f %% | %s | %s | %d | %s | %s | %s |\n", c.name, 100*share, median, most, losses[streams/2], ruleMedian, ruleMost, fixed)
		}
	}
}
