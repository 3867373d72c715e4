package report

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// liveLine is the bottom line: steps done of those begun, then the step that runs longest. It has no line break and
// is short enough not to wrap.
func (r *reporter) liveLine() string {
	t := r.running[0]
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
	// A line that reaches the last column makes some terminals wrap.
	room := width(r.w) - 1 - len([]rune(bar+others))
	line := []rune(bar + cut(text, room) + others)
	return string(line[:min(len(line), max(width(r.w)-1, 0))])
}

// overall draws the bar of steps. It is drawn afresh each time, because its total grows as steps begin, and a bar of
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

// width returns the columns of the terminal w, or 80.
func width(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
			return columns
		}
	}
	return 80
}

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
