// Package split judges from counted answers whether traffic was split as claimed.
//
// Envoy draws a leg for every request, so the count of a leg is binomial. A claim fixes the shares, the number of
// requests and alpha, the probability of refusing a split that is right, before anything is sent; the judge then accepts
// an exact interval of counts per leg and says which wrong splits that interval would have caught. Nothing is
// approximated by the normal distribution, and legs of 0 % and 100 % are exact: one stray answer fails them.
package split

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Power is the probability with which a share at or beyond Region.CaughtBelow or CaughtAbove is refused.
const Power = 0.99

// tolerance is how far shares may be from a sum of 1, and how near to 0 or 1 a share is taken as exactly that.
const tolerance = 1e-9

// Leg is one destination of a split. Share is in 0..1.
type Leg struct {
	Name  string  `json:"name"`
	Share float64 `json:"share"`
}

// Claim says how N requests are divided. Alpha is for the whole claim: the verdict on a split that is as claimed is a
// wrong FAIL with probability at most Alpha.
type Claim struct {
	Legs  []Leg   `json:"legs"`
	N     int     `json:"n"`
	Alpha float64 `json:"alpha"`
}

// Region is the interval of counts, both ends included, that is accepted for a leg. A true share at or below CaughtBelow
// or at or above CaughtAbove is refused with probability Power or more; NaN (null in JSON) where no share is.
type Region struct {
	Leg         string
	Share       float64
	Lo, Hi      int
	CaughtBelow float64
	CaughtAbove float64
}

// Verdict is the outcome with all that it depends on. Reasons are sentences for a person and empty when Pass is true.
type Verdict struct {
	Pass    bool           `json:"pass"`
	N       int            `json:"n"`
	Alpha   float64        `json:"alpha"`
	Regions []Region       `json:"regions"`
	Counts  map[string]int `json:"counts"`
	Reasons []string       `json:"reasons,omitempty"`
}

// Check returns what makes the claim impossible to judge, or nil.
func (c Claim) Check() error {
	sum, seen := 0.0, map[string]bool{}
	for _, l := range c.Legs {
		switch {
		case l.Name == "":
			return errors.New("checking the claim: a leg has no name")
		case seen[l.Name]:
			return fmt.Errorf("checking the claim: leg %s is named twice", l.Name)
		case !(l.Share >= 0 && l.Share <= 1):
			return fmt.Errorf("checking the claim: leg %s: share %v is not in 0..1", l.Name, l.Share)
		}
		seen[l.Name] = true
		sum += l.Share
	}
	switch {
	case math.Abs(sum-1) > tolerance:
		return fmt.Errorf("checking the claim: the shares add up to %s, not 100 %%", percent(sum))
	case c.N < 1:
		return fmt.Errorf("checking the claim: n is %d, and without a request there is no evidence", c.N)
	case !(c.Alpha > 0 && c.Alpha < 0.5):
		return fmt.Errorf("checking the claim: alpha %v is not between 0 and 0.5", c.Alpha)
	}
	return nil
}

// legAlpha is the part of Alpha that one leg may spend. Legs of 0 % and 100 % cannot be refused by chance. With two
// others the second count is n minus the first, so both are one test, which has all of Alpha; from three on each count
// is a test of its own and Alpha is divided by their number (Bonferroni).
func (c Claim) legAlpha() float64 {
	tests := 0
	for _, l := range c.Legs {
		if !exact(l.Share) {
			tests++
		}
	}
	if tests <= 2 {
		return c.Alpha
	}
	return c.Alpha / float64(tests)
}

func exact(share float64) bool { return share < tolerance || share > 1-tolerance }

// Needed returns how many requests the claim must have so that a leg that
// gets nothing is refused: for every leg the accepted interval then begins
// above 0. The chance of no answer in n is (1-share)^n.
func (c Claim) Needed() int {
	need := 1
	for _, l := range c.Legs {
		if !exact(l.Share) {
			need = max(need, int(math.Ceil(math.Log(c.legAlpha()/2)/math.Log1p(-l.Share))))
		}
	}
	return need
}

// Regions returns the accepted interval of every leg, in the claim's order: the narrowest that leaves at most half of the
// leg's alpha in each tail of its exact binomial. The error is Check's.
func (c Claim) Regions() ([]Region, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	alpha := c.legAlpha()
	var regions []Region
	for _, l := range c.Legs {
		r := Region{Leg: l.Name, Share: l.Share, CaughtBelow: math.NaN(), CaughtAbove: math.NaN()}
		if exact(l.Share) {
			r.Lo = c.N * int(math.Round(l.Share))
			r.Hi = r.Lo
		} else {
			r.Lo, r.Hi = newBinomial(c.N, l.Share).region(alpha / 2)
		}
		// The probability to be accepted rises up to the region and falls beyond it, so each side changes once.
		caught := func(p float64) bool { return newBinomial(c.N, p).within(r.Lo, r.Hi) <= 1-Power }
		if r.Lo > 0 {
			r.CaughtBelow, _ = bisect(0, l.Share, caught)
		}
		if r.Hi < c.N {
			_, r.CaughtAbove = bisect(l.Share, 1, func(p float64) bool { return !caught(p) })
		}
		regions = append(regions, r)
	}
	return regions, nil
}

// Between returns the interval of counts, both ends included, that is accepted of n draws when the true share may be
// anything from low to high: a share inside is refused with probability at most alpha. The error is wrong input.
func Between(n int, low, high, alpha float64) (lo, hi int, err error) {
	if n < 1 || !(0 <= low && low <= high && high <= 1) || !(alpha > 0 && alpha < 1) {
		return 0, 0, fmt.Errorf("cannot judge %d draws of a share from %v to %v with alpha %v", n, low, high, alpha)
	}
	lo, _ = newBinomial(n, low).region(alpha / 2)
	_, hi = newBinomial(n, high).region(alpha / 2)
	return lo, hi, nil
}

// Judge compares answers counted by leg name with the claim. A count under a name that is no leg, a total that is not N
// and a leg outside its region each fail with a reason. The error is Check's, or a negative count.
func (c Claim) Judge(counts map[string]int) (Verdict, error) {
	regions, err := c.Regions()
	if err != nil {
		return Verdict{}, err
	}
	v := Verdict{N: c.N, Alpha: c.Alpha, Regions: regions, Counts: map[string]int{}}
	for _, r := range regions {
		v.Counts[r.Leg] = 0 // a silent leg is evidence too
	}
	total := 0
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		got := counts[name]
		if got < 0 {
			return Verdict{}, fmt.Errorf("judging the counts: %s: %d is negative", name, got)
		}
		if _, isLeg := v.Counts[name]; !isLeg && got > 0 {
			v.Reasons = append(v.Reasons, fmt.Sprintf("stray %s: %d of %d answers came from what is no leg of this split", name, got, c.N))
		}
		v.Counts[name] = got
		total += got
	}
	if total != c.N {
		v.Reasons = append(v.Reasons, fmt.Sprintf("total: %d answers counted, %d requests claimed", total, c.N))
	}
	for _, r := range regions {
		// Lost or surplus answers are a reason of their own: a leg is blamed only if they could not clear it.
		got, lost := v.Counts[r.Leg], c.N-total
		if got+max(lost, 0) >= r.Lo && got+min(lost, 0) <= r.Hi {
			continue
		}
		accepted := fmt.Sprintf("accepted %d..%d (alpha %g)", r.Lo, r.Hi, c.Alpha)
		if exact(r.Share) {
			accepted = fmt.Sprintf("accepted exactly %d", r.Lo)
		}
		v.Reasons = append(v.Reasons, fmt.Sprintf("leg %s (%s): %d of %d answers, %s", r.Leg, percent(r.Share), got, total, accepted))
	}
	v.Pass = len(v.Reasons) == 0
	return v, nil
}

// MarshalJSON writes null for a bound that is NaN, which JSON cannot say.
func (r Region) MarshalJSON() ([]byte, error) {
	orNull := func(f float64) *float64 {
		if math.IsNaN(f) {
			return nil
		}
		return &f
	}
	return json.Marshal(struct {
		Leg         string   `json:"leg"`
		Share       float64  `json:"share"`
		Lo          int      `json:"lo"`
		Hi          int      `json:"hi"`
		CaughtBelow *float64 `json:"caughtBelow"`
		CaughtAbove *float64 `json:"caughtAbove"`
	}{r.Leg, r.Share, r.Lo, r.Hi, orNull(r.CaughtBelow), orNull(r.CaughtAbove)})
}

// ParseShares reads percentages such as "90/10" or "99.5/0.5" as shares in 0..1. At least two, plain decimals, which add
// up to 100.
func ParseShares(s string) ([]float64, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 {
		return nil, fmt.Errorf("shares %q: at least two are needed, like 90/10", s)
	}
	shares, sum := make([]float64, len(parts)), 0.0
	for i, part := range parts {
		part = strings.TrimSpace(part)
		value, err := strconv.ParseFloat(part, 64)
		// ParseFloat also reads 1e1, 0x1p4, Inf and NaN, which nobody means as a percentage.
		if err != nil || value > 100 || strings.Trim(part, "0123456789.") != "" {
			return nil, fmt.Errorf("shares %q: %q is not a percentage from 0 to 100", s, part)
		}
		shares[i] = value / 100
		sum += value
	}
	if !(math.Abs(sum-100) <= tolerance) {
		return nil, fmt.Errorf("shares %q: they add up to %s, not 100 %%", s, percent(sum/100))
	}
	return shares, nil
}

func percent(share float64) string { return strconv.FormatFloat(share*100, 'g', 6, 64) + " %" }
