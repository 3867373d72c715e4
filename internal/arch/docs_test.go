package arch

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// page is a page for users, cut into prose and code.
type page struct {
	path, text string
	commands   []string // lines of `sh` blocks, lines behind "$ " in other blocks, and code in sentences
}

// pages reads docs/ and those next to the README.
func pages(t *testing.T) []page {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	var all []page
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"} {
		files = append(files, filepath.Join(root, name))
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page{path: f, text: string(text), commands: commands(string(text))})
	}
	return all
}

// workflows reads the commands of the CI workflows.
func workflows(t *testing.T) (all []page) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, ".github", "workflows", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d workflows, %v", len(files), err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		p := page{path: f}
		for _, m := range regexp.MustCompile(`(?m)^\s*(?:- )?run: (.*)$`).FindAllStringSubmatch(string(text), -1) {
			p.commands = append(p.commands, m[1])
		}
		all = append(all, p)
	}
	return all
}

var inSentence = regexp.MustCompile("`([^`]+)`")

func commands(text string) (list []string) {
	inBlock, shell := false, false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if info, fence := strings.CutPrefix(line, "```"); fence {
			inBlock = !inBlock
			shell = inBlock && info == "sh"
			continue
		}
		prompt, typed := strings.CutPrefix(line, "$ ")
		switch {
		case inBlock && typed:
			list = append(list, prompt)
		case inBlock && shell:
			list = append(list, line)
		case !inBlock:
			for _, m := range inSentence.FindAllStringSubmatch(line, -1) {
				list = append(list, m[1])
			}
		}
	}
	return list
}

// words are a command line's, up to its comment or the file that it writes; a line of several commands is several lists.
func words(command string) (lists [][]string) {
	command, _, _ = strings.Cut(command, " #")
	command, _, _ = strings.Cut(command, " >")
	for _, part := range strings.Split(command, "&&") {
		if w := strings.Fields(part); len(w) > 0 {
			lists = append(lists, w)
		}
	}
	return lists
}

// vocabulary is what cmd/mllab understands.
type vocabulary struct{ verbs, flags []string }

// read finds verbs in `Use: "verb ..."` and flags in calls such as f.StringVar(&o.X, "flag", ...).
func (v *vocabulary) read(t *testing.T, s source) {
	t.Helper()
	text := func(e ast.Expr) (string, bool) {
		l, ok := e.(*ast.BasicLit)
		if !ok || l.Kind != token.STRING {
			return "", false
		}
		value, err := strconv.Unquote(l.Value)
		return value, err == nil
	}
	ast.Inspect(s.syntax, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Use" {
				if use, ok := text(n.Value); ok {
					v.verbs = append(v.verbs, strings.Fields(use)[0])
				}
			}
		case *ast.CallExpr:
			call, ok := n.Fun.(*ast.SelectorExpr)
			if !ok || !(strings.HasSuffix(call.Sel.Name, "Var") || strings.HasSuffix(call.Sel.Name, "VarP")) {
				break
			}
			for i, arg := range n.Args[1:] {
				// The name, and the letter of those that have one; after that come default and help.
				if name, ok := text(arg); ok && (i == 0 || i == 1 && strings.HasSuffix(call.Sel.Name, "VarP")) {
					v.flags = append(v.flags, name)
				}
			}
		}
		return true
	})
}

// understands says what of a call of mllab does not exist; "" when all does.
func (v vocabulary) lacks(args []string) string {
	verbs := true
	if i := slices.Index(args, "curl"); i >= 0 {
		args = args[:i+1] // what follows is a host's name and curl's flags
	}
	for i, a := range args {
		flag := strings.TrimLeft(a, "-")
		flag, _, _ = strings.Cut(flag, "=")
		switch {
		case strings.HasPrefix(a, "-"):
			verbs = false // what follows may be a flag's value
			if !slices.Contains(v.flags, flag) && flag != "help" {
				return "flag " + a
			}
		case !verbs, strings.ToUpper(a) == a, a == "…": // a value, or a placeholder
		case i == 2 && (args[1] == "run" || args[1] == "reset") && strings.HasSuffix(a, ".yaml"):
		case i == 2 && args[1] == "compile" && strings.HasSuffix(a, ".ipynb"):
		case i == 1 && args[0] == "scenario" && isScenario(a):
		case i == 2 && (args[1] == "list" || args[1] == "reset") && isScenario(a):
		case i == 1 && args[0] == "completion":
		case !slices.Contains(v.verbs, a) && a != "completion":
			return "command " + a
		}
	}
	return ""
}

// isScenario looks for a story of that name.
func isScenario(name string) bool {
	files, _ := filepath.Glob(filepath.Join(root, "scenarios", "*.go"))
	story := regexp.MustCompile(`Name:\s+"` + regexp.QuoteMeta(name) + `",\s+Summary:`)
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		return err == nil && story.Match(text)
	})
}

func TestCommandsInThePagesExist(t *testing.T) {
	var known vocabulary
	for _, s := range program(t, token.NewFileSet()) {
		if s.in([]string{"cmd/mllab"}) {
			known.read(t, s)
		}
	}
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	checked := map[string]int{}
	for _, p := range append(pages(t), workflows(t)...) {
		for _, c := range p.commands {
			for _, w := range words(c) {
				if strings.HasPrefix(w[0], "scripts/") {
					checked["scripts"]++
					if _, err := os.Stat(filepath.Join(root, w[0])); err != nil {
						t.Errorf("%s: `%s`: %v", p.path, c, err)
					}
				}
				switch filepath.Base(w[0]) {
				case "make":
					for _, target := range w[1:] {
						if strings.Contains(target, "=") {
							continue // a variable
						}
						checked["make"]++
						if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(target) + `:`).Match(makefile) {
							t.Errorf("%s: `%s`: the Makefile has no target %s", p.path, c, target)
						}
					}
				case "mllab":
					checked["mllab"]++
					if lack := known.lacks(w[1:]); lack != "" {
						t.Errorf("%s: `%s`: mllab has no %s", p.path, c, lack)
					}
				}
			}
		}
	}
	if checked["make"] < 4 || checked["mllab"] < 8 || checked["scripts"] < 3 {
		t.Errorf("only %v were found: this test reads the pages wrongly", checked)
	}
	for call, want := range map[string]string{
		"up": "", "up --port 9000 -o json": "", "scenario canary --controls": "", "curl sample -X DELETE": "", "curll sample": "command curll", "scenario NAME": "", "scenario reset canary": "", "completion bash": "",
		"upp": "command upp", "scenario canry": "command canry", "scenario reset canry": "command canry", "up --prot 1": "flag --prot", "down -x": "flag -x",
	} {
		if got := known.lacks(strings.Fields(call)); got != want {
			t.Errorf("mllab %s: lacks %q, want %q", call, got, want)
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)#]*)(?:#([^)]*))?\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noSlug  = regexp.MustCompile(`[^\w\- ]`)
)

// anchors are those that GitHub gives to the headings of a page.
func anchors(text string) (all []string) {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		all = append(all, strings.ReplaceAll(noSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return all
}

func TestLinksInThePagesLeadSomewhere(t *testing.T) {
	withAnchor := 0
	for _, p := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(p.text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			to := p.path
			if m[1] != "" {
				to = filepath.Join(filepath.Dir(p.path), m[1])
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %v", p.path, err)
				continue
			}
			if m[2] == "" {
				continue
			}
			withAnchor++
			if text, err := os.ReadFile(to); err != nil || !slices.Contains(anchors(string(text)), m[2]) {
				t.Errorf("%s: %s has no heading for #%s (%v)", p.path, to, m[2], err)
			}
		}
	}
	if withAnchor < 10 {
		t.Errorf("only %d links to a heading were found: this test reads the pages wrongly", withAnchor)
	}
}

func TestTheGoThatIsNeededIsThatOfTheModule(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	needed := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(read("go.mod"))
	for _, name := range []string{"README.md", "scripts/install", "docs/troubleshooting.md", "bootstrap/doctor.go"} {
		found := regexp.MustCompile(`Go (\S+) or newer`).FindAllStringSubmatch(read(name), -1)
		if len(found) == 0 || slices.ContainsFunc(found, func(m []string) bool { return m[1] != needed[1] }) {
			t.Errorf("%s asks for %q, and go.mod for Go %s", name, found, needed[1])
		}
	}
}

func TestEveryPageIsListed(t *testing.T) {
	list, err := os.ReadFile(filepath.Join(root, "docs", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages(t) {
		if name := filepath.Base(p.path); !strings.Contains(string(list), "("+name+")") && !strings.Contains(string(list), "(../"+name+")") && name != "README.md" {
			t.Errorf("docs/README.md does not list %s", p.path)
		}
	}
}

func TestEveryFindingOfDoctorIsExplained(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile(filepath.Join(root, "bootstrap", "doctor.go"))
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?:add|ok)\("([a-z-]+)"|\{"(tool-[a-z-]+)"`).FindAllStringSubmatch(string(code), -1) {
		ids[m[1]+m[2]] = true
	}
	if len(ids) < 10 {
		t.Errorf("only %d findings were found in doctor.go", len(ids))
	}
	for id := range ids {
		if !strings.Contains(string(text), "`"+id+"`") {
			t.Errorf("troubleshooting.md does not explain %s", id)
		}
	}
}
