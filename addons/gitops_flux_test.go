package addons

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	labgit "mllab.local/internal/git"
	"mllab.local/internal/kube"
	"mllab.local/internal/report"
)

// gitLab is a lab whose repository is one of the real git, and whose Flux has
// fetched and applied each commit as soon as somebody asks.
type gitLab struct {
	*testing.T
	env       Env
	dir       string
	behind    string            // the commit that Flux stays at; "": it has the newest
	suspended string            // a Kustomization
	broken    map[string]string // Kustomization: Flux's reason why it cannot build it
	unready   atomic.Int32      // how often somebody was told that something is not ready
	enough    context.CancelFunc
}

// until ends when somebody was told n times that something is not ready: a wait has its reason then, however slow the machine.
func (lab *gitLab) until(n int32) context.Context {
	ctx, end := context.WithTimeout(lab.Context(), time.Minute)
	lab.Cleanup(end)
	lab.unready.Store(-n)
	lab.enough = end
	return ctx
}

func newGitLab(t *testing.T) *gitLab {
	t.Helper()
	program, err := exec.LookPath("git")
	if err != nil {
		t.Fatalf("this test needs git: %v", err)
	}
	lab := &gitLab{T: t, dir: t.TempDir(), broken: map[string]string{}}
	lab.git("", "init", "-q", "--bare", "-b", labgit.Main, "lab.git")
	lab.git("", "config", "http.receivepack", "true")
	lab.git("commit refs/heads/"+labgit.Main+"\ncommitter server <> 1767225600 +0000\ndata 5\nfirst\nM 100644 inline README.md\ndata 4\nread\n", "fast-import", "--quiet")
	mux := http.NewServeMux()
	mux.Handle("/git/lab.git/", &cgi.Handler{Path: program, Args: []string{"http-backend"}, Root: "/git", Env: []string{"GIT_PROJECT_ROOT=" + lab.dir, "GIT_HTTP_EXPORT_ALL=1"}})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	token := &corev1.Secret{Data: map[string][]byte{"username": []byte(gitUser), "password": []byte("s3cret")}}
	token.Namespace, token.Name = gitNamespace, gitSecret
	lab.env = Env{Gateway: server.URL, Kube: &kube.Client{Client: fake.NewClientBuilder().WithObjects(token).WithInterceptorFuncs(interceptor.Funcs{Get: lab.get}).Build()}}
	return lab
}

func (lab *gitLab) git(stdin string, args ...string) string {
	lab.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Stdin = lab.dir, strings.NewReader(stdin)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + lab.dir, "GIT_DIR=lab.git"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		lab.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// get answers for Flux's objects, which are as the repository has them.
func (lab *gitLab) get(ctx context.Context, c client.WithWatch, key client.ObjectKey, into client.Object, opts ...client.GetOption) error {
	o, ok := into.(*unstructured.Unstructured)
	if !ok || key.Namespace != fluxNamespace {
		return c.Get(ctx, key, into, opts...)
	}
	at := lab.behind
	if at == "" {
		at = lab.git("", "rev-parse", labgit.Main)
	}
	revision, ready := "main@sha1:"+at, map[string]any{"type": "Ready", "status": "True", "reason": "Succeeded", "message": "words", "observedGeneration": int64(1)}
	status := map[string]any{"artifact": map[string]any{"revision": revision}, "lastAppliedRevision": revision, "lastAttemptedRevision": revision, "conditions": []any{ready}}
	if lab.enough != nil && (o.GetKind() == "GitRepository" && lab.behind != "" || lab.suspended == key.Name || lab.broken[key.Name] != "") && lab.unready.Add(1) == 0 {
		lab.enough()
	}
	switch {
	case o.GetKind() == "GitRepository":
	case lab.git("", "ls-tree", "--name-only", at, "lab/"+key.Name+".yaml") == "":
		return apierrors.NewNotFound(schema.GroupResource{Resource: "kustomizations"}, key.Name)
	case lab.broken[key.Name] != "":
		ready["status"], ready["reason"], status["lastAppliedRevision"] = "False", lab.broken[key.Name], "main@sha1:before"
	}
	o.SetGeneration(1)
	o.Object["status"] = status
	o.Object["spec"] = map[string]any{"suspend": lab.suspended == key.Name, "dependsOn": []any{map[string]any{"name": "one"}}}
	return nil
}

// clone clones the repository for somebody.
func (lab *gitLab) clone(author string) *labgit.Repo {
	lab.Helper()
	remote, err := GitRemote(lab.Context(), lab.env.Kube, lab.env.Gateway)
	if err != nil {
		lab.Fatal(err)
	}
	repo, err := labgit.Clone(lab.Context(), remote, author)
	if err != nil {
		lab.Fatal(err)
	}
	return repo
}

// commit moves the branch as somebody's push does.
func (lab *gitLab) commit(author string, change files) string {
	lab.Helper()
	hash, err := lab.clone(author).Commit(lab.Context(), labgit.Change{Files: change, Message: "by " + author})
	if err != nil {
		lab.Fatal(err)
	}
	return hash
}

// underGit has Flux follow the repository.
func (lab *gitLab) underGit() {
	lab.Helper()
	lab.commit(gitopsAuthor, files{"lab/lab.yaml": []byte("of an older mllab\n")})
}

// two are addons of one object each, of which the second needs the first; used counts their uses.
func two(used *atomic.Int32) []Rendered {
	addon := func(name string, needs ...string) Rendered {
		return Rendered{
			Addon:   Addon{Name: name, Needs: needs, Verify: func(context.Context, Env, func(string)) error { used.Add(1); return nil }},
			Objects: []*unstructured.Unstructured{object("v1", "ConfigMap", "default", name)},
		}
	}
	return []Rendered{addon("one"), addon("two", "one")}
}

func noPods(context.Context, Env, func(string)) error {
	return errors.New("nothing may be applied without Git")
}

// became are results in few words.
func became(results []Result) (words []string) {
	for _, r := range results {
		words = append(words, r.Name+": "+Summary(r.Changes))
	}
	return words
}

func TestByGitWhatDiffersIsCommittedAndEachAddonIsUsed(t *testing.T) {
	lab := newGitLab(t)
	lab.underGit()
	var used atomic.Int32
	install := func() (words []string, notes string) {
		t.Helper()
		before := used.Load()
		var seen bytes.Buffer
		results, err := InstallByGit(t.Context(), lab.env, noPods, two(&used), report.New(&seen, report.Options{}))
		if err != nil {
			t.Fatal(err)
		}
		if n := used.Load() - before; int(n) != len(results) {
			t.Errorf("%d of %d addons were used", n, len(results))
		}
		return became(results), seen.String()
	}
	if got, _ := install(); !slices.Equal(got, []string{"one: 1 created", "two: 1 created"}) {
		t.Errorf("the first time: %q", got)
	}
	head := lab.git("", "rev-parse", labgit.Main)
	if names := lab.git("", "ls-tree", "-r", "--name-only", labgit.Main, "addons"); names != "addons/one/configmap_default_one.yaml\naddons/two/configmap_default_two.yaml" {
		t.Errorf("Git has %s", names)
	}
	if got, _ := install(); !slices.Equal(got, []string{"one: unchanged", "two: unchanged"}) || lab.git("", "rev-parse", labgit.Main) != head {
		t.Errorf("the second time: %q, and the newest commit is %s, not %s", got, lab.git("", "rev-parse", labgit.Main), head)
	}
	lab.commit("jane", files{"lab/two.yaml": nil, "addons/two/configmap_default_two.yaml": nil})
	if got, said := install(); !slices.Equal(got, []string{"one: unchanged"}) || !strings.Contains(said, "two is not in the lab's Git since commit") {
		t.Errorf("after somebody took one out: %q, and it says\n%s", got, said)
	}
}

func TestByGitFluxsReasonIsTheError(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(lab *gitLab)
		final bool
		want  string
	}{
		"what cannot be built is final": {func(lab *gitLab) { lab.broken["two"] = "BuildFailed" }, true, "two: waiting: Kustomization/flux-system/two: BuildFailed: words"},
		"what depends on an addon that is not in Git is final": {func(lab *gitLab) {
			if _, err := InstallByGit(lab.Context(), lab.env, noPods, two(new(atomic.Int32)), report.Discard()); err != nil {
				lab.Fatal(err)
			}
			lab.commit("jane", files{"lab/one.yaml": nil, "addons/one/configmap_default_one.yaml": nil})
			lab.broken["two"] = "DependencyNotReady"
		}, true, "DependencyNotReady: words; a commit took one out of the lab's Git"},
		"what depends on another may be applied later": {func(lab *gitLab) { lab.broken["two"] = "DependencyNotReady" }, false, "DependencyNotReady: words"},
		"a suspended Kustomization":                    {func(lab *gitLab) { lab.suspended = "two" }, false, "it is suspended"},
		"an addon that Flux cannot apply":              {func(lab *gitLab) { lab.broken["one"] = "ReconciliationFailed" }, false, "ReconciliationFailed: words"},
		"a commit that Flux does not fetch":            {func(lab *gitLab) { lab.behind = lab.git("", "rev-parse", labgit.Main) }, false, "not yet"},
	} {
		t.Run(name, func(t *testing.T) {
			lab := newGitLab(t)
			lab.underGit()
			c.spoil(lab)
			ctx := lab.until(4)
			_, err := InstallByGit(ctx, lab.env, noPods, two(new(atomic.Int32)), report.Discard())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if final := ctx.Err() == nil; final != c.final {
				t.Errorf("final: %v, want %v", final, c.final)
			}
		})
	}
}

func TestACommitIsFetchedWhenFluxHasItOrALaterOne(t *testing.T) {
	lab := newGitLab(t)
	var commits []string
	for i := range 3 {
		commits = append(commits, lab.commit("jane", files{"x": fmt.Append(nil, i)}))
	}
	repo := lab.clone(gitopsAuthor)
	for _, c := range []struct {
		has  string
		want bool
	}{{commits[0], false}, {commits[1], true}, {commits[2], true}, {strings.Repeat("0", 40), false}} {
		lab.behind = c.has
		if err := fetched(t.Context(), lab.env, repo, commits[1]); (err == nil) != c.want {
			t.Errorf("of commits %q, Flux has %s: %v", commits, c.has, err)
		}
	}
}

func TestAnAddonIsReadyByGitWhenFluxHasAppliedIt(t *testing.T) {
	lab := newGitLab(t)
	lab.underGit()
	lab.commit(gitopsAuthor, files{"lab/one.yaml": []byte("{}\n"), "lab/two.yaml": []byte("{}\n"), "lab/three.yaml": []byte("{}\n")})
	lab.suspended, lab.broken["three"] = "two", "ReconciliationFailed"
	for name, want := range map[string]string{"one": "", "absent": ErrNotInGit.Error(), "two": "it is suspended", "three": "ReconciliationFailed: words"} {
		err := ReadyByGit(lab.until(2), lab.env.Kube, name, func(string) {})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
		if errors.Is(err, ErrNotInGit) != (name == "absent") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestWhatFluxHasToDoIsWhatGitHas(t *testing.T) {
	list := two(new(atomic.Int32))
	list[1].StartAfter = []string{"gone"}
	list = append(list, Rendered{Addon: Addon{Name: "gone"}}, Rendered{Addon: Addon{Name: "istio"}})
	g, err := follow(Env{}, list, decision{head: "0123456789", subject: "mllab: one", changed: map[string]string{"one": "created"}, gone: []string{"gone", "istio"}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, a := range g.list {
		names = append(names, a.Name)
		if len(a.Objects) != 1 || a.Objects[0].GetKind() != "Kustomization" || a.Objects[0].GetName() != a.Name || slices.Contains(a.StartAfter, "gone") {
			t.Errorf("%s: after %v, objects %v", a.Name, a.StartAfter, a.Objects)
		}
	}
	if !slices.Equal(names, []string{"one", "two"}) || g.committed != "committed 0123456, mllab: one" {
		t.Errorf("got %v, %q", names, g.committed)
	}
	// What Git itself needs is taken out of Git, but never from the lab.
	if !slices.Equal(g.removed, []string{"gone"}) {
		t.Errorf("removed are %v", g.removed)
	}
	changes, err := g.changes(t.Context(), []*unstructured.Unstructured{object("v1", "ConfigMap", "", "one"), object("v1", "ConfigMap", "", "two")})
	if err != nil || Summary(changes) != "1 created, 1 unchanged" {
		t.Errorf("got %v, %v", changes, err)
	}
}

func TestAWorkloadThatIsGoneIsNotWaitedFor(t *testing.T) {
	k := object(fluxKustomizations, "Kustomization", fluxNamespace, "flux")
	k.Object["status"] = map[string]any{"inventory": map[string]any{"entries": []any{
		map[string]any{"id": "x_settings__ConfigMap", "v": "v1"}, // a wait says what is missing, and Flux brings it back
		map[string]any{"id": "x_applier_apps_Deployment", "v": "v1"},
	}}}
	c := &kube.Client{Client: fake.NewClientBuilder().WithObjects(k).Build()}
	if err := deleted(t.Context(), c, "flux"); err == nil || err.Error() != "Deployment/x/applier was deleted" {
		t.Errorf("got %v", err)
	}
	if err := c.Create(t.Context(), object("apps/v1", "Deployment", "x", "applier")); err != nil {
		t.Fatal(err)
	}
	if err := deleted(t.Context(), c, "flux"); err != nil {
		t.Errorf("all are there: %v", err)
	}
}
