package scenarios

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"knative.dev/networking/pkg/http/header"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
)

// routeState is what every manifest of a route is filled in with. Each state of a
// route has a mark of its own, which answers carry.
type routeState struct {
	Host, Namespace, Mark string
}

func (s *routeState) become(state routeState) { *s = state }

// routeFields are a routeState and what else a manifest takes: a pointer to a struct
// that embeds one.
type routeFields interface{ become(routeState) }

// route applies the manifest of a route in a new state, with more objects, and
// returns when the gateway answers r by it.
func (l *Session) route(ctx context.Context, manifest string, r probe.Request, fields routeFields, more ...*unstructured.Unstructured) error {
	return l.routes(ctx, manifest, []probe.Request{r}, fields, more...)
}

// routes is route for the hosts of several requests, each of which the gateway
// must answer by the new state.
func (l *Session) routes(ctx context.Context, manifest string, asked []probe.Request, fields routeFields, more ...*unstructured.Unstructured) error {
	state := routeState{asked[0].Host, l.Namespace, l.mark()}
	fields.become(state)
	if err := l.applyFile(ctx, manifest, fields, more...); err != nil {
		return err
	}
	for _, r := range asked {
		if err := l.waitActive(ctx, r, state.Mark); err != nil {
			return err
		}
	}
	return nil
}

// routedBound is how long the gateway may take to follow the route of a Knative
// Service that is ready. After it, what Knative calls ready is not: a claim fails.
const routedBound = 30 * time.Second

// routed returns when the gateway has the newest state of the route that Knative
// made for that name, and knows it on inForceStreak fresh connections in a row.
// Ready says so of one connection, which one of a proxy's workers answered; and of
// an address that a former run had too, with the same traffic, nobody asked:
// net-gateway-api 0.48 forgets a route by the Ingress's name that it remembers by
// the route's (Prober.CancelIngressProbingByKey in pkg/status). The requests are
// Knative's own probes: whoever stands before the application answers them. Which
// state is the newest is read each time: Knative may write another one meanwhile.
func (l *Session) routed(ctx context.Context, name string) error {
	r := l.to(name)
	r.Header = http.Header{header.ProbeKey: {header.ProbeValue}, header.HashKey: {header.HashValueOverride}}
	bounded, cancel := context.WithTimeout(ctx, routedBound)
	defer cancel()
	err := l.until(bounded, "the gateway to follow the route of "+name, func() string {
		switch state, err := l.routeState(bounded, r.Host); {
		case err != nil:
			return err.Error()
		case state == "":
			return "Knative has made no route for " + r.Host + " yet"
		default:
			return l.unmarked(bounded, state, anyone, r)
		}
	})
	if timedOut(ctx, err) {
		return refute(Answers, "Knative calls it ready: %v", err)
	}
	return err
}

// routeState is what the newest state of the HTTPRoute for that host has its
// answers to probes say; empty when there is no such route, or it says nothing.
func (l *Session) routeState(ctx context.Context, host string) (string, error) {
	o, err := l.live(ctx, l.object("gateway.networking.k8s.io/v1", "HTTPRoute", host))
	if err != nil {
		return "", client.IgnoreNotFound(err)
	}
	var route struct {
		Spec struct {
			Rules []struct {
				Filters []struct {
					RequestHeaderModifier struct {
						Set []struct{ Name, Value string }
					}
				}
			}
		}
	}
	if err := kube.Into(o.Object, &route); err != nil {
		return "", err
	}
	for _, rule := range route.Spec.Rules {
		for _, f := range rule.Filters {
			for _, h := range f.RequestHeaderModifier.Set {
				if h.Name == header.HashKey {
					return h.Value, nil
				}
			}
		}
	}
	return "", nil
}

// A header or a cookie by which a route picks an arm.
const (
	armHeader = "x-group"
	// A whole cookie of the list that the header holds, which has "; " between
	// cookies: https://www.rfc-editor.org/rfc/rfc6265#section-4.2.1
	// Envoy matches a regex with the whole value.
	armCookie = "(.*; ?)?group=b(;.*)?"
)

// mark is a new name for the state of a route, for its answers to carry.
func (l *writes) mark() string {
	l.routeVersion++
	return strconv.Itoa(l.routeVersion)
}

// inForceStreak is how many fresh connections in a row must be answered by a
// route's new state: each reaches one of a proxy's few workers at random, and a
// worker that lags behind then hides with a chance of 2^-20.
const inForceStreak = 20

// waitActive returns when the application itself answers r, by the state of a route
// that carries mark. Istio has no status that says so:
// https://github.com/istio/istio/issues/16211
func (l *Session) waitActive(ctx context.Context, r probe.Request, mark string) error {
	return l.marked(ctx, mark, func(a probe.Answer) bool { return !a.Router }, r)
}

// marked returns when one of these requests is answered by the state of a route
// that carries mark, and by whom it should be. Envoy's own 503 carries a mark,
// too: it says so until it knows the endpoints.
func (l *Session) marked(ctx context.Context, mark string, by func(probe.Answer) bool, asked ...probe.Request) error {
	last := ""
	return l.until(ctx, "the route's new state", func() string {
		why := l.unmarked(ctx, mark, by, asked...)
		if ctx.Err() == nil || why == "" { // that the wait has ended is no reason
			last = why
		}
		return cmp.Or(last, why)
	})
}

// unmarked says why none of these requests is answered so on inForceStreak fresh
// connections in a row; empty when one is.
func (l *Session) unmarked(ctx context.Context, mark string, by func(probe.Answer) bool, asked ...probe.Request) (why string) {
	for _, r := range asked {
		r.Fresh = true
		why = ""
		for range inForceStreak {
			if a := l.Send(ctx, r); a.Route != mark || !by(a) {
				why = fmt.Sprintf("answered by state %q instead of %q (%s)", a.Route, mark, cmp.Or(a.Problem(), "200"))
				break
			}
		}
		if why == "" {
			return ""
		}
	}
	return why
}

// anyone may answer: only the route is asked for.
func anyone(probe.Answer) bool { return true }
