package split

import (
	"fmt"
	"math"
)

// Arm is one arm of an A/B test: how many of its users converted.
type Arm struct {
	Converted int `json:"converted"`
	Users     int `json:"users"`
}

func (a Arm) rate() float64 { return float64(a.Converted) / float64(a.Users) }

// Conclusion is the result of the comparison of two arms.
type Conclusion int

// NoDifference says only that none was shown.
const (
	NoDifference Conclusion = iota
	AMore
	BMore
)

func (c Conclusion) String() string {
	return [...]string{"no difference shown", "A converts more", "B converts more"}[c]
}

// Comparison is the outcome of Compare. Difference is B's rate minus A's.
type Comparison struct {
	Conclusion Conclusion
	P          float64 // the p-value, two-sided: a difference is shown when it is at most alpha
	Difference float64
}

// Compare decides by Fisher's exact test whether two arms convert at different rates: when they do not, it shows a
// difference with probability at most alpha, whatever their common rate is, half of it to each side. The error says what
// makes the comparison impossible.
//
// Each tail is summed up from the hypergeometric distribution that the conversions of one arm have, given those of both:
// Fisher (1922), https://doi.org/10.2307/2340521. Twice the smaller tail is the p-value, and not the sum of what is less
// likely than the outcome: only so a difference has a direction. Tests that condition on less (Barnard, Boschloo) have a
// little more power and need far more computing.
func Compare(a, b Arm, alpha float64) (Comparison, error) {
	for _, arm := range []Arm{a, b} {
		if arm.Users < 1 || arm.Converted < 0 || arm.Converted > arm.Users {
			return Comparison{}, fmt.Errorf("comparing two arms: %d of %d users converted, which cannot be", arm.Converted, arm.Users)
		}
	}
	if err := checkAlpha(alpha); err != nil {
		return Comparison{}, err
	}
	below, above := tails(b.Converted, b.Users, a.Converted+b.Converted, a.Users+b.Users)
	c := Comparison{P: min(1, 2*min(below, above)), Difference: b.rate() - a.rate()}
	switch {
	case above <= alpha/2:
		c.Conclusion = BMore
	case below <= alpha/2:
		c.Conclusion = AMore
	}
	return c, nil
}

// leastMass is the least probability, in units of the highest one, that tails counts; alpha must be above it.
const leastMass = 1e-300

func checkAlpha(alpha float64) error {
	if !(alpha > 2*leastMass && alpha < 0.5) {
		return fmt.Errorf("comparing two arms: alpha %v is not between %v and 0.5", alpha, 2*leastMass)
	}
	return nil
}

// tails returns P(X <= x) and P(X >= x), where X counts the hits among drawn ones of all, of which that many are hits.
// As in newBinomial, the masses are built outward from the highest one and divided by their sum.
func tails(x, drawn, hits, all int) (below, above float64) {
	sum := 0.0
	add := func(k int, w float64) {
		sum += w
		if k <= x {
			below += w
		}
		if k >= x {
			above += w
		}
	}
	mode := int(float64(drawn+1) * float64(hits+1) / float64(all+2))
	for k, w := mode, 1.0; w > leastMass; k++ { // at the highest possible k the next w is 0
		add(k, w)
		w *= float64(drawn-k) / float64(k+1) * float64(hits-k) / float64(all-drawn-hits+k+1)
	}
	for k, w := mode, 1.0; ; k-- { // at the lowest one, too
		if w *= float64(k) / float64(drawn-k+1) * float64(all-drawn-hits+k) / float64(hits-k+1); !(w > leastMass) {
			break
		}
		add(k-1, w)
	}
	return below / sum, above / sum
}

// DifferenceInterval returns an exact confidence interval of B's rate minus A's. Each arm's own Interval leaves out half
// of what may be left out, so both hold at once with the confidence (Bonferroni), and the difference lies between their
// outermost ones. That holds for all rates, and is wider than it need be.
func DifferenceInterval(a, b Arm, confidence float64) (low, high float64) {
	each := (1 + confidence) / 2
	lowA, highA := Interval(a.Converted, a.Users, each)
	lowB, highB := Interval(b.Converted, b.Users, each)
	return lowB - highA, highB - lowA
}

// Missed returns the probability that Compare does not conclude BMore for arms of the given number of users that convert
// at rates pA and pB. It is exact: a sum over all outcomes.
func Missed(users int, pA, pB, alpha float64) float64 {
	arms := [2]binomial{newBinomial(users, pA), newBinomial(users, pB)}
	// The least count of B that shows a difference rises with A's count.
	missed, below, least := 0.0, 0.0, arms[1].first
	last := least + len(arms[1].mass)
	for i, mass := range arms[0].mass {
		a := arms[0].first + i
		for ; least < last; least++ {
			if _, above := tails(least, users, a+least, 2*users); above <= alpha/2 {
				break
			}
			below += arms[1].mass[least-arms[1].first]
		}
		missed += mass * below
	}
	return missed
}

// maxUsers is more than a test on one machine has time for.
const maxUsers = 1 << 17

// Users returns how many users each arm must have, so that Compare misses a B that converts at rate pB instead of A's pA
// with probability at most miss. The error says why no number is enough.
func Users(pA, pB, alpha, miss float64) (int, error) {
	if err := checkAlpha(alpha); err != nil {
		return 0, err
	}
	enough := func(n int) bool { return Missed(n, pA, pB, alpha) <= miss }
	n := 16
	for ; !enough(n); n *= 2 {
		if n >= maxUsers {
			return 0, fmt.Errorf("planning an A/B test: with %d users in each arm, alpha %v and a miss of %v it cannot distinguish %s from %s", n, alpha, miss, percent(pB), percent(pA))
		}
	}
	// The chance of a miss falls with n, but for small jumps where a bound moves by a whole user: n itself is enough in
	// any case.
	for low := n / 2; n-low > 1; {
		if mid := (low + n) / 2; enough(mid) {
			n = mid
		} else {
			low = mid
		}
	}
	return n, nil
}

// ShownFrom returns the least rate of B that Compare shows with probability Power, when A's is pA; NaN where none is.
func ShownFrom(users int, pA, alpha float64) float64 {
	if Missed(users, pA, 1, alpha) > 1-Power {
		return math.NaN()
	}
	_, shown := bisect(pA, 1, func(pB float64) bool { return Missed(users, pA, pB, alpha) > 1-Power })
	return shown
}
