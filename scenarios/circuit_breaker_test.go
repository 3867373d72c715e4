package scenarios

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/probe"
)

// crowded is a sample of which the first requests were served, and the others
// refused by the limit; and what the model says of it.
func crowded(served int) ([]probe.Answer, seen) {
	var answers []probe.Answer
	var got seen
	for n := range crowd {
		a := probe.Answer{ID: fmt.Sprint(n), Status: 503, Router: true, Shed: true, Latency: 20 * time.Millisecond}
		if n < served {
			a = from("model-a")
			a.ID = fmt.Sprint(n)
			got.IDs, got.AtOnce = append(got.IDs, a.ID), append(got.AtOnce, n+1)
		}
		answers = append(answers, a)
	}
	return answers, got
}

func TestALimitLetsThroughWhatItSaysAndRefusesTheRest(t *testing.T) {
	for _, tc := range []struct {
		name    string
		served  int
		but     func(answers []probe.Answer, got *seen)
		refutes Claim
		code    int
		says    string
	}{
		{"as many as the limit", limit, nil, "", 0, "10 of 100 served (accepted 10..11), and 90 refused; the model had up to 10 at once, and none of the refused ones; half of these were refused within 20ms"},
		{"one more, by the second worker", limit + 1, nil, "", 0, "11 of 100 served"},
		{"two more", limit + 2, nil, Overload, 1, "lets too many through: 12 of 100"},
		{"everything", crowd, nil, Overload, 1, "lets too many through: 100 of 100"},
		{"one less", limit - 1, nil, Overload, 1, "refuses too many"},
		{"nothing", 0, nil, Overload, 1, "refuses too many"},
		{"another error of the gateway's", limit, func(answers []probe.Answer, _ *seen) { answers[50].Shed = false }, Overload, 1, "neither served nor refused by the limit: status 503"},
		{"the model's own 503", limit, func(answers []probe.Answer, _ *seen) { answers[50].Router = false }, Overload, 1, "neither served nor refused"},
		{"a refusal that comes late", limit, func(answers []probe.Answer, _ *seen) { answers[50].Latency = crowdDelay }, Overload, 1, "refused after 5s"},
		{"a refused request that reached the model", limit, func(_ []probe.Answer, got *seen) {
			got.IDs, got.AtOnce = append(got.IDs, "50"), append(got.AtOnce, limit)
		}, Overload, 1, "1 of the 90 refused ones"},
		{"a served one that came twice", limit, func(_ []probe.Answer, got *seen) {
			got.IDs, got.AtOnce = append(got.IDs, "0"), append(got.AtOnce, limit)
		}, Overload, 1, "9 of the 10 served requests once"},
		{"a crowd that was stretched", 2 * limit, func(_ []probe.Answer, got *seen) { copy(got.AtOnce[limit:], slices.Repeat([]int{limit}, limit)) }, "", 3, "had answered others"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			answers, got := crowded(tc.served)
			if tc.but != nil {
				tc.but(answers, &got)
			}
			e, err := judgeLimit(Evidence{}, answers, got, 2)
			said := e.Summary
			if err != nil {
				said += err.Error()
			}
			if refutedClaim(err) != tc.refutes || fault.Code(err) != tc.code || !strings.Contains(said, tc.says) {
				t.Errorf("got %v, says %q", err, e.Summary)
			}
		})
	}
}

func TestTheRuleHasTheLimitThatIsClaimed(t *testing.T) {
	for most, want := range map[int]bool{0: false, limit: true} {
		objs, err := render("circuit-breaker/route.yaml", struct {
			routeState
			Limit int
		}{routeState{"model.n.test", "n", "1"}, most})
		if err != nil {
			t.Fatal(err)
		}
		rule := asYAML(objs[len(objs)-1])
		if got := strings.Contains(rule, fmt.Sprintf("http2MaxRequests: %d\n", limit)); got != want || strings.Contains(rule, "connectionPool") != want {
			t.Errorf("limit %d:\n%s", most, rule)
		}
	}
}
