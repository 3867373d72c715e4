// Package audit ties the commits of the lab's Git to what they changed in the cluster and to what proves it, and finds
// where the cluster is no longer as Git says. It reads; it changes nothing.
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

	"mllab.local/internal/delivery"
	"mllab.local/internal/fault"
	"mllab.local/internal/git"
	"mllab.local/internal/kube"
	"mllab.local/internal/kustomize"
)

// Report is what Read found.
type Report struct {
	Head           string          `json:"head"` // the newest commit
	Kustomizations []Kustomization `json:"kustomizations"`
	Commits        []Commit        `json:"commits"` // newest first
	Older          int             `json:"older"`   // commits that were not looked at
	Compared       int             `json:"compared"`
	Drift          []Drift         `json:"drift"` // of the Compared objects, and what could not be compared
}

// Kustomization is one of Flux that follows the repository.
type Kustomization struct {
	Name      string `json:"name"` // Kind/namespace/name
	Path      string `json:"path"`
	Applied   string `json:"applied,omitempty"` // commit that was applied last
	Suspended bool   `json:"suspended,omitempty"`
	NotReady  string `json:"notReady,omitempty"` // Flux's reason

	object  *unstructured.Unstructured
	ignore  string // spec.ignore of its source
	history []Applied
}

// Commit is one of main, with what is known about it.
type Commit struct {
	git.Commit
	Pushed  *Pushed   `json:"pushed,omitempty"` // nil: no push is on record, as of the first commit
	Changes []Change  `json:"changes,omitempty"`
	Applied []Applied `json:"applied,omitempty"` // oldest first; none: Kubernetes no longer knows, or it never was
	Proof   *Proof    `json:"proof,omitempty"`
	Note    string    `json:"note,omitempty"` // a note that is no proof, as it is
}

// Pushed says who moved main to the commit.
type Pushed struct {
	User string    `json:"user"`
	Time time.Time `json:"time"`
}

// Change is what a commit changes in what one folder builds.
type Change struct {
	Folder  string   `json:"folder"`
	By      string   `json:"kustomization,omitempty"` // that follows the folder now; the spec is today's
	Objects []Object `json:"objects,omitempty"`
	// Error is why Flux cannot build the folder after the commit, and Before why it could not before.
	Error  string `json:"error,omitempty"`
	Before string `json:"errorBefore,omitempty"`
	// NotBuilt is why mllab does not build the folder, though Flux may.
	NotBuilt string `json:"notBuilt,omitempty"`
}

// Object is what a commit does to one object.
type Object struct {
	Object string       `json:"object"` // Kind/namespace/name
	Action string       `json:"action"` // created, changed, removed
	Fields []kube.Field `json:"fields,omitempty"`
}

// Applied is what Flux said of a commit. An event has its own time; a status has that of the last time the same
// objects were applied.
type Applied struct {
	By       string    `json:"kustomization"`
	Time     time.Time `json:"time"`
	Reason   string    `json:"reason"` // Flux's, such as ReconciliationSucceeded
	Message  string    `json:"message,omitempty"`
	From     string    `json:"from"` // event, status
	revision string
}

// Proof is what a scenario noted on the commit that it judged.
type Proof = delivery.Proof[json.RawMessage]

// Says returns the evidence of a proof in one line.
func Says(p Proof) string {
	var e struct{ Says string }
	_ = json.Unmarshal(p.Evidence, &e) // one without has nothing to say
	return cmp.Or(strings.Join(p.Reasons, "; "), e.Says)
}

// Drift is how the live objects of one Kustomization differ from what its applied commit says.
type Drift struct {
	By      string         `json:"kustomization"`
	Commit  string         `json:"commit"`
	Objects []kube.Drifted `json:"objects,omitempty"`
	Error   string         `json:"error,omitempty"` // why nothing could be compared
}

// Read reads the repository at remote (with its token), which Flux knows by the address inside, and the cluster. It
// looks at the last newest commits, at all when last is 0.
func Read(ctx context.Context, c *kube.Client, remote *url.URL, inside string, last int) (Report, error) {
	repo, pushes, err := readGit(ctx, remote)
	if err != nil {
		return Report{}, err
	}
	r := Report{Head: repo.Head(), Kustomizations: []Kustomization{}, Commits: []Commit{}, Drift: []Drift{}}
	if r.Kustomizations, err = followers(ctx, c, inside); err != nil {
		return r, err
	}
	said, err := events(ctx, c)
	if err != nil {
		return r, err
	}
	dir, err := os.MkdirTemp("", "mllab-audit-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	b := builder{repo: repo, dir: dir, trees: map[string]*tree{}}
	if err := r.readCommits(ctx, b, pushes, said, last); err != nil {
		return r, err
	}
	return r, r.readDrift(ctx, c, b)
}

// gitBound is how long the Git server may be away: its pod takes some seconds to come back.
const gitBound = time.Minute

// readGit clones the repository and reads who pushed. A server that is not there is fault.CannotTest.
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
		return nil, nil, fault.CannotTest("mllab up puts it right", "the lab's Git does not answer: %w", err)
	case err != nil:
		return nil, nil, fmt.Errorf("reading the lab's Git: %w", err)
	}
	return repo, pushes, nil
}

// followers are the Kustomizations whose source is a GitRepository with that URL.
func followers(ctx context.Context, c *kube.Client, url string) ([]Kustomization, error) {
	sources, err := c.Objects(ctx, "source.toolkit.fluxcd.io/v1", "GitRepository")
	if err != nil {
		return nil, err
	}
	ignores := map[string]string{} // of those that are ours
	for _, s := range sources {
		if at, _, _ := unstructured.NestedString(s.Object, "spec", "url"); strings.TrimSuffix(at, "/") == url {
			ignores[s.GetNamespace()+"/"+s.GetName()], _, _ = unstructured.NestedString(s.Object, "spec", "ignore")
		}
	}
	all, err := c.Objects(ctx, "kustomize.toolkit.fluxcd.io/v1", "Kustomization")
	if err != nil {
		return nil, err
	}
	list := []Kustomization{}
	for _, o := range all {
		ref, _, _ := unstructured.NestedStringMap(o.Object, "spec", "sourceRef")
		ignore, ours := ignores[cmp.Or(ref["namespace"], o.GetNamespace())+"/"+ref["name"]]
		if ref["kind"] != "GitRepository" || !ours {
			continue
		}
		k := Kustomization{Name: kube.Name(o), NotReady: kube.NotReady(o), object: o, ignore: ignore}
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

// commitOf is the commit of a revision as Flux writes it: "main@sha1:…".
func commitOf(revision string) string {
	_, commit, _ := strings.Cut(revision, "@sha1:")
	return commit
}

// historyOf is what a Kustomization remembers of the newest five states that it applied.
func historyOf(o *unstructured.Unstructured) ([]Applied, error) {
	var status struct {
		History []struct {
			LastReconciled       time.Time
			LastReconciledStatus string
			Metadata             struct{ Revision string }
		}
	}
	text, err := json.Marshal(o.Object["status"])
	if err == nil {
		err = json.Unmarshal(text, &status)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the status of %s: %w", kube.Name(o), err)
	}
	var list []Applied
	for _, h := range status.History {
		list = append(list, Applied{By: kube.Name(o), Time: h.LastReconciled, Reason: h.LastReconciledStatus, From: "status", revision: commitOf(h.Metadata.Revision)})
	}
	return list, nil
}

// events are what kustomize-controller told of each revision; Kubernetes forgets them after an hour.
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

// readCommits ties each commit to its changes, its applies and its proof.
func (r *Report) readCommits(ctx context.Context, b builder, pushes []git.Push, said []Applied, last int) error {
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
	came := cameBy(log, pushes)
	for _, g := range log {
		c := Commit{Commit: g, Pushed: came[g.Hash]}
		if c.Changes, err = b.changes(ctx, g, r.Kustomizations); err != nil {
			return err
		}
		if err := b.drop(g.Hash); err != nil { // no older commit is compared with it
			return err
		}
		c.Applied = appliesOf(c.Hash, r.Kustomizations, said)
		if note, noted := notes[c.Hash]; noted {
			c.Proof, c.Note = readProof(note)
		}
		r.Commits = append(r.Commits, c)
	}
	return nil
}

// cameBy finds the push that each commit of a log, newest first, came by. A push of several has the newest one's name.
func cameBy(log []git.Commit, pushes []git.Push) map[string]*Pushed {
	byNew := map[string]git.Push{}
	for _, p := range pushes {
		if p.Ref == "refs/heads/"+git.Main {
			byNew[p.New] = p
		}
	}
	came := map[string]*Pushed{}
	old := ""
	var by *Pushed
	for _, c := range log {
		if p, newest := byNew[c.Hash]; newest {
			by, old = &Pushed{p.User, p.Time}, p.Old
		} else if c.Hash == old {
			by = nil
		}
		came[c.Hash] = by
	}
	return came
}

// appliesOf are those of a commit: the events, and where a Kustomization has none, its status.
func appliesOf(commit string, all []Kustomization, said []Applied) []Applied {
	var list []Applied
	for _, a := range said {
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

// readProof reads a note; one that is none is returned as its text.
func readProof(note []byte) (*Proof, string) {
	var p Proof
	if err := json.Unmarshal(note, &p); err != nil || p.Scenario == "" || p.Step == "" {
		return nil, strings.TrimSpace(string(note))
	}
	return &p, ""
}

// builder builds folders as they are in commits. Each commit is written to a folder of its own once.
type builder struct {
	repo  *git.Repo
	dir   string
	trees map[string]*tree // by commit and spec.ignore
}

// tree is what Flux has of a commit: a folder, and its files. err is why there is none.
type tree struct {
	dir   string
	files []string
	err   error
	built map[*unstructured.Unstructured]built // by Kustomization: a commit is compared with the one before and the next
}

type built struct {
	objects map[string]*unstructured.Unstructured // by name
	err     error
}

// at writes a commit as Flux has it. The commit "" has no files.
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

// drop removes what at wrote of a commit.
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

// changes returns what a commit changes in the folders that Kustomizations follow, and, for runs that are over, in the
// overlays that it touched.
func (b builder) changes(ctx context.Context, c git.Commit, all []Kustomization) ([]Change, error) {
	var list []Change
	add := func(k Kustomization) error {
		before, err := b.at(c.Parent, k.ignore)
		if err != nil {
			return err
		}
		after, err := b.at(c.Hash, k.ignore)
		if err != nil {
			return err
		}
		change := Change{Folder: kustomize.Folder(k.object), By: k.Name}
		change.compare(ctx, before, after, k.object)
		touched := slices.ContainsFunc(c.Files, func(f string) bool { return below(change.Folder, f) })
		if len(change.Objects) > 0 || change.Error != change.Before || change.NotBuilt != "" && touched {
			list = append(list, change)
		}
		return ctx.Err()
	}
	followed := map[string]bool{}
	for _, k := range all {
		if err := add(k); err != nil {
			return nil, err
		}
		followed[kustomize.Folder(k.object)] = true
	}
	before, err := b.at(c.Parent, "")
	if err != nil {
		return nil, err
	}
	after, err := b.at(c.Hash, "")
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

func below(folder, name string) bool { return folder == "" || strings.HasPrefix(name, folder+"/") }

// overlays are the folders overlays/* with a kustomization file that a change of these files can concern: those of the
// folders that they are in.
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

// compare builds a folder before and after, and notes in which objects the two differ. A folder that is not there has
// none.
func (c *Change) compare(ctx context.Context, before, after *tree, k *unstructured.Unstructured) {
	was, errBefore := before.build(ctx, k)
	is, errAfter := after.build(ctx, k)
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
		return // one of them says nothing
	}
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if is[name] == nil {
			c.Objects = append(c.Objects, Object{Object: name, Action: "removed"})
		} else if fields := kube.Fields(was[name], is[name]); len(fields) > 0 {
			c.Objects = append(c.Objects, Object{Object: name, Action: "changed", Fields: fields})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(is)) {
		if was[name] == nil {
			c.Objects = append(c.Objects, Object{Object: name, Action: "created", Fields: kube.Fields(nil, is[name])})
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

// controller is what Flux applies with.
const controller = "kustomize-controller"

// readDrift compares what each Kustomization has applied with what is live.
func (r *Report) readDrift(ctx context.Context, c *kube.Client, b builder) error {
	for _, k := range r.Kustomizations {
		d := Drift{By: k.Name, Commit: k.Applied}
		objs, err := k.wished(ctx, b)
		if err == nil {
			r.Compared += len(objs)
			d.Objects, err = c.DriftOf(ctx, controller, objs)
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

// wished are the objects as Flux applies them.
func (k Kustomization) wished(ctx context.Context, b builder) ([]*unstructured.Unstructured, error) {
	if k.Applied == "" {
		return nil, errors.New("nothing was applied yet")
	}
	t, err := b.at(k.Applied, k.ignore)
	if err = cmp.Or(err, t.err); err != nil {
		return nil, err
	}
	objs, err := kustomize.Build(ctx, t.dir, k.object)
	if err != nil {
		return nil, fmt.Errorf("building %s of commit %s: %w", k.Path, k.Applied, err)
	}
	for _, o := range objs {
		labels := o.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels["kustomize.toolkit.fluxcd.io/name"], labels["kustomize.toolkit.fluxcd.io/namespace"] = k.object.GetName(), k.object.GetNamespace()
		o.SetLabels(labels)
	}
	return objs, nil
}
