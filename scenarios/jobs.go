package scenarios

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"mllab.local/internal/fault"
)

// Job is one run that is asked for.
type Job struct {
	Scenario Scenario
	Options  Options
	Control  string // empty: the scenario itself
}

// result is that of a run which has not been made yet.
func (j Job) result() Result { return Result{Scenario: j.Scenario.Name, Control: j.Control} }

// alone reports whether no other job may run in parallel with it.
func (j Job) alone() bool {
	return j.Scenario.Serial && (j.Control == "" || !j.Scenario.ParallelControls)
}

// RunAll runs every job, up to workers of them at a time; those that must not
// run in parallel come last, one by one. After its last step a run makes room for
// the next one and cleans up meanwhile: most of that is waiting. A job that fails
// does not stop the others, only the end of ctx or of the API server does. The last
// event of each run has its Result, also of a job that was not begun. The error is
// ^C's, or else the first one that kept something from being tested.
func RunAll(ctx context.Context, env *Env, jobs []Job, keep bool, workers int) error {
	ctx, end := env.Kube.UntilGone(ctx)
	defer end()
	cpu := newCPUMeter(env.CPU)
	_, err := runAll(ctx, jobs, workers, env.Events, func(j Job, stepsDone func()) (Result, error) {
		return j.run(ctx, env, cpu, keep, stepsDone)
	})
	return err
}

func runAll(ctx context.Context, jobs []Job, workers int, events func(Event), run func(j Job, stepsDone func()) (Result, error)) ([]Result, error) {
	results, errs := make([]Result, len(jobs)), make([]error, len(jobs))
	runThose := func(serial bool, workers int) {
		var running sync.WaitGroup
		defer running.Wait()
		room := make(chan struct{}, workers)
		for i, j := range jobs {
			if j.alone() != serial {
				continue
			}
			room <- struct{}{}
			stepsDone := sync.OnceFunc(func() { <-room })
			running.Go(func() {
				defer stepsDone()
				if ctx.Err() != nil {
					results[i], errs[i] = j.notBegun(context.Cause(ctx))
					if events != nil {
						events(results[i].Event())
					}
					return
				}
				results[i], errs[i] = run(j, stepsDone)
			})
		}
	}
	runThose(false, workers)
	runThose(true, 1)
	var first error
	for _, err := range errs {
		switch {
		case errors.Is(err, context.Canceled):
			return results, err
		case first == nil:
			first = err
		}
	}
	return results, first
}

// notBegun is the result of a job whose turn came after the end of the context.
func (j Job) notBegun(ended error) (Result, error) {
	r := j.result()
	err := fmt.Errorf("not begun: %w", ended)
	r.Error = err.Error()
	if errors.Is(ended, context.Canceled) {
		return r, err
	}
	return r, fault.CannotTest("", "%s: %w", j.Scenario.Name, err)
}
