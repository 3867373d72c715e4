package split

import (
	"math"
	"time"
)

// Latencies counts latencies so that their distribution can be looked at at any
// time. It keeps counts on a grid of 5 % from 10 µs to 100 s. The zero value has none.
type Latencies struct {
	n     int
	count [bins]int
}

const (
	finest  = 10 * time.Microsecond
	binStep = 1.05
	bins    = 332 // the last one is for all above 100 s
)

// binOf is the least i of which binEnd(i) is not below d.
func binOf(d time.Duration) int {
	if d <= finest {
		return 0
	}
	i := int(math.Ceil(math.Log(float64(d)/float64(finest)) / math.Log(binStep)))
	return min(i, bins-1)
}

func binEnd(i int) time.Duration {
	return time.Duration(float64(finest) * math.Pow(binStep, float64(i)))
}

// Add takes one latency.
func (l *Latencies) Add(d time.Duration) {
	l.n++
	l.count[binOf(d)]++
}

// Quantile returns the latency that this part of the requests does not exceed,
// and the interval in which the true one is: all such intervals, at all times,
// hold together with probability 1-alpha. An end that is not known yet is 0 or
// the longest duration. All are ends of the grid, so up to 5 % too long.
func (l *Latencies) Quantile(part, alpha float64) (at, low, high time.Duration) {
	r := radius(l.n, alpha)
	return l.reaches(part), l.reaches(part - r), l.reaches(part + r)
}

// reaches returns the first end of the grid that so many do not exceed.
func (l *Latencies) reaches(part float64) time.Duration {
	if part <= 0 {
		return 0
	}
	sum := 0
	for i, c := range l.count[:bins-1] {
		if sum += c; l.n > 0 && float64(sum) >= part*float64(l.n) {
			return binEnd(i)
		}
	}
	return math.MaxInt64
}

// radius is how far the distribution function of n samples may be from the true
// one: everywhere, and for all n together, except with probability alpha. 1 says
// nothing.
//
// Howard and Ramdas, "Sequential estimation of quantiles with applications to
// A/B testing and best-arm identification", Bernoulli 2022, Corollary 2,
// https://arxiv.org/abs/1906.09712.
func radius(n int, alpha float64) float64 {
	if n < 1 {
		return 1
	}
	t := float64(n)
	return min(1, 0.85*math.Sqrt((math.Log(1+math.Log(t))+0.8*math.Log(1612/alpha))/t))
}

// Slower returns by how much the bands of two distributions are apart where the
// new version is slower than the old one, and a latency that the old version's
// requests stay below more often by that; 0 or less says that they overlap. When the new
// version is slower nowhere, the chance that it is ever above 0 is at most alpha.
func Slower(old, new *Latencies, alpha float64) (apart float64, at time.Duration) {
	both := radius(old.n, alpha/2) + radius(new.n, alpha/2)
	if both >= 1 { // no two distributions are further apart
		return 1 - both, 0
	}
	most, best, sum := 0, 0, 0 // in units of 1/(old.n new.n)
	for i := range bins {
		if sum += old.count[i]*new.n - new.count[i]*old.n; sum > most {
			most, best = sum, i
		}
	}
	return float64(most)/float64(old.n)/float64(new.n) - both, binEnd(best)
}
