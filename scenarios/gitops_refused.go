package scenarios

import (
	"context"
	"fmt"
)

func (s *gitopsStory) refusals() []Step {
	return []Step{
		s.bad("a commit of broken YAML changes nothing", "Kustomize cannot read what was committed.",
			func(state *gitState) { state.Broken = true }, s.refusal),
		s.bad("a split that sums to 90 is refused", "The YAML is right, and Knative's webhook says what is wrong with it.",
			func(state *gitState) { state.Traffic = versionShares{"v1": 60, "v2": 30} }, s.refusal),
		s.bad("a commit that gives itself rights is refused", "The Kustomization names a service account that has rights in this namespace only, and Flux applies as that account.",
			func(state *gitState) { state.Rights = true }, s.refusal),
		s.bad("an image that does not exist takes nothing over", "Flux can apply it; it is the new revision that never gets ready, while the traffic is pinned to the old ones.",
			func(state *gitState) { state.Version, state.Tag = "v3", s.missing }, s.neverReady),
	}
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
			err := s.commitTree(ctx, l, name)
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

// unchanged checks that a bad commit was not taken for good and changed nothing,
// and that taking it back ends the trouble.
func (s *gitopsStory) unchanged(ctx context.Context, l *Session) (Evidence, error) {
	bad := s.newest
	if s.why == "" {
		reason := fmt.Sprintf("commit %s (%s) was taken for good", bad.short(), bad.message)
		return Evidence{Summary: reason}, refute(Refusal, "%s", reason)
	}
	e, err := s.share(0)(ctx, l)
	e.Summary = s.why + "; " + e.Summary
	if err != nil {
		return e, err
	}
	if err := s.takeBack(ctx, l, bad); err != nil {
		return e, err
	}
	took := fmt.Sprintf("taken back after %.2f s", s.newest.activeAfter.Seconds())
	e.Summary += "; " + took
	e.Figures = []Figure{{"taken back", s.newest.activeAfter.Seconds(), "s"}}
	return e, s.prove(ctx, l, s.newest, Evidence{Summary: bad.short() + " is " + took}, nil)
}
