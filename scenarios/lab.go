package scenarios

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"knative.dev/networking/pkg/http/header"
	"knative.dev/serving/pkg/apis/serving"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
	"mllab.local/internal/proxy"
	"mllab.local/internal/report"
	"mllab.local/internal/split"
	"mllab.local/manifests"
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
	Report   report.Reporter
	// Teach, if any, shows a person what comes next and returns when they go on.
	Teach func(ctx context.Context, lesson Lesson) error
}

// Session is one run on a lab: what it has made there, what it has seen, and
// what has to be taken back.
type Session struct {
	*Env
	Namespace string       // the run's own
	title     string       // of the run
	control   string       // that is run; empty: the scenario itself
	runID     string       // labels the namespace
	writer    *kube.Client // writes the objects of a user's scenario; nil: Kube does

	send     probe.Sender
	task     report.Task
	watching []*watch // that send

	namespaceCreated bool
	applied          []*unstructured.Unstructured // the newest state of each object, in the order of their first apply
	lastApply        time.Time                    // when the newest change was sent: a person who is taught reads before that
	routeVersion     int                          // of the newest state of a route
	cleanups         []func()
	removals         []func(context.Context) error
	untouched        []func(context.Context) error
	stepsDone        func() // called after the last step, before the clean-up; may be nil
	// rejections asks which proxies refuse their configuration.
	rejections func(context.Context) ([]proxy.Rejection, error)

	stepName    string
	evidence    string        // folder for the answers of every sample; empty keeps none
	evidenceSeq int           // files so far
	lesson      Lesson        // of the step, until it is shown
	paused      time.Duration // what a person took for the lessons so far
}

// cleanup has f called after the run, however that ends; the last one first.
func (l *Session) cleanup(f func()) { l.cleanups = append(l.cleanups, f) }

// removal has f called before the namespace is removed, unless that is kept: it
// removes what was not made by apply.
func (l *Session) removal(f func(context.Context) error) { l.removals = append(l.removals, f) }

// sampleWorkers send the requests of a sample. Few enough not to queue on two
// cores, enough that a stuck connection does not stop the sample.
const sampleWorkers = 8

// host is the name under which the gateway serves something of the run's: a
// Knative Service, or the hosts of a VirtualService.
func (l *Session) host(name string) string {
	return name + "." + l.Namespace + "." + l.Domain
}

// to is a request to the gateway for that name.
func (l *Session) to(name string) probe.Request {
	return probe.Request{URL: l.Gateway, Host: l.host(name)}
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
	if err := l.Kube.Wait(ctx, objs, l.task.Update); err != nil {
		return err
	}
	for _, o := range objs {
		if o.GroupVersionKind().Group != serving.GroupName || o.GetKind() != "Service" {
			continue
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

// routedBound is how long the gateway may take to follow the route of a Knative
// Service that is ready. What it does not follow then is for the sample to find.
const routedBound = 10 * time.Second

// routed returns when the gateway has the newest state of the route that Knative
// made for that name, and knows it on inForceStreak fresh connections in a row.
// Ready says so of one connection, which one of a proxy's workers answered; and of
// an address that a former run had too, with the same traffic, nobody asked:
// net-gateway-api 0.48 forgets a route by the Ingress's name that it remembers by
// the route's (Prober.CancelIngressProbingByKey in pkg/status). The requests are
// Knative's own probes: whoever stands before the application answers them.
func (l *Session) routed(ctx context.Context, name string) error {
	state, err := l.routeState(ctx, l.host(name))
	if err != nil || state == "" {
		return err
	}
	return l.follows(ctx, name, state)
}

// follows is routed for a state that is known.
func (l *Session) follows(ctx context.Context, name, state string) error {
	bounded, cancel := context.WithTimeout(ctx, routedBound)
	defer cancel()
	r := l.to(name)
	r.Header = http.Header{header.ProbeKey: {header.ProbeValue}, header.HashKey: {header.HashValueOverride}}
	err := l.marked(bounded, r, state, anyone)
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return nil
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
	if err := into(o.Object, &route); err != nil {
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

// write is apply without the wait, for what is not meant to become ready.
func (l *Session) write(ctx context.Context, objs ...*unstructured.Unstructured) error {
	for _, o := range objs {
		o.SetNamespace(l.Namespace)
	}
	if err := l.teach(ctx, l.changes(objs)); err != nil {
		return err
	}
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

// find is the place of o among what was applied, or -1.
func (l *Session) find(o *unstructured.Unstructured) int {
	return slices.IndexFunc(l.applied, func(has *unstructured.Unstructured) bool {
		return has.GroupVersionKind() == o.GroupVersionKind() && has.GetName() == o.GetName()
	})
}

// checkInterference says that the world is as the run made it: a verdict on a world
// that somebody else has changed would be about another one.
func (l *Session) checkInterference(ctx context.Context) error {
	changed, err := l.Kube.Drift(ctx, l.applied)
	if err == nil && len(changed) > 0 {
		// Who may write an annotation just then is no disturber: what is changed
		// still is when looked at again.
		changed, err = l.Kube.Drift(ctx, l.applied)
	}
	if err != nil {
		return fmt.Errorf("looking whether the world is still the run's own: %w", err)
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

// interference says what somebody else did.
func (l *Session) interference(what string) error {
	return fault.CannotTest("leave namespace "+l.Namespace+" alone while it runs, and run it again",
		"somebody else %s meanwhile: what was seen proves nothing", what)
}

// alsoUntouched has checkInterference ask f, too, about what apply does not know of.
func (l *Session) alsoUntouched(f func(context.Context) error) { l.untouched = append(l.untouched, f) }

// render fills a manifest of the stories in, as a Go template, and reads its
// objects. What data does not have is an error.
func render(file string, data any) ([]*unstructured.Unstructured, error) {
	text, err := fill("scenarios/"+file, data)
	if err != nil {
		return nil, err
	}
	objs, err := kube.Decode(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return objs, nil
}

// fill fills a file of the stories in, as a Go template. What data does not have
// is an error.
func fill(file string, data any) ([]byte, error) {
	text, err := manifests.Scenarios.ReadFile(file)
	if err != nil {
		return nil, err
	}
	t, err := template.New(file).Option("missingkey=error").Parse(string(text))
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, data)
	return b.Bytes(), err
}

// fillAll fills in all files below a folder of the stories, and returns them by
// their paths in it. One that is then empty is left out.
func fillAll(folder string, data any) (map[string][]byte, error) {
	below, err := fs.Sub(manifests.Scenarios, "scenarios/"+folder)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	return files, fs.WalkDir(below, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fill("scenarios/"+folder+"/"+name, data)
		if len(bytes.TrimSpace(text)) > 0 {
			files[name] = text
		}
		return err
	})
}

// model is the sample model as a plain Deployment, called NAME-VERSION, with
// the labels app and version.
type model struct {
	Name, Version string
	Image         string // the lab's when empty
	Env           map[string]string
	Replicas      int  // 1 when zero
	NoReadiness   bool // no readiness probe
}

// deployment is m as an object.
func (l *Session) deployment(m model) (*unstructured.Unstructured, error) {
	if m.Image == "" {
		m.Image = l.Image
	}
	if m.Replicas == 0 {
		m.Replicas = 1
	}
	objs, err := render("model.yaml", m)
	if err != nil {
		return nil, err
	}
	return objs[0], nil
}

// labels select the pods of m.
func (m model) labels() map[string]string {
	return map[string]string{"app": m.Name, "version": m.Version}
}

// mark is a new name for the state of a route, for its answers to carry.
func (l *Session) mark() string {
	l.routeVersion++
	return strconv.Itoa(l.routeVersion)
}

// inForceStreak is how many fresh connections in a row must be answered by a
// route's new state: each reaches one of a proxy's few workers at random, and a
// worker that lags behind then hides with a chance of 2^-20.
const inForceStreak = 20

// inForce returns when the application itself answers r, by the state of a route
// that carries mark. Istio has no status that says so:
// https://github.com/istio/istio/issues/16211
func (l *Session) inForce(ctx context.Context, r probe.Request, mark string) error {
	return l.marked(ctx, r, mark, func(a probe.Answer) bool { return !a.Router })
}

// marked returns when r is answered by the state of a route that carries mark,
// and by whom it should be. Envoy's own 503 carries a mark, too: it says so until
// it knows the endpoints.
func (l *Session) marked(ctx context.Context, r probe.Request, mark string, by func(probe.Answer) bool) error {
	r.Fresh = true
	streak := 0
	return l.until(ctx, "the route's new state", func() string {
		for ; streak < inForceStreak; streak++ {
			if a := l.send.Send(ctx, r); a.Route != mark || !by(a) {
				streak = 0
				return fmt.Sprintf("answered by state %q instead of %q (%s)", a.Route, mark, cmp.Or(a.Problem(), "200"))
			}
		}
		return ""
	})
}

// anyone may answer: only the route is asked for.
func anyone(probe.Answer) bool { return true }

// pause returns after d, or with ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// until asks again and again until ready has no reason left why it is not, or
// ctx ends.
func (l *Session) until(ctx context.Context, what string, ready func() string) error {
	return l.untilEvery(ctx, 100*time.Millisecond, what, ready)
}

// untilEvery is until that asks at this interval, for what is timed by it.
func (l *Session) untilEvery(ctx context.Context, interval time.Duration, what string, ready func() string) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		why := ready()
		if why == "" {
			return nil
		}
		l.task.Update("waiting for " + what + ": " + why)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w (last: %s)", what, ctx.Err(), why)
		}
	}
}

// seen is what one pod of the sample model says of the requests that reached
// it: IDs[i] is the ID of the i-th one after From, and Outputs[i] the numbers
// that it answered, as JSON.
type seen struct {
	Target, Pod string
	Count, From int
	IDs         []string
	Outputs     []string
}

// modelPort and adminPort are the sample model's; only pods that are meant to
// be broken while they run have the second.
const (
	modelPort = 8080
	adminPort = 9090
)

// seen asks each pod with these labels what reached it, by the API server and
// not by the traffic's own way.
func (l *Session) seen(ctx context.Context, labels map[string]string) ([]seen, error) {
	pods, err := l.Kube.Pods(ctx, l.Namespace, labels)
	if err != nil {
		return nil, err
	}
	var all []seen
	for _, p := range pods {
		s, err := l.seenBy(ctx, p.Name, 0)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// seenBy asks one pod what reached it after the first n requests.
func (l *Session) seenBy(ctx context.Context, pod string, n int) (seen, error) {
	body, err := l.Kube.FromPod(ctx, l.Namespace, pod, modelPort, fmt.Sprintf("seen?since=%d", n))
	if err != nil {
		return seen{}, err
	}
	var s seen
	if err := json.Unmarshal(body, &s); err != nil {
		return seen{}, fmt.Errorf("reading what Pod/%s has seen: %w", pod, err)
	}
	return s, nil
}

// faults are what a pod of the sample model can be told to do wrong while it
// runs; what is not set stays.
type faults struct {
	Ready       *bool    `json:"ready,omitempty"`
	Hang        *bool    `json:"hang,omitempty"`
	FailPercent *float64 `json:"failPercent,omitempty"`
	Delay       string   `json:"delay,omitempty"`
}

// breakPod tells a pod to do wrong.
func (l *Session) breakPod(ctx context.Context, pod string, f faults) error {
	return l.breakPods(ctx, []string{pod}, f)
}

// breakPods tells each of these pods to do wrong.
func (l *Session) breakPods(ctx context.Context, pods []string, f faults) error {
	body, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := l.teach(ctx, fmt.Sprintf("Told to do wrong: %s\n- %s\n", body, strings.Join(pods, "\n- "))); err != nil {
		return err
	}
	for _, pod := range pods {
		if _, err := l.Kube.ToPod(ctx, l.Namespace, pod, adminPort, "faults", body); err != nil {
			return err
		}
	}
	return nil
}

// sample sends n requests once and judges who answered.
func (l *Session) sample(ctx context.Context, r probe.Request, claim split.Claim) (Evidence, error) {
	if err := claim.Check(); err != nil {
		return Evidence{}, err
	}
	_, e, err := l.burst(ctx, r, claim.N)
	if err != nil {
		return e, err
	}
	if refuted := answered(*e.Tally); refuted != nil {
		e.Summary = refuted.Reasons[0]
		return e, refuted
	}
	verdict, err := claim.Judge(e.Tally.Counts)
	if err != nil {
		return e, err
	}
	e.Verdict, e.Summary = &verdict, describe(verdict)
	if !verdict.Pass {
		return e, &ClaimError{Shares, verdict.Reasons}
	}
	return e, nil
}

// burst sends a request n times, shows who answers, and keeps the answers as
// evidence. It judges nothing.
func (l *Session) burst(ctx context.Context, r probe.Request, n int) ([]probe.Answer, Evidence, error) {
	return l.burstBy(ctx, l.send, r, n)
}

// burstBy is burst by a sender of its own, such as one that gives each request
// another body.
func (l *Session) burstBy(ctx context.Context, by probe.Sender, r probe.Request, n int) ([]probe.Answer, Evidence, error) {
	counts, failed, done := map[string]int{}, 0, 0
	answers := probe.Burst(ctx, by, r, n, sampleWorkers, func(a probe.Answer) {
		done++
		if a.OK() {
			counts[a.Target]++
		} else {
			failed++
		}
		l.task.Progress(int64(done), int64(n), "requests")
		l.count(bars(counts, failed, done))
	})
	if err := ctx.Err(); err != nil {
		return answers, Evidence{}, err
	}
	tally := probe.Count(answers)
	file, err := l.keep(answers)
	return answers, Evidence{Tally: &tally, File: file}, err
}

// bars are a tally as a person watches it grow.
func bars(counts map[string]int, failed, done int) func() []report.Bar {
	copied := maps.Clone(counts)
	return func() []report.Bar {
		var all []report.Bar
		for _, target := range sortedKeys(copied) {
			lo, hi := split.Interval(copied[target], done, confidence)
			share := float64(copied[target]) / float64(done)
			all = append(all, report.Bar{Name: target, Share: share,
				Text: fmt.Sprintf("%6d  %5.1f %% (%.1f..%.1f %%)", copied[target], 100*share, 100*lo, 100*hi)})
		}
		if failed > 0 {
			all = append(all, report.Bar{Name: "errors", Share: float64(failed) / float64(done), Text: fmt.Sprintf("%6d", failed), Bad: true})
		}
		return all
	}
}

// count shows bars in the terminal, and below them what the watchers see.
func (l *Session) count(own func() []report.Bar) {
	watching := slices.Clone(l.watching)
	l.task.Bars(func() (all []report.Bar) {
		if own != nil {
			all = own()
		}
		for _, w := range watching {
			if sent, lost := w.Answered(); sent > 0 {
				all = append(all, report.Bar{Name: "watcher", Share: float64(sent-lost) / float64(sent),
					Text: fmt.Sprintf("%6d sent, %d lost", sent, lost), Bad: lost > 0})
			}
		}
		return all
	})
}

// refute says that a claim does not hold, and why.
func refute(claim Claim, format string, args ...any) error {
	return &ClaimError{claim, []string{fmt.Sprintf(format, args...)}}
}

// answered refutes that every request was answered by the application.
func answered(t probe.Tally) *ClaimError {
	if len(t.Failed) == 0 {
		return nil
	}
	first := t.Failed[0]
	return &ClaimError{Answers, []string{fmt.Sprintf("%d of %d requests were not answered 200 by the application, the first: %s (request %s)",
		len(t.Failed), t.Sent, first.Problem(), first.ID)}}
}

// describe is a verdict in one line: counts, accepted interval, error rates.
func describe(v split.Verdict) string {
	var legs, caught []string
	for _, r := range v.Regions {
		legs = append(legs, fmt.Sprintf("%s %d (accepted %d..%d)", r.Leg, v.Counts[r.Leg], r.Lo, r.Hi))
		if r.Share > 0 && r.Share < 1 && r.Share <= 0.5 {
			caught = append(caught, fmt.Sprintf("%s at <= %.1f %% or >= %.1f %%", r.Leg, 100*r.CaughtBelow, 100*r.CaughtAbove))
		}
	}
	s := fmt.Sprintf("n=%d %s, alpha %.0e", v.N, strings.Join(legs, ", "), v.Alpha)
	if len(caught) == 0 {
		return fmt.Sprintf("n=%d %s, exact: one stray answer fails", v.N, strings.Join(legs, ", "))
	}
	return s + fmt.Sprintf(", power %.2f against %s", split.Power, strings.Join(caught[:1], ", "))
}

// keep writes the answers to a file of the evidence folder, named by number
// and step, and returns its path.
func (l *Session) keep(answers []probe.Answer) (string, error) {
	var lines bytes.Buffer
	enc := json.NewEncoder(&lines)
	for _, a := range answers {
		if err := enc.Encode(a); err != nil {
			return "", fmt.Errorf("keeping evidence: %w", err)
		}
	}
	return l.keepText(".jsonl", lines.Bytes())
}

// keepText is keep for a text of any kind, which the name's end says.
func (l *Session) keepText(end string, text []byte) (string, error) {
	if l.evidence == "" {
		return "", nil
	}
	if err := os.MkdirAll(l.evidence, 0o700); err != nil {
		return "", fmt.Errorf("keeping evidence: %w", err)
	}
	l.evidenceSeq++
	words := strings.FieldsFunc(l.stepName, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	path := filepath.Join(l.evidence, fmt.Sprintf("%02d-%s%s", l.evidenceSeq, strings.Join(words, "-"), end))
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return "", fmt.Errorf("keeping evidence: %w", err)
	}
	return path, nil
}

// watch is an open-loop watcher and its rate in requests per second.
type watch struct {
	*probe.Watcher
	rate float64
}

// watch starts a watcher, which ends with the run at last.
func (l *Session) watch(ctx context.Context, r probe.Request, rate float64) *watch {
	var w *watch
	l.cleanup(func() { w.Stop() }) // after its context has ended, so that it waits for no answer
	ctx, _ = l.lasting(ctx)
	w = &watch{probe.Watch(ctx, l.send, r, rate), rate}
	l.watching = append(l.watching, w)
	l.count(nil)
	return w
}

// lasting is a context for what outlives its step, whose own is bounded. It ends
// with the run, or by the function.
func (l *Session) lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancel(context.WithoutCancel(ctx))
	l.cleanup(end)
	return ctx, end
}

// confidence of the bounds and intervals that are stated.
const confidence = 0.95

// watched stops a watcher and judges whether it lost anything.
func (l *Session) watched(w *watch) (Evidence, error) {
	record := w.Stop()
	l.watching = slices.DeleteFunc(l.watching, func(each *watch) bool { return each == w })
	tally := probe.Count(record.Answers)
	var err error
	e := Evidence{Tally: &tally}
	if e.File, err = l.keep(record.Answers); err != nil {
		return e, err
	}
	seen := &Watched{Sent: tally.Sent, Lost: len(tally.Failed), Missed: record.Missed, Rate: w.rate, Outage: 3 / w.rate}
	if tally.Sent > 0 {
		seen.Seconds = record.Answers[tally.Sent-1].Scheduled.Sub(record.Answers[0].Scheduled).Seconds()
	}
	seen.Bound = split.UpperBound(seen.Lost, tally.Sent, confidence)
	e.Watch = seen
	e.Summary = fmt.Sprintf("%d of %d watched requests lost in %.0f s: below %.2f %% with %.0f %% confidence; an outage over %s would have been seen",
		seen.Lost, seen.Sent, seen.Seconds, 100*seen.Bound, 100*confidence, time.Duration(seen.Outage*float64(time.Second)).Round(time.Millisecond))
	switch {
	case tally.Sent == 0:
		return e, errors.New("the watcher sent nothing")
	case seen.Missed > 0:
		return e, fmt.Errorf("the watcher could not send %d requests in time: nothing can be said about loss", seen.Missed)
	case seen.Lost > 0:
		refuted := answered(tally)
		refuted.Claim = NoLoss
		return e, refuted
	}
	return e, nil
}
