package scenarios

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// measured is a number with a unit, or one in words of what is measured in time.
var measured = regexp.MustCompile(`(?i)\b[0-9]+([.,][0-9]+)? ?(ns|ms|s|m|h|min|seconds?|minutes?|hours?|times|more|[kmg]i?b)\b|\b[0-9]+([.,][0-9]+)? ?%|` +
	`\b(one|two|three|four|five|six|ten|half a|twenty|thirty|sixty) (seconds?|minutes?|hours?)\b|once in a million`)

// notOurs are such numbers that no constant of the stories holds.
var notOurs = []string{
	"0 %", "100 %", // none and all
	"1 %",   // where Knative's rollout begins
	"1 MiB", // what an old Envoy mirrors
}

// copied returns the numbers in a text that a constant may hold, too.
func copied(text string) []string {
	found := measured.FindAllString(strings.ReplaceAll(text, "%%", "%"), -1)
	for i := range found {
		found[i] = strings.TrimSpace(found[i])
	}
	return slices.DeleteFunc(found, func(number string) bool { return slices.Contains(notOurs, number) })
}

// A number that is written into a lesson says something else when its constant
// changes. So each comes from its constant.
func TestNoLessonCopiesANumber(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	set, texts := token.NewFileSet(), 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		syntax, err := parser.ParseFile(set, file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(syntax, func(n ast.Node) bool {
			field, ok := n.(*ast.KeyValueExpr)
			if !ok {
				return true
			}
			if key, ok := field.Key.(*ast.Ident); !ok || !slices.Contains([]string{"Why", "WatchFor", "Summary"}, key.Name) {
				return true
			}
			ast.Inspect(field.Value, func(n ast.Node) bool {
				literal, ok := n.(*ast.BasicLit)
				if !ok || literal.Kind != token.STRING {
					return true
				}
				text, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				texts++
				for _, number := range copied(text) {
					t.Errorf("%s: %q is written into %q: take it from its constant", set.Position(literal.Pos()), number, text)
				}
				return true
			})
			return true
		})
	}
	if texts < 150 {
		t.Errorf("only %d texts were found: this test looks in the wrong place", texts)
	}
}

func TestACopiedNumberIsFound(t *testing.T) {
	for text, want := range map[string][]string{
		"Every pod takes 3 s to answer.":           {"3 s"},
		"a timeout of 0.5 s, an interval of 1m":    {"0.5 s", "1m"},
		"it waits ten seconds":                     {"ten seconds"},
		"only once in a million samples":           {"once in a million"},
		"gives it 10 %.":                           {"10 %"},
		"50 %% where 10 %% is claimed":             {"50 %", "10 %"},
		"what was over 1 MiB, bodies of 2 MiB":     {"2 MiB"},
		"v2 at 0 %, by its tag; 90/10; status 504": nil,
		"Revision 3 failed, revision 4 is a copy":  nil,
		"takes %s to answer":                       nil,
	} {
		if got := copied(text); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestLessonsNameTheirConstants(t *testing.T) {
	for scenario, wants := range map[string][]string{
		"resilience":      {"takes 6s to answer", "wait is 6s or more", "timeout of 500ms", "fails 30 % of", "up to 2 more times", "all 3 tries", "After 3 errors", "ejects the pod for 20s"},
		"circuit-breaker": {"takes 5s to answer, and 100 requests come at once", "limit of 10 requests at once", "10 requests reach the model", "not after 5s", "there are 8 callers"},
		"mesh-security":   {"that of service account shop.", "Account shop-test is a near miss", "shop-test gets 403"},
	} {
		s, err := planned(scenario, Options{})
		if err != nil {
			t.Fatal(err)
		}
		all := ""
		for _, step := range s.Steps {
			all += step.Why + " " + step.WatchFor + "\n"
		}
		for _, want := range wants {
			if !strings.Contains(all, want) {
				t.Errorf("%s: %q is not in\n%s", scenario, want, all)
			}
		}
	}
}
