package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
	"mllab.local/internal/report"
	"mllab.local/internal/split"
)

// Lab is the running lab as one run of a scenario sees it.
type Lab struct {
	Kube     *kube.Client
	Send     probe.Sender
	Gateway  string // URL of the one gateway
	Domain   string // suffix of the hosts behind it
	Image    string // the sample model's image on the node
	Evidence string // folder for the answers of every sample; empty keeps none
	Report   report.Reporter

	Namespace string // the run's own
	title     string // of the run
	made      bool   // the namespace is there
	at        string // the step that is being told
	kept      int    // evidence files so far
	applied   []*unstructured.Unstructured
	task      report.Task
	cleanups  []func()
	ctx       context.Context // the run's: a watcher outlives the step that starts it
}

// cleanup has f called after the run, however that ends; the last one first.
func (l *Lab) cleanup(f func()) { l.cleanups = append(l.cleanups, f) }

// sampleWorkers send the requests of a sample. Few enough not to queue on two
// cores, enough that a stuck connection does not stop the sample.
const sampleWorkers = 8

// host is the Host under which the gateway serves a Knative Service.
func (l *Lab) host(service string) string {
	return service + "." + l.Namespace + "." + l.Domain
}

// apply writes objects into the run's namespace and returns when they are
// ready.
func (l *Lab) apply(ctx context.Context, objs ...*unstructured.Unstructured) error {
	for _, o := range objs {
		o.SetNamespace(l.Namespace)
	}
	l.applied = append(l.applied, objs...)
	if _, err := l.Kube.Apply(ctx, objs); err != nil {
		return err
	}
	return l.Kube.Wait(ctx, objs, l.task.Update)
}

// sample sends n requests to host once and judges who answered.
func (l *Lab) sample(ctx context.Context, host string, claim split.Claim) (Evidence, error) {
	if err := claim.Check(); err != nil {
		return Evidence{}, err
	}
	done := int64(0)
	answers := probe.Burst(ctx, l.Send, probe.Request{URL: l.Gateway, Host: host}, claim.N, sampleWorkers, func(probe.Answer) {
		done++
		l.task.Progress(done, int64(claim.N), "requests")
	})
	if err := ctx.Err(); err != nil {
		return Evidence{}, err
	}
	tally := probe.Count(answers)
	e := Evidence{Tally: &tally}
	var err error
	if e.File, err = l.keep(answers); err != nil {
		return e, err
	}
	if refuted := answered(tally); refuted != nil {
		e.Says = refuted.Reasons[0]
		return e, refuted
	}
	verdict, err := claim.Judge(tally.Counts)
	if err != nil {
		return e, err
	}
	e.Verdict, e.Says = &verdict, describe(verdict)
	if !verdict.Pass {
		return e, &Refuted{Shares, verdict.Reasons}
	}
	return e, nil
}

// answered refutes that every request was answered by the application.
func answered(t probe.Tally) *Refuted {
	if len(t.Failed) == 0 {
		return nil
	}
	first := t.Failed[0]
	return &Refuted{Answers, []string{fmt.Sprintf("%d of %d requests were not answered 200 by the application, the first: %s (request %s)",
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
func (l *Lab) keep(answers []probe.Answer) (string, error) {
	if l.Evidence == "" {
		return "", nil
	}
	if err := os.MkdirAll(l.Evidence, 0o700); err != nil {
		return "", fmt.Errorf("keeping evidence: %w", err)
	}
	l.kept++
	words := strings.FieldsFunc(l.at, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	path := filepath.Join(l.Evidence, fmt.Sprintf("%02d-%s.jsonl", l.kept, strings.Join(words, "-")))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return "", fmt.Errorf("keeping evidence: %w", err)
	}
	enc := json.NewEncoder(f)
	for _, a := range answers {
		if err := enc.Encode(a); err != nil {
			return "", errors.Join(fmt.Errorf("keeping evidence: %w", err), f.Close())
		}
	}
	return path, f.Close()
}

// watch starts an open-loop watcher of host, which ends with the run at last.
func (l *Lab) watch(host string, rate float64) *probe.Watcher {
	w := probe.Watch(l.ctx, l.Send, probe.Request{URL: l.Gateway, Host: host}, rate)
	l.cleanup(func() { w.Stop() })
	return w
}

// confidence of the bounds that a watcher states.
const confidence = 0.95

// watched stops a watcher and judges what it saw.
func (l *Lab) watched(w *probe.Watcher, rate float64) (Evidence, error) {
	record := w.Stop()
	tally := probe.Count(record.Answers)
	var err error
	e := Evidence{Tally: &tally}
	if e.File, err = l.keep(record.Answers); err != nil {
		return e, err
	}
	seen := &Watched{Sent: tally.Sent, Lost: len(tally.Failed), Missed: record.Missed, Rate: rate, Outage: 3 / rate}
	if tally.Sent > 0 {
		seen.Seconds = record.Answers[tally.Sent-1].Scheduled.Sub(record.Answers[0].Scheduled).Seconds()
	}
	seen.Bound = split.UpperBound(seen.Lost, tally.Sent, confidence)
	e.Watch = seen
	e.Says = fmt.Sprintf("%d of %d watched requests lost in %.0f s: below %.2f %% with %.0f %% confidence; an outage over %s would have been seen",
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
