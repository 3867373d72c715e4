package scenarios

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pmezard/go-difflib/difflib"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/fault"
	"mllab.local/internal/git"
	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
)

// deliveryBound is how long after a commit was begun it may take to be in
// force.
const deliveryBound = 60 * time.Second

// pushBound is how long a push may be tried: the Git server may be on its way
// back.
const pushBound = time.Minute

// serviceName is the Knative Service's that the stories with Git deliver.
const serviceName = "model"

// followed is a run's folder in the lab's Git, and Flux that follows it.
type followed struct {
	scenario string
	flux     fluxSettings
	bound    time.Duration // how long a commit may take; zero: deliveryBound
	prober   prober        // whose record is to say when a commit was made; from the first step on

	repo          *git.Repo
	folder        string      // in the repository
	newest        pushed      // commit of the run
	staleRevision string      // a revision that does not have the newest commit
	generation    int64       // of the Service, when the newest commit was active
	refuted       *ClaimError // by the step's change
}

// fluxSettings fill gitops/flux.yaml in.
type fluxSettings struct {
	Namespace, Path string
	Poll            string // how often Flux looks at the repository by itself
	Every           string // how often Flux puts back what differs from Git
	Asked           bool   // after a push the lab's Git may ask Flux to look
	Suspended       bool
}

// pushed is a commit of the run.
type pushed struct {
	commit      string
	message     string
	began       time.Time     // just before it was made
	took        time.Duration // from there until the server had accepted it
	activeAfter time.Duration // from there until it was active
	applied     string        // the revision that Flux had applied when it was last asked about this one
}

func (p pushed) short() string { return p.commit[:min(7, len(p.commit))] }

// begin makes the first commit, of all files of the folder, and has Flux follow
// the part of it that is called path. What an earlier run left in the folder
// goes.
func (f *followed) begin(ctx context.Context, l *Session, path, message string, files map[string][]byte) error {
	if l.Git == nil {
		return fault.CannotTest("mllab up", "the lab has no Git")
	}
	var err error
	if f.repo, err = git.Clone(ctx, l.Git, managedBy); err != nil {
		return err
	}
	f.folder = "scenarios/" + l.Namespace
	f.flux.Namespace, f.flux.Path = l.Namespace, "./"+f.folder+"/"+path
	l.removal(func(ctx context.Context) error {
		_, err := f.repo.Commit(ctx, git.Change{Folder: f.folder, All: true, Message: l.Namespace + ": the run is over"})
		return err
	})
	if err := f.commit(ctx, l, message, files); err != nil {
		return err
	}
	l.alsoUntouched(func(ctx context.Context) error { return f.untouched(ctx, l) })
	return f.configure(ctx, l, l.apply)
}

// configure has Flux follow the folder as f.flux says.
func (f *followed) configure(ctx context.Context, l *Session, apply func(context.Context, ...*unstructured.Unstructured) error) error {
	objs, err := render("gitops/flux.yaml", f.flux)
	if err != nil {
		return err
	}
	return apply(ctx, objs...)
}

// commit makes the newest commit: the folder then has these files, and no
// others.
func (f *followed) commit(ctx context.Context, l *Session, message string, files map[string][]byte) error {
	was, err := f.repo.Files(f.newest.commit, f.folder)
	if err != nil {
		return err
	}
	if err := l.teach(ctx, fmt.Sprintf("git commit -m %q\n", message)+filesDiff(was, files)); err != nil {
		return err
	}
	return f.push(ctx, l, message, func(ctx context.Context) (string, error) {
		return f.repo.Commit(ctx, git.Change{Folder: f.folder, Files: files, All: true, Message: l.Namespace + ": " + message})
	})
}

// revert makes the newest commit one that takes p back.
func (f *followed) revert(ctx context.Context, l *Session, p pushed) error {
	if err := l.teach(ctx, fmt.Sprintf("git revert %s  # %s\n", p.short(), p.message)); err != nil {
		return err
	}
	return f.push(ctx, l, "revert: "+p.message, func(ctx context.Context) (string, error) { return f.repo.Revert(ctx, p.commit) })
}

// push makes the newest commit, unless somebody else changed the folder: what the
// clone has fetched since the last one is looked at here, the rest by the push.
func (f *followed) push(ctx context.Context, l *Session, message string, do func(context.Context) (string, error)) error {
	if f.newest.commit != "" {
		if err := f.ours(l); err != nil {
			return err
		}
	}
	f.prober.mark("git push: " + message)
	l.task.Update("git push: " + message)
	p := pushed{message: message, began: time.Now()}
	var err error
	ctx, cancel := context.WithTimeout(ctx, pushBound)
	defer cancel()
	p.commit, err = do(ctx)
	if errors.Is(err, git.ErrConflict) {
		return f.disturbed(l)
	}
	if err != nil {
		return fmt.Errorf("git push: %s: %w", message, err)
	}
	p.took = time.Since(p.began)
	f.newest, f.staleRevision = p, ""
	return nil
}

func (f *followed) disturbed(l *Session) error {
	return l.interference("pushed to folder " + f.folder + " of the lab's Git")
}

// untouched says that the folder, and the Service that came from it, are as the
// run left them. A change by hand shows in the Service's generation even when
// Flux has undone it.
func (f *followed) untouched(ctx context.Context, l *Session) error {
	ctx, cancel := context.WithTimeout(ctx, deliveryBound)
	defer cancel()
	if err := f.repo.Pull(ctx); err != nil {
		return err
	}
	if err := f.ours(l); err != nil {
		return err
	}
	if f.generation == 0 { // its commits bring no Service
		return nil
	}
	generation, err := l.generation(ctx)
	if err == nil && generation != f.generation {
		err = l.interference("changed Service/" + l.Namespace + "/" + serviceName)
	}
	return err
}

// ours says that the folder is in the clone as the newest commit left it.
func (f *followed) ours(l *Session) error {
	own, err := f.repo.Files(f.newest.commit, f.folder)
	if err != nil {
		return err
	}
	now, err := f.repo.Files(f.repo.Head(), f.folder)
	if err == nil && !maps.EqualFunc(own, now, slices.Equal) {
		err = f.disturbed(l)
	}
	return err
}

// service is the Knative Service, without its content.
func (l *Session) service() *unstructured.Unstructured {
	return l.object("serving.knative.dev/v1", "Service", serviceName)
}

// generation is the Knative Service's.
func (l *Session) generation(ctx context.Context) (int64, error) {
	o, err := l.live(ctx, l.service())
	return o.GetGeneration(), err
}

// object is one of the run's, without its content.
func (l *Session) object(apiVersion, kind, name string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetNamespace(l.Namespace)
	o.SetName(name)
	return o
}

// live reads an object.
func (l *Session) live(ctx context.Context, o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	return o, l.Kube.Get(ctx, client.ObjectKeyFromObject(o), o)
}

// fluxStatus is Flux's status of the run's folder.
type fluxStatus struct {
	applied, attempted string // revisions, such as "main@sha1:…"
	compared           string // when it last compared the cluster with Git
	ready              string // "True", "False" or "Unknown"
	why                string // why it is not ready
	source             string // status of the repository
	suspended          bool
}

func (s fluxStatus) String() string {
	words := []string{"GitRepository/lab: " + s.source}
	switch {
	case s.suspended:
		words = append(words, "Kustomization/model: suspended")
	case s.ready != "True":
		words = append(words, "Kustomization/model: "+s.why)
	}
	return strings.Join(append(words, "applied is "+s.applied), "; ")
}

// ask reads Flux's objects.
func (f *followed) ask(ctx context.Context, l *Session) (s fluxStatus, err error) {
	source, err := l.live(ctx, l.object("source.toolkit.fluxcd.io/v1", "GitRepository", "lab"))
	if err != nil {
		return s, err
	}
	_, s.source = conditionOf(source, "Ready")
	o, err := l.live(ctx, l.object("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "model"))
	if err != nil {
		return s, err
	}
	s.applied, _, _ = unstructured.NestedString(o.Object, "status", "lastAppliedRevision")
	s.attempted, _, _ = unstructured.NestedString(o.Object, "status", "lastAttemptedRevision")
	s.suspended, _, _ = unstructured.NestedBool(o.Object, "spec", "suspend")
	s.ready, s.why = conditionOf(o, "Ready")
	if history, _, _ := unstructured.NestedSlice(o.Object, "status", "history"); len(history) > 0 {
		newest, _ := history[0].(map[string]any)
		s.compared, _ = newest["lastReconciled"].(string)
	}
	return s, nil
}

// conditionOf returns the status of a condition, and its reason and message in one
// line.
func conditionOf(o *unstructured.Unstructured, kind string) (status, why string) {
	if c, ok := kube.ConditionOf(o, kind); ok {
		return c.Status, oneLine(c.Reason + ": " + c.Message)
	}
	return "Unknown", "it has not said anything yet"
}

// oneLine returns a text with single spaces as its only white space, cut if it is
// too long to read.
func oneLine(text string) string {
	const most = 300
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > most {
		text = string(r[:most]) + "…"
	}
	return text
}

// hasNewest reports whether a revision is the newest commit or a later one: others
// push to the same branch.
func (f *followed) hasNewest(ctx context.Context, revision string) (bool, error) {
	_, hash, found := strings.Cut(revision, "@sha1:")
	if !found || revision == f.staleRevision {
		return false, nil
	}
	there, err := f.repo.Holds(ctx, hash, f.newest.commit)
	if err == nil && !there {
		f.staleRevision = revision
	}
	return there, err
}

// waitForFlux reads Flux's status until enough returns no reason to wait. If the
// newest commit's time limit passes first, it returns a refutation with the last
// status, or an error if it could not read the status.
func (f *followed) waitForFlux(ctx context.Context, l *Session, bound time.Duration, what string, enough func(ctx context.Context, s fluxStatus) (string, error)) (fluxStatus, error) {
	bounded, cancel := context.WithDeadline(ctx, f.newest.began.Add(bound))
	defer cancel()
	var last fluxStatus
	var askErr error
	err := l.until(bounded, what, func() string {
		s, err := f.ask(bounded, l)
		why := ""
		if err == nil {
			why, err = enough(bounded, s)
		}
		if bounded.Err() != nil {
			return cmp.Or(why, "the time is up")
		}
		if askErr = err; err != nil {
			return err.Error()
		}
		last, f.newest.applied = s, s.applied
		return why
	})
	switch {
	case err == nil || ctx.Err() != nil:
		return last, err
	case askErr != nil:
		return last, fmt.Errorf("%s: %w", what, askErr)
	}
	return last, f.late(bound, last.String())
}

// late refutes that the newest commit was in time.
func (f *followed) late(bound time.Duration, why string) error {
	return refute(Delivery, "commit %s (%s) is not active %s after it was begun: %s", f.newest.short(), f.newest.message, bound, why)
}

// applied returns when Flux has applied the newest commit.
func (f *followed) applied(ctx context.Context, l *Session, bound time.Duration) error {
	_, err := f.waitForFlux(ctx, l, bound, "Flux to apply "+f.newest.short(), func(ctx context.Context, s fluxStatus) (string, error) {
		there, err := f.hasNewest(ctx, s.applied)
		if there {
			return "", err
		}
		return s.String(), err
	})
	return err
}

// within is how long a commit may take to be active.
func (f *followed) within() time.Duration { return cmp.Or(f.bound, deliveryBound) }

// ready returns when Flux has applied the newest commit, and the Service and
// more objects that came of it are ready.
func (f *followed) ready(ctx context.Context, l *Session, more ...*unstructured.Unstructured) error {
	if err := f.applied(ctx, l, f.within()); err != nil {
		return err
	}
	if err := f.settled(ctx, l, f.newest.began, more...); err != nil {
		return err
	}
	if f.newest.activeAfter == 0 {
		f.newest.activeAfter = time.Since(f.newest.began)
	}
	return nil
}

// settled returns when the Service and more objects are ready, which must be
// within the bound of what was begun then.
func (f *followed) settled(ctx context.Context, l *Session, began time.Time, more ...*unstructured.Unstructured) error {
	bounded, cancel := context.WithDeadline(ctx, began.Add(f.within()))
	defer cancel()
	err := l.wait(bounded, append(more, l.service())...)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return f.late(f.within(), err.Error())
	}
	if err != nil {
		return err
	}
	f.generation, err = l.generation(ctx)
	return err
}

// answeredBy returns when the newest commit has all answers come from one
// version, and notes how long that took.
func (f *followed) answeredBy(ctx context.Context, l *Session, version string, bound time.Duration) error {
	bounded, cancel := context.WithDeadline(ctx, f.newest.began.Add(bound))
	defer cancel()
	first, err := l.firstOf(bounded, l.to(serviceName), version)
	switch {
	case err == nil:
		f.newest.activeAfter = first.Sub(f.newest.began)
		return nil
	case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
		return err
	}
	s, askErr := f.ask(ctx, l)
	if askErr != nil {
		return fmt.Errorf("%w, and Flux cannot be asked why: %w", err, askErr)
	}
	return f.late(bound, s.String())
}

// firstOf returns when the first answer of a version came that inForceStreak
// others of it followed, each on a fresh connection. It asks every 20 ms.
func (l *Session) firstOf(ctx context.Context, r probe.Request, version string) (time.Time, error) {
	r.Fresh = true
	var first time.Time
	streak := 0
	err := l.untilEvery(ctx, 20*time.Millisecond, "answers of "+version, func() string {
		for ; streak <= inForceStreak; streak++ {
			a := l.send.Send(ctx, r)
			if !a.OK() || a.Target != version {
				streak = 0
				return fmt.Sprintf("answered by %q (%s)", a.Target, cmp.Or(a.Problem(), "200"))
			}
			if streak == 0 {
				first = a.Sent.Add(a.Latency)
			}
		}
		return ""
	})
	return first, err
}

// prover keeps the proof of a commit.
type prover func(context.Context, *Session, pushed, Evidence, error) error

// step makes the two halves of a step that is about a commit. A claim that its
// change refutes is its check's to refute, and either way the proof is kept of
// the commit that was the newest after the change.
func (f *followed) step(s Step, prove prover) Step {
	change, check := s.Change, s.Check
	var judged pushed
	s.Change = func(ctx context.Context, l *Session) error {
		err := change(ctx, l)
		judged, f.refuted = f.newest, nil
		if errors.As(err, &f.refuted) {
			err = nil
		}
		return err
	}
	s.Check = func(ctx context.Context, l *Session) (e Evidence, err error) {
		if f.refuted != nil {
			e.Summary, err = strings.Join(f.refuted.Reasons, "; "), f.refuted
		} else {
			e, err = check(ctx, l)
		}
		return e, prove(ctx, l, judged, e, err)
	}
	return s
}

// proven is step with the proof as a note on the commit.
func (f *followed) proven(s Step) Step { return f.step(s, f.prove) }

// filesDiff is the change from some files to others as a unified diff.
func filesDiff(from, to map[string][]byte) string {
	all := maps.Clone(from)
	if all == nil {
		all = map[string][]byte{}
	}
	maps.Copy(all, to)
	var b strings.Builder
	for _, name := range sortedKeys(all) {
		// Both sides are in memory, so writing cannot fail.
		diff, _ := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
			A: slices.Collect(strings.Lines(string(from[name]))), B: slices.Collect(strings.Lines(string(to[name]))),
			FromFile: "a/" + name, ToFile: "b/" + name, Context: 3,
		})
		b.WriteString(diff)
	}
	return b.String()
}
