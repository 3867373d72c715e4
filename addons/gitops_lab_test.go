package addons

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	labgit "mllab.local/internal/git"
	"mllab.local/internal/kube"
)

func rendered(t *testing.T, a Addon) files {
	t.Helper()
	f, err := gitFiles(a, render(t, a))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestGitHoldsEveryObjectInAFileOfItsOwn(t *testing.T) {
	for _, a := range All() {
		objs, f := render(t, a), rendered(t, a)
		if len(f) != len(objs)+1 {
			t.Errorf("%s: %d files of %d objects", a.Name, len(f), len(objs))
		}
		if again := rendered(t, a); !f.equal(again) {
			t.Errorf("%s: two renderings differ", a.Name)
		}
		held := map[string]bool{}
		for path, text := range f {
			if !about(path, a.Name) || strings.ContainsAny(path, ":* \\") {
				t.Errorf("%s: a file is called %s", a.Name, path)
			}
			var o unstructured.Unstructured
			if err := yaml.Unmarshal(text, &o.Object); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			held[kube.Name(&o)] = true
		}
		for _, o := range objs {
			if !held[kube.Name(o)] {
				t.Errorf("%s: Git has no %s", a.Name, kube.Name(o))
			}
		}
	}
	for name, path := range map[string]string{
		"istio": "addons/istio/deployment.apps_istio-system_istiod.yaml", "git": "addons/git/namespace_git.yaml", "sample": "lab/sample.yaml",
	} {
		list, err := Select(name)
		if err != nil || rendered(t, list[len(list)-1])[path] == nil {
			t.Errorf("there is no %s", path)
		}
	}
}

func TestNoSecretsDataGetsIntoGit(t *testing.T) {
	secret := func(key string) []*unstructured.Unstructured {
		o := object("v1", "Secret", "x", "token")
		o.Object[key] = map[string]any{"password": "s3cret"}
		return []*unstructured.Unstructured{o}
	}
	for key, ok := range map[string]bool{"data": false, "stringData": false, "metadataOnly": true} {
		if _, err := gitFiles(Addon{Name: "x"}, secret(key)); (err == nil) != ok || err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("a Secret with %s: %v", key, err)
		}
	}
	if !about("lab/git.yaml", "git") || !about("addons/git/x.yaml", "git") || about("addons/git2/x.yaml", "git") || about("lab/x/git.yaml", "git") {
		t.Error("files are taken for another addon's")
	}
}

func TestWhatGitStandsOnIsNeverPruned(t *testing.T) {
	prune := map[string]bool{}
	for _, a := range All() {
		k, err := addonKustomization(a)
		if err != nil {
			t.Fatal(err)
		}
		prune[a.Name], _, _ = unstructured.NestedBool(k.Object, "spec", "prune")
		depends, _, _ := unstructured.NestedSlice(k.Object, "spec", "dependsOn")
		if len(depends) != len(a.Needs)+len(a.StartAfter) {
			t.Errorf("%s waits for %v", a.Name, depends)
		}
	}
	for name, pruned := range prune {
		if want := !slices.Contains([]string{"istio", "network", "flux", "git"}, name); pruned != want {
			t.Errorf("%s is pruned: %t", name, pruned)
		}
	}
	root, err := rootObjects()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range root {
		if o.GetAnnotations()["kustomize.toolkit.fluxcd.io/prune"] != "disabled" {
			t.Errorf("a commit could have %s removed", kube.Name(o))
		}
	}
	if policy, _, _ := unstructured.NestedString(root[1].Object, "spec", "deletionPolicy"); policy != "Orphan" {
		t.Errorf("with %s all addons would go", kube.Name(root[1]))
	}
}

// past is a repository: commits on top of each other, each with all its files.
type past struct {
	log   []labgit.Commit
	files map[string]files
}

func (p *past) commit(author string, change files) string {
	hash := fmt.Sprintf("%d%039d", len(p.log), 0)
	now := files{}
	if len(p.log) > 0 {
		maps.Copy(now, p.files[p.log[0].Hash])
	}
	maps.Copy(now, change)
	maps.DeleteFunc(now, func(_ string, text []byte) bool { return text == nil })
	c := labgit.Commit{Hash: hash, Author: author + " <" + author + "@example.com>", Message: "by " + author, Files: slices.Collect(maps.Keys(change))}
	p.log, p.files[hash] = append([]labgit.Commit{c}, p.log...), now
	return hash
}

func (p *past) read(commit, _ string) (map[string][]byte, error) { return p.files[commit], nil }

func TestACommitChangesWhatIsMllabsAndLetsTheRestBe(t *testing.T) {
	const on, what = "lab/istio.yaml", "addons/istio/x.yaml"
	text := func(s string) files { return files{on: []byte("on"), what: []byte(s)} }
	gone := files{on: nil, what: nil}
	for name, c := range map[string]struct {
		before  func(p *past)
		want    string // what mllab renders
		changed string
		change  files
		gone    bool
		note    []string
	}{
		"nothing there":         {func(p *past) {}, "1", "created", text("1"), false, nil},
		"as it is rendered":     {func(p *past) { p.commit(mllab, text("1")) }, "1", "", files{}, false, nil},
		"mllab has a newer one": {func(p *past) { p.commit(mllab, text("1")) }, "2", "configured", text("2"), false, nil},
		"a file is rendered no more": {func(p *past) {
			old := text("1")
			old["addons/istio/old.yaml"] = []byte("old")
			p.commit(mllab, old)
		}, "1", "configured", files{on: []byte("on"), what: []byte("1"), "addons/istio/old.yaml": nil}, false, nil},
		"somebody changed it": {func(p *past) { p.commit(mllab, text("1")); p.commit("jane", text("9")) }, "1", "", files{}, false,
			[]string{`istio stays as commit 2000000 ("by jane" by jane <jane@example.com>) left it` + "\n", "git restore -SW -s 1000000 lab/istio.yaml addons/istio,"}},
		"somebody changed it twice, and mllab has a newer one": {func(p *past) {
			p.commit(mllab, text("1"))
			p.commit("jane", text("9"))
			p.commit("jane", text("8"))
		}, "2", "", files{}, false, []string{"commit 3000000", "this mllab has a newer one", "-s 1000000 "}},
		"somebody changed it and took that back": {func(p *past) {
			p.commit(mllab, text("1"))
			p.commit("jane", text("9"))
			p.commit("jane", text("1"))
		}, "2", "configured", text("2"), false, nil},
		"somebody made what mllab would": {func(p *past) { p.commit(mllab, text("1")); p.commit("jane", text("2")) }, "2", "", files{}, false, nil},
		"somebody took it out":           {func(p *past) { p.commit(mllab, text("1")); p.commit("jane", gone) }, "1", "", files{}, true, []string{"istio is not in the lab's Git since commit 2000000", "-s 1000000 "}},
		"somebody had one before mllab":  {func(p *past) { p.commit("jane", text("9")) }, "1", "", files{}, false, []string{"istio stays as commit 1000000"}},
		"mllab's last words count":       {func(p *past) { p.commit("jane", text("9")); p.commit(mllab, text("1")) }, "2", "configured", text("2"), false, nil},
		"a commit of something else":     {func(p *past) { p.commit(mllab, text("1")); p.commit("jane", files{"scenarios/x.yaml": []byte("x")}) }, "2", "configured", text("2"), false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := &past{files: map[string]files{}}
			p.commit("server", files{"README.md": []byte("read me")})
			c.before(p)
			d, change, err := decide(p.log[0].Hash, p.log, p.read, []string{"istio"}, map[string]files{"istio": text(c.want)})
			if err != nil || d.changed["istio"] != c.changed || d.head != p.log[0].Hash || slices.Contains(d.gone, "istio") != c.gone {
				t.Errorf("%+v, %v", d, err)
			}
			if !change.equal(c.change) {
				t.Errorf("it changes %q, want %q", change, c.change)
			}
			if c.changed != "" && !strings.HasPrefix(d.subject, "mllab: istio 1.") {
				t.Errorf("the commit is called %q", d.subject)
			}
			if (len(d.notes) > 0) != (c.note != nil) {
				t.Errorf("it says %q", d.notes)
			}
			for _, part := range c.note {
				if !strings.Contains(strings.Join(d.notes, "\n"), part) {
					t.Errorf("it says %q, not %q", d.notes, part)
				}
			}
		})
	}
}

// A Kustomization as Flux leaves it.
func TestFluxsWordsAreKept(t *testing.T) {
	condition := func(status, why string, generation int64) *unstructured.Unstructured {
		k := object(fluxKustomizations, "Kustomization", fluxNamespace, "istio")
		k.SetGeneration(2)
		k.Object["status"] = map[string]any{"conditions": []any{map[string]any{
			"type": "Ready", "status": status, "reason": why, "message": "words", "observedGeneration": generation,
		}}}
		return k
	}
	suspended := condition("True", "", 2)
	if err := unstructured.SetNestedField(suspended.Object, true, "spec", "suspend"); err != nil {
		t.Fatal(err)
	}
	for want, k := range map[string]*unstructured.Unstructured{
		"":                     condition("True", "ReconciliationSucceeded", 2),
		"BuildFailed: words":   condition("False", "BuildFailed", 2),
		"not looked at it yet": condition("True", "ReconciliationSucceeded", 1),
		"it is suspended":      suspended,
	} {
		if err := applied(k); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
