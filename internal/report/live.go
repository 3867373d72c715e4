package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/schollz/progressbar/v3"
)

// live is the area at the bottom: a line about one step, and below it what that counts. The step is the first running
// one that counts something, or else the one that runs longest. No line reaches the last column, where some terminals
// would wrap it, and there are fewer lines than the terminal has rows, so that the cursor can go back up.
func (r *reporter) live() []string {
	if !r.Live || r.closed || len(r.running) == 0 {
		return nil
	}
	t, bars := r.running[0], []Bar(nil)
	for _, each := range r.running {
		if each.bars == nil {
			continue
		}
		if bars = each.bars(); len(bars) > 0 {
			t = each
			break
		}
	}
	columns, rows := r.room()
	columns = max(columns-1, 0)
	bars = bars[:min(len(bars), max(rows-2, 0))]
	return append([]string{r.liveLine(t, columns)}, r.barLines(bars, columns)...)
}

// liveLine is steps done of those begun, then the step t. It has no line break.
func (r *reporter) liveLine(t *task, columns int) string {
	now := r.Now()
	text := fmt.Sprintf("%s %s", t.name, clock(now.Sub(t.begin)))
	if state := t.state(now); state != "" {
		text += "  " + state
	}
	others := ""
	if n := len(r.running) - 1; n > 0 {
		others = fmt.Sprintf("  +%d more", n)
	}
	bar := overall(r.ended, r.begun)
	line := []rune(bar + cut(text, columns-length(bar+others)) + others)
	return string(line[:min(len(line), columns)])
}

// How wide a bar and its name may be, and how wide a bar is at least.
const (
	mostCells, leastCells = 24, 4
	mostName              = 24
)

// barLines draws bars below each other, aligned. A narrow terminal gets shorter bars, then cut lines.
func (r *reporter) barLines(bars []Bar, columns int) []string {
	bars = slices.Clone(bars) // they are the caller's
	names, texts := 0, 0
	for i := range bars {
		// Without line breaks, but with the spaces that align.
		bars[i].Name, bars[i].Text = cut(oneLine(bars[i].Name), mostName), strings.ReplaceAll(clean(bars[i].Text), "\n", " ")
		names, texts = max(names, length(bars[i].Name)), max(texts, length(bars[i].Text))
	}
	const gaps = 6 // two columns each before the name, the bar and the text
	cells := min(max(columns-gaps-names-texts, leastCells), mostCells)
	var lines []string
	for _, b := range bars {
		full := filled(b.Share, cells)
		line := fmt.Sprintf("  %-*s  %s%s  %s", names, b.Name, strings.Repeat("█", full), strings.Repeat("░", cells-full), b.Text)
		if line = cut(line, columns); b.Bad && r.Color {
			line = "\x1b[31m" + line + "\x1b[0m"
		}
		lines = append(lines, line)
	}
	return lines
}

// filled is how many of the cells stand for share. Little is not drawn as nothing, nor nearly all as all.
func filled(share float64, cells int) int {
	switch {
	case !(share > 0):
		return 0
	case share >= 1:
		return cells
	}
	return min(max(int(math.Round(share*float64(cells))), 1), cells-1)
}

// overall draws the bar of steps. It is drawn again each time, because its total grows as steps begin, and a bar of
// the library that was once full stays so.
func overall(ended, begun int) string {
	bar := progressbar.NewOptions(begun,
		progressbar.OptionSetWriter(io.Discard),
		progressbar.OptionSetWidth(12),
		progressbar.OptionSetTheme(progressbar.Theme{Saucer: "█", SaucerPadding: "░"}),
		progressbar.OptionShowCount(),
		progressbar.OptionSetElapsedTime(false),
		progressbar.OptionSetPredictTime(false),
	)
	_ = bar.Set(ended) // its writer cannot fail, and begun > 0
	_ = bar.RenderBlank()
	return strings.TrimSpace(bar.String()) + "  "
}

func length(s string) int { return utf8.RuneCountInString(s) }

// cut shortens s to n columns.
func cut(s string, n int) string {
	r := []rune(s)
	switch {
	case len(r) <= n:
		return s
	case n < 1:
		return ""
	}
	return string(r[:n-1]) + "…"
}
