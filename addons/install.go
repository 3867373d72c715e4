package addons

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/kube"
	"mllab.local/internal/report"
)

// Result is the result of installing one addon.
type Result struct {
	Name          string        `json:"name"`
	Changes       []kube.Change `json:"changes,omitempty"`
	Seconds       float64       `json:"seconds"`       // from apply to ready
	VerifySeconds float64       `json:"verifySeconds"` // its real use
	Err           error         `json:"-"`
}

// Install brings the addons of list onto the cluster, each as soon as those
// before it allow. Nothing that has pods is applied before pods returns: until
// then the node may be in the making. The first failure stops the others; its
// error names the addon. There is one Result per addon, in list's order, on
// failure too.
func Install(ctx context.Context, env Env, pods Use, list []Rendered, r report.Reporter) ([]Result, error) {
	return install(ctx, env, list, r, env.actions(pods))
}

func (env Env) actions(pods Use) actions {
	return actions{env.Kube.Apply, env.Kube.WaitApplied, pods, env.Kube.Progress}
}

type actions struct {
	apply func(ctx context.Context, objs []*unstructured.Unstructured) ([]kube.Change, error)
	wait  func(ctx context.Context, objs []*unstructured.Unstructured, reason func(string)) error
	pods  Use // returns when the node runs pods
	// progress returns a text that changes while the cluster comes further.
	progress func(ctx context.Context) (string, error)
}

// job is the installation of one addon. Each channel is closed when its event has
// happened.
type job struct {
	addon            Rendered
	serves, verified chan struct{}
	result           *Result
}

// split returns the objects that need no node, those that have pods, and of
// these the one that starts last.
func (j *job) split() (first, pods, last []*unstructured.Unstructured) {
	for _, o := range j.addon.Objects {
		switch {
		case !kube.HasPods(o):
			first = append(first, o)
		case o.GetName() == j.addon.Last:
			last = append(last, o)
		default:
			pods = append(pods, o)
		}
	}
	return first, pods, last
}

func install(ctx context.Context, env Env, list []Rendered, r report.Reporter, do actions) ([]Result, error) {
	results := make([]Result, len(list))
	jobs := map[string]*job{}
	for i, a := range list {
		results[i].Name = a.Name
		jobs[a.Name] = &job{addon: a, serves: make(chan struct{}), verified: make(chan struct{}), result: &results[i]}
	}
	for _, a := range list {
		for _, need := range slices.Concat(a.Needs, a.StartAfter) {
			if jobs[need] == nil {
				return results, fmt.Errorf("%s: needs %s, which is not among the addons to install", a.Name, need)
			}
		}
	}
	running, gctx := errgroup.WithContext(ctx)
	for _, j := range jobs {
		running.Go(func() error {
			j.result.Err = j.run(gctx, env, jobs, r, do)
			return j.result.Err
		})
	}
	err := running.Wait()
	if ctx.Err() != nil { // it ended all at once: the first of them has the reason, and others only waited for it
		for _, r := range results {
			if r.Err != nil {
				return results, r.Err
			}
		}
	}
	return results, err
}

func (j *job) run(ctx context.Context, env Env, jobs map[string]*job, r report.Reporter, do actions) (err error) {
	a := j.addon
	task := report.Discard().Step("") // until it starts
	defer func() {
		if err == nil {
			task.Done(Summary(j.result.Changes))
			return
		}
		// If another addon failed, report that one and not the cancellation.
		if cause := context.Cause(ctx); ctx.Err() != nil && !errors.Is(cause, ctx.Err()) {
			err = fmt.Errorf("stopped: %w", cause)
		}
		err = fmt.Errorf("%s: %w", a.Name, err)
		task.Fail(err)
	}()

	for _, name := range a.Needs {
		if err := await(ctx, jobs[name].verified); err != nil {
			return fmt.Errorf("waiting for %s: %w", name, err)
		}
	}
	for _, name := range a.StartAfter {
		if err := await(ctx, jobs[name].serves); err != nil {
			return fmt.Errorf("waiting for %s: %w", name, err)
		}
	}

	task = r.Step(a.Name)
	start := time.Now()
	first, pods, last := j.split()
	apply := func(objs []*unstructured.Unstructured) error {
		if len(objs) == 0 {
			return nil
		}
		task.Update(fmt.Sprintf("applying %d objects", len(objs)))
		changes, err := do.apply(ctx, objs)
		j.result.Changes = append(j.result.Changes, changes...)
		if err != nil {
			return fmt.Errorf("applying: %w", err)
		}
		return nil
	}
	if err := apply(first); err != nil {
		return err
	}
	if a.Available == nil {
		close(j.serves)
	}
	if a.PostApply != nil {
		if err := patiently(ctx, do.progress, task.Update, func() error { return a.PostApply(ctx, env, task.Update) }); err != nil {
			return fmt.Errorf("settling: %w", err)
		}
	}
	if err := do.pods(ctx, env, task.Update); err != nil {
		return err
	}
	if err := apply(pods); err != nil {
		return err
	}
	both, bctx := errgroup.WithContext(ctx)
	if a.Available != nil {
		both.Go(func() error {
			if err := patiently(bctx, do.progress, func(string) {}, func() error { return a.Available(bctx, env, func(string) {}) }); err != nil {
				return fmt.Errorf("waiting until it serves: %w", err)
			}
			close(j.serves)
			return nil
		})
	}
	both.Go(func() error {
		wait := func(objs []*unstructured.Unstructured) error {
			if err := do.wait(bctx, objs, task.Update); err != nil {
				return fmt.Errorf("waiting: %w", err)
			}
			return nil
		}
		if len(last) > 0 {
			if err := wait(pods); err != nil {
				return err
			}
			if err := apply(last); err != nil {
				return err
			}
		}
		return wait(a.Objects)
	})
	if err := both.Wait(); err != nil {
		return err
	}
	for _, name := range a.StartAfter {
		task.Update("ready, waiting for " + name)
		if err := await(ctx, jobs[name].verified); err != nil {
			return fmt.Errorf("waiting for %s: %w", name, err)
		}
	}
	j.result.Seconds = time.Since(start).Seconds()
	task.Update("ready, verifying it by use")
	start = time.Now()
	err = patiently(ctx, do.progress, task.Update, func() error { return a.Verify(ctx, env, task.Update) })
	j.result.VerifySeconds = time.Since(start).Seconds()
	if err != nil {
		return fmt.Errorf("verifying: %w", err)
	}
	close(j.verified)
	return nil
}

func await(ctx context.Context, event <-chan struct{}) error {
	select {
	case <-event:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Summary counts changes: "unchanged", or "61 created, 1 unchanged".
func Summary(changes []kube.Change) string {
	count := map[string]int{}
	for _, c := range changes {
		count[c.Action]++
	}
	if count["unchanged"] == len(changes) {
		return "unchanged"
	}
	var parts []string
	for _, action := range []string{"created", "configured", "unchanged"} {
		if n := count[action]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, action))
		}
	}
	return strings.Join(parts, ", ")
}
