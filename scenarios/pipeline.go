package scenarios

import (
	"context"
	"fmt"
	"slices"
)

type pipelineStory struct {
	edits  []edit     // a control's, of the code
	good   workflow   // the run that deployed
	model  modelFiles // of its image
	prober prober
}

// pipeline: a workflow trains a model, packs it into an image and deploys it;
// another one, whose model is worse, ends at the gate and changes nothing.
var pipeline = Scenario{
	Name:    "pipeline",
	Summary: "a pipeline brings a model from data to traffic; a bad one ends at the gate",
	Needs:   []string{"kubeflow", "knative"},
	New:     newPipeline,
}

func newPipeline(Options) (*Plan, error) {
	s := &pipelineStory{}
	return &Plan{
		Steps: []Step{
			{
				Name: "from data to traffic", Change: s.deploy, Check: s.serves,
				Why: "A workflow is a graph of steps, each in a pod of its own. " +
					"What one makes goes to the lab's registry; the model becomes an image, and an init container of the server.",
				WatchFor: "Every held-out row is sent through the gateway: the answers must be the trainer's own, from the model that the gate has judged.",
			},
			{
				Name: "a worse model ends at the gate", Check: s.stopped,
				Why:      fmt.Sprintf("The same pipeline with %.0f %% of the training labels wrong. Its gate fails, and no step after it is begun.", 100*noisyLabels),
				WatchFor: "Which steps ran. The model that serves is the first one still.",
			},
			s.prober.lastStep("A second pipeline, which ends at its gate, may cost no request."),
		},
		Controls: []Control{
			{
				Name: "swapped", Summary: "after the pipeline somebody deploys another model by hand",
				After: "from data to traffic", Break: s.swap, Catches: Model,
			},
			{
				Name: "repushed", Summary: "after the gate somebody pushes another model, and the code packs that one by its tag",
				Break: set(&s.edits, []edit{
					{"steps.py", "return 0 if passed", `keep(trainer.train(data.held_x, data.held_y), FITTED, "other"); return 0 if passed`},
					{"steps.py", `kept(FITTED, env["FITTED"])`, `kept(FITTED, tag("other"))`},
				}), Catches: Model,
			},
			{
				Name: "off-by-one", Summary: "the code that packs the model moves its predictions by one row, and verifies nothing",
				Break: set(&s.edits, []edit{
					{trainingFile, "model.predict(data.held_x).tolist()", "np.roll(model.predict(data.held_x), 1).tolist()"},
					{"steps.py", "return 5 if wrong or others else 0", "return 0"},
				}), Catches: Predictions,
			},
			{
				Name: "no-gate", Summary: "the code lets every model pass",
				Break: set(&s.edits, []edit{{trainingFile, "return evaluation.accuracy >= threshold", "return True"}}), Catches: Gate,
			},
		},
	}, nil
}

// deploy runs the pipeline, and has a watcher ask the model from then on.
func (s *pipelineStory) deploy(ctx context.Context, l *Session) error {
	code, err := l.code(s.edits, "scenarios/pipeline/steps.py")
	if err != nil {
		return err
	}
	if err := l.applyFile(ctx, "pipeline/rights.yaml", l, code); err != nil {
		return err
	}
	if s.good, err = s.run(ctx, l, "good", 1, 0); err != nil {
		return err
	}
	if s.good.phase != "Succeeded" {
		return fmt.Errorf("workflow good: %s", s.good.progress())
	}
	s.prober.start(ctx, l, l.to("model"), watchRate)
	return nil
}

// run runs the pipeline under a name, with a share of wrong labels.
func (s *pipelineStory) run(ctx context.Context, l *Session, name string, seed int, noise float64) (workflow, error) {
	return l.runWorkflow(ctx, name, "pipeline/workflow.yaml", map[string]any{
		"Run": name, "Python": l.Python, "Image": l.Image, "Host": l.host("model"), "Seed": seed, "Noise": noise, "Threshold": gateThreshold,
		"Store": l.Registry + "/" + l.Namespace + "/store", "Models": repository(l),
	})
}

// serves sends the held-out rows, and compares what answers with what the
// pipeline said.
func (s *pipelineStory) serves(ctx context.Context, l *Session) (e Evidence, err error) {
	if s.model, err = l.pull(ctx, s.good.outputs["image"]); err != nil {
		return e, err
	}
	if refuted := s.model.asRecorded(s.good.training); refuted != nil {
		return e, refuted
	}
	if judged := s.good.training["evaluate"].Model; judged != s.model.Model {
		return e, refute(Model, "the gate judged model %q, and the image has %s", judged, s.model.Model)
	}
	e, err = l.predicts(ctx, l.to("model"), s.model.Model, s.model.held)
	e.Summary = s.good.training.says() + "; " + s.good.says() + "; " + e.Summary
	for _, step := range pipelineSteps {
		e.Figures = append(e.Figures, Figure{step, s.good.seconds[step], "s"})
	}
	return e, err
}

// stopped runs the pipeline with wrong labels. It must end at its gate, and the
// model that serves must be the first one.
func (s *pipelineStory) stopped(ctx context.Context, l *Session) (Evidence, error) {
	worse, err := s.run(ctx, l, "worse", 1, noisyLabels)
	if err != nil {
		return Evidence{}, err
	}
	if worse.training["evaluate"].HeldOut == 0 {
		return Evidence{}, fmt.Errorf("workflow worse did not come to its evaluation: %s (%s)", worse.says(), worse.message)
	}
	var began []string
	for _, step := range pipelineSteps[slices.Index(pipelineSteps, "package"):] {
		if worse.outputs["image"] != "" || !slices.Contains([]string{"", "Omitted"}, worse.phases[step]) {
			began = append(began, step)
		}
	}
	if worse.phase != "Failed" || len(began) > 0 {
		e := Evidence{Summary: worse.training.says() + "; " + worse.says()}
		return e, refute(Gate, "a model of %s passed where %.2f is asked for: %s", worse.training.says(), gateThreshold, worse.says())
	}
	e, err := l.predicts(ctx, l.to("model"), s.model.Model, s.model.held)
	return e.after(worse.training.says() + "; " + worse.says()), err
}

// swap trains another model, and deploys it past the pipeline.
func (s *pipelineStory) swap(ctx context.Context, l *Session) error {
	other, err := s.run(ctx, l, "other", 2, 0)
	if err == nil && other.phase != "Succeeded" {
		err = fmt.Errorf("workflow other: %s", other.says())
	}
	return err
}
