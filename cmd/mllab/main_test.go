package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mllab.local/addons"
	"mllab.local/bootstrap"
	"mllab.local/internal/report"
)

// call runs mllab in this process.
func call(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, talk bytes.Buffer
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	a := &app{stdin: null, stdout: &out, stderr: &talk, getenv: func(k string) string { return env[k] }, report: report.New(&talk, report.Options{})}
	code = a.main(t.Context(), args)
	return code, out.String(), talk.String()
}

func TestWrongUseIsOneClearMessageAndExitCode2(t *testing.T) {
	for args, want := range map[string]string{
		"upp":                        "error: mllab has no command \"upp\"\nhint:  did you mean `mllab up`?\n",
		"stauts":                     "error: mllab has no command \"stauts\"\nhint:  did you mean `mllab status`?\n",
		"ver":                        "error: mllab has no command \"ver\"\nhint:  did you mean `mllab version`?\n",
		"sc":                         "error: mllab has no command \"sc\"\nhint:  did you mean `mllab scenario`?\n",
		"status --name=":             "error: --name must not be empty\nhint:  leave it out for mllab\n",
		"down --state-dir=~/lab":     "error: --state-dir must be a path, got \"~/lab\", whose ~ no shell has replaced\nhint:  write $HOME instead of ~\n",
		"images list --cache-dir=~":  "error: --cache-dir must be a path, got \"~\", whose ~ no shell has replaced\n",
		"down --state-dir=":          "error: --state-dir must not be empty\nhint:  leave it out for ",
		"images list --cache-dir=":   "error: --cache-dir must not be empty\nhint:  leave it out for ",
		"foo":                        "error: mllab has no command \"foo\"\nhint:  see `mllab --help`\n",
		"frobnicate":                 "error: mllab has no command \"frobnicate\"\nhint:  see `mllab --help`\n",
		"help frobnicate":            "error: mllab has no command \"frobnicate\"\nhint:  see `mllab --help`\n",
		"pipeline run":               "error: mllab pipeline has no command \"run\"\nhint:  see `mllab pipeline --help`\n",
		"up now":                     "error: mllab up takes no argument, and got \"now\"\nhint:  see `mllab up --help`\n",
		"up --prot 1":                "error: mllab up: unknown flag: --prot\nhint:  did you mean --port?\n",
		"up --frobnicate":            "error: mllab up: unknown flag: --frobnicate\nhint:  see `mllab up --help`\n",
		"up --port":                  "error: mllab up: flag needs an argument: --port\nhint:  see `mllab up --help`\n",
		"up --port 0":                "error: mllab up: invalid argument \"0\" for \"--port\" flag: it must be a number from 1 to 65535, or auto\nhint:  see `mllab up --help`\n",
		"up --port http":             "error: mllab up: invalid argument \"http\" for \"--port\" flag: it must be a number from 1 to 65535, or auto\nhint:  see `mllab up --help`\n",
		"up --image-source cloud":    "error: mllab up: invalid argument \"cloud\" for \"--image-source\" flag: it must be auto, source or registry\nhint:  see `mllab up --help`\n",
		"up --engine rkt":            "error: mllab up: invalid argument \"rkt\" for \"--engine\" flag: it must be docker, podman or nerdctl\nhint:  see `mllab up --help`\n",
		"-o yaml status":             "error: mllab status: invalid argument \"yaml\" for \"-o, --output\" flag: it must be text or json\nhint:  see `mllab status --help`\n",
		"up --dry-run --name Lab_":   "error: --name must be at most 48 lower-case letters, digits and dashes, got \"Lab_\"\nhint:  use a name such as --name lab-2\n",
		"up --dry-run --with nope":   "error: no addon is called \"nope\"\nhint:  addons are: ",
		"images list --with nope":    "error: no addon is called \"nope\"\nhint:  addons are: ",
		"images build --with nope":   "error: no addon is called \"nope\"\nhint:  addons are: ",
		"logs":                       "error: mllab logs must have --model: it reads no other logs\nhint:  mllab logs --model\n",
		"logs sample":                "error: mllab logs must have --model: it reads no other logs\n",
		"logs --model a b":           "error: mllab logs takes one NAME, and got \"b\" too\n",
		"logs --model a.b.c":         "error: NAME must be the name of a model, or NAME.NAMESPACE, got \"a.b.c\"\nhint:  such as sample or model.mllab-canary\n",
		"logs --model a.":            "error: NAME must be the name of a model, or NAME.NAMESPACE, got \"a.\"\n",
		"logs --model .a":            "error: NAME must be the name of a model, or NAME.NAMESPACE, got \".a\"\n",
		"logs --model --since 5":     "error: mllab logs: --since must be a time with its unit, such as 90s or 10m, got \"5\"\n",
		"logs --model --since -5s":   "error: --since must be 0s or more, got -5s\nhint:  such as 10m\n",
		"logs --model --version=":    "error: --version must be a target or a revision, got \"\"\nhint:  such as v2\n",
		"images sbom":                "error: mllab images sbom takes one NAME of `mllab images list`, and got 0\nhint:  see `mllab images sbom --help`\n",
		"images sbom a b":            "error: mllab images sbom takes one NAME of `mllab images list`, and got 2\n",
		"man":                        "error: mllab man takes one folder, and got 0\n",
		"git credential":             "error: mllab git credential takes one of get, store and erase, and got 0\n",
		"completion foo":             "error: mllab completion has no command \"foo\"\nhint:  see `mllab completion --help`\n",
		"completion bsh":             "error: mllab completion has no command \"bsh\"\nhint:  did you mean `mllab completion bash`?\n",
		"up --timeout 5":             "error: mllab up: --timeout must be a time with its unit, such as 90s or 10m, got \"5\"\nhint:  see `mllab up --help`\n",
		"up --timeout 0s":            "error: --timeout must be positive, got 0s\nhint:  such as --timeout 10m\n",
		"up --dry-run --timeout=-5s": "error: --timeout must be positive, got -5s\nhint:  such as --timeout 10m\n",
		"up --core=maybe":            "error: mllab up: --core must be true or false, got \"maybe\"\n",
		"up --dry-run --registry-mirror http://x": "error: --registry-mirror must be a host, with its port if it has one, got \"http://x\"\nhint:  such as --registry-mirror 127.0.0.1:5000\n",
		"up --dry-run --registry-mirror x:65536":  "error: --registry-mirror must be a host, with its port if it has one, got \"x:65536\"\nhint:  such as --registry-mirror 127.0.0.1:5000\n",
		"images lock --registry-mirror x:y":       "error: --registry-mirror must be a host, with its port if it has one, got \"x:y\"\n",
		"completion bash -o json":                 "error: mllab completion bash writes a shell script, not JSON\nhint:  leave out -o json\n",
		"report -o json":                          "error: mllab report writes HTML, not JSON\n",
		"kubeconfig -o json":                      "error: mllab kubeconfig writes YAML, not JSON\n",
		"pipeline compile main.go -o json":        "error: mllab pipeline compile writes YAML, not JSON\n",
		"-o json curl sample":                     "error: mllab curl writes what curl writes, not JSON\n",
		"scenario canary --requests 1e3":          "error: mllab scenario canary: --requests must be a whole number, got \"1e3\"\nhint:  see `mllab scenario canary --help`\n",
		"scenario canary --alpha tiny":            "error: mllab scenario canary: --alpha must be a number, got \"tiny\"\n",
		"pipeline compile main.go":                "error: main.go: it is no notebook: line 1, column 1: invalid character '/' looking for beginning of value\nhint:  name a notebook (.ipynb); `jupytext --to ipynb FILE` makes one of a script\n",
	} {
		code, stdout, stderr := call(t, nil, strings.Fields(args)...)
		if code != 2 || stdout != "" || !strings.HasPrefix(stderr, want) {
			t.Errorf("mllab %s: code %d, stdout %q\n got %s want %s", args, code, stdout, stderr, want)
		}
	}
}

func TestHelpIsShortAndNamesTheNextCommand(t *testing.T) {
	for _, args := range []string{"", "--help", "help up", "up --help", "down --help", "status --help", "doctor --help", "version --help", "git --help", "git clone --help", "git url --help", "audit --help", "top --help", "alerts --help", "pipeline --help", "pipeline compile --help"} {
		code, stdout, stderr := call(t, nil, strings.Fields(args)...)
		if lines := strings.Count(stdout, "\n"); code != 0 || stderr != "" || lines < 10 || lines > 40 || !strings.Contains(stdout, "Examples:\n  mllab ") {
			t.Errorf("mllab %s: code %d, %d lines, stderr %q\n%s", args, code, lines, stderr, stdout)
		}
		said := map[string]bool{}
		for _, line := range strings.Split(stdout, "\n") {
			if line != "" && said[line] {
				t.Errorf("mllab %s: it says twice: %s", args, line)
			}
			said[line] = true
			if len(line) > 120 {
				t.Errorf("mllab %s: a line of %d characters: %s", args, len(line), line)
			}
		}
	}
}

var update = flag.Bool("update", false, "write the golden files anew")

func TestTheDryRunIsWhatThePageSays(t *testing.T) {
	for golden, flags := range map[string][]string{"testdata/dry-run.txt": nil, "testdata/dry-run-core.txt": {"--core"}} {
		args := append([]string{"up", "--dry-run", "--cache-dir", "/cache", "--state-dir", "/state", "--port", "9000"}, flags...)
		code, stdout, stderr := call(t, nil, args...)
		if code != 0 || stderr != "" {
			t.Fatalf("code %d: %s", code, stderr)
		}
		if *update {
			if err := os.WriteFile(golden, []byte(stdout), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if stdout != string(want) {
			t.Errorf("got\n%s\nwant (-update writes it)\n%s", stdout, want)
		}
	}
}

func TestJSONIsAloneOnStdoutAndTheEnvironmentNamesTheFolders(t *testing.T) {
	env := map[string]string{"MLLAB_NAME": "lab-2", "MLLAB_CACHE_DIR": "/c", "MLLAB_STATE_DIR": "/s"}
	code, stdout, stderr := call(t, env, "up", "--dry-run", "-o", "json", "--port", "auto")
	var plan struct{ Cluster, Cache, Kubeconfig, URL string }
	if err := json.Unmarshal([]byte(stdout), &plan); err != nil || code != 0 || stderr != "" {
		t.Fatalf("code %d, %v: %s%s", code, err, stdout, stderr)
	}
	if plan.Cluster != "lab-2" || plan.Cache != "/c" || plan.Kubeconfig != "/s/lab-2/kubeconfig" || !strings.Contains(plan.URL, "free port") {
		t.Errorf("%+v", plan)
	}
	if _, stdout, _ = call(t, env, "up", "--dry-run", "--name", "other"); !strings.Contains(stdout, "/s/other/kubeconfig") {
		t.Errorf("a flag does not win over the environment:\n%s", stdout)
	}
}

func TestAResultThatCannotBeWrittenIsAFailure(t *testing.T) {
	for _, args := range []string{"version", "version -o json", "scenario list", "scenario list canary", "up --help", "completion bash"} {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Skipf("a device that is always full is only on Linux: %v", err)
		}
		defer full.Close()
		var talk bytes.Buffer
		a := &app{stdout: full, stderr: &talk, getenv: func(string) string { return "" }, report: report.New(&talk, report.Options{})}
		if code := a.main(t.Context(), strings.Fields(args)); code != 1 || !strings.Contains(talk.String(), "no space left on device") {
			t.Errorf("mllab %s: code %d, %q", args, code, talk.String())
		}
	}
}

func TestExitCode3NamesDiagnose(t *testing.T) {
	code, _, stderr := call(t, map[string]string{"MLLAB_STATE_DIR": t.TempDir()}, "status", "--name", "none-of-this-name")
	if code != 3 || !strings.Contains(stderr, "more:  mllab diagnose --name none-of-this-name writes ") {
		t.Errorf("code %d: %s", code, stderr)
	}
}

func TestALockedLabNeedsNoDiagnosis(t *testing.T) {
	state := t.TempDir()
	if err := os.WriteFile(filepath.Join(state, "made.json"), []byte("{}"), 0o600); err != nil { // a folder of mllab's
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(state, bootstrap.DefaultName+".lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := call(t, map[string]string{"MLLAB_STATE_DIR": state}, "scenario", "canary")
	if code != 3 || !strings.Contains(stderr, "is locked") || strings.Contains(stderr, "more:") {
		t.Errorf("code %d: %s", code, stderr)
	}
}

func TestAnInterruptIsExitCode130(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, talk bytes.Buffer
	a := &app{stdout: &out, stderr: &talk, getenv: func(string) string { return "" }, report: report.Discard()}
	if code := a.main(ctx, []string{"status", "--state-dir", t.TempDir()}); code != 130 || talk.String() != "error: interrupted\n" {
		t.Errorf("code %d, %s", code, talk.String())
	}
	// What ends for the same ^C, and says so in words of its own.
	talk.Reset()
	state := t.TempDir()
	if err := os.Mkdir(filepath.Join(state, "mllab.lock"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(state, ".mllab"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := a.main(ctx, []string{"up", "--state-dir", state}); code != 130 || !strings.HasPrefix(talk.String(), "error: interrupted: ") || !strings.Contains(talk.String(), "is a directory") {
		t.Errorf("code %d, %s", code, talk.String())
	}
}

func TestVersionNamesWhatIsInstalled(t *testing.T) {
	code, stdout, _ := call(t, nil, "version", "-o", "json")
	var v versionInfo
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != 0 {
		t.Fatalf("code %d, %v: %s", code, err, stdout)
	}
	for _, name := range []string{"istio", "knative", "gateway-api", "kind", "helm"} {
		if v.Components[name] == "" {
			t.Errorf("no version of %s in %s", name, stdout)
		}
	}
	v = versionInfo{parts: []addons.Version{{Name: "kubernetes", Version: "1.36.5", End: "2027-06-28"}, {Name: "istio", Version: "1.31.0", End: "six weeks after 1.33"}}}
	for _, c := range []struct{ hour, want string }{
		{"2027-06-28T23:59:00Z", "kubernetes           1.36.5     fixes end 2027-06-28\nistio                1.31.0     fixes end six weeks after 1.33\n"},
		{"2027-06-29T00:01:00Z", "kubernetes           1.36.5     fixes ended 2027-06-28\nistio                1.31.0     fixes end six weeks after 1.33\n"},
	} {
		now, err := time.Parse(time.RFC3339, c.hour)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if printVersion(&out, v, now); !strings.HasSuffix(out.String(), c.want) {
			t.Errorf("at %s: %s", c.hour, out.String())
		}
	}
}

func TestCompletionIsThere(t *testing.T) {
	code, stdout, _ := call(t, nil, "completion", "bash")
	if code != 0 || !strings.Contains(stdout, "mllab") {
		t.Errorf("code %d, %d bytes", code, len(stdout))
	}
}

func TestManualPagesAreForTheirReaders(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CACHE_HOME", "")
	dir := filepath.Join(home, "man")
	if code, _, stderr := call(t, nil, "man", dir); code != 0 {
		t.Fatal(stderr)
	}
	page, err := os.ReadFile(filepath.Join(dir, "mllab-up.1"))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{`"MLLAB-UP" "1"`: true, "~/": true, home: false, "Auto generated": false} {
		if strings.Contains(string(page), text) != want {
			t.Errorf("%q is in the page: %t, want %t", text, !want, want)
		}
	}
}

func TestAShellOffersWhatAFlagCanBe(t *testing.T) {
	for line, want := range map[string][]string{
		"up --image-source":               {"auto", "source", "registry"},
		"down --engine":                   {"docker", "podman", "nerdctl"},
		"status -o":                       {"text", "json"},
		"scenario canary --output":        {"text", "json", "jsonl", "junit"},
		"scenario list":                   {"canary", "shadow"},
		"scenario list canary":            nil,
		"scenario progressive --strategy": {"canary", "mirror"},
	} {
		code, stdout, _ := call(t, nil, append(append([]string{"__complete"}, strings.Fields(line)...), "")...)
		got := strings.Fields(stdout)
		for _, w := range append(want, ":4") { // no files
			if !slices.Contains(got, w) {
				t.Errorf("%s: exit code %d, offered are %q, want %s among them", line, code, got, w)
			}
		}
	}
}

func TestANotebookThatNobodyJudgedIsSaid(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.ipynb")
	text := `{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code", "metadata": {"tags": ["step:a"]}, "source": "x = = 1", "outputs": [], "execution_count": null}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"MLLAB_STATE_DIR": t.TempDir()}
	if code, _, stderr := call(t, env, "pipeline", "compile", file); code != 2 || !strings.Contains(stderr, "cell 1, line 1: syntax error") {
		t.Errorf("code %d: %s", code, stderr)
	}
	t.Setenv("PATH", "")
	if code, _, stderr := call(t, env, "pipeline", "compile", file); code != 3 || !strings.Contains(stderr, "no python3 from 3.11 on checked the cells") {
		t.Errorf("without python3: code %d: %s", code, stderr)
	}
}

func TestDownNamesTheNextCommandOfItsLab(t *testing.T) {
	var out bytes.Buffer
	printDown(&out, bootstrap.DownReport{Cluster: "lab-2", Kept: []string{"image cache /cache"}}, false)
	if want := "next     mllab up --name lab-2, or mllab down --purge --name lab-2 to remove what was kept\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("got %s want %s", out.String(), want)
	}
}

func TestAHintIsAboutTheLabOfTheCommand(t *testing.T) {
	for _, c := range []struct {
		hint, name string
		code       int
		want       string
	}{
		{"`mllab up` starts it again", "lab-2", 3, "`mllab up` starts it again (with --name lab-2)"},
		{"`mllab up` starts it again", bootstrap.DefaultName, 3, "`mllab up` starts it again"},
		{"mllab up --name lab-2", "lab-2", 3, "mllab up --name lab-2"},
		{"see `mllab up --help`", "lab-2", 2, "see `mllab up --help`"},
		{"name another folder", "lab-2", 1, "name another folder"},
	} {
		if got := forLab(c.hint, c.name, c.code); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}
