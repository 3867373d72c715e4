// Package addons has the addons of the lab, one file each, their graph, and the
// installer.
//
// An addon is data: its objects are a pure function of image references, and
// its Verify uses it for real, as its users would, because an object's status
// says what a controller believes.
package addons

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
)

// Domain is the DNS suffix of every Knative Service: NAME.NAMESPACE.mllab.test.
const Domain = "mllab.test"

// NodePortHTTP is the node's port that reaches the gateway's port 80.
const NodePortHTTP = 30080

// Images gives the reference on the node for each component, for example
// "istio-pilot": "kind.local/istio-pilot:3f1c…".
type Images map[string]string

// Env is what an addon is verified with.
type Env struct {
	Kube    *kube.Client
	Gateway string // URL of the one gateway, http://127.0.0.1:8080
	Send    probe.Sender
}

// Use uses an addon on a cluster. It calls reason with what it waits for.
type Use func(ctx context.Context, env Env, reason func(string)) error

// Addon is one thing that the lab installs.
type Addon struct {
	Name, Summary string
	// Needs are addons that must be verified before this one's objects can be
	// applied.
	Needs []string
	// StartAfter are addons that must be available before this one's objects are
	// applied: they define kinds or namespaces, or check what is applied. The pods
	// of both start in parallel. They are verified before this one is.
	StartAfter []string
	// Brings are addons that come with this one. Neither waits for the other.
	Brings []string
	// Available, if any, returns when the addons that list this one in StartAfter
	// can be applied. Without it they can as soon as its objects are applied.
	Available Use
	// Images are the components that must be on the node.
	Images []string
	// Render, if any, returns the objects that a library of upstream's renders, such
	// as Helm's. They are added to those of manifests/addons/NAME. It is pure: no
	// cluster, and the same images give the same objects.
	Render func(im Images) ([]*unstructured.Unstructured, error)
	// PostApply, if any, runs after the other objects and before the pods are
	// applied. It creates what the pods need: secrets, and what a cloud provider
	// would do. A second call changes nothing.
	PostApply Use
	// Last names the workload, if any, that starts when the others are ready: it
	// would not find them before, and try again with growing pauses.
	Last string
	// Verify uses the addon for real, as soon as its objects are ready, and
	// leaves nothing behind.
	Verify Use
}

// Rendered is an addon and what is applied of it.
type Rendered struct {
	Addon
	Objects []*unstructured.Unstructured
}

// Render renders every addon of list in parallel, and returns them in list's
// order.
func Render(list []Addon, im Images) ([]Rendered, error) {
	all := make([]Rendered, len(list))
	var rendering errgroup.Group
	for i, a := range list {
		rendering.Go(func() error {
			objs, err := a.objects(im)
			if err != nil {
				return fmt.Errorf("rendering %s: %w", a.Name, err)
			}
			all[i] = Rendered{a, objs}
			return nil
		})
	}
	if err := rendering.Wait(); err != nil {
		return nil, err
	}
	return all, nil
}

// All returns every addon, each after those that it needs, starts after or brings.
func All() []Addon {
	return []Addon{
		gatewayAPI(), istio(), network(), knative(), sample(), flux(), git(),
		jobset(), trainer(), kserve(), argo(), labRegistry(), kubeflow(),
		prometheus(), alertmanager(), flagger(), progressive(),
	}
}

// Core names the addons of the small lab.
func Core() []string { return []string{"gateway-api", "istio", "network", "knative", "sample"} }

// Whole names the addons of the lab as `up` makes it by default; what they need
// comes with them. The others are optional.
func Whole() []string { return append(Core(), "git", "kubeflow") }

// Names returns the names of a list's addons.
func Names(list []Addon) []string {
	var names []string
	for _, a := range list {
		names = append(names, a.Name)
	}
	return names
}

// Select returns the named addons with everything they need, in the order of All. An unknown name is wrong use.
func Select(names ...string) ([]Addon, error) {
	all := All()
	known := Names(all)
	wanted := map[string]bool{}
	for _, name := range names {
		if name == "all" {
			for _, each := range known {
				wanted[each] = true
			}
		} else if !slices.Contains(known, name) {
			return nil, fault.Usage("addons are: "+strings.Join(known, ", ")+"; or all", "no addon is called %q", name)
		}
		wanted[name] = true
	}
	for _, a := range slices.Backward(all) {
		if wanted[a.Name] {
			for _, need := range slices.Concat(a.Needs, a.StartAfter, a.Brings) {
				wanted[need] = true
			}
		}
	}
	return slices.DeleteFunc(all, func(a Addon) bool { return !wanted[a.Name] }), nil
}
