package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/fluxcd/pkg/ssa"
	ssaerrors "github.com/fluxcd/pkg/ssa/errors"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// parallel is the number of objects that are written at once.
const parallel = 16

// Change is the result of applying one object. Object is its Name. Action is "created", "configured" or "unchanged".
type Change struct {
	Object string `json:"object"`
	Action string `json:"action"`
}

// The order of writing; Delete reverses it. Objects of one stage do not depend on each other.
const (
	definitions = iota // namespaces, CRDs and cluster roles, which the others depend on
	builtins           // kinds that every API server has
	customs            // objects of CRDs
	webhooks           // last: a webhook whose server is not ready would refuse the other objects
	stages
)

func stage(obj *unstructured.Unstructured) int {
	switch obj.GetKind() {
	case "Namespace", "CustomResourceDefinition", "ClusterRole":
		return definitions
	case "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration":
		return webhooks
	}
	if scheme.Scheme.IsGroupRegistered(obj.GroupVersionKind().Group) {
		return builtins
	}
	return customs
}

func staged(objs []*unstructured.Unstructured) [stages][]*unstructured.Unstructured {
	var byStage [stages][]*unstructured.Unstructured
	for _, obj := range objs {
		byStage[stage(obj)] = append(byStage[stage(obj)], obj)
	}
	for _, s := range byStage {
		sort.Stable(ssa.SortableUnstructureds(s)) // service accounts and configuration before the objects that use them
	}
	return byStage
}

func isCRD(obj *unstructured.Unstructured) bool { return obj.GetKind() == "CustomResourceDefinition" }

func inParallel(ctx context.Context, objs []*unstructured.Unstructured, do func(ctx context.Context, i int, obj *unstructured.Unstructured) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, obj := range objs {
		g.Go(func() error { return do(ctx, i, obj) })
	}
	return g.Wait()
}

// Apply writes objs by server-side apply and returns the result for each object, in the order of writing. An object that has
// all of it already (see hasApplied), or whose dry run changes nothing, is "unchanged" and is not written. An absent object is
// written without a dry run. Apply restores
// the fields that mllab set and others changed, except those that upstream leaves to its controllers (see prepare). It
// repeats calls that fail because a webhook or the API server is not serving yet, until ctx ends; the error then has the
// last refusal. With an error, Apply also returns the changes made before it. After it, the kinds that it created can be watched.
func (c *Client) Apply(ctx context.Context, objs []*unstructured.Unstructured) ([]Change, error) {
	var changes []Change
	ctx, stop := context.WithCancel(ctx)
	var watchable errgroup.Group // the new kinds, while the other objects are written
	defer watchable.Wait()
	defer stop()
	fresh := map[schema.GroupKind]bool{} // kinds that this call defines: the server may need a moment to serve them
	for _, objs := range staged(objs) {
		crds := make([]*unstructured.Unstructured, len(objs)) // that are not known to be served
		made := make([]Change, len(objs))
		for _, obj := range objs {
			if isCRD(obj) {
				fresh[definedKind(obj)] = true
			}
		}
		err := inParallel(ctx, objs, func(ctx context.Context, i int, obj *unstructured.Unstructured) error {
			return retry(ctx, obj, fresh[obj.GroupVersionKind().GroupKind()], func() error {
				action, before, err := c.applyOnce(ctx, obj)
				if err != nil {
					return err
				}
				made[i] = Change{Object: Name(obj), Action: action.String()}
				if isCRD(obj) && (action != ssa.UnchangedAction || !healthOf(before).ready) {
					crds[i] = obj
				}
				return nil
			})
		})
		var created []*unstructured.Unstructured // of crds: they have no objects that a webhook would have to convert
		for i, crd := range crds {
			if crd != nil && made[i].Action == ssa.CreatedAction.String() {
				created = append(created, crd)
			}
		}
		changes = append(changes, slices.DeleteFunc(made, func(c Change) bool { return c.Action == "" })...)
		if err == nil {
			err = c.Wait(ctx, slices.DeleteFunc(crds, func(crd *unstructured.Unstructured) bool { return crd == nil }), nil)
			watchable.Go(func() error { return inParallel(ctx, created, c.makeWatchable) })
		}
		if err != nil {
			return changes, err
		}
	}
	return changes, watchable.Wait()
}

// makeWatchable returns when the server lets everybody watch a new kind. It makes the kind's cache at the first request, and
// refuses to watch until that is filled. It names a pause of a second, so a controller that asked first would begin that much later.
// https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/4568-resilient-watchcache-initialization
func (c *Client) makeWatchable(ctx context.Context, _ int, crd *unstructured.Unstructured) error {
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	plural, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "plural")
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, v := range versions {
		v, _ := v.(map[string]any)
		if name, _ := v["name"].(string); v["served"] == true {
			err := retry(ctx, crd, true, func() error { // what has version 0 comes from the cache; no object has this name
				return c.core.RESTClient().Get().AbsPath("/apis", group, name, plural).Param("resourceVersion", "0").
					Param("fieldSelector", "metadata.name=-").MaxRetries(0).Do(ctx).Error()
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Accepts returns nil if the cluster would create obj: it is a dry run, in an existing namespace. The namespace of obj need
// not exist. An object of the same name there is no error.
func (c *Client) Accepts(ctx context.Context, obj *unstructured.Unstructured, namespace string) error {
	return retry(ctx, obj, false, func() error {
		tried := obj.DeepCopy()
		tried.SetNamespace(namespace)
		err := c.Create(ctx, tried, client.DryRunAll)
		if apierrors.IsAlreadyExists(err) { // the server checks this after admission
			return nil
		}
		return err
	})
}

// Drift returns the names of the objects that an Apply would change: somebody else changed or removed them. It writes
// nothing. DriftOf returns the fields, too.
func (c *Client) Drift(ctx context.Context, objs []*unstructured.Unstructured) ([]string, error) {
	drifted := make([]string, len(objs))
	err := inParallel(ctx, objs, func(ctx context.Context, i int, obj *unstructured.Unstructured) error {
		return retry(ctx, obj, false, func() error {
			live, err := c.live(ctx, obj)
			if err != nil {
				return err
			}
			ready, err := prepare(obj, live)
			if err != nil || live != nil && hasApplied(owner, ready, live) {
				return err
			}
			entry, _, _, err := c.manager.Diff(ctx, ready, ssa.DefaultDiffOptions())
			if err == nil && entry.Action != ssa.UnchangedAction {
				drifted[i] = Name(obj)
			}
			return err
		})
	})
	return slices.DeleteFunc(drifted, func(name string) bool { return name == "" }), err
}

// Prepared returns objs as Apply would send them now: without the fields that are left to controllers (see prepare).
func (c *Client) Prepared(ctx context.Context, objs []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	sent := make([]*unstructured.Unstructured, len(objs))
	for i, obj := range objs {
		err := retry(ctx, obj, false, func() (err error) {
			var live *unstructured.Unstructured
			if stage(obj) == webhooks { // prepare asks for no other
				live, err = c.live(ctx, obj)
			}
			if err == nil {
				sent[i], err = prepare(obj, live)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return sent, nil
}

// errBeingDeleted means that the object that is there is about to go: what is applied to it would go with it.
var errBeingDeleted = errors.New("it is being deleted")

// applyOnce also returns the object as it was before, or nil if it was absent.
func (c *Client) applyOnce(ctx context.Context, obj *unstructured.Unstructured) (ssa.Action, *unstructured.Unstructured, error) {
	before, err := c.live(ctx, obj)
	if err != nil {
		return "", nil, err
	}
	if before != nil && before.GetDeletionTimestamp() != nil {
		return "", nil, errBeingDeleted
	}
	ready, err := prepare(obj, before)
	if err != nil {
		return "", nil, err
	}
	if before == nil { // it needs no dry run; on a new cluster that would double the server's work
		err := c.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(ready), client.ForceOwnership, client.FieldOwner(owner))
		return ssa.CreatedAction, nil, err
	}
	if hasApplied(owner, ready, before) {
		return ssa.UnchangedAction, before, nil
	}
	entry, err := c.manager.Apply(ctx, ready, ssa.DefaultApplyOptions())
	if err != nil {
		return "", nil, err
	}
	return entry.Action, before, nil
}

// live returns obj as the cluster has it, or nil if it is absent.
func (c *Client) live(ctx context.Context, obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(obj.GroupVersionKind())
	if err := c.Get(ctx, client.ObjectKeyFromObject(obj), live); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return live, nil
}

func definedKind(crd *unstructured.Unstructured) schema.GroupKind {
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
	return schema.GroupKind{Group: group, Kind: kind}
}

// prepare copies obj without the fields that are placeholders in upstream's manifest and that a controller sets in the
// cluster. If mllab applied them, it and the controller would overwrite each other: no apply would ever be "unchanged".
//   - A CRD's conversion caBundle.
//   - The rules of an aggregated ClusterRole: https://kubernetes.io/docs/reference/access-authn-authz/rbac/#aggregated-clusterroles
//   - The fields that another manager has written into the webhooks of a webhook configuration. Knative's webhook computes rules,
//     namespaceSelector, caBundle and path: https://github.com/knative/pkg/blob/main/webhook/resourcesemantics/defaulting/defaulting.go ;
//     istiod sets caBundle, and sets failurePolicy to Fail when it serves.
//
// A Secret that is empty upstream needs no exception: an apply changes only the keys that it names. live is obj as the cluster
// has it; nil if it is absent, or has no webhooks.
func prepare(obj, live *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	obj = obj.DeepCopy()
	switch obj.GetKind() {
	case "CustomResourceDefinition":
		unstructured.RemoveNestedField(obj.Object, "spec", "conversion", "webhook", "clientConfig", "caBundle")
	case "ClusterRole":
		if _, aggregated := obj.Object["aggregationRule"]; aggregated {
			delete(obj.Object, "rules")
		}
	case "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration":
		if live != nil {
			return obj, dropForeignFields(obj, live)
		}
	}
	return obj, nil
}

// retry repeats try while the error is transient, until ctx ends. Errors begin with obj's Name.
func retry(ctx context.Context, obj *unstructured.Unstructured, fresh bool, try func() error) error {
	start := time.Now()
	var last error
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		err := try()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil { // else err only says that ctx ended
			last = err
		}
		last = serverError(last)
		if ctx.Err() == nil && !isTransient(last, fresh) {
			return fmt.Errorf("%s: %w", Name(obj), last)
		}
		select {
		case <-ctx.Done():
			return stopErrorOf(ctx, Name(obj), start, last.Error())
		case <-time.After(pause):
		}
	}
}

// serverError returns the cluster's own error, without the prefix of the apply library.
func serverError(err error) error {
	if dryRun, is := errors.AsType[*ssaerrors.DryRunErr](err); is {
		return dryRun.Unwrap()
	}
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		return status.(error)
	}
	return err
}

// isTransient reports whether an error comes from a cluster that is still starting. fresh means that obj's kind was defined
// a moment ago.
func isTransient(err error, fresh bool) bool {
	text := err.Error()
	if fresh && (meta.IsNoMatchError(err) || strings.Contains(text, "could not find the requested resource")) {
		return true
	}
	// The API server reports a webhook that it cannot reach as an internal error, which has no reason of its own.
	// Until the server knows its range of Services, it says that the range is full.
	return errors.Is(err, errBeingDeleted) || strings.Contains(text, "failed to allocate a serviceIP") ||
		strings.Contains(text, "failed calling webhook") || strings.Contains(text, "conversion webhook for") ||
		apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) ||
		apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || // two writers at once; the next try sees the other's write
		utilnet.IsConnectionRefused(err) || utilnet.IsConnectionReset(err) || utilnet.IsProbableEOF(err)
}

// stopError is the error of a wait that ctx ended, with its last reason. errors.Is finds context.DeadlineExceeded or
// context.Canceled in it.
type stopError struct {
	text  string
	cause error
}

func (e *stopError) Error() string { return e.text }
func (e *stopError) Unwrap() error { return e.cause }

func stopErrorOf(ctx context.Context, name string, since time.Time, last string) error {
	cause := ctx.Err()
	what := cause.Error()
	if errors.Is(cause, context.DeadlineExceeded) {
		what = fmt.Sprintf("timeout after %s", time.Since(since).Round(100*time.Millisecond))
	}
	return &stopError{text: fmt.Sprintf("%s: %s (last: %s)", name, what, last), cause: cause}
}

// Refused reports whether err is the API server's refusal of an object for a reason with these words; with none, for
// whatever reason. A Status has the reason of a policy or a webhook in its message only, and no field that names either.
func Refused(err error, words string) bool {
	return (apierrors.IsBadRequest(err) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err)) && strings.Contains(err.Error(), words)
}
