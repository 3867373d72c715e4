package split

import (
	"fmt"
	"math"
)

// Decision is what a sequential test has come to.
type Decision int

// Undecided wants more samples; the others are final.
const (
	Undecided Decision = iota
	AcceptP0
	AcceptP1
)

func (d Decision) String() string { return [...]string{"undecided", "accept p0", "accept p1"}[d] }

// Sequential is Wald's sequential probability ratio test between two rates that are fixed before the first sample. It
// may be looked at after every sample, which a test with a fixed n does not allow.
//
// Wald (1945), https://doi.org/10.1214/aoms/1177731118. His bounds ln((1-beta)/alpha) and ln(beta/(1-alpha)) hold the
// error rates only approximately; the slightly wider ln(1/alpha) and ln(beta) used here hold them strictly.
type Sequential struct {
	hit, miss    float64 // what one sample adds to the log of the likelihood ratio p1 : p0
	lower, upper float64
	hits, n      int
	decision     Decision
}

// NewSequential tests rate p0 against rate p1, both in (0,1): AcceptP1 is wrong with probability at most alpha, AcceptP0
// at most beta.
func NewSequential(p0, p1, alpha, beta float64) (*Sequential, error) {
	within := func(f, limit float64) bool { return f > 0 && f < limit }
	if !within(p0, 1) || !within(p1, 1) || p0 == p1 {
		return nil, fmt.Errorf("making a sequential test: rates %v and %v are not two different ones between 0 and 1", p0, p1)
	}
	if !within(alpha, 0.5) || !within(beta, 0.5) {
		return nil, fmt.Errorf("making a sequential test: alpha %v and beta %v are not between 0 and 0.5", alpha, beta)
	}
	return &Sequential{
		hit: math.Log(p1 / p0), miss: math.Log((1 - p1) / (1 - p0)),
		lower: math.Log(beta), upper: -math.Log(alpha),
	}, nil
}

// Add takes one sample. After a decision it changes nothing: what comes later is not part of the test.
func (s *Sequential) Add(hit bool) {
	if s.decision != Undecided {
		return
	}
	s.n++
	if hit {
		s.hits++
	}
	// Products of counts, not a running sum: no rounding errors pile up.
	switch ratio := float64(s.hits)*s.hit + float64(s.n-s.hits)*s.miss; {
	case ratio >= s.upper:
		s.decision = AcceptP1
	case ratio <= s.lower:
		s.decision = AcceptP0
	}
}

// Decision returns where the test stands.
func (s *Sequential) Decision() Decision { return s.decision }

// N returns how many samples the test has taken.
func (s *Sequential) N() int { return s.n }
