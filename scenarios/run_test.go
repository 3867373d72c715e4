package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/proxy"
)

// several are jobs with these names; one in capitals must be alone.
func several(names ...string) []Job {
	var jobs []Job
	for _, n := range names {
		jobs = append(jobs, Job{Scenario: Scenario{Name: n, Serial: strings.ToUpper(n) == n}})
	}
	return jobs
}

func TestRunsGoBesideEachOtherUnlessOneMustBeAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		running, most := []string{}, 0
		var order []string
		results, err := runAll(t.Context(), several("a", "B", "c", "d", "E", "f"), 3, nil, func(j Job, _ func()) (Result, error) {
			name := j.Scenario.Name
			mu.Lock()
			running, order = append(running, name), append(order, name)
			most = max(most, len(running))
			if j.Scenario.Serial && len(running) > 1 {
				t.Errorf("in parallel: %v", running)
			}
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			defer mu.Unlock()
			running = slices.DeleteFunc(running, func(r string) bool { return r == name })
			return Result{Scenario: name, Pass: true}, nil
		})
		if err != nil || most != 3 {
			t.Errorf("%v, at most %d at a time", err, most)
		}
		if tail := order[4:]; !slices.Equal(tail, []string{"B", "E"}) {
			t.Errorf("begun in the order %v", order)
		}
		var got []string
		for _, r := range results {
			got = append(got, r.Scenario)
		}
		if want := []string{"a", "B", "c", "d", "E", "f"}; !slices.Equal(got, want) {
			t.Errorf("results of %v, want %v", got, want)
		}
	})
}

func TestAControlIsAloneUnlessItsScenarioSaysOtherwise(t *testing.T) {
	for _, c := range []struct {
		job  Job
		want bool
	}{
		{Job{}, false},
		{Job{Scenario: Scenario{Serial: true}}, true},
		{Job{Scenario: Scenario{Serial: true}, Control: "a"}, true},
		{Job{Scenario: Scenario{Serial: true, ParallelControls: true}}, true},
		{Job{Scenario: Scenario{Serial: true, ParallelControls: true}, Control: "a"}, false},
	} {
		if got := c.job.alone(); got != c.want {
			t.Errorf("%+v is alone: %v", c.job, got)
		}
	}
}

func TestTheNextRunBeginsWhileOneCleansUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which ends a test in which all wait for each other
		var begun, cleaned = map[string]chan struct{}{}, map[string]chan struct{}{}
		for _, name := range []string{"a", "b", "C", "D"} {
			begun[name], cleaned[name] = make(chan struct{}), make(chan struct{})
		}
		next := map[string]string{"a": "b", "C": "D"}
		results, err := runAll(t.Context(), several("a", "b", "C", "D"), 1, nil, func(j Job, stepsDone func()) (Result, error) {
			name := j.Scenario.Name
			close(begun[name])
			for _, other := range []string{"a", "b"} {
				select {
				case <-cleaned[other]:
				default:
					if j.Scenario.Serial {
						t.Errorf("%s has begun before %s had cleaned up", name, other)
					}
				}
			}
			stepsDone()
			if other := begun[next[name]]; other != nil {
				<-other // the clean-up takes until the next one has begun
			}
			close(cleaned[name])
			return Result{Scenario: name, Pass: true}, nil
		})
		if err != nil || len(results) != 4 {
			t.Errorf("%d results, %v", len(results), err)
		}
	})
}

func TestARunThatFailsStopsNoOther(t *testing.T) {
	untestable := fault.CannotTest("", "no pod")
	results, err := runAll(t.Context(), several("a", "b", "C"), 1, nil, func(j Job, _ func()) (Result, error) {
		if j.Scenario.Name == "a" {
			return Result{Scenario: "a", Error: "no pod"}, untestable
		}
		return Result{Scenario: j.Scenario.Name, Pass: j.Scenario.Name == "C"}, nil
	})
	if !errors.Is(err, untestable) || len(results) != 3 || !results[2].Pass {
		t.Errorf("%+v, %v", results, err)
	}
}

func TestWhatWasNotBegunIsNotLeftOut(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func() (context.Context, context.CancelFunc)
		code int
	}{
		{"^C", func() (context.Context, context.CancelFunc) { return context.WithCancel(context.Background()) }, 130},
		{"the time is up", func() (context.Context, context.CancelFunc) { return context.WithTimeout(context.Background(), 0) }, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := tc.end()
			defer cancel()
			jobs := several("a", "b", "C")
			jobs[1].Control = "off"
			results, err := runAll(ctx, jobs, 1, nil, func(j Job, _ func()) (Result, error) {
				cancel()
				return Result{Scenario: j.Scenario.Name, Pass: true}, nil
			})
			if fault.Code(err) != tc.code || len(results) != 3 {
				t.Fatalf("%+v, %v (exit %d)", results, err, fault.Code(err))
			}
			if b := results[1]; b.Pass || b.Control != "off" || b.Error == "" || b.Err() == nil {
				t.Errorf("%+v", b)
			}
		})
	}
}

func TestRunsEndWhenTheAPIServerIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := kube.New(&rest.Config{Host: "https://127.0.0.1:1"})
		if err != nil {
			t.Fatal(err)
		}
		jobs := several("a", "b", "C")
		for i := range jobs {
			jobs[i].Scenario.New = func(Options) (*Plan, error) {
				return &Plan{Admitted: func(ctx context.Context, _ *Session) error {
					<-ctx.Done()
					return ctx.Err()
				}}, nil
			}
		}
		var mu sync.Mutex // several runs call Events at once
		var results []Result
		began := time.Now()
		err = RunAll(t.Context(), &Env{Kube: c, Events: func(e Event) {
			mu.Lock()
			defer mu.Unlock()
			if e.Result != nil {
				results = append(results, *e.Result)
			}
		}}, jobs, false, 1)
		if fault.Code(err) != 3 || !strings.Contains(fault.Hint(err), "mllab up") || !strings.Contains(err.Error(), "API server") {
			t.Errorf("%v (exit %d), hint %q", err, fault.Code(err), fault.Hint(err))
		}
		if took := time.Since(began); took < 30*time.Second || took > time.Minute {
			t.Errorf("it took %s", took)
		}
		if len(results) != 3 {
			t.Errorf("%d results, want 3", len(results))
		}
		for _, r := range results {
			if r.Pass || !strings.Contains(r.Error, "API server") {
				t.Errorf("%+v", r)
			}
		}
	})
}

func TestAStepEndsWithTheReasonThatTheAPIServerIsGone(t *testing.T) {
	ctx, end := context.WithCancelCause(t.Context())
	defer end(nil)
	for name, w := range map[string]func() error{
		"a wait":            func() error { return fmt.Errorf("waiting: %w", ctx.Err()) },
		"a claim it spoils": func() error { return refute(Answers, "no answer") },
	} {
		p := &Plan{Steps: []Step{{Name: "first", Check: func(context.Context, *Session) (Evidence, error) { end(kube.ErrGone); return Evidence{}, w() }}}}
		l := &Session{Env: &Env{}}
		none := func(context.Context) error { return nil }
		r, err := l.runIn(ctx, p, nil, Result{Scenario: "story"}, none, none)
		if !errors.Is(err, kube.ErrGone) || fault.Code(err) != 3 || r.Pass || r.Refuted != "" || len(r.Steps) != 1 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func TestAnInterruptOutranksWhatCouldNotBeTested(t *testing.T) {
	_, err := runAll(t.Context(), several("a", "b"), 1, nil, func(j Job, _ func()) (Result, error) {
		if j.Scenario.Name == "a" {
			return Result{}, fault.CannotTest("", "no pod")
		}
		return Result{}, context.Canceled
	})
	if fault.Code(err) != 130 {
		t.Errorf("%v (exit %d)", err, fault.Code(err))
	}
}

func TestASkippedRunIsNeitherAPassNorAnError(t *testing.T) {
	if r := (Result{Scenario: "s", Skipped: "it needs flux"}); r.Err() != nil || r.Pass {
		t.Errorf("%+v: %v", r, r.Err())
	}
}

func TestAChangeIsStoppedWhenAProxyOfTheRunsRefusesItsConfiguration(t *testing.T) {
	gateway := proxy.Rejection{Proxy: "istio-ingressgateway-1.istio-system", What: "routes", Reason: "invalid perl operator: (?!", Object: "HTTPRoute/shop/web", Named: true}
	own := proxy.Rejection{Proxy: "web-1.ns", What: "listeners", Reason: "no such filter"}
	foreign := proxy.Rejection{Proxy: "web-1.shop", What: "listeners", Reason: "no such filter"}
	always := func(list ...proxy.Rejection) func(int) ([]proxy.Rejection, error) {
		return func(int) ([]proxy.Rejection, error) { return list, nil }
	}
	for name, c := range map[string]struct {
		answer func(ask int) ([]proxy.Rejection, error)
		want   string // in the error; empty: the change goes on
	}{
		"none":       {always(), ""},
		"gateway":    {always(foreign, gateway), "invalid perl operator: (?! (from HTTPRoute/shop/web)"},
		"own":        {always(own), "no such filter"},
		"foreign":    {always(foreign), ""},
		"no istiod":  {func(int) ([]proxy.Rejection, error) { return nil, errors.New("istiod is not there") }, ""},
		"for a time": {func(ask int) ([]proxy.Rejection, error) { return []proxy.Rejection{gateway}[min(1, ask%2):], nil }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				l := &Session{Env: &Env{}, Namespace: "ns", rejections: func(context.Context) ([]proxy.Rejection, error) {
					asked++
					return c.answer(asked)
				}}
				began := time.Now()
				err := l.unlessRefused(t.Context(), func(ctx context.Context, _ *Session) error {
					select {
					case <-time.After(time.Minute):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				})
				switch {
				case c.want == "" && err != nil:
					t.Errorf("the change was stopped: %v", err)
				case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || fault.Code(err) != 3 || fault.Hint(err) == ""):
					t.Errorf("error %v (exit code %d), want one with %q and exit code 3", err, fault.Code(err), c.want)
				case c.want != "" && time.Since(began) > 15*time.Second:
					t.Errorf("the change was stopped after %s only", time.Since(began))
				}
			})
		})
	}
}
