package split

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

func compare(t *testing.T, a, b Arm, alpha float64) Comparison {
	t.Helper()
	c, err := Compare(a, b, alpha)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// atLeast is the oracle: P(X >= x) of the hypergeometric distribution in whole numbers, which shares nothing with tails.
func atLeast(x, drawn, hits, all int64) float64 {
	sum, term := new(big.Int), new(big.Int)
	for k := x; k <= min(drawn, hits); k++ {
		if k >= 0 && drawn-k <= all-hits {
			sum.Add(sum, term.Mul(new(big.Int).Binomial(hits, k), new(big.Int).Binomial(all-hits, drawn-k)))
		}
	}
	f, _ := new(big.Rat).SetFrac(sum, new(big.Int).Binomial(all, drawn)).Float64()
	return f
}

// The examples of R's fisher.test, one-sided: https://stat.ethz.ch/R-manual/R-devel/library/stats/html/fisher.test.html
func TestPublishedFisherTests(t *testing.T) {
	for _, c := range []struct {
		name       string
		a, b       Arm
		above, two float64
	}{
		{"Fisher's tea tasting, three of four right", Arm{1, 4}, Arm{3, 4}, 0.2429, 0.4857},
		{"Fisher's tea tasting, all right", Arm{0, 4}, Arm{4, 4}, 1.0 / 70, 2.0 / 70},
		{"convictions of dizygotic and monozygotic twins", Arm{2, 17}, Arm{10, 13}, 0.0004652, 2 * 0.0004652},
	} {
		_, above := tails(c.b.Converted, c.b.Users, c.a.Converted+c.b.Converted, c.a.Users+c.b.Users)
		near(t, c.name, above, c.above, 2e-4)
		near(t, c.name+", two-sided", compare(t, c.a, c.b, .05).P, c.two, 2e-4)
	}
}

func TestTailsAreThoseOfTheHypergeometricDistribution(t *testing.T) {
	check := func(x, drawn, hits, all int) {
		below, above := tails(x, drawn, hits, all)
		what := fmt.Sprintf("%d of %d drawn from %d with %d hits", x, drawn, all, hits)
		near(t, what+", above", above, atLeast(int64(x), int64(drawn), int64(hits), int64(all)), 1e-11)
		// What is at most x hits is at least drawn-x others.
		near(t, what+", below", below, atLeast(int64(drawn-x), int64(drawn), int64(all-hits), int64(all)), 1e-11)
	}
	for all := 1; all <= 9; all++ {
		for drawn := 0; drawn <= all; drawn++ {
			for hits := 0; hits <= all; hits++ {
				for x := max(0, drawn+hits-all); x <= min(drawn, hits); x++ {
					check(x, drawn, hits, all)
				}
			}
		}
	}
	check(300, 1500, 450, 3000)
	check(0, 1500, 20, 3000)
	check(1500, 1500, 2990, 3000)
	check(40, 100, 400, 5000)
}

func TestTheConclusionHasADirection(t *testing.T) {
	for _, c := range []struct {
		a, b Arm
		want Conclusion
	}{
		{Arm{100, 1000}, Arm{200, 1000}, BMore},
		{Arm{200, 1000}, Arm{100, 1000}, AMore},
		{Arm{100, 1000}, Arm{101, 1000}, NoDifference},
		{Arm{0, 1000}, Arm{0, 1000}, NoDifference},
		{Arm{1000, 1000}, Arm{1000, 1000}, NoDifference},
		{Arm{0, 1}, Arm{1, 1}, NoDifference},
		{Arm{10, 100}, Arm{900, 3000}, BMore},
	} {
		got := compare(t, c.a, c.b, 1e-3)
		if got.Conclusion != c.want || (got.P <= 1e-3) != (c.want != NoDifference) {
			t.Errorf("%v against %v: %s, p %g, want %s", c.a, c.b, got.Conclusion, got.P, c.want)
		}
	}
}

func TestAComparisonThatCannotBeIsAnError(t *testing.T) {
	for _, c := range []struct {
		a, b  Arm
		alpha float64
	}{
		{Arm{0, 0}, Arm{1, 2}, .05}, {Arm{1, 2}, Arm{3, 2}, .05}, {Arm{-1, 2}, Arm{1, 2}, .05},
		{Arm{1, 2}, Arm{1, 2}, 0}, {Arm{1, 2}, Arm{1, 2}, 1e-310}, {Arm{1, 2}, Arm{1, 2}, .5}, {Arm{1, 2}, Arm{1, 2}, math.NaN()},
	} {
		if got, err := Compare(c.a, c.b, c.alpha); err == nil {
			t.Errorf("%+v gave %+v", c, got)
		}
	}
}

// shown simulates A/B tests and counts the conclusions.
func shown(t *testing.T, users int, pA, pB, alpha float64, draws int, seed uint64) map[Conclusion]int {
	t.Helper()
	r, counts := rand.New(rand.NewPCG(seed, 0)), map[Conclusion]int{}
	draw := func(p float64) Arm {
		a := Arm{Users: users}
		for range users {
			if r.Float64() < p {
				a.Converted++
			}
		}
		return a
	}
	for range draws {
		counts[compare(t, draw(pA), draw(pB), alpha).Conclusion]++
	}
	return counts
}

func TestSimulationKeepsAlphaWhenTheArmsAreAlike(t *testing.T) {
	const draws = 4000
	for i, p := range []float64{.02, .1, .5, .9} {
		for _, alpha := range []float64{.05, .01} {
			got := shown(t, 300, p, p, alpha, draws, uint64(i))
			// Half of alpha to each side; below it, because conversions come in whole users.
			for _, c := range []Conclusion{AMore, BMore} {
				if low, _ := Interval(got[c], draws, .9999); low > alpha/2 {
					t.Errorf("rate %v, alpha %v: %q in %d of %d", p, alpha, c, got[c], draws)
				}
			}
			if p == .5 && got[AMore]+got[BMore] == 0 {
				t.Errorf("rate %v, alpha %v: no false alarm in %d draws is no test either", p, alpha, draws)
			}
		}
	}
}

func TestSimulationReproducesTheChanceOfAMiss(t *testing.T) {
	const draws = 4000
	for i, c := range []struct {
		users         int
		pA, pB, alpha float64
	}{{300, .1, .2, .05}, {300, .1, .2, 1e-3}, {100, .5, .7, .01}, {50, .02, .3, .05}, {200, .1, .1, .4}} {
		got := shown(t, c.users, c.pA, c.pB, c.alpha, draws, uint64(i))
		plausible(t, fmt.Sprintf("%+v", c), draws-got[BMore], draws, Missed(c.users, c.pA, c.pB, c.alpha))
	}
}

// missedBySum adds up all outcomes one by one.
func missedBySum(t *testing.T, users int, pA, pB, alpha float64) float64 {
	sum := 0.0
	for a := range users + 1 {
		for b := range users + 1 {
			if compare(t, Arm{a, users}, Arm{b, users}, alpha).Conclusion != BMore {
				sum += accepted(users, pA, a, a) * accepted(users, pB, b, b)
			}
		}
	}
	return sum
}

func TestMissedIsTheSumOverAllOutcomes(t *testing.T) {
	for _, c := range []struct {
		users         int
		pA, pB, alpha float64
	}{{12, .2, .8, .05}, {30, .1, .5, .01}, {30, .5, .5, .3}, {5, 0.1, 0.9, 1e-6}} {
		near(t, fmt.Sprintf("%+v", c), Missed(c.users, c.pA, c.pB, c.alpha), missedBySum(t, c.users, c.pA, c.pB, c.alpha), 1e-9)
	}
}

func TestUsersAreEnoughAndNotManyTooMany(t *testing.T) {
	for _, c := range []struct{ pA, pB, alpha, miss float64 }{
		{.1, .2, 1e-6, 1e-6}, {.1, .2, .05, .2}, {.01, .02, .05, .2}, {.5, .9, 1e-3, 1e-3},
	} {
		n, err := Users(c.pA, c.pB, c.alpha, c.miss)
		if err != nil {
			t.Fatal(err)
		}
		if Missed(n, c.pA, c.pB, c.alpha) > c.miss || Missed(n*95/100, c.pA, c.pB, c.alpha) < c.miss {
			t.Errorf("%+v: %d users, missed %g; 5 %% less: %g", c, n, Missed(n, c.pA, c.pB, c.alpha), Missed(n*95/100, c.pA, c.pB, c.alpha))
		}
	}
	if n, err := Users(.1, .1, .05, .2); err == nil {
		t.Errorf("%d users tell 10 %% from 10 %%", n)
	}
	if n, err := Users(.1, .2, 0, .2); err == nil {
		t.Errorf("%d users are enough for an alpha of 0", n)
	}
}

func TestShownFromIsWhereThePowerIs(t *testing.T) {
	shown := ShownFrom(2000, .1, 1e-6)
	near(t, "the miss there", Missed(2000, .1, shown, 1e-6), 1-Power, 1e-3)
	if got := ShownFrom(5, .1, 1e-6); !math.IsNaN(got) {
		t.Errorf("five users show %v", got)
	}
}

func TestTheDifferenceIntervalCoversTheTruth(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 0))
	for _, c := range []struct{ pA, pB float64 }{{.1, .2}, {.1, .1}, {.01, .5}} {
		const draws, users = 1000, 200
		covered := 0
		for range draws {
			var a, b Arm
			a.Users, b.Users = users, users
			for range users {
				if r.Float64() < c.pA {
					a.Converted++
				}
				if r.Float64() < c.pB {
					b.Converted++
				}
			}
			if low, high := DifferenceInterval(a, b, .95); low <= c.pB-c.pA && c.pB-c.pA <= high {
				covered++
			}
		}
		if _, high := Interval(covered, draws, .9999); high < .95 {
			t.Errorf("%+v: %d of %d intervals cover the truth", c, covered, draws)
		}
	}
	if low, high := DifferenceInterval(Arm{100, 1000}, Arm{200, 1000}, .95); !(low > 0 && low < .1 && high > .1 && high < .2) {
		t.Errorf("100 and 200 of 1000: %v..%v", low, high)
	}
}

func TestConclusionsHaveNames(t *testing.T) {
	for c, want := range map[Conclusion]string{NoDifference: "no difference shown", AMore: "A converts more", BMore: "B converts more"} {
		if c.String() != want {
			t.Errorf("%d is %q", c, c)
		}
	}
}
