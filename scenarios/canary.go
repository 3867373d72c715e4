package scenarios

import (
	"context"
	"fmt"
	"strconv"

	"mllab.local/internal/fault"
)

// noticed is what the prober of a canary is for.
const noticed = "A delivery is only good if nobody noticed it. The watcher sent at its own pace through all of the changes, half of it over new connections, and never tried twice."

type canaryStory struct {
	Options
	model  *revisions
	prober prober
	env    map[string]map[string]string // of a version, besides TARGET
}

// canary: v1 serves all; v2 arrives at 0 % and is tried by its own address;
// v2 gets its shares one after the other, at last all; then v1 is back. When a
// step's claim fails, v1 gets everything back at once. A watcher runs through
// all of it.
var canary = Scenario{
	Name:    "canary",
	Summary: "a new version takes over step by step, and is taken back",
	Needs:   []string{"knative"},
	Options: []string{"shares", "weights", "rollout-duration", "guard"},
	New:     newCanary,
}

func newCanary(o Options) (*Plan, error) {
	model, err := loadRevisions("scenarios/canary/service.yaml")
	if err != nil {
		return nil, err
	}
	s := &canaryStory{Options: o, model: model}
	switch {
	case o.Guard:
		return newGuarded(s)
	case o.RolloutDuration != 0:
		return newRollout(s)
	}
	weights, err := s.weights()
	if err != nil {
		return nil, err
	}
	first := splitName(weights[0])
	return &Plan{Steps: s.steps(weights), Undo: s.undo(s.rollBack), Controls: []Control{
		{Name: "weights", Summary: "traffic is 50/50 where " + first + " is claimed", After: first, Break: s.shift(50, 50), Catches: Shares},
		{Name: "empty-leg", Summary: "v2 receives nothing where " + first + " is claimed", After: first, Break: s.shift(100, 0), Catches: Shares},
		{Name: "errors", Summary: fmt.Sprintf("v2 answers 500 to %d %% of the requests", failPercent), Break: s.failing, Catches: Answers},
	}}, nil
}

// splitName is that of the step in which v2 has this weight, such as "90/10".
func splitName(v2 int) string { return fmt.Sprintf("%d/%d", 100-v2, v2) }

// steps are the story in which v2 has these weights: two before them, three after.
func (s *canaryStory) steps(weights []int) []Step {
	steps := []Step{
		{
			Name: "v1 serves", Change: s.deploy("v1", 100), Check: s.share(0),
			Why:      "A Knative Service holds revisions of a model and a traffic block that says which of them answers. A watcher begins to send requests at a fixed rate, and goes on until the end.",
			WatchFor: "Every answer says v1.",
		},
		{
			Name: "v2 at 0 %, by its tag", Change: s.deploy("v2", 100, 0), Check: s.byTag,
			Why:      "The new version runs next to the old one without traffic. Its tag gives it an address of its own, so it can be tried before anybody depends on it.",
			WatchFor: "The tag's address answers v2, the Service's own still v1 only.",
		},
	}
	for _, v2 := range weights {
		steps = append(steps, Step{
			Name: splitName(v2), Change: s.shift(int64(100-v2), int64(v2)), Check: s.share(v2),
			Why:      fmt.Sprintf("The gateway draws a version for each request: %d %% of them shall reach v2.", v2),
			WatchFor: "Both counts lie in the interval that a right split leaves only once in " + s.oneIn() + " samples.",
		})
	}
	return append(steps,
		Step{
			Name: "v2 serves", Change: s.shift(0, 100), Check: s.share(100),
			Why:      "The new version has proven itself and takes everything. The old one stays, with its tag, at 0 %.",
			WatchFor: "Every answer says v2: with 100 % a single other one fails.",
		},
		Step{
			Name: "rollback to v1", Change: s.shift(100, 0), Check: s.share(0),
			Why:      "Going back is the same change as going on, because the old revision is still there.",
			WatchFor: "How many seconds it took to be active, and that every answer says v1.",
		},
		s.prober.lastStep(noticed))
}

// undo is the step that takes the traffic back when a claim has failed.
func (s *canaryStory) undo(rollBack Change) *Step {
	return &Step{
		Name: "automatic rollback to v1", Change: rollBack, Check: s.share(0),
		Why: "A claim failed, so the old version gets all the traffic back before anybody looks into it.",
	}
}

// weights are those of v2 before it has all: its first share and half, or those
// asked for. They are judged before anything is touched.
func (s *canaryStory) weights() ([]int, error) {
	var all []int
	if len(s.Weights) > 0 {
		last := 0
		for _, w := range s.Weights {
			if w <= last || w > 100 {
				return nil, fault.Usage("use rising whole percents of the new version, such as --weights 1,5,25,50,100", "%d %% cannot follow %d %%", w, last)
			}
			if last = w; w < 100 { // the story ends there by itself
				all = append(all, w)
			}
		}
		if len(all) == 0 {
			return nil, fault.Usage("use at least one share below 100, such as --weights 10,100", "--weights has no split to prove")
		}
	} else {
		first, err := percents(s.Shares)
		if err != nil {
			return nil, err
		}
		if len(first) != 2 {
			return nil, fault.Usage("use two shares, old version first, such as --shares 90/10", "a canary has two versions, and %d shares were given", len(first))
		}
		if first[0]+first[1] != 100 {
			return nil, fault.Usage("use shares that add up to 100, such as --shares 90/10", "the shares add up to %d %%, not 100 %%", first[0]+first[1])
		}
		if all = []int{int(first[1])}; all[0] != 50 {
			all = append(all, 50)
		}
	}
	for _, v2 := range all {
		if c := s.claim(v2); s.raise && c.Check() == nil {
			s.Requests = max(s.Requests, c.Needed())
		}
		if err := enough("canary", s.claim(v2)); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (s *canaryStory) failing(context.Context, *Session) error {
	s.env = map[string]map[string]string{"v2": {"FAIL_PERCENT": strconv.Itoa(failPercent)}}
	return nil
}

func (s *canaryStory) deploy(version string, percents ...int64) Change {
	return func(ctx context.Context, l *Session) error {
		s.model.add(version, s.env[version])
		return s.shift(percents...)(ctx, l)
	}
}

// shift sets the traffic. The prober sends from the first time on.
func (s *canaryStory) shift(percents ...int64) Change {
	return func(ctx context.Context, l *Session) error {
		s.prober.mark(fmt.Sprint("traffic ", percents))
		if err := s.model.traffic(ctx, l, percents...); err != nil || s.prober.started() {
			return err
		}
		s.prober.start(ctx, l, l.to(s.model.name()), watchRate)
		return nil
	}
}

// rollBack gives v1 all the traffic, when there is another version.
func (s *canaryStory) rollBack(ctx context.Context, l *Session) error {
	percents := []int64{100, 0}[:len(s.model.order)]
	return s.shift(percents...)(ctx, l)
}

// share checks that v2 answers this percent of the requests.
func (s *canaryStory) share(v2 int) Check {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		return l.sample(ctx, l.to(s.model.name()), s.claim(v2))
	}
}

// byTag tries v2 at its own address while the service's address still has
// only v1.
func (s *canaryStory) byTag(ctx context.Context, l *Session) (Evidence, error) {
	only := s.claim(100)
	only.N = tagRequests
	e, err := l.sample(ctx, l.to("v2-"+s.model.name()), only)
	if err != nil {
		return e, err
	}
	return s.share(0)(ctx, l)
}

// tagRequests are enough to see that the address works; what v2 does under its
// share is the next steps' claim.
const tagRequests = 20
