package view

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"mllab.local/internal/split"
	"mllab.local/scenarios"
)

// library has uPlot (https://github.com/leeoniya/uPlot), which draws the plots, where
// scripts/build has fetched it.
//
//go:embed all:uplot/embedded
var library embed.FS

// What of it is used.
const (
	libraryFolder  = "uplot/embedded/"
	libraryScript  = libraryFolder + "uPlot.iife.min.js"
	libraryStyle   = libraryFolder + "uPlot.min.css"
	libraryLicense = libraryFolder + "LICENSE"
)

//go:embed plots.js
var plotsScript string

//go:embed report.js
var reportScript string

// script is all that the report runs: the library, with its license, and how it is
// used. It is empty where mllab was built without the library.
func script() string {
	license, noLicense := library.ReadFile(libraryLicense)
	code, noCode := library.ReadFile(libraryScript)
	if noLicense != nil || noCode != nil {
		return ""
	}
	return fmt.Sprintf("/*\n%s*/\n%s\n%s%s", license, code, plotsScript, reportScript)
}

// styles are those of the report.
func styles() string {
	rules, _ := library.ReadFile(libraryStyle) // without the library there is no plot
	return string(rules) + style
}

// allowed is the source of a Content-Security-Policy that permits this script and no other.
func allowed(script string) string {
	sum := sha256.Sum256([]byte(script))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// legColors is how many colors style.css has for versions, by their places.
const legColors = 6

// Legs are the names of those who answered, in the order of their names; of a part
// those of its run.
func (r *run) Legs() []string {
	if r.legs != nil {
		return r.legs
	}
	names := map[string]bool{}
	for _, a := range r.answers {
		if !a.lost {
			names[a.leg] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// mostPoints is how many points a curve has at most.
const mostPoints = 300

// sharesPlot is what plots.js says of it. Times are seconds since the run began.
type sharesPlot struct {
	Legs    []int           `json:"legs"` // their colors
	End     float64         `json:"end"`
	Steps   [][2]float64    `json:"steps"`
	Samples []plottedSample `json:"samples"`
	Watched [][]float64     `json:"watched"`
	Lost    []float64       `json:"lost"`
	Answers int             `json:"-"`
}

type plottedSample struct {
	Legs     []int         `json:"legs"`
	Accepted []*[2]float64 `json:"accepted"` // nil: any share is
	Points   [][]float64   `json:"points"`
}

// seconds has no more digits than an event.
func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }

// Shares are what is plotted of the share of each version over time, of a run that
// has answers.
func (r *run) Shares() *sharesPlot {
	if len(r.answers) == 0 {
		return nil
	}
	// Nothing of it is nil: it is plotted as lists.
	p, legs := &sharesPlot{
		Legs: []int{}, End: max(seconds(r.answers[len(r.answers)-1].at), 0.1), Steps: [][2]float64{}, Samples: []plottedSample{}, Lost: []float64{}, Answers: len(r.answers),
	}, r.Legs()
	for i := range legs {
		p.Legs = append(p.Legs, i%legColors)
	}
	for n, s := range r.Steps {
		if s.Checked != nil {
			p.Steps = append(p.Steps, [2]float64{seconds(s.Began.Sub(r.Began)), float64(r.Number(n))})
		}
		for i, claim := range s.Claims {
			p.Samples = append(p.Samples, plotted(claim, r.sampled(n, i), legs))
		}
	}
	p.Watched = r.watched(legs)
	for _, a := range r.answers {
		if a.lost {
			p.Lost = append(p.Lost, seconds(a.at))
		}
	}
	return p
}

// plotted is a sample as it grows, of the legs that are claimed or have answered.
func plotted(claim *scenarios.ClaimedSplit, own []answer, legs []string) plottedSample {
	p := plottedSample{Legs: []int{}, Accepted: []*[2]float64{}, Points: [][]float64{}}
	for i, leg := range legs {
		var accepted *[2]float64
		if claim != nil {
			for _, region := range claim.Regions {
				if region.Leg == leg {
					accepted = &[2]float64{float64(region.Lo) / float64(claim.N), float64(region.Hi) / float64(claim.N)}
				}
			}
		}
		if accepted != nil || slices.ContainsFunc(own, func(a answer) bool { return a.leg == leg && !a.lost }) {
			p.Legs, p.Accepted = append(p.Legs, i), append(p.Accepted, accepted)
		}
	}
	every := max(len(own)/mostPoints, 1)
	counts := map[string]int{}
	for k, a := range own {
		if !a.lost {
			counts[a.leg]++
		}
		if k%every == 0 || k == len(own)-1 {
			point := []float64{seconds(a.at), float64(k + 1)}
			for _, i := range p.Legs {
				point = append(point, float64(counts[legs[i]]))
			}
			p.Points = append(p.Points, point)
		}
	}
	return p
}

// watched are the watcher's counts of each version, by the second.
func (r *run) watched(legs []string) [][]float64 {
	by := map[int][]float64{}
	for _, a := range r.answers {
		if a.sample >= 0 {
			continue
		}
		second := int(a.at / time.Second)
		if by[second] == nil {
			by[second] = make([]float64, 2+len(legs))
			by[second][0] = float64(second) + 0.5
		}
		by[second][1]++
		if i := slices.Index(legs, a.leg); i >= 0 && !a.lost {
			by[second][2+i]++
		}
	}
	points := [][]float64{}
	for _, second := range slices.Sorted(maps.Keys(by)) {
		points = append(points, by[second])
	}
	return points
}

// latency is how long the answers of one version took.
type latency struct {
	Leg                string
	Color              int
	N                  int
	P50, P95, P99, Max float32 // milliseconds
	sorted             []float32
}

// Latencies are those of each version, by nearest rank.
func (r *run) Latencies() (all []latency) {
	for i, leg := range r.Legs() {
		l := latency{Leg: leg, Color: i % legColors}
		for _, a := range r.answers {
			if a.leg == leg && !a.lost {
				l.sorted = append(l.sorted, a.took)
			}
		}
		if len(l.sorted) == 0 {
			continue // it has answered in another part
		}
		slices.Sort(l.sorted)
		rank := func(p float64) float32 { return l.sorted[int(math.Ceil(p*float64(len(l.sorted))/100))-1] }
		l.N, l.P50, l.P95, l.P99, l.Max = len(l.sorted), rank(50), rank(95), rank(99), rank(100)
		all = append(all, l)
	}
	return all
}

// latencyPlot is what plots.js says of it.
type latencyPlot struct {
	Legs  []int       `json:"legs"` // their colors
	MS    []float64   `json:"ms"`
	Parts [][]float64 `json:"parts"`
}

// Distribution is what is plotted of latencies: which part of each version's
// answers came within a time.
func (r *run) Distribution() *latencyPlot {
	all := r.Latencies()
	if len(all) == 0 {
		return nil
	}
	least, most := math.Inf(1), 0.0
	for _, l := range all {
		least, most = min(least, float64(l.sorted[0])), max(most, float64(l.Max))
	}
	least = max(least, 0.01)
	most = max(most, 2*least)
	p := &latencyPlot{Parts: make([][]float64, len(all))}
	for k := range mostPoints {
		ms := least * math.Pow(most/least, float64(k)/(mostPoints-1))
		p.MS = append(p.MS, ms)
		for i, l := range all {
			within, _ := slices.BinarySearchFunc(l.sorted, ms, func(took float32, ms float64) int {
				if float64(took) <= ms*(1+1e-6) { // the last one is rounded
					return -1
				}
				return 1
			})
			p.Parts[i] = append(p.Parts[i], float64(within)/float64(l.N))
		}
	}
	for _, l := range all {
		p.Legs = append(p.Legs, l.Color)
	}
	return p
}

// share is a leg of a step's claim with what was counted.
type share struct {
	Leg              string
	Color            int
	Count            int
	Percent, Low, Hi float64 // with its interval at 95 %
	Accepted         string
}

// counted is what was counted in one sample.
type counted struct {
	Of     string // the model that was asked; empty: the run asks no other
	Shares []share
}

// Counted are the counts of each of a step's samples, with their intervals and
// what was accepted.
func (r *run) Counted(n int) (all []counted) {
	legs := r.Legs()
	for i, claim := range r.Steps[n].Claims {
		own, counts := r.sampled(n, i), map[string]int{}
		for _, a := range own {
			if !a.lost {
				counts[a.leg]++
			}
		}
		accepted := map[string]string{}
		if claim != nil {
			for _, region := range claim.Regions {
				accepted[region.Leg] = fmt.Sprintf("%d to %d of %d", region.Lo, region.Hi, claim.N)
				counts[region.Leg] += 0 // who answers nothing is listed, too
			}
		}
		if len(own) == 0 {
			continue
		}
		var rows []share
		for _, leg := range slices.Sorted(maps.Keys(counts)) {
			low, high := split.Interval(counts[leg], len(own), 0.95)
			rows = append(rows, share{
				Leg: leg, Color: max(slices.Index(legs, leg), 0) % legColors, Count: counts[leg], Percent: 100 * float64(counts[leg]) / float64(len(own)),
				Low: 100 * low, Hi: 100 * high, Accepted: accepted[leg],
			})
		}
		all = append(all, counted{own[0].of, rows})
	}
	return all
}
