package kubeconfig

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.yaml.in/yaml/v3"

	"mllab.local/internal/fault"
)

// kinds is a kubeconfig as kind writes it.
const kinds = `apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Q0E=
    server: https://127.0.0.1:40001
  name: kind-lab
contexts:
- context:
    cluster: kind-lab
    user: kind-lab
  name: kind-lab
current-context: kind-lab
kind: Config
users:
- name: kind-lab
  user:
    client-certificate-data: Q0VSVA==
    client-key-data: S0VZ
`

// others is a person's own file, as kubectl writes it, with a comment and a field that nobody knows.
const others = `apiVersion: v1
clusters:
- cluster:
    server: https://prod.example.com
  name: prod
contexts:
- context:
    cluster: prod
    namespace: shop # never default
    user: me
  name: prod
current-context: prod
kind: Config
preferences: {}
users:
- name: me
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      args:
      - --token
      command: login
x-vendor:
  a: [1, 2]
`

func renamed(t *testing.T) []byte {
	t.Helper()
	config, err := Rename([]byte(kinds), "kind-lab", "mllab-lab")
	if err != nil || strings.Contains(string(config), "kind-lab") || strings.Count(string(config), "mllab-lab") != 6 {
		t.Fatalf("%v\n%s", err, config)
	}
	return config
}

func TestOnlyTheLabIsTakenOfItsFileWhateverOthersAdded(t *testing.T) {
	more := strings.NewReplacer(
		"clusters:\n", "clusters:\n- cluster:\n    server: https://prod.example.com\n  name: prod\n",
		"contexts:\n", "contexts:\n- context:\n    cluster: prod\n    user: prod\n  name: prod\n",
		"users:\n", "users:\n- name: prod\n  user: {}\n", "current-context: kind-lab", "current-context: prod").Replace(kinds)
	got, err := Rename([]byte(more), "kind-lab", "mllab-lab")
	if want := renamed(t); err != nil || string(got) != string(want) {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	if _, err := Rename([]byte(kinds), "kind-other", "mllab-other"); err == nil || !strings.Contains(err.Error(), "its clusters must have kind-other") {
		t.Errorf("without the lab: %v", err)
	}
}

func TestALabComesIntoAPersonsFileAndLeavesItAsItWas(t *testing.T) {
	for name, before := range map[string]string{
		"kubectl's own style": others,
		"merged keys":         strings.NewReplacer("apiVersion: v1\n", "apiVersion: v1\nx: &all\n  proxy-url: http://p\n", "  cluster:\n", "  cluster:\n    <<: *all\n", "- cluster:\n", "- cluster:\n    <<: *all\n").Replace(others),
		"comments only":       "# mine\n# and yours\n",
		"no lists yet":        "apiVersion: v1\nkind: Config\nclusters: []\ncontexts: null\n",
		"another lab is in it": strings.NewReplacer("clusters:\n", "clusters:\n- cluster:\n    server: https://127.0.0.1:40002\n  name: mllab-lab-2\n",
			"contexts:\n", "contexts:\n- context:\n    cluster: mllab-lab-2\n    user: mllab-lab-2\n  name: mllab-lab-2\n").Replace(others),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config")
			if err := os.WriteFile(path, []byte(before), 0o640); err != nil {
				t.Fatal(err)
			}
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(path, link); err != nil {
				t.Fatal(err)
			}
			var first Merged
			for i := range 2 { // the second time changes nothing
				m, err := Merge(link, renamed(t), true, false)
				if err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					first = m
				}
				got, err := os.ReadFile(path)
				if err != nil || strings.Count(string(got), "server: https://127.0.0.1:40001") != 1 || !strings.Contains(string(got), "current-context: mllab-lab\n") {
					t.Fatalf("%v\n%s", err, got)
				}
			}
			if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o640 {
				t.Errorf("%v, %v", st.Mode(), err)
			}
			if removed, err := Remove(first); err != nil || !removed {
				t.Fatal(removed, err)
			}
			got, err := os.ReadFile(path)
			if name == "comments only" {
				before += "\napiVersion: v1\nkind: Config\nclusters: []\ncontexts: []\nusers: []\ncurrent-context: \"\"\n"
			}
			if name == "no lists yet" {
				before = "apiVersion: v1\nkind: Config\nclusters: []\ncontexts: []\nusers: []\ncurrent-context: \"\"\n"
			}
			if err != nil || string(got) != before {
				t.Errorf("%v, got\n%s\nwant\n%s", err, got, before)
			}
			if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 {
				t.Errorf("the link is gone: %v", err)
			}
			if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
				t.Errorf("left beside it: %v, %v", left, err)
			}
			if removed, err := Remove(first); err != nil || removed {
				t.Errorf("again: %t, %v", removed, err)
			}
		})
	}
}

// mllab writes no comment, so each is a person's.
func TestAPersonsCommentsStay(t *testing.T) {
	for before, want := range map[string]string{
		"# my clusters: ask Ada\n\n# second\n" + others + "\n# the end\n": "",
		"# a\r\n# b\r\n":            "# a\n# b\n\napiVersion: v1\nkind: Config\nclusters: []\ncontexts: []\nusers: []\ncurrent-context: \"\"\n",
		"# a\r\n# b\r\n\r\n# c\r\n": "# a\n# b\n\n# c\n\napiVersion: v1\nkind: Config\nclusters: []\ncontexts: []\nusers: []\ncurrent-context: \"\"\n",
		"# only\n\n# comments\n":    "# only\n\n# comments\n\napiVersion: v1\nkind: Config\nclusters: []\ncontexts: []\nusers: []\ncurrent-context: \"\"\n",
		"clusters: [] # none\ncontexts: null # none yet\nusers: # nobody\ncurrent-context: \"\" # none\n": "clusters: [] # none\ncontexts: [] # none yet\nusers: [] # nobody\ncurrent-context: \"\" # none\n",
		strings.ReplaceAll(others, "  name: prod\n", "  name: prod\n# after it\n\n"):                      "",
	} {
		if want == "" {
			want = before
		}
		path := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		first, err := Merge(path, renamed(t), true, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Merge(path, renamed(t), true, false); err != nil {
			t.Fatal(err)
		}
		if _, err := Remove(first); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%v, got\n%s\nwant\n%s", err, got, want)
		}
	}
	// Comments at the lab's own entries.
	path := filepath.Join(t.TempDir(), "config")
	lab := strings.NewReplacer("users:\n", "users:\n# over\n\n# its own\n",
		"contexts:\n", "contexts:\n- name: mine\n# above\n\n# his\n", "current-context", "- name: next\n# far\n\n# below\n- name: last\ncurrent-context").Replace(string(renamed(t)))
	if err := os.WriteFile(path, []byte(lab), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := Merge(path, renamed(t), true, false)
	if err != nil {
		t.Fatal(err)
	}
	for i, state := range []string{"merged", "removed"} {
		if i == 1 {
			if _, err := Remove(m); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, comment := range []string{"# over\n", "# its own\n", "# above\n", "# his\n", "# far\n", "# below\n"} {
			if strings.Count(string(got), comment) != 1 {
				t.Errorf("%s: not once %q in\n%s", state, comment, got)
			}
		}
	}
}

func TestAFileThatMergeMadeIsPrivateAndGoesWithTheLab(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "config")
	m, err := Merge(path, renamed(t), true, false)
	if err != nil || !m.Made {
		t.Fatal(m, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if removed, err := Remove(m); err != nil || !removed {
		t.Error(removed, err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("it stays: %v", err)
	}
	if removed, err := Remove(m); err != nil || removed {
		t.Error(removed, err)
	}
}

// kubectl deletes a cluster, a context or a user, and leaves the two others.
func TestWhatAPersonLeftOfALabIsTheLabs(t *testing.T) {
	for _, deleted := range [][]string{{"clusters"}, {"clusters", "contexts"}, {"contexts", "users"}} {
		path := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(path, []byte(others), 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := Merge(path, renamed(t), false, false)
		if err != nil {
			t.Fatal(err)
		}
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		remove := func() {
			t.Helper()
			if err := edit(path, func(doc *yaml.Node, _ bool) error {
				for _, list := range deleted {
					put(doc, list, m.Name, nil)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		remove()
		if _, err := Merge(path, renamed(t), false, true); err != nil {
			t.Errorf("without its %v: %v", deleted, err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != string(whole) {
			t.Errorf("without its %v: %v, merged again\n%s", deleted, err, got)
		}
		remove()
		if removed, err := Remove(m); err != nil || !removed {
			t.Errorf("without its %v: %t, %v", deleted, removed, err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != others {
			t.Errorf("without its %v: %v, left\n%s", deleted, err, got)
		}
		if removed, err := Remove(m); err != nil || removed {
			t.Errorf("without its %v, again: %t, %v", deleted, removed, err)
		}
	}
}

// A person's link stays, wherever it leads.
func TestALinkStays(t *testing.T) {
	dir := t.TempDir()
	path, kept := filepath.Join(dir, "config"), filepath.Join(dir, "dotfiles", "config")
	if err := os.Symlink(kept, path); err != nil {
		t.Fatal(err)
	}
	stays := func() {
		t.Helper()
		if to, err := os.Readlink(path); err != nil || to != kept {
			t.Errorf("the link leads to %q, %v", to, err)
		}
	}
	if _, err := Merge(path, renamed(t), true, false); fault.Code(err) != 2 || !strings.Contains(err.Error(), "a symbolic link that leads nowhere") {
		t.Errorf("got %v", err)
	}
	stays()
	m, err := Merge(kept, renamed(t), true, false) // which mllab makes, and the person names by the link later
	if err != nil {
		t.Fatal(err)
	}
	m.Path = path
	if removed, err := Remove(m); err != nil || !removed {
		t.Errorf("%t, %v", removed, err)
	}
	stays()
}

func TestAContextThatAPersonChoseStaysCurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(others), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := Merge(path, renamed(t), true, false)
	if err != nil {
		t.Fatal(err)
	}
	merged, _ := os.ReadFile(path)
	// They went back to their own, and then removed it.
	for current, want := range map[string]string{"prod": "current-context: prod\n", "mllab-lab": "current-context: \"\"\n"} {
		text := strings.Replace(string(merged), "current-context: mllab-lab", "current-context: "+current, 1)
		if current == "mllab-lab" {
			text = strings.Replace(text, "  name: prod\ncurrent", "  name: renamed\ncurrent", 1)
			text = strings.Replace(text, "    user: me\n  name: prod\n", "    user: me\n  name: renamed\n", 1)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Remove(m); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); !strings.Contains(string(got), want) {
			t.Errorf("got\n%s\nwant %s", got, want)
		}
	}
}

func TestAFileThatIsNotALabsIsRefusedUnharmed(t *testing.T) {
	for text, want := range map[string]string{
		"a: [":             "must be a kubeconfig: yaml: ",
		"- a":              "must be a kubeconfig: its top level is not a mapping",
		"a: 1\n---\nb: 2":  "must be a kubeconfig: it has more than one document",
		"clusters: {a: 1}": "must be a kubeconfig: its clusters are not a list",
		"a: 1\nclusters: []\nclusters: []\n": `must be a kubeconfig: yaml: unmarshal errors:
  line 3: mapping key "clusters" already defined at line 2`,
		"contexts:\n- name: mllab-lab\n  context: {cluster: prod}\n": "must have no entry mllab-lab of its own, got one in its contexts",
		"users:\n- name: mllab-lab\n  user: {token: mine}\n":         "must have no entry mllab-lab of its own, got one in its users",
		strings.ReplaceAll(others, "name: prod", "name: mllab-lab"):  "must have no other cluster mllab-lab, got one at https://prod.example.com",
	} {
		path := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Merge(path, renamed(t), true, false)
		if fault.Code(err) != 2 || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
		if got, _ := os.ReadFile(path); string(got) != text {
			t.Errorf("%q became %q", text, got)
		}
		if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
			t.Errorf("left beside it: %v, %v", left, err)
		}
	}
}

// kubectl could not write to it either.
func TestAReadOnlyFileIsRefusedUnharmed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(others), 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := Merge(path, renamed(t), true, false); fault.Code(err) != 2 || !strings.Contains(err.Error(), path+" must not be read-only, got mode -r--------") {
		t.Errorf("got %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != others {
		t.Errorf("%v, it became %q", err, got)
	}
}

// A rename over /dev/null, to which KUBECONFIG often points, would break the whole machine.
func TestWhatIsNoRegularFileIsRefusedUnharmed(t *testing.T) {
	dir := t.TempDir()
	pipe, folder := filepath.Join(dir, "pipe"), filepath.Join(dir, "folder")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.Mkdir(folder, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, folder} {
		before, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Merge(path, renamed(t), true, false); fault.Code(err) != 2 || !strings.Contains(err.Error(), path+" must be a regular file") {
			t.Errorf("%s: %v", path, err)
		}
		if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s was replaced: %v", path, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left beside them: %v, %v", left, err)
	}
}

func TestAFileKeepsItsOwnerUnderSudo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file to somebody else: the owner is not tested")
	}
	path := filepath.Join(t.TempDir(), "config")
	if err := errors.Join(os.WriteFile(path, []byte(others), 0o600), os.Chown(path, 1234, 5678)); err != nil {
		t.Fatal(err)
	}
	if _, err := Merge(path, renamed(t), true, false); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if owner, ok := st.Sys().(*syscall.Stat_t); !ok || owner.Uid != 1234 || owner.Gid != 5678 || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %+v", st.Mode(), st.Sys())
	}
}

func TestAFileThatIsBeingWrittenIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path+".lock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Merge(path, renamed(t), true, false); err == nil || !strings.Contains(err.Error(), "holds "+path+".lock") || fault.Hint(err) == "" {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(path + ".lock"); err != nil {
		t.Errorf("the other program's lock: %v", err)
	}
}

func TestKubectlsRuleSaysWhichFile(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := os.WriteFile(b, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for env, want := range map[string]string{"": "/home/me/.kube/config", ":": "/home/me/.kube/config", a: a, a + ":" + b: b, b + ":" + a: b, a + ":" + a + "2:": a + "2"} {
		if got := Default(env, "/home/me"); got != want {
			t.Errorf("KUBECONFIG=%s: %s, want %s", env, got, want)
		}
	}
}
