package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// gitopsStory is a model that is delivered by commits alone.
type gitopsStory struct {
	Options
	followed
	state     gitState
	timed     []pushed // commits of which each gives one version everything
	remark    pushed   // a commit that changes nothing on the cluster
	seen      time.Duration
	gone      time.Duration // a change by hand, both after it
	split10   pushed        // the commit that gives v2 a tenth
	why       string        // a commit cannot be applied; empty: it was
	byDefault pushed
	missing   string // tag of an image that nobody has built
}

// gitState fills gitops/tree in, which is then the folder in Git.
type gitState struct {
	Namespace  string
	Image, Tag string
	Version    string // the newest
	Traffic    []gitTraffic
	Card       bool // there is a model card
	Broken     bool // a file is no YAML
	Rights     bool // a file would give every right
	Remark     string
}

type gitTraffic struct {
	Version string
	Percent int64
}

const (
	// timedCommits are so many that a median says something, and an even number:
	// v1 has everything after them, as before.
	timedCommits = 6
	// putBack is how often Flux compares the cluster with Git. Flux's authors
	// say a minute or more; the story would then take minutes.
	putBack = 10 * time.Second
	// correctionBound is how long after a change by hand it may be in the
	// traffic.
	correctionBound = 30 * time.Second
	// handTries is how often the change by hand is made until it is in the traffic.
	handTries = 3
	// seldom is an interval at which Flux does not look in the course of a run.
	seldom = "1h"
	// fluxDefault is the interval that `flux create source git` and `flux create
	// kustomization` give when none is named.
	// https://fluxcd.io/flux/cmd/flux_create_source_git/
	fluxDefault  = "1m"
	defaultBound = 2 * time.Minute
)

// gitops: v1 is delivered from the lab's Git, and all that follows is commits: a
// split, its revert, three that cannot be applied, some that are timed, a
// removal. In between somebody changes the live Service by hand. A watcher runs
// through all of it.
func gitops() Scenario {
	return Scenario{
		Name:             "gitops",
		Summary:          "commits move the traffic and undo changes by hand; bad ones are refused",
		Needs:            []string{"knative", "flux", "git"},
		Baseline:         true,
		Serial:           true,
		ParallelControls: true,
		New:              newGitops,
	}
}

// newGitops plans one run.
func newGitops(o Options) (*Plan, error) {
	s := &gitopsStory{Options: o, missing: "never-built"}
	s.followed = followed{scenario: "gitops", flux: fluxSettings{Poll: seldom, Every: putBack.String(), Asked: true}}
	if err := enough("gitops", s.claim([]int64{90, 10})); err != nil {
		return nil, err
	}
	sc := &Plan{
		Steps: []Step{
			s.proven(Step{
				Name: "v1 serves from Git", Change: s.start, Check: s.split(100, 0),
				Why:      "The model is files in Git: a base, and an overlay that says which version it is and who gets how much of the traffic. Flux applies them; nobody else touches the cluster.",
				WatchFor: "Every answer says v1. From here on a watcher sends " + fmt.Sprint(watchRate) + " requests a second.",
			}),
			s.proven(Step{
				Name: "a commit moves 10 % to v2", Change: s.tenth, Check: s.split(90, 10),
				Why:      "One commit adds v2 without traffic, the next gives it a tenth. It is active when Flux says that it has applied just that commit, and Knative that every gateway answers by it.",
				WatchFor: "Both counts lie in the interval that a right split leaves only once in " + o.oneIn() + " samples.",
			}),
			s.proven(Step{
				Name: "git revert brings the old model back", Change: s.takeBack, Check: s.tookBack,
				Why:      "To go back is one more commit, which takes back what the last one did. The history says who did what, and when.",
				WatchFor: "Every answer says v1 again, after about the time of any other commit.",
			}),
			{
				Name: "a change by hand is undone", Change: s.byHand, Check: s.undone,
				Why:      fmt.Sprintf("Somebody gives v2 everything with kubectl, and Git says otherwise. Every %s Flux compares the cluster with Git; its authors advise a minute or more.", putBack),
				WatchFor: "The change was really in the traffic, and went again without anybody's doing.",
			},
			s.bad("a commit of broken YAML changes nothing", "Kustomize cannot read what was committed.",
				func(state *gitState) { state.Broken = true }, s.refused),
			s.bad("a split that sums to 90 is refused", "The YAML is right, and Knative's webhook says what is wrong with it.",
				func(state *gitState) { state.Traffic = []gitTraffic{{"v1", 60}, {"v2", 30}} }, s.refused),
			s.bad("a commit that gives itself rights is refused", "The Kustomization names a service account that has rights in this namespace only, and Flux applies as that account.",
				func(state *gitState) { state.Rights = true }, s.refused),
			s.bad("an image that does not exist takes nothing over", "Flux can apply it; it is the new revision that never gets ready, while the traffic is pinned to the old ones.",
				func(state *gitState) { state.Version, state.Tag = "v3", s.missing }, s.neverReady),
			s.proven(Step{
				Name: "commit to traffic", Change: s.flip, Check: s.times,
				Why:      fmt.Sprintf("%d commits give all traffic to v2, to v1, and so on; the clock runs from just before each commit is made to the first answer by the new state. After a push the lab's Git asks Flux to look at once.", timedCommits),
				WatchFor: "The median, and that the slowest is not far from it.",
			}),
			s.proven(Step{
				Name: "what a commit removes is removed", Change: s.prune, Check: s.isGone,
				Why:      "A commit deletes a file, the model's card. Flux keeps a list of what it has applied, and deletes what is no longer in Git.",
				WatchFor: "The ConfigMap is gone, and the model has not noticed.",
			}),
			s.proven(Step{
				Name: "against Flux's own defaults", Long: true, Change: s.defaults, Check: s.slower,
				Why:      "The same kind of commit, with the interval of " + fluxDefault + " that Flux's command line gives, and nobody who asks Flux after the push. It is made right after Flux has looked, so it waits about as long as one can.",
				WatchFor: "How many times the median it is. It is one commit, and no median of its own.",
			}),
			s.prober.lastStep("All of these commits, the bad ones too, went by while the watcher sent."),
		},
		Controls: []Control{
			{
				Name: "suspended", Summary: "Flux is suspended, and commits go on",
				After: "v1 serves from Git", Break: func(ctx context.Context, l *Session) error {
					s.flux.Suspended = true
					return s.configure(ctx, l, l.write) // it is never ready again
				}, Catches: Delivery,
			},
			{
				Name: "webhook-cut", Summary: "nobody asks Flux to look after a push, and its own interval is an hour",
				Break: func(context.Context, *Session) error { s.flux.Asked = false; return nil }, Catches: Delivery,
			},
			{
				Name: "no-correction", Summary: "the live Service is marked for Flux to leave it alone",
				After: "git revert brings the old model back", Break: s.leaveAlone, Catches: Correction,
			},
			{
				Name: "good-image", Summary: "the image that must not exist does: the commit that should fail is a good one",
				Break: func(_ context.Context, l *Session) error { _, s.missing = splitImage(l.Image); return nil }, Catches: Refusal,
			},
		},
	}
	return sc, nil
}

// splitImage is an image's name and its tag.
func splitImage(image string) (name, tag string) {
	at := strings.LastIndex(image, ":")
	return image[:at], image[at+1:]
}

func (s *gitopsStory) split(percents ...int64) func(context.Context, *Session) (Evidence, error) {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		return l.sample(ctx, l.to(serviceName), s.claim(percents))
	}
}

// change commits the state of the folder.
func (s *gitopsStory) change(ctx context.Context, l *Session, message string) error {
	files, err := fillAll("gitops/tree", s.state)
	if err != nil {
		return err
	}
	return s.commit(ctx, l, message, files)
}

// share sets the percents of v1 and v2 in the state of the folder.
func (s *gitopsStory) share(v1, v2 int64) {
	s.state.Traffic = []gitTraffic{{"v1", v1}, {"v2", v2}}
}

// all gives one version everything in the state of the folder.
func (s *gitopsStory) all(version string) {
	s.share(100, 0)
	if version == "v2" {
		s.share(0, 100)
	}
}

func (s *gitopsStory) start(ctx context.Context, l *Session) error {
	s.state = gitState{Namespace: l.Namespace, Version: "v1", Traffic: []gitTraffic{{"v1", 100}}, Card: true}
	s.state.Image, s.state.Tag = splitImage(l.Image)
	files, err := fillAll("gitops/tree", s.state)
	if err != nil {
		return err
	}
	if err := s.begin(ctx, l, "overlays/lab", "v1 serves", files); err != nil {
		return err
	}
	if err := s.ready(ctx, l); err != nil {
		return err
	}
	s.prober.start(ctx, l, l.to(serviceName), watchRate)
	return nil
}

// tenth adds v2: Knative wants a revision to be there before traffic goes to it.
func (s *gitopsStory) tenth(ctx context.Context, l *Session) error {
	s.state.Version = "v2"
	s.share(100, 0)
	if err := s.change(ctx, l, "v2 next to v1, at 0 %"); err != nil {
		return err
	}
	if err := s.ready(ctx, l); err != nil {
		return err
	}
	s.share(90, 10)
	if err := s.change(ctx, l, "10 % to v2"); err != nil {
		return err
	}
	return s.ready(ctx, l)
}

// move commits that a version gets everything, and returns when it has, and
// nothing of the commit is under way any more.
func (s *gitopsStory) move(ctx context.Context, l *Session, version string, bound time.Duration) error {
	s.all(version)
	if err := s.change(ctx, l, "all to "+version); err != nil {
		return err
	}
	if err := s.answeredBy(ctx, l, version, bound); err != nil {
		return err
	}
	return s.ready(ctx, l)
}

// flip times commits of two kinds: such that move the traffic, and one that
// changes nothing on the cluster, which takes what Git and Flux take.
func (s *gitopsStory) flip(ctx context.Context, l *Session) error {
	s.timed = nil
	for i := range timedCommits {
		if err := s.move(ctx, l, []string{"v2", "v1"}[i%2], deliveryBound); err != nil {
			return err
		}
		s.timed = append(s.timed, s.newest)
	}
	s.state.Remark = "Nothing on the cluster comes of this line."
	if err := s.change(ctx, l, "a remark"); err != nil {
		return err
	}
	if err := s.applied(ctx, l, deliveryBound); err != nil {
		return err
	}
	s.newest.activeAfter = time.Since(s.newest.began)
	s.remark = s.newest
	return nil
}

// times says how long commits took, and notes on each how long it did.
func (s *gitopsStory) times(ctx context.Context, l *Session) (Evidence, error) {
	for _, p := range s.timed {
		e := Evidence{Summary: fmt.Sprintf("%s: the first answer by it came %.2f s after the commit was begun", p.message, p.activeAfter.Seconds())}
		if err := s.prove(ctx, l, p, e, nil); err != nil {
			return Evidence{}, err
		}
	}
	least, median, most := spread(s.timed, func(p pushed) time.Duration { return p.activeAfter })
	_, push, _ := spread(s.timed, func(p pushed) time.Duration { return p.took })
	return Evidence{
		Summary: fmt.Sprintf("%d commits: median %.2f s, min %.2f s, max %.2f s from before the commit to the first answer by it; of that the push %.2f s; a commit that changes nothing is applied after %.2f s",
			len(s.timed), median, least, most, push, s.remark.activeAfter.Seconds()),
		Figures: []Figure{
			{"median", median, "s"}, {"min", least, "s"}, {"max", most, "s"}, {"push", push, "s"},
			{"a commit that changes nothing", s.remark.activeAfter.Seconds(), "s"}, {"commits", float64(len(s.timed)), ""},
		},
	}, nil
}

// spread is the least, the median and the most of what was timed, in seconds.
func spread(all []pushed, of func(pushed) time.Duration) (least, median, most float64) {
	var seconds []float64
	for _, p := range all {
		seconds = append(seconds, of(p).Seconds())
	}
	slices.Sort(seconds)
	n := len(seconds)
	return seconds[0], (seconds[(n-1)/2] + seconds[n/2]) / 2, seconds[n-1]
}

// byHand gives v2 everything as `kubectl edit` would, right after Flux has
// compared: so the change has nearly a whole interval to get into the traffic.
func (s *gitopsStory) byHand(ctx context.Context, l *Session) error {
	const patch = `{"spec":{"traffic":[` +
		`{"tag":"v1","revisionName":"model-v1","latestRevision":false,"percent":0},` +
		`{"tag":"v2","revisionName":"model-v2","latestRevision":false,"percent":100}]}}`
	if err := l.teach(ctx, "kubectl --namespace "+l.Namespace+" patch services.serving.knative.dev model --type merge --patch '"+patch+"'\n"); err != nil {
		return err
	}
	s.prober.mark("by hand")
	var began, first time.Time
	for try := 1; ; try++ {
		if err := s.compared(ctx, l); err != nil {
			return err
		}
		began = time.Now()
		if err := l.Kube.Patch(ctx, l.service(),
			client.RawPatch(types.MergePatchType, []byte(patch)), client.FieldOwner("kubectl-edit")); err != nil {
			return err
		}
		l.task.Update("changed by hand")
		bounded, cancel := context.WithDeadline(ctx, began.Add(2*putBack))
		var err error
		first, err = l.firstOf(bounded, l.to(serviceName), "v2")
		cancel()
		if err == nil {
			break
		}
		// On a slow machine Flux may put it back before the gateway has it.
		if try == handTries || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("the change by hand did not get into the traffic: %w", err)
		}
	}
	bounded, cancel := context.WithDeadline(ctx, began.Add(correctionBound))
	defer cancel()
	s.seen = first.Sub(began)
	first, err := l.firstOf(bounded, l.to(serviceName), "v1")
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		fluxStatus, askErr := s.ask(ctx, l)
		if askErr != nil {
			return fmt.Errorf("%w, and Flux cannot be asked why: %w", err, askErr)
		}
		return refute(Correction, "v2 got everything by hand, and %s later still has it: %s", correctionBound, fluxStatus)
	}
	if err != nil {
		return err
	}
	s.gone = first.Sub(began)
	return s.settled(ctx, l, time.Now())
}

// compared returns when Flux has just compared the cluster with Git.
func (s *gitopsStory) compared(ctx context.Context, l *Session) error {
	before, err := s.ask(ctx, l)
	if err != nil {
		return err
	}
	return l.until(ctx, "Flux to compare", func() string {
		now, err := s.ask(ctx, l)
		if err != nil {
			return err.Error()
		}
		if now.compared == before.compared || now.ready != "True" {
			return "it last did at " + now.compared
		}
		return ""
	})
}

func (s *gitopsStory) undone(ctx context.Context, l *Session) (Evidence, error) {
	e, err := s.split(100, 0)(ctx, l)
	e.Summary = fmt.Sprintf("by hand v2 got everything: in the traffic after %.2f s, gone after %.2f s, with an interval of %s; %s", s.seen.Seconds(), s.gone.Seconds(), putBack, e.Summary)
	e.Figures = []Figure{{"in the traffic", s.seen.Seconds(), "s"}, {"gone", s.gone.Seconds(), "s"}}
	return e, err
}

func (s *gitopsStory) takeBack(ctx context.Context, l *Session) error {
	s.split10 = s.newest
	if err := s.revert(ctx, l, s.split10); err != nil {
		return err
	}
	s.share(100, 0)
	return s.ready(ctx, l)
}

func (s *gitopsStory) tookBack(ctx context.Context, l *Session) (Evidence, error) {
	forth, back := s.split10.activeAfter.Seconds(), s.newest.activeAfter.Seconds()
	e, err := s.split(100, 0)(ctx, l)
	e.Summary = fmt.Sprintf("%s (%s) was active after %.2f s, its revert %s after %.2f s; %s", s.split10.short(), s.split10.message, forth, s.newest.short(), back, e.Summary)
	e.Figures = []Figure{{"revert", back, "s"}}
	return e, err
}

// bad is a step about a commit that spoils the folder's state, after which
// verdict says why it cannot be active; it is taken back in the end.
func (s *gitopsStory) bad(name, idea string, spoil func(*gitState), verdict func(context.Context, *Session) (string, error)) Step {
	return s.proven(Step{
		Name:     name,
		Why:      idea + " What runs goes on, and a commit that takes it back ends the trouble.",
		WatchFor: "The reason, and that every answer still says v1.",
		Change: func(ctx context.Context, l *Session) error {
			good := s.state
			spoil(&s.state)
			err := s.change(ctx, l, name)
			s.state = good // as it is again when the commit is taken back
			if err != nil {
				return err
			}
			s.why, err = verdict(ctx, l)
			return err
		},
		Check: s.unchanged,
	})
}

// refused waits for what Flux says of the newest commit: why it cannot be
// applied, or nothing when it was.
func (s *gitopsStory) refused(ctx context.Context, l *Session) (string, error) {
	why := ""
	_, err := s.waitForFlux(ctx, l, deliveryBound, "Flux to judge "+s.newest.short(), func(ctx context.Context, now fluxStatus) (string, error) {
		tried, err := s.hasNewest(ctx, now.attempted)
		if err != nil || !tried || now.ready == "Unknown" {
			return now.String(), err
		}
		if why = ""; now.ready == "False" {
			why = "Flux: " + now.why
		}
		return "", nil
	})
	return why, err
}

// neverReady waits for what Knative says of the newest commit, which Flux can
// apply.
func (s *gitopsStory) neverReady(ctx context.Context, l *Session) (string, error) {
	if err := s.applied(ctx, l, deliveryBound); err != nil {
		return "", err
	}
	bounded, cancel := context.WithDeadline(ctx, s.newest.began.Add(deliveryBound))
	defer cancel()
	err := l.Kube.Wait(bounded, []*unstructured.Unstructured{l.service()}, l.task.Update)
	switch {
	case err == nil:
		return "", nil
	case ctx.Err() != nil:
		return "", err
	case errors.Is(err, context.DeadlineExceeded):
		return "", refute(Refusal, "commit %s (%s) does not get ready, and after %s nobody says why: %v", s.newest.short(), s.newest.message, deliveryBound, err)
	}
	return "Flux applied it, and Knative: " + oneLine(err.Error()), nil
}

// unchanged checks that a bad commit was not taken for good and changed nothing,
// and that taking it back ends the trouble.
func (s *gitopsStory) unchanged(ctx context.Context, l *Session) (Evidence, error) {
	bad := s.newest
	if s.why == "" {
		reason := fmt.Sprintf("commit %s (%s) was taken for good", bad.short(), bad.message)
		return Evidence{Summary: reason}, refute(Refusal, "%s", reason)
	}
	e, err := s.split(100, 0)(ctx, l)
	e.Summary = s.why + "; " + e.Summary
	if err != nil {
		return e, err
	}
	if err := s.revert(ctx, l, bad); err != nil {
		return e, err
	}
	if err := s.ready(ctx, l); err != nil {
		return e, err
	}
	took := fmt.Sprintf("taken back after %.2f s", s.newest.activeAfter.Seconds())
	e.Summary += "; " + took
	e.Figures = []Figure{{"taken back", s.newest.activeAfter.Seconds(), "s"}}
	return e, s.prove(ctx, l, s.newest, Evidence{Summary: bad.short() + " is " + took}, nil)
}

func (s *gitopsStory) prune(ctx context.Context, l *Session) error {
	if _, err := l.live(ctx, l.object("v1", "ConfigMap", "model-card")); err != nil {
		return fmt.Errorf("before it is removed: %w", err)
	}
	s.state.Card = false
	if err := s.change(ctx, l, "no model card any more"); err != nil {
		return err
	}
	if _, err := s.waitForFlux(ctx, l, deliveryBound, "Flux to remove ConfigMap/model-card", func(ctx context.Context, now fluxStatus) (string, error) {
		_, err := l.live(ctx, l.object("v1", "ConfigMap", "model-card"))
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		return "it is still there; " + now.String(), err
	}); err != nil {
		return err
	}
	s.newest.activeAfter = time.Since(s.newest.began)
	return s.ready(ctx, l)
}

func (s *gitopsStory) isGone(ctx context.Context, l *Session) (Evidence, error) {
	e, err := s.split(100, 0)(ctx, l)
	e.Summary = fmt.Sprintf("ConfigMap/%s/model-card is gone %.2f s after the commit; %s", l.Namespace, s.newest.activeAfter.Seconds(), e.Summary)
	e.Figures = []Figure{{"gone", s.newest.activeAfter.Seconds(), "s"}}
	return e, err
}

// defaults times a commit as Flux is without the lab's doing, and then has
// everything as it was.
func (s *gitopsStory) defaults(ctx context.Context, l *Session) error {
	usual := s.flux
	s.flux.Asked, s.flux.Poll, s.flux.Every = false, fluxDefault, fluxDefault
	if err := l.remove(ctx, l.object("rbac.authorization.k8s.io/v1", "RoleBinding", "git-ask")); err != nil {
		return err
	}
	if err := s.configure(ctx, l, l.apply); err != nil { // Flux looks when this has changed
		return err
	}
	s.all("v2")
	if err := s.change(ctx, l, "all to v2"); err != nil {
		return err
	}
	if err := s.answeredBy(ctx, l, "v2", defaultBound); err != nil {
		return err
	}
	if err := s.applied(ctx, l, defaultBound); err != nil {
		return err
	}
	s.byDefault = s.newest
	s.flux = usual
	if err := s.configure(ctx, l, l.apply); err != nil {
		return err
	}
	return s.move(ctx, l, "v1", deliveryBound)
}

func (s *gitopsStory) slower(ctx context.Context, l *Session) (Evidence, error) {
	took := s.byDefault.activeAfter.Seconds()
	_, median, _ := spread(s.timed, func(p pushed) time.Duration { return p.activeAfter })
	e, err := s.split(100, 0)(ctx, l)
	e.Summary = fmt.Sprintf("%.1f s with an interval of %s and nobody who asks: %.0f times the median of %.2f s (n=1, made right after Flux had looked); then as before: %s",
		took, fluxDefault, took/median, median, e.Summary)
	e.Figures = []Figure{{"with an interval of " + fluxDefault, took, "s"}, {"times the median", took / median, ""}}
	return e, s.prove(ctx, l, s.byDefault, e, err)
}

// leaveAlone marks the live Service as users of Flux do who want to change it by
// hand. https://fluxcd.io/flux/components/kustomize/kustomizations/#suspending-and-resuming
func (s *gitopsStory) leaveAlone(ctx context.Context, l *Session) error {
	const patch = `{"metadata":{"annotations":{"kustomize.toolkit.fluxcd.io/reconcile":"disabled"}}}`
	return l.Kube.Patch(ctx, l.service(), client.RawPatch(types.MergePatchType, []byte(patch)))
}
