package scenarios

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/probe"
)

// delivered is a model that Flagger delivers through Istio: a Deployment and a
// Canary of the same name.
type delivered struct {
	name       string
	strategy   string
	env        map[string]string // of v2, besides TARGET
	unmeasured bool              // Prometheus does not look at its pods
	unjudged   bool              // Flagger looks at no metrics
	moved      bool              // somebody moves v2's weight by hand
	held       bool              // Flagger may not go on
	users      []*audience       // empty: nobody sends requests

	// What Flagger says.
	phase  string
	weight int       // percent of the requests that v2 gets
	word   string    // about the phase
	end    time.Time // when it was seen to have ended

	changed time.Time // just before v2 was written
}

const (
	// flaggerInterval is how often Flagger looks and goes a step on; it takes
	// nothing shorter.
	flaggerInterval = 10 * time.Second
	// flaggerThreshold is how many failed checks it takes: one alone may come of
	// a scrape that was late. A bad version has its weight for so many intervals
	// at least: time enough to count who answers.
	flaggerThreshold = 3
	// flaggerWindow is what each check looks back at, and scrapeEvery how often
	// Prometheus looks at the pods.
	flaggerWindow = 20 * time.Second
	scrapeEvery   = 2 * time.Second
	// followEvery is how often Flagger's status is read.
	followEvery = 250 * time.Millisecond

	minSuccess  = 95   // percent
	maxLatency  = 2500 // milliseconds of the 95th percentile, a bound of Envoy's histogram
	minRequests = 10   // in a window

	firstWeight, secondWeight = 20, 50 // percent that v2 gets on its way
	movedWeight               = 80     // percent that somebody gives v2 by hand

	// flaggerIterations are the checks that v2 must pass where it has no weight.
	flaggerIterations = 2

	// markName is the name of the host whose route carries marks, and canaryHost
	// begins that of v2's own address.
	markName   = "mark"
	canaryHost = "v2-"
)

// Flagger's phases that matter here.
// https://docs.flagger.app/usage/how-it-works#canary-status
const (
	flaggerInitialized = "Initialized"
	flaggerProgressing = "Progressing"
	flaggerWaiting     = "WaitingPromotion"
	flaggerSucceeded   = "Succeeded"
	flaggerFailed      = "Failed"
)

// objects are the Deployment with a version, the Canary, and what else its
// strategy takes.
func (m *delivered) objects(l *Session, version string) ([]*unstructured.Unstructured, error) {
	env := m.env
	if version != "v2" {
		env = nil
	}
	return render("progressive/model.yaml", map[string]any{
		"Name": m.name, "Image": l.Image, "Version": version, "Env": env, "Strategy": m.strategy,
		"Host": l.host(m.name), "CanaryHost": l.host(canaryHost + m.name), "Header": armHeader, "Cookie": armCookie,
		"Weights": []int{firstWeight, secondWeight}, "Iterations": flaggerIterations, "Threshold": flaggerThreshold,
		"Measured": !m.unmeasured, "Judged": !m.unjudged, "Held": m.held,
		"Interval": flaggerInterval, "Window": flaggerWindow, "Scrape": scrapeEvery,
		"MinSuccess": minSuccess, "MaxLatency": maxLatency, "MinRequests": minRequests,
	})
}

// over says whether Flagger has ended with the newest version.
func (m *delivered) over() bool { return m.phase == flaggerSucceeded || m.phase == flaggerFailed }

// says is what Flagger says.
func (m *delivered) says() string { return fmt.Sprintf("%s: %s at %d %%", m.name, m.phase, m.weight) }

// reached says whether Flagger has given v2 this weight, or has tried it without.
func (m *delivered) reached(weight int) bool {
	if m.strategy == strategyCanary {
		return m.phase == flaggerProgressing && m.weight >= weight
	}
	return m.phase == flaggerWaiting
}

// errs says whether v2 has answered an error that it is there to answer.
func (m *delivered) errs(a probe.Answer) bool {
	return m.env["FAIL_PERCENT"] != "" && a.Target == "v2" && a.Status == 500
}

// deliveries are models that Flagger delivers side by side.
type deliveries []*delivered

// those are the models of these names, but for what a control has left out.
func (d deliveries) those(names ...string) deliveries {
	return slices.DeleteFunc(slices.Clone(d), func(m *delivered) bool { return !slices.Contains(names, m.name) })
}

// only is a control's break of one model before any is deployed. No other comes
// with it: each takes as much of the lab as a scenario.
func (d *deliveries) only(name string, how func(*delivered)) Change {
	return func(context.Context, *Session) error {
		*d = d.those(name)
		how((*d)[0])
		return nil
	}
}

// gateway is the Gateway for the models, whose hosts begin with these prefixes and
// their names, and for marks.
func (d deliveries) gateway(l *Session, prefixes ...string) ([]*unstructured.Unstructured, error) {
	hosts := []string{l.host(markName)}
	for _, m := range d {
		for _, prefix := range prefixes {
			hosts = append(hosts, l.host(prefix+m.name))
		}
	}
	return render("progressive/gateway.yaml", map[string]any{"Hosts": hosts})
}

// renew gives each model its v2.
func (d deliveries) renew(ctx context.Context, l *Session) error {
	var deployments []*unstructured.Unstructured
	for _, m := range d {
		objs, err := m.objects(l, "v2")
		if err != nil {
			return err
		}
		deployments = append(deployments, objs[0]) // the Canary stays as it is
		m.changed = time.Now()
	}
	return l.write(ctx, deployments...)
}

// ask reads what Flagger says of each model now.
func (d deliveries) ask(ctx context.Context, l *Session) error {
	for _, m := range d {
		o, err := l.live(ctx, l.object("flagger.app/v1beta1", "Canary", m.name))
		if err != nil {
			return err
		}
		m.phase, _, _ = unstructured.NestedString(o.Object, "status", "phase")
		weight, _, _ := unstructured.NestedInt64(o.Object, "status", "canaryWeight")
		_, word := conditionOf(o, "Promoted")
		m.word = strings.TrimSuffix(word, ".")
		if m.weight = int(weight); m.over() && m.end.IsZero() {
			m.end = time.Now()
		}
	}
	return nil
}

// until asks Flagger until open has no more to say of any model, and returns when
// the gateway follows what Flagger did.
func (d deliveries) until(ctx context.Context, l *Session, open func(*delivered) string) error {
	err := l.untilEvery(ctx, followEvery, "Flagger", func() string {
		if err := d.ask(ctx, l); err != nil {
			return err.Error()
		}
		var all []string
		for _, m := range d {
			if why := open(m); why != "" {
				all = append(all, why)
			}
		}
		return strings.Join(all, ", ")
	})
	if err != nil {
		return err
	}
	return l.gatewayFollows(ctx)
}

// end returns when Flagger has ended with a model.
func (d deliveries) end(ctx context.Context, l *Session, name string) error {
	return d.until(ctx, l, func(m *delivered) string {
		if m.name == name && !m.over() {
			return m.says()
		}
		return ""
	})
}

// initialized returns when Flagger has made every model its own.
func (d deliveries) initialized(ctx context.Context, l *Session) error {
	return d.until(ctx, l, func(m *delivered) string {
		if m.phase != flaggerInitialized {
			return m.says()
		}
		return ""
	})
}

// reach returns when v2 of each model of these names has a weight, or has been
// tried without, where Flagger is held; or Flagger has ended with it.
func (d deliveries) reach(ctx context.Context, l *Session, weight int, names ...string) error {
	return d.until(ctx, l, func(m *delivered) string {
		switch {
		case m.over() || !slices.Contains(names, m.name):
		case !m.reached(weight):
			return m.says()
		case !m.held:
			if err := m.hold(ctx, l, true); err != nil {
				return err.Error()
			}
		}
		return ""
	})
}

func (d deliveries) release(ctx context.Context, l *Session) error {
	for _, m := range d {
		if m.held {
			if err := m.hold(ctx, l, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// hold has Flagger wait at the weight that it has set, or go on. To make it wait
// there is less than an interval's time, so a person is not asked first.
func (m *delivered) hold(ctx context.Context, l *Session, held bool) error {
	m.held = held
	objs, err := m.objects(l, "v2")
	if err == nil && held {
		objs[1].SetNamespace(l.Namespace)
		err = l.put(ctx, objs[1])
	} else if err == nil {
		err = l.write(ctx, objs[1])
	}
	if err != nil {
		m.held = !held
	}
	return err
}

// gatewayFollows returns when the gateway follows every route that was written
// before: it gets them in the order in which they were written, and now one more
// is, which marks its answers. Who else writes routes needs no part in it.
func (l *Session) gatewayFollows(ctx context.Context) error {
	r := l.to(markName)
	mark := l.mark()
	objs, err := render("progressive/mark.yaml", routeState{r.Host, l.Namespace, mark})
	if err != nil {
		return err
	}
	if _, err := l.Kube.Apply(ctx, objs); err != nil {
		return err
	}
	return l.marked(ctx, mark, anyone, r)
}

// answers returns when the application has answered r on inForceStreak fresh
// connections in a row: Flagger's route says nothing of its state.
func (l *Session) answers(ctx context.Context, r probe.Request) error {
	return l.until(ctx, "an answer from "+r.Host, func() string {
		return l.unmarked(ctx, "", probe.Answer.OK, r)
	})
}
