// Package arch keeps the plan of the house true: which package may import what, and why. docs/architecture.md is the
// plan in words.
//
// The rules are for the program: tests may reach across, and the nested modules of bootstrap/images are not part of it.
package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// ours is the module's path; imports of our own packages begin with it.
const ours = "mllab.local/"

// rule forbids files to import paths. A pattern is a path, or one with all below it: "internal/...".
type rule struct {
	files, butFiles []string // folders or single files, from the repository's root
	paths, butPaths []string
	why             string
}

// only: nobody but those in these places imports what.
func only(what, why string, places ...string) rule {
	return rule{files: []string{"..."}, butFiles: places, paths: []string{what}, why: why}
}

// never: the package does not import these.
func never(who, why string, paths ...string) rule {
	return rule{files: []string{who}, paths: paths, why: why}
}

// just: the package imports these, the standard library, and nothing else.
func just(who, why string, paths ...string) rule {
	return rule{files: []string{who}, paths: []string{"..."}, butPaths: paths, why: why}
}

func rules() []rule {
	with := func(r rule, paths ...string) rule { r.butPaths = append(r.butPaths, paths...); return r }
	const client = "sigs.k8s.io/controller-runtime/pkg/client"
	return []rule{
		// Each large library behind one door.
		with(only("sigs.k8s.io/controller-runtime/...", "internal/kube is mllab's one hand on a cluster", "internal/kube"), client),
		only(client, "kube.Client is a client.Client, whose options and keys its two users may name; nobody else reads a cluster", "internal/kube", "addons", "scenarios"),
		only("k8s.io/client-go/...", "how a cluster is reached is internal/kube's business", "internal/kube"),
		only("github.com/fluxcd/pkg/ssa/...", "server-side apply and readiness are internal/kube's business", "internal/kube"),
		only("github.com/fluxcd/cli-utils/...", "server-side apply and readiness are internal/kube's business", "internal/kube"),
		only("github.com/fluxcd/pkg/kustomize/...", "what Flux builds of a folder is decided in one place", "internal/kustomize"),
		only("github.com/fluxcd/pkg/sourceignore", "what Flux has of a commit is decided in one place", "internal/git"),
		only("helm.sh/helm/...", "Helm's last v3 feature release is out: the swap to v4 must be one file", "internal/chart"),
		only("istio.io/...", "what Istio is on the lab is decided in one file, when mllab is built: mllab itself would be larger and slower", "manifests/render"),
		only("github.com/go-git/...", "the lab's repository has one client", "internal/git"),
		only("sigs.k8s.io/kustomize/...", "kustomize fetches what it is told to: one file sees to it that it does not", "internal/kustomize"),
		only("sigs.k8s.io/kind/...", "kind cannot be cancelled and keeps a failed command's words to itself: one file makes up for both", "bootstrap/kind.go"),
		only("github.com/google/go-containerregistry/...", "images are made and kept in one place, and the lab's registry has one client", "bootstrap/images", "internal/oci", "cmd/modelcar"),
		only("github.com/containerd/...", "only the node image holds containerd's records", "bootstrap/images"),
		never("...", "it is Linux's alone, and mllab must compile for macOS: what needs Linux runs in the node", "github.com/containerd/containerd/v2/plugins/snapshots/..."),
		only("knative.dev/...", "only a story checks a Knative Service as Knative's webhook would; addons send what was rendered", "scenarios"),
		only("github.com/spf13/...", "flags are words, and words are the command line's", "cmd/mllab"),
		only("go.yaml.in/...", "only a user's YAML needs its lines; all other is Kubernetes' dialect, by sigs.k8s.io/yaml; and a person's kubeconfig keeps its comments", "scenarios/file", "internal/kubeconfig"),
		only("github.com/schollz/progressbar/...", "only internal/report knows what a terminal is", "internal/report"),
		only("golang.org/x/term", "only internal/report knows what a terminal is", "internal/report"),
		with(only("github.com/prometheus/...", "only the sample model has metrics of its own", "sampleapp"), "github.com/prometheus/common/..."),
		only("github.com/prometheus/common/...", "what Prometheus answers is read in one place", "internal/prom"),

		// Arrows go one way: cmd -> {bootstrap, scenarios, addons} -> internal.
		never("cmd/mllab", "cmd is words and flags and knows no Kubernetes",
			"k8s.io/...", "sigs.k8s.io/...", "knative.dev/...", ours+"internal/kube", ours+"internal/chart"),
		// A release of a chart is what a story is about, as an apply is: so internal/chart is not among these.
		never("scenarios", "scenarios proves what is there and knows no installer",
			ours+"bootstrap/...", ours+"addons", ours+"cmd/..."),
		never("scenarios", "a run says what happens by its events: who shows them is above it", ours+"internal/report"),
		just("view", "what is shown of a run is in its events", ours+"internal/fault", ours+"internal/split", ours+"scenarios"),
		never("addons", "an addon knows neither who made its cluster nor what is proven on it",
			ours+"bootstrap/...", ours+"scenarios", ours+"cmd/..."),
		never("bootstrap", "a cluster is made without knowing what is proven on it",
			ours+"scenarios", ours+"internal/chart", ours+"cmd/..."),
		never("bootstrap/images/...", "images are made before there is a cluster",
			ours+"bootstrap", ours+"addons", ours+"scenarios", ours+"internal/kube", ours+"internal/chart", ours+"cmd/..."),
		with(never("internal/...", "internal packages know nothing above them, but for the sample model's words and the YAML", ours+"..."), ours+"internal/...", ours+"sampleapp/api", ours+"manifests"),

		// Small packages that stay small.
		just("manifests", "manifests is data", ours+"internal/fault"),
		just("sampleapp", "the sample model is a program of its own that must build anywhere", "github.com/prometheus/client_golang/...", ours+"sampleapp/api"),
		just("cmd/agent", "what runs in a pod has its rights and its size: no client library speaks for it to the cluster", ours+"internal/incluster"),
		just("cmd/gitserver", "who lets pushes in is small enough to be read", ours+"internal/incluster"),
		just("cmd/modelcar", "what packs and fetches models knows no cluster", "github.com/google/go-containerregistry/...", ours+"internal/oci"),
		just("internal/incluster", "a pod's few calls need no client library"),
		just("cmd/notebook-runner", "what runs in a pod has its rights and its size: no library speaks for it to the cluster",
			"sigs.k8s.io/yaml", ours+"internal/delivery", ours+"internal/git", ours+"internal/incluster", ours+"internal/notebook", ours+"manifests"),
		just("internal/delivery", "a contract is words: both of its ends can name it"),
		just("internal/split", "the judge is mathematics: who checks it needs to read nothing else"),
		just("internal/probe", "what measures does not depend on what is measured, but for its words", "github.com/google/uuid", ours+"sampleapp/api"),
		just("sampleapp/api", "a contract is words: both of its ends can name it"),
		just("scenarios/file", "what a user's file may do is judged without a cluster", "github.com/santhosh-tekuri/jsonschema/v6", "go.yaml.in/yaml/v3", ours+"internal/fault", ours+"internal/split", ours+"sampleapp/api"),
		just("internal/mask", "what is masked can be read in one place"),
		just("internal/fault", "every package may return a fault, so it depends on none"),
		just("internal/run", "a process is the operating system's", ours+"internal/fault"),
		just("internal/report", "talking is terminals and text", "github.com/schollz/progressbar/v3", "golang.org/x/term"),
	}
}

// banned calls make a program that cannot be stopped, tested or understood; package main may end the process.
var banned = []struct {
	pkg, name string
	main      bool // package main may
	why       string
}{
	{"time", "Sleep", false, "it cannot be cancelled: wait for a ticker or a timer, and for the context"},
	{"os", "Exit", true, "it skips what is deferred: return an error, and let main choose the exit code"},
	{"syscall", "Exit", true, "it skips what is deferred: return an error, and let main choose the exit code"},
	{"log", "Fatal", true, "it skips what is deferred: return an error, and let main choose the exit code"},
	{"log", "Fatalf", true, "it skips what is deferred: return an error, and let main choose the exit code"},
	{"log", "Fatalln", true, "it skips what is deferred: return an error, and let main choose the exit code"},
}

const initWhy = "it runs before anyone asked for it: call a function where its result is needed"

const contextWhy = "nobody sees whose it is and when it ends: pass it to what needs it, or to a function that is made where it is known"

// source is one Go file.
type source struct {
	path   string // from the repository's root, with slashes
	syntax *ast.File
}

func parse(set *token.FileSet, path string, text any) (source, error) {
	f, err := parser.ParseFile(set, path, text, parser.SkipObjectResolution)
	return source{path, f}, err
}

// matches reports whether a pattern is name, or has it below.
func matches(pattern, name string) bool {
	if pattern == "..." {
		return true
	}
	if above, all := strings.CutSuffix(pattern, "/..."); all {
		return name == above || strings.HasPrefix(name, above+"/")
	}
	return pattern == name
}

func anyMatches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, name) })
}

// in reports whether one of the patterns names the file or its folder.
func (s source) in(patterns []string) bool {
	return anyMatches(patterns, s.path) || anyMatches(patterns, path.Dir(s.path))
}

// standard reports whether an import path is the standard library's: the others begin with a host name.
func standard(importPath string) bool {
	host, _, _ := strings.Cut(importPath, "/")
	return !strings.Contains(host, ".")
}

func (r rule) forbids(s source, importPath string) bool {
	return s.in(r.files) && !s.in(r.butFiles) &&
		anyMatches(r.paths, importPath) && !anyMatches(r.butPaths, importPath) && !standard(importPath)
}

// wrong returns a sentence for each violation: the file and line, what, and why not.
func wrong(set *token.FileSet, s source, rules []rule) (says []string) {
	say := func(at ast.Node, what, why string) {
		says = append(says, fmt.Sprintf("%s:%d: %s: %s", s.path, set.Position(at.Pos()).Line, what, why))
	}
	local := map[string]string{} // name in this file -> import path
	for _, i := range s.syntax.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			say(i, "imports "+i.Path.Value, err.Error())
			continue
		}
		local[path.Base(p)] = p
		if i.Name != nil {
			delete(local, path.Base(p))
			local[i.Name.Name] = p
		}
		for _, r := range rules {
			if r.forbids(s, p) {
				say(i, "imports "+p, r.why)
			}
		}
	}
	ast.Inspect(s.syntax, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Name.Name == "init" && n.Recv == nil {
				say(n, "has an init function", initWhy)
			}
		case *ast.StructType:
			for _, f := range n.Fields.List {
				of, ok := f.Type.(*ast.SelectorExpr)
				if !ok || len(f.Names) == 0 || of.Sel.Name != "Context" { // an embedded one is a context of its own
					continue
				}
				if x, ok := of.X.(*ast.Ident); ok && local[x.Name] == "context" {
					say(f, "keeps a context in a struct", contextWhy)
				}
			}
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if !ok {
				break
			}
			for _, b := range banned {
				if local[x.Name] == b.pkg && n.Sel.Name == b.name && !(b.main && s.syntax.Name.Name == "main") {
					say(n, "uses "+b.pkg+"."+b.name, b.why)
				}
			}
		}
		return true
	})
	return says
}

// root is the repository's folder.
const root = "../.."

// program reads every Go file of the module but its tests.
func program(t *testing.T, set *token.FileSet) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, nested := os.Stat(filepath.Join(p, "go.mod"))
			if rel != "." && (nested == nil || strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		s, err := parse(set, filepath.ToSlash(rel), text)
		all = append(all, s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestPackagesImportOnlyWhatThePlanAllows(t *testing.T) {
	set := token.NewFileSet()
	all := program(t, set)
	if len(all) < 40 {
		t.Fatalf("only %d files were found: this test is looking in the wrong place", len(all))
	}
	for _, s := range all {
		for _, says := range wrong(set, s, rules()) {
			t.Error(says)
		}
	}
}

func TestEveryRuleIsAboutSomethingThatIsThere(t *testing.T) {
	set := token.NewFileSet()
	all := program(t, set)
	imported := func(place, pattern string) bool {
		return slices.ContainsFunc(all, func(s source) bool {
			return s.in([]string{place}) && slices.ContainsFunc(s.syntax.Imports, func(i *ast.ImportSpec) bool {
				p, err := strconv.Unquote(i.Path.Value)
				return err == nil && matches(pattern, p)
			})
		})
	}
	for _, r := range rules() {
		for _, place := range slices.Concat(r.files, r.butFiles) {
			if !slices.ContainsFunc(all, func(s source) bool { return s.in([]string{place}) }) {
				t.Errorf("rule %q is about %s, which does not exist", r.why, place)
			}
		}
		// Who alone may import something does; else the door is elsewhere by now.
		for _, place := range r.butFiles {
			if !imported(place, r.paths[0]) {
				t.Errorf("rule %q lets %s import %s, which it does not", r.why, place, r.paths[0])
			}
		}
		for _, p := range r.butPaths {
			if !slices.ContainsFunc(r.files, func(f string) bool { return imported(f, p) }) {
				t.Errorf("rule %q allows %s, which nobody imports", r.why, p)
			}
		}
	}
}

// The project is given these libraries, whatever could do without them.
func TestTheGivenLibrariesAreUsed(t *testing.T) {
	all := program(t, token.NewFileSet())
	for _, given := range []string{
		"sigs.k8s.io/kind/pkg/cluster", "helm.sh/helm/v3/...", "knative.dev/serving/...", "istio.io/istio/operator/...",
		"github.com/spf13/cobra", "github.com/schollz/progressbar/v3",
	} {
		if !slices.ContainsFunc(all, func(s source) bool {
			return slices.ContainsFunc(s.syntax.Imports, func(i *ast.ImportSpec) bool {
				p, err := strconv.Unquote(i.Path.Value)
				return err == nil && matches(given, p)
			})
		}) {
			t.Errorf("no program imports %s", given)
		}
	}
}

func TestEveryRuleCanFail(t *testing.T) {
	set := token.NewFileSet()
	for _, r := range rules() {
		// A file that the rule is for, and an import that it forbids there.
		file := strings.ReplaceAll(strings.ReplaceAll(r.files[0], "/...", "/x"), "...", "elsewhere") + "/x.go"
		for _, p := range r.paths {
			p = strings.ReplaceAll(p, "...", "example.com/x")
			s, err := parse(set, file, "package x\n\nimport _ "+strconv.Quote(p)+"\n")
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("%s:3: imports %s: %s", file, p, r.why)
			if got := wrong(set, s, []rule{r}); len(got) != 1 || got[0] != want {
				t.Errorf("got %q, want %q", got, want)
			}
			for _, place := range r.butFiles {
				if s.path = place + "/x.go"; strings.HasSuffix(place, ".go") {
					s.path = place
				}
				if got := wrong(set, s, []rule{r}); len(got) > 0 {
					t.Errorf("%s is allowed: %q", place, got)
				}
			}
		}
	}
}

func TestWhatCannotBeStoppedIsRefused(t *testing.T) {
	set := token.NewFileSet()
	for name, tc := range map[string]struct {
		text string
		want []string
	}{
		"a sleep":                  {"package x\nimport \"time\"\nfunc f() { time.Sleep(1) }", []string{"uses time.Sleep"}},
		"a sleep by another name":  {"package x\nimport nap \"time\"\nvar f = nap.Sleep", []string{"uses time.Sleep"}},
		"an exit":                  {"package x\nimport \"os\"\nfunc f() { os.Exit(1) }", []string{"uses os.Exit"}},
		"an exit in main":          {"package main\nimport \"os\"\nfunc main() { os.Exit(1) }", nil},
		"a sleep in main":          {"package main\nimport \"time\"\nfunc main() { time.Sleep(1) }", []string{"uses time.Sleep"}},
		"a context in a struct":    {"package x\nimport \"context\"\ntype t struct{ ctx context.Context }", []string{"keeps a context in a struct"}},
		"a context of its own":     {"package x\nimport \"context\"\ntype t struct{ context.Context }", nil},
		"a context that is passed": {"package x\nimport \"context\"\ntype t struct{ f func(ctx context.Context) }", nil},
		"an init":                  {"package x\nfunc init() {}", []string{"has an init function"}},
		"a method called init":     {"package x\ntype t struct{}\nfunc (t) init() {}", nil},
		"another Sleep":            {"package x\nimport \"example.com/time2\"\nfunc f() { time2.Sleep(1) }", nil},
		"a variable called os":     {"package x\ntype t struct{ Exit func() }\nfunc f(os t) { os.Exit() }", nil},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := parse(set, "x/x.go", tc.text)
			if err != nil {
				t.Fatal(err)
			}
			got := wrong(set, s, nil)
			if len(got) != len(tc.want) || len(got) == 1 && !strings.Contains(got[0], tc.want[0]) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
