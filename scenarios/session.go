package scenarios

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"knative.dev/networking/pkg/apis/networking"
	"knative.dev/serving/pkg/apis/serving"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
	"mllab.local/internal/proxy"
)

// Env is a lab that is up. Nothing changes it, so all runs share one.
type Env struct {
	Kube     *kube.Client
	Gateway  string   // URL of the one gateway
	Domain   string   // suffix of the hosts behind it
	Git      *url.URL // the lab's repository through the gateway, with its token; nil without the addon git
	Image    string   // the sample model's image on the node
	Python   string   // the image with Python and scikit-learn; empty without the addon kubeflow
	Runner   string   // the image of what runs a pushed notebook; empty without the addon kubeflow
	Registry string   // the lab's registry as pods and the node know it
	Evidence string   // folder for what the runs saw; empty keeps nothing
	Call     Call
	// Events, if any, is called with all that happens, never twice at once for
	// one run, but by several runs at once.
	Events func(Event)
	// CPU, if any, returns the CPU time that the node has used, in seconds.
	CPU func(context.Context) (float64, error)
	// Teach, if any, shows a person what comes next and returns when they go on.
	Teach func(ctx context.Context, lesson Lesson) error
}

// Session is one run on a lab. What it does there are its verbs, and below is what
// they keep: no story reads or writes it, a test of internal/arch says so.
type Session struct {
	*Env
	probe.Sender         // of the run's requests
	Namespace     string // the run's own
	job           Job    // that is run
	severalModels bool   // as Plan says
	events        *stream

	writes
	leftovers
	record
	teacher

	// rejections asks which proxies refuse their configuration, and flaggerLog what
	// Flagger has logged.
	rejections func(context.Context) ([]proxy.Rejection, error)
	flaggerLog func(context.Context) (string, error)
}

// writes is what a run has written to the API server.
type writes struct {
	writer       *kube.Client                  // of the objects of a user's scenario; nil: Kube writes them
	applied      []*unstructured.Unstructured  // the newest state of each object, in the order of their first apply
	lastApply    time.Time                     // when the newest change was sent: a person who is taught reads before that
	routeVersion int                           // of the newest state of a route
	untouched    []func(context.Context) error // what checkInterference asks, too: about what apply does not know of
}

// leftovers is what has to be taken back after a run.
type leftovers struct {
	runID         string // labels the namespace; empty until the namespace is created
	keepNamespace bool
	cleanups      []func()
	removals      []func(context.Context) error
}

// cleanup has f called after the run, however that ends; the last one first.
func (l *leftovers) cleanup(f func()) { l.cleanups = append(l.cleanups, f) }

// removal has f called before the namespace is removed, unless that is kept: it
// removes what was not made by apply.
func (l *leftovers) removal(f func(context.Context) error) { l.removals = append(l.removals, f) }

// host is the name under which the gateway serves something of the run's: a
// Knative Service, or the hosts of a VirtualService.
func (l *Session) host(name string) string {
	return name + "." + l.Namespace + "." + l.Domain
}

// to is a request to the gateway for that name.
func (l *Session) to(name string) probe.Request {
	return probe.Request{URL: l.Gateway, Host: l.host(name)}
}

// asked is the model that a request asks, in a run that asks several.
func (l *Session) asked(r probe.Request) string {
	if !l.severalModels {
		return ""
	}
	return strings.TrimSuffix(r.Host, l.host(""))
}

// apply writes objects into the run's namespace and returns when they are
// ready.
func (l *Session) apply(ctx context.Context, objs ...*unstructured.Unstructured) error {
	if err := l.write(ctx, objs...); err != nil {
		return err
	}
	return l.wait(ctx, objs...)
}

// wait returns when objects are ready, and the gateway follows the routes of
// those that are Knative Services.
func (l *Session) wait(ctx context.Context, objs ...*unstructured.Unstructured) error {
	if err := l.Kube.Wait(ctx, objs, l.events.wait); err != nil {
		return err
	}
	for _, o := range objs {
		if o.GroupVersionKind().Group != serving.GroupName || o.GetKind() != "Service" || o.GetLabels()[networking.VisibilityLabelKey] == serving.VisibilityClusterLocal {
			continue // the gateway has a route for no other
		}
		names := []string{o.GetName()}
		traffic, _, _ := unstructured.NestedSlice(o.Object, "spec", "traffic")
		for _, each := range traffic {
			leg, _ := each.(map[string]any)
			if tag, _ := leg["tag"].(string); tag != "" {
				names = append(names, tag+"-"+o.GetName())
			}
		}
		for _, name := range names {
			if err := l.routed(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// allReady is wait for all that the run has applied.
func (l *Session) allReady(ctx context.Context) error { return l.wait(ctx, l.applied...) }

// write is apply without the wait, for what is not meant to become ready.
func (l *Session) write(ctx context.Context, objs ...*unstructured.Unstructured) error {
	for _, o := range objs {
		o.SetNamespace(l.Namespace)
	}
	if err := l.teach(ctx, l.changes(objs)); err != nil {
		return err
	}
	return l.put(ctx, objs...)
}

// put is write of objects that have the namespace, and that no person is asked
// about before: for what cannot wait.
func (l *Session) put(ctx context.Context, objs ...*unstructured.Unstructured) error {
	for _, o := range objs {
		o = o.DeepCopy() // the story may go on with its own
		if i := l.find(o); i >= 0 {
			l.applied[i] = o
		} else {
			l.applied = append(l.applied, o)
		}
	}
	l.lastApply = time.Now()
	_, err := cmp.Or(l.writer, l.Kube).Apply(ctx, objs)
	return err
}

// remove deletes objects of the run and returns when they are gone, and with a
// Deployment its pods.
func (l *Session) remove(ctx context.Context, objs ...*unstructured.Unstructured) error {
	for _, o := range objs {
		o.SetNamespace(l.Namespace)
	}
	if err := l.teach(ctx, deletions(objs)); err != nil {
		return err
	}
	for _, o := range objs {
		if i := l.find(o); i >= 0 {
			l.applied = slices.Delete(l.applied, i, i+1)
		}
	}
	if err := cmp.Or(l.writer, l.Kube).Delete(ctx, objs); err != nil {
		return err
	}
	for _, o := range objs {
		labels, _, _ := unstructured.NestedStringMap(o.Object, "spec", "selector", "matchLabels")
		if o.GetKind() != "Deployment" || len(labels) == 0 {
			continue
		}
		if err := l.until(ctx, "its pods to go", func() string {
			pods, err := l.Kube.Pods(ctx, l.Namespace, labels)
			switch {
			case err != nil:
				return err.Error()
			case len(pods) > 0:
				return "Pod/" + pods[0].Name + " is there"
			}
			return ""
		}); err != nil {
			return err
		}
	}
	return nil
}

// newestApply is when the newest change was sent.
func (l *writes) newestApply() time.Time { return l.lastApply }

// find is the place of o among what was applied, or -1.
func (l *writes) find(o *unstructured.Unstructured) int {
	return slices.IndexFunc(l.applied, func(has *unstructured.Unstructured) bool {
		return has.GroupVersionKind() == o.GroupVersionKind() && has.GetName() == o.GetName()
	})
}

// checkInterference returns an error if somebody else has changed the objects of
// the run: then the verdict would be about something else.
func (l *Session) checkInterference(ctx context.Context) error {
	changed, err := l.Kube.Drift(ctx, l.applied)
	if err == nil && len(changed) > 0 {
		// Check twice, because somebody may write an annotation for a moment. A
		// real change is still there.
		changed, err = l.Kube.Drift(ctx, l.applied)
	}
	if err != nil {
		return fmt.Errorf("checking whether somebody changed the run's objects: %w", err)
	}
	if len(changed) > 0 {
		return l.interference("changed " + strings.Join(changed, ", "))
	}
	for _, f := range l.untouched {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (l *Session) interference(what string) error {
	return fault.CannotTest("leave namespace "+l.Namespace+" alone while it runs, and run it again",
		"somebody else %s meanwhile: what was seen proves nothing", what)
}

// patch changes a live object as somebody else would: the run takes no note of it. A
// list is a JSON patch, and anything else is merged.
func (l *Session) patch(ctx context.Context, o client.Object, patch string, by ...client.PatchOption) error {
	kind := types.MergePatchType
	if strings.HasPrefix(patch, "[") {
		kind = types.JSONPatchType
	}
	return l.Kube.Patch(ctx, o, client.RawPatch(kind, []byte(patch)), by...)
}

// byKubectl has a patch come from `kubectl edit`.
const byKubectl = client.FieldOwner("kubectl-edit")
