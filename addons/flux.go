package addons

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/kube"
	"mllab.local/manifests"
)

// FluxNamespace is where Flux's users look for it.
const FluxNamespace = "flux-system"

// The kinds that users of Flux write.
const (
	fluxSources        = "source.toolkit.fluxcd.io/v1"
	fluxKustomizations = "kustomize.toolkit.fluxcd.io/v1"
	fluxReleases       = "helm.toolkit.fluxcd.io/v2"
)

// fluxControllers are those of Flux that the lab runs. Without
// notification-controller there are no Alerts and Receivers: the lab's Git asks
// for a reconcile itself.
var fluxControllers = []string{"source-controller", "kustomize-controller", "helm-controller"}

// flux is Flux as `flux install` names and labels it, from the controllers'
// own modules.
func flux() Addon {
	a := Addon{
		Name:     "flux",
		Summary:  "Flux: source-controller, kustomize-controller and helm-controller",
		Optional: true,
		Render:   fluxObjects,
		Verify:   verifyFlux,
	}
	for _, c := range fluxControllers {
		a.Images = append(a.Images, "flux-"+c)
	}
	return a
}

// fluxLabels are on everything, so that `flux` finds what is its own.
// https://github.com/fluxcd/flux2/blob/main/manifests/install/labels.yaml
var fluxLabels = map[string]string{"app.kubernetes.io/part-of": "flux", "app.kubernetes.io/instance": FluxNamespace}

func fluxObjects(im Images) ([]*unstructured.Unstructured, error) {
	pinned, err := pinnedModules()
	if err != nil {
		return nil, err
	}
	objs := []*unstructured.Unstructured{namespace(FluxNamespace)}
	for _, c := range fluxControllers {
		image, err := im.get("flux-" + c)
		if err != nil {
			return nil, err
		}
		own, err := upstream("flux-" + c + ".yaml")
		if err != nil {
			return nil, err
		}
		own = append(own,
			object("v1", "ServiceAccount", FluxNamespace, c, nil),
			clusterRoleBinding(c+"-"+FluxNamespace, c+"-"+FluxNamespace, c),
		)
		for _, o := range own {
			if err := patchFlux(o, c, image); err != nil {
				return nil, err
			}
			label(o, "app.kubernetes.io/component", c)
			label(o, "app.kubernetes.io/version", pinned["github.com/fluxcd/"+c])
		}
		objs = append(objs, own...)
	}
	// What is in Git may be anything, namespaces, CRDs and rights included, so
	// these two need every right there is, as in every Flux. A Kustomization or
	// HelmRelease with spec.serviceAccountName is applied with the rights of
	// that account instead.
	objs = append(objs, clusterRoleBinding("cluster-reconciler-"+FluxNamespace, "cluster-admin", "kustomize-controller", "helm-controller"))
	more, err := kube.Decode(manifests.Flux)
	if err != nil {
		return nil, err
	}
	objs = append(objs, more...)
	for _, o := range objs {
		for k, v := range fluxLabels {
			label(o, k, v)
		}
	}
	return objs, nil
}

// clusterRoleBinding gives a role to service accounts of Flux.
func clusterRoleBinding(name, role string, accounts ...string) *unstructured.Unstructured {
	var subjects []any
	for _, a := range accounts {
		subjects = append(subjects, map[string]any{"kind": "ServiceAccount", "name": a, "namespace": FluxNamespace})
	}
	return object("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "", name, map[string]any{
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
		"subjects": subjects,
	})
}

// patchFlux makes one of a controller's own manifests the lab's.
func patchFlux(o *unstructured.Unstructured, controller, image string) error {
	switch o.GetKind() {
	case "ClusterRole":
		// `flux install` gives all controllers the sum of their rights; here
		// each has its own, as its module lists them.
		o.SetName(controller + "-" + FluxNamespace)
		rules, _, err := unstructured.NestedSlice(o.Object, "rules")
		if err != nil {
			return fmt.Errorf("%s: %w", kube.Name(o), err)
		}
		// By this request a controller finds out that the API server limits its
		// clients itself, and need not limit its own calls.
		rules = append(rules, map[string]any{"nonResourceURLs": []any{"/livez/ping"}, "verbs": []any{"head"}})
		return unstructured.SetNestedSlice(o.Object, rules, "rules")
	case "Service":
		o.SetNamespace(FluxNamespace)
	case "Deployment":
		o.SetNamespace(FluxNamespace)
		return patchFluxDeployment(o, controller, image)
	}
	return nil
}

func patchFluxDeployment(o *unstructured.Unstructured, controller, image string) error {
	set := func(value any, path ...string) error {
		return unstructured.SetNestedField(o.Object, value, append([]string{"spec"}, path...)...)
	}
	err := errors.Join(
		set(controller, "template", "spec", "serviceAccountName"),
		// One at a time, and so without an election: after a kill its lease
		// would keep the next one waiting for 35 s.
		set(map[string]any{"type": "Recreate"}, "strategy"),
	)
	for k, v := range fluxLabels {
		err = errors.Join(err, set(v, "template", "metadata", "labels", k))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", kube.Name(o), err)
	}
	return eachContainer(o, func(c map[string]any) {
		quickProbe(c)
		c["image"] = image
		args, _ := c["args"].([]any)
		args = slices.DeleteFunc(args, func(a any) bool { return a == "--enable-leader-election" })
		if controller == "kustomize-controller" {
			args = append(args,
				// To fetch a remote base takes a git program, which the image has not.
				"--no-remote-bases=true",
				// What mllab applied becomes Git's, as what kubectl applied always
				// does: else a field that Git drops would stay for mllab's sake.
				"--override-manager=mllab",
				// Else an addon that waits for another one looks again only after
				// 30 s.
				"--requeue-dependency=1s",
			)
		}
		c["args"] = args
		c["resources"] = map[string]any{
			"requests": map[string]any{"cpu": "20m", "memory": "64Mi"},
			"limits":   map[string]any{"memory": "1Gi"}, // upstream's; its limit of CPU would only slow down the start
		}
	})
}

// verifyFlux gives each controller something to do, and waits for its answer:
// a repository at an address where there is none, and a Kustomization and a
// HelmRelease of it. What they say must be just that.
func verifyFlux(ctx context.Context, env Env, reason func(string)) (err error) {
	const ns, name = "default", "mllab-verify"
	source := map[string]any{"kind": "GitRepository", "name": name}
	objs := []*unstructured.Unstructured{
		object(fluxSources, "GitRepository", ns, name, map[string]any{"spec": map[string]any{
			"interval": "1h", "timeout": "20s", "url": "http://source-controller." + FluxNamespace + ".svc.cluster.local./none.git",
		}}),
		object(fluxKustomizations, "Kustomization", ns, name, map[string]any{"spec": map[string]any{
			"interval": "1h", "prune": true, "sourceRef": source,
		}}),
		object(fluxReleases, "HelmRelease", ns, name, map[string]any{"spec": map[string]any{
			"interval": "1h", "chart": map[string]any{"spec": map[string]any{"chart": "none", "sourceRef": source}},
		}}),
	}
	answers := map[string]string{"GitRepository": "GitOperationFailed", "Kustomization": "ArtifactFailed", "HelmRelease": "SourceNotReady"}
	defer func() { err = errors.Join(err, removeVerified(ctx, env, objs)) }()
	if _, err := env.Kube.Apply(ctx, objs); err != nil {
		return err
	}
	return poll(ctx, reason, "waiting for the answer of each controller", func(ctx context.Context) error {
		for _, o := range objs {
			_, why, message, err := fluxReady(ctx, env.Kube, o)
			if err != nil {
				return err
			}
			if want := answers[o.GetKind()]; why != want {
				return fmt.Errorf("%s: it says %q (%s), not yet %q", kube.Name(o), why, message, want)
			}
		}
		return nil
	})
}

// fluxReady reads the condition Ready that a controller has written for the
// newest spec; it is empty before that.
func fluxReady(ctx context.Context, c client.Reader, o *unstructured.Unstructured) (status, why, message string, err error) {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(o.GroupVersionKind())
	if err := c.Get(ctx, client.ObjectKeyFromObject(o), live); err != nil {
		return "", "", "", err
	}
	status, why, message = conditionReady(live)
	return status, why, message, nil
}

// conditionReady is fluxReady for an object that was read.
func conditionReady(live *unstructured.Unstructured) (status, why, message string) {
	if c, ok := kube.ConditionOf(live, "Ready"); ok && c.Of == live.GetGeneration() {
		return c.Status, c.Reason, c.Message
	}
	return "", "", ""
}

// Unready is an object of Flux that is not ready, and Flux's reason.
type Unready struct {
	Object string `json:"object"` // Kind/namespace/name
	Why    string `json:"why"`
}

// FluxUnready returns what users of Flux wrote and is not ready.
func FluxUnready(ctx context.Context, c *kube.Client) ([]Unready, error) {
	var list []Unready
	for _, kind := range [][2]string{{fluxSources, "GitRepository"}, {fluxKustomizations, "Kustomization"}, {fluxReleases, "HelmRelease"}} {
		objs, err := c.Objects(ctx, kind[0], kind[1])
		if err != nil {
			return nil, err
		}
		for _, o := range objs {
			if why := kube.NotReady(o); why != "" {
				list = append(list, Unready{kube.Name(o), why})
			}
		}
	}
	return list, nil
}

// removeVerified removes what an addon was verified with, also after ^C.
func removeVerified(ctx context.Context, env Env, objs []*unstructured.Unstructured) error {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer stop()
	if err := env.Kube.Delete(ctx, objs); err != nil {
		return fmt.Errorf("removing what was verified with: %w", err)
	}
	return nil
}
