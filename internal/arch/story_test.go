package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// stories returns the files of package scenarios that the page does not call engine, verbs or users' files, and the
// package's other files.
func stories(t *testing.T, set *token.FileSet) (stories, others []source) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| (?:engine|verbs|users' files) \| (.*?) \|`).FindAllStringSubmatch(string(text), -1) {
		for _, file := range regexp.MustCompile("`([^`]+[.]go)`").FindAllStringSubmatch(row[1], -1) {
			named["scenarios/"+file[1]] = true
		}
	}
	for _, s := range program(t, set) {
		switch {
		case path.Dir(s.path) != "scenarios":
		case named[s.path]:
			delete(named, s.path)
			others = append(others, s)
		default:
			stories = append(stories, s)
		}
	}
	for file := range named {
		t.Errorf("docs/architecture.md names %s, which does not exist", file)
	}
	if len(stories) < 20 {
		t.Errorf("only %d stories were found", len(stories))
	}
	return stories, others
}

// A story is read from its beginning to its end. What several of them do is a verb.
func TestAStoryIsShort(t *testing.T) {
	const most = 280
	set := token.NewFileSet()
	all, _ := stories(t, set)
	for _, s := range all {
		if lines := set.File(s.syntax.Pos()).LineCount(); lines > most {
			t.Errorf("%s has %d lines, and a story has at most %d", s.path, lines, most)
		}
	}
}

// parts returns the names of a struct's unexported fields, also of those of the structs that it embeds.
func parts(of string, files []source) (names []string) {
	for _, s := range files {
		ast.Inspect(s.syntax, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok || spec.Name.Name != of {
				return true
			}
			body, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			for _, f := range body.Fields.List {
				if embedded, ok := f.Type.(*ast.Ident); ok && len(f.Names) == 0 {
					names = append(append(names, embedded.Name), parts(embedded.Name, files)...)
				}
				for _, name := range f.Names {
					if !name.IsExported() {
						names = append(names, name.Name)
					}
				}
			}
			return false
		})
	}
	return names
}

// belowSession are the exported fields of a Session, and of its Env, that only verbs use.
var belowSession = []string{"Env", "Kube", "Sender"}

// belowVerbs returns a sentence for each place where a story uses what only verbs use: the cluster's client, what a
// Session keeps, or Kubernetes' own types. hidden are the names of what a Session keeps.
func belowVerbs(set *token.FileSet, s source, hidden []string) (says []string) {
	say := func(at ast.Node, what string) {
		says = append(says, fmt.Sprintf("%s:%d: a story uses %s: have a verb do it", s.path, set.Position(at.Pos()).Line, what))
	}
	for _, i := range s.syntax.Imports {
		p, _ := strconv.Unquote(i.Path.Value) // it compiles
		if anyMatches([]string{"k8s.io/...", "sigs.k8s.io/controller-runtime/...", ours + "internal/kube"}, p) {
			say(i, p)
		}
	}
	for _, d := range s.syntax.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv != nil && isSession(f.Recv.List[0].Type) {
			say(f, "a method of its own, "+f.Name.Name)
		}
	}
	sessions := map[string]bool{}
	ast.Inspect(s.syntax, func(n ast.Node) bool {
		if f, ok := n.(*ast.Field); ok && isSession(f.Type) {
			for _, name := range f.Names {
				sessions[name.Name] = true
			}
		}
		return true
	})
	ast.Inspect(s.syntax, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && sessions[x.Name] && slices.Contains(hidden, sel.Sel.Name) {
				say(sel, x.Name+"."+sel.Sel.Name)
			}
		}
		return true
	})
	return says
}

func isSession(e ast.Expr) bool {
	p, ok := e.(*ast.StarExpr)
	if !ok {
		return false
	}
	of, ok := p.X.(*ast.Ident)
	return ok && of.Name == "Session"
}

// A story changes the lab and looks at it by verbs: who reads it need not know what those are made of.
func TestAStoryUsesNothingBelowTheVerbs(t *testing.T) {
	set := token.NewFileSet()
	all, others := stories(t, set)
	hidden := append(parts("Session", others), belowSession...)
	if !slices.Contains(hidden, "events") || !slices.Contains(hidden, "applied") {
		t.Fatalf("a Session keeps %q: this test looks in the wrong place", hidden)
	}
	used := 0
	for _, s := range all {
		for _, says := range belowVerbs(set, s, hidden) {
			t.Error(says)
		}
	}
	for _, s := range others {
		used += len(belowVerbs(set, s, hidden))
	}
	if used < 100 {
		t.Errorf("the verbs use what is below them %d times only: this test sees too little", used)
	}
}

func TestWhatIsBelowTheVerbsIsFound(t *testing.T) {
	for text, want := range map[string]string{
		`func f(l *Session) { l.Kube.Pods() }`:                                       "l.Kube",
		`func (s *story) f(ctx context.Context, run *Session) { run.events.x() }`:    "run.events",
		`var f = func(_ context.Context, l *Session) error { l.kept++; return nil }`: "l.kept",
		`func f(l *Session) { l.Env.Kube.Pods() }`:                                   "l.Env",
		`func f(l *Session) { l.Sender = nil }`:                                      "l.Sender",
		`func (l *Session) f() {}`:                                                   "a method of its own, f",
		`import "k8s.io/api/core/v1"`:                                                "k8s.io/api/core/v1",
		`import . "mllab.local/internal/kube"`:                                       "mllab.local/internal/kube",
		`func f(l *Session, s *story) { l.apply(s.events, l.Namespace) }`:            "",
		`import "knative.dev/serving/pkg/apis/serving"`:                              "",
	} {
		set := token.NewFileSet()
		s, err := parse(set, "scenarios/x.go", "package scenarios\n"+text)
		if err != nil {
			t.Fatal(err)
		}
		state, err := parse(set, "scenarios/session.go", "package scenarios\ntype Session struct { *Env; Namespace string; events int; part }\ntype part struct { kept int }")
		if err != nil {
			t.Fatal(err)
		}
		says := belowVerbs(set, s, append(parts("Session", []source{state}), belowSession...))
		if want == "" && len(says) > 0 || want != "" && (len(says) != 1 || !strings.Contains(says[0], "uses "+want+":")) {
			t.Errorf("%s: got %q, want %q", text, says, want)
		}
	}
}

// A verb serves any story, so it needs none: what both name, the verb declares.
func TestAVerbNeedsNoStory(t *testing.T) {
	set := token.NewFileSet()
	all, others := stories(t, set)
	of := map[string]string{} // name that a story declares -> the story
	for _, s := range all {
		for _, name := range declared(s.syntax) {
			of[name] = s.path
		}
	}
	checked := 0
	for _, s := range others {
		if path.Base(s.path) == "list.go" {
			continue
		}
		f, err := parser.ParseFile(set, filepath.Join(root, s.path), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range f.Unresolved { // here: it is the package's, an import's or the language's
			checked++
			if story := of[id.Name]; story != "" {
				t.Errorf("%s:%d: uses %s of %s: declare it in a verb's file", s.path, set.Position(id.Pos()).Line, id.Name, story)
			}
		}
	}
	if len(of) < 100 || checked < 1000 {
		t.Errorf("%d names and %d uses were found: this test sees too little", len(of), checked)
	}
}

// declared returns the names that a file declares in its package.
func declared(f *ast.File) (names []string) {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil {
				names = append(names, d.Name.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					names = append(names, spec.Name.Name)
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						names = append(names, name.Name)
					}
				}
			}
		}
	}
	return names
}
