package scenarios

import (
	"context"
	"fmt"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"knative.dev/pkg/apis"
	"knative.dev/serving/pkg/apis/serving"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
	"sigs.k8s.io/yaml"

	"mllab.local/internal/fault"
	"mllab.local/manifests"
)

// revisions are the versions of a model on one Knative Service, on their way
// through a story.
type revisions struct {
	base    servingv1.Service
	image   string
	version string            // TARGET and name of the newest revision
	env     map[string]string // of the newest revision besides TARGET
	order   []string          // versions in the order of traffic; none: all to the newest
	rollout time.Duration     // over which the newest gets its traffic; 0: at once
}

func loadRevisions(file string) (*revisions, error) {
	data, err := manifests.Scenarios.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s := &revisions{env: map[string]string{}}
	if err := yaml.UnmarshalStrict(data, &s.base); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

func (s *revisions) revision(version string) string { return s.base.Name + "-" + version }

// object is the Service with the given percents, one for each version in
// order. Every version keeps a tag, so that it has an address of its own and
// stays warm at 0 %. It is checked as Knative's own webhook would: an error is
// wrong use, and nothing has been applied.
func (s *revisions) object(percents []int64) (*unstructured.Unstructured, error) {
	svc := s.base.DeepCopy()
	svc.Spec.Template.Name = s.revision(s.version)
	c := &svc.Spec.Template.Spec.Containers[0]
	c.Image = s.image
	c.Env = append(c.Env, corev1.EnvVar{Name: "TARGET", Value: s.version})
	for _, name := range sortedKeys(s.env) {
		c.Env = append(c.Env, corev1.EnvVar{Name: name, Value: s.env[name]})
	}
	if s.rollout > 0 {
		svc.Annotations = map[string]string{serving.RolloutDurationKey: s.rollout.String()}
	}
	svc.Spec.Traffic = nil
	for i, version := range s.order {
		svc.Spec.Traffic = append(svc.Spec.Traffic, servingv1.TrafficTarget{
			Tag: version, RevisionName: s.revision(version), LatestRevision: new(false), Percent: &percents[i],
		})
	}
	if err := validService(svc.DeepCopy()); err != nil {
		return nil, fault.Usage("percentages must be whole and sum to 100", "Service/%s is not valid: %w", s.base.Name, err)
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(svc)
	if err != nil {
		return nil, fmt.Errorf("converting Service/%s: %w", s.base.Name, err)
	}
	delete(fields, "status")
	return &unstructured.Unstructured{Object: fields}, nil
}

// validService returns what Knative's webhook would refuse of a Service; what it only
// warns of it takes.
func validService(s *servingv1.Service) error {
	ctx := apis.WithinCreate(context.Background())
	s.SetDefaults(ctx)
	if err := s.Validate(ctx).Filter(apis.ErrorLevel); err != nil {
		return err
	}
	return nil // and not a nil *FieldError
}

func (s *revisions) name() string { return s.base.Name }

// add makes a version the newest revision, with these variables besides TARGET.
// It has no traffic until it is given some.
func (s *revisions) add(version string, env map[string]string) {
	s.version, s.env, s.order = version, env, union(s.order, version)
}

// traffic gives each version its percentage, in the order in which they came, and
// returns when Knative has seen every gateway answer by it: a Service is Ready
// only then.
func (s *revisions) traffic(ctx context.Context, l *Session, percents ...int64) error {
	s.image = l.Image
	obj, err := s.object(percents)
	if err != nil {
		return err
	}
	return l.apply(ctx, obj)
}

// percents are shares as Knative takes them.
func percents(shares []float64) ([]int64, error) {
	out := make([]int64, len(shares))
	for i, s := range shares {
		out[i] = int64(math.Round(100 * s))
		if math.Abs(100*s-float64(out[i])) > 1e-9 {
			return nil, fault.Usage("use whole percentages, such as --shares 90/10", "Knative splits traffic in whole percents, and %g %% is none", 100*s)
		}
	}
	return out, nil
}
