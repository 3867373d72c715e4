package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"mllab.local/internal/probe"
)

type minStory struct {
	model, twin *idleService
	idle        *idle
	pod         string // the model's, before the quiet time
}

// minScale: both serve; nobody asks them, and the twin goes to zero while the
// model keeps its pod; that pod answers, and the twin has to start one.
var minScale = Scenario{
	Name:    "min-scale",
	Summary: "a quiet model keeps its pod, and answers at once",
	Needs:   []string{"knative"},
	New:     newMinScale,
}

func newMinScale(Options) (*Plan, error) {
	s := &minStory{
		model: &idleService{name: "model", annotations: map[string]string{"min-scale": "1"}}, twin: &idleService{name: "twin"},
	}
	return &Plan{
		Steps: []Step{
			{
				Name: "both serve", Change: s.deploy, Check: s.serve,
				Why:      "The annotation min-scale 1 keeps one pod, whatever the traffic. The twin is the same Service without it.",
				WatchFor: "One answer from each: from now on nobody asks.",
			},
			{
				Name: "quiet", Change: s.wait, Check: s.kept,
				Why:      "The same quiet time takes the twin to zero. Without the twin, a pod that is still there could be one that is just about to go.",
				WatchFor: "The model's pod has the same name as before, and no other was started.",
			},
			{
				Name: "warm and cold", Check: s.answers,
				Why:      "The kept pod answers at once; the twin's caller waits for a start. That wait is what the pod's memory buys.",
				WatchFor: "Who answers, and the two latencies.",
			},
		},
		Controls: []Control{{
			Name: "no-annotation", Summary: "the annotation is missing where a kept pod is claimed",
			Break: set(&s.model.annotations, nil), Catches: Warm,
		}},
	}, nil
}

func (s *minStory) deploy(ctx context.Context, l *Session) (err error) {
	s.idle, err = l.serveIdle(ctx, s.model, s.twin)
	return err
}

func (s *minStory) serve(ctx context.Context, l *Session) (Evidence, error) {
	e, err := l.answerOnce(ctx, []*idleService{s.model, s.twin})
	if err != nil {
		return e, err
	}
	pods, _, err := l.podsAndEndpoints(ctx, s.model)
	if err == nil && len(pods) != 1 {
		err = fmt.Errorf("the model has %d pods (%s): which one is to be kept?", len(pods), strings.Join(pods, ", "))
	}
	if err != nil {
		return e, err
	}
	s.pod = pods[0]
	return e, nil
}

// wait is over when the twin has been at zero for one window, because the
// model's autoscaler may look a little later than the twin's; and not before
// the model has been quiet for as long as Knative's settings ask for.
func (s *minStory) wait(ctx context.Context, l *Session) error {
	if err := s.idle.await(ctx, l, []*idleService{s.twin}); err != nil {
		return err
	}
	end := time.Now().Add(zeroWindow)
	if settings := s.model.last.Add(zeroWindow + s.idle.grace); settings.After(end) {
		end = settings
	}
	return l.until(ctx, "one more window", func() string {
		if left := time.Until(end); left > 0 {
			return "quiet for " + left.Round(time.Second).String() + " more"
		}
		return ""
	})
}

// kept sees the twin at zero, and the model's one pod as it was.
func (s *minStory) kept(ctx context.Context, l *Session) (Evidence, error) {
	quiet := time.Since(s.model.last)
	if err := s.idle.atZero(ctx, l, s.twin); err != nil {
		return Evidence{}, twinProvesNothing(err)
	}
	if err := s.same(ctx, l); err != nil {
		return Evidence{}, err
	}
	return Evidence{
		Summary: fmt.Sprintf("after %.1f s of quiet the model still has Pod/%s and had no other; the twin was at zero after %.1f s",
			quiet.Seconds(), s.pod, s.twin.slept.Seconds()),
		Figures: []Figure{{"quiet", quiet.Seconds(), "s"}, {"twin at zero after", s.twin.slept.Seconds(), "s"}},
	}, nil
}

// same refutes that the model has its pod, and has had no other.
func (s *minStory) same(ctx context.Context, l *Session) error {
	pods, _, err := l.podsAndEndpoints(ctx, s.model)
	if err != nil {
		return err
	}
	if err := s.idle.pods.whole(); err != nil {
		return err
	}
	ever := sortedKeys(s.idle.pods.of(s.model.revision()))
	if len(ever) != 1 || !slices.Equal(pods, []string{s.pod}) {
		return refute(Warm, "the model had Pod/%s, and after %.1f s of quiet has %d (%s); there have been %d (%s)", s.pod,
			time.Since(s.model.last).Seconds(), len(pods), strings.Join(pods, ", "), len(ever), strings.Join(ever, ", "))
	}
	return nil
}

// answers asks the model, then the twin.
func (s *minStory) answers(ctx context.Context, l *Session) (Evidence, error) {
	warm, err := s.model.ask(ctx, l)
	if err != nil {
		return Evidence{}, err
	}
	cold, _, twinErr := s.idle.coldStart(ctx, l, s.twin)
	if err := ctx.Err(); err != nil {
		return Evidence{}, err
	}
	e, err := l.evidenceOf([]probe.Answer{warm, cold})
	if err != nil {
		return e, err
	}
	if refuted := lost(Answers, probe.Count([]probe.Answer{warm})); refuted != nil {
		return e, refuted
	}
	if warm.Pod != s.pod {
		return e, refute(Warm, "the model kept Pod/%s, and the answer is from Pod/%s", s.pod, warm.Pod)
	}
	if err := s.same(ctx, l); err != nil {
		return e, err
	}
	if twinErr != nil {
		return e, twinProvesNothing(twinErr)
	}
	e.Summary = fmt.Sprintf("Pod/%s answered in %.3f s; the twin, cold, in %.2f s", warm.Pod, warm.Latency.Seconds(), cold.Latency.Seconds())
	e.Figures = []Figure{{"warm", warm.Latency.Seconds(), "s"}, {"cold", cold.Latency.Seconds(), "s"}}
	return e, nil
}

// twinProvesNothing makes a plain error of a claim that did not hold for the
// twin: it is not this story's, but without it nothing is shown.
func twinProvesNothing(err error) error {
	if refuted, is := errors.AsType[*ClaimError](err); is {
		return fmt.Errorf("the twin shows nothing about the quiet time: %s", strings.Join(refuted.Reasons, "; "))
	}
	return err
}
