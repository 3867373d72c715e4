package scenarios

import (
	"context"
	"fmt"
	"slices"
	"strings"

	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/kube"
)

// inferenceService is an InferenceService, which KServe serves by a Knative Service.
type inferenceService struct {
	spec inference // the newest
}

// inference is the status of an InferenceService.
type inference struct {
	Version, Model string // the version's name, and its image
	Canary         int    // percent of the requests for it; 0: all, once it is ready
	MinReplicas    int
}

// kserveHost is the name that KServe gives the predictor of InferenceService
// model.
const kserveHost = "model-predictor"

// apply writes the InferenceService, and returns when its Knative Service has
// the traffic that follows from it: for some seconds after a change KServe's own
// status is that of before.
func (s *inferenceService) apply(ctx context.Context, l *Session, spec inference) error {
	newRevision := spec.Version != s.spec.Version || spec.Model != s.spec.Model || spec.MinReplicas != s.spec.MinReplicas
	before, err := s.knative(ctx, l)
	if client.IgnoreNotFound(err) != nil {
		return err
	}
	if err := s.write(ctx, l, spec); err != nil {
		return err
	}
	want := []int64{100}
	if spec.Canary > 0 {
		want = []int64{int64(spec.Canary), int64(100 - spec.Canary)}
	}
	err = l.until(ctx, "the InferenceService", func() string {
		now, err := s.knative(ctx, l)
		if err != nil {
			return err.Error()
		}
		ready := now.Status.GetCondition(servingv1.ServiceConditionReady)
		switch {
		case newRevision && now.Status.LatestReadyRevisionName == before.Status.LatestReadyRevisionName:
			return "its new revision is not ready"
		case now.Status.ObservedGeneration != now.Generation || now.Status.LatestCreatedRevisionName != now.Status.LatestReadyRevisionName:
			return "Knative has not followed"
		case !ready.IsTrue():
			return ready.GetReason() + ": " + ready.GetMessage()
		}
		var has []int64
		for _, t := range now.Status.Traffic {
			if t.Percent != nil && *t.Percent > 0 {
				has = append(has, *t.Percent)
			}
		}
		slices.Sort(has)
		if sorted := slices.Sorted(slices.Values(want)); !slices.Equal(has, sorted) {
			return fmt.Sprintf("its traffic is %v, not yet %v", has, sorted)
		}
		return ""
	})
	if err != nil {
		return err
	}
	return l.routed(ctx, kserveHost)
}

func (s *inferenceService) write(ctx context.Context, l *Session, spec inference) error {
	s.spec = spec
	_, err := l.writeFile(ctx, "kserve/service.yaml", spec)
	return err
}

// knative is the Knative Service that KServe makes.
func (s *inferenceService) knative(ctx context.Context, l *Session) (service servingv1.Service, err error) {
	o, err := l.live(ctx, l.object(servingv1.SchemeGroupVersion.String(), "Service", kserveHost))
	if err != nil {
		return service, err
	}
	err = kube.Into(o.Object, &service)
	return service, err
}

// failure is the reason in an InferenceService's status.
func (s *inferenceService) failure(ctx context.Context, l *Session) (string, error) {
	live, err := l.live(ctx, l.object("serving.kserve.io/v1beta1", "InferenceService", "model"))
	if err != nil {
		return "", err
	}
	var status struct {
		ModelStatus struct {
			LastFailureInfo struct{ Reason, Message string }
		}
	}
	err = kube.Into(live.Object["status"], &status)
	info := status.ModelStatus.LastFailureInfo
	return strings.TrimSpace(info.Reason + ": " + info.Message), err
}
