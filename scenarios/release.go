package scenarios

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/chart"
)

// releaseName is that of the Helm release, and of the Knative Service in it.
const releaseName = "model"

// release is the run's Helm release, which need not exist yet.
func (l *Session) release() (*chart.Release, error) {
	r, err := chart.NewRelease(l.Kube, l.Namespace, releaseName)
	if err != nil {
		return nil, err
	}
	r.Reason = l.progress
	return r, nil
}

// drifted names the objects that are not as a revision says.
func (l *Session) drifted(ctx context.Context, r chart.Revision) ([]string, error) {
	return l.Kube.Drift(ctx, r.Objects)
}

// changeByHand edits the live Service, and returns when that is active.
func changeByHand(ctx context.Context, l *Session) error {
	live := l.object("serving.knative.dev/v1", "Service", releaseName)
	// A JSON patch: a merge would replace the container, and an update could come after another one's.
	if err := l.patch(ctx, live, `[{"op":"add","path":"/spec/template/spec/containers/0/env","value":[{"name":"TARGET","value":"by-hand"}]}]`); err != nil {
		return err
	}
	return l.wait(ctx, live)
}

// helmRelease has Flux keep the release.
func (l *Session) helmRelease() *unstructured.Unstructured {
	return l.object("helm.toolkit.fluxcd.io/v2", "HelmRelease", releaseName)
}

// removeRelease has the HelmRelease deleted after the run, and waited for: Flux
// deletes it with the rest, and does not wait until Helm has come to the end of that.
func (l *Session) removeRelease() {
	l.removal(func(ctx context.Context) error {
		return l.Kube.Delete(ctx, []*unstructured.Unstructured{l.helmRelease()})
	})
}

// releaseEnded returns when Flux has done to the release what it does for the newest
// commit, and stopped.
func (f *followed) releaseEnded(ctx context.Context, l *Session) error {
	if err := f.applied(ctx, l, deliveryBound); err != nil {
		return err
	}
	return f.waitForFlux(ctx, l, deliveryBound, "helm-controller to end", func(ctx context.Context, _ fluxStatus) (string, error) {
		o, err := l.live(ctx, l.helmRelease())
		if err != nil {
			return "", err
		}
		observed, _, _ := unstructured.NestedInt64(o.Object, "status", "observedGeneration")
		stalled, _ := conditionOf(o, "Stalled")
		ready, why := conditionOf(o, "Ready")
		if observed != o.GetGeneration() || stalled != "True" && ready != "True" {
			return why, nil
		}
		return "", nil
	})
}
