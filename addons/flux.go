package addons

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/kube"
)

const fluxNamespace = "flux-system"

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
		Name:    "flux",
		Summary: "Flux: source-controller, kustomize-controller and helm-controller",
		Verify:  verifyFlux,
	}
	for _, c := range fluxControllers {
		a.Images = append(a.Images, "flux-"+c)
	}
	return a
}

// verifyFlux gives each controller something to do, and waits for its answer:
// a repository at an address that serves no repository, and a Kustomization and a
// HelmRelease of it. What they say must be just that.
func verifyFlux(ctx context.Context, env Env, reason func(string)) error {
	objs, err := verification("flux")
	if err != nil {
		return err
	}
	answers := map[string]string{"GitRepository": "GitOperationFailed", "Kustomization": "ArtifactFailed", "HelmRelease": "SourceNotReady"}
	return useAll(ctx, env, reason, "waiting for the answer of each controller", objs, func(ctx context.Context) error {
		for _, o := range objs {
			live, err := read(ctx, env.Kube, o)
			if err != nil {
				return err
			}
			if ready, want := fluxReady(live), answers[o.GetKind()]; ready.Reason != want {
				return fmt.Errorf("%s: it says %q (%s), not yet %q", kube.Name(o), ready.Reason, ready.Message, want)
			}
		}
		return nil
	})
}

// fluxReady returns the condition Ready that a controller has written for the
// newest spec; it is empty before that.
func fluxReady(live *unstructured.Unstructured) kube.Condition {
	if c, ok := kube.ConditionOf(live, "Ready"); ok && c.Of == live.GetGeneration() {
		return c
	}
	return kube.Condition{}
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
