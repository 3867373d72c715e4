package scenarios

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
)

// senderFunc is a probe.Sender that knows how many requests came before.
type senderFunc struct {
	sent   int
	last   probe.Request
	answer func(sent int) probe.Answer
}

func (s *senderFunc) Send(_ context.Context, r probe.Request) probe.Answer {
	s.sent++
	s.last = r
	return s.answer(s.sent)
}

// knativeRoute is the HTTPRoute that Knative makes for a host, in this state.
func knativeRoute(t *testing.T, host, state string) *unstructured.Unstructured {
	return decode(t, "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: "+host+", namespace: ns}\n"+
		"spec: {rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: K-Network-Hash, value: "+state+"}]}}]}]}\n")[0]
}

func TestTheGatewayFollowsOnceAllItsWorkersDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := fake.NewClientBuilder().WithObjects(knativeRoute(t, "v2-model.ns.test", "ep-new")).Build()
		s := &senderFunc{answer: func(sent int) probe.Answer {
			switch {
			case sent <= 3: // not there yet
				return probe.Answer{Status: 404, Router: true}
			case sent == 10: // one worker of the proxy is later than the others
				return probe.Answer{Status: 200, Route: "old"}
			case sent == 15: // the state that was waited for is not the newest any more, and the gateway has that one
				if err := errors.Join(cluster.Delete(t.Context(), knativeRoute(t, "v2-model.ns.test", "ep-new")), cluster.Create(t.Context(), knativeRoute(t, "v2-model.ns.test", "tr-new"))); err != nil {
					t.Error(err)
				}
			}
			if sent < 15 {
				return probe.Answer{Status: 200, Route: "ep-new"}
			}
			return probe.Answer{Status: 200, Route: "tr-new"}
		}}
		l := &Session{Env: &Env{Kube: &kube.Client{Client: cluster}, Domain: "test"}, Namespace: "ns", Sender: s}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := l.routed(ctx, "v2-model"); err != nil {
			t.Fatal(err)
		}
		if want := 15 + inForceStreak; s.sent != want {
			t.Errorf("asked %d times, want %d", s.sent, want)
		}
		if r := s.last; !r.Fresh || r.Header.Get("K-Network-Probe") != "probe" || r.Header.Get("K-Network-Hash") != "override" {
			t.Errorf("asked by %+v, which is no probe on a connection of its own", r)
		}
	})
}

func TestAGatewayThatDoesNotFollowIsNoSuccess(t *testing.T) {
	for _, tc := range []struct {
		name, says string
		route      []client.Object
	}{
		{"it has an older state", `answered by state "old" instead of "new"`, []client.Object{knativeRoute(t, "model.ns.test", "new")}},
		{"there is no route", "Knative has made no route for model.ns.test yet", nil},
		{"the route has no state", "Knative has made no route for model.ns.test yet", []client.Object{knativeRoute(t, "model.ns.test", `""`)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var said string
				l := &Session{
					Env:       &Env{Kube: &kube.Client{Client: fake.NewClientBuilder().WithObjects(tc.route...).Build()}, Domain: "test"},
					Namespace: "ns", events: openStream("", "", func(e Event) { said = e.Text }),
					Sender: &senderFunc{answer: func(int) probe.Answer { return probe.Answer{Status: 200, Route: "old"} }},
				}
				l.events.begin("a step")
				ctx, cancel := context.WithTimeout(t.Context(), stepBound)
				defer cancel()
				began := time.Now()
				err := l.routed(ctx, "model")
				var refuted *ClaimError
				if !errors.As(err, &refuted) || refuted.Claim != Answers || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), "follow the route of model") {
					t.Errorf("got %v, want %q", err, tc.says)
				}
				if took := time.Since(began); took != routedBound {
					t.Errorf("it took %s, want %s", took, routedBound)
				}
				stopped, stop := context.WithCancel(t.Context())
				stop()
				if err := l.routed(stopped, "model"); !errors.Is(err, context.Canceled) {
					t.Errorf("after ^C: %v", err)
				}
				if !strings.Contains(said, tc.says) {
					t.Errorf("meanwhile it said %q", said)
				}
			})
		})
	}
}

func TestARouteIsInForceOnceTheApplicationAnswersByIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &senderFunc{answer: func(sent int) probe.Answer {
			// The gateway has the route before it knows the endpoints.
			return probe.Answer{Status: 200, Route: "1", Router: sent <= 5}
		}}
		l := &Session{Sender: s}
		if err := l.waitActive(t.Context(), probe.Request{}, "1"); err != nil || s.sent != 5+inForceStreak {
			t.Errorf("%v after %d requests, want %d", err, s.sent, 5+inForceStreak)
		}
	})
}
