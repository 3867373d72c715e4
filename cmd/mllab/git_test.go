package main

import (
	"bytes"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mllab.local/bootstrap"
	"mllab.local/internal/fault"
	"mllab.local/internal/run"
)

func TestTheVerbsOfGitWithoutALabNameTheCommandThatMakesIt(t *testing.T) {
	env := map[string]string{"MLLAB_STATE_DIR": t.TempDir()}
	for args, out := range map[string]string{"git url": "", "git clone " + t.TempDir(): "", "git credential get": "quit=1\n", "audit": "", "git credential erase": ""} {
		code, stdout, stderr := call(t, env, strings.Fields(args)...)
		if args == "git credential erase" {
			if code != 0 || stdout+stderr != "" {
				t.Errorf("mllab %s: code %d, %s%s", args, code, stdout, stderr)
			}
			continue
		}
		if code != 3 || stdout != out || !strings.HasPrefix(stderr, "error: there is no lab \"mllab\"\nhint:  mllab up\nmore:  mllab diagnose ") {
			t.Errorf("mllab %s: code %d, stdout %q, stderr %s", args, code, stdout, stderr)
		}
	}
	if _, err := gitOf(bootstrap.Running{}); fault.Code(err) != 3 || fault.Hint(err) != "mllab up --core --with git" {
		t.Errorf("without the addon: %v, hint %q", err, fault.Hint(err))
	}
}

func TestWrongUseOfGitAndAuditIsSaidFirst(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"git clone " + full:           "error: " + full + " is not empty\nhint:  name another folder\n",
		"git clone " + full + "/mine": "error: cloning into " + full + "/mine: ",
		"git clone a b":               "error: mllab git clone takes one folder, and got \"b\" too\n",
		"git url here":                "error: mllab git url takes no argument, and got \"here\"\n",
		"git cloen":                   "error: mllab git has no command \"cloen\"\nhint:  did you mean `mllab git clone`?\n",
		"audit --last -1":             "error: --last must be 0 or more, got -1\n",
		"audit --last all":            "error: mllab audit: --last must be a whole number, got \"all\"",
	} {
		code, stdout, stderr := call(t, map[string]string{"MLLAB_STATE_DIR": t.TempDir()}, strings.Fields(args)...)
		if code != 2 || stdout != "" || !strings.HasPrefix(stderr, want) {
			t.Errorf("mllab %s: code %d, stdout %q\n got %s want %s", args, code, stdout, stderr, want)
		}
	}
}

// A shell, which is what git calls a helper with, must see the words as they are.
func TestTheCredentialHelperSurvivesItsShell(t *testing.T) {
	t.Chdir(t.TempDir())
	a := &app{global: global{name: "lab-2", state: "it's a $HOME"}}
	helper, err := a.credentialHelper()
	if err != nil {
		t.Fatal(err)
	}
	self, command, _ := strings.Cut(strings.TrimPrefix(helper, "!"), " ")
	out, err := exec.Command("/bin/sh", "-c", "printf '%s\\n' "+command+` "$@"`, "sh", "get").Output()
	here, _ := os.Getwd()
	if want := "--name\nlab-2\n--state-dir\n" + here + "/it's a $HOME\ngit\ncredential\nget\n"; err != nil || string(out) != want {
		t.Errorf("the shell sees\n%swant\n%s%v", out, want, err)
	}
	if !filepath.IsAbs(strings.Trim(self, "'")) {
		t.Errorf("the program is %s", self)
	}
}

// As a hook of another repository calls it: https://git-scm.com/docs/githooks
func TestACloneIsMadeFromAHook(t *testing.T) {
	t.Setenv("GIT_CONFIG_GLOBAL", os.DevNull) // such as commit.gpgsign
	var folders []string
	for _, name := range []string{"lab", "other"} {
		t.Chdir(t.TempDir())
		for _, args := range []string{"init -q -b main", "config user.name me", "config user.email me@example.com", "add a", "commit -q -m x"} {
			if err := os.WriteFile("a", []byte(name), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("git", strings.Fields(args)...).CombinedOutput(); err != nil {
				t.Fatalf("git %s: %v %s", args, err, out)
			}
		}
		folders = append(folders, os.Getenv("PWD"))
	}
	lab, here := folders[0], folders[1]
	before, err := os.ReadFile(".git/index")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"GIT_DIR=.git", "GIT_WORK_TREE=.", "GIT_INDEX_FILE=" + here + "/.git/index", "GIT_PREFIX=", "GIT_OBJECT_DIRECTORY=" + here + "/.git/objects"} {
		key, value, _ := strings.Cut(v, "=")
		t.Setenv(key, value)
	}
	dir := filepath.Join(t.TempDir(), "clone")
	a := &app{stderr: io.Discard, global: global{name: "mllab", state: t.TempDir()}}
	if _, err := a.cloneFrom(t.Context(), run.Exec{}, &url.URL{Scheme: "file", Path: lab}, dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "a"))
	if err != nil || string(text) != "lab" {
		t.Errorf("the clone has %q, %v", text, err)
	}
	mine, err := os.ReadFile("a")
	if after, indexErr := os.ReadFile(".git/index"); err != nil || indexErr != nil || string(mine) != "other" || !bytes.Equal(before, after) {
		t.Errorf("the hook's repository has %q (%v), and its index is another one: %t (%v)", mine, err, !bytes.Equal(before, after), indexErr)
	}
}

func TestTheNextCommandGoesIntoTheCloneWhateverItsName(t *testing.T) {
	for _, name := range []string{"lab", "my lab", "it's", "-x", "$HOME", "a\"b", "ü"} {
		t.Chdir(t.TempDir())
		if err := os.Mkdir(name, 0o700); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("/bin/sh", "-c", cd(name)+" && pwd -P").Output()
		if got := filepath.Base(strings.TrimSpace(string(out))); err != nil || got != name {
			t.Errorf("%s went into %q: %v", cd(name), got, err)
		}
	}
}

func TestWhatGitAsksForIsRead(t *testing.T) {
	asked, err := readCredential(strings.NewReader("protocol=http\nhost=127.0.0.1:8080\nwwwauth[]=Basic realm=\"mllab\"\n\nmore=x\n"))
	if err != nil || asked["protocol"] != "http" || asked["host"] != "127.0.0.1:8080" || asked["more"] != "" {
		t.Errorf("%v, %v", asked, err)
	}
	if _, err := readCredential(strings.NewReader("hello\n")); fault.Code(err) != 2 {
		t.Errorf("got %v", err)
	}
}
