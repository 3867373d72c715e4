package scenarios

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"knative.dev/pkg/apis"
	"knative.dev/serving/pkg/apis/serving"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
)

// cluster is an API server that only lists.
type cluster struct {
	client.Client
	pods      []corev1.Pod
	endpoints []string
	err       error
}

func (c cluster) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	switch list := list.(type) {
	case *corev1.PodList:
		list.Items = c.pods
	case *discoveryv1.EndpointSliceList:
		list.Items = []discoveryv1.EndpointSlice{{}} // one that has become empty
		for _, e := range c.endpoints {
			list.Items[0].Endpoints = append(list.Items[0].Endpoints, discoveryv1.Endpoint{Addresses: []string{e}})
		}
	}
	return c.err
}

func pod(name string) corev1.Pod {
	return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{serving.RevisionLabelKey: "model-v1"}}}
}

func terminating(p corev1.Pod) corev1.Pod {
	p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	return p
}

// refutes fails the test unless err refutes claim, or is nil for "", or is
// another error for "error".
func wantRefuted(t *testing.T, err error, claim Claim, says string) {
	t.Helper()
	got := Claim("")
	var refuted *ClaimError
	if errors.As(err, &refuted) {
		got = refuted.Claim
	} else if err != nil {
		got = "error"
	}
	if got != claim || err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("got %q (%v), want %q with %q in it", got, err, claim, says)
	}
}

func TestAtZeroIsNoPodAndNoEndpoint(t *testing.T) {
	for _, tc := range []struct {
		name    string
		cluster cluster
		refutes Claim
		says    string
	}{
		{"nothing is left", cluster{}, "", ""},
		{"a pod is left", cluster{pods: []corev1.Pod{pod("a")}}, Zero, "1 pods (a)"},
		{"a Terminating pod is left", cluster{pods: []corev1.Pod{terminating(pod("a"))}}, Zero, "a (Terminating)"},
		{"an endpoint is left", cluster{endpoints: []string{"10.0.0.1"}}, Zero, "1 endpoints (10.0.0.1)"},
		{"nobody knows", cluster{err: errors.New("no route to host")}, "error", "no route to host"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := &Session{Env: &Env{Kube: &kube.Client{Client: tc.cluster}}}
			q := &idle{grace: 30 * time.Second}
			wantRefuted(t, q.atZero(t.Context(), l, &idleService{name: "model"}), tc.refutes, tc.says)
		})
	}
}

func TestZeroProvesNothingUnlessAPodAndAnEndpointWereSeenBefore(t *testing.T) {
	for _, tc := range []struct {
		name    string
		answer  string
		cluster cluster
		refutes Claim
		says    string
	}{
		{"both are seen", "v1", cluster{pods: []corev1.Pod{pod("a")}, endpoints: []string{"10.0.0.1"}}, "", ""},
		{"no pod is seen", "v1", cluster{endpoints: []string{"10.0.0.1"}}, "error", "prove nothing"},
		{"no endpoint is seen", "v1", cluster{pods: []corev1.Pod{pod("a")}}, "error", "prove nothing"},
		{"it does not answer", "", cluster{pods: []corev1.Pod{pod("a")}, endpoints: []string{"10.0.0.1"}}, Answers, "503"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := gateway(t, tc.answer)
			l.Kube = &kube.Client{Client: tc.cluster}
			_, err := l.answerOnce(t.Context(), []*idleService{{name: "model"}})
			wantRefuted(t, err, tc.refutes, tc.says)
		})
	}
}

func TestAColdAnswerIsFromTheOnePodThatItStarted(t *testing.T) {
	sent := time.Date(2026, 1, 2, 3, 4, 5, 900_000_000, time.UTC)
	life := func(name string, created time.Time) podLife {
		p := pod(name)
		p.CreationTimestamp = metav1.NewTime(created.Truncate(time.Second))
		p.Status.StartTime = &p.CreationTimestamp
		return podLife{pod: p}
	}
	before := map[string]podLife{"old": life("old", sent.Add(-time.Minute))}
	with := func(names ...string) map[string]podLife {
		after := map[string]podLife{"old": before["old"]}
		for _, name := range names {
			after[name] = life(name, sent.Add(50*time.Millisecond)) // the same second
		}
		return after
	}
	for _, tc := range []struct {
		name, from string
		after      map[string]podLife
		refutes    Claim
		says       string
	}{
		{"the one new pod answers", "new", with("new"), "", ""},
		{"the old pod answers", "old", with("new"), OnePod, "was there before"},
		{"an unknown pod answers", "who", with("new"), OnePod, "Pod/who"},
		{"two pods were started", "new", with("new", "other"), OnePod, "started 2 pods: new, other"},
		{"a pod that nobody had seen is older than the request", "new", map[string]podLife{"new": life("new", sent.Add(-time.Second))}, OnePod, "03:04:04"},
		{"the pod has not started", "new", map[string]podLife{"new": {pod: pod("new")}}, OnePod, "request was sent"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wantRefuted(t, judgeCold(probe.Answer{Pod: tc.from, Sent: sent}, before, tc.after), tc.refutes, tc.says)
		})
	}
}

func TestTheStagesOfAPodAreWhenTheyWereFirstTold(t *testing.T) {
	p := &podTimes{lives: map[string]*podLife{}}
	begin := time.Now()
	n := 0
	seen := func(kind apiwatch.EventType, o runtime.Object) {
		p.take(apiwatch.Event{Type: kind, Object: o}, begin.Add(time.Duration(n)*time.Second))
		n++
	}
	event := func(reason string) *corev1.Event {
		return &corev1.Event{InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "a"}, Reason: reason}
	}
	status := func(conditions ...corev1.PodConditionType) *corev1.Pod {
		a := pod("a")
		for _, c := range conditions {
			a.Status.Conditions = append(a.Status.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue})
		}
		return &a
	}
	unready := status(corev1.PodScheduled)
	unready.Status.Conditions = append(unready.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse})
	seen(apiwatch.Added, status())         // 0
	seen(apiwatch.Modified, unready)       // 1
	seen(apiwatch.Added, event("Pulled"))  // 2
	seen(apiwatch.Added, event("Started")) // 3
	seen(apiwatch.Added, event("Pulled"))  // 4
	seen(apiwatch.Added, event("Started")) // 5
	found := status(corev1.PodScheduled, corev1.PodReady)
	found.Status.PodIP = "10.0.0.1"
	seen(apiwatch.Modified, found)                                        // 6
	seen(apiwatch.Modified, event("Started"))                             // 7: a restart
	seen(apiwatch.Modified, status(corev1.PodScheduled, corev1.PodReady)) // 8
	seen(apiwatch.Added, &corev1.Event{Reason: "Started"})                // 9: of something else
	goes := terminating(*status(corev1.PodScheduled))                     //
	seen(apiwatch.Modified, &goes)                                        // 10
	if life := p.of("model-v1")["a"]; life.gone || life.pod.DeletionTimestamp == nil {
		t.Errorf("a Terminating pod is %+v, want it still there", life)
	}
	seen(apiwatch.Deleted, &goes)
	life := p.of("model-v1")["a"]
	if !life.gone || len(p.of("other-v1")) != 0 {
		t.Errorf("got %+v and %v, want it gone, and none of another revision", life, p.of("other-v1"))
	}
	for stage, want := range map[string]int{stageCreated: 0, stageScheduled: 1, stageSandbox: 2, stageRunning: 5, stageAddress: 6, stageReady: 6} {
		if got := life.at[stage].Sub(begin); got != time.Duration(want)*time.Second {
			t.Errorf("%s was seen at %s, want %d s", stage, got, want)
		}
	}
}

func TestAWatchThatEndedCountsNothing(t *testing.T) {
	if err := (&podTimes{}).whole(); err != nil {
		t.Error(err)
	}
	wantRefuted(t, (&podTimes{ended: true}).whole(), "error", "nothing can be said")
}

func TestColdStartsAreDescribedByMinMedianAndMax(t *testing.T) {
	sent := time.Now()
	var answers []probe.Answer
	var lives []podLife
	for _, d := range []time.Duration{3, 1, 2} {
		answers = append(answers, probe.Answer{Sent: sent, Latency: d * time.Second})
		lives = append(lives, podLife{at: map[string]time.Time{stageCreated: sent.Add(d * time.Second / 10), stageReady: sent.Add(d * time.Second)}})
	}
	lives[1].at[stageRunning] = sent // the others' events were lost
	says, figures := describeCold(answers, lives)
	want := "3 cold starts: min 1.00 s, median 2.00 s, max 3.00 s (a p95 needs 59 samples); medians after the send: pod created 0.20, pod ready 2.00 s"
	if says != want {
		t.Errorf("it says\n%s, want\n%s", says, want)
	}
	if !slices.Contains(figures, Figure{"cold median", 2, "s"}) || !slices.Contains(figures, Figure{stageCreated, 0.2, "s"}) || len(figures) != 5 {
		t.Errorf("got %v", figures)
	}
	for len(answers) < p95Samples {
		answers, lives = append(answers, answers[1]), append(lives, lives[1])
	}
	if says, _ := describeCold(answers, lives); !strings.Contains(says, "p95 at most 3.00 s with 95 % confidence") {
		t.Errorf("59 samples say %s", says)
	}
}

// The ranks are those of tables of one-sided tolerance limits: 59 samples for
// the longest, 93 for the second, 124 for the third.
func TestTheP95BoundIsAnOrderStatistic(t *testing.T) {
	for n, fromTop := range map[int]int{1: 0, 58: 0, 59: 1, 92: 1, 93: 2, 123: 2, 124: 3} {
		times := make([]time.Duration, n)
		for i := range times {
			times[i] = time.Duration(n - i) // the k-th from the top is k
		}
		slices.Sort(times)
		got, ok := p95Bound(times)
		if ok != (fromTop > 0) || ok && got != times[n-fromTop] {
			t.Errorf("n=%d: %v, %v, want the %d. from the top", n, int(got), ok, fromTop)
		}
	}
}

func TestTheP95BoundHoldsAsOftenAsItSays(t *testing.T) {
	const draws = 20_000
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{p95Samples, 93} {
		times := make([]time.Duration, n)
		for i := range times {
			times[i] = time.Duration(i)
		}
		rank, _ := p95Bound(times) // it depends on n alone
		held := 0
		for range draws {
			for i := range times {
				times[i] = time.Duration(random.IntN(1_000_000))
			}
			slices.Sort(times)
			if times[rank] >= 950_000 {
				held++
			}
		}
		if share := float64(held) / draws; share < 0.945 || share > 0.96 {
			t.Errorf("n=%d: it held in %.3f of the draws", n, share)
		}
	}
}

func TestASleeperIsAServiceThatKnativeTakes(t *testing.T) {
	for _, annotations := range []map[string]string{nil, {"min-scale": "1"}, {"activation-scale": "2"}} {
		obj, err := (&idleService{name: "model", annotations: annotations}).object("kind.local/sampleapp:x")
		if err != nil {
			t.Fatal(err)
		}
		var svc servingv1.Service
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(obj.Object, &svc, true); err != nil {
			t.Fatal(err)
		}
		ctx := apis.WithinCreate(t.Context())
		svc.SetDefaults(ctx)
		if err := svc.Validate(ctx); err != nil {
			t.Errorf("%v: %v", annotations, err)
		}
		if got := svc.Spec.Template.Annotations["autoscaling.knative.dev/window"]; got != "6s" || *svc.Spec.Template.Spec.TimeoutSeconds != 10 {
			t.Errorf("window %q, timeout %d", got, *svc.Spec.Template.Spec.TimeoutSeconds)
		}
		if len(svc.Spec.Template.Annotations) != 2+len(annotations) {
			t.Errorf("annotations %v", svc.Spec.Template.Annotations)
		}
	}
}
