package arch

import (
	"errors"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"golang.org/x/mod/modfile"
)

var (
	codeBlock  = regexp.MustCompile("(?s)```(yaml|groovy)\n(.*?)```")
	jenkinsRun = regexp.MustCompile(`\bsh '([^']+)'`)
)

// shellOf returns the scripts that a CI system's YAML has, and the inputs that it gives to this repository's action.
func shellOf(n *yaml.Node) (scripts, inputs []string) {
	for i, child := range n.Content {
		s, in := shellOf(child)
		scripts, inputs = append(scripts, s...), append(inputs, in...)
		if n.Kind != yaml.MappingNode || i%2 == 1 {
			continue
		}
		switch value := n.Content[i+1]; child.Value {
		case "run":
			scripts = append(scripts, value.Value)
		case "script", "after_script": // each line is a command, and all are one shell's
			var lines []string
			for _, line := range value.Content {
				lines = append(lines, line.Value)
			}
			scripts = append(scripts, strings.Join(lines, "\n"))
		case "with":
			for j := 0; j < len(value.Content); j += 2 {
				inputs = append(inputs, value.Content[j].Value)
			}
		}
	}
	return scripts, inputs
}

// parses returns why bash would not read a script.
func parses(script string) error {
	cmd := exec.Command("bash", "-n")
	cmd.Stdin = strings.NewReader(script)
	return cmd.Run()
}

func TestTheSnippetsForCIAreScriptsThatParse(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "ci.md"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "action.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var action struct{ Inputs map[string]any }
	if err := yaml.Unmarshal(text, &action); err != nil {
		t.Fatal(err)
	}
	ours, err := os.ReadFile(filepath.Join(root, "scripts", "action"))
	if err != nil {
		t.Fatal(err)
	}
	var known vocabulary
	for _, s := range program(t, token.NewFileSet()) {
		if s.in([]string{"cmd/mllab"}) {
			known.read(t, s)
		}
	}
	var scripts []string
	given := 0
	for _, block := range codeBlock.FindAllStringSubmatch(string(page), -1) {
		if block[1] == "groovy" {
			for _, m := range jenkinsRun.FindAllStringSubmatch(block[2], -1) {
				scripts = append(scripts, m[1])
			}
			continue
		}
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(block[2]), &doc); err != nil {
			t.Errorf("%v in\n%s", err, block[2])
		}
		s, inputs := shellOf(&doc)
		scripts = append(scripts, s...)
		for _, name := range inputs {
			given++
			if _, is := action.Inputs[name]; !is {
				t.Errorf("action.yml has no input %s", name)
			}
		}
	}
	calls := 0
	for _, script := range scripts {
		if err := parses(script); err != nil {
			t.Errorf("%v: bash does not read\n%s", err, script)
		}
		for _, m := range regexp.MustCompile(`scripts/action (\w+)`).FindAllStringSubmatch(script, -1) {
			calls++
			if !strings.Contains(string(ours), "\n  "+m[1]+")\n") {
				t.Errorf("scripts/action has no %s", m[1])
			}
		}
		for _, m := range regexp.MustCompile(`(?m)(?:^|[/(])mllab ([a-z][^|)\n]*)`).FindAllStringSubmatch(script, -1) {
			calls++
			if lack := known.lacks(strings.Fields(m[1])); lack != "" {
				t.Errorf("mllab %s: mllab has no %s", m[1], lack)
			}
		}
	}
	if len(scripts) < 7 || given < 4 || calls < 8 {
		t.Errorf("%d scripts, %d inputs and %d calls: this test reads the page wrongly", len(scripts), given, calls)
	}
	if parses("if true; then") == nil {
		t.Error("a script without its end parses")
	}
}

// TestAJobsVerdictAndWhatItKeeps runs scripts/action with a stand-in for mllab, whose exit codes it knows, where a former
// job left its reports, also of a scenario that is not run now. What mllab does not write stays.
func TestAJobsVerdictAndWhatItKeeps(t *testing.T) {
	const standIn = `#!/bin/sh
echo "$1 $2 $3" >>"$CALLS"
case "$1 $2 $3" in
"up "*) exit $UP ;;
"scenario list ") printf 'scenario  needs\ncanary    knative\nblue-green  istio\n' ;;
"scenario list typo") exit 2 ;;
"scenario canary --junit") echo new >"$4" ;;
"scenario shadow --junit") echo new >"$4"; exit 1 ;;
"diagnose --to "*) [ ! -e "$3" ] && echo new >"$3" ;;
esac
`
	for name, c := range map[string]struct {
		scenarios, up string
		code          int
		calls         []string // what is called of mllab, in this order, besides the lists
		kept          []string
	}{
		"passed":         {"canary", "0", 0, []string{"up --core --port", "scenario canary --junit"}, []string{"canary.xml", "other.xml"}},
		"a claim failed": {"shadow canary", "0", 1, []string{"up --core --port", "scenario shadow --junit", "scenario canary --junit", "diagnose --to"}, []string{"canary.xml", "diagnosis.tar.gz", "other.xml", "shadow.xml"}},
		"no lab":         {"canary", "3", 3, []string{"up --core --port", "diagnose --to"}, []string{"diagnosis.tar.gz", "other.xml"}},
		"a wrong name":   {"canary typo", "0", 2, nil, []string{"other.xml"}},
	} {
		dir := t.TempDir()
		results, log := filepath.Join(dir, "results"), filepath.Join(dir, "calls")
		err := errors.Join(os.Mkdir(results, 0o700), os.WriteFile(filepath.Join(dir, "mllab"), []byte(standIn), 0o700))
		for _, file := range []string{"canary.xml", "canary.html", "blue-green.xml", "all.html", "diagnosis.tar.gz", "other.xml"} {
			err = errors.Join(err, os.WriteFile(filepath.Join(results, file), []byte("old"), 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(filepath.Join(root, "scripts", "action"), "run")
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "RESULTS="+results, "SCENARIOS="+c.scenarios, "UP="+c.up, "CALLS="+log, "WITH=", "IMAGE_SOURCE=")
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(log)
		if err != nil {
			t.Error(err)
		}
		var calls []string
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(strings.ReplaceAll(line, results+"/diagnosis.tar.gz", "")); !strings.HasPrefix(line, "scenario list") {
				calls = append(calls, line)
			}
		}
		var kept []string
		files, err := os.ReadDir(results)
		if err != nil {
			t.Error(err)
		}
		for _, f := range files {
			kept = append(kept, f.Name())
			if text, err := os.ReadFile(filepath.Join(results, f.Name())); f.Name() != "other.xml" && string(text) != "new\n" {
				t.Errorf("%s: %s is a former job's: %q, %v", name, f.Name(), text, err)
			}
		}
		if cmd.ProcessState.ExitCode() != c.code || !slices.Equal(calls, c.calls) || !slices.Equal(kept, c.kept) {
			t.Errorf("%s: exit code %d, want %d\ncalls %q\n want %q\n kept %q\n want %q\n%s", name, cmd.ProcessState.ExitCode(), c.code, calls, c.calls, kept, c.kept, out)
		}
	}
}

// TestAReleaseIsCompiledByTheGoThatGoModNames runs scripts/release with a stand-in for go, which says its version and ends
// with 9 when it shall compile.
func TestAReleaseIsCompiledByTheGoThatGoModNames(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "go" + mod.Go.Version
	if mod.Toolchain != nil {
		want = mod.Toolchain.Name
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "go"), []byte("#!/bin/sh\n[ \"$*\" = 'env GOVERSION' ] || exit 9\necho $HAVE\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		have string
		args []string
		code int
		says string
	}{
		{want, nil, 9, ""},
		{want, []string{"--snapshot"}, 9, ""},
		{"go1.26.0", nil, 2, "run it with GOTOOLCHAIN=" + want},
		{"go1.26.0", []string{"--skip=publish", "--snapshot"}, 9, "warning: go1.26.0 compiles this snapshot"},
	} {
		cmd := exec.Command(filepath.Join(root, "scripts", "release"), c.args...)
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HAVE="+c.have)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		if cmd.ProcessState.ExitCode() != c.code || !strings.Contains(string(out), c.says) || c.says == "" && len(out) > 0 {
			t.Errorf("%s %q: exit code %d, want %d, and %q in\n%s", c.have, c.args, cmd.ProcessState.ExitCode(), c.code, c.says, out)
		}
	}
}

var (
	labTest   = regexp.MustCompile(`(?m)^func (TestLab\w*)\(t \*testing\.T\)`)
	labListed = regexp.MustCompile(`\{"(TestLab\w*)", (TestLab\w*)\}`)
	skipped   = regexp.MustCompile(`-skip '\^TestEveryLab\$/\^TestLab\$/\^([^$']*)\$'`)
)

// CI runs the labs by a list, so that it runs them in its order. One that is not on it would never run, and nobody would notice.
func TestCIRunsEveryLab(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "cmd", "mllab", "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all string
	for _, f := range append(files, filepath.Join(root, "scripts", "test")) {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all += string(text)
	}
	var there, listed []string
	for _, m := range labTest.FindAllStringSubmatch(all, -1) {
		there = append(there, m[1])
	}
	for _, m := range labListed.FindAllStringSubmatch(all, -1) {
		listed = append(listed, m[1])
		if m[1] != m[2] {
			t.Errorf("%s is called %s", m[2], m[1])
		}
	}
	slices.Sort(there)
	slices.Sort(listed)
	if len(there) < 4 || !slices.Equal(there, listed) {
		t.Errorf("the labs' tests are %v, and CI runs %v", there, listed)
	}
	for _, m := range skipped.FindAllStringSubmatch(all, -1) {
		if name := strings.ReplaceAll(m[1], "_", " "); strings.Contains(all, `"`+name+`"`) {
			return
		}
	}
	t.Error("what CI skips is no part of a lab's test")
}
