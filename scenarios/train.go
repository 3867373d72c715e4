package scenarios

import (
	"context"
	"fmt"
	"maps"
	"strconv"
)

type trainStory struct {
	edits []edit // a control's, of the code
	first training
}

// train: a TrainJob trains a model and pushes it; another one with the same
// seed makes the same model; two workers share a search; and a bad model is
// stopped by the gate.
var train = Scenario{
	Name:    "train",
	Summary: "TrainJobs train a model; it is reproducible, and a bad one goes no further",
	Needs:   []string{"kubeflow"},
	New:     newTrain,
}

func newTrain(Options) (*Plan, error) {
	s := &trainStory{}
	return &Plan{
		Steps: []Step{
			{
				Name: "train", Change: s.begin, Check: s.recorded,
				Why: "A TrainJob says what to run; the runtime it names says where and how. " +
					"The model's files go to the lab's registry as an image.",
				WatchFor: "The accuracy on rows that training never saw, with its interval, and the digests of data and model.",
			},
			{
				Name: "train again", Check: s.reproduced,
				Why:      "The same code, data and seed must give the same model, byte for byte. Else no digest would mean anything.",
				WatchFor: "The model's digest is the first one's.",
			},
			{
				Name: "two workers", Long: true, Check: s.shared,
				Why: "numNodes has a job run on several pods, each of which knows its number. " +
					"Here they share the fits of a cross-validation.",
				WatchFor: "That two score each setting as one does; how long one worker takes for all fits, and how long the slower of two for half of them.",
			},
			{
				Name: "a worse model is stopped by the gate", Check: s.stopped,
				Why:      fmt.Sprintf("%.0f %% of the training labels are made wrong. The code compares the model with a threshold before it writes anything.", 100*noisyLabels),
				WatchFor: "The job fails with the model's numbers, and the registry has nothing under its name.",
			},
		},
		Controls: []Control{
			{
				Name: "swapped", Summary: "between the training and the push the model's file becomes another one",
				Break: set(&s.edits, []edit{{trainingFile, "push(a.out, a.push)", "(write(a.out, train(data.held_x, data.held_y), data, e), push(a.out, a.push))[1]"}}), Catches: Model,
			},
			{
				Name: "no-seed", Summary: "the training code leaves its seed to chance",
				Break: set(&s.edits, []edit{{trainingFile, "random_state=seed", "random_state=None"}}), Catches: Model,
			},
			{
				Name: "no-gate", Summary: "the training code lets every model pass",
				Break: set(&s.edits, []edit{{trainingFile, "return evaluation.accuracy >= threshold", "return True"}}), Catches: Gate,
			},
		},
	}, nil
}

func (s *trainStory) begin(ctx context.Context, l *Session) error {
	code, err := l.code(s.edits)
	if err != nil {
		return err
	}
	if err := l.apply(ctx, code); err != nil {
		return err
	}
	workers, completed, err := l.run(ctx, trainJob{"first", 1, trainArgs(0, "--push", repository(l)+":latest")})
	if err != nil {
		return err
	}
	if s.first = workers[0]; !completed || s.first["push"].Image == "" {
		return l.failedJob("first", "has not completed: "+s.first.says())
	}
	return nil
}

// recorded compares what the registry has under the model's name with what the
// trainer said of it.
func (s *trainStory) recorded(ctx context.Context, l *Session) (Evidence, error) {
	e := Evidence{Figures: s.first.figures()}
	e.Summary = fmt.Sprintf("%s; data %s, model %s", s.first.says(), shortDigest(s.first["prepare"].Data), shortDigest(s.first["write"].Model))
	held, err := l.pull(ctx, repository(l)+":latest")
	if err != nil {
		return e, err
	}
	if refuted := held.asRecorded(s.first); refuted != nil {
		return e, refuted
	}
	return e, nil
}

func (s *trainStory) reproduced(ctx context.Context, l *Session) (Evidence, error) {
	workers, completed, err := l.run(ctx, trainJob{"again", 1, trainArgs(0)})
	if err != nil {
		return Evidence{}, err
	}
	was, is := s.first["write"].Model, workers[0]["write"].Model
	e := Evidence{Summary: "model " + shortDigest(is) + ", twice"}
	if !completed || was != is {
		return e, refute(Model, "the same training gave model %s, and then %q", was, is)
	}
	return e, nil
}

// folds is how often each setting is tried: the most that the code takes.
const folds = 30

// shared has one worker and then two do the same cross-validation.
func (s *trainStory) shared(ctx context.Context, l *Session) (Evidence, error) {
	var slowest [3]float64
	var fits [3]int
	var scored [3]scores
	for n := 1; n <= 2; n++ {
		job := trainJob{"workers-" + strconv.Itoa(n), n, trainArgs(0, "--folds", strconv.Itoa(folds))}
		workers, completed, err := l.run(ctx, job)
		if err != nil {
			return Evidence{}, err
		}
		if !completed {
			return Evidence{}, l.failedJob(job.Name, "has not completed")
		}
		for _, w := range workers {
			slowest[n] = max(slowest[n], w["shard"].Seconds)
			fits[n] += w["shard"].Fits
		}
		scored[n] = scoresOf(workers)
	}
	e := Evidence{Figures: []Figure{{"one worker", slowest[1], "s"}, {"two workers", slowest[2], "s"}}}
	e.Summary = fmt.Sprintf("%d fits: one worker %.1f s, two %.1f s: %.1f times as fast, on what this machine has left",
		fits[1], slowest[1], slowest[2], slowest[1]/slowest[2])
	if fits[1] == 0 || fits[1] != fits[2] || !maps.Equal(scored[1], scored[2]) {
		return e, refute(Model, "two workers did %d fits and scored %v where one did %d and scored %v", fits[2], scored[2], fits[1], scored[1])
	}
	return e, nil
}

// stopped trains with wrong labels. The job must fail at the gate and push
// nothing.
func (s *trainStory) stopped(ctx context.Context, l *Session) (Evidence, error) {
	workers, completed, err := l.run(ctx, trainJob{"worse", 1, trainArgs(noisyLabels, "--push", repository(l)+":worse")})
	if err != nil {
		return Evidence{}, err
	}
	worse := workers[0]
	e := Evidence{Figures: worse.figures(), Summary: worse.says()}
	if worse["evaluate"].HeldOut == 0 {
		return e, l.failedJob("worse", "did not come to its evaluation")
	}
	if completed || worse["push"].Image != "" || worse["gate"].Passed {
		return e, refute(Gate, "a model of %s passed where %.2f is asked for", worse.says(), gateThreshold)
	}
	pushed, err := l.has(ctx, repository(l)+":worse")
	if err != nil {
		return e, err
	}
	if pushed {
		return e, refute(Gate, "the job failed at its gate, and the registry has its model")
	}
	e.Summary += fmt.Sprintf(": below %.2f, job failed, nothing pushed", gateThreshold)
	return e, nil
}
