package arch

import (
	"go/ast"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// notRaced start goroutines and are not under the race detector.
var notRaced = map[string]string{
	"addons/lane": "no lab runs it: developers list what is newer",
}

// starts reports whether a file starts goroutines: by a go statement, or by the method Go of a group.
func starts(f *ast.File) (found bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = true
		case *ast.CallExpr:
			if sel, ok := n.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Go" {
				found = true
			}
		}
		return !found
	})
	return found
}

func TestWhatStartsGoroutinesIsTestedForRaces(t *testing.T) {
	script, err := os.ReadFile(filepath.Join(root, "scripts", "test"))
	if err != nil {
		t.Fatal(err)
	}
	var raced []string
	for _, run := range regexp.MustCompile(`(?m)tests \S*race -race(?:\\\n|[^\n])*`).FindAllString(string(script), -1) {
		for word := range strings.FieldsSeq(run) {
			if folder, ok := strings.CutPrefix(word, "./"); ok {
				raced = append(raced, folder)
			}
		}
	}
	started := 0
	for _, s := range program(t, token.NewFileSet()) {
		folder := path.Dir(s.path)
		if !starts(s.syntax) {
			continue
		}
		started++
		if notRaced[folder] == "" && !slices.ContainsFunc(raced, func(p string) bool { return matches(p, folder) }) {
			t.Errorf("%s starts goroutines, and scripts/test has no race detector over ./%s", s.path, folder)
		}
	}
	if started < 20 {
		t.Errorf("only %d files start goroutines: this test looks in the wrong place", started)
	}
}
