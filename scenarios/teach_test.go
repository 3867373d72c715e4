package scenarios

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/kube"
)

func objects(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	objs, err := kube.Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return objs
}

const before = `
apiVersion: v1
kind: ConfigMap
metadata: {name: weights, namespace: ns}
data: {v1: "90", v2: "10", note: kept}
`

func TestALessonShowsWhatAnApplyWouldChange(t *testing.T) {
	l := &Session{Env: &Env{Teach: func(context.Context, Lesson) error { return nil }}, Namespace: "ns"}
	was := objects(t, before)
	for _, tc := range []struct{ name, next, want string }{
		{"a new object is all new", strings.Replace(before, "weights", "others", 1), `--- not there yet
+++ ConfigMap/ns/others
@@ -0,0 +1,9 @@
+apiVersion: v1
+data:
+  note: kept
+  v1: "90"
+  v2: "10"
+kind: ConfigMap
+metadata:
+  name: others
+  namespace: ns
`},
		{"a changed one says only what changes", strings.Replace(before, `"10"`, `"50"`, 1), `--- as it is
+++ ConfigMap/ns/weights
@@ -2,7 +2,7 @@
 data:
   note: kept
   v1: "90"
-  v2: "10"
+  v2: "50"
 kind: ConfigMap
 metadata:
   name: weights
`},
		{"the same again is no change", before, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l.applied = was
			if got := l.changes(objects(t, tc.next)); got != tc.want {
				t.Errorf("got\n%swant\n%s", got, tc.want)
			}
		})
	}
}

func TestAStepIsExplainedOnceAndEveryChangeIsShown(t *testing.T) {
	var shown []Lesson
	l := &Session{Env: &Env{Teach: func(_ context.Context, lesson Lesson) error {
		shown = append(shown, lesson)
		return nil
	}}}
	for _, step := range []string{"deploy", "watch"} {
		l.lesson = Lesson{Step: 1, Steps: 2, Name: step, Why: "why", WatchFor: "at what"}
		if step == "deploy" {
			for _, change := range []string{"", "+ a\n", "", "+ b\n"} {
				if err := l.teach(t.Context(), change); err != nil {
					t.Fatal(err)
				}
			}
			continue
		}
		if err := l.teach(t.Context(), ""); err != nil { // a step that applies nothing
			t.Fatal(err)
		}
	}
	want := []Lesson{
		{Step: 1, Steps: 2, Name: "deploy", Why: "why", WatchFor: "at what"}, {Change: "+ a\n"}, {Change: "+ b\n"},
		{Step: 1, Steps: 2, Name: "watch", Why: "why", WatchFor: "at what"},
	}
	if len(shown) != len(want) {
		t.Fatalf("shown %+v", shown)
	}
	for i := range want {
		if shown[i] != want[i] {
			t.Errorf("lesson %d: %+v, want %+v", i, shown[i], want[i])
		}
	}
}

func TestAPersonWhoStopsIsHeardBeforeTheChange(t *testing.T) {
	stop := errors.New("stop")
	l := &Session{Env: &Env{Teach: func(context.Context, Lesson) error { return stop }}, Namespace: "ns", writes: writes{applied: objects(t, before)}}
	// Without a cluster a change that is made would panic.
	if err := l.write(t.Context(), objects(t, strings.Replace(before, "90", "80", 1))...); !errors.Is(err, stop) {
		t.Errorf("apply: %v", err)
	}
	if err := l.remove(t.Context(), objects(t, before)...); !errors.Is(err, stop) {
		t.Errorf("remove: %v", err)
	}
	if err := l.breakPod(t.Context(), "pod", faults{}); !errors.Is(err, stop) {
		t.Errorf("breakPod: %v", err)
	}
	if text := asYAML(l.applied[0]); !strings.Contains(text, `"90"`) {
		t.Errorf("what was not applied is on record: %s", text)
	}
}

func TestAPersonsTimeIsNotTheSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Session{Env: &Env{Teach: func(context.Context, Lesson) error {
			time.Sleep(time.Hour)
			return nil
		}}, teacher: teacher{lesson: Lesson{Name: "x"}}}
		began := l.now()
		if err := l.teach(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		if took := l.now().Sub(began); took != 0 {
			t.Errorf("%s of an hour's thinking is in the step's time", took)
		}
	})
}

func TestNobodyIsTaughtWithoutAsking(t *testing.T) {
	l := &Session{Env: &Env{}, teacher: teacher{lesson: Lesson{Name: "x"}}, writes: writes{applied: objects(t, before)}}
	if err := l.teach(t.Context(), "+ a\n"); err != nil || l.changes(objects(t, before)) != "" {
		t.Errorf("%v", err)
	}
}
