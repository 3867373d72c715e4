package scenarios

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/sampleapp/api"
)

// model is the sample model as a plain Deployment, called NAME-VERSION, with
// the labels app and version.
type model struct {
	Name, Version string
	Image         string // the lab's: deployments sets it
	Env           map[string]string
	Replicas      int    // 1 when zero
	NoReadiness   bool   // no readiness probe
	Account       string // the service account; empty: the namespace's default
	NoSidecar     bool   // none in a namespace whose pods get one
}

// deployments are one for each model.
func (l *Session) deployments(models ...model) (objs []*unstructured.Unstructured, err error) {
	for _, m := range models {
		m.Image, m.Replicas = l.Image, cmp.Or(m.Replicas, 1)
		more, err := render("model.yaml", m)
		if err != nil {
			return nil, err
		}
		objs = append(objs, more...)
	}
	return objs, nil
}

// deploy applies models, and returns when they are ready.
func (l *Session) deploy(ctx context.Context, models ...model) error {
	objs, err := l.deployments(models...)
	if err != nil {
		return err
	}
	return l.apply(ctx, objs...)
}

func (m model) labels() map[string]string {
	return map[string]string{"app": m.Name, "version": m.Version}
}

// seen is one pod's record, in the sample model, of the requests that reached
// it.
type seen = api.Seen

// modelPort and adminPort are the sample model's; only pods that are meant to
// be broken while they run have the second.
const (
	modelPort = 8080
	adminPort = 9900 // 9090 is that of Knative's queue-proxy
)

// reached returns the IDs of the requests that reached the pods with these labels.
func (l *Session) reached(ctx context.Context, labels map[string]string) (ids []string, err error) {
	pods, err := l.Kube.Pods(ctx, l.Namespace, labels)
	for _, p := range pods {
		s, err := l.seenBy(ctx, p.Name, 0)
		if err != nil {
			return nil, err
		}
		ids = append(ids, s.IDs...)
	}
	return ids, err
}

// readJSON reads a pod's answer, which is JSON about something, unless there was an error.
func readJSON(answer []byte, err error, about string, into any) error {
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("reading %s: %w", about, err)
	}
	return nil
}

// askPod reads what a pod answers at a path, by the API server and not by the
// traffic's own way.
func (l *Session) askPod(ctx context.Context, pod, path, about string, into any) error {
	answer, err := l.Kube.FromPod(ctx, l.Namespace, pod, modelPort, path)
	return readJSON(answer, err, about, into)
}

// seenBy asks one pod what reached it after the first n requests.
func (l *Session) seenBy(ctx context.Context, pod string, n int) (s seen, err error) {
	err = l.askPod(ctx, pod, fmt.Sprintf("seen?since=%d", n), "what Pod/"+pod+" has seen", &s)
	return s, err
}

// seenInside is seenBy over the pod's own loopback interface: a sidecar that takes
// no plain text refuses the API server, too.
func (l *Session) seenInside(ctx context.Context, pod string, n int) (s seen, err error) {
	body, err := l.Kube.FromLoopback(ctx, l.Namespace, pod, modelPort, fmt.Sprintf("/seen?since=%d", n))
	err = readJSON(body, err, "what Pod/"+pod+" has seen", &s)
	return s, err
}

// faults are the faults that a pod of the sample model can have while it
// runs; what is not set stays.
type faults = api.FaultsChange

func (l *Session) breakPod(ctx context.Context, pod string, f faults) error {
	return l.breakPods(ctx, []string{pod}, f)
}

func (l *Session) breakPods(ctx context.Context, pods []string, f faults) error {
	body, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := l.teach(ctx, fmt.Sprintf("Made to do wrong: %s\n- %s\n", body, strings.Join(pods, "\n- "))); err != nil {
		return err
	}
	for _, pod := range pods {
		if _, err := l.Kube.ToPod(ctx, l.Namespace, pod, adminPort, "faults", body); err != nil {
			return err
		}
	}
	return nil
}

// failPercent of the requests are answered 500 by a v2 that is made to fail.
const failPercent = 5

// podOf is the one pod with these labels.
func (l *Session) podOf(ctx context.Context, labels map[string]string) (string, error) {
	pods, err := l.pods(ctx, labels)
	if err == nil && len(pods) != 1 {
		err = fmt.Errorf("%s has %d pods instead of one", labels["app"], len(pods))
	}
	if err != nil {
		return "", err
	}
	return pods[0], nil
}

// podTemplate is what a Deployment has its pods be.
type podTemplate = corev1.PodTemplateSpec

// podTemplate returns that of a model's Deployment, without the image of its init
// container, and that image.
func (l *Session) podTemplate(ctx context.Context, name string) (spec podTemplate, model string, err error) {
	var d appsv1.Deployment
	if err := l.Kube.Get(ctx, client.ObjectKey{Namespace: l.Namespace, Name: name}, &d); err != nil {
		return spec, "", err
	}
	inits := d.Spec.Template.Spec.InitContainers
	if len(inits) != 1 {
		return spec, "", fmt.Errorf("the number of init containers of Deployment/%s must be 1, got %d", name, len(inits))
	}
	model, inits[0].Image = inits[0].Image, ""
	return d.Spec.Template, model, nil
}

// rolledOut returns when the rollout of a version of a Deployment is done, or is stuck
// with one of its containers running: one that never ran proves nothing about probes.
func (l *Session) rolledOut(ctx context.Context, name, version string) error {
	return l.until(ctx, "the rollout to be stuck or done", func() string {
		var d appsv1.Deployment
		if err := l.Kube.Get(ctx, client.ObjectKey{Namespace: l.Namespace, Name: name}, &d); err != nil {
			return err.Error()
		}
		pods, err := l.Kube.Pods(ctx, l.Namespace, map[string]string{"app": name, "version": version})
		want := *d.Spec.Replicas
		switch {
		case err != nil:
			return err.Error()
		case d.Status.ObservedGeneration < d.Generation || !slices.ContainsFunc(pods, runs):
			return "no pod of " + version + " runs yet"
		case d.Status.UpdatedReplicas == want && d.Status.AvailableReplicas == want && d.Status.Replicas == want:
			return ""
		}
		// https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#failed-deployment
		if slices.ContainsFunc(d.Status.Conditions, func(c appsv1.DeploymentCondition) bool {
			return c.Type == appsv1.DeploymentProgressing && c.Reason == "ProgressDeadlineExceeded"
		}) {
			return ""
		}
		return fmt.Sprintf("%d of %d pods are %s's", d.Status.UpdatedReplicas, want, version)
	})
}

func runs(p corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.State.Running != nil })
}
