package scenarios

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"

	"mllab.local/internal/split"
)

type shadowStory struct {
	Options
	*shadowed
}

const (
	partlyMirrored = 20 // percent
	claimedDrift   = 10 // percent
	leakedPercent  = 5  // of the callers, by a control
	heldPercent    = 5  // likewise

	// faultRequests are enough to say that less than 1 % was lost (with 95 %).
	// Each of them waits in the proxies for as long as v2 sleeps.
	faultRequests = 300

	// largeBody is the largest input that the model takes. Envoy before 1.33 did
	// not mirror bodies over 1 MiB:
	// https://www.envoyproxy.io/docs/envoy/latest/version_history/v1.33/v1.33.0
	largeBody    = 2 << 20
	bodyRequests = 20
)

// shadow: v1 serves all; v2 gets a copy of all of it, from outside and from
// inside the mesh; their predictions are compared; v2 gets a part; then v2 goes
// wrong in every way, and the caller must not notice.
var shadow = Scenario{
	Name:             "shadow",
	Summary:          "a new version gets a copy of the traffic, and no caller notices",
	Needs:            []string{"istio"},
	SidecarInjection: true,
	New:              newShadow,
}

func newShadow(o Options) (*Plan, error) {
	s := &shadowStory{Options: o, shadowed: newShadowed(o.Requests, claimedDrift)}
	if err := enough("shadow", s.copies(o.Requests, partlyMirrored), s.differences()); err != nil {
		return nil, err
	}
	const (
		outside = "mirrored, from outside"
		inside  = "mirrored, from inside"
	)
	partly := fmt.Sprintf("%d %% mirrored", partlyMirrored)
	sleeps := fmt.Sprintf("v2 sleeps %.0f s", shadowSleep.Seconds())
	return &Plan{
		Steps: []Step{
			{
				Name: "v1 alone", Change: s.deploy, Check: s.check("model", o.Requests, 0),
				Why:      "v2 is deployed and can be reached, but no traffic goes to it. The VirtualService holds for the gateway and for the mesh.",
				WatchFor: "Every answer is v1's, and v2 has received nothing.",
			},
			{
				Name: outside, Change: s.route(shadowRoute{Mirrored: 100}), Check: s.check("model", o.Requests, 100),
				Why:      "The gateway sends a copy of each request to v2 and throws its answers away: v2 meets real traffic, and nobody depends on it.",
				WatchFor: "The caller gets v1's answers only; by their IDs all requests reached v1 once, and v2 once.",
			},
			{
				Name: inside, Check: s.check("client", o.Requests, 100),
				Why:      "A client in the mesh calls http://model, and it is its own sidecar that mirrors. That needs the gateway \"mesh\" in the VirtualService.",
				WatchFor: "The same as before, for requests that came by the client's pod.",
			},
			{
				Name: "predictions compared", Check: s.compare,
				Why:      "This is what a shadow is for: both versions answer the same inputs, so their predictions can be compared before anybody depends on v2's.",
				WatchFor: fmt.Sprintf("v2 was made to differ for %d %% of all inputs; how often did it in the sample?", claimedDrift),
			},
			{
				Name:     partly,
				Why:      "A copy of all traffic doubles the load, so often a part must do. Envoy draws for each request whether it is mirrored.",
				WatchFor: "v2's count lies in the accepted interval, and the caller sees nothing of it.",
				Change:   s.route(shadowRoute{Mirrored: partlyMirrored}), Check: s.check("model", o.Requests, partlyMirrored),
			},
			{
				Name: sleeps, Change: s.sleep, Check: s.check("model", s.few(), 100),
				Why:      "The proxy does not wait for the shadow.",
				WatchFor: fmt.Sprintf("The slowest answer of v1: well below v2's %s.", shadowSleep),
			},
			{
				Name: "v2 answers 500", Change: s.fail, Check: s.check("model", s.few(), 100),
				Why:      "Errors of the shadow end at the proxy.",
				WatchFor: "All answers are 200 and v1's, though v2 received every request.",
			},
			{
				Name: fmt.Sprintf("bodies of %d MiB", largeBody>>20), Long: true, Change: s.heal, Check: s.bodies,
				Why:      "Large inputs are mirrored while they arrive. Envoy before 1.33 silently left out of the mirror what was over 1 MiB.",
				WatchFor: "v2 received every request, and could predict from each: no body was cut.",
			},
			{
				Name: "v2 scaled to zero", Change: s.scaleToZero, Check: s.check("model", s.few(), 0),
				Why:      "A shadow that is gone is no outage.",
				WatchFor: "All answers are 200 and v1's, while the route still mirrors to v2.",
			},
		},
		Controls: []Control{
			{
				Name: "mirror-off", Summary: "nothing is mirrored where everything is claimed to be",
				After: outside, Break: s.route(shadowRoute{}), Catches: Mirror,
			},
			{
				Name: "half", Summary: "half of the requests are mirrored where all are claimed to be",
				After: outside, Break: s.route(shadowRoute{Mirrored: 50}), Catches: Mirror,
			},
			{
				Name: "leak", Summary: fmt.Sprintf("v2 answers %d %% of the callers", leakedPercent),
				After: outside, Break: s.route(shadowRoute{Mirrored: 100, Leaked: leakedPercent}), Catches: Caller,
			},
			{
				Name: "gateway-only", Summary: "the route does not hold for the mesh: a client inside gets v1 and v2 in turns",
				After: inside, Break: s.route(shadowRoute{Mirrored: 100, Outside: true}), Catches: Caller,
			},
			{
				Name: "wait", Summary: fmt.Sprintf("%d %% of the callers wait %s", heldPercent, shadowRoute{}.Hold()),
				After: sleeps, Break: s.route(shadowRoute{Mirrored: 100, Held: heldPercent}), Catches: Caller,
			},
			{
				Name: "drift", Summary: fmt.Sprintf("v2 differs for %d %% of the inputs where %d %% are claimed", 3*claimedDrift, claimedDrift),
				Break: set(&s.drift, 3*claimedDrift), Catches: Outcome,
			},
		},
	}, nil
}

// few is the size of a sample whose requests all stay open in v2.
func (s *shadowStory) few() int { return min(s.Requests, faultRequests) }

// copies claims that percent of n requests are mirrored.
func (s *shadowStory) copies(n int, percent float64) split.Claim {
	share := percent / 100
	return split.Claim{Legs: []split.Leg{{Name: "mirrored", Share: share}, {Name: "not mirrored", Share: 1 - share}}, N: n, Alpha: s.Alpha}
}

// differences claims how often v2 predicts something else than v1.
func (s *shadowStory) differences() split.Claim {
	const share = claimedDrift / 100.0
	return split.Claim{Legs: []split.Leg{{Name: "differ", Share: share}, {Name: "agree", Share: 1 - share}}, N: s.Requests, Alpha: s.Alpha}
}

// check sends n requests to a host and judges that the caller got v1's answers
// only, and that v2 received percent of the requests.
func (s *shadowStory) check(host string, n int, percent float64) Check {
	return func(ctx context.Context, l *Session) (Evidence, error) {
		sample, err := s.observe(ctx, l, l, l.to(host), s.copies(n, percent))
		if err != nil {
			return Evidence{}, err
		}
		return sample.judge()
	}
}

// bodies sends large requests and judges that they reached v2 in full.
func (s *shadowStory) bodies(ctx context.Context, l *Session) (Evidence, error) {
	r := l.to("model")
	r.Method, r.Body = http.MethodPost, padded(largeBody)
	sample, err := s.observe(ctx, l, l, r, s.copies(bodyRequests, 100))
	if err != nil {
		return Evidence{}, err
	}
	e, err := sample.judge()
	if err != nil {
		return e, err
	}
	// The model refuses an input that breaks off.
	whole := slices.DeleteFunc(slices.Clone(sample.v2.Outputs), func(output string) bool { return output == "" })
	if cut := len(sample.v2.Outputs) - len(whole); cut > 0 {
		return e, refute(Mirror, "v2 could not predict from %d of %d bodies of %d bytes", cut, bodyRequests, largeBody)
	}
	e.Summary += fmt.Sprintf(", and predicted from each body of %d bytes", largeBody)
	return e, nil
}

// padded is a model input of so many bytes.
func padded(size int) []byte {
	input := []byte(`{"instances":[[1]]}`)
	return append(input, bytes.Repeat([]byte(" "), size-len(input))...)
}

// compare sends an input with each request and judges how often the versions'
// predictions differ.
func (s *shadowStory) compare(ctx context.Context, l *Session) (Evidence, error) {
	sample, err := s.observe(ctx, l, l.inputs(s.Requests), l.to("model"), s.copies(s.Requests, 100))
	if err != nil {
		return Evidence{}, err
	}
	e, err := sample.judge()
	if err != nil {
		return e, err
	}
	differ, err := differing(sample.v1, sample.v2)
	if err != nil {
		return e, err
	}
	agreed := s.Requests - differ
	e, err = e.judge(s.differences(), map[string]int{"differ": differ, "agree": agreed}, Outcome)
	rate := float64(agreed) / float64(s.Requests)
	lo, hi := split.Interval(agreed, s.Requests, confidence)
	e.Figures = []Figure{{"agreement", 100 * rate, "%"}, {"agreement, low", 100 * lo, "%"}, {"agreement, high", 100 * hi, "%"}}
	e.Summary = fmt.Sprintf("v1 and v2 agree on %.1f %% (%.1f..%.1f %% with %.0f %% confidence) of %d distinct inputs: %s",
		100*rate, 100*lo, 100*hi, 100*confidence, s.Requests, e.Summary)
	return e, err
}

// differing counts the requests to which v2 did not predict what v1 did. The
// sample model's predictions are exact, so their text is compared.
func differing(v1, v2 seen) (int, error) {
	shadows := map[string]string{}
	for i, id := range v2.IDs {
		shadows[id] = v2.Outputs[i]
	}
	differ := 0
	for i, id := range v1.IDs {
		if v1.Outputs[i] == "" {
			return 0, fmt.Errorf("v1 has no prediction for request %s", id)
		}
		if shadows[id] != v1.Outputs[i] {
			differ++
		}
	}
	return differ, nil
}
