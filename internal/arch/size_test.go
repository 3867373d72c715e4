package arch

import (
	"go/token"
	"math"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// sizes returns the lines that the page says each folder has, by the row's folders, and the sum that it says.
func sizes(t *testing.T) (rows map[string]int, of map[string]string, total int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	number := func(s string) int {
		n, err := strconv.Atoi(strings.ReplaceAll(s, ",", ""))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	_, table, found := strings.Cut(string(text), "Lines of Go without tests: ")
	if !found {
		t.Fatal("docs/architecture.md does not say how many lines there are")
	}
	sum, table, _ := strings.Cut(table, ".\n")
	rows, of = map[string]int{}, map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| (.*`.*) \\| ([0-9,]+) \\|$").FindAllStringSubmatch(table, -1) {
		rows[row[1]] = number(row[2])
		for _, folder := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			of[folder[1]] = row[1]
		}
	}
	return rows, of, number(sum)
}

func TestThePageSaysWhereTheLinesAre(t *testing.T) {
	said, of, total := sizes(t)
	lines, all := map[string]int{}, 0
	set := token.NewFileSet()
	for _, s := range program(t, set) {
		n := set.File(s.syntax.Pos()).LineCount()
		all += n
		for folder := path.Dir(s.path); folder != "."; folder = path.Dir(folder) {
			if row, ok := of[folder]; ok { // the row of the nearest folder has it
				lines[row] += n
				break
			}
		}
	}
	near := func(what string, said, is int) {
		if math.Abs(float64(said-is)) > max(150, float64(is)/20) {
			t.Errorf("docs/architecture.md: %s: the page says %d lines, there are %d", what, said, is)
		}
	}
	sum := 0
	for row, n := range said {
		near(row, n, lines[row])
		sum += lines[row]
	}
	near("in all", total, all)
	near("the sum of the rows", sum, all)
	if len(said) < 8 {
		t.Errorf("only %d rows were found", len(said))
	}
}
