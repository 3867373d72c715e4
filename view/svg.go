package view

import (
	"fmt"
	"html"
	"html/template"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"mllab.local/internal/split"
)

// Colors that differ for the color-blind, too (Okabe and Ito,
// https://jfly.uni-koeln.de/color/), by their place among a run's versions. A
// dash distinguishes lines, too. style.css has the colors.
const legColors = 6

var dashes = [legColors]string{"", "7 3", "2 3", "10 3 2 3", "5 5", "1 2"}

// A plot's size, and the room around it, in pixels of its view box.
const (
	plotWidth, plotHeight = 860.0, 260.0
	left, right           = 52.0, 12.0
	top, bottom           = 24.0, 40.0
)

type plot struct {
	strings.Builder
	x, y func(float64) float64
}

func newPlot(label string, x0, x1 float64, logarithmic bool) *plot {
	p := &plot{}
	scale := func(v float64) float64 { return v }
	if logarithmic {
		scale = math.Log10
	}
	a, b := scale(x0), scale(x1)
	p.x = func(v float64) float64 {
		return left + (plotWidth-left-right)*min(max((scale(v)-a)/(b-a), 0), 1)
	}
	p.y = func(share float64) float64 { return plotHeight - bottom - (plotHeight-top-bottom)*share }
	fmt.Fprintf(p, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, plotWidth, plotHeight, html.EscapeString(label))
	for share := 0.0; share <= 1; share += 0.25 {
		p.line("grid", left, p.y(share), plotWidth-right, p.y(share))
		p.text("end", left-6, p.y(share)+4, fmt.Sprintf("%.0f %%", 100*share))
	}
	return p
}

func (p *plot) line(class string, x1, y1, x2, y2 float64) {
	fmt.Fprintf(p, `<line class="%s" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`, class, x1, y1, x2, y2)
}

func (p *plot) text(anchor string, x, y float64, text string) {
	fmt.Fprintf(p, `<text text-anchor="%s" x="%.1f" y="%.1f">%s</text>`, anchor, x, y, html.EscapeString(text))
}

// box fills from (x1, a) to (x2, b) in the color of a leg.
func (p *plot) box(leg int, x1, x2, a, b float64) {
	height := max(p.y(a)-p.y(b), 3) // what is exact is seen, too
	fmt.Fprintf(p, `<rect class="band c%d" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, leg%legColors, x1, p.y(b)-(height-(p.y(a)-p.y(b)))/2, max(x2-x1, 2), height)
}

// path connects points of the plot's pixels.
func (p *plot) path(leg int, points [][2]float64) {
	var d strings.Builder
	for i, at := range points {
		fmt.Fprintf(&d, "%c%.1f %.1f", "ML"[min(i, 1)], at[0], at[1])
	}
	fmt.Fprintf(p, `<path class="curve c%d" stroke-dasharray="%s" d="%s"/>`, leg%legColors, dashes[leg%legColors], d.String())
}

func (p *plot) end() template.HTML {
	p.WriteString("</svg>")
	return template.HTML(p.String()) //nolint:gosec // all texts in it are escaped
}

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

// about adds to what a plot shows the model that it is about.
func (r *run) about(label string) string {
	if r.of != "" {
		label += ", of " + r.of
	}
	return label
}

// mostPoints is how many points a curve has at most.
const mostPoints = 300

// Shares plots the share of each version over time: of each sample as it grows,
// with the shares that are accepted as a band, and of the watcher by the second.
// A cross is an answer that does not count.
func (r *run) Shares() template.HTML {
	if len(r.answers) == 0 {
		return ""
	}
	last := r.answers[len(r.answers)-1].at.Seconds()
	p := newPlot(r.about("Share of each version over time"), 0, max(last, 0.1), false)
	legs := r.Legs()
	for n, s := range r.Steps {
		if s.Checked != nil {
			at := p.x(s.Began.Sub(r.Began).Seconds())
			p.line("step", at, top, at, plotHeight-bottom)
			p.text("start", at+2, top-12, fmt.Sprint(r.number(n)))
		}
		for i, each := range s.Samples {
			each.curves(p, r.sampled(n, i), legs)
		}
	}
	for i, leg := range legs {
		p.path(i, r.watched(p, leg))
	}
	lost := 0
	for _, a := range r.answers {
		if a.lost {
			lost++
			x := p.x(a.at.Seconds())
			p.line("loss", x-3, top-10, x+3, top-4)
			p.line("loss", x-3, top-4, x+3, top-10)
		}
	}
	for _, second := range ticks(last) {
		p.text("middle", p.x(second), plotHeight-bottom+16, fmt.Sprintf("%g s", second))
	}
	p.text("start", left, plotHeight-6, fmt.Sprintf("seconds since the run began; %d answers, %d lost or wrong (crosses above); bands: accepted shares", len(r.answers), lost))
	return p.end()
}

// curves draws a sample from its first answer to its last one.
func (s *sample) curves(p *plot, own []answer, legs []string) {
	if len(own) == 0 {
		return
	}
	from, to := p.x(own[0].at.Seconds()), p.x(own[len(own)-1].at.Seconds())
	if s.Claim != nil {
		for _, region := range s.Claim.Regions {
			if i := slices.Index(legs, region.Leg); i >= 0 {
				p.box(i, from, to, float64(region.Lo)/float64(s.Claim.N), float64(region.Hi)/float64(s.Claim.N))
			}
		}
	}
	every := max(len(own)/mostPoints, 1)
	for i, leg := range legs {
		count, points := 0, [][2]float64(nil)
		for k, a := range own {
			if a.leg == leg && !a.lost {
				count++
			}
			if k%every == 0 || k == len(own)-1 {
				points = append(points, [2]float64{p.x(a.at.Seconds()), p.y(float64(count) / float64(k+1))})
			}
		}
		if count > 0 {
			p.path(i, points)
		}
	}
}

// watched are the watcher's shares of a version, by the second.
func (r *run) watched(p *plot, leg string) (points [][2]float64) {
	type bucket struct{ own, all int }
	by := map[int]*bucket{}
	for _, a := range r.answers {
		if a.sample >= 0 {
			continue
		}
		second := int(a.at / time.Second)
		if by[second] == nil {
			by[second] = &bucket{}
		}
		by[second].all++
		if a.leg == leg && !a.lost {
			by[second].own++
		}
	}
	for _, second := range slices.Sorted(maps.Keys(by)) {
		points = append(points, [2]float64{p.x(float64(second) + 0.5), p.y(float64(by[second].own) / float64(by[second].all))})
	}
	return points
}

// Number is the place of a step among those that are judged, from 1.
func (r *run) number(n int) int {
	number := 0
	for _, s := range r.Steps[:n+1] {
		if s.Checked != nil {
			number++
		}
	}
	return number
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

// Distribution plots which part of each version's answers came within a time.
func (r *run) Distribution() template.HTML {
	all := r.Latencies()
	if len(all) == 0 {
		return ""
	}
	least, most := math.Inf(1), 0.0
	for _, l := range all {
		least, most = min(least, float64(l.sorted[0])), max(most, float64(l.Max))
	}
	least = max(least, 0.01)
	p := newPlot(r.about("Latency of each version: the part of its answers that came within a time"), least, max(most, 2*least), true)
	for _, l := range all {
		var points [][2]float64
		every := max(l.N/mostPoints, 1)
		for k, ms := range l.sorted {
			if k%every == 0 || k == l.N-1 {
				points = append(points, [2]float64{p.x(max(float64(ms), least)), p.y(float64(k+1) / float64(l.N))})
			}
		}
		p.path(l.Color, points)
	}
	for exponent := math.Floor(math.Log10(least)); exponent <= math.Ceil(math.Log10(most)); exponent++ {
		for _, digit := range []float64{1, 2, 5} {
			if ms := digit * math.Pow(10, exponent); ms >= least && ms <= most {
				p.line("grid", p.x(ms), top, p.x(ms), plotHeight-bottom)
				p.text("middle", p.x(ms), plotHeight-bottom+16, fmt.Sprintf("%g", ms))
			}
		}
	}
	p.text("start", left, plotHeight-6, "milliseconds until the answer was complete (logarithmic)")
	return p.end()
}

// ticks are round numbers from 0 to most, at most ten.
func ticks(most float64) (all []float64) {
	every := 1.0
	for step := 0; most/every > 10; step++ {
		every *= [...]float64{2, 2.5, 2}[step%3]
	}
	for v := 0.0; v <= most; v += every {
		all = append(all, v)
	}
	return all
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
	for i, each := range r.Steps[n].Samples {
		own, counts := r.sampled(n, i), map[string]int{}
		for _, a := range own {
			if !a.lost {
				counts[a.leg]++
			}
		}
		accepted := map[string]string{}
		if each.Claim != nil {
			for _, region := range each.Claim.Regions {
				accepted[region.Leg] = fmt.Sprintf("%d to %d of %d", region.Lo, region.Hi, each.Claim.N)
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
