package scenarios

import (
	"slices"
	"strings"
	"testing"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
)

func TestOutcomesTellTheModelsErrorsFromTheGateways(t *testing.T) {
	counts := outcomes([]probe.Answer{
		from("m-a"), from("m-b"),
		{Status: 500, Target: "v1"},
		{Status: 503, Router: true},
		{Err: "no answer"},
	})
	if len(counts) != 4 || counts[isOK] != 2 || counts[isError] != 1 {
		t.Errorf("got %v", counts)
	}
}

func TestTriesAreCountedOverAllPods(t *testing.T) {
	got := triesOf([]probe.Answer{{ID: "a"}, {ID: "b"}, {ID: "c"}},
		[]string{"a", "b", "other", "b", "b"})
	if !slices.Equal(got, []int{1, 3, 0}) {
		t.Errorf("got %v", got)
	}
}

func TestWithATimeoutEveryAnswerIsTheGatewaysAndInTime(t *testing.T) {
	late := probe.Answer{Status: 504, Router: true, Latency: 500 * time.Millisecond}
	for _, tc := range []struct {
		name    string
		third   probe.Answer
		refutes Claim
	}{
		{"all in time", late, ""},
		{"one too late", probe.Answer{Status: 504, Router: true, Latency: waitBound + 1}, Bounds},
		{"one answered after all", from("m-a"), Bounds},
		{"another error of the gateway's", probe.Answer{Status: 503, Router: true}, Bounds},
	} {
		l := answersOf(t, func(n int64) probe.Answer {
			if n == 3 {
				return tc.third
			}
			return late
		})
		_, err := (&resilienceStory{}).bounded(t.Context(), l)
		if refutedClaim(err) != tc.refutes || (err == nil) != (tc.refutes == "") {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}

func TestWithoutATimeoutASlowModelIsWaitedFor(t *testing.T) {
	l := answersOf(t, func(int64) probe.Answer { return from("m-a") })
	if _, err := (&resilienceStory{}).waits(t.Context(), l); fault.Code(err) != 3 {
		t.Errorf("a model that is not slow gave %v", err)
	}
}

func TestAPodThatGetsRequestsIsNotEjected(t *testing.T) {
	broken := probe.Answer{Status: 500, Target: "v1", Pod: "m-a"}
	for _, tc := range []struct {
		name    string
		until   int64 // the broken pod answers a third up to this request
		again   int64 // and then this one
		refutes Claim
		code    int
	}{
		{"it is ejected", 9, 0, "", 0},
		{"it still answers once", 9, 300, Ejection, 1},
		{"it never answered", 0, 0, "", 3},
	} {
		l := answersOf(t, func(n int64) probe.Answer {
			if n%3 == 0 && n <= tc.until || n == tc.again {
				return broken
			}
			return from("m-b")
		})
		s := &resilienceStory{Options: Options{Requests: 1000}, ejection: ejection{rotation: rotation{pods: []string{"m-a", "m-b", "m-c"}}}}
		if _, err := s.without(t.Context(), l, s.Requests); refutedClaim(err) != tc.refutes || fault.Code(err) != tc.code {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}

func TestARouteSaysOnlyWhatItIsGiven(t *testing.T) {
	for _, tc := range []struct {
		way  routing
		says []string
	}{
		{routing{}, nil},
		{routing{Timeout: istioSeconds(routeTimeout)}, []string{"timeout: 0.5s"}},
		{routing{Retries: 2}, []string{"attempts: 2"}},
		{routing{Ejection: istioSeconds(ejectionTime)}, []string{"baseEjectionTime: 20s"}},
	} {
		tc.way.Host, tc.way.Namespace, tc.way.Mark = "model.n.test", "n", "7"
		objs, err := render("resilience/route.yaml", tc.way)
		if err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		for _, o := range objs {
			all.WriteString(kube.Name(o) + "\n" + asYAML(o))
		}
		for _, option := range []string{"timeout: 0.5s", "attempts: 2", "baseEjectionTime: 20s"} {
			if got := strings.Contains(all.String(), option); got != slices.Contains(tc.says, option) {
				t.Errorf("%+v: %q is there: %v", tc.way, option, got)
			}
		}
	}
}
