package addons

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"mllab.local/internal/fault"
	labgit "mllab.local/internal/git"
	"mllab.local/internal/kube"
	"mllab.local/internal/report"
)

// A lab under GitOps has its addons from its own Git. What an addon is, is in
// addons/NAME/, one file for each object; that the lab has it is in
// lab/NAME.yaml, a Kustomization. One more of these, gitopsRoot, applies lab/,
// itself included.
const (
	gitopsRoot    = "lab"
	gitopsFolder  = "lab/"
	gitopsObjects = "addons/"
	// gitopsAuthor is the author of mllab's commits. mllab may change the files of
	// its own last commit; other changes are somebody's decision.
	gitopsAuthor = mllab
)

// ErrNotInGit means that the lab's Git does not have an addon.
var ErrNotInGit = errors.New("it is not in the lab's Git")

// gitNeeds names the addons that Git itself needs. Pruning one of these would
// disconnect Git.
func gitNeeds() []string {
	list, _ := Select("git") // an addon's name
	return Names(list)
}

// rootObjects are what Flux follows: the lab's Git, and the Kustomization of all
// others.
func rootObjects() ([]*unstructured.Unstructured, error) { return manifest("git/follow.yaml") }

// addonKustomization has Flux apply an addon, once those that it is after have
// ever been applied. Flux's own rule, that they have applied the same commit,
// would let each commit wait for all before it.
func addonKustomization(a Addon) (*unstructured.Unstructured, error) {
	objs, err := manifest("git/addon.yaml", "$(name)", a.Name)
	if err != nil {
		return nil, err
	}
	var depends []any
	for _, name := range slices.Concat(a.Needs, a.StartAfter) {
		depends = append(depends, map[string]any{"name": name, "readyExpr": "has(dep.status.lastAppliedRevision)"})
	}
	err = unstructured.SetNestedField(objs[0].Object, !slices.Contains(gitNeeds(), a.Name), "spec", "prune")
	if len(depends) > 0 {
		err = errors.Join(err, unstructured.SetNestedSlice(objs[0].Object, depends, "spec", "dependsOn"))
	}
	return objs[0], err
}

type files map[string][]byte

// of returns those that are about an addon.
func (f files) of(name string) files {
	part := files{}
	for path, text := range f {
		if about(path, name) {
			part[path] = text
		}
	}
	return part
}

func (f files) equal(other files) bool { return maps.EqualFunc(f, other, slices.Equal) }

func about(path, name string) bool {
	return path == gitopsFolder+name+".yaml" || strings.HasPrefix(path, gitopsObjects+name+"/")
}

func (f files) add(path string, objs ...*unstructured.Unstructured) error {
	if f[path] != nil {
		return fmt.Errorf("%s would be written twice", path)
	}
	var docs []string
	for _, o := range objs {
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			return fmt.Errorf("%s: %w", kube.Name(o), err)
		}
		docs = append(docs, string(text))
	}
	f[path] = []byte(strings.Join(docs, "---\n"))
	return nil
}

func gitFiles(a Addon, objs []*unstructured.Unstructured) (files, error) {
	f := files{}
	k, err := addonKustomization(a)
	if err != nil {
		return nil, err
	}
	if err := f.add(gitopsFolder+a.Name+".yaml", k); err != nil {
		return nil, err
	}
	for _, o := range objs {
		if o.GetKind() == "Secret" && (o.Object["data"] != nil || o.Object["stringData"] != nil) {
			return nil, fmt.Errorf("%s has data, which is not for Git", kube.Name(o))
		}
		kind := strings.ToLower(o.GroupVersionKind().GroupKind().String()) // as kubectl takes it: deployment.apps
		parts := slices.DeleteFunc([]string{kind, o.GetNamespace(), o.GetName()}, func(s string) bool { return s == "" })
		if err := f.add(gitopsObjects+a.Name+"/"+strings.Join(parts, "_")+".yaml", o); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// InstallByGit is Install for a lab whose addons come from its own Git. A lab
// that is not under GitOps yet is installed as ever, and then handed over. After
// that nothing is applied here: what differs from Git is committed, and each
// addon is verified once Flux has applied that. What others than mllab have
// committed of an addon stays as they made it, and is said.
//
// There is one Result for each addon that the lab has then, in list's order.
func InstallByGit(ctx context.Context, env Env, pods Use, list []Rendered, r report.Reporter) ([]Result, error) {
	return installByGit(ctx, env, list, r, env.actions(pods))
}

// installByGit is InstallByGit, where do is what is done without Git.
func installByGit(ctx context.Context, env Env, list []Rendered, r report.Reporter, do actions) ([]Result, error) {
	var under bool
	err := poll(ctx, func(string) {}, "looking who has the addons", func(ctx context.Context) error {
		_, err := readKustomization(ctx, env.Kube, gitopsRoot)
		under = err == nil
		if errors.Is(err, ErrNotInGit) {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var installed []Result
	if !under {
		if installed, err = install(ctx, env, list, r, do); err != nil {
			return installed, err
		}
	}
	task := r.Step("gitops")
	if under {
		installed, err = repair(ctx, env, list, r, do, task.Update)
	}
	var g byGit
	if err == nil {
		g, err = publish(ctx, env, list, !under, r, do, task.Update)
	}
	if err != nil {
		err = fmt.Errorf("gitops: %w", err)
		task.Fail(err)
		return installed, err
	}
	task.Done(g.committed)
	results, err := install(ctx, env, g.list, r, actions{g.changes, g.wait, func(context.Context, Env, func(string)) error { return nil }, do.progress})
	return g.merged(list, installed, results), err
}

func (g byGit) merged(list []Rendered, runs ...[]Result) []Result {
	var all []Result
	for _, a := range list {
		if slices.Contains(g.removed, a.Name) {
			continue
		}
		sum := Result{Name: a.Name}
		for _, r := range slices.Concat(runs...) {
			if r.Name == a.Name {
				sum.Changes = append(sum.Changes, r.Changes...)
				sum.Seconds += r.Seconds
				sum.VerifySeconds += r.VerifySeconds
				sum.Err = errors.Join(sum.Err, r.Err)
			}
		}
		all = append(all, sum)
	}
	return all
}

// repairAfter is how long the addons that Git needs may take to be ready. In a
// working lab they are ready at once.
const repairAfter = time.Minute

// repair installs the addons that Git needs if one of them is broken: then nobody
// could push a change, or Flux would not apply it. Flux is then asked to
// apply what Git says of it.
func repair(ctx context.Context, env Env, list []Rendered, r report.Reporter, do actions, reason func(string)) ([]Result, error) {
	names := gitNeeds()
	wctx, stop := context.WithTimeout(ctx, repairAfter)
	defer stop()
	var broken error
	for _, name := range names {
		err := deleted(wctx, env.Kube, name)
		if err == nil {
			err = ReadyByGit(wctx, env.Kube, name, reason)
		}
		if err != nil && !errors.Is(err, ErrNotInGit) {
			broken = errors.Join(broken, fmt.Errorf("%s: %w", name, err))
		}
	}
	if broken == nil || ctx.Err() != nil {
		return nil, ctx.Err()
	}
	r.Note("addons that the lab's Git needs are not ready; mllab applies them itself: %s", oneLine(broken))
	list = slices.DeleteFunc(slices.Clone(list), func(a Rendered) bool { return !slices.Contains(names, a.Name) })
	results, err := install(ctx, env, list, r, do)
	for _, name := range names {
		ask := fmt.Appendf(nil, `{"metadata":{"annotations":{"reconcile.fluxcd.io/requestedAt":%q}}}`, time.Now().Format(time.RFC3339Nano))
		asked := env.Kube.Patch(ctx, object(fluxKustomizations, "Kustomization", fluxNamespace, name), client.RawPatch(types.MergePatchType, ask))
		err = errors.Join(err, client.IgnoreNotFound(asked))
	}
	return results, err
}

// deleted returns an error if a workload is gone that Flux applied for an addon. Where it is Flux's own, no wait brings it back.
func deleted(ctx context.Context, c *kube.Client, addon string) error {
	k, err := readKustomization(ctx, c, addon)
	if err != nil {
		return nil // ReadyByGit asks again, and says why
	}
	objs, err := kube.Inventory(k)
	if err != nil {
		return err
	}
	for _, obj := range objs {
		if kube.HasPods(obj) && apierrors.IsNotFound(c.Get(ctx, client.ObjectKeyFromObject(obj), obj)) {
			return fmt.Errorf("%s was deleted", kube.Name(obj))
		}
	}
	return nil
}

// byGit makes Flux do what Install does.
type byGit struct {
	env       Env
	list      []Rendered        // their objects are Flux's Kustomizations; without those that are not in Git
	gone      []string          // those that are not in Git
	removed   []string          // those of gone that Flux has removed
	changed   map[string]string // what became of a Kustomization: "created", "configured"; none: "unchanged"
	committed string            // what was committed
}

// publish commits what is rendered, and returns when Flux has fetched that.
// first: Flux does not follow the lab's Git yet.
func publish(ctx context.Context, env Env, list []Rendered, first bool, r report.Reporter, do actions, reason func(string)) (byGit, error) {
	rendered := map[string]files{gitopsRoot: {}}
	root, err := rootObjects()
	if err != nil {
		return byGit{}, err
	}
	if err := rendered[gitopsRoot].add(gitopsFolder+gitopsRoot+".yaml", root...); err != nil {
		return byGit{}, err
	}
	names := []string{gitopsRoot}
	for _, a := range list {
		objs, err := env.Kube.Prepared(ctx, a.Objects)
		if err == nil {
			rendered[a.Name], err = gitFiles(a.Addon, objs)
		}
		if err != nil {
			return byGit{}, fmt.Errorf("rendering %s: %w", a.Name, err)
		}
		names = append(names, a.Name)
	}
	remote, err := GitRemote(ctx, env.Kube, env.Gateway)
	if err != nil {
		return byGit{}, err
	}
	reason("reading the lab's Git")
	bounded, stop := context.WithTimeout(ctx, verifyLimit)
	defer stop()
	repo, err := labgit.Clone(bounded, remote, gitopsAuthor)
	if err != nil {
		return byGit{}, fmt.Errorf("reading the lab's Git: %w", err)
	}
	reason("committing")
	d, err := commit(bounded, repo, names, rendered)
	if err != nil {
		return byGit{}, fmt.Errorf("committing: %w", err)
	}
	for _, note := range d.notes {
		r.Note("%s", note)
	}
	if first {
		if _, err := do.apply(ctx, root); err != nil {
			return byGit{}, err
		}
	}
	g, err := follow(env, list, d)
	if err != nil {
		return byGit{}, err
	}
	return g, poll(ctx, reason, "having Flux fetch the commit", func(ctx context.Context) error { return fetched(ctx, env, repo, d.head) })
}

// follow returns what Flux has to do after a commit: each addon is the
// Kustomization that applies it.
func follow(env Env, list []Rendered, d decision) (byGit, error) {
	keep := gitNeeds()
	g := byGit{env: env, gone: d.gone, changed: d.changed, committed: "unchanged"}
	if len(d.changed) > 0 {
		g.committed = fmt.Sprintf("committed %.7s, %s", d.head, d.subject)
	}
	g.removed = filter(d.gone, func(name string) bool { return !slices.Contains(keep, name) })
	present := func(name string) bool { return !slices.Contains(d.gone, name) }
	for _, a := range list {
		if !present(a.Name) {
			continue
		}
		k, err := addonKustomization(a.Addon)
		if err != nil {
			return byGit{}, err
		}
		// Flux knows its own order, and says when what an addon needs is gone.
		a.Needs, a.StartAfter, a.Available = filter(a.Needs, present), filter(a.StartAfter, present), nil
		g.list = append(g.list, Rendered{a.Addon, []*unstructured.Unstructured{k}})
	}
	return g, nil
}

func filter(names []string, keep func(string) bool) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !keep(n) })
}

// fetched returns nil when Flux has a commit, or a later one.
func fetched(ctx context.Context, env Env, repo *labgit.Repo, commit string) error {
	has, err := sourceRevision(ctx, env.Kube)
	if err != nil {
		return err
	}
	_, hash, _ := strings.Cut(has, "@sha1:")
	there, err := repo.Holds(ctx, hash, commit)
	if err == nil && !there {
		err = fmt.Errorf("it has %s, not yet %s", has, commit)
	}
	return err
}

// changes returns the changes of Kustomizations, which Flux makes.
func (g byGit) changes(_ context.Context, objs []*unstructured.Unstructured) ([]kube.Change, error) {
	var changes []kube.Change
	for _, o := range objs {
		changes = append(changes, kube.Change{Object: kube.Name(o), Action: cmp.Or(g.changed[o.GetName()], "unchanged")})
	}
	return changes, nil
}

// applyLimit bounds Flux's apply of one addon. The first one writes each object
// twice: on two busy cores that took a minute.
const applyLimit = 5 * time.Minute

// wait returns when Flux has applied what it has fetched, and it is ready.
func (g byGit) wait(ctx context.Context, objs []*unstructured.Unstructured, reason func(string)) error {
	for _, o := range objs {
		var final error // what Flux cannot build, or apply without what is not in Git
		err := pollFor(ctx, applyLimit, reason, "having Flux apply it", func(ctx context.Context) error {
			want, err := sourceRevision(ctx, g.env.Kube)
			if err != nil {
				return err
			}
			k, err := readKustomization(ctx, g.env.Kube, o.GetName())
			if err == nil {
				err = applied(k)
			}
			why := fluxReady(k).Reason // what is wrong with it, applied has said
			if tried, _, _ := unstructured.NestedString(k.Object, "status", "lastAttemptedRevision"); why == "BuildFailed" && tried == want {
				final = err
				return nil
			}
			if lacks := g.lacks(k); why == "DependencyNotReady" && lacks != "" {
				final = fault.Hinted(fmt.Errorf("%w; a commit took %s out of the lab's Git", err, lacks), "bring "+lacks+" back: revert that commit, push, and `mllab up`")
				return nil
			}
			if has, _, _ := unstructured.NestedString(k.Object, "status", "lastAppliedRevision"); err == nil && has != want {
				err = fmt.Errorf("%s: it has applied %s, not yet %s", kube.Name(k), cmp.Or(has, "nothing"), want)
			}
			return err
		})
		if err = errors.Join(err, final); err != nil {
			return err
		}
		if err := ReadyByGit(ctx, g.env.Kube, o.GetName(), reason); err != nil {
			return err
		}
	}
	return nil
}

// lacks returns an addon that a Kustomization depends on and that is not in Git, or "".
func (g byGit) lacks(k *unstructured.Unstructured) string {
	depends, _, _ := unstructured.NestedSlice(k.Object, "spec", "dependsOn")
	for _, each := range depends {
		if on, _ := each.(map[string]any); slices.Contains(g.gone, fmt.Sprint(on["name"])) {
			return fmt.Sprint(on["name"])
		}
	}
	return ""
}

// ReadyByGit returns when the objects that Flux applied for an addon are ready. It
// calls reason with what it waits for. It fails if Flux could not apply them.
//
// Errors: ErrNotInGit; else Flux's reason, or that of kube.Wait.
func ReadyByGit(ctx context.Context, c *kube.Client, addon string, reason func(string)) error {
	var k *unstructured.Unstructured
	var last error
	err := poll(ctx, reason, "waiting for Flux", func(pctx context.Context) error {
		read, err := readKustomization(pctx, c, addon)
		if err == nil {
			err = applied(read)
		}
		if pctx.Err() == nil || last == nil { // else it only says that the time is over
			k, last = read, err
		}
		if errors.Is(err, ErrNotInGit) {
			return nil
		}
		return err
	})
	if err != nil || last != nil {
		return last
	}
	objs, err := kube.Inventory(k)
	if err != nil {
		return err
	}
	return c.Wait(ctx, objs, reason)
}

// Followed returns the revision of the lab's Git that Flux has applied last,
// such as main@sha1:…; that it could not fetch or apply the newest is an error.
func Followed(ctx context.Context, c client.Reader) (string, error) {
	if _, err := sourceRevision(ctx, c); err != nil {
		return "", err
	}
	k, err := readKustomization(ctx, c, gitopsRoot)
	if err != nil {
		return "", err
	}
	revision, _, err := unstructured.NestedString(k.Object, "status", "lastAppliedRevision")
	return revision, errors.Join(err, applied(k))
}

// sourceRevision returns the revision of the lab's Git that Flux has fetched.
func sourceRevision(ctx context.Context, c client.Reader) (string, error) {
	source, err := read(ctx, c, object(fluxSources, "GitRepository", fluxNamespace, gitopsRoot))
	if err != nil {
		return "", err
	}
	revision, _, err := unstructured.NestedString(source.Object, "status", "artifact", "revision")
	return revision, errors.Join(err, applied(source))
}

// readKustomization reads one of the lab's Kustomizations. If it or its kind does
// not exist, the error is ErrNotInGit.
func readKustomization(ctx context.Context, c client.Reader, name string) (*unstructured.Unstructured, error) {
	k, err := read(ctx, c, object(fluxKustomizations, "Kustomization", fluxNamespace, name))
	if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
		return k, fmt.Errorf("%s: %w", kube.Name(k), ErrNotInGit)
	}
	return k, err
}

// applied returns an error if a controller of Flux could not apply or fetch the
// newest revision. While it tries again, the last result counts.
func applied(o *unstructured.Unstructured) error {
	if suspended, _, _ := unstructured.NestedBool(o.Object, "spec", "suspend"); suspended {
		return fmt.Errorf("%s: it is suspended", kube.Name(o))
	}
	ready := fluxReady(o)
	switch ready.Status {
	case "True", "Unknown":
		return nil
	case "":
		return fmt.Errorf("%s: Flux has not looked at it yet", kube.Name(o))
	}
	return fmt.Errorf("%s: %s: %s", kube.Name(o), ready.Reason, ready.Message)
}

// decision is what one commit of mllab changes, and what it leaves unchanged.
type decision struct {
	head, subject string            // of the newest commit
	changed       map[string]string // addon: "created" or "configured"
	gone          []string          // addons that somebody took out of Git
	notes         []string          // about what somebody else has committed
}

// commit brings into Git what is rendered of each name, but for what others
// than mllab have changed since its own last commit of it.
func commit(ctx context.Context, repo *labgit.Repo, names []string, rendered map[string]files) (decision, error) {
	for {
		if err := repo.Pull(ctx); err != nil {
			return decision{}, err
		}
		log, err := repo.Log()
		if err != nil {
			return decision{}, err
		}
		d, change, err := decide(repo.Head(), log, repo.Files, names, rendered)
		if err != nil || len(change) == 0 {
			return d, err
		}
		head, err := repo.Commit(ctx, labgit.Change{Files: change, Message: d.subject})
		if errors.Is(err, labgit.ErrConflict) {
			continue // somebody pushed meanwhile
		}
		d.head = head
		return d, err
	}
}

// decide returns what a commit on top of head changes, and why not more. log
// is the newest first; read returns the files of a commit.
func decide(head string, log []labgit.Commit, read func(commit, folder string) (map[string][]byte, error), names []string, rendered map[string]files) (decision, files, error) {
	d, change := decision{head: head, changed: map[string]string{}}, files{}
	known := map[string]files{} // by commit
	at := func(commit, name string) (files, error) {
		if known[commit] == nil {
			all, err := read(commit, "")
			if err != nil {
				return nil, err
			}
			known[commit] = all
		}
		return known[commit].of(name), nil
	}
	var versions []string
	for _, name := range names {
		now, err := at(d.head, name)
		if err != nil {
			return d, nil, err
		}
		was, mine, last := files{}, "", labgit.Commit{}
		for _, c := range log {
			if !slices.ContainsFunc(c.Files, func(path string) bool { return about(path, name) }) {
				continue
			}
			if strings.HasPrefix(c.Author, gitopsAuthor+" <") {
				mine = c.Hash
				was, err = at(mine, name)
				break
			}
			if last.Hash == "" {
				last = c
			}
		}
		if err != nil {
			return d, nil, err
		}
		want := rendered[name]
		switch {
		case now.equal(want):
		case now.equal(was): // unchanged by others, or reverted
			for path := range now {
				change[path] = nil
			}
			maps.Copy(change, want)
			d.changed[name] = "configured"
			if len(was) == 0 {
				d.changed[name] = "created"
			}
			versions = append(versions, withVersion(name))
		default:
			if now[gitopsFolder+name+".yaml"] == nil {
				d.gone = append(d.gone, name)
			}
			d.notes = append(d.notes, note(name, now, !was.equal(want), last, mine))
		}
	}
	d.subject = "mllab: " + strings.Join(versions, ", ")
	return d, change, nil
}

// note returns the message about an addon that others have changed.
// mine is mllab's own last commit of it, "" for none; newer: mllab has another
// one by now.
func note(name string, now files, newer bool, last labgit.Commit, mine string) string {
	by := fmt.Sprintf("commit %.7s (%q by %s)", last.Hash, last.Subject(), last.Author)
	text := name + " stays as " + by + " left it"
	switch {
	case now[gitopsFolder+name+".yaml"] == nil:
		text = name + " is not in the lab's Git since " + by + ", and stays out"
	case newer:
		text += ", though this mllab has a newer one"
	}
	if mine != "" {
		text += fmt.Sprintf("\n    mllab's own: git restore -SW -s %.7s %s%s.yaml %s%s, commit, push, and up", mine, gitopsFolder, name, gitopsObjects, name)
	}
	return text
}

// withVersion returns "istio 1.29.1", or only the name if the addon has no version.
func withVersion(addon string) string {
	versions, err := Versions()
	for _, v := range versions {
		if err == nil && v.Name == addon {
			return addon + " " + v.Version
		}
	}
	return addon
}
