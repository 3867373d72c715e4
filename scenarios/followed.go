package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/delivery"
	"mllab.local/internal/fault"
	"mllab.local/internal/git"
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
	flux   fluxSettings
	bound  time.Duration                     // how long a commit may take to be active
	prober prober                            // whose record is to say when a commit was made; from the first step on
	tree   func() (map[string][]byte, error) // the files of the folder, as the story's state says

	repo          *git.Repo
	folder        string      // in the repository
	newest        pushed      // commit of the run
	staleRevision string      // a revision that does not have the newest commit
	generation    int64       // of the Service, when the newest commit was active
	refuted       *ClaimError // by the step's change
}

// follow is a folder in which only the run's commits have Flux do something, and
// what Flux does every interval by itself.
func follow(every string) followed {
	return followed{bound: deliveryBound, flux: fluxSettings{Poll: seldom, Every: every, Asked: true}}
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
func (f *followed) begin(ctx context.Context, l *Session, path, message string) error {
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
	if err := f.commitTree(ctx, l, message); err != nil {
		return err
	}
	l.untouched = append(l.untouched, func(ctx context.Context) error { return f.untouched(ctx, l) })
	return f.configure(ctx, l.apply)
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

// commitTree is commit of the files that the story's state says.
func (f *followed) commitTree(ctx context.Context, l *Session, message string) error {
	files, err := f.tree()
	if err != nil {
		return err
	}
	return f.commit(ctx, l, message, files)
}

// change is commitTree that returns when the Service and more objects that come of
// the commit are ready.
func (f *followed) change(ctx context.Context, l *Session, message string, more ...*unstructured.Unstructured) error {
	if err := f.commitTree(ctx, l, message); err != nil {
		return err
	}
	return f.ready(ctx, l, more...)
}

// takeBack is revert that returns when the Service and more objects that come of
// the commit are ready.
func (f *followed) takeBack(ctx context.Context, l *Session, p pushed, more ...*unstructured.Unstructured) error {
	if err := f.revert(ctx, l, p); err != nil {
		return err
	}
	return f.ready(ctx, l, more...)
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
	l.events.wait("git push: " + message)
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

func (l *Session) generation(ctx context.Context) (int64, error) {
	o, err := l.live(ctx, l.service())
	return o.GetGeneration(), err
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

func filesDiff(from, to map[string][]byte) string {
	all := map[string][]byte{}
	maps.Copy(all, from)
	maps.Copy(all, to)
	var b strings.Builder
	for _, name := range sortedKeys(all) {
		b.WriteString(unifiedDiff("a/"+name, string(from[name]), "b/"+name, string(to[name])))
	}
	return b.String()
}

// Proof is the result of a run for a commit. It is a note on that commit.
type Proof = delivery.Proof[Evidence]

// proofOf returns the proof of a commit, whose check returned e and err. What could not
// be tested has no proof: judged is false.
func proofOf(l *Session, p pushed, e Evidence, err error) (proof Proof, judged bool) {
	refuted, is := errors.AsType[*ClaimError](err)
	if err != nil && !is {
		return proof, false
	}
	proof = Proof{
		Scenario: l.job.Scenario.Name, Control: l.job.Control, Step: l.stepName, Pass: err == nil,
		Applied: p.applied, SecondsToTraffic: p.activeAfter.Seconds(), Evidence: e,
	}
	if is {
		proof.Reasons = refuted.Reasons
	}
	return proof, true
}

// prove writes the note about a commit, whose check returned e and err. It
// returns err, joined with why there is no note.
func (f *followed) prove(ctx context.Context, l *Session, p pushed, e Evidence, err error) error {
	return errors.Join(err, f.note(ctx, l, p, e, err))
}

// proveRefuted is prove of what the step shows to be wrong with a commit: the step
// passes, and the commit's proof says FAIL.
func (f *followed) proveRefuted(verdict func(Evidence) error) prover {
	return func(ctx context.Context, l *Session, p pushed, e Evidence, err error) error {
		if err != nil {
			return f.prove(ctx, l, p, e, err)
		}
		return f.note(ctx, l, p, e, verdict(e))
	}
}

// note is prove that returns only why there is no note.
func (f *followed) note(ctx context.Context, l *Session, p pushed, e Evidence, err error) error {
	proof, judged := proofOf(l, p, e, err)
	if !judged {
		return nil
	}
	note, failed := json.Marshal(proof)
	if failed == nil {
		bounded, cancel := context.WithTimeout(ctx, deliveryBound)
		defer cancel()
		failed = f.repo.Note(bounded, p.commit, note)
	}
	if failed != nil {
		failed = fmt.Errorf("noting the proof of commit %s: %w", p.short(), failed)
	}
	return failed
}
