package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// relist is the pause before a watch that ended, or could not begin, starts again from a list.
const relist = 500 * time.Millisecond

// Wait returns when every object is ready at the same time. It watches them and the pods of the workloads among them.
// Wait calls reason (unless it is nil) from this goroutine each time the reason changes, with a text such as
// "Deployment/istio-system/istiod: 0/1 ready, container discovery: pulling …". A final state (see notReadyReason) ends the
// wait at once; the error has the pod's last log lines. When ctx ends, the error has the last reason of each object that
// was not ready.
func (c *Client) Wait(ctx context.Context, objs []*unstructured.Unstructured, reason func(string)) error {
	var more []source
	for _, obj := range objs {
		if HasPods(obj) {
			more = append(more, podsIn(obj.GetNamespace()), eventsIn(obj.GetNamespace()), replicaSetsIn(obj.GetNamespace()))
		}
	}
	return c.until(ctx, objs, reason, c.pending, more...)
}

// WaitApplied is Wait for objs that an Apply has written. It asks only for those that may not be ready then: an object without
// a status that says otherwise is ready when it exists, and Apply itself waits for CRDs.
func (c *Client) WaitApplied(ctx context.Context, objs []*unstructured.Unstructured, reason func(string)) error {
	return c.Wait(ctx, slices.DeleteFunc(slices.Clone(objs), func(obj *unstructured.Unstructured) bool {
		return isCRD(obj) || healthOf(obj).ready
	}), reason)
}

// pending returns why obj is not ready yet, or "" when it is ready. A final state is an error.
func (c *Client) pending(ctx context.Context, seen *snapshot, obj, live *unstructured.Unstructured) (string, error) {
	if live == nil {
		return "not there yet", nil
	}
	h := healthOf(live)
	if h.ready {
		return "", nil
	}
	var found *notReadyReason
	if h.observed { // else its pods may still be those of the last generation
		for _, pod := range seen.podsOf(live) {
			next := diagnose(pod, seen.lastEvent(pod), time.Now(), seen.before.of(pod).restarts)
			if (found == nil || next.final && !found.final) && next.text != "" && seen.current(live, pod) {
				found = &next
			}
		}
	}
	if found == nil {
		found = &notReadyReason{}
	}
	why := join(", ", h.why, found.text)
	if h.failed || found.final {
		return why, fmt.Errorf("%s: %s%s", Name(obj), why, c.logsOf(ctx, obj.GetNamespace(), *found))
	}
	return why, nil
}

// check returns why the wait for obj goes on, or "" when it is over. live is the newest state of obj; nil means absent.
type check func(ctx context.Context, seen *snapshot, obj, live *unstructured.Unstructured) (string, error)

// until watches objs until check returns "" for all of them at once. more are sources that check needs for its reasons. If the
// first lists of objs show that there is nothing to wait for, until watches nothing and reads no more.
func (c *Client) until(ctx context.Context, objs []*unstructured.Unstructured, reason func(string), check check, more ...source) error {
	if len(objs) == 0 {
		return nil
	}
	start := time.Now()
	seen := &snapshot{known: map[source]map[string]*unstructured.Unstructured{}, failed: map[source]error{}, before: Before{}}
	events := make(chan watchUpdate, 256)
	waits := make(chan struct{}) // closed when there is something to wait for
	wait := sync.OnceFunc(func() { close(waits) })
	watching, stop := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer stop()
	follow := func(s source) {
		if _, twice := seen.known[s]; !twice {
			seen.known[s] = nil
			watchers.Go(func() { c.follow(watching, s, waits, events) })
		}
	}
	for _, obj := range objs {
		follow(sourceOf(obj))
	}
	tick := time.NewTicker(time.Second) // sends no request: some states become final by age alone
	defer tick.Stop()
	reasons := make([]string, len(objs))
	for i := range reasons {
		reasons[i] = "no answer from the API server yet"
	}
	for lastReason := ""; ; {
		select {
		case n := <-events:
			seen.take(n)
			for len(events) > 0 {
				seen.take(<-events)
			}
		case <-tick.C:
		case <-ctx.Done():
			var errs []error
			for i, obj := range objs {
				if reasons[i] != "" {
					errs = append(errs, stopErrorOf(ctx, Name(obj), start, reasons[i]))
				}
			}
			return errors.Join(errs...)
		}
		if !seen.complete() {
			continue
		}
		var waiting []string
		for i, obj := range objs {
			s := sourceOf(obj)
			if err := seen.failed[s]; err != nil {
				reasons[i] = firstLine(ErrorText(err))
			} else if reasons[i], err = check(ctx, seen, obj, seen.known[s][obj.GetName()]); err != nil && ctx.Err() == nil && len(more) == 0 {
				return err
			}
			if reasons[i] != "" {
				waiting = append(waiting, Name(obj)+": "+reasons[i])
			}
		}
		if len(waiting) == 0 {
			return nil
		}
		if wait(); len(more) > 0 {
			for _, s := range more {
				follow(s)
			}
			more = nil
			continue
		}
		if len(waiting) > 1 {
			waiting[0] += fmt.Sprintf(" (and %d more)", len(waiting)-1)
		}
		if waiting[0] != lastReason && reason != nil {
			reason(waiting[0])
		}
		lastReason = waiting[0]
	}
}

// source identifies one watch: a kind in a namespace, or in the cluster; or the one object of this name.
type source struct {
	gvk             schema.GroupVersionKind
	namespace, name string
}

func sourceOf(obj *unstructured.Unstructured) source {
	s := source{gvk: obj.GroupVersionKind(), namespace: obj.GetNamespace()}
	if isCRD(obj) {
		s.name = obj.GetName() // those of all addons are megabytes of schemas
	}
	return s
}

func podsIn(ns string) source {
	return source{gvk: corev1.SchemeGroupVersion.WithKind("Pod"), namespace: ns}
}

func eventsIn(ns string) source {
	return source{gvk: corev1.SchemeGroupVersion.WithKind("Event"), namespace: ns}
}

func replicaSetsIn(ns string) source {
	return source{gvk: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), namespace: ns}
}

// watchUpdate is one message of a watch: a full list, one object that changed or was deleted, or an error.
type watchUpdate struct {
	from    source
	all     bool
	objects []*unstructured.Unstructured
	gone    bool
	err     error
}

// follow lists s and, once waits is closed (nil: at once), watches it, and sends the updates until ctx ends. The server ends
// every watch after some minutes; follow then starts again from a list.
func (c *Client) follow(ctx context.Context, s source, waits <-chan struct{}, out chan<- watchUpdate) {
	send := func(n watchUpdate) {
		n.from = s
		select {
		case out <- n:
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		if err := c.followOnce(ctx, s, waits, send); err != nil {
			send(watchUpdate{err: err})
		}
		select {
		case <-time.After(relist):
		case <-ctx.Done():
		}
	}
}

func (c *Client) followOnce(ctx context.Context, s source, waits <-chan struct{}, send func(watchUpdate)) error {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(s.gvk.GroupVersion().WithKind(s.gvk.Kind + "List"))
	opts := &client.ListOptions{Namespace: s.namespace}
	if s.name != "" {
		opts.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, s.name)
	}
	if err := c.List(ctx, list, opts); err != nil {
		return err
	}
	all := watchUpdate{all: true}
	for i := range list.Items {
		all.objects = append(all.objects, &list.Items[i])
	}
	send(all)
	if waits != nil {
		select {
		case <-waits:
		case <-ctx.Done():
			return nil
		}
	}
	opts.Raw = &metav1.ListOptions{ResourceVersion: list.GetResourceVersion()}
	w, err := c.watcher.Watch(ctx, list, opts)
	if err != nil {
		return err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if e.Type == watch.Error {
			if err := apierrors.FromObject(e.Object); !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
				return err
			}
			return nil
		}
		if obj, ok := e.Object.(*unstructured.Unstructured); ok {
			send(watchUpdate{objects: []*unstructured.Unstructured{obj}, gone: e.Type == watch.Deleted})
		}
	}
	return nil
}

// snapshot is the state that the watches have reported so far.
type snapshot struct {
	known  map[source]map[string]*unstructured.Unstructured // by name; nil until the first list
	failed map[source]error
	before Before
}

func (v *snapshot) take(n watchUpdate) {
	if v.failed[n.from] = n.err; n.err != nil {
		return
	}
	if n.all {
		v.known[n.from] = map[string]*unstructured.Unstructured{}
	}
	for _, obj := range n.objects {
		if n.gone {
			delete(v.known[n.from], obj.GetName())
		} else {
			v.known[n.from][obj.GetName()] = obj
		}
	}
}

// complete reports whether every source has answered, if only with an error. Before that, an absent object says nothing.
func (v *snapshot) complete() bool {
	for s, objs := range v.known {
		if objs == nil && v.failed[s] == nil {
			return false
		}
	}
	return true
}

// ErrorText returns the text of an error of the API: without the port of this side, which is another one for each
// connection, so that the same reason has the same text.
func ErrorText(err error) string {
	if failed, is := errors.AsType[*net.OpError](err); is && failed.Addr != nil {
		return fmt.Sprintf("%s %s: %v", failed.Op, failed.Addr, failed.Err)
	}
	return err.Error()
}
