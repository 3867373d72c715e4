package scenarios

import (
	"context"
	"fmt"
	"slices"
	"time"

	"mllab.local/internal/split"
)

type probesStory struct {
	Options
	v1, v2  probed
	hanging // of v1: the first pod turns unready, the last hangs
}

// probedFile is the manifest of a version.
const probedFile = "probes/model.yaml"

// probed is a version of the model as the manifest takes it.
type probed struct {
	Version, Image string
	Ready          string // path of the readiness probe; empty: there is none
	NoLiveness     bool
	FailPercent    int
}

// probes: a pod that says it is not ready gets no requests, one that hangs is
// restarted, and a version that is never ready does not replace the old one.
var probes = Scenario{
	Name:    "probes",
	Summary: "probes take a pod out of the rotation, restart it, and stop a bad rollout",
	Needs:   []string{"istio"},
	Serial:  true,
	New:     newProbes,
}

func newProbes(o Options) (*Plan, error) {
	s := &probesStory{
		Options: o,
		v1:      probed{Version: "v1", Ready: "/readyz"},
		// Its probe tries the model, and the model fails.
		v2: probed{Version: "v2", Ready: "/", FailPercent: 100},
	}
	if err := enough("probes", evenly([]string{"a", "b", "c"}, o.Requests, o.Alpha)); err != nil {
		return nil, err
	}
	const hangs, stuck = "one hangs", "v2 is never ready"
	return &Plan{
		Steps: []Step{
			{
				Name:     "three pods serve",
				Why:      "Three pods stand behind one Service. The kubelet asks each whether it is ready for requests, and whether it is alive.",
				WatchFor: "Each pod answers a third.", Change: s.serve, Check: s.evenly(o),
			},
			{
				Name:     "one is not ready",
				Why:      "A pod that fails its readiness probe is not restarted. It only leaves the rotation until it is ready again.",
				WatchFor: "How long that takes, and that it then answers nothing.", Change: s.unready, Check: s.out,
			},
			{
				Name: "it is ready again", Change: s.ready, Check: s.back,
				WatchFor: "It answers its third again.",
			},
			{
				Name: "no request lost", Check: s.prober.lostNone,
				Why:      "A pod that says in time that it is not ready still answers what reaches it.",
				WatchFor: "Leaving and coming back have cost no request.",
			},
			{
				Name:     hangs,
				Why:      "A pod that hangs fails both probes. Readiness takes it out of the rotation first, then liveness has it restarted.",
				WatchFor: "The times: out of the rotation, restarted, answering.", Change: s.hang, Check: s.restarted,
			},
			{
				Name:     "what the hang cost",
				Why:      "Until the readiness probe has failed, the hanging pod still gets its third, and all of that is lost.",
				WatchFor: "How many requests were lost, and that none was due later than the probe allows.",
				Check:    func(ctx context.Context, l *Session) (Evidence, error) { return s.cost(ctx, l, s.Alpha) },
			},
			{
				Name: stuck, Long: true,
				Why:      "A rollout goes on only when the new pod is ready. The new version fails every request, and its readiness probe finds out.",
				WatchFor: "The rollout is stuck, and only v1 answers.", Change: s.rollOut, Check: s.onlyV1,
			},
			{
				Name: "rollback to v1", Long: true,
				Why: "Nothing has to be repaired: v1 has never left.", WatchFor: "Only v1 answers.",
				Change: s.rollBack, Check: s.onlyV1,
			},
			{
				Name: "the rollout cost nothing", Long: true,
				WatchFor: "From before the rollout until after the rollback no request was lost.", Check: s.prober.lostNone,
			},
		},
		Controls: []Control{
			{Name: "no-readiness", Summary: "the pods have no readiness probe", Break: set(&s.v1.Ready, ""), Catches: Readiness},
			{Name: "no-liveness", Summary: "the pods have no liveness probe", Break: set(&s.v1.NoLiveness, true), Catches: Liveness},
			{
				Name: "another-fails", Summary: "another pod fails one request in five while one hangs, and goes on after that",
				After: hangs, Break: s.anotherFails, Catches: Bounds,
			},
			{
				Name: "shallow-probe", Summary: "v2's readiness probe does not try the model, so v2 takes over",
				After: stuck, Break: s.shallow, Catches: Answers,
			},
		},
	}, nil
}

// serve returns when each pod of v1 has answered through the gateway.
func (s *probesStory) serve(ctx context.Context, l *Session) error {
	s.v1.Image, s.v2.Image = l.Image, l.Image
	v1, err := render(probedFile, s.v1)
	if err != nil {
		return err
	}
	if err := l.route(ctx, "probes/route.yaml", l.to("model"), &routeState{}, v1...); err != nil {
		return err
	}
	if s.rotation, err = l.rotation(ctx, "model", map[string]string{"app": "model"}); err != nil {
		return err
	}
	s.prober.start(ctx, l, l.to("model"), watchRate)
	return nil
}

func (s *probesStory) unready(ctx context.Context, l *Session) error {
	s.prober.mark("not ready")
	return l.breakPod(ctx, s.pods[0], faults{Ready: new(false)})
}

// out waits for the pod's last answer, which has a bound, and only then looks
// whether it gets a request.
func (s *probesStory) out(ctx context.Context, l *Session) (Evidence, error) {
	pod, began := s.pods[0], time.Now()
	last, err := s.rotation.leaves(ctx, l, pod, outBound, Readiness)
	if err != nil {
		return Evidence{}, err
	}
	listed, err := s.rotation.has(ctx, l, pod)
	if err != nil {
		return Evidence{}, err
	}
	if listed {
		return Evidence{}, refute(Readiness, "Pod/%s gets no request, though its EndpointSlice says that it is ready", pod)
	}
	claim := evenly(s.pods[1:], s.Requests, s.Alpha)
	claim.Legs = slices.Insert(claim.Legs, 0, split.Leg{Name: short(pod), Share: 0})
	e, err := l.sampleByPod(ctx, l.to("model"), claim, Readiness)
	took := max(0, last.Sub(began).Seconds())
	return e.after(fmt.Sprintf("its last answer after %.1f s", took), Figure{"last answer", took, "s"}), err
}

func (s *probesStory) ready(ctx context.Context, l *Session) error {
	s.prober.mark("ready again")
	return l.breakPod(ctx, s.pods[0], faults{Ready: new(true)})
}

func (s *probesStory) back(ctx context.Context, l *Session) (Evidence, error) {
	began := time.Now()
	if err := s.rotation.comesBack(ctx, l, s.pods[0], outBound, Readiness); err != nil {
		return Evidence{}, err
	}
	took := time.Since(began).Seconds()
	e, err := s.evenly(s.Options)(ctx, l)
	return e.after(fmt.Sprintf("back in the rotation after %.1f s", took), Figure{"back in the rotation", took, "s"}), err
}

// anotherFails has a pod fail whose probes see nothing of it.
func (s *probesStory) anotherFails(ctx context.Context, l *Session) error {
	return l.breakPod(ctx, s.pods[1], faults{FailPercent: new(20.0)})
}

// rollOut returns when the rollout is stuck, or done.
func (s *probesStory) rollOut(ctx context.Context, l *Session) error {
	s.prober.start(ctx, l, l.to("model"), watchRate)
	if _, err := l.writeFile(ctx, probedFile, s.v2); err != nil {
		return err
	}
	return l.rolledOut(ctx, "model", "v2")
}

func (s *probesStory) shallow(ctx context.Context, l *Session) error {
	s.v2.Ready = s.v1.Ready
	return l.applyFile(ctx, probedFile, s.v2)
}

func (s *probesStory) rollBack(ctx context.Context, l *Session) error {
	s.prober.mark("rollback")
	return l.applyFile(ctx, probedFile, s.v1)
}

func (s *probesStory) onlyV1(ctx context.Context, l *Session) (Evidence, error) {
	e, err := l.sample(ctx, l.to("model"), s.claim(0))
	if err != nil {
		return e, err
	}
	pods, err := l.pods(ctx, map[string]string{"app": "model", "version": "v2"})
	e.Summary += fmt.Sprintf("; pods of v2: %d", len(pods))
	return e, err
}
