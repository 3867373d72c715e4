//go:build e2e

package main

import (
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mllab.local/internal/audit"
)

// auditTry is what testGitVerbs has Flux follow, in a namespace of its own.
const auditTry = `apiVersion: v1
kind: Namespace
metadata: {name: audit-try}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: git-ask, namespace: audit-try}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: git-ask}
subjects: [{kind: ServiceAccount, name: git, namespace: git}]
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: lab, namespace: audit-try}
spec: {interval: 1h, url: "http://git.git.svc.cluster.local/lab.git", ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: model, namespace: audit-try}
spec: {interval: 1h, path: ./audit-try/overlays/lab, prune: true, targetNamespace: audit-try, sourceRef: {kind: GitRepository, name: lab}}
`

// gitUser is a person with a clone.
type gitUser struct {
	*testing.T
	dir string
}

func (g gitUser) try(args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = g.dir
	// Neither the lab's variables nor a configuration of whoever runs this.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + g.TempDir(), "LC_ALL=C", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com"}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (g gitUser) git(args ...string) string {
	g.Helper()
	out, err := g.try(args...)
	if err != nil {
		g.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// refused runs git, which must fail and say so.
func (g gitUser) refused(says string, args ...string) {
	g.Helper()
	if out, err := g.try(args...); err == nil || !strings.Contains(out, says) {
		g.Errorf("git %s: %v\n%s\nwant a refusal that says %q", strings.Join(args, " "), err, out, says)
	}
}

// commit writes files, given as path and content, and commits them.
func (g gitUser) commit(message string, pairs ...string) string {
	g.Helper()
	for i := 0; i < len(pairs); i += 2 {
		file := filepath.Join(g.dir, pairs[i])
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			g.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(pairs[i+1]), 0o644); err != nil {
			g.Fatal(err)
		}
		g.git("add", pairs[i])
	}
	g.git("commit", "-q", "-m", message)
	return g.git("rev-parse", "HEAD")
}

// testGitVerbs is for a lab with the addons flux and git, and leaves it as it was, but for the commits.
func testGitVerbs(t *testing.T, c cli) {
	address := c.run("git", "url")
	address.ok(t, nil)
	at, err := url.Parse(strings.TrimSpace(address.out))
	if err != nil || strings.Count(address.out, "\n") != 1 {
		t.Fatalf("%v: %s", err, address)
	}
	token, _ := at.User.Password()
	clone := func(t *testing.T) gitUser {
		t.Helper()
		g := gitUser{t, filepath.Join(t.TempDir(), "lab")}
		c.run("git", "clone", g.dir).ok(t, nil)
		return g
	}
	ada := clone(t)
	settings := func(color string) string {
		return "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {color: " + color + ", size: \"1\"}}\n"
	}
	applied := func(t *testing.T, commit string) {
		t.Helper()
		c.kubectl(t, "-n", "audit-try", "wait", "kustomization/model", "--for=jsonpath={.status.lastAppliedRevision}=main@sha1:"+commit, "--timeout=300s")
	}
	read := func(t *testing.T) (r audit.Report) {
		t.Helper()
		c.run("audit", "-o", "json").ok(t, &r)
		return r
	}
	green := ada.commit("Green", "audit-try/base/kustomization.yaml", "resources: [settings.yaml]\n", "audit-try/base/settings.yaml", settings("green"),
		"audit-try/overlays/lab/kustomization.yaml", "resources: [../../base]\n", "audit-try/base/Meeting notes.md", "That Flux takes any name.\n")
	ada.git("push", "-q")
	engine(t, "exec", c.node(), "sh", "-c", `printf %s "$1" | kubectl --kubeconfig=/etc/kubernetes/admin.conf apply -f -`, "sh", auditTry)
	defer c.kubectl(t, "delete", "namespace", "audit-try", "--timeout=300s")
	applied(t, green)

	c.part(t, "a clone keeps no token", func(t *testing.T) {
		c.run("git", "clone", ada.dir).exits(t, 2, "is not empty")
		if err := filepath.WalkDir(ada.dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(p)
			if strings.Contains(string(text), token) {
				t.Errorf("%s holds the token", p)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})

	c.part(t, "a push works during a scenario, and Flux fetches at once", func(t *testing.T) {
		p := c.start("scenario", "canary", "--requests", "200000")
		p.says(t, "requests")
		red := ada.commit("Red", "audit-try/base/settings.yaml", settings("red"))
		ada.git("push", "-q")
		applied(t, red)
		p.interrupt()
		p.wait().exits(t, 130)
	})

	c.part(t, "clones may be shallow, or without files", func(t *testing.T) {
		for flag, commits := range map[string]string{"--depth=1": "1", "--filter=blob:none": ada.git("rev-list", "--count", "HEAD")} {
			g := gitUser{t, t.TempDir()}
			g.git("clone", "-q", flag, at.String(), ".")
			if got := g.git("rev-list", "--count", "HEAD"); got != commits {
				t.Errorf("%s has %s commits, want %s", flag, got, commits)
			}
			g.git("rev-parse", "HEAD:audit-try/base/Meeting notes.md")
		}
	})

	c.part(t, "the server refuses pushes that lose or forge commits, with a reason", func(t *testing.T) {
		late := clone(t)
		blue := ada.commit("Blue", "audit-try/base/settings.yaml", settings("blue"))
		ada.git("push", "-q")
		late.commit("Late", "audit-try/late", blue) // new in each run on the same lab
		late.refused("fetch first", "push")
		late.refused("main accepts only a fast-forward", "push", "--force")
		late.refused("main cannot be removed", "push", "origin", ":main")
		late.refused("not a valid name", "push", "origin", "HEAD:refs/remotes/x/y")
		wrong := *at
		wrong.User = url.UserPassword("mllab", "wrong")
		late.git("fetch", "-q")
		late.git("rebase", "-q", "origin/main")
		late.refused("Authentication failed", "-c", "credential.helper=", "push", wrong.String(), "main")
		late.commit("Large", "audit-try/large", strings.Repeat("0", 100<<20))
		late.refused("the push has a file of 100 MiB, more than the limit of 50 MiB", "push")
		late.git("reset", "-q", "--hard", "HEAD~1")
		late.git("push", "-q")
		if first := ada.git("ls-remote", "origin", "main"); !strings.HasPrefix(first, late.git("rev-parse", "HEAD")) {
			t.Errorf("main is at %s", first)
		}
		late.git("merge-base", "--is-ancestor", blue, "HEAD")
		ada.git("pull", "-q")
	})

	c.part(t, "the audit ties a commit to what it changed, when, and what proves it", func(t *testing.T) {
		tip := ada.commit("White", "audit-try/base/settings.yaml", settings("white"))
		ada.git("push", "-q")
		applied(t, tip)
		note := fmt.Sprintf(`{"scenario":"gitops","step":"by hand","pass":true,"applied":"main@sha1:%s","secondsToTraffic":1.5,"evidence":{"says":"n=1 white 1"}}`, tip)
		ada.git("notes", "--ref=mllab", "add", "-m", note, tip)
		ada.git("push", "-q", "origin", "refs/notes/mllab")
		r := read(t)
		if r.Head != tip || len(r.Commits) == 0 || r.Commits[0].Hash != tip || len(r.Drift) != 0 || r.Compared == 0 {
			t.Fatalf("%+v", r)
		}
		w := r.Commits[0]
		if w.Author != "Ada <ada@example.com>" || w.Subject() != "White" || w.Pushed == nil || w.Pushed.User != "mllab" || !slices.Equal(w.Files, []string{"audit-try/base/settings.yaml"}) {
			t.Errorf("%+v", w)
		}
		if len(w.Changes) != 1 || len(w.Changes[0].Objects) != 1 || len(w.Changes[0].Objects[0].Fields) != 1 {
			t.Fatalf("%+v", w.Changes)
		}
		o := w.Changes[0].Objects[0]
		if f := o.Fields[0]; o.Object != "ConfigMap/audit-try/settings" || o.Action != "changed" || f.Path != "data.color" || f.Before != "blue" || f.After != "white" {
			t.Errorf("%+v", o)
		}
		if !slices.ContainsFunc(w.Applied, func(a audit.Applied) bool { return a.Reason == "ReconciliationSucceeded" && a.From == "event" }) {
			t.Errorf("applied: %+v", w.Applied)
		}
		if w.Proof == nil || !w.Proof.Pass || w.Proof.SecondsToTraffic != 1.5 || audit.Summary(*w.Proof) != "n=1 white 1" {
			t.Errorf("proof: %+v", w.Proof)
		}
		text := c.run("audit", "--last", "1")
		for _, line := range []string{"data.color: blue -> white", "pushed   by mllab", "traffic  after 1.5 s", `proof    PASS gitops, step "by hand": n=1 white 1`, "older commits: mllab audit --last 0", "no drift: 1 objects"} {
			if !strings.Contains(text.out, line) {
				t.Errorf("the text lacks %q: %s", line, text)
			}
		}
	})

	c.part(t, "a commit that cannot be built is shown with the reason, here and in status", func(t *testing.T) {
		ada.commit("Broken", "audit-try/overlays/lab/kustomization.yaml", "resources: [../../bases]\n")
		ada.git("push", "-q")
		c.kubectl(t, "-n", "audit-try", "wait", "kustomization/model", "--for=jsonpath={.status.conditions[?(@.type==\"Ready\")].reason}=BuildFailed", "--timeout=300s")
		if broken := read(t).Commits[0]; len(broken.Changes) != 1 || !strings.Contains(broken.Changes[0].Error, "bases") {
			t.Errorf("%+v", broken)
		}
		if r := c.run("status"); r.code != 0 || !strings.Contains(r.out, "Kustomization/audit-try/model not Ready: BuildFailed") {
			t.Errorf("status: %s", r)
		}
		ada.git("revert", "--no-edit", "HEAD")
		ada.git("push", "-q")
		applied(t, ada.git("rev-parse", "HEAD"))
	})

	c.part(t, "tampering shows with its manager, and is a report", func(t *testing.T) {
		c.kubectl(t, "-n", "audit-try", "patch", "configmap", "settings", "--type=merge", "-p", `{"data":{"color":"black","more":"x"}}`)
		r := read(t) // exits 0
		if len(r.Drift) != 1 || len(r.Drift[0].Objects) != 1 || len(r.Drift[0].Objects[0].Fields) != 2 {
			t.Fatalf("%+v", r.Drift)
		}
		for i, want := range []struct{ path, git, live any }{{"data.color", "white", "black"}, {"data.more", nil, "x"}} {
			f := r.Drift[0].Objects[0].Fields[i]
			if f.Path != want.path || f.Wished != want.git || f.Live != want.live || f.Manager != "kubectl-patch" || f.When == nil || !f.Undone {
				t.Errorf("%+v, want %v", f, want)
			}
		}
		c.kubectl(t, "-n", "audit-try", "delete", "configmap", "settings")
		if r = read(t); len(r.Drift) != 1 || !r.Drift[0].Objects[0].Missing {
			t.Errorf("removed: %+v", r.Drift)
		}
		c.kubectl(t, "-n", "audit-try", "annotate", "--overwrite", "kustomization/model", "reconcile.fluxcd.io/requestedAt=again")
		c.kubectl(t, "-n", "audit-try", "wait", "kustomization/model", "--for=jsonpath={.status.lastHandledReconcileAt}=again", "--timeout=300s")
		if r = read(t); len(r.Drift) != 0 {
			t.Errorf("after Flux has put it back: %+v", r.Drift)
		}
	})

	c.part(t, "the audit is complete when the Git pod was killed", func(t *testing.T) {
		before := read(t)
		c.kubectl(t, "-n", "git", "delete", "pod", "-l", "app=git", "--grace-period=0", "--force")
		after := read(t) // asks again until it is back
		if len(after.Commits) != len(before.Commits) || after.Head != before.Head {
			t.Fatalf("%d commits, before it was killed %d", len(after.Commits), len(before.Commits))
		}
		for i, b := range before.Commits {
			if a := after.Commits[i]; a.Hash != b.Hash || (a.Pushed == nil) != (b.Pushed == nil) || (a.Proof == nil) != (b.Proof == nil) || len(a.Changes) != len(b.Changes) {
				t.Errorf("%+v, before it was killed %+v", a, b)
			}
		}
		ada.git("fetch", "-q")
	})
}
