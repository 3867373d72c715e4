package scenarios

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Commits are timed: on the lab as it is, and once with Flux's own defaults.
const (
	// timedCommits are so many that a median says something, and an even number:
	// v1 has everything after them, as before.
	timedCommits = 6
	// fluxDefault is the interval that `flux create source git` and `flux create
	// kustomization` give when none is named.
	// https://fluxcd.io/flux/cmd/flux_create_source_git/
	fluxDefault  = "1m"
	defaultBound = 2 * time.Minute
)

func (s *gitopsStory) commitToTraffic() Step {
	return s.proven(Step{
		Name: "commit to traffic", Change: s.flip, Check: s.times,
		Why:      fmt.Sprintf("%d commits give all traffic to v2, to v1, and so on; the clock runs from just before each commit is made to the first answer by the new state. After a push the lab's Git asks Flux to look at once.", timedCommits),
		WatchFor: "The median, and that the slowest is not far from it.",
	})
}

func (s *gitopsStory) againstDefaults() Step {
	return s.proven(Step{
		Name: "against Flux's own defaults", Long: true, Change: s.defaults, Check: s.slower,
		Why:      "The same kind of commit, with the interval of " + fluxDefault + " that Flux's command line gives, and nobody who asks Flux after the push. It is made right after Flux has looked, so it waits about as long as one can.",
		WatchFor: "How many times the median it is. It is one commit, and no median of its own.",
	})
}

// move commits that a version gets everything, and returns when it has, and
// nothing of the commit is under way any more.
func (s *gitopsStory) move(ctx context.Context, l *Session, version string) error {
	s.state.Traffic = versionShares{"v1": 0, "v2": 0}
	s.state.Traffic[version] = 100
	if err := s.commitTree(ctx, l, "all to "+version); err != nil {
		return err
	}
	if err := s.answeredBy(ctx, l, version); err != nil {
		return err
	}
	return s.ready(ctx, l)
}

// flip times commits of two kinds: such that move the traffic, and one that
// changes nothing on the cluster, which takes what Git and Flux take.
func (s *gitopsStory) flip(ctx context.Context, l *Session) error {
	s.timed = nil
	for i := range timedCommits {
		if err := s.move(ctx, l, []string{"v2", "v1"}[i%2]); err != nil {
			return err
		}
		s.timed = append(s.timed, s.newest)
	}
	s.state.Remark = "Nothing on the cluster comes of this line."
	if err := s.commitTree(ctx, l, "a remark"); err != nil {
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

// defaults times a commit as Flux is without the lab's doing, and then has
// everything as it was.
func (s *gitopsStory) defaults(ctx context.Context, l *Session) error {
	usual := s.flux
	s.flux.Asked, s.flux.Poll, s.flux.Every, s.bound = false, fluxDefault, fluxDefault, defaultBound
	if err := l.remove(ctx, l.object("rbac.authorization.k8s.io/v1", "RoleBinding", "git-ask")); err != nil {
		return err
	}
	if err := s.configure(ctx, l.apply); err != nil { // Flux looks when this has changed
		return err
	}
	if err := s.move(ctx, l, "v2"); err != nil {
		return err
	}
	s.byDefault = s.newest
	s.flux, s.bound = usual, deliveryBound
	if err := s.configure(ctx, l.apply); err != nil {
		return err
	}
	return s.move(ctx, l, "v1")
}

func (s *gitopsStory) slower(ctx context.Context, l *Session) (Evidence, error) {
	took := s.byDefault.activeAfter.Seconds()
	_, median, _ := spread(s.timed, func(p pushed) time.Duration { return p.activeAfter })
	e, err := s.share(0)(ctx, l)
	e.Summary = fmt.Sprintf("%.1f s with an interval of %s and nobody who asks: %.0f times the median of %.2f s (n=1, made right after Flux had looked); then as before: %s",
		took, fluxDefault, took/median, median, e.Summary)
	e.Figures = []Figure{{"with an interval of " + fluxDefault, took, "s"}, {"times the median", took / median, ""}}
	return e, s.prove(ctx, l, s.byDefault, e, err)
}
