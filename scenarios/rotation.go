package scenarios

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/probe"
)

// rotation is the pods behind one Service: which of them get requests, and which
// do not.
type rotation struct {
	service string
	request probe.Request // which the Service's pods answer
	pods    []string      // when it was read, sorted
}

// rotation reads the pods with these labels behind a Service, and returns when
// each has answered.
func (l *Session) rotation(ctx context.Context, service string, labels map[string]string) (rotation, error) {
	r := rotation{service: service, request: l.to(service)}
	var err error
	if r.pods, err = l.pods(ctx, labels); err != nil {
		return r, err
	}
	return r, r.allAnswer(ctx, l)
}

// evenly sends a sample of which each pod must answer as much as any other.
func (r *rotation) evenly(o Options) Check {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		return l.sampleByPod(ctx, r.request, evenly(r.pods, o.Requests, o.Alpha), Shares)
	}
}

// pods are the names of the pods with these labels that are to stay, sorted.
func (l *Session) pods(ctx context.Context, labels map[string]string) ([]string, error) {
	all, err := l.Kube.Pods(ctx, l.Namespace, labels)
	var names []string
	for _, p := range all {
		if p.DeletionTimestamp == nil {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return names, err
}

// allAnswer returns when each pod has answered 200.
func (r rotation) allAnswer(ctx context.Context, l *Session) error {
	missing := slices.Clone(r.pods)
	return l.until(ctx, "an answer of each pod", func() string {
		for i := 0; i < outStreak && len(missing) > 0; i++ {
			if a := l.Send(ctx, r.request); a.OK() {
				missing = slices.DeleteFunc(missing, func(p string) bool { return p == a.Pod })
			}
		}
		return strings.Join(missing, ", ")
	})
}

// outStreak is how many answers in a row must be other pods' until a pod is
// taken to be out of the rotation: one that still has its third of the requests
// then hides with a chance of (2/3)^60, 3 in 10^11.
const outStreak = 60

// leaves returns when a pod answers no more, with the time of its last answer
// since the call; zero if there was none.
func (r rotation) leaves(ctx context.Context, l *Session, pod string, bound time.Duration, claim Claim) (last time.Time, err error) {
	err = l.within(ctx, bound, claim, "no request for "+pod, func() (string, error) {
		for range outStreak {
			a := l.Send(ctx, r.request)
			switch {
			case a.Err != "":
				return a.Err, ctx.Err()
			case a.Pod == pod:
				last = time.Now()
				return "it still answers", nil
			}
		}
		return "", nil
	})
	return last, err
}

// backTries are sent together, ten times a second, for a pod that is to answer
// again: in three seconds one with a third of the requests cannot but be met.
const backTries = 5

func (r rotation) comesBack(ctx context.Context, l *Session, pod string, bound time.Duration, claim Claim) error {
	return l.within(ctx, bound, claim, "an answer of "+pod, func() (string, error) {
		for range backTries {
			if a := l.Send(ctx, r.request); a.OK() && a.Pod == pod {
				return "", nil
			}
		}
		return "none yet", ctx.Err()
	})
}

// endpoints are all in the EndpointSlices of a Service: what gateways go by.
func (l *Session) endpoints(ctx context.Context, service string) (all []discoveryv1.Endpoint, err error) {
	var list discoveryv1.EndpointSliceList
	if err := l.Kube.List(ctx, &list, client.InNamespace(l.Namespace), client.MatchingLabels{discoveryv1.LabelServiceName: service}); err != nil {
		return nil, fmt.Errorf("listing the EndpointSlices of Service/%s: %w", service, err)
	}
	for _, s := range list.Items {
		all = append(all, s.Endpoints...)
	}
	return all, nil
}

func getsRequests(e discoveryv1.Endpoint) bool {
	return e.Conditions.Ready != nil && *e.Conditions.Ready
}

// has reports whether the EndpointSlices of the Service call a pod ready.
func (r rotation) has(ctx context.Context, l *Session, pod string) (bool, error) {
	all, err := l.endpoints(ctx, r.service)
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(all, func(e discoveryv1.Endpoint) bool { return e.TargetRef != nil && e.TargetRef.Name == pod })
	if i < 0 {
		return false, fmt.Errorf("no EndpointSlice of Service/%s has Pod/%s", r.service, pod)
	}
	return getsRequests(all[i]), nil
}

func (l *Session) restarts(ctx context.Context, pod string) (n int32, err error) {
	var p corev1.Pod
	if err := l.Kube.Get(ctx, client.ObjectKey{Namespace: l.Namespace, Name: pod}, &p); err != nil {
		return 0, fmt.Errorf("asking for Pod/%s: %w", pod, err)
	}
	for _, c := range p.Status.ContainerStatuses {
		n += c.RestartCount
	}
	return n, nil
}
