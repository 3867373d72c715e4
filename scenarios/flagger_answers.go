package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

// audience is users whose requests are alike.
type audience struct {
	name     string
	header   http.Header
	first    int  // percent of them that v2 answers on its way, at first
	atCanary bool // they try v2 at an address of its own, and may lose requests
	prober   prober
}

// Flagger's strategies. https://docs.flagger.app/usage/deployment-strategies
const (
	strategyCanary    = "canary"     // v2 gets more and more of the requests
	strategyAB        = "ab"         // v2 gets those with a header or a cookie
	strategyBlueGreen = "blue-green" // v2 gets none until it is tried, and then all
	strategyMirror    = "mirror"     // the same, and until then it gets copies of all
)

// Strategies are the values of Options.Strategy.
var Strategies = []string{strategyCanary, strategyAB, strategyBlueGreen, strategyMirror}

func usersOf(strategy string) []*audience {
	switch strategy {
	case strategyAB:
		return []*audience{
			{name: "untagged"},
			{name: "by header", header: http.Header{http.CanonicalHeaderKey(armHeader): {"b"}}, first: 100},
			{name: "by cookie", header: http.Header{"Cookie": {"a=1; group=b"}}, first: 100},
		}
	case strategyBlueGreen:
		return []*audience{{name: "users"}, {name: "v2's own address", atCanary: true, first: 100}}
	case strategyMirror:
		return []*audience{{name: "users"}}
	}
	return []*audience{{name: "users", first: firstWeight}}
}

func (u *audience) request(l *Session, m *delivered) probe.Request {
	r := l.to(m.name)
	if u.atCanary {
		r = l.to(canaryHost + m.name)
	}
	r.Header = u.header
	return r
}

// sample judges who answers users while v2 has this weight, and whether v2 gets
// the copies of their requests that its strategy says.
func (m *delivered) sample(ctx context.Context, l *Session, u *audience, weight int, c split.Claim) (Evidence, error) {
	r := u.request(l, m)
	l.claims("target", r, c)
	answers, e, err := l.burst(ctx, l, r, c.N)
	if err != nil {
		return e, err
	}
	if err := (deliveries{m}).ask(ctx, l); err != nil {
		return e, err
	}
	if m.over() || m.strategy == strategyCanary && m.weight != weight {
		return e, fault.CannotTest("run it again when the machine has less to do", "Flagger went on while it was judged who answers: %s", m.says())
	}
	counts := map[string]int{}
	for _, a := range answers {
		if !a.OK() && !m.errs(a) {
			return e, refute(Answers, "%s: %s (request %s)", m.name, a.Problem(), a.ID)
		}
		counts[a.Target]++
	}
	e, err = e.judge(c, counts, Shares)
	if e.Verdict != nil {
		v2 := e.Verdict.Regions[1]
		e.Summary = fmt.Sprintf("v2 %d of %d (accepted %d..%d)", counts["v2"], c.N, v2.Lo, v2.Hi)
	}
	if err == nil && m.strategy == strategyMirror && m.reached(weight) {
		var copies arrivals
		if copies, err = l.copies(ctx, map[string]string{"app": m.name}, answers, silence, float64(c.N)); err == nil && copies.once != c.N {
			err = refute(Mirror, "%s: v2 received of %d requests %d once, %d never and %d more than once", m.name, c.N, copies.once, copies.missing, copies.again)
		}
	}
	return e, err
}

// moveByHand gives v2 another weight in Flagger's route, or no copies.
func (m *delivered) moveByHand(ctx context.Context, l *Session) error {
	route := l.object("networking.istio.io/v1", "VirtualService", m.name)
	patch := fmt.Sprintf(`[{"op": "replace", "path": "/spec/http/0/route/0/weight", "value": %d}, {"op": "replace", "path": "/spec/http/0/route/1/weight", "value": %d}]`,
		100-movedWeight, movedWeight)
	if m.strategy == strategyMirror {
		patch = `[{"op": "remove", "path": "/spec/http/0/mirror"}]`
	}
	if err := l.patch(ctx, route, patch); err != nil {
		return err
	}
	return l.gatewayFollows(ctx)
}

// ended refutes that Flagger ended with v2 in this phase and, unless why is empty,
// said these words of it. It returns what Flagger said.
func (m *delivered) ended(ctx context.Context, l *Session, phase, why string, claim Claim) (words string, err error) {
	said, err := m.said(ctx, l)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(said, func(line string) bool { return strings.Contains(line, why) })
	switch last := strings.Join(said[max(0, len(said)-3):], " | "); {
	case m.phase != phase:
		return "", refute(claim, "Flagger ended with %s instead of %s: %s", m.phase, phase, last)
	case why == "":
		return m.word, nil
	case i < 0:
		return "", refute(claim, "Flagger ended with %s, but it did not say %q: %s", phase, why, last)
	}
	return m.phase + ", " + said[i], nil
}

// flaggerLine is a line of Flagger's log.
type flaggerLine struct {
	Time   time.Time `json:"ts"`
	Canary string    `json:"canary"` // NAME.NAMESPACE; empty: it is about none
	Text   string    `json:"msg"`
}

// said are Flagger's own words about v2, oldest first, also kept as evidence. They
// are those of its log: it makes an event of each, too, but of one object Kubernetes
// lets through no more than 25 at first, and then one in five minutes.
// https://pkg.go.dev/k8s.io/client-go/tools/record#EventCorrelator
func (m *delivered) said(ctx context.Context, l *Session) ([]string, error) {
	log, err := l.flaggerLog(ctx)
	if err != nil {
		return nil, err
	}
	var said []string
	var text strings.Builder
	whole := false
	for line := range strings.Lines(log) {
		var of flaggerLine
		if json.Unmarshal([]byte(line), &of) != nil {
			continue
		}
		if of.Time.Before(m.changed) {
			whole = true
		} else if of.Canary == m.name+"."+l.Namespace {
			said = append(said, of.Text)
			fmt.Fprintf(&text, "%s %s\n", of.Time.UTC().Format(time.TimeOnly), of.Text)
		}
	}
	if !whole {
		return nil, fault.CannotTest("run it again", "Flagger was started again meanwhile, and what it had said of %s is gone", m.name)
	}
	_, err = l.keepText("-"+m.name+".txt", []byte(text.String()))
	return said, err
}

// flaggerLog returns all that Flagger has logged since it was started.
func flaggerLog(ctx context.Context, k *kube.Client) (string, error) {
	const namespace = "flagger-system"
	pods, err := k.Pods(ctx, namespace, map[string]string{"app": "flagger"})
	if err == nil && len(pods) != 1 {
		err = fmt.Errorf("the number of Flagger's pods must be 1, got %d", len(pods))
	}
	if err != nil {
		return "", err
	}
	return k.PodLogs(ctx, namespace, pods[0].Name, "", 0)
}
