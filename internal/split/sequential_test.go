package split

import (
	"math"
	"math/rand/v2"
	"testing"
)

func newSequential(t *testing.T, p0, p1, alpha, beta float64) *Sequential {
	t.Helper()
	s, err := NewSequential(p0, p1, alpha, beta)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// walk follows every path of the test at once: how likely each decision is when the rate is p, and the mean sample number.
func walk(t *testing.T, start *Sequential, p float64) (accept map[Decision]float64, mean float64) {
	t.Helper()
	accept, open := map[Decision]float64{}, map[int]float64{0: 1} // undecided probability by hits so far
	for n := 0; len(open) > 0; n++ {
		if n > 100_000 {
			t.Fatal("the test does not end")
		}
		next := map[int]float64{}
		for hits, mass := range open {
			mean += mass
			for hit, q := range map[bool]float64{true: p, false: 1 - p} {
				s := *start
				s.hits, s.n = hits, n
				s.Add(hit)
				switch {
				case mass*q < 1e-18: // lost; far too little to matter
				case s.Decision() == Undecided:
					next[s.hits] += mass * q
				default:
					accept[s.Decision()] += mass * q
				}
			}
		}
		open = next
	}
	return accept, mean
}

func TestSequentialKeepsItsErrorRatesExactly(t *testing.T) {
	for _, c := range []struct{ p0, p1, alpha, beta float64 }{
		{.10, .20, 1e-6, 1e-2}, {.20, .10, 1e-6, 1e-2}, {.10, .20, .05, .05}, {.5, .4, .01, .1}, {.01, .05, 1e-3, 1e-3}, {.1, .9, .3, .3},
	} {
		s := newSequential(t, c.p0, c.p1, c.alpha, c.beta)
		under0, _ := walk(t, s, c.p0)
		under1, _ := walk(t, s, c.p1)
		if under0[AcceptP1] > c.alpha || under1[AcceptP0] > c.beta {
			t.Errorf("%+v: wrong with %v and %v", c, under0[AcceptP1], under1[AcceptP0])
		}
		if under0[AcceptP1] == 0 || math.Abs(under0[AcceptP0]+under0[AcceptP1]-1) > 1e-9 || math.Abs(under1[AcceptP0]+under1[AcceptP1]-1) > 1e-9 {
			t.Errorf("%+v: decisions are lost: %v, %v", c, under0, under1)
		}
	}
}

func TestSequentialTellsTenFromTwentyPercentAfterTheStatedNumber(t *testing.T) {
	s := newSequential(t, .10, .20, 1e-6, 1e-2)
	_, right := walk(t, s, .10)
	_, wrong := walk(t, s, .20)
	if right < 120 || right > 135 {
		t.Errorf("a true .10 is decided after %v on average, stated about 125", right)
	}
	if wrong < 300 || wrong > 330 { // alpha is far stricter than beta, so proof of .20 takes longer
		t.Errorf("a true .20 is decided after %v on average, stated about 310", wrong)
	}
	t.Logf("mean sample numbers: %.1f at .10, %.1f at .20", right, wrong)
}

func TestSimulationReproducesTheSequentialErrorRates(t *testing.T) {
	const draws = 10_000
	const alpha, beta = .05, .1
	random := rand.New(rand.NewPCG(7, 8))
	for _, c := range []struct {
		rate  float64
		wrong Decision
		limit float64
	}{{.10, AcceptP1, alpha}, {.20, AcceptP0, beta}} {
		chance, mean := walk(t, newSequential(t, .10, .20, alpha, beta), c.rate)
		wrong, samples := 0, 0
		for range draws {
			s := newSequential(t, .10, .20, alpha, beta)
			for s.Decision() == Undecided {
				s.Add(random.Float64() < c.rate)
			}
			samples += s.N()
			if s.Decision() == c.wrong {
				wrong++
			}
		}
		if cdf(draws, c.limit, wrong-1) > 1-1e-9 {
			t.Errorf("rate %v: wrong %d times of %d, more than %v allows", c.rate, wrong, draws, c.limit)
		}
		plausible(t, "wrong decisions", wrong, draws, chance[c.wrong])
		near(t, "mean sample number", float64(samples)/draws, mean, .03)
	}
}

func TestASequentialDecisionIsFinal(t *testing.T) {
	s := newSequential(t, .10, .20, .05, .05)
	for range 100 {
		s.Add(true)
	}
	if s.Decision() != AcceptP1 || s.N() != 5 { // 2^5 is the first power above 1/0.05
		t.Fatalf("%v after %d", s.Decision(), s.N())
	}
	for range 1000 {
		s.Add(false)
	}
	if s.Decision() != AcceptP1 || s.N() != 5 {
		t.Errorf("%v after %d: later samples changed it", s.Decision(), s.N())
	}
}

func TestSequentialRefusesWhatIsNoTest(t *testing.T) {
	for _, c := range [][4]float64{{.1, .1, .1, .1}, {0, .1, .1, .1}, {.1, 1, .1, .1}, {.1, .2, 0, .1}, {.1, .2, .1, .5}, {math.NaN(), .2, .1, .1}, {.1, .2, math.NaN(), .1}} {
		if _, err := NewSequential(c[0], c[1], c[2], c[3]); err == nil {
			t.Errorf("%v was accepted", c)
		}
	}
}

func TestDecisionsHaveNames(t *testing.T) {
	for d, want := range map[Decision]string{Undecided: "undecided", AcceptP0: "accept p0", AcceptP1: "accept p1"} {
		if d.String() != want {
			t.Errorf("%d is %q", d, d.String())
		}
	}
}
