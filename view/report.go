package view

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"mllab.local/scenarios"
)

//go:embed style.css
var style string

//go:embed report.html
var reportPage string

// HTML writes the record as one page that needs no other file and no network.
func (r *Record) HTML(w io.Writer) error {
	code := script()
	t, err := template.New("report").Funcs(template.FuncMap{
		"style":   func() template.CSS { return template.CSS(styles()) }, //nolint:gosec // our own file and the library's
		"script":  func() template.JS { return template.JS(code) },       //nolint:gosec // as above
		"allowed": func() string { return allowed(code) },
		"lower":   func(verdict string) string { return strings.ReplaceAll(strings.ToLower(verdict), " ", "-") },
		"base":    filepath.Base,
		"color":   func(leg int) int { return leg % legColors },
		"diff":    diffLines,
		"ms":      milliseconds,
	}).Parse(reportPage)
	if err == nil {
		err = t.Execute(w, r)
	}
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// Calls are the commands that asked for the runs, each once, with what they met.
func (r *Record) Calls() (all []scenarios.Call) {
	for _, each := range r.Runs {
		if c := each.Story.Call; c.Command != "" && !slices.ContainsFunc(all, func(has scenarios.Call) bool {
			return has.Command == c.Command && has.Lab == c.Lab && maps.Equal(has.Versions, c.Versions)
		}) {
			all = append(all, c)
		}
	}
	return all
}

// Passed counts the runs with each verdict, as a sentence.
func (r *Record) Passed() string {
	counts := map[string]int{}
	for _, each := range r.Runs {
		counts[each.Verdict()]++
	}
	var words []string
	for _, verdict := range slices.Sorted(maps.Keys(counts)) {
		words = append(words, fmt.Sprintf("%d %s", counts[verdict], verdict))
	}
	return strings.Join(words, ", ")
}

// Shown are the places of the steps that a report has: those that were judged or
// failed.
func (r *run) Shown() (places []int) {
	for n, s := range r.Steps {
		if s.Checked != nil || s.Error != "" {
			places = append(places, n)
		}
	}
	return places
}

// Number is a step's number among those that were judged, and 0 for another one.
func (r *run) Number(n int) (number int) {
	if r.Steps[n].Checked == nil {
		return 0
	}
	for _, s := range r.Steps[:n+1] {
		if s.Checked != nil {
			number++
		}
	}
	return number
}

// Mark reports whether a step's claim holds.
func (s *step) Mark() string {
	switch {
	case s.Checked != nil && s.Checked.Pass:
		return "ok"
	case s.Error != "":
		return "FAIL"
	}
	return "-"
}

// milliseconds has three digits, and no exponent.
func milliseconds(v float32) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

type diffLine struct{ Class, Text string }

func diffLines(diff string) (lines []diffLine) {
	for line := range strings.Lines(diff) {
		class := ""
		switch {
		case strings.HasPrefix(line, "+++"), strings.HasPrefix(line, "---"):
			class = "file"
		case strings.HasPrefix(line, "+"):
			class = "more"
		case strings.HasPrefix(line, "-"):
			class = "less"
		}
		lines = append(lines, diffLine{class, line})
	}
	return lines
}
