package scenarios

import (
	"context"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"mllab.local/internal/split"
)

// The worked example of docs/architecture.md, so that it compiles and plans.

// swapStory is a model that is replaced at once.
type swapStory struct {
	Options
	model  *revisions
	prober prober
}

// swap: v1 serves all; then v2 does, and no request is lost.
var swap = Scenario{
	Name:    "swap",
	Summary: "a new version takes over at once",
	Needs:   []string{"knative"},
	New:     newSwap,
}

func newSwap(o Options) (*Plan, error) {
	model, err := loadRevisions("scenarios/canary/service.yaml")
	if err != nil {
		return nil, err
	}
	s := &swapStory{Options: o, model: model}
	return &Plan{
		Steps: []Step{
			{Name: "v1 serves", Change: s.serve("v1", 100), Check: s.only("v1")},
			{Name: "v2 serves", Change: s.serve("v2", 0, 100), Check: s.only("v2")},
			s.prober.lastStep("Nobody may notice that the model is another one."),
		},
		Controls: []Control{{
			Name: "late", Summary: "v1 keeps the traffic where v2 is claimed", After: "v2 serves", Catches: Shares,
			Break: func(ctx context.Context, l *Session) error { return s.model.traffic(ctx, l, 100, 0) },
		}},
	}, nil
}

func (s *swapStory) serve(version string, percents ...int64) Change {
	return func(ctx context.Context, l *Session) error {
		s.model.add(version, nil)
		if err := s.model.traffic(ctx, l, percents...); err != nil || s.prober.started() {
			return err
		}
		s.prober.start(ctx, l, l.to(s.model.name()), watchRate)
		return nil
	}
}

func (s *swapStory) only(version string) Check {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		return l.sample(ctx, l.to(s.model.name()), split.Claim{
			Legs: []split.Leg{{Name: version, Share: 1}}, N: s.Requests, Alpha: s.Alpha,
		})
	}
}

// The end of the worked example.

func TestTheWorkedExampleIsOne(t *testing.T) {
	p, err := swap.Plan(Options{})
	if err != nil || len(p.Steps) != 3 || len(p.Controls) != 1 || !p.has(p.Controls[0].After) {
		t.Fatalf("%+v, %v", p, err)
	}
	own, err := os.ReadFile("adding_test.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(own), "plans.\n\n")
	code, _, _ = strings.Cut(code, "\n// The end of")
	if _, err := parser.ParseFile(token.NewFileSet(), "", "package x\n"+code, 0); err != nil || len(code) < 1000 {
		t.Fatalf("%d bytes: %v", len(code), err)
	}
	if !strings.Contains(string(page), "```go\n"+code+"```\n") {
		t.Error("docs/architecture.md shows another worked example")
	}
}
