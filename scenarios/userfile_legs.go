package scenarios

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
)

// leg is one destination of a route from the gateway.
type leg struct {
	Name           string // SERVICE or SERVICE/SUBSET, as a file writes it
	Route, Request string // of a VirtualService's rule, in JSON: to this destination only, with these changes of the request
}

// legsOf returns the destinations that requests to a host can reach by these
// objects' routes, copies of requests too. Nothing reaches one of weight 0.
func legsOf(objs []*unstructured.Unstructured, host string) (legs []leg, err error) {
	type percentage struct{ Value *float64 }
	type part = map[string]any
	type way struct {
		Destination part
		Headers     struct{ Request part }
		Weight      float64
		Percentage  percentage // of a mirror
	}
	_, parent, _ := strings.Cut(host, ".")
	for _, o := range objs {
		var v struct {
			Spec struct {
				Hosts, Gateways []string
				HTTP            []struct {
					Match []struct {
						Authority struct{ Exact string }
						Gateways  []string
					}
					Headers          struct{ Request part }
					Route, Mirrors   []way
					Mirror           part
					MirrorPercentage percentage
				}
			}
		}
		if o.GetKind() != "VirtualService" {
			continue
		}
		if err := kube.Into(o.Object, &v); err != nil {
			return nil, fmt.Errorf("reading VirtualService/%s: %w", o.GetName(), err)
		}
		serves := slices.Contains(v.Spec.Hosts, host) || slices.Contains(v.Spec.Hosts, "*."+parent)
		if !serves || !atGateway(v.Spec.Gateways) {
			continue
		}
		for _, rule := range v.Spec.HTTP {
			reached := len(rule.Match) == 0
			for _, m := range rule.Match {
				reached = reached || (m.Authority.Exact == "" || m.Authority.Exact == host) && (len(m.Gateways) == 0 || atGateway(m.Gateways))
			}
			if !reached {
				continue
			}
			if rule.Mirror != nil {
				rule.Mirrors = append(rule.Mirrors, way{Destination: rule.Mirror, Percentage: rule.MirrorPercentage})
			}
			used := slices.DeleteFunc(rule.Route, func(w way) bool { return w.Weight == 0 && len(rule.Route) > 1 })
			copied := slices.DeleteFunc(rule.Mirrors, func(w way) bool { return w.Percentage.Value != nil && *w.Percentage.Value == 0 })
			for _, to := range append(used, copied...) {
				each, err := legOf(to.Destination, to.Headers.Request, rule.Headers.Request)
				if err != nil {
					return nil, err
				}
				legs = union(legs, each)
			}
		}
	}
	return legs, nil
}

// legOf is the leg of a destination whose requests change so, by their route and by
// their rule.
func legOf(destination, route, rule map[string]any) (leg, error) {
	host, _ := destination["host"].(string)
	name, _, _ := strings.Cut(host, ".")
	if subset, _ := destination["subset"].(string); subset != "" {
		name += "/" + subset
	}
	only := map[string]any{"destination": destination}
	if route != nil {
		only["headers"] = map[string]any{"request": route}
	}
	to, err := json.Marshal([]any{only})
	if rule == nil {
		rule = map[string]any{} // Istio takes no null
	}
	changes, err2 := json.Marshal(rule)
	return leg{name, string(to), string(changes)}, errors.Join(err, err2)
}

// atGateway reports whether a route for these gateways is the lab's gateway's, too;
// one that names none is the sidecars' only.
func atGateway(gateways []string) bool {
	return slices.ContainsFunc(gateways, func(g string) bool { return g != "mesh" })
}

// behind is what must answer a leg, by the objects of the file.
type behind struct {
	labels labels.Set // of its pods; nil: the leg's Service is not the file's
	pods   bool       // a Deployment makes them
	gone   bool       // the file has removed what made them, or all of their replicas
}

func (u *userStory) behind(l *Session, name string) (b behind) {
	service, subset, _ := strings.Cut(name, "/")
	isService := func(o *unstructured.Unstructured) bool {
		return o.GroupVersionKind().Group == "" && o.GetKind() == "Service" && o.GetName() == service
	}
	i := slices.IndexFunc(l.applied, isService)
	if i < 0 {
		return behind{gone: slices.ContainsFunc(u.gone, isService)}
	}
	b.labels = labels.Set{}
	add := func(from map[string]any, fields ...string) {
		more, _, _ := unstructured.NestedStringMap(from, fields...)
		b.labels = labels.Merge(b.labels, more)
	}
	add(l.applied[i].Object, "spec", "selector")
	for _, o := range l.applied {
		host, _, _ := unstructured.NestedString(o.Object, "spec", "host")
		subsets, _, _ := unstructured.NestedSlice(o.Object, "spec", "subsets")
		for _, each := range subsets {
			if s, _ := each.(map[string]any); o.GetKind() == "DestinationRule" && (host == service || strings.HasPrefix(host, service+".")) && s["name"] == subset {
				add(s, "labels")
			}
		}
	}
	makes := func(o *unstructured.Unstructured) bool {
		has, _, _ := unstructured.NestedStringMap(o.Object, "spec", "template", "metadata", "labels")
		return o.GetKind() == "Deployment" && len(b.labels) > 0 && b.labels.AsSelector().Matches(labels.Set(has))
	}
	b.gone = slices.ContainsFunc(u.gone, makes)
	for _, o := range l.applied {
		if makes(o) {
			replicas, given, _ := unstructured.NestedInt64(o.Object, "spec", "replicas")
			b.pods, b.gone = b.pods || !given || replicas > 0, true
		}
	}
	b.gone = b.gone && !b.pods
	return b
}

// The run's own route to each leg. No file can name the host: its names have no
// dots.
const (
	legHeader = "X-Mllab-Leg"
	legHost   = "legs.mllab"
	legPath   = "/healthz" // the sample model answers it whatever its errors and delay are, and counts it nowhere
)

// answered returns when the gateway knows what is behind each leg: a pod that is
// the leg's and stays answers itself, on as many fresh connections in a row as
// for a route. Until Envoy knows the endpoints its own 503 carries a route's mark.
// A leg that is meant to be empty is one that no pod answers.
//
// The requests go by a route of the run's own to the same clusters of the
// gateway: no header that a file's route matches need be guessed, and a small
// share is asked as often as a large one.
func (u *userStory) answered(ctx context.Context, l *Session, legs []leg, empty []string) error {
	u.legs = union(u.legs, legs...)
	objs, err := render("userfile/legs.yaml", map[string]any{"Host": l.host(legHost), "Legs": u.legs})
	if err != nil || len(legs) == 0 {
		return err
	}
	for _, o := range objs {
		o.SetNamespace(l.Namespace)
	}
	if _, err := l.Kube.Apply(ctx, objs); err != nil {
		return err
	}
	for _, each := range legs {
		if err := u.legAnswered(ctx, l, each, slices.Contains(empty, each.Name)); err != nil {
			return err
		}
	}
	return nil
}

func (u *userStory) legAnswered(ctx context.Context, l *Session, g leg, empty bool) error {
	b := u.behind(l, g.Name)
	empty = empty || b.gone
	if !empty && !u.broken && b.labels != nil && !b.pods {
		return fault.CannotTest(sayEmpty(g), "destination %s has no endpoint: the file has no Deployment with the labels %s", g.Name, b.labels)
	}
	mark := fmt.Sprint(slices.Index(u.legs, g))
	r := l.to(legHost)
	r.URL, r.Fresh, r.Header = strings.TrimSuffix(l.Gateway, "/")+legPath, true, http.Header{legHeader: {mark}}
	hint := ""
	var since time.Time // since when every connection was refused; zero if the last one was not
	before := kube.Before{}
	look := func() (string, error) {
		hint = "`mllab status` asks whether the gateway answers at all"
		pods, err := l.Kube.Pods(ctx, l.Namespace, b.labels)
		if err != nil {
			return err.Error(), nil
		}
		pods = slices.DeleteFunc(pods, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
		none := empty || u.broken && !slices.ContainsFunc(pods, isReady)
		for range inForceStreak {
			a := l.Send(ctx, r)
			if refused(a) {
				since = cmp.Or(since, time.Now())
			} else {
				since = time.Time{}
			}
			switch {
			case a.Err != "":
				return a.Err, nil
			case a.Route != mark:
				return fmt.Sprintf("the gateway does not know it yet (status %d)", a.Status), nil
			case u.broken && b.labels == nil: // nobody knows what is behind it
			case none && !a.Router:
				hint = "take it out of `empty`, or remove what answers"
				return fmt.Sprintf("pod %s answers, and none should", a.Pod), nil
			case !none && b.labels == nil && a.Router: // what is behind it is Knative's
				return a.Problem(), nil
			case !none && !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Name == a.Pod }):
				why, what, final := l.unanswered(ctx, g, a, pods, before)
				if hint = what; final && (!refused(a) || time.Since(since) > refusedAfter) {
					return why, fault.CannotTest(hint, "destination %s: %s", g.Name, why)
				}
				return why, nil
			}
		}
		return "", nil
	}
	last, lastHint := "", ""
	err := l.untilError(ctx, untilInterval, "destination "+g.Name, func() (string, error) {
		why, err := look()
		if ctx.Err() == nil || why == "" { // that the wait has ended is no reason
			last, lastHint = why, hint
		}
		return cmp.Or(last, why), err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fault.Hinted(err, lastHint)
	}
	return err
}

// sayEmpty is the hint for a destination that nobody is behind.
func sayEmpty(g leg) string {
	return fmt.Sprintf("if it is meant to have no endpoint, say so in the step's wait: `empty: [%s]`", g.Name)
}

// refusedAfter is how long a pod must have been ready, and each connection refused, until this says that it will stay so:
// a proxy may know a former address for a moment.
const refusedAfter = 10 * time.Second

// refused reports whether an answer is the gateway's, which could not connect; in Envoy's own words, and Linux's.
func refused(a probe.Answer) bool { return a.Router && strings.Contains(a.Body, "onnection refused") }

// unanswered returns why an answer is of none of the pods that are behind a leg, and what to do. final says that none of
// them can become ready, or that their readiness probes have passed for refusedAfter and they refuse a connection: if they
// go on so, they listen elsewhere.
func (l *Session) unanswered(ctx context.Context, g leg, a probe.Answer, pods []corev1.Pod, before kube.Before) (why, hint string, final bool) {
	service, _, _ := strings.Cut(g.Name, "/")
	ready := slices.IndexFunc(pods, isReady)
	switch {
	case !a.Router:
		return cmp.Or(a.Problem(), fmt.Sprintf("pod %s answers, which is another's or about to end", a.Pod)), "compare the selector of Service " + service + " with the labels of the pods", false
	case len(pods) == 0:
		return "there is no pod", sayEmpty(g), false
	case ready < 0:
		final = true
		for i := range slices.Backward(pods) {
			text, lost := l.Kube.WhyNotReady(ctx, &pods[i], before)
			why, final = fmt.Sprintf("pod %s is not ready: %s", pods[i].Name, cmp.Or(text, "it starts")), final && lost
		}
		return why, "correct what its container runs or asks of it; --keep leaves the pod to look at: `kubectl -n " + l.Namespace + " describe pod`", final
	}
	pod := pods[ready]
	since := pod.Status.Conditions[slices.IndexFunc(pod.Status.Conditions, saysReady)].LastTransitionTime.Time
	containers := pod.Spec.Containers
	switch {
	case refused(a):
		probed := !slices.ContainsFunc(containers, func(c corev1.Container) bool { return c.ReadinessProbe == nil })
		return fmt.Sprintf("pod %s is ready, and refuses connections to the port that Service %s sends to (status %d)", pod.Name, service, a.Status),
			"have targetPort of Service " + service + " name the port on which the container listens", probed && time.Since(since) > refusedAfter
	case !slices.ContainsFunc(containers, func(c corev1.Container) bool { return c.Image == l.Image }):
		return fmt.Sprintf("status %d without the headers of the sample model, by which answers are counted", a.Status), "have the pods of Service " + service + " run ${image}", false
	}
	return fmt.Sprintf("pod %s is ready, and the gateway answers itself: status %d, %s", pod.Name, a.Status, cmp.Or(strings.TrimSpace(a.Body), "no text")),
		"compare the selector, targetPort and protocol (a port's name, appProtocol) of Service " + service + " with what the pod serves", false
}

func isReady(p corev1.Pod) bool { return slices.ContainsFunc(p.Status.Conditions, saysReady) }

func saysReady(c corev1.PodCondition) bool {
	return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
}
