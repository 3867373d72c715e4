package scenarios

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/pmezard/go-difflib/difflib"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"mllab.local/internal/kube"
)

// Lesson is the explanation of a step that --explain shows: what the step is about,
// before its first change, and each change itself.
type Lesson struct {
	Step, Steps   int    // its number and how many there are; 0 for what is no step
	Name          string // empty when it was shown already
	Why, WatchFor string
	Change        string // a diff of YAML; empty when nothing is applied
}

// teach shows what is about to be done, after what the step is about, and
// returns when the person goes on. Without a person, or with nothing to show,
// it returns at once.
func (l *Session) teach(ctx context.Context, change string) error {
	if change != "" {
		l.events.emit(Event{Type: EventChange, Text: change})
	}
	lesson := l.lesson
	lesson.Change = change
	if l.Teach == nil || lesson == (Lesson{}) {
		return nil
	}
	l.lesson = Lesson{}
	began := time.Now()
	l.events.emit(Event{Type: EventPause})
	defer func() {
		l.events.emit(Event{Type: EventResume})
		l.paused += time.Since(began)
	}()
	return l.Teach(ctx, lesson)
}

// teacher explains a run to a person.
type teacher struct {
	lesson Lesson        // of the step, until it is shown
	paused time.Duration // what they took for the lessons so far
}

// now is a clock that stands still while a person thinks.
func (l *teacher) now() time.Time { return time.Now().Add(-l.paused) }

// changes is what applying objs would change of what the run has applied, as a
// unified diff of their YAML.
func (l *writes) changes(objs []*unstructured.Unstructured) string {
	var b strings.Builder
	for _, o := range objs {
		before, from := "", "not there yet"
		if i := l.find(o); i >= 0 {
			before, from = asYAML(l.applied[i]), "as it is"
		}
		b.WriteString(unifiedDiff(from, before, kube.Name(o), asYAML(o)))
	}
	return b.String()
}

func unifiedDiff(fromName, from, toName, to string) string {
	// Both sides are in memory, so writing cannot fail.
	diff, _ := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: slices.Collect(strings.Lines(from)), B: slices.Collect(strings.Lines(to)), FromFile: fromName, ToFile: toName, Context: 3,
	})
	return diff
}

// deletions is changes for objects that are about to be deleted.
func deletions(objs []*unstructured.Unstructured) string {
	var b strings.Builder
	for _, o := range objs {
		b.WriteString("--- " + kube.Name(o) + "\n+++ deleted\n")
	}
	return b.String()
}

func asYAML(o *unstructured.Unstructured) string {
	text, err := yaml.Marshal(o.Object)
	if err != nil {
		return err.Error() // a person reads it
	}
	return string(text)
}
