package report

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// meter says how far a step is, how fast, and for how long still.
type meter struct {
	done, total int64
	unit        string
	recent      []sample // of the last window, at most one a second
}

type sample struct {
	at   time.Time
	done int64
}

// window is the time over which the rate is computed: long enough to be steady, short enough to show a stall.
const window = 15 * time.Second

// set takes a new state and reports whether it differs from the last one.
func (m *meter) set(now time.Time, done, total int64, unit string) bool {
	changed := len(m.recent) == 0 || done != m.done || total != m.total || unit != m.unit
	if done < m.done || unit != m.unit {
		m.recent = nil // another count began
	}
	m.done, m.total, m.unit = done, total, unit
	if n := len(m.recent); n == 0 || now.Sub(m.recent[n-1].at) >= time.Second {
		m.recent = append(m.recent, sample{now, done})
	}
	return changed
}

// rate returns units per second over the window before now; 0 when it is unknown.
func (m *meter) rate(now time.Time) float64 {
	// Keep one sample from before the window: the rate needs a beginning.
	for len(m.recent) > 1 && now.Sub(m.recent[1].at) >= window {
		m.recent = m.recent[1:]
	}
	if len(m.recent) == 0 {
		return 0
	}
	if d := now.Sub(m.recent[0].at).Seconds(); d >= 1 {
		return float64(m.done-m.recent[0].done) / d
	}
	return 0
}

// text is "120.0 MB/1.2 GB, 11.8 MB/s, 1m 31s left", with what is known of it.
func (m *meter) text(now time.Time) string {
	parts := []string{m.amounts()}
	if rate := m.rate(now); rate > 0 && (m.total <= 0 || m.done < m.total) {
		parts = append(parts, m.speed(rate))
		if m.total > 0 {
			left := math.Ceil(float64(m.total-m.done) / rate)
			if left < 24*3600 { // more than a day says nothing
				parts = append(parts, clock(time.Duration(left)*time.Second)+" left")
			}
		}
	}
	return strings.Join(parts, ", ")
}

func (m *meter) amounts() string {
	switch {
	case m.unit == "B" && m.total > 0:
		return size(float64(m.done)) + "/" + size(float64(m.total))
	case m.unit == "B":
		return size(float64(m.done))
	case m.total > 0:
		return fmt.Sprintf("%d/%d %s", m.done, m.total, m.unit)
	}
	return fmt.Sprintf("%d %s", m.done, m.unit)
}

func (m *meter) speed(perSecond float64) string {
	switch {
	case m.unit == "B":
		return size(perSecond) + "/s"
	case perSecond < 1:
		return fmt.Sprintf("%.1f/min", perSecond*60)
	}
	return fmt.Sprintf("%.1f/s", perSecond)
}

// size writes n in decimal units, as download sizes are given.
func size(n float64) string {
	if n < 1000 {
		return fmt.Sprintf("%.0f B", n)
	}
	const prefixes = "kMGTP"
	i := -1
	for n >= 999.95 && i < len(prefixes)-1 { // 999.95 would be printed as 1000.0
		n /= 1000
		i++
	}
	return fmt.Sprintf("%.1f %cB", n, prefixes[i])
}

// clock writes a duration for people, in whole seconds: "41s", "1m 31s", "2h 05m".
func clock(d time.Duration) string {
	switch s := int(d.Seconds()); {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm %02ds", s/60, s%60)
	default:
		return fmt.Sprintf("%dh %02dm", s/3600, s%3600/60)
	}
}

// seconds writes a measured duration: "14.2 s", and from a minute on like clock.
func seconds(d time.Duration) string {
	if d >= time.Minute {
		return clock(d)
	}
	return fmt.Sprintf("%.1f s", math.Min(d.Seconds(), 59.9))
}
