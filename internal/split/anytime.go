package split

import (
	"fmt"
	"math"
)

// Worse tests while events come in whether a new version has more of them than
// an old one. It may be looked at after every event: when the new version has at
// most factor times as many per request, the chance that E ever reaches 1/alpha
// is at most alpha.
//
// The router draws a version for each request, the new one with probability
// share. So if both versions have events equally often, each event is the new
// version's with probability share, however often they come and in whatever order. E
// is how much better other probabilities, above share, explain the events: the
// ratio of the likelihoods, averaged over these probabilities evenly. Its mean is at most 1, so it
// exceeds 1/alpha with probability at most alpha (Ville's inequality).
//
// Lindon and Malek, "Anytime-Valid Inference for Multinomial Count Data",
// NeurIPS 2022, https://arxiv.org/abs/2011.03567; and Lindon, Sanden and Shirikian,
// KDD 2022, https://arxiv.org/abs/2205.14762.
type Worse struct {
	share    float64 // of the events that are the new version's, at most, when it is no worse
	old, new int     // events
	most     float64 // the highest log E so far
}

// NewWorse tests for more than factor times as many events per request, when the
// new version gets this share of the requests, in 0..1. A factor of 1 tolerates
// no difference.
func NewWorse(share, factor float64) (*Worse, error) {
	if !(share > 0 && share < 1) || !(factor >= 1) || math.IsInf(factor, 1) {
		return nil, fmt.Errorf("share must be between 0 and 1 and factor at least 1, got %v and %v", share, factor)
	}
	return &Worse{share: share * factor / (share*factor + 1 - share)}, nil
}

// Add takes the next event: the new version's, or the old one's.
func (w *Worse) Add(ofNew bool) {
	if ofNew {
		w.new++
	} else {
		w.old++
	}
	w.most = max(w.most, logE(w.old, w.new, w.share))
}

// Events returns how many there were of each version.
func (w *Worse) Events() (old, new int) { return w.old, w.new }

// E returns the evidence as it stands. It is 1 before the first event.
func (w *Worse) E() float64 { return math.Exp(logE(w.old, w.new, w.share)) }

// P returns the p-value: 1 over the highest E so far. It never rises.
func (w *Worse) P() float64 { return math.Exp(-w.most) }

// logE is the log of the integral of t^new (1-t)^old over t from share to 1,
// divided by 1-share and by the same at share. The integral is a Beta function
// times the chance of more than share in that Beta distribution, which is the
// chance of at most new hits in old+new+1 draws.
func logE(old, new int, share float64) float64 {
	logGamma := func(n int) float64 { v, _ := math.Lgamma(float64(n)); return v }
	n := old + new
	above := newBinomial(n+1, share).within(0, new)
	return logGamma(new+1) + logGamma(old+1) - logGamma(n+2) + math.Log(above) -
		math.Log1p(-share) - float64(new)*math.Log(share) - float64(old)*math.Log1p(-share)
}

// FoundFrom returns the least rate of events per request of the new version that
// would have alarmed by now with probability power or more, when it has answered
// that many requests and the old one had the events that it had; NaN where none would have.
func (w *Worse) FoundFrom(requests int, alpha, power float64) float64 {
	need := 0
	for logE(w.old, need, w.share) < -math.Log(alpha) {
		if need++; need > requests {
			return math.NaN()
		}
	}
	_, from := bisect(0, 1, func(rate float64) bool { return newBinomial(requests, rate).within(need, requests) < power })
	return from
}
