package scenarios

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"
)

type progressiveStory struct {
	Options
	models deliveries
}

const (
	progressiveFails = 50 // percent of the requests that the erring version answers 500
	progressiveSlow  = 3 * time.Second

	// badRequests are counted of a bad version: Flagger takes it back soon, and one
	// is slow.
	badRequests = 120
	// progressiveRate is how many requests per second each model gets from its
	// watcher: enough for Flagger's checks, and few next to all the pods that start.
	progressiveRate = 10

	leftOut = "left out in this control"
)

// progressive: four models get a new version at the same moment. One is good,
// one errs, one is slow, and one has no users. Flagger moves each forward or
// back by what Prometheus has measured; here it is counted who answered.
var progressive = Scenario{
	Name:             "progressive",
	Summary:          "Flagger promotes a good version; what errs or is slow goes back",
	Needs:            []string{"progressive"},
	Options:          []string{"strategy"},
	SidecarInjection: true,
	New:              newProgressive,
}

func newProgressive(o Options) (*Plan, error) {
	s := &progressiveStory{Options: o, models: deliveries{
		{name: "erring", env: map[string]string{"FAIL_PERCENT": strconv.Itoa(progressiveFails)}},
		{name: "slow", env: map[string]string{"DELAY": progressiveSlow.String()}},
		{name: "quiet"},
		{name: "good"},
	}}
	for _, m := range s.models {
		m.strategy, m.held = o.Strategy, o.Strategy != strategyCanary
		if m.name != "quiet" {
			m.users = usersOf(o.Strategy)
		}
	}
	if err := enough("progressive", s.claim(firstWeight), s.claim(secondWeight)); err != nil {
		return nil, err
	}
	gets := fmt.Sprintf("All four get a v2. Every %s Flagger asks Prometheus about the requests of the last %s, and goes one step on, or notes a failed check; after %d of them it goes back. ",
		flaggerInterval, flaggerWindow, flaggerThreshold)
	first, second := fmt.Sprintf("v2 at %d %%", firstWeight), fmt.Sprintf("v2 at %d %%", secondWeight)
	tries := []Step{
		{
			Name: first, Change: s.deliver, Check: s.counted(firstWeight, "erring", "slow", "good"),
			Why:      gets + "A webhook that nobody answers holds it at this weight until the answers are counted.",
			WatchFor: "Flagger says which weight it has set. Nobody but the watchers says who answered.",
		},
		{
			Name: second, Change: s.goOn, Check: s.counted(secondWeight, "good"),
			Why:      "The webhook is gone, and Flagger goes on with each version that its checks let pass.",
			WatchFor: "Only the good version gets the next weight.",
		},
	}
	if o.Strategy != strategyCanary {
		tries = []Step{s.tries(gets)}
	}
	byHand := Control{
		Name: "by-hand", Summary: "somebody moves the good version's weight in the route behind Flagger's back",
		Break: s.models.only("good", func(m *delivered) { m.moved = true }), Catches: Shares,
	}
	if o.Strategy == strategyMirror {
		byHand.Summary, byHand.Catches = "somebody takes the copies out of the good version's route behind Flagger's back", Mirror
	}
	return &Plan{
		SeveralModels: true,
		Steps: slices.Concat([]Step{{
			Name: "v1 serves", Change: s.deploy, Check: s.counted(0, "good"),
			Why:      "Four models, each a Deployment and a Canary. Flagger copies each Deployment to one that serves, and writes the Services and the route. Watchers begin to send, but not to the model that is called quiet.",
			WatchFor: "Every answer says v1.",
		}}, tries, []Step{
			{
				Name: "the good version is promoted", Change: s.over("good"), Check: s.promoted,
				Why:      "What Flagger says and who answers are two things. Here they are held against each other.",
				WatchFor: "Flagger's last word, and that every answer says v2.",
			},
			{
				Name: "the erring version is rolled back", Change: s.over("erring"), Check: s.ended("erring", flaggerFailed, "advancement success-percent", Rollback),
				Why:      fmt.Sprintf("It answers %d %% of the requests with 500; %d %% must succeed.", progressiveFails, minSuccess),
				WatchFor: "Which metric failed, and that every answer says v1 again.",
			},
			{
				Name: "the slow version is rolled back", Change: s.over("slow"), Check: s.ended("slow", flaggerFailed, "advancement latency-p95", Rollback),
				Why:      fmt.Sprintf("It takes %s to answer; %d ms are accepted for 95 of 100 requests.", progressiveSlow, maxLatency),
				WatchFor: "Which metric failed, and that every answer says v1 again.",
			},
			{
				Name: "without requests nothing is promoted", Change: s.over("quiet"), Check: s.ended("quiet", flaggerFailed, "no values found", Rollback),
				Why:      "Nobody has sent a request, so nothing was measured. No evidence is no evidence of being good.",
				WatchFor: "What Flagger says: no values found. That is a failed check.",
			},
			{
				Name: "the users' loss", Check: s.loss,
				Why: "The watchers sent at their own pace through all of it.",
				WatchFor: fmt.Sprintf("Nothing was lost but by the version that errs, and no more than its share explains. "+
					"When Flagger takes a version back, up to %d requests of each watcher may find its pods gone before the route is.", takenAwayMost),
			},
		}),
		Controls: []Control{
			byHand,
			{
				Name: "unmeasured", Summary: "Prometheus does not look at the good version",
				Break: s.models.only("good", func(m *delivered) { m.unmeasured = true }), Catches: Promotion,
			},
			{
				Name: "unjudged", Summary: "Flagger is given no metrics for the erring version",
				Break: s.models.only("erring", func(m *delivered) { m.unjudged = true }), Catches: Rollback,
			},
			{
				Name: "load", Summary: "the model without users has some",
				Break: s.models.only("quiet", func(m *delivered) { m.users = usersOf(o.Strategy) }), Catches: Rollback,
			},
		},
	}, nil
}

// deploy brings all models with v1, and returns when Flagger has made them its
// own and the gateway answers.
func (s *progressiveStory) deploy(ctx context.Context, l *Session) error {
	objs, err := s.models.gateway(l, "", canaryHost)
	if err != nil {
		return err
	}
	for _, m := range s.models {
		more, err := m.objects(l, "v1")
		if err != nil {
			return err
		}
		objs = append(objs, more...)
	}
	if err := l.write(ctx, objs...); err != nil {
		return err
	}
	if err := s.models.initialized(ctx, l); err != nil {
		return err
	}
	for _, m := range s.models {
		if err := l.answers(ctx, l.to(m.name)); err != nil {
			return err
		}
		for _, u := range m.users {
			u.prober.start(ctx, l, u.request(l, m), progressiveRate)
		}
	}
	return nil
}

// deliver gives each model its v2, and returns when it has the first weight.
func (s *progressiveStory) deliver(ctx context.Context, l *Session) error {
	if err := s.models.renew(ctx, l); err != nil {
		return err
	}
	names := []string{"good"}
	if s.Strategy == strategyCanary {
		names = append(names, "erring", "slow", "quiet")
	}
	if err := s.models.reach(ctx, l, firstWeight, names...); err != nil {
		return err
	}
	for _, m := range s.models {
		if m.moved {
			return m.moveByHand(ctx, l)
		}
	}
	return nil
}

// goOn lets Flagger go on with all models, and returns when it has given v2 of
// the good one the second weight.
func (s *progressiveStory) goOn(ctx context.Context, l *Session) error {
	if err := s.models.release(ctx, l); err != nil {
		return err
	}
	return s.models.reach(ctx, l, secondWeight, "good")
}

// over lets Flagger go on with a model, and returns when it has ended with it.
func (s *progressiveStory) over(name string) Change {
	return func(ctx context.Context, l *Session) error {
		if err := s.models.release(ctx, l); err != nil {
			return err
		}
		return s.models.end(ctx, l, name)
	}
}
