package split

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cdf is the oracle: P(X <= k) in 256-bit arithmetic, summed up from k = 0, which shares nothing with the code it checks.
func cdf(n int, p float64, k int) float64 {
	if k < 0 {
		return 0
	}
	number := func(f float64) *big.Float { return new(big.Float).SetPrec(256).SetFloat64(f) }
	share, rest := number(p), number(1)
	rest.Sub(rest, share)
	term, square := number(1), new(big.Float).Copy(rest)
	for e := n; e > 0; e >>= 1 { // (1-p)^n
		if e&1 == 1 {
			term.Mul(term, square)
		}
		square.Mul(square, square)
	}
	odds, sum := number(0), new(big.Float).Copy(term)
	odds.Quo(share, rest)
	for i := range k {
		term.Mul(term, odds)
		term.Mul(term, number(float64(n-i)))
		term.Quo(term, number(float64(i+1)))
		sum.Add(sum, term)
	}
	f, _ := sum.Float64()
	return f
}

func accepted(n int, p float64, lo, hi int) float64 { return cdf(n, p, hi) - cdf(n, p, lo-1) }

func near(t *testing.T, what string, got, want, relative float64) {
	t.Helper()
	if !(math.Abs(got-want) <= relative*math.Abs(want)) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// two is a claim of two legs of which v2 is the one that is looked at.
func two(share float64, n int, alpha float64) Claim {
	return Claim{Legs: []Leg{{"v1", 1 - share}, {"v2", share}}, N: n, Alpha: alpha}
}

func regionsOf(t *testing.T, c Claim) []Region {
	t.Helper()
	r, err := c.Regions()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func judge(t *testing.T, c Claim, counts map[string]int) Verdict {
	t.Helper()
	v, err := c.Judge(counts)
	if err != nil {
		t.Fatal(err)
	}
	if v.Pass != (len(v.Reasons) == 0) {
		t.Fatalf("pass %v with reasons %q", v.Pass, v.Reasons)
	}
	return v
}

func TestTheStatedTableOfRegionsAndPower(t *testing.T) {
	type wrong struct{ truth, passes float64 }
	for _, row := range []struct {
		share  float64
		n      int
		lo, hi int
		wrongs []wrong
	}{
		{.10, 1000, 57, 149, []wrong{{0, 0}, {.03, 5.054e-6}, {.20, 1.833e-5}, {.18, .005212}, {.05, .17206}, {.15, .48646}}},
		{.10, 1480, 95, 207, []wrong{{.05, .0089906}}},
		{.10, 2230, 157, 295, []wrong{{.15, .009517}}},
		{.50, 1300, 562, 738, []wrong{{.40, .0095977}}},
		{.01, 1450, 1, 36, []wrong{{0, 0}}},
	} {
		r := regionsOf(t, two(row.share, row.n, 1e-6))
		if r[1].Lo != row.lo || r[1].Hi != row.hi {
			t.Errorf("%v of %d: %d..%d, want %d..%d", row.share, row.n, r[1].Lo, r[1].Hi, row.lo, row.hi)
		}
		if r[0].Lo != row.n-row.hi || r[0].Hi != row.n-row.lo {
			t.Errorf("%v of %d: the large leg's %d..%d is not the small one's mirror image", row.share, row.n, r[0].Lo, r[0].Hi)
		}
		for _, w := range row.wrongs {
			near(t, fmt.Sprintf("%v of %d passes at %v", row.share, row.n, w.truth), newBinomial(row.n, w.truth).within(row.lo, row.hi), w.passes, 1e-3)
		}
	}
	// The rows whose last column says 1 % are, read backwards, what the n was chosen to catch.
	if r := regionsOf(t, two(.1, 1480, 1e-6))[1]; !(r.CaughtBelow >= .05 && r.CaughtBelow < .051) {
		t.Errorf("90/10 of 1480: caught below %v, want 5 %%", r.CaughtBelow)
	}
	if r := regionsOf(t, two(.1, 2230, 1e-6))[1]; !(r.CaughtAbove <= .15 && r.CaughtAbove > .149) {
		t.Errorf("90/10 of 2230: caught above %v, want 15 %%", r.CaughtAbove)
	}
	if r := regionsOf(t, two(.5, 1300, 1e-6))[1]; !(r.CaughtBelow >= .40 && r.CaughtBelow < .401 && r.CaughtAbove <= .60 && r.CaughtAbove > .599) {
		t.Errorf("50/50 of 1300: caught at %v and %v, want 40 %% and 60 %%", r.CaughtBelow, r.CaughtAbove)
	}
}

// The two-sided sign test at p = 1/2, as statistics textbooks tabulate it: refused at or below the critical count.
func TestPublishedSignTestTable(t *testing.T) {
	for _, row := range []struct {
		n, critical int
		alpha       float64
	}{
		{10, 1, .05}, {15, 3, .05}, {20, 5, .05}, {25, 7, .05}, {30, 9, .05}, {50, 17, .05}, {100, 39, .05},
		{10, 0, .01}, {20, 3, .01}, {25, 5, .01}, {50, 15, .01}, {100, 36, .01},
	} {
		r := regionsOf(t, two(.5, row.n, row.alpha))[1]
		if r.Lo != row.critical+1 || r.Hi != row.n-row.critical-1 {
			t.Errorf("n %d alpha %v: %d..%d, want %d..%d", row.n, row.alpha, r.Lo, r.Hi, row.critical+1, row.n-row.critical-1)
		}
	}
}

// Four digits, as in the cumulative binomial tables at the back of most textbooks.
func TestPublishedCumulativeBinomialTable(t *testing.T) {
	for _, row := range []struct {
		n    int
		p    float64
		k    int
		want float64
	}{
		{10, .1, 0, .3487}, {20, .1, 2, .6769}, {20, .5, 5, .0207}, {20, .3, 3, .1071}, {15, .4, 3, .0905}, {25, .2, 2, .0982}, {5, .5, 4, .9688},
	} {
		if got := newBinomial(row.n, row.p).within(0, row.k); math.Abs(got-row.want) > .00005 {
			t.Errorf("P(X <= %d), n %d, p %v: %v, want %v", row.k, row.n, row.p, got, row.want)
		}
	}
}

func TestRegionIsTheNarrowestThatKeepsBothTails(t *testing.T) {
	for _, c := range []struct {
		n            int
		share, alpha float64
	}{
		{1, .5, .05}, {2, .5, .05}, {7, .3, .05}, {100, .1, .01}, {1000, .1, 1e-6}, {1000, .999, 1e-3}, {4000, .0001, 1e-6}, {100_000, .25, 1e-12},
		{1_000_000, .1, 1e-6}, {1_000_000, 1e-6, 1e-6},
	} {
		lo, hi := newBinomial(c.n, c.share).region(c.alpha / 2)
		// The upper tail is the lower one of the other legs' count.
		for _, side := range []struct {
			p    float64
			edge int
		}{{c.share, lo}, {1 - c.share, c.n - hi}} {
			if side.p > .6 && c.n > 10_000 {
				continue // the oracle starts at 0 and would take seconds for the far end
			}
			if outside, cut := cdf(c.n, side.p, side.edge-1), cdf(c.n, side.p, side.edge); outside > c.alpha/2 || cut <= c.alpha/2 {
				t.Errorf("n %d share %v alpha %v: %d..%d: tail %v, one narrower %v", c.n, c.share, c.alpha, lo, hi, outside, cut)
			}
		}
	}
}

func TestMassKeepsElevenDigitsAtAMillion(t *testing.T) {
	near(t, "lower tail", newBinomial(1_000_000, .1).within(0, 98_500), cdf(1_000_000, .1, 98_500), 1e-11)
	near(t, "far lower tail", newBinomial(1_000_000, .1).within(0, 94_000), cdf(1_000_000, .1, 94_000), 1e-11)
}

func TestAMillionRequestsAreJudgedInWellUnderASecond(t *testing.T) {
	start := cpuTime(t)
	judge(t, Claim{Legs: []Leg{{"a", .5}, {"b", .3}, {"c", .2}}, N: 1_000_000, Alpha: 1e-6}, map[string]int{"a": 500_000, "b": 300_000, "c": 200_000})
	took := cpuTime(t) - start
	if took > 2*time.Second { // room for the race detector; it takes about 0.1 s without
		t.Errorf("took %v of a CPU", took)
	}
	t.Logf("took %v of a CPU", took)
}

// cpuTime is how long this process has computed: a busy machine does not count.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// refusals judges draws samples of c that are really split like truth.
func refusals(t *testing.T, c Claim, truth []float64, draws int, seed uint64) int {
	t.Helper()
	random, known, refused := rand.New(rand.NewPCG(seed, 1)), map[string]bool{}, 0
	for range draws {
		counts := map[string]int{}
		for range c.N {
			u, leg := random.Float64(), 0
			for leg < len(truth)-1 && u >= truth[leg] {
				u -= truth[leg]
				leg++
			}
			counts[c.Legs[leg].Name]++
		}
		key := fmt.Sprint(counts)
		pass, ok := known[key]
		if !ok {
			pass = judge(t, c, counts).Pass
			known[key] = pass
		}
		if !pass {
			refused++
		}
	}
	return refused
}

// plausible fails the test if seen out of draws would be a less than 1e-9 event in either tail when the rate is what is said.
func plausible(t *testing.T, what string, seen, draws int, rate float64) {
	t.Helper()
	if low, high := cdf(draws, rate, seen), 1-cdf(draws, rate, seen-1); low < 1e-9 || high < 1e-9 {
		t.Errorf("%s: %d of %d, which a rate of %v does not give (tails %v, %v)", what, seen, draws, rate, low, high)
	}
}

func TestSimulationReproducesAlphaAndPowerOfTwoLegs(t *testing.T) {
	const draws = 10_000
	c := two(.1, 200, .05)
	r := regionsOf(t, c)[1]
	rate := func(truth float64) float64 { return 1 - accepted(c.N, truth, r.Lo, r.Hi) }
	if alpha := rate(.1); alpha > c.Alpha || alpha < c.Alpha/2 {
		t.Errorf("a right split is refused with probability %v, stated at most %v", alpha, c.Alpha)
	}
	plausible(t, "a right split refused", refusals(t, c, []float64{.9, .1}, draws, 1), draws, rate(.1))
	for seed, caught := range []float64{r.CaughtBelow, r.CaughtAbove} {
		near(t, fmt.Sprintf("power at %v", caught), rate(caught), Power, 1e-9)
		plausible(t, fmt.Sprintf("a true share of %v refused", caught), refusals(t, c, []float64{1 - caught, caught}, draws, uint64(seed)), draws, rate(caught))
	}
	if rate(r.CaughtBelow*.98) <= Power || rate(r.CaughtAbove*1.02) <= Power || rate(r.CaughtBelow*1.02) >= Power || rate(r.CaughtAbove*.98) >= Power {
		t.Errorf("power does not rise outward from %v and %v", r.CaughtBelow, r.CaughtAbove)
	}
}

func TestSimulationReproducesAlphaOfThreeLegs(t *testing.T) {
	const draws = 10_000
	truth := []float64{.4, .35, .25}
	c := Claim{Legs: []Leg{{"a", truth[0]}, {"b", truth[1]}, {"c", truth[2]}}, N: 60, Alpha: .1}
	r := regionsOf(t, c)
	inside := 0.0 // every outcome there is, by the multinomial formula
	factorial := func(k int) float64 { f, _ := math.Lgamma(float64(k + 1)); return f }
	for i := r[0].Lo; i <= r[0].Hi; i++ {
		for j := r[1].Lo; j <= r[1].Hi; j++ {
			if k := c.N - i - j; k >= r[2].Lo && k <= r[2].Hi {
				inside += math.Exp(factorial(c.N) - factorial(i) - factorial(j) - factorial(k) +
					float64(i)*math.Log(truth[0]) + float64(j)*math.Log(truth[1]) + float64(k)*math.Log(truth[2]))
			}
		}
	}
	if 1-inside > c.Alpha || 1-inside < c.Alpha/3 {
		t.Errorf("a right split is refused with probability %v, stated at most %v", 1-inside, c.Alpha)
	}
	plausible(t, "a right split refused", refusals(t, c, truth, draws, 3), draws, 1-inside)
	// The same with one leg's share caught: the claim is refused at least as often as the leg.
	low := r[2].CaughtBelow
	seen := refusals(t, c, []float64{.5, .5 - low, low}, draws, 4)
	if cdf(draws, Power, seen) < 1e-9 {
		t.Errorf("a true third share of %v is refused %d times of %d, less than %v", low, seen, draws, Power)
	}
}

func TestAlphaIsDividedByTheLegsThatCanFailByChanceOnceThereAreThree(t *testing.T) {
	for _, c := range []struct {
		shares []float64
		want   float64
	}{
		{[]float64{1}, .06}, {[]float64{1, 0}, .06}, {[]float64{.9, .1}, .06}, {[]float64{.9, .1, 0}, .06}, {[]float64{.5, .3, .2}, .02}, {[]float64{.5, .3, 0, .2}, .02}, {[]float64{.25, .25, .25, .25}, .015},
	} {
		claim := Claim{N: 10, Alpha: .06}
		for i, s := range c.shares {
			claim.Legs = append(claim.Legs, Leg{fmt.Sprint(i), s})
		}
		near(t, fmt.Sprint(c.shares), claim.legAlpha(), c.want, 1e-12)
	}
}

func TestALegThatGetsNothingFailsWithASentence(t *testing.T) {
	v := judge(t, two(.1, 1000, 1e-6), map[string]int{"v1": 1000})
	want := []string{
		"leg v1 (90 %): 1000 of 1000 answers, accepted 851..943 (alpha 1e-06)",
		"leg v2 (10 %): 0 of 1000 answers, accepted 57..149 (alpha 1e-06)",
	}
	if !reflect.DeepEqual(v.Reasons, want) || v.Pass {
		t.Errorf("got %q", v.Reasons)
	}
	if n, ok := v.Counts["v2"]; n != 0 || !ok {
		t.Errorf("the silent leg is missing from the counts %v", v.Counts)
	}
}

func TestBothEndsOfTheRegionAreAcceptedAndNothingBeyond(t *testing.T) {
	for count, pass := range map[int]bool{56: false, 57: true, 100: true, 149: true, 150: false} {
		if v := judge(t, two(.1, 1000, 1e-6), map[string]int{"v1": 1000 - count, "v2": count}); v.Pass != pass {
			t.Errorf("%d: pass %v, reasons %q", count, v.Pass, v.Reasons)
		}
	}
}

func TestOneStrayAnswerFailsALegOf0Or100Percent(t *testing.T) {
	for _, n := range []int{1, 2, 10, 1000, 1_000_000} {
		c := Claim{Legs: []Leg{{"v1", 1}, {"v2", 0}}, N: n, Alpha: .4}
		if v := judge(t, c, map[string]int{"v1": n}); !v.Pass {
			t.Errorf("n %d: all to v1: %q", n, v.Reasons)
		}
		v := judge(t, c, map[string]int{"v1": n - 1, "v2": 1})
		want := fmt.Sprintf("leg v2 (0 %%): 1 of %d answers, accepted exactly 0", n)
		if v.Pass || len(v.Reasons) != 2 || v.Reasons[1] != want {
			t.Errorf("n %d: one to v2: %q, want %q", n, v.Reasons, want)
		}
		zero, all := v.Regions[1], v.Regions[0]
		near(t, "0 % caught above", zero.CaughtAbove, -math.Expm1(math.Log(1-Power)/float64(n)), 1e-9)
		near(t, "100 % caught below", all.CaughtBelow, math.Exp(math.Log(1-Power)/float64(n)), 1e-9)
		if !math.IsNaN(zero.CaughtBelow) || !math.IsNaN(all.CaughtAbove) {
			t.Errorf("n %d: nothing is below 0 %% or above 100 %%: %+v", n, v.Regions)
		}
	}
}

func TestASharePracticallyZeroIsExact(t *testing.T) {
	c := Claim{Legs: []Leg{{"v1", 1 - 1e-10}, {"v2", 1e-10}}, N: 1_000_000, Alpha: 1e-6} // by chance, one stray in 10,000 claims
	if v := judge(t, c, map[string]int{"v1": 999_999, "v2": 1}); v.Pass || !strings.HasSuffix(v.Reasons[1], "accepted exactly 0") {
		t.Errorf("one stray answer: %q", v.Reasons)
	}
}

func TestOneRequestSaysNothingAboutAHalf(t *testing.T) {
	c := two(.5, 1, 1e-6)
	for _, leg := range []string{"v1", "v2"} {
		if v := judge(t, c, map[string]int{leg: 1}); !v.Pass {
			t.Errorf("%s: %q", leg, v.Reasons)
		}
	}
	if r := regionsOf(t, c)[0]; r.Lo != 0 || r.Hi != 1 || !math.IsNaN(r.CaughtBelow) || !math.IsNaN(r.CaughtAbove) {
		t.Errorf("n = 1 catches nothing, got %+v", r)
	}
}

func TestAnswersFromNoLegFail(t *testing.T) {
	v := judge(t, two(.5, 100, 1e-6), map[string]int{"v1": 50, "v2": 49, "v3": 1, "v4": 0})
	if want := "stray v3: 1 of 100 answers came from what is no leg of this split"; v.Pass || len(v.Reasons) != 1 || v.Reasons[0] != want {
		t.Errorf("got %q, want %q", v.Reasons, want)
	}
}

func TestATotalThatIsNotNFailsAndBlamesNoLegForIt(t *testing.T) {
	c := two(.1, 1000, 1e-6)
	for _, counts := range []map[string]int{{"v1": 700, "v2": 70}, {"v1": 950, "v2": 100}} {
		if v := judge(t, c, counts); v.Pass || len(v.Reasons) != 1 || !strings.HasPrefix(v.Reasons[0], "total: ") {
			t.Errorf("%v: %q", counts, v.Reasons)
		}
	}
	for _, counts := range []map[string]int{{"v1": 990}, {"v1": 700, "v2": 200}, {}, {"v1": 1100, "v2": 10}} {
		if v := judge(t, c, counts); v.Pass || len(v.Reasons) < 2 && len(counts) > 0 {
			t.Errorf("%v: want the total and a leg, got %q", counts, v.Reasons)
		}
	}
}

func TestTheClaimedCountsThemselvesAlwaysPass(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 100 {
		n := 1 + random.IntN(500)
		a := random.IntN(n + 1)
		b := random.IntN(n - a + 1)
		f := func(k int) float64 { return float64(k) / float64(n) }
		c := Claim{Legs: []Leg{{"a", f(a)}, {"b", f(b)}, {"c", f(n - a - b)}}, N: n, Alpha: math.Pow(10, -6*random.Float64()) * .49}
		v := judge(t, c, map[string]int{"a": a, "b": b, "c": n - a - b})
		if !v.Pass {
			t.Errorf("%+v: %q", c, v.Reasons)
		}
		for _, r := range v.Regions {
			if r.CaughtBelow > r.Share || r.CaughtAbove < r.Share || r.Lo > r.Hi || r.Lo < 0 || r.Hi > n {
				t.Errorf("%+v: region %+v", c, r)
			}
		}
	}
}

func TestImpossibleClaimsAreErrors(t *testing.T) {
	nan := math.NaN()
	for want, c := range map[string]Claim{
		"add up to 110 %":    {Legs: []Leg{{"a", .9}, {"b", .2}}, N: 1, Alpha: .1},
		"add up to 0 %":      {N: 1, Alpha: .1},
		"not in 0..1":        {Legs: []Leg{{"a", 1.5}, {"b", -.5}}, N: 1, Alpha: .1},
		"share NaN":          {Legs: []Leg{{"a", nan}}, N: 1, Alpha: .1},
		"n is 0":             {Legs: []Leg{{"a", 1}}, Alpha: .1},
		"alpha 0 ":           {Legs: []Leg{{"a", 1}}, N: 1},
		"alpha 0.5 ":         {Legs: []Leg{{"a", 1}}, N: 1, Alpha: .5},
		"alpha NaN":          {Legs: []Leg{{"a", 1}}, N: 1, Alpha: nan},
		"leg a is named":     {Legs: []Leg{{"a", .5}, {"a", .5}}, N: 1, Alpha: .1},
		"a leg has no name":  {Legs: []Leg{{"", 1}}, N: 1, Alpha: .1},
		"add up to 99.999 %": {Legs: []Leg{{"a", .5}, {"b", .49999}}, N: 1, Alpha: .1},
	} {
		if _, err := c.Judge(nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", c, err, want)
		}
	}
	if _, err := two(.5, 2, .1).Judge(map[string]int{"v1": 3, "v2": -1}); err == nil {
		t.Error("a negative count was judged")
	}
}

func TestAVerdictWithoutACaughtShareIsStillJSON(t *testing.T) {
	data, err := json.Marshal(judge(t, Claim{Legs: []Leg{{"v1", 1}, {"v2", 0}}, N: 1, Alpha: .01}, map[string]int{"v1": 1}))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Pass    bool
		Regions []map[string]any
		Counts  map[string]int
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	all, zero := got.Regions[0], got.Regions[1]
	if !got.Pass || got.Counts["v1"] != 1 || all["leg"] != "v1" || all["lo"] != 1. || zero["hi"] != 0. {
		t.Errorf("got %s", data)
	}
	if all["caughtAbove"] != nil || zero["caughtBelow"] != nil || all["caughtBelow"] == nil || zero["caughtAbove"] == nil {
		t.Errorf("null belongs where no share is caught, got %s", data)
	}
}

func TestUpperBoundMatchesPublishedClopperPearsonValues(t *testing.T) {
	for _, row := range []struct {
		lost, n          int
		confidence, want float64
	}{
		// Two-sided 95 % tables give the 97.5 % one-sided bound.
		{0, 10, .975, .3085}, {1, 10, .975, .4450}, {5, 10, .975, .8129}, {10, 10, .975, 1}, {0, 20, .975, .1684}, {2, 20, .975, .3170},
		{0, 100, .975, .0362}, {5, 100, .975, .1128}, {50, 100, .975, .6017},
		// NIST/SEMATECH e-Handbook 7.2.4.1: 4 defects of 20, two-sided 90 %.
		{4, 20, .95, .4010},
		{0, 10, .95, .2589}, {1, 10, .95, .3942},
	} {
		if got := UpperBound(row.lost, row.n, row.confidence); math.Abs(got-row.want) > .00005 {
			t.Errorf("%d of %d at %v: %v, want %v", row.lost, row.n, row.confidence, got, row.want)
		}
	}
	if got := UpperBound(0, 3000, .95); got >= .001 || got < .00099 {
		t.Errorf("0 of 3000: %v, want just below 0.1 %%", got)
	}
	if got := UpperBound(10, 10, .95); got != 1 {
		t.Errorf("all lost: %v, want 1 and nothing less", got)
	}
	near(t, "the rule of three", UpperBound(0, 1_000_000, .95), 3e-6, .002)
	near(t, "none lost", UpperBound(0, 77, .9), 1-math.Pow(.1, 1./77), 1e-12)
	near(t, "the bound's own tail", cdf(1000, UpperBound(7, 1000, .99), 7), .01, 1e-9)
}

func TestUpperBoundWithoutASampleIsOne(t *testing.T) {
	for _, n := range []int{0, -1} {
		if got := UpperBound(0, n, .95); got != 1 {
			t.Errorf("n %d: %v", n, got)
		}
	}
	for _, confidence := range []float64{0, 1, -1, 2, math.NaN()} {
		if got := UpperBound(0, 10, confidence); !math.IsNaN(got) {
			t.Errorf("confidence %v: %v", confidence, got)
		}
	}
}

func TestParseSharesReadsPercentages(t *testing.T) {
	for s, want := range map[string][]float64{
		"90/10": {.9, .1}, "50/50": {.5, .5}, "100/0": {1, 0}, "99.5/0.5": {.995, .005}, "80/15/5": {.8, .15, .05}, " 90 / 10 ": {.9, .1}, "33.3/33.3/33.4": {.333, .333, .334},
	} {
		got, err := ParseShares(s)
		if err != nil || len(got) != len(want) {
			t.Errorf("%q: %v, %v", s, got, err)
			continue
		}
		for i := range got {
			near(t, s, got[i], want[i], 1e-12)
		}
	}
}

func TestParseSharesRefusesInOnePlainLine(t *testing.T) {
	for s, want := range map[string]string{
		"90/20":     `shares "90/20": they add up to 110 %, not 100 %`,
		"100":       `shares "100": at least two are needed, like 90/10`,
		"":          `shares "": at least two are needed, like 90/10`,
		"90/ten":    `shares "90/ten": "ten" is not a percentage from 0 to 100`,
		"90/-10/20": `shares "90/-10/20": "-10" is not a percentage from 0 to 100`,
		"90/10/":    `shares "90/10/": "" is not a percentage from 0 to 100`,
		"NaN/10":    `shares "NaN/10": "NaN" is not a percentage from 0 to 100`,
		"9e1/10":    `shares "9e1/10": "9e1" is not a percentage from 0 to 100`,
		"101/0":     `shares "101/0": "101" is not a percentage from 0 to 100`,
		"90\n/x":    `shares "90\n/x": "x" is not a percentage from 0 to 100`,
	} {
		if _, err := ParseShares(s); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func FuzzParseShares(f *testing.F) {
	for _, s := range []string{"90/10", "99.5/0.5", "100/0", "33.3/33.3/33.4", "90/20", "-1/101", "NaN/Inf", "1e2/0", "0x64/0", "/", "", "50//50", "100.0000000001/0", "\xff/1", "1_0/90"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		shares, err := ParseShares(s)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("%q: the error has more than one line: %q", s, err)
			}
			return
		}
		c := Claim{N: 1, Alpha: .01}
		for i, share := range shares {
			c.Legs = append(c.Legs, Leg{fmt.Sprint(i), share})
		}
		if err := c.Check(); err != nil || len(shares) < 2 {
			t.Errorf("%q was read as %v, which cannot be claimed: %v", s, shares, err)
		}
	})
}

func TestNeededIsTheFirstNThatRefusesASilentLeg(t *testing.T) {
	for _, tc := range []struct {
		share float64
		want  int
	}{{0.1, 138}, {0.05, 283}, {0.01, 1444}, {0.5, 21}} {
		c := Claim{Legs: []Leg{{"a", 1 - tc.share}, {"b", tc.share}}, Alpha: 1e-6}
		if got := c.Needed(); got != tc.want {
			t.Errorf("%v: needed %d, want %d", tc.share, got, tc.want)
		}
		for n, refused := range map[int]bool{tc.want - 1: false, tc.want: true} {
			c.N = n
			v, err := c.Judge(map[string]int{"a": n})
			if err != nil || v.Pass == refused {
				t.Errorf("%v of %d: a silent leg is refused: %v (%v), want %v", tc.share, n, !v.Pass, err, refused)
			}
		}
	}
	if got := (Claim{Legs: []Leg{{"a", 1}, {"b", 0}}, N: 1, Alpha: 1e-6}).Needed(); got != 1 {
		t.Errorf("an exact claim needs %d", got)
	}
}
