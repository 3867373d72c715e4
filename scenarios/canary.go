package scenarios

import (
	"context"
	"fmt"

	"mllab.local/internal/fault"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

// watchRate is how many requests per second a watcher sends: with 95 % it sees
// an outage of 60 ms.
const watchRate = 50

// canaryStory is a new version that takes over step by step on a Knative
// Service's traffic split, and is taken back.
type canaryStory struct {
	Options
	service *service
	watcher *probe.Watcher
	faults  map[string]map[string]string // version -> environment that makes it fail
}

// canary: v1 serves all; v2 arrives at 0 % and is tried by its own address;
// v2 gets the first share, half, all; then v1 is back. A watcher runs through
// all of it.
func canary(o Options) (Scenario, error) {
	first, err := percents(o.Shares)
	if err != nil {
		return Scenario{}, err
	}
	if len(first) != 2 {
		return Scenario{}, fault.Usage("use two shares, old version first, such as --shares 90/10", "a canary has two versions, and %d shares were given", len(first))
	}
	s := &canaryStory{Options: o}
	// The flags are judged before anything is touched.
	if err := s.claim(first).Check(); err != nil {
		return Scenario{}, fault.Usage("see `mllab scenario canary --help`", "canary: %w", err)
	}
	for _, percents := range [][]int64{first, {50, 50}} {
		if need := s.claim(percents).Needed(); o.Requests < need {
			return Scenario{}, fault.Usage(fmt.Sprintf("use --requests %d or more", need),
				"%d requests are too few for %s: a version that gets nothing would pass", o.Requests, splitName(percents))
		}
	}
	if s.service, err = loadService("scenarios/canary/service.yaml"); err != nil {
		return Scenario{}, err
	}
	s.service.version, s.service.order = "v1", []string{"v1"}
	firstName := splitName(first)
	return Scenario{
		Name:    "canary",
		Summary: "a new version takes over step by step, and is taken back",
		Needs:   []string{"knative"},
		Steps: []Step{
			{"v1 serves", s.deploy("v1", 100), s.split(100)},
			{"v2 at 0 %, by its tag", s.deploy("v2", 100, 0), s.byTag},
			{firstName, s.shift(first...), s.split(first...)},
			{"50/50", s.shift(50, 50), s.split(50, 50)},
			{"v2 serves", s.shift(0, 100), s.split(0, 100)},
			{"rollback to v1", s.shift(100, 0), s.split(100, 0)},
			{"no request lost", nil, s.lossless},
		},
		Controls: []Control{
			{
				Name: "weights", Summary: "traffic is 50/50 where " + firstName + " is claimed",
				After: firstName, Break: s.shift(50, 50), Catches: Shares,
			},
			{
				Name: "empty-leg", Summary: "v2 receives nothing where " + firstName + " is claimed",
				After: firstName, Break: s.shift(100, 0), Catches: Shares,
			},
			{
				Name: "errors", Summary: "v2 answers 500 one time in twenty",
				Break: func(context.Context, *Lab) error {
					s.faults = map[string]map[string]string{"v2": {"FAIL_PERCENT": "5"}}
					return nil
				}, Catches: Answers,
			},
		},
	}, nil
}

func splitName(percents []int64) string { return fmt.Sprintf("%d/%d", percents[0], percents[1]) }

// deploy adds a version and gives it its first percentage.
func (s *canaryStory) deploy(version string, percents ...int64) func(context.Context, *Lab) error {
	return func(ctx context.Context, l *Lab) error {
		s.service.image, s.service.version = l.Image, version
		if len(percents) > len(s.service.order) {
			s.service.order = append(s.service.order, version)
		}
		s.service.env = s.faults[version]
		return s.shift(percents...)(ctx, l)
	}
}

// shift sets the traffic and returns when Knative has seen every gateway
// answer by it (a Service is Ready only then).
func (s *canaryStory) shift(percents ...int64) func(context.Context, *Lab) error {
	return func(ctx context.Context, l *Lab) error {
		obj, err := s.service.object(percents)
		if err != nil {
			return err
		}
		if s.watcher != nil {
			s.watcher.Mark(fmt.Sprint("traffic ", percents))
		}
		if err := l.apply(ctx, obj); err != nil {
			return err
		}
		if s.watcher == nil {
			s.watcher = l.watch(l.host(s.service.base.Name), watchRate)
		}
		return nil
	}
}

func (s *canaryStory) claim(percents []int64) split.Claim {
	c := split.Claim{N: s.Requests, Alpha: s.Alpha}
	for i, version := range []string{"v1", "v2"} {
		share := 0.0
		if i < len(percents) {
			share = float64(percents[i]) / 100
		}
		c.Legs = append(c.Legs, split.Leg{Name: version, Share: share})
	}
	return c
}

func (s *canaryStory) split(percents ...int64) func(context.Context, *Lab) (Evidence, error) {
	return func(ctx context.Context, l *Lab) (Evidence, error) {
		return l.sample(ctx, l.host(s.service.base.Name), s.claim(percents))
	}
}

// byTag tries v2 at its own address while the service's address still has
// only v1.
func (s *canaryStory) byTag(ctx context.Context, l *Lab) (Evidence, error) {
	only := split.Claim{Legs: []split.Leg{{Name: "v1", Share: 0}, {Name: "v2", Share: 1}}, N: tagRequests, Alpha: s.Alpha}
	e, err := l.sample(ctx, l.host("v2-"+s.service.base.Name), only)
	if err != nil {
		return e, err
	}
	return s.split(100, 0)(ctx, l)
}

// tagRequests are enough to see that the address works; what v2 does under its
// share is the next steps' claim.
const tagRequests = 20

func (s *canaryStory) lossless(_ context.Context, l *Lab) (Evidence, error) {
	return l.watched(s.watcher, watchRate)
}
