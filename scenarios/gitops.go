package scenarios

import (
	"context"
	"fmt"
	"slices"
	"time"
)

type gitopsStory struct {
	Options
	followed
	state     gitState
	timed     []pushed      // commits of which each gives one version everything
	remark    pushed        // a commit that changes nothing on the cluster
	seen      time.Duration // after which a change by hand was in the traffic
	gone      time.Duration // after which it was not any more
	split10   pushed        // the commit that gives v2 a tenth
	why       string        // a commit cannot be applied; empty: it was
	byDefault pushed        // with the intervals of Flux's command line
	missing   string        // tag of an image that nobody has built
}

// gitState fills gitops/tree in, which is then the folder in Git.
type gitState struct {
	Namespace  string
	Image, Tag string
	Version    string // the newest
	Traffic    versionShares
	Card       bool // there is a model card
	Broken     bool // a file is no YAML
	Rights     bool // a file would give every right
	Remark     string
}

// versionShares are percents of the traffic by version.
type versionShares map[string]int64

const (
	// putBack is how often Flux compares the cluster with Git. Flux's authors
	// say a minute or more; the story would then take minutes.
	putBack = 10 * time.Second
	// correctionBound is how long after a change by hand it may be in the
	// traffic.
	correctionBound = 30 * time.Second
	// handTries is how often the change by hand is made until it is in the traffic.
	handTries = 3
)

// gitops: v1 is delivered from the lab's Git, and all that follows is commits: a
// split, its revert, four that cannot be active, some that are timed, a
// removal. In between somebody changes the live Service by hand. A watcher runs
// through all of it.
var gitops = Scenario{
	Name:             "gitops",
	Summary:          "commits move the traffic and undo changes by hand; bad ones are refused",
	Needs:            []string{"knative", "flux", "git"},
	Baseline:         true,
	Serial:           true,
	ParallelControls: true,
	New:              newGitops,
}

func newGitops(o Options) (*Plan, error) {
	s := &gitopsStory{Options: o, followed: follow(putBack.String()), missing: neverBuilt}
	s.tree = func() (map[string][]byte, error) { return fillAll("gitops/tree", s.state) }
	if err := enough("gitops", s.claim(10)); err != nil {
		return nil, err
	}
	return &Plan{
		Steps: slices.Concat([]Step{
			s.proven(Step{
				Name: "v1 serves from Git", Change: s.start, Check: s.share(0),
				Why:      "The model is files in Git: a base, and an overlay that says which version it is and who gets how much of the traffic. Flux applies them; nobody else touches the cluster.",
				WatchFor: "Every answer says v1. From here on a watcher sends " + fmt.Sprint(watchRate) + " requests a second.",
			}),
			s.proven(Step{
				Name: "a commit moves 10 % to v2", Change: s.tenth, Check: s.share(10),
				Why:      "One commit adds v2 without traffic, the next gives it a tenth. It is active when Flux says that it has applied just that commit, and Knative that every gateway answers by it.",
				WatchFor: "Both counts lie in the interval that a right split leaves only once in " + o.oneIn() + " samples.",
			}),
			s.proven(Step{
				Name: "git revert brings the old model back", Change: s.undeliver, Check: s.tookBack,
				Why:      "To go back is one more commit, which takes back what the last one did. The history says who did what, and when.",
				WatchFor: "Every answer says v1 again, after about the time of any other commit.",
			}),
			{
				Name: "a change by hand is undone", Change: s.byHand, Check: s.undone,
				Why:      fmt.Sprintf("Somebody gives v2 everything with kubectl, and Git says otherwise. Every %s Flux compares the cluster with Git; its authors advise a minute or more.", putBack),
				WatchFor: "The change was really in the traffic, and went again without anybody's doing.",
			},
		}, s.refusals(), []Step{
			s.commitToTraffic(),
			s.proven(Step{
				Name: "what a commit removes is removed", Change: s.prune, Check: s.isGone,
				Why:      "A commit deletes a file, the model's card. Flux keeps a list of what it has applied, and deletes what is no longer in Git.",
				WatchFor: "The ConfigMap is gone, and the model has not noticed.",
			}),
			s.againstDefaults(),
			s.prober.lastStep("All of these commits, the bad ones too, went by while the watcher sent."),
		}),
		Controls: []Control{
			{Name: "suspended", Summary: "Flux is suspended, and commits go on", After: "v1 serves from Git", Break: s.suspend, Catches: Delivery},
			{
				Name: "webhook-cut", Summary: "nobody asks Flux to look after a push, and its own interval is an hour",
				Break: set(&s.flux.Asked, false), Catches: Delivery,
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
	}, nil
}

// share checks that v2 answers this percent of the requests.
func (s *gitopsStory) share(v2 int) Check {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		return l.sample(ctx, l.to(serviceName), s.claim(v2))
	}
}

func (s *gitopsStory) start(ctx context.Context, l *Session) error {
	s.state = gitState{Namespace: l.Namespace, Version: "v1", Traffic: versionShares{"v1": 100}, Card: true}
	s.state.Image, s.state.Tag = splitImage(l.Image)
	if err := s.begin(ctx, l, "overlays/lab", "v1 serves"); err != nil {
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
	s.state.Version, s.state.Traffic = "v2", versionShares{"v1": 100, "v2": 0}
	if err := s.change(ctx, l, "v2 next to v1, at 0 %"); err != nil {
		return err
	}
	s.state.Traffic = versionShares{"v1": 90, "v2": 10}
	return s.change(ctx, l, "10 % to v2")
}

func (s *gitopsStory) undeliver(ctx context.Context, l *Session) error {
	s.split10 = s.newest
	s.state.Traffic = versionShares{"v1": 100, "v2": 0}
	return s.takeBack(ctx, l, s.split10)
}

func (s *gitopsStory) tookBack(ctx context.Context, l *Session) (Evidence, error) {
	forth, back := s.split10.activeAfter.Seconds(), s.newest.activeAfter.Seconds()
	e, err := s.share(0)(ctx, l)
	return e.after(fmt.Sprintf("%s (%s) was active after %.2f s, its revert %s after %.2f s", s.split10.short(), s.split10.message, forth, s.newest.short(), back),
		Figure{"revert", back, "s"}), err
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
	var began time.Time
	for try := 1; ; try++ {
		if err := s.compared(ctx, l); err != nil {
			return err
		}
		began = time.Now()
		if err := l.patch(ctx, l.service(), patch, byKubectl); err != nil {
			return err
		}
		l.progress("changed by hand")
		first, err := l.firstOf(ctx, l.to(serviceName), "v2", began.Add(2*putBack))
		if err == nil {
			s.seen = first.Sub(began)
			break
		}
		// On a slow machine Flux may put it back before the gateway has it.
		if try == handTries || !timedOut(ctx, err) {
			return fmt.Errorf("the change by hand did not get into the traffic: %w", err)
		}
	}
	first, err := l.firstOf(ctx, l.to(serviceName), "v1", began.Add(correctionBound))
	if err != nil {
		return s.blame(ctx, l, err, func(status string) error {
			return refute(Correction, "v2 got everything by hand, and %s later still has it: %s", correctionBound, status)
		})
	}
	s.gone = first.Sub(began)
	return s.settled(ctx, l, time.Now())
}

func (s *gitopsStory) undone(ctx context.Context, l *Session) (Evidence, error) {
	e, err := s.share(0)(ctx, l)
	return e.after(fmt.Sprintf("by hand v2 got everything: in the traffic after %.2f s, gone after %.2f s, with an interval of %s", s.seen.Seconds(), s.gone.Seconds(), putBack),
		Figure{"in the traffic", s.seen.Seconds(), "s"}, Figure{"gone", s.gone.Seconds(), "s"}), err
}

func (s *gitopsStory) prune(ctx context.Context, l *Session) error {
	card := l.object("v1", "ConfigMap", "model-card")
	if _, err := l.live(ctx, card); err != nil {
		return fmt.Errorf("before it is removed: %w", err)
	}
	s.state.Card = false
	if err := s.commitTree(ctx, l, "no model card any more"); err != nil {
		return err
	}
	if err := s.removed(ctx, l, card); err != nil {
		return err
	}
	return s.ready(ctx, l)
}

func (s *gitopsStory) isGone(ctx context.Context, l *Session) (Evidence, error) {
	e, err := s.share(0)(ctx, l)
	took := s.newest.activeAfter.Seconds()
	return e.after(fmt.Sprintf("ConfigMap/%s/model-card is gone %.2f s after the commit", l.Namespace, took), Figure{"gone", took, "s"}), err
}

// leaveAlone marks the live Service as users of Flux do who want to change it by
// hand. https://fluxcd.io/flux/components/kustomize/kustomizations/#suspending-and-resuming
func (s *gitopsStory) leaveAlone(ctx context.Context, l *Session) error {
	return l.patch(ctx, l.service(), `{"metadata":{"annotations":{"kustomize.toolkit.fluxcd.io/reconcile":"disabled"}}}`)
}
