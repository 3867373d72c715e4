package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"mllab.local/internal/alerts"
	"mllab.local/internal/prom"
)

// detector watches a model: what it is asked, and the labels that come later.
type detector struct {
	users *population
	model modelFiles // that serves
}

// detected is what the detector knows.
type detected struct {
	Looks    map[string]int     // by kind
	Smallest map[string]float64 // by kind, the corrected p-value
	Alarms   []driftAlarm
	Critical float64 // a distance from which on it alarms
}

type driftAlarm struct {
	Kind     string
	Features []string
	Look     int // from 1, of its kind
	P        float64
	First    string // request ID, in the window
}

const (
	driftWindow = 100 // rows, or labels, that the detector looks at together
	retrainRows = 300 // with labels of the new kind have it start the training

	covariate = "covariate"
	concept   = "concept"
)

func (a driftAlarm) isConcept() bool { return a.Kind == concept }

func (a driftAlarm) String() string {
	what := a.Kind + " drift"
	if a.Kind == covariate {
		what += fmt.Sprintf(" of %q", a.Features)
	}
	return fmt.Sprintf("%s (corrected p %.2g)", what, a.P)
}

// drifted is how many requests with drift of a kind are in the windows up to that look. The order of
// requests does not say it: on a busy machine many are under way when a drift begins, and their answers come in any order.
func (t *detector) drifted(kind string, look int) int {
	without := t.users.accuracy(func(a asked) bool {
		if kind == covariate {
			return !a.shifted
		}
		return a.told && !a.moved
	})
	return look*driftWindow - without.Users
}

// serve has a model answer, and a detector of its own watch it.
func (t *detector) serve(ctx context.Context, l *Session, alpha float64, target string, m modelFiles) error {
	t.model = m
	return l.applyFile(ctx, "drift/watched.yaml", map[string]any{
		"Namespace": l.Namespace, "Target": target, "Image": l.Image, "Model": m.image, "Python": l.Python, "Scrape": scrapeEvery.String(),
		"Alpha": alpha, "Window": driftWindow, "Retrain": retrainRows,
	})
}

// ask gives the detector the labels that are due, and returns what it knows.
func (t *detector) ask(ctx context.Context, l *Session, pod string) (d detected, err error) {
	labels, err := json.Marshal(t.users.due(t.model.Model))
	if err != nil {
		return d, err
	}
	var taken []string
	answer, err := l.Kube.ToPod(ctx, l.Namespace, pod, modelPort, "labels", labels)
	if err := readJSON(answer, err, "which labels the detector took", &taken); err != nil {
		return d, err
	}
	t.users.taken(taken)
	err = l.askPod(ctx, pod, "state", "what the detector knows", &d)
	return d, err
}

// follow asks the detector again and again until it knows enough.
func (t *detector) follow(ctx context.Context, l *Session, enough func(detected) (bool, error)) (d detected, err error) {
	pod, err := l.podOf(ctx, map[string]string{"app": "drift"})
	if err != nil {
		return d, err
	}
	err = l.untilError(ctx, time.Second/2, "the detector", func() (_ string, err error) {
		if d, err = t.ask(ctx, l, pod); err != nil {
			return "", err
		}
		if done, err := enough(d); done || err != nil {
			return "", err
		}
		return fmt.Sprintf("%d windows of rows, %d of labels, %d alarms", d.Looks[covariate], d.Looks[concept], len(d.Alarms)), nil
	})
	if err != nil {
		return d, err
	}
	_, err = l.keepJSON(d)
	return d, err
}

func (l *Session) hasAlertmanager(ctx context.Context) (bool, error) {
	pods, err := l.Kube.Pods(ctx, prom.Namespace, map[string]string{"app": "alertmanager"})
	return len(pods) > 0, err
}

// alert waits until Prometheus' alert about the concept fires, and Alertmanager has
// it; or until it has ended.
func (t *detector) alert(ctx context.Context, l *Session, fires bool) error {
	const bound = alerts.For + alertSlack
	begin, want := time.Now(), "to end"
	if fires {
		want = "to fire"
	}
	return l.untilError(ctx, followEvery, "alert "+alerts.ModelDrift, func() (string, error) {
		all, err := alerts.Active(ctx, l.Kube)
		if err != nil {
			return "", err
		}
		i := slices.IndexFunc(all, func(a alerts.Alert) bool {
			return a.Name == alerts.ModelDrift && a.Namespace == l.Namespace && strings.HasPrefix(a.Summary, concept)
		})
		if fires && i >= 0 && all[i].State == "firing" && all[i].Taken || !fires && i < 0 {
			return "", nil
		}
		if time.Since(begin) > bound {
			return "", refute(Alarm, "the alert %s of concept drift had %s within %s", alerts.ModelDrift, want, bound)
		}
		return "it has " + want, nil
	})
}
