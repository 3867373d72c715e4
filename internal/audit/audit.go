// Package audit relates the commits of the lab's Git to the changes that they made in the cluster and to the proof of
// these. It also finds drift: where the cluster differs from Git. It changes nothing.
package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"mllab.local/internal/delivery"
	"mllab.local/internal/fault"
	"mllab.local/internal/git"
	"mllab.local/internal/kube"
	"mllab.local/internal/kustomize"
)

// Report is the result of Read.
type Report struct {
	Head           string          `json:"head"` // the newest commit
	Kustomizations []Kustomization `json:"kustomizations"`
	Commits        []Commit        `json:"commits"` // newest first
	Older          int             `json:"older"`   // number of commits that were not read
	Compared       int             `json:"compared"`
	Drift          []Drift         `json:"drift"` // of the Compared objects, and those that could not be compared
}

// Kustomization is a Flux Kustomization that follows the repository.
type Kustomization struct {
	Name      string `json:"name"` // Kind/namespace/name
	Path      string `json:"path"`
	Applied   string `json:"applied,omitempty"` // commit that was applied last
	Suspended bool   `json:"suspended,omitempty"`
	NotReady  string `json:"notReady,omitempty"` // Flux's reason

	object  *unstructured.Unstructured
	ignore  string // spec.ignore of its source
	other   string // what its source follows instead of main, such as "tag v1"
	mixed   string // what its source adds to a commit, or leaves out, such as "spec.include"
	history []Applied
}

// Commit is a commit of main with its push, changes, applies and proof.
type Commit struct {
	git.Commit
	Pushed  *Pushed   `json:"pushed,omitempty"` // nil: the record has no push of it, such as for the first commit
	Changes []Change  `json:"changes,omitempty"`
	Applied []Applied `json:"applied,omitempty"` // oldest first; empty: it was never applied, or Kubernetes no longer knows
	Proof   *Proof    `json:"proof,omitempty"`
	Note    string    `json:"note,omitempty"` // the text of a note that is not a proof
}

// Pushed is who pushed the commit to main, and when.
type Pushed struct {
	User string    `json:"user"`
	Time time.Time `json:"time"`
}

// Change is how a commit changes the objects of one folder.
type Change struct {
	Folder  string   `json:"folder"`
	By      string   `json:"kustomization,omitempty"` // follows the folder now; its spec is the current one
	Objects []Object `json:"objects,omitempty"`
	// Error is why Flux cannot build the folder after the commit. Before is why it could not before.
	Error  string `json:"error,omitempty"`
	Before string `json:"errorBefore,omitempty"`
	// NotBuilt is why mllab does not build the folder, though Flux may.
	NotBuilt string `json:"notBuilt,omitempty"`
}

// Object is how a commit changes one object.
type Object struct {
	Object string       `json:"object"` // Kind/namespace/name
	Action string       `json:"action"` // created, changed, removed
	Fields []kube.Field `json:"fields,omitempty"`
}

// Applied is Flux's report of applying a commit. Time is that of the event, or, for a status, of the last time that Flux
// applied the same objects.
type Applied struct {
	By       string    `json:"kustomization"`
	Time     time.Time `json:"time"`
	Reason   string    `json:"reason"` // Flux's, such as ReconciliationSucceeded
	Message  string    `json:"message,omitempty"`
	From     string    `json:"from"` // event, status
	revision string
}

// Proof is a scenario's note on the commit that it judged.
type Proof = delivery.Proof[json.RawMessage]

// Summary returns the evidence of a proof in one line.
func Summary(p Proof) string {
	var e struct {
		Summary string `json:"says"`
	}
	_ = json.Unmarshal(p.Evidence, &e) // not every proof has evidence
	return cmp.Or(strings.Join(p.Reasons, "; "), e.Summary)
}

// Drift is how the live objects of one Kustomization differ from its applied commit.
type Drift struct {
	By      string         `json:"kustomization"`
	Commit  string         `json:"commit"`
	Objects []kube.Drifted `json:"objects,omitempty"`
	Error   string         `json:"error,omitempty"` // why nothing could be compared
}

// Read reads the cluster and the repository at remote (a URL with the token). inside is the repository's URL in the
// cluster, which Flux uses. Read reads the newest last commits, or all if last is 0.
func Read(ctx context.Context, c *kube.Client, remote *url.URL, inside string, last int) (Report, error) {
	repo, pushes, err := readGit(ctx, remote)
	if err != nil {
		return Report{}, err
	}
	r := Report{Head: repo.Head(), Kustomizations: []Kustomization{}, Commits: []Commit{}, Drift: []Drift{}}
	if r.Kustomizations, err = followers(ctx, c, inside); err != nil {
		return r, err
	}
	events, err := events(ctx, c)
	if err != nil {
		return r, err
	}
	dir, err := os.MkdirTemp("", "mllab-audit-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	b := builder{repo: repo, dir: dir, trees: map[string]*tree{}}
	if err := r.readCommits(ctx, b, pushes, events, last); err != nil {
		return r, err
	}
	return r, r.readDrift(ctx, c, b)
}

// gitBound is how long Read waits for the Git server: its pod takes some seconds to restart.
const gitBound = time.Minute

// readGit clones the repository and reads its record of pushes. If the server does not answer, the error is
// fault.CannotTest.
func readGit(ctx context.Context, remote *url.URL) (*git.Repo, []git.Push, error) {
	bounded, cancel := context.WithTimeout(ctx, gitBound)
	defer cancel()
	repo, err := git.Clone(bounded, remote, "mllab")
	var pushes []git.Push
	if err == nil {
		pushes, err = repo.Pushes(bounded)
	}
	switch {
	case ctx.Err() != nil:
		return nil, nil, ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return nil, nil, fault.CannotTest("run mllab up, which repairs it", "the lab's Git does not answer: %w", err)
	case err != nil:
		return nil, nil, fmt.Errorf("reading the lab's Git: %w", err)
	}
	return repo, pushes, nil
}

// followers returns the Kustomizations whose source is a GitRepository with that URL.
func followers(ctx context.Context, c *kube.Client, url string) ([]Kustomization, error) {
	sources, err := c.Objects(ctx, "source.toolkit.fluxcd.io/v1", "GitRepository")
	if err != nil {
		return nil, err
	}
	following := map[string]*unstructured.Unstructured{} // the GitRepositories with that URL, by namespace and name
	for _, s := range sources {
		if at, _, _ := unstructured.NestedString(s.Object, "spec", "url"); strings.TrimSuffix(at, "/") == url {
			following[s.GetNamespace()+"/"+s.GetName()] = s
		}
	}
	all, err := c.Objects(ctx, "kustomize.toolkit.fluxcd.io/v1", "Kustomization")
	if err != nil {
		return nil, err
	}
	list := []Kustomization{}
	for _, o := range all {
		ref, _, _ := unstructured.NestedStringMap(o.Object, "spec", "sourceRef")
		source := following[cmp.Or(ref["namespace"], o.GetNamespace())+"/"+ref["name"]]
		if ref["kind"] != "GitRepository" || source == nil {
			continue
		}
		k := Kustomization{Name: kube.Name(o), NotReady: kube.NotReady(o), object: o}
		if reason := kube.NotReady(source); reason != "" { // the newest commit does not arrive, and only the source says why
			k.NotReady = kube.Name(source) + " is " + reason
		}
		k.ignore, _, _ = unstructured.NestedString(source.Object, "spec", "ignore")
		k.other, k.mixed = otherThanMain(source), mixedWith(source)
		k.Path, _, _ = unstructured.NestedString(o.Object, "spec", "path")
		k.Suspended, _, _ = unstructured.NestedBool(o.Object, "spec", "suspend")
		revision, _, _ := unstructured.NestedString(o.Object, "status", "lastAppliedRevision")
		k.Applied = commitOf(revision)
		if k.history, err = historyOf(o); err != nil {
			return nil, err
		}
		list = append(list, k)
	}
	return list, nil
}

// otherThanMain returns what a GitRepository follows if that is not the branch main.
// https://fluxcd.io/flux/components/source/gitrepositories/#reference
func otherThanMain(source *unstructured.Unstructured) string {
	ref, _, _ := unstructured.NestedStringMap(source.Object, "spec", "ref")
	for _, kind := range []string{"commit", "name", "semver", "tag", "branch"} { // the first one counts
		switch what := ref[kind]; {
		case what == "":
		case kind == "branch" && what == git.Main, kind == "name" && what == "refs/heads/"+git.Main:
			return ""
		default:
			return kind + " " + what
		}
	}
	return "branch master" // Flux's default
}

// mixedWith returns the field by which a GitRepository has other files than a commit of its repository.
func mixedWith(source *unstructured.Unstructured) string {
	for _, field := range []string{"recurseSubmodules", "include", "sparseCheckout"} {
		value, _, _ := unstructured.NestedFieldNoCopy(source.Object, "spec", field)
		if list, is := value.([]any); value == true || is && len(list) > 0 {
			return "spec." + field
		}
	}
	return ""
}

// commitOf returns the commit of a Flux revision: "main@sha1:…".
func commitOf(revision string) string {
	_, commit, _ := strings.Cut(revision, "@sha1:")
	return commit
}

// historyOf returns the status.history of a Kustomization: the newest five states that it applied.
func historyOf(o *unstructured.Unstructured) ([]Applied, error) {
	var status struct {
		History []struct {
			LastReconciled       time.Time
			LastReconciledStatus string
			Metadata             struct{ Revision string }
		}
	}
	if err := kube.Into(o.Object["status"], &status); err != nil {
		return nil, fmt.Errorf("reading the status of %s: %w", kube.Name(o), err)
	}
	var list []Applied
	for _, h := range status.History {
		list = append(list, Applied{By: kube.Name(o), Time: h.LastReconciled, Reason: h.LastReconciledStatus, From: "status", revision: commitOf(h.Metadata.Revision)})
	}
	return list, nil
}

// events returns kustomize-controller's events about revisions. Kubernetes deletes them after an hour.
func events(ctx context.Context, c *kube.Client) ([]Applied, error) {
	all, err := c.Objects(ctx, "v1", "Event")
	if err != nil {
		return nil, err
	}
	var list []Applied
	for _, e := range all {
		revision := commitOf(e.GetAnnotations()["kustomize.toolkit.fluxcd.io/revision"])
		if revision == "" {
			continue
		}
		text := func(at ...string) string { s, _, _ := unstructured.NestedString(e.Object, at...); return s }
		when, _ := time.Parse(time.RFC3339, cmp.Or(text("lastTimestamp"), text("eventTime")))
		list = append(list, Applied{
			By:   "Kustomization/" + text("involvedObject", "namespace") + "/" + text("involvedObject", "name"),
			Time: when, Reason: text("reason"), Message: text("message"), From: "event", revision: revision,
		})
	}
	return list, nil
}

// readCommits reads each commit with its changes, its applies and its proof.
func (r *Report) readCommits(ctx context.Context, b builder, pushes []git.Push, events []Applied, last int) error {
	log, err := b.repo.Log()
	if err != nil {
		return err
	}
	notes, err := b.repo.Notes()
	if err != nil {
		return err
	}
	if last > 0 && len(log) > last {
		r.Older = len(log) - last
		log = log[:last]
	}
	pushOf := pushesByCommit(log, pushes)
	for _, g := range log {
		c := Commit{Commit: g, Pushed: pushOf[g.Hash]}
		if c.Changes, err = b.changes(ctx, g, r.Kustomizations); err != nil {
			return err
		}
		if err := b.drop(g.Hash); err != nil { // no older commit needs it
			return err
		}
		c.Applied = appliesOf(c.Hash, r.Kustomizations, events)
		if note, noted := notes[c.Hash]; noted {
			c.Proof, c.Note = readProof(note)
		}
		r.Commits = append(r.Commits, c)
	}
	return nil
}

// pushesByCommit returns the push of each commit of a log (newest first). The record names only the newest commit of a push.
func pushesByCommit(log []git.Commit, pushes []git.Push) map[string]*Pushed {
	byNew := map[string]git.Push{}
	for _, p := range pushes {
		if p.Ref == "refs/heads/"+git.Main {
			byNew[p.New] = p
		}
	}
	pushOf := map[string]*Pushed{}
	old := ""
	var by *Pushed
	for _, c := range log {
		if p, newest := byNew[c.Hash]; newest {
			by, old = &Pushed{p.User, p.Time}, p.Old
		} else if c.Hash == old {
			by = nil
		}
		pushOf[c.Hash] = by
	}
	return pushOf
}

// appliesOf returns the applies of a commit: the events, and the status of a Kustomization that has no event.
func appliesOf(commit string, all []Kustomization, events []Applied) []Applied {
	var list []Applied
	for _, a := range events {
		if a.revision == commit {
			list = append(list, a)
		}
	}
	for _, k := range all {
		for _, h := range k.history {
			if h.revision == commit && !slices.ContainsFunc(list, func(a Applied) bool { return a.By == h.By }) {
				list = append(list, h)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b Applied) int { return a.Time.Compare(b.Time) })
	return list
}

// readProof reads a note. If the note is not a proof, it returns the text.
func readProof(note []byte) (*Proof, string) {
	var p Proof
	if err := json.Unmarshal(note, &p); err != nil || p.Scenario == "" || p.Step == "" {
		return nil, strings.TrimSpace(string(note))
	}
	return &p, ""
}

// builder builds folders as they are in commits. It writes each commit to a folder of its own, once.
type builder struct {
	repo  *git.Repo
	dir   string
	trees map[string]*tree // by commit and spec.ignore
}

// tree is a commit as Flux fetches it: a folder and its files. err is why it could not be written.
type tree struct {
	dir   string
	files []string
	err   error
	built map[*unstructured.Unstructured]built // by Kustomization, because a commit is compared with the one before and the one after
}

type built struct {
	objects map[string]*unstructured.Unstructured // by name
	err     error
}

// at returns the tree of a commit. The commit "" has no files.
func (b builder) at(commit, ignore string) (*tree, error) {
	if commit == "" {
		return &tree{}, nil
	}
	key := commit + " " + ignore
	if t, there := b.trees[key]; there {
		return t, nil
	}
	t := &tree{built: map[*unstructured.Unstructured]built{}}
	var err error
	if t.dir, err = os.MkdirTemp(b.dir, commit+"-"); err != nil {
		return nil, err
	}
	t.files, t.err = b.repo.Export(commit, t.dir, ignore)
	b.trees[key] = t
	return t, nil
}

// around returns the trees before and after a commit.
func (b builder) around(c git.Commit, ignore string) (before, after *tree, err error) {
	if before, err = b.at(c.Parent, ignore); err == nil {
		after, err = b.at(c.Hash, ignore)
	}
	return before, after, err
}

// drop removes the trees of a commit.
func (b builder) drop(commit string) error {
	for key, t := range b.trees {
		if strings.HasPrefix(key, commit+" ") {
			delete(b.trees, key)
			if err := os.RemoveAll(t.dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// changes returns the changes of a commit in the folders that Kustomizations follow. It also returns those in other
// overlays that the commit touched: the runs that they belong to are over.
func (b builder) changes(ctx context.Context, c git.Commit, all []Kustomization) ([]Change, error) {
	var list []Change
	add := func(k Kustomization) error {
		before, after, err := b.around(c, k.ignore)
		if err != nil {
			return err
		}
		change := Change{Folder: kustomize.Folder(k.object), By: k.Name}
		if k.mixed != "" {
			change.NotBuilt = notBuilt(k.mixed).Error()
		} else {
			change.compare(ctx, before, after, k.object)
		}
		touched := slices.ContainsFunc(c.Files, func(f string) bool { return below(change.Folder, f) })
		if len(change.Objects) > 0 || change.Error != change.Before || change.NotBuilt != "" && touched {
			list = append(list, change)
		}
		return ctx.Err()
	}
	followed := map[string]bool{}
	for _, k := range all {
		if k.other != "" {
			continue
		}
		if err := add(k); err != nil {
			return nil, err
		}
		followed[kustomize.Folder(k.object)] = true
	}
	before, after, err := b.around(c, "")
	if err != nil {
		return nil, err
	}
	for _, folder := range overlays(c.Files, before.files, after.files) {
		if !followed[folder] {
			if err := add(Kustomization{object: kustomize.Of(folder)}); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

func notBuilt(field string) error {
	return fmt.Errorf("%w: its source has %s, and so other files than the commit", kustomize.ErrNotBuilt, field)
}

func below(folder, name string) bool { return folder == "" || strings.HasPrefix(name, folder+"/") }

// overlays returns the folders overlays/* that have a kustomization file and that a change of these files can affect. A
// file affects all overlays next to its folder.
func overlays(changed, before, after []string) []string {
	found := map[string]bool{}
	for _, name := range slices.Concat(before, after) {
		folder := path.Dir(name)
		above, base := path.Split(path.Dir(folder))
		if kustomize.IsFile(name) && base == "overlays" && slices.ContainsFunc(changed, func(f string) bool { return strings.HasPrefix(f, above) }) {
			found[folder] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// compare builds a folder before and after, and records the objects that differ. A missing folder has no objects.
func (c *Change) compare(ctx context.Context, before, after *tree, k *unstructured.Unstructured) {
	was, errBefore := before.build(ctx, k)
	now, errAfter := after.build(ctx, k)
	note := func(err error, broken *string) {
		if errors.Is(err, kustomize.ErrNotBuilt) {
			c.NotBuilt = err.Error()
		} else if err != nil {
			*broken = err.Error()
		}
	}
	note(errBefore, &c.Before)
	note(errAfter, &c.Error)
	if errBefore != nil || errAfter != nil {
		return // there is nothing to compare with
	}
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if now[name] == nil {
			c.Objects = append(c.Objects, Object{Object: name, Action: "removed"})
		} else if fields := kube.Fields(was[name], now[name]); len(fields) > 0 {
			c.Objects = append(c.Objects, Object{Object: name, Action: "changed", Fields: fields})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if was[name] == nil {
			c.Objects = append(c.Objects, Object{Object: name, Action: "created", Fields: kube.Fields(nil, now[name])})
		}
	}
}

func (t *tree) build(ctx context.Context, k *unstructured.Unstructured) (map[string]*unstructured.Unstructured, error) {
	if t.dir == "" || t.err != nil {
		return nil, t.err
	}
	if b, there := t.built[k]; there {
		return b.objects, b.err
	}
	var b built
	objs, err := kustomize.Build(ctx, t.dir, k)
	if !errors.Is(err, fs.ErrNotExist) {
		b.objects, b.err = map[string]*unstructured.Unstructured{}, err
	}
	for _, o := range objs {
		b.objects[kube.Name(o)] = o
	}
	t.built[k] = b
	return b.objects, b.err
}

// readDrift compares the objects that each Kustomization has applied with the live ones.
func (r *Report) readDrift(ctx context.Context, c *kube.Client, b builder) error {
	for _, k := range r.Kustomizations {
		d := Drift{By: k.Name, Commit: k.Applied}
		objs, err := k.desired(ctx, b)
		if err == nil {
			r.Compared += len(objs)
			d.Objects, err = c.DriftOf(ctx, objs)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			d.Error = err.Error()
		}
		if d.Error != "" || len(d.Objects) > 0 {
			r.Drift = append(r.Drift, d)
		}
	}
	return nil
}

// desired returns the objects as Flux applies them.
func (k Kustomization) desired(ctx context.Context, b builder) ([]*unstructured.Unstructured, error) {
	if k.Applied == "" {
		return nil, errors.New("nothing was applied yet")
	}
	if k.mixed != "" {
		return nil, notBuilt(k.mixed)
	}
	t, err := b.at(k.Applied, k.ignore)
	if err != nil {
		return nil, err
	}
	if t.err != nil && k.other != "" {
		return nil, fmt.Errorf("its source follows %s, and mllab reads branch %s: %w", k.other, git.Main, t.err)
	}
	if t.err != nil {
		return nil, t.err
	}
	objs, err := kustomize.Build(ctx, t.dir, k.object)
	if err != nil {
		return nil, fmt.Errorf("building %s of commit %s: %w", k.Path, k.Applied, err)
	}
	own := labels.Set{"kustomize.toolkit.fluxcd.io/name": k.object.GetName(), "kustomize.toolkit.fluxcd.io/namespace": k.object.GetNamespace()}
	for _, o := range objs {
		o.SetLabels(labels.Merge(o.GetLabels(), own))
	}
	return objs, nil
}
