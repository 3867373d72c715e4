// Package scenarios holds the stories of progressive delivery and proves them
// with requests.
//
// A scenario is steps. Each changes the world and waits until the change is in
// force, then checks a claim with one sample that is judged once. Its controls
// are ways to make the world wrong behind the scenario's back: a control passes
// when the scenario's own verdict then fails, for the stated reason.
package scenarios

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"mllab.local/internal/split"
	"mllab.local/scenarios/file"
)

// Scenario is one story: a value that says what it is about, and a function that
// plans a run of it.
type Scenario struct {
	Name             string
	Summary          string
	Needs            []string // addons that must be on the lab
	Options          []string // the Options that it accepts besides Requests, Alpha and Short: "shares", "weights", "rollout-duration", "guard", "samples", "strategy"
	SidecarInjection bool     // its pods get Istio's sidecar
	Serial           bool     // must not run in parallel: it measures time, or needs all of the node
	ParallelControls bool     // its controls may run in parallel all the same: what they break is no time
	Untrusted        bool     // a user wrote it: its objects are written with few rights, and its pods are held to Pod Security's baseline
	Baseline         bool     // a commit says what its pods are: they are held to Pod Security's baseline
	File             string   // of a user's scenario: its absolute path
	// New plans one run. All of the Options have a value by then; the error is
	// wrong use, and nothing was touched.
	New func(Options) (*Plan, error)
}

// Plan has the steps and controls of one run. Its steps share the run's state, so it serves one
// run only.
type Plan struct {
	// Admitted asks the cluster whether it would take the run's objects, before
	// anything is made; nil: they are mllab's own, and it does.
	Admitted func(ctx context.Context, l *Session) error
	Steps    []Step
	Undo     *Step // what is done, and must hold, when the claim of a step fails
	// SeveralModels says that requests ask models that have nothing to do with each
	// other, and so may have versions of the same name: events say which was asked.
	SeveralModels bool
	Controls      []Control
}

// Change changes the world, and Check looks at it.
type (
	Change = func(context.Context, *Session) error
	Check  = func(context.Context, *Session) (Evidence, error)
)

// Step is one change of the world and the claim that must hold after it.
type Step struct {
	Name string
	// Why says in a few sentences what the step is about, and WatchFor what to look
	// at in its evidence: for a person who learns the pattern.
	Why, WatchFor string
	// Long steps are left out of a short run, unless it is of a control that comes after this one.
	Long bool
	// Change brings the world into the step's state and returns when that is in
	// force, however long it takes. It is the barrier before the sample.
	Change Change
	// Check observes once. It returns a *ClaimError when a claim does not hold, and
	// evidence in either case.
	Check Check
}

// Control is a negative control: it breaks the world on purpose.
type Control struct {
	Name    string
	Summary string
	// After names the step whose change is followed by Break; empty means
	// before the first step.
	After   string
	Break   Change
	Catches Claim // what must then be refuted
}

// set is a break that only gives a part of the story's state another value.
func set[T any](at *T, to T) Change {
	return func(context.Context, *Session) error { *at = to; return nil }
}

// Options of one run; New fills in what is zero.
type Options struct {
	Shares          []float64     // of the canary's first split, old version first
	Weights         []int         // of the canary's new version, step by step, in percent; nil: by Shares
	RolloutDuration time.Duration // of the canary: Knative itself moves the traffic over this time
	Guard           bool          // of the canary: a judge looks at each answer, and may end a sample
	Samples         int           // cold starts
	Strategy        string        // of Flagger, one of Strategies
	Requests        int           // in one sample
	Alpha           float64       // how often a right split may be refused, for each sample
	Short           bool          // leave out the long steps

	raise bool // Requests is a default: a small share may take more
}

// oneIn says among how many samples a right split leaves its interval once.
func (o Options) oneIn() string { return strconv.FormatFloat(1/o.Alpha, 'f', 0, 64) }

// MaxRequests bounds one sample: about ten minutes on two cores.
const MaxRequests = file.MaxRequests

// Defaults of Options.
const (
	DefaultRequests = 1000
	ShortRequests   = 300 // of a short run
	DefaultAlpha    = 1e-6
	DefaultShares   = "90/10"
	DefaultSamples  = 3
)

// Plan plans one run. Options that are zero get their defaults, and a short run
// has no long steps.
func (s Scenario) Plan(o Options) (*Plan, error) { return s.plan(o, "") }

// plan is Plan of a run of a control, whose own step stays in a short run.
func (s Scenario) plan(o Options, control string) (*Plan, error) {
	p, err := s.New(o.withDefaults())
	if err == nil && o.Short {
		p.Steps = slices.DeleteFunc(p.Steps, func(step Step) bool {
			return step.Long && !slices.ContainsFunc(p.Controls, func(c Control) bool { return c.Name == control && c.After == step.Name })
		})
	}
	return p, err
}

func (o Options) withDefaults() Options {
	if len(o.Shares) == 0 {
		o.Shares, _ = split.ParseShares(DefaultShares) // they are right: a test looks
	}
	if o.Requests == 0 {
		o.Requests, o.raise = DefaultRequests, true
		if o.Short {
			o.Requests = ShortRequests
		}
	}
	if o.Alpha == 0 {
		o.Alpha = DefaultAlpha
	}
	o.Strategy = cmp.Or(o.Strategy, strategyCanary)
	if o.Samples == 0 {
		o.Samples = DefaultSamples
		if o.Short {
			o.Samples = 1
		}
	}
	return o
}

// control returns the named control, or nil for the empty name.
func (p *Plan) control(name string) (*Control, error) {
	if name == "" {
		return nil, nil
	}
	i := slices.IndexFunc(p.Controls, func(c Control) bool { return c.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("no control is called %q", name)
	}
	return &p.Controls[i], nil
}
