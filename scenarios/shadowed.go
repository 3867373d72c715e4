package scenarios

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/probe"
	"mllab.local/sampleapp/api"
)

// shadowed is a model with two versions, one pod each, and a route that can mirror
// the requests of v1 to v2.
type shadowed struct {
	keep  int               // requests that a version remembers
	drift int               // percent of the inputs for which v2 predicts something else
	pods  map[string]string // version -> its one pod
}

const (
	// versionHeader with v2 is v2's own address, see route.yaml.
	versionHeader = "X-Mllab-Version"
	// aside is a path of the model that /seen does not list.
	aside = "/metrics"

	shadowSleep = 16 * time.Second
	callerBound = shadowSleep / 2 // a caller who waits for v2 is over it
)

// newShadowed returns a model for samples of so many requests, whose v2 differs for
// drift percent of the inputs.
func newShadowed(requests, drift int) *shadowed {
	// A version remembers at least as many requests as one check sends, and as
	// many again that should not have come.
	return &shadowed{keep: max(api.SeenKeep, 2*requests), drift: drift, pods: map[string]string{}}
}

// version is v1 or v2.
func (s *shadowed) version(version string) model {
	m := model{Name: "model", Version: version, Env: map[string]string{
		"DRAIN":     "0s", // no step ends a pod that a caller depends on
		"SEEN_KEEP": strconv.Itoa(s.keep),
	}}
	if version == "v2" {
		m.Env["ADMIN_PORT"], m.Env["DRIFT_PERCENT"] = strconv.Itoa(adminPort), strconv.Itoa(s.drift)
	}
	return m
}

// deploy brings both versions, the client, and the route to v1, and returns
// when both proxies can reach both versions.
func (s *shadowed) deploy(ctx context.Context, l *Session) error {
	versions := []model{s.version("v1"), s.version("v2")}
	client := model{Name: "client", Version: "relay", Env: map[string]string{"RELAY": "http://model", "DRAIN": "0s"}}
	deployments, err := l.deployments(append(versions, client)...)
	if err != nil {
		return err
	}
	if err := l.applyFile(ctx, "shadow/services.yaml", struct{ Model, Client string }{l.host("model"), l.host("client")}, deployments...); err != nil {
		return err
	}
	for _, m := range versions {
		if s.pods[m.Version], err = l.podOf(ctx, m.labels()); err != nil {
			return err
		}
	}
	if err := s.route(shadowRoute{})(ctx, l); err != nil {
		return err
	}
	// A proxy that did not know v2's pod yet would mirror nothing.
	for _, by := range []string{"model", "client"} {
		r := direct(l.to(by))
		r.URL += aside
		err := l.until(ctx, "v2 to be reached by "+r.Host, func() string {
			if a := l.Send(ctx, r); !a.OK() || a.Target != "v2" {
				return fmt.Sprintf("answered by %q (%s)", a.Target, a.Problem())
			}
			return ""
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// direct is r to v2 by its own address.
func direct(r probe.Request) probe.Request {
	r.Header = http.Header{versionHeader: {"v2"}}
	return r
}

// shadowRoute is a state of the model's route.
type shadowRoute struct {
	routeState
	Mirrored int  // percent of which v2 gets a copy
	Leaked   int  // percent that v2 answers
	Held     int  // percent that wait longer than a caller may
	Outside  bool // it holds for the gateway only
}

// Hold is how long those wait.
func (shadowRoute) Hold() string { return (callerBound + time.Second).String() }

func (r shadowRoute) Kept() int { return 100 - r.Leaked }

// route writes the route and returns when the gateway and the client's sidecar
// answer by it.
func (s *shadowed) route(to shadowRoute) Change {
	return func(ctx context.Context, l *Session) error {
		gateway, sidecar := l.to("model"), l.to("client")
		gateway.URL, sidecar.URL = gateway.URL+aside, sidecar.URL+aside // what asks is not part of any sample
		if err := l.route(ctx, "shadow/route.yaml", gateway, &to); err != nil {
			return err
		}
		inside := to.Mark
		if to.Outside {
			inside = "" // the answer of a route without marks
		}
		return l.waitActive(ctx, sidecar, inside)
	}
}

// inputs gives each of n requests an input that no other has, at random.
func (l *Session) inputs(n int) *turns {
	return l.inOrder(n, func(turn int, r *probe.Request) {
		r.Method, r.Body = http.MethodPost, fmt.Appendf(nil, `{"instances":[[%v,%d]]}`, rand.Float64(), turn)
	})
}

// sleep mirrors everything to a v2 that sleeps.
func (s *shadowed) sleep(ctx context.Context, l *Session) error {
	if err := s.route(shadowRoute{Mirrored: 100})(ctx, l); err != nil {
		return err
	}
	if err := l.breakPod(ctx, s.pods["v2"], faults{Delay: shadowSleep.String()}); err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if a := l.Send(short, direct(l.to("model"))); a.Status != 0 {
		return fmt.Errorf("v2 does not sleep: it answered %d after %s", a.Status, a.Latency)
	}
	return nil
}

func (s *shadowed) fail(ctx context.Context, l *Session) error {
	if err := l.breakPod(ctx, s.pods["v2"], faults{FailPercent: new(100.0), Delay: "0s"}); err != nil {
		return err
	}
	if a := l.Send(ctx, direct(l.to("model"))); a.Status != http.StatusInternalServerError || a.Target != "v2" {
		return fmt.Errorf("v2 does not fail: status %d from %q %s", a.Status, a.Target, a.Err)
	}
	return nil
}

func (s *shadowed) heal(ctx context.Context, l *Session) error {
	return l.breakPod(ctx, s.pods["v2"], faults{FailPercent: new(0.0), Delay: "0s"})
}

// scaleToZero takes v2's pod away and returns when the gateway knows.
func (s *shadowed) scaleToZero(ctx context.Context, l *Session) error {
	v2, err := l.deployments(s.version("v2"))
	if err != nil {
		return err
	}
	if err := unstructured.SetNestedField(v2[0].Object, int64(0), "spec", "replicas"); err != nil {
		return err
	}
	delete(s.pods, "v2")
	if err := l.apply(ctx, v2...); err != nil {
		return err
	}
	return l.until(ctx, "v2 to be gone", func() string {
		if a := l.Send(ctx, direct(l.to("model"))); a.Status != http.StatusServiceUnavailable || !a.Router {
			return fmt.Sprintf("status %d from %q %s", a.Status, a.Target, a.Err)
		}
		return ""
	})
}
