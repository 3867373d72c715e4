package split

import (
	"math"
	"slices"
)

// binomial is the distribution of how many of n independent answers come from a leg whose share is p.
// Only counts that matter are kept: about 20 standard deviations to each side.
type binomial struct {
	first int       // the count that mass[0] belongs to
	mass  []float64 // probabilities of first, first+1, ...
}

// newBinomial builds the distribution by recurrence outward from its highest point and then divides by the sum.
// That keeps the relative error near 1e-12 at n = 1e6, where differences of log-gammas have lost half their digits.
func newBinomial(n int, p float64) binomial {
	switch {
	case p <= 0:
		return binomial{first: 0, mass: []float64{1}}
	case p >= 1:
		return binomial{first: n, mass: []float64{1}}
	}
	const nothing = 1e-100
	mode, odds := min(int(float64(n+1)*p), n), p/(1-p)
	mass := make([]float64, 0, 64+int(50*math.Sqrt(float64(n)*p*(1-p))))
	for k, w := mode, 1.0; w > nothing; k-- { // at k = 0 the next w is 0
		mass = append(mass, w)
		w *= float64(k) / float64(n-k+1) / odds
	}
	first := mode - len(mass) + 1
	slices.Reverse(mass)
	for k, w := mode, 1.0; ; k++ { // at k = n the next w is 0
		if w *= float64(n-k) / float64(k+1) * odds; w <= nothing {
			break
		}
		mass = append(mass, w)
	}
	sum := 0.0
	for _, w := range mass {
		sum += w
	}
	for i := range mass {
		mass[i] /= sum
	}
	return binomial{first: first, mass: mass}
}

// within returns the probability of lo..hi.
func (b binomial) within(lo, hi int) float64 {
	sum := 0.0
	for k := max(lo, b.first); k <= hi && k-b.first < len(b.mass); k++ {
		sum += b.mass[k-b.first]
	}
	return sum
}

// region returns the narrowest lo..hi that leaves at most tail below it and at most tail above it.
func (b binomial) region(tail float64) (lo, hi int) {
	// The counts left out of mass weigh nothing and belong to the tails. A tail is under 0.25: neither loop runs out.
	lo, hi = b.first, b.first+len(b.mass)-1
	for left := b.mass[0]; left <= tail; left += b.mass[lo-b.first] {
		lo++
	}
	for right := b.mass[hi-b.first]; right <= tail; right += b.mass[hi-b.first] {
		hi--
	}
	return lo, hi
}

// UpperBound returns the exact one-sided upper confidence bound of a rate of which lost of n were seen: it is false with
// probability at most 1-confidence. Both it and the rate are in 0..1. Without a sample (n < 1) it is 1; NaN for a
// confidence outside (0,1) or a negative lost.
//
// Clopper and Pearson (1934), https://doi.org/10.1093/biomet/26.4.404.
func UpperBound(lost, n int, confidence float64) float64 {
	switch {
	case !(confidence > 0 && confidence < 1) || lost < 0:
		return math.NaN()
	case lost >= n:
		return 1
	}
	_, high := bisect(0, 1, func(p float64) bool { return newBinomial(n, p).within(0, lost) > 1-confidence })
	return high
}

// Interval returns the exact two-sided confidence interval of a rate of which count of n were seen, in 0..1: each end is
// false with probability at most (1-confidence)/2. Without a sample it is 0..1; NaN as for UpperBound.
//
// Clopper and Pearson (1934), https://doi.org/10.1093/biomet/26.4.404.
func Interval(count, n int, confidence float64) (low, high float64) {
	oneSided := (1 + confidence) / 2
	return 1 - UpperBound(n-count, n, oneSided), UpperBound(count, n, oneSided)
}

// bisect narrows low..high, where holds(low) is true and holds(high) is false, to the place where it changes.
func bisect(low, high float64, holds func(float64) bool) (float64, float64) {
	for range 50 {
		if mid := low + (high-low)/2; holds(mid) {
			low = mid
		} else {
			high = mid
		}
	}
	return low, high
}
