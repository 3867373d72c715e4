package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// plain is how to say it instead of words that a reader has to decode, and of spellings that are not US English.
var plain = map[string]string{
	`mend(s|ed|ing)?`: "fix, repair",
	`heed(s|ed|ing)?`: "accept, follow, read",
	`anew`:            "again; recreated",
	`afresh`:          "again",
	`thereby`:         "so",
	`(it|this|that|which|what|certificate|proxy) (is|are) none( of)?`: "say what it is",
	`beside`:           "besides, next to, in parallel with",
	`told|tells?`:      "say, report, list",
	`in force`:         "active",
	`rests? on`:        "depends on",
	`not tested`:       "ERROR, SKIPPED",
	`under one's eyes`: "during this wait",
	`put(s)? away`:     "clean up",
	`colour\w*`:        "color",
	`behaviour\w*`:     "behavior",
	`(un)?favour\w*`:   "favor",
	`neighbour\w*`:     "neighbor",
	`honour\w*`:        "honor",
	`grey`:             "gray",
	`centre\w*`:        "center",
	`catalogue\w*`:     "catalog",
	`cancell(ed|ing)`:  "canceled, canceling",
	`labell(ed|ing)`:   "labeled, labeling",
	`modell(ed|ing)`:   "modeled, modeling",
	`(organ|recogn|initial|serial|normal|synchron|optim|minim|maxim|standard|summar)is(e|es|ed|ing|ation)`: "-ize",
	`analys(e|es|ed|ing)`: "analyze",
}

// unplainWord finds a word of plain, and not a part of another one.
var unplainWord = regexp.MustCompile(`(?i)(?:^|[^\w-])(` + strings.Join(slices.Sorted(maps.Keys(plain)), "|") + `)(?:$|[^\w-])`)

// unplain returns "file:line: word: instead" for each line of text that has a word of plain.
func unplain(where string, line int, text string) (found []string) {
	for i, l := range strings.Split(text, "\n") {
		m := unplainWord.FindStringSubmatch(l)
		if m == nil {
			continue
		}
		for word, instead := range plain {
			if regexp.MustCompile(`(?i)^(` + word + `)$`).MatchString(m[1]) {
				found = append(found, fmt.Sprintf("%s:%d: %q: use %s", where, line+i, m[1], instead))
			}
		}
	}
	return found
}

// prose returns what of a file people read: the comments and strings of Go, and all of other texts.
func prose(name, text string) (found []string, err error) {
	if !strings.HasSuffix(name, ".go") {
		return unplain(name, 1, text), nil
	}
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, name, text, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	for _, group := range f.Comments {
		for _, c := range group.List {
			found = append(found, unplain(name, set.Position(c.Pos()).Line, c.Text)...)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
			found = append(found, unplain(name, set.Position(l.Pos()).Line, l.Value)...)
		}
		return true
	})
	return found, nil
}

func TestWordsArePlain(t *testing.T) {
	files := 0
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", ".test", "bin", "testdata", "upstream", "embedded", "node_modules"}, d.Name()) ||
				name == filepath.Join("bootstrap", "images", "modules") { // a changed comment there rebuilds an image
				return filepath.SkipDir
			}
			return nil
		}
		isScript := filepath.Dir(name) == "scripts" || name == "Makefile" || name == filepath.Join(".ci", "run")
		switch ext := filepath.Ext(name); {
		case strings.HasSuffix(name, "_test.go"):
			return nil
		case !isScript && !slices.Contains([]string{".go", ".md", ".yaml", ".py", ".sh", ".toml"}, ext):
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		files++
		found, err := prose(filepath.ToSlash(name), string(text))
		for _, f := range found {
			t.Error(f)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 150 {
		t.Errorf("only %d files were read: this test looks in the wrong place", files)
	}
}

func TestEachWordIsFound(t *testing.T) {
	for text, want := range map[string]int{
		"package x\n\n// It mends the file.\nvar s = `beside` + \"a Colour\"":       3,
		"package x\n\nvar told = besides // remember, recommend, tell-tale, retold": 0,
		"// Package that is none.\npackage x":                                       1,
	} {
		if found, err := prose("x.go", text); err != nil || len(found) != want {
			t.Errorf("%q: %v, %q", text, err, found)
		}
	}
	if found, err := prose("a.md", "one\nIt is in force, and\n\nlabelled"); err != nil || len(found) != 2 || !strings.HasPrefix(found[0], "a.md:2: \"in force\": use active") {
		t.Errorf("%v, %q", err, found)
	}
}
