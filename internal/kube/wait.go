package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// relist is the pause before a watch that ended, or could not begin, starts again from a list.
const relist = 500 * time.Millisecond

// Wait returns when every object is ready at the same time, by watching them and the pods of the workloads among them.
// reason (nil: nobody listens) gets why it still waits, such as "Deployment/istio-system/istiod: 0/1 ready, container discovery: pulling …",
// each time that changes, from this goroutine. A state that time cannot mend (see trouble) ends the wait at once
// with the pod's last log lines. The error of a ctx that ends holds the last reason of each object that was not ready.
func (c *Client) Wait(ctx context.Context, objs []*unstructured.Unstructured, reason func(string)) error {
	var more []source
	for _, obj := range objs {
		if HasPods(obj) {
			more = append(more, podsIn(obj.GetNamespace()), eventsIn(obj.GetNamespace()), replicaSetsIn(obj.GetNamespace()))
		}
	}
	return c.until(ctx, objs, reason, c.pending, more...)
}

// pending says why obj is not ready yet ("" when it is); an error when it never will be.
func (c *Client) pending(ctx context.Context, seen *view, obj, live *unstructured.Unstructured) (string, error) {
	if live == nil {
		return "not there yet", nil
	}
	h := healthOf(live)
	if h.ready {
		return "", nil
	}
	var worst *trouble
	if h.observed { // else its pods may still be those of the last generation
		for _, pod := range seen.podsOf(live) {
			found := diagnose(pod, seen.lastEvent(pod), time.Now(), seen.restartsBefore(pod))
			if (worst == nil || found.final && !worst.final) && found.text != "" && seen.current(live, pod) {
				worst = &found
			}
		}
	}
	if worst == nil {
		worst = &trouble{}
	}
	why := join(", ", h.why, worst.text)
	if h.failed || worst.final {
		return why, fmt.Errorf("%s: %s%s", Name(obj), why, c.logsOf(ctx, obj.GetNamespace(), *worst))
	}
	return why, nil
}

// judge says why obj, of which live is the newest state (nil: absent), is not as wished yet; "" when it is.
type judge func(ctx context.Context, seen *view, obj, live *unstructured.Unstructured) (string, error)

// until watches objs (and more sources) until judge is content with all of them at once.
func (c *Client) until(ctx context.Context, objs []*unstructured.Unstructured, reason func(string), judge judge, more ...source) error {
	if len(objs) == 0 {
		return nil
	}
	start := time.Now()
	seen := &view{known: map[source]map[string]*unstructured.Unstructured{}, failed: map[source]error{}, before: map[types.UID]map[string]int32{}}
	for _, obj := range objs {
		more = append(more, sourceOf(obj))
	}
	events := make(chan news, 256)
	watching, stop := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer stop()
	for _, s := range more {
		if _, twice := seen.known[s]; !twice {
			seen.known[s] = nil
			watchers.Go(func() { c.follow(watching, s, events) })
		}
	}
	tick := time.NewTicker(time.Second) // asks nobody: for what becomes final by age alone
	defer tick.Stop()
	whys := make([]string, len(objs))
	for i := range whys {
		whys[i] = "no answer from the API server yet"
	}
	for said := ""; ; {
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
				if whys[i] != "" {
					errs = append(errs, stopped(ctx, Name(obj), start, whys[i]))
				}
			}
			return errors.Join(errs...)
		}
		if !seen.complete() {
			continue
		}
		var waits []string
		for i, obj := range objs {
			s := sourceOf(obj)
			if err := seen.failed[s]; err != nil {
				whys[i] = line(err.Error())
			} else if whys[i], err = judge(ctx, seen, obj, seen.known[s][obj.GetName()]); err != nil && ctx.Err() == nil {
				return err
			}
			if whys[i] != "" {
				waits = append(waits, Name(obj)+": "+whys[i])
			}
		}
		if len(waits) == 0 {
			return nil
		}
		if len(waits) > 1 {
			waits[0] += fmt.Sprintf(" (and %d more)", len(waits)-1)
		}
		if waits[0] != said && reason != nil {
			reason(waits[0])
		}
		said = waits[0]
	}
}

// source is what one watch covers: a kind in a namespace, or in the cluster.
type source struct {
	gvk       schema.GroupVersionKind
	namespace string
}

func sourceOf(obj *unstructured.Unstructured) source {
	return source{obj.GroupVersionKind(), obj.GetNamespace()}
}

func podsIn(ns string) source   { return source{corev1.SchemeGroupVersion.WithKind("Pod"), ns} }
func eventsIn(ns string) source { return source{corev1.SchemeGroupVersion.WithKind("Event"), ns} }
func replicaSetsIn(ns string) source {
	return source{appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), ns}
}

// news is what a watch tells: everything (a list), one object that changed or went, or that it cannot watch now.
type news struct {
	from    source
	all     bool
	objects []*unstructured.Unstructured
	gone    bool
	err     error
}

// follow lists and watches s and sends the news until ctx ends. A watch that ends, as every watch does after some minutes, begins again from a list.
func (c *Client) follow(ctx context.Context, s source, out chan<- news) {
	send := func(n news) {
		n.from = s
		select {
		case out <- n:
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		if err := c.followOnce(ctx, s, send); err != nil {
			send(news{err: err})
		}
		select {
		case <-time.After(relist):
		case <-ctx.Done():
		}
	}
}

func (c *Client) followOnce(ctx context.Context, s source, send func(news)) error {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(s.gvk.GroupVersion().WithKind(s.gvk.Kind + "List"))
	opts := &client.ListOptions{Namespace: s.namespace}
	if err := c.List(ctx, list, opts); err != nil {
		return err
	}
	all := news{all: true}
	for i := range list.Items {
		all.objects = append(all.objects, &list.Items[i])
	}
	send(all)
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
			send(news{objects: []*unstructured.Unstructured{obj}, gone: e.Type == watch.Deleted})
		}
	}
	return nil
}

// view is what the watches have told so far.
type view struct {
	known  map[source]map[string]*unstructured.Unstructured // by name; nil until the first list
	failed map[source]error
	before map[types.UID]map[string]int32 // restarts of a pod's containers when it was first looked at
}

// restartsBefore is how often a pod's containers had restarted when it was first looked at.
func (v *view) restartsBefore(pod *corev1.Pod) map[string]int32 {
	before, known := v.before[pod.UID]
	if !known {
		before = map[string]int32{}
		for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			before[c.Name] = c.RestartCount
		}
		v.before[pod.UID] = before
	}
	return before
}

func (v *view) take(n news) {
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

// complete is true once every source has answered, if only with an error: before that, absent means nothing.
func (v *view) complete() bool {
	for s, objs := range v.known {
		if objs == nil && v.failed[s] == nil {
			return false
		}
	}
	return true
}
