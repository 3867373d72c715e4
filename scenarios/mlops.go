package scenarios

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"sigs.k8s.io/yaml"

	"mllab.local/internal/delivery"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

type mlopsStory struct {
	Options
	notebooks
	serving served // has all of the traffic, or most of it
	canary  served
	verdict *ClaimError // on the canary
}

// modelBound is how long after a commit was begun it may take to be active:
// a model's image has to be fetched, and its server to start.
const modelBound = 2 * time.Minute

// canaryPercent is a new model's share of the traffic.
const canaryPercent = 10

// The notebooks of the story, as changes of the first one.
var (
	anotherC     = edit{notebookFile, "c = 1.0", "c = 10.0"}
	wrongLabels  = edit{notebookFile, "label_noise = 0.0", fmt.Sprint("label_noise = ", noisyLabels)}
	withoutScale = afterWrite("model.json", "it['mean'], it['scale'] = [0.0] * len(it['mean']), [1.0] * len(it['scale'])", "; digest = trainer.sha256(file.read_bytes())")
)

// What controls change in every notebook.
var (
	swappedModel = edit{notebookFile, `image = trainer.push(`, `trainer.write(folder, trainer.train(data.held_x, data.held_y), data, e)\nimage = trainer.push(`}
	movedRows    = afterWrite("heldout.json", "it['predictions'] = it['predictions'][-1:] + it['predictions'][:-1]", "")
	noGate       = edit{notebookFile, "assert trainer.gate(e, threshold)", "assert True"}
)

// mlops: a pushed notebook is trained and deployed; a changed one gets a tenth,
// and then all; a worse one ends at its gate; one that is wrong online is noticed
// at a tenth, and taken back.
var mlops = Scenario{
	Name:             "mlops",
	Summary:          "a pushed notebook becomes a model in traffic; a bad one is taken back",
	Needs:            []string{"kubeflow", "git"}, // and so knative and flux, which these need
	Baseline:         true,
	Serial:           true,
	ParallelControls: true,
	New:              newMlops,
}

func newMlops(o Options) (*Plan, error) {
	s := &mlopsStory{Options: o, notebooks: notebooks{state: mlopsState{Percent: canaryPercent}}}
	s.followed = follow(seldom)
	s.bound = modelBound
	if err := enough("mlops", s.claimFor("model-old", "model-new")); err != nil {
		return nil, err
	}
	return &Plan{
		Steps: []Step{
			s.proven(Step{
				Name: "a pushed notebook becomes a model that serves", Change: s.first, Check: s.serves,
				Why:      "The notebook is in Git, and so is a Job that Flux recreates when the notebook is another one. Its runner compiles the notebook, has Argo run it, and commits what came of it; Flux deploys that commit.",
				WatchFor: "Every held-out row is sent through the gateway: the answers must be the trainer's own, from the model whose digest is on the card in Git. From here on a watcher sends " + fmt.Sprint(watchRate) + " requests a second.",
			}),
			s.proven(Step{
				Name: "a changed notebook gets a tenth", Change: s.deliver("c = 10", &s.canary, anotherC), Check: s.tenth,
				Why:      fmt.Sprintf("The notebook's regularization is changed. The same way brings the new model next to the old one, and the runner's commit gives it %d %%.", canaryPercent),
				WatchFor: "Both counts lie in the interval that a right split leaves only once in " + o.oneIn() + " samples, and each model answers as its own trainer said.",
			}),
			s.proven(Step{
				Name: "the new model is promoted", Change: s.promote, Check: s.serves,
				Why:      "It has proven itself, so one more commit gives it everything.",
				WatchFor: "Every answer is the new model's.",
			}),
			s.proven(Step{
				Name: "a worse model ends at its gate", Change: s.worse, Check: s.serves,
				Why:      fmt.Sprintf("%.0f %% of the training labels are wrong. The notebook's own gate fails, so the Workflow does, and the Job with the gate's words.", 100*noisyLabels),
				WatchFor: "There is no commit of the runner, and the promoted model serves as before.",
			}),
			s.step(Step{
				Name:   "a model that is wrong online is noticed at a tenth",
				Change: s.deliver("c = 10, and a smaller file", &s.canary, anotherC, withoutScale), Check: s.noticed,
				Why:      "The notebook forgets the scaler when it packs the model. It was judged with it, so it passes the gate; only its answers show what is wrong.",
				WatchFor: "The verdict on this tenth must fail, because of its predictions. The commit's proof says FAIL.",
			}, s.proveRefuted(func(Evidence) error { return s.verdict })),
			s.proven(Step{
				Name: "git revert takes it back", Change: s.undeliver, Check: s.serves,
				Why:      "The runner's commit is taken back by one more, and with it the model, its card and its share.",
				WatchFor: "Every answer is the old model's again.",
			}),
			s.prober.lastStep("All of this went by while the watcher sent."),
		},
		Controls: []Control{
			{Name: "swapped", Summary: "between its training and its packing the model's file becomes another one", Break: set(&s.broken, []edit{swappedModel}), Catches: Model},
			{Name: "off-by-one", Summary: "the notebook moves the predictions that it hands on by one row", Break: set(&s.broken, []edit{movedRows}), Catches: Predictions},
			{
				Name: "wrong-share", Summary: fmt.Sprintf("the runner gives a new model %d %% where %d %% is claimed", 5*canaryPercent, canaryPercent),
				Break: set(&s.state.Percent, 5*canaryPercent), Catches: Shares,
			},
			{Name: "no-gate", Summary: "the notebook lets every model pass", Break: set(&s.broken, []edit{noGate}), Catches: Gate},
		},
	}, nil
}

// claimFor is that the first revision gets what the canary leaves.
func (s *mlopsStory) claimFor(serving, canary string) split.Claim {
	const share = canaryPercent / 100.0
	return split.Claim{N: s.Requests, Alpha: s.Alpha, Legs: []split.Leg{{Name: serving, Share: 1 - share}, {Name: canary, Share: share}}}
}

// first begins with a folder that has no notebook, and pushes one.
func (s *mlopsStory) first(ctx context.Context, l *Session) error {
	s.state.Namespace, s.state.Folder = l.Namespace, "scenarios/"+l.Namespace
	s.state.Image, s.state.Python, s.state.Runner, s.state.Store = l.Image, l.Python, l.Runner, repository(l)
	s.tree = func() (map[string][]byte, error) {
		files, err := fillAll("mlops/tree", s.state)
		delete(files, "training/"+notebookFile)
		return files, err
	}
	if err := s.begin(ctx, l, "overlays/lab", "an empty place for a model"); err != nil {
		return err
	}
	if err := l.giveToken(ctx); err != nil {
		return err
	}
	if err := l.applyFile(ctx, "mlops/training.yaml", s.state); err != nil {
		return err
	}
	s.state.Training = true
	if err := s.deliver("the notebook", &s.serving)(ctx, l); err != nil {
		return err
	}
	s.prober.start(ctx, l, l.to(serviceName), watchRate)
	return nil
}

// serves sends every held-out row: each must be answered by the model that
// serves, as its trainer said.
func (s *mlopsStory) serves(ctx context.Context, l *Session) (Evidence, error) {
	if err := s.serving.asOnCard(); err != nil {
		return Evidence{}, err
	}
	e, err := l.predicts(ctx, l.to(serviceName), s.serving.Model, s.serving.held)
	e.Summary = s.serving.says() + "; " + e.Summary
	s.timed(&e)
	return e, err
}

// tenth sends held-out rows again and again: a tenth must be answered by the
// canary, and each by its own trainer's word.
func (s *mlopsStory) tenth(ctx context.Context, l *Session) (Evidence, error) {
	if err := s.canary.asOnCard(); err != nil {
		return Evidence{}, err
	}
	if s.canary.Rows != s.serving.Rows && !slices.EqualFunc(s.canary.held.Instances, s.serving.held.Instances, slices.Equal) {
		return Evidence{}, errors.New("the two models were not evaluated with the same rows")
	}
	r, by := l.to(serviceName), l.inRows(s.canary.held)
	claim := s.claimFor(s.serving.revision, s.canary.revision)
	l.claims("target", r, claim)
	answers, e, err := l.served(ctx, by, r, s.Requests)
	if err != nil {
		return e, err
	}
	if e, err = e.judge(claim, e.Tally.Counts, Shares); e.Verdict == nil {
		return e, err
	}
	e.Summary = fmt.Sprintf("%s next to %s; %s", s.canary.says(), s.serving.revision, e.Summary)
	s.timed(&e)
	if err != nil {
		return e, err
	}
	for _, m := range []served{s.serving, s.canary} {
		own := slices.DeleteFunc(slices.Clone(answers), func(a probe.Answer) bool { return a.Target != m.revision })
		says, err := compare(own, by.turn, m.Model, m.held)
		e.Summary += "; " + says
		if err != nil {
			return e, err
		}
	}
	return e, nil
}

func (s *mlopsStory) promote(ctx context.Context, l *Session) error {
	files, err := s.repo.Files(s.newest.commit, s.folder)
	if err != nil {
		return err
	}
	files = maps.Clone(files)
	if files[trafficFile], err = yaml.Marshal(delivery.Traffic(delivery.Leg{RevisionName: s.canary.revision, Percent: 100})); err != nil {
		return err
	}
	if err := s.commit(ctx, l, "all to "+s.canary.revision, files); err != nil {
		return err
	}
	s.serving = s.canary
	return s.ready(ctx, l)
}

// worse pushes a notebook whose model is worse than its gate asks for.
func (s *mlopsStory) worse(ctx context.Context, l *Session) error {
	if err := s.train(ctx, l, "c = 10, with wrong labels", anotherC, wrongLabels); err != nil {
		return err
	}
	switch steps := s.trained.steps; {
	case s.trained.commit != "":
		return refute(Gate, "a model with wrong labels passed, and the runner made commit %.7s of it", s.trained.commit)
	case steps.phases["evaluate"] != "Failed" || steps.phases["train"] != "Succeeded":
		return fmt.Errorf("the notebook did not come to its gate: %s (%s)", s.trained.refusal, steps.says())
	}
	if err := s.applied(ctx, l, stepBound); err != nil {
		return err
	}
	return s.settled(ctx, l, time.Now())
}

// noticed holds if the verdict on the canary fails for what is wrong with it.
func (s *mlopsStory) noticed(ctx context.Context, l *Session) (Evidence, error) {
	e, err := s.tenth(ctx, l)
	switch {
	case err == nil:
		return e, refute(Predictions, "a model without its scaler was not noticed at %d %%: %s", canaryPercent, e.Summary)
	case !errors.As(err, &s.verdict) || s.verdict.Claim != Predictions:
		return e, err
	}
	e.Summary = "noticed: " + s.verdict.Reasons[0] + "; " + e.Summary
	return e, nil
}

func (s *mlopsStory) undeliver(ctx context.Context, l *Session) error {
	return s.takeBack(ctx, l, s.given)
}
