package scenarios

import (
	"context"
	"fmt"
	"strings"
	"time"

	"knative.dev/serving/pkg/apis/serving"
)

type kserveStory struct {
	Options
	models map[string]modelFiles // by version
	served inferenceService
	prober prober
}

// kserveCanary is the new version's first share, in percent.
const kserveCanary = 10

// kserve: an InferenceService serves a model by the standard protocols, its next
// version gets a tenth of the requests and then all, and one whose model is
// missing gets none.
var kserve = Scenario{
	Name:    "kserve",
	Summary: "an InferenceService: protocols, canary, a missing model, zero",
	Needs:   []string{"kubeflow"},
	New:     newKserve,
}

func newKserve(o Options) (*Plan, error) {
	s := &kserveStory{Options: o, models: map[string]modelFiles{}}
	if err := enough("kserve", s.claim(kserveCanary)); err != nil {
		return nil, err
	}
	return &Plan{
		Steps: []Step{
			{
				Name: "serve v1", Change: s.begin, Check: s.predicts("v1", true),
				Why: "An InferenceService names a model and its format; a ServingRuntime says how that is served. " +
					"KServe fetches the model before the server starts.",
				WatchFor: "Every held-out row, by KServe's v1 protocol and by the Open Inference Protocol: the trainer's own predictions.",
			},
			{
				Name: "canary 10 %", Change: s.shift(kserveCanary),
				Check: func(ctx context.Context, l *Session) (Evidence, error) {
					return l.sample(ctx, l.to(kserveHost), s.claim(kserveCanary))
				},
				Why: "canaryTrafficPercent keeps the old revision and gives the new one a share of the requests. " +
					"KServe writes it into the Knative Service's traffic.",
				WatchFor: "The share that v2 gets, judged like any split.",
			},
			{
				Name: "promote", Change: s.shift(0), Check: s.predicts("v2", false),
				Why:      "Without the percent the newest revision gets everything.",
				WatchFor: "All rows are answered by v2's model.",
			},
			{
				Name: "a missing model", Change: s.missing, Check: s.refused,
				Why: "v3 names a model that is not in the registry. " +
					"Its pod does not start, and Knative gives it no request.",
				WatchFor: "The reason, where a user of KServe looks for it. v2 answers everything.",
			},
			s.prober.lastStep("A new version, and one whose model is missing, may cost no request."),
			{
				Name: "to zero and back", Long: true, Check: s.wake,
				Change: func(ctx context.Context, l *Session) error {
					return s.served.apply(ctx, l, inference{Version: "v2", Model: s.models["v2"].image})
				},
				Why: "With minReplicas 0 a quiet model has no pod. " +
					"The next request starts one, which fetches the model first.",
				WatchFor: "How long that request takes, and that the model is the same.",
			},
		},
		Controls: []Control{
			{
				Name: "swapped", Summary: "somebody has the InferenceService serve another model under v1's name",
				After: "serve v1", Break: func(ctx context.Context, l *Session) error {
					return s.served.apply(ctx, l, inference{Version: "v1", Model: s.models["v2"].image, MinReplicas: 1})
				}, Catches: Model,
			},
			{Name: "half", Summary: "the canary gets half of the requests", After: "canary 10 %", Break: s.shift(50), Catches: Shares},
			{
				Name: "no-percent", Summary: "canaryTrafficPercent is not written: the new version gets everything",
				After: "canary 10 %", Break: s.shift(0), Catches: Shares,
			},
		},
	}, nil
}

// begin trains both versions' models, and serves the first.
func (s *kserveStory) begin(ctx context.Context, l *Session) error {
	code, err := l.code(nil)
	if err != nil {
		return err
	}
	if err := l.applyFile(ctx, "kserve/runtime.yaml", l, code); err != nil {
		return err
	}
	for version, c := range map[string]string{"v1": "1", "v2": "0.05"} {
		if s.models[version], err = l.train(ctx, version, "--c", c); err != nil {
			return err
		}
	}
	if err := s.served.apply(ctx, l, inference{Version: "v1", Model: s.models["v1"].image, MinReplicas: 1}); err != nil {
		return err
	}
	s.prober.start(ctx, l, l.to(kserveHost), watchRate)
	return nil
}

// shift returns the change that gives v2 a share of the requests; 0: all.
func (s *kserveStory) shift(percent int) Change {
	return func(ctx context.Context, l *Session) error {
		return s.served.apply(ctx, l, inference{Version: "v2", Model: s.models["v2"].image, MinReplicas: 1, Canary: percent})
	}
}

// predicts sends the held-out rows to the server's root, one by one, and, if
// asked, all at once by both standard protocols.
func (s *kserveStory) predicts(version string, protocols bool) Check {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		m := s.models[version]
		e, err := l.predicts(ctx, l.to(kserveHost), m.Model, m.held)
		if err != nil || !protocols {
			return e, err
		}
		by, err := l.byProtocols(ctx, m.Model, m.held)
		e.Summary += "; " + by
		return e, err
	}
}

// refusalBound is how long KServe may take to say why a model is not served.
const refusalBound = 60 * time.Second

// missing has the InferenceService name a model that nobody has pushed, and
// returns when KServe says so.
func (s *kserveStory) missing(ctx context.Context, l *Session) error {
	return s.served.write(ctx, l, inference{Version: "v3", Model: repository(l) + ":never-pushed", MinReplicas: 1})
}

// refused waits for KServe's reason, and has v2 answer everything.
func (s *kserveStory) refused(ctx context.Context, l *Session) (Evidence, error) {
	var said string
	err := l.within(ctx, refusalBound, Refusal, "KServe's reason", func() (string, error) {
		info, err := s.served.failure(ctx, l)
		if said = info; strings.Contains(said, "no model at") {
			return "", err
		}
		return fmt.Sprintf("it says %q", said), err
	})
	if err != nil {
		return Evidence{}, err
	}
	e, err := l.sample(ctx, l.to(kserveHost), s.claim(100))
	return e.after(fmt.Sprintf("KServe says %q", said)), err
}

// zeroBound is how long an InferenceService may keep a pod after its last
// request: the window, Knative's grace period of 30 s and its checks.
const zeroBound = 90 * time.Second

// wake waits until no pod is left, and then sends the rows.
func (s *kserveStory) wake(ctx context.Context, l *Session) (Evidence, error) {
	service, err := s.served.knative(ctx, l)
	if err != nil {
		return Evidence{}, err
	}
	// v3's pod has never been ready, and Knative tries on for ten minutes.
	slept, err := l.noPod(ctx, zeroBound, "model", func() ([]string, error) {
		return l.pods(ctx, map[string]string{serving.RevisionLabelKey: service.Status.LatestReadyRevisionName})
	})
	if err != nil {
		return Evidence{}, err
	}
	cold := l.Send(ctx, l.to(kserveHost))
	if !cold.OK() {
		return Evidence{}, refute(Answers, "the first request at zero: %s (request %s)", cold.Problem(), cold.ID)
	}
	m := s.models["v2"]
	e, err := l.predicts(ctx, l.to(kserveHost), m.Model, m.held)
	return e.after(fmt.Sprintf("no pod after %.0f s; the first request then took %.1f s", slept.Seconds(), cold.Latency.Seconds()), Figure{"cold", cold.Latency.Seconds(), "s"}), err
}
