package report

import (
	"io"
	"strings"

	"golang.org/x/term"
)

const (
	gap         = 2  // between two columns
	leastColumn = 20 // a narrower last column goes below its row
)

// Table writes rows in columns. On a terminal the last column, and the second where a row has more than two, wrap
// between words, so that no line is longer than the terminal is wide; a last column that would be too narrow to read, or
// for a word, goes below its row. Elsewhere nothing wraps. A word is never cut, so that a path can be copied.
func Table(w io.Writer, rows ...[]string) {
	screen, _ := terminalSize(w)
	_, _ = io.WriteString(w, table(screen, rows...)) // as all that is printed: work goes on when stdout is gone
}

// table returns rows for a screen of that many columns; 0 is no screen.
func table(screen int, rows ...[]string) string {
	widths := columnWidths(rows, screen)
	var b strings.Builder
	for _, row := range rows {
		below := ""
		if last := len(row) - 1; last > 0 && last == len(widths)-1 && screen > 0 && widths[last] < leastWidth(row[last], screen-2*gap) {
			row, below = row[:last], row[last] // too narrow to read
		}
		if below == "" || strings.Join(row, "") != "" { // an empty row has no line of its own
			writeRow(&b, row, widths)
		}
		if below != "" {
			for _, line := range wrap(below, screen-2*gap) {
				b.WriteString(strings.Repeat(" ", 2*gap) + line + "\n")
			}
		}
	}
	return b.String()
}

// leastWidth returns how wide a last column must be for text that has that much room below its row.
func leastWidth(text string, below int) int {
	least := leastColumn
	for _, word := range phrases(text) {
		if n := length(word); n <= below {
			least = max(least, n)
		}
	}
	return min(least, length(text))
}

func writeRow(b *strings.Builder, row []string, widths []int) {
	cells := make([][]string, len(row))
	height := 1
	for i, cell := range row {
		cells[i] = wrap(cell, max(widths[i], 1))
		height = max(height, len(cells[i]))
	}
	for line := range height {
		var text strings.Builder
		at := 0 // where the cell begins
		for i := range row {
			if line < len(cells[i]) && cells[i][line] != "" {
				text.WriteString(strings.Repeat(" ", at-length(text.String())) + cells[i][line])
			}
			at = max(at+widths[i], length(text.String())) + gap
		}
		b.WriteString(strings.TrimRight(text.String(), " ") + "\n")
	}
}

// columnWidths returns the width of each column, in a screen of that many columns; 0 is no screen.
func columnWidths(rows [][]string, screen int) []int {
	var widths, words []int // the longest cell, and the longest word
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths, words = append(widths, 0), append(words, 0)
			}
			for line := range strings.SplitSeq(cell, "\n") {
				widths[i] = max(widths[i], length(line))
			}
			for _, word := range phrases(cell) {
				words[i] = max(words[i], length(word))
			}
		}
	}
	last := len(widths) - 1
	if screen == 0 || last < 0 {
		return widths
	}
	room := screen - gap*last
	for _, width := range widths {
		room -= width
	}
	if room >= 0 {
		return widths
	}
	// The last column gives way down to half of the screen, then the second, then the last one again.
	room += widths[last]
	if half := screen / 2; room < half && last > 1 {
		narrow := max(widths[1]-(half-room), words[1])
		room += widths[1] - narrow
		widths[1] = narrow
	}
	widths[last] = max(room, 1)
	return widths
}

// wrap breaks each line of text between words into lines of at most width columns; a longer word has a line of its own.
// A line that fits stays as it is.
func wrap(text string, width int) (lines []string) {
	for line := range strings.SplitSeq(text, "\n") {
		lines = append(lines, wrapLine(line, width)...)
	}
	return lines
}

func wrapLine(text string, width int) []string {
	if length(text) <= width {
		return []string{text}
	}
	var lines []string
	indent := text[:len(text)-len(strings.TrimLeft(text, " "))]
	for _, word := range phrases(text) {
		n := len(lines) - 1
		if n >= 0 && length(lines[n])+1+length(word) <= width {
			lines[n] += " " + word
			continue
		}
		lines = append(lines, indent+word)
	}
	return lines
}

// phrases returns the words of text; a percent sign stays with its number, and a number with the sign before it.
func phrases(text string) (list []string) {
	for word := range strings.FieldsSeq(text) {
		if n := len(list) - 1; n >= 0 && (strings.HasPrefix(word, "%") || strings.HasSuffix(list[n], "=")) {
			list[n] += " " + word
			continue
		}
		list = append(list, word)
	}
	return list
}

// Paragraph writes text between words wrapped behind an indent.
func Paragraph(w io.Writer, indent int, text string) {
	Table(w, paragraph(indent, text))
}

func paragraph(indent int, text string) []string {
	return []string{strings.Repeat(" ", max(indent-gap, 0)), text}
}

// terminalSize returns the size of the terminal w, and zeros if w is not a terminal.
func terminalSize(w io.Writer) (columns, rows int) {
	if f, ok := fileOf(w); ok {
		columns, rows, _ = term.GetSize(int(f.Fd()))
	}
	return columns, rows
}
