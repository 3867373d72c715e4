package scenarios

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mllab.local/internal/fault"
	"mllab.local/internal/probe"
	"mllab.local/internal/split"
	"mllab.local/sampleapp/api"
)

// gateway answers as the n-th of targets says, over and over; "" is a proxy's
// own 503.
func gateway(t *testing.T, targets ...string) *Session {
	t.Helper()
	var n atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		target := targets[int(n.Add(1)-1)%len(targets)]
		if target == "" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set(api.HeaderTarget, target)
		w.Header().Set(api.HeaderPod, "pod")
		w.Header().Set(api.HeaderID, r.Header.Get(api.HeaderID))
	}))
	t.Cleanup(srv.Close)
	return &Session{Env: &Env{Gateway: srv.URL}, Sender: probe.NewHTTP(0), record: record{evidence: t.TempDir(), stepName: "90/10"}}
}

// planned plans a run of the named scenario.
func planned(name string, o Options) (*Plan, error) {
	s, err := Find(name)
	if err != nil {
		return nil, err
	}
	return s.Plan(o)
}

func (p *Plan) has(step string) bool {
	return slices.ContainsFunc(p.Steps, func(each Step) bool { return each.Name == step })
}

func TestAShortRunHasTheStepOfItsControl(t *testing.T) {
	for _, s := range All() {
		full, err := s.Plan(Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range full.Controls {
			short, err := s.plan(Options{Short: true}, c.Name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := short.control(c.Name); err != nil || c.After != "" && !short.has(c.After) {
				t.Errorf("%s, control %s after %q: %v, steps %+v", s.Name, c.Name, c.After, err, short.Steps)
			}
		}
		p, err := s.Plan(Options{Short: true})
		if err != nil || slices.ContainsFunc(p.Steps, func(step Step) bool { return step.Long }) || len(p.Controls) != len(full.Controls) {
			t.Errorf("%s: a short plan has %+v and %d of %d controls, %v", s.Name, p.Steps, len(p.Controls), len(full.Controls), err)
		}
	}
}

func nineToOne(n int) split.Claim {
	return split.Claim{Legs: []split.Leg{{Name: "v1", Share: 0.9}, {Name: "v2", Share: 0.1}}, N: n, Alpha: 1e-6}
}

// mix is ten targets of which so many are v2.
func mix(v2 int) []string {
	return append(slices.Repeat([]string{"v1"}, 10-v2), slices.Repeat([]string{"v2"}, v2)...)
}

func TestASampleIsJudgedByWhoAnswered(t *testing.T) {
	for _, tc := range []struct {
		name    string
		answers []string
		refutes Claim
		says    string
	}{
		{"the claimed split passes", mix(1), "", "power"},
		{"half of it to each is refuted", mix(5), Shares, "v2"},
		{"a leg that gets nothing is refuted", mix(0), Shares, "0 of 1000"},
		{"an unknown version is refuted", append(mix(1), "v3"), Shares, "v3"},
		{"a proxy's error is refuted as its own", append(mix(1), ""), Answers, "503"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := gateway(t, tc.answers...)
			e, err := l.sample(t.Context(), l.to("model"), nineToOne(1000))
			var refuted *ClaimError
			switch {
			case tc.refutes == "" && err != nil:
				t.Fatal(err)
			case tc.refutes != "" && (!errors.As(err, &refuted) || refuted.Claim != tc.refutes):
				t.Fatalf("got %v, want claim %q refuted", err, tc.refutes)
			}
			if said := e.Summary + strings.Join(reasons(refuted), " "); !strings.Contains(said, tc.says) {
				t.Errorf("it says %q, want %q in it", said, tc.says)
			}
			data, err := os.ReadFile(e.File)
			if err != nil || strings.Count(string(data), "\n") != 1000 || !strings.Contains(e.File, "01-90-10") {
				t.Errorf("evidence %s holds %d answers: %v", e.File, strings.Count(string(data), "\n"), err)
			}
		})
	}
}

func reasons(r *ClaimError) []string {
	if r == nil {
		return nil
	}
	return r.Reasons
}

// It has a clock of its own: a busy machine does not keep a rate.
func TestALostRequestOfTheWatcherIsRefuted(t *testing.T) {
	for _, tc := range []struct {
		name    string
		lost    int64 // one in so many; 0 means none
		refutes Claim
	}{{"none lost", 0, ""}, {"one in ten lost", 10, NoLoss}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &Session{Env: &Env{}, record: record{evidence: t.TempDir(), stepName: "90/10"}, Sender: &numbered{answering: func(n int64) probe.Answer {
					if tc.lost > 0 && n%tc.lost == 0 {
						return probe.Answer{Status: http.StatusServiceUnavailable}
					}
					return probe.Answer{Status: http.StatusOK, Target: "v1"}
				}}}
				var p prober
				p.start(t.Context(), l, l.to("model"), 100)
				time.Sleep(time.Second)
				e, err := p.lostNone(t.Context(), l)
				var refuted *ClaimError
				if errors.As(err, &refuted); (tc.refutes == "") != (err == nil) || err != nil && (refuted == nil || refuted.Claim != tc.refutes) {
					t.Fatalf("got %v", err)
				}
				if e.Watch.Sent < 95 || e.Watch.Bound <= 0 || e.Watch.Bound >= 1 {
					t.Errorf("got %+v", e.Watch)
				}
			})
		})
	}
}

// A control may break the world just before the watch is judged.
func TestTheWatcherSeesTheNewestChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		l := &Session{Env: &Env{}, record: record{evidence: t.TempDir(), stepName: "no request lost"}, Sender: &numbered{answering: func(n int64) probe.Answer {
			if broken.Load() && n%2 == 0 {
				return probe.Answer{Status: http.StatusServiceUnavailable}
			}
			return probe.Answer{Status: http.StatusOK, Target: "v1"}
		}}}
		var p prober
		p.start(t.Context(), l, l.to("model"), 50)
		p.More(t.Context(), 50)
		synctest.Wait()
		broken.Store(true)
		e, err := p.lostNone(t.Context(), l)
		var refuted *ClaimError
		if !errors.As(err, &refuted) || refuted.Claim != NoLoss || e.Watch.Lost < sentAfter/2-1 {
			t.Fatalf("got %v, lost %d of the last %d", err, e.Watch.Lost, sentAfter)
		}
	})
}

type counted struct {
	probe.Sender
	sent func()
}

func (c counted) Send(ctx context.Context, r probe.Request) probe.Answer {
	defer c.sent()
	return c.Sender.Send(ctx, r)
}

func TestAWatcherThatSentNothingProvesNothing(t *testing.T) {
	l := gateway(t, "v1")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (&prober{probe.Watch(ended, l, l.to("model"), 0.01, nil), 0.01}).lostNone(t.Context(), l); err == nil {
		t.Error("what was due and not sent passed")
	}
	if _, err := judgeLoss(probe.Record{}, 50); err == nil {
		t.Error("nothing passed")
	}
}

func TestALossSaysWhenItWas(t *testing.T) {
	at := time.Date(2026, 1, 2, 13, 14, 15, 0, time.FixedZone("", 3600))
	record := probe.Record{Answers: []probe.Answer{
		{ID: "a", Target: "v1", Status: 200, Scheduled: at},
		{ID: "b", Err: "no answer: timeout after 10s", Scheduled: at.Add(20 * time.Millisecond)},
		{ID: "c", Err: "no answer: timeout after 10s", Fresh: true, Scheduled: at.Add(2 * time.Second)},
	}}
	_, err := judgeLoss(record, 50)
	const want = "2 of 3 requests were not answered 200 by the application, the first: no answer: timeout after 10s (request b); sent from 12:14:15.020 to 12:14:17.000 UTC, 1 of them over a new connection"
	if refuted, ok := err.(*ClaimError); !ok || refuted.Claim != NoLoss || refuted.Reasons[0] != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestAWatcherOutlivesItsStepAndEndsWithTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		l := &Session{Env: &Env{}, Sender: &numbered{answering: func(n int64) probe.Answer { sent.Store(n); return probe.Answer{Status: http.StatusOK} }}}
		step, cancel := context.WithCancel(t.Context())
		var p prober
		p.start(step, l, l.to("model"), 50)
		cancel()
		time.Sleep(time.Second)
		if n := sent.Load(); n < 45 {
			t.Errorf("%d requests in the second after the step", n)
		}
		if err := l.cleanUp(t.Context()); err != nil {
			t.Error(err)
		}
		n := sent.Load()
		time.Sleep(time.Second)
		if more := sent.Load(); more != n {
			t.Errorf("%d requests in the second after the run", more-n)
		}
		p.Stop()
	})
}

func TestTrafficThatKnativeWouldRefuseIsWrongUse(t *testing.T) {
	s, err := loadRevisions("scenarios/canary/service.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s.image, s.version, s.order = "kind.local/sampleapp:x", "v2", []string{"v1", "v2"}
	if _, err := s.object([]int64{90, 10}); err != nil {
		t.Fatalf("90/10: %v", err)
	}
	for _, wrong := range [][]int64{{90, 20}, {50, 40}, {-1, 101}} {
		if _, err := s.object(wrong); fault.Code(err) != 2 {
			t.Errorf("%v gave %v (exit %d), want exit 2", wrong, err, fault.Code(err))
		}
	}
}

func TestEveryVersionKeepsItsTagAndItsEnvironment(t *testing.T) {
	s, err := loadRevisions("scenarios/canary/service.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s.image, s.version, s.order, s.env = "img", "v2", []string{"v1", "v2"}, map[string]string{"FAIL_PERCENT": "5"}
	for range 2 { // asking twice must not add up
		obj, err := s.object([]int64{100, 0})
		if err != nil {
			t.Fatal(err)
		}
		text, err := obj.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"tag":"v1"`, `"tag":"v2"`, `"percent":0`, `"name":"model-v2"`, `"FAIL_PERCENT"`} {
			if strings.Count(string(text), want) != 1 {
				t.Errorf("%s is there %d times: %s", want, strings.Count(string(text), want), text)
			}
		}
	}
}

func TestOptionsAreJudgedBeforeAnythingIsTouched(t *testing.T) {
	for name, wrong := range map[string][]Options{
		"ab-test":    {{Alpha: 0.7}},
		"blue-green": {{Requests: -1}, {Alpha: 0.7}},
		"canary": {
			{Shares: []float64{0.995, 0.005}}, {Shares: []float64{0.5, 0.25, 0.25}}, {Shares: []float64{0.9, 0.2}}, {Requests: -1}, {Alpha: 0.7}, {Requests: 137}, {Requests: 1000, Shares: []float64{0.99, 0.01}},
			{Weights: []int{10, 5}}, {Weights: []int{100}}, {RolloutDuration: 1500 * time.Millisecond}, {RolloutDuration: time.Second},
		},
		"circuit-breaker": {{Requests: -1}, {Requests: 10, Alpha: 2}},
		"gitops":          {{Requests: -1}, {Requests: 137}, {Alpha: 0.7}},
		"gitops-helm":     {{Requests: -1}},
		"helm-release":    {{Requests: -1}},
		"mesh-security":   {{Requests: -1}, {Requests: 10, Alpha: 2}},
		"mlops":           {{Requests: -1}, {Requests: 137}, {Alpha: 0.7}},
		"probes":          {{Requests: -1}, {Requests: 20}, {Requests: 1000, Alpha: 2}},
		"resilience":      {{Requests: -1}, {Requests: 20}, {Requests: 1000, Alpha: 2}},
		"scale-to-zero":   {{Samples: -1}},
		"shadow":          {{Requests: 137}, {Requests: 1000, Alpha: 0.7}},
	} {
		for _, o := range wrong {
			if _, err := planned(name, o); fault.Code(err) != 2 || fault.Hint(err) == "" {
				t.Errorf("%s with %+v gave %v (hint %q)", name, o, err, fault.Hint(err))
			}
		}
	}
	if _, err := planned("scale-to-zero", Options{Samples: -1}); !strings.Contains(fault.Hint(err), "--samples") {
		t.Errorf("no cold start gave %v (hint %q)", err, fault.Hint(err))
	}
	if _, err := planned("canery", Options{}); fault.Code(err) != 2 || !strings.Contains(fault.Hint(err), "canary") {
		t.Errorf("an unknown scenario gave %v (hint %q)", err, fault.Hint(err))
	}
}

func TestEveryControlBreaksAStepThatIsToldAndNamesItsClaim(t *testing.T) {
	guarded := canary
	guarded.New = func(o Options) (*Plan, error) { o.Guard = true; return newCanary(o) }
	for _, s := range append(All(), guarded) {
		p, err := s.Plan(Options{})
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Controls) == 0 {
			t.Errorf("%s has no control", s.Name)
		}
		for _, c := range p.Controls {
			there := c.After == "" || slices.ContainsFunc(p.Steps, func(step Step) bool { return step.Name == c.After })
			if !there || c.Catches == "" || c.Summary == "" {
				t.Errorf("%s: control %+v", s.Name, c)
			}
		}
	}
}

func TestTheDefaultsAreRight(t *testing.T) {
	if o := (Options{}).withDefaults(); !slices.Equal(o.Shares, []float64{0.9, 0.1}) || o.Requests != DefaultRequests {
		t.Errorf("%+v", o)
	}
}

func TestASmallShareTakesMoreRequestsUnlessTheyWereGiven(t *testing.T) {
	if _, err := planned("canary", Options{Weights: []int{1, 50, 100}}); err != nil {
		t.Error(err)
	}
	if _, err := planned("canary", Options{Weights: []int{1, 50, 100}, Requests: 1000}); fault.Code(err) != 2 || !strings.Contains(fault.Hint(err), "1444") {
		t.Errorf("got %v (hint %q)", err, fault.Hint(err))
	}
}

func TestAWatcherThatStoodStillDoesNotClaimToHaveSeenAShortOutage(t *testing.T) {
	record := probe.Record{}
	at := time.Now()
	for i := range 100 {
		sent := at.Add(time.Duration(i) * 20 * time.Millisecond)
		if i > 49 {
			sent = at.Add(4*time.Second + time.Duration(i)) // the machine slept, and then all that was due is sent
		}
		record.Answers = append(record.Answers, probe.Answer{Status: 200, Target: "v1", Scheduled: at.Add(time.Duration(i) * 20 * time.Millisecond), Sent: sent})
	}
	for n, want := range map[int]string{50: "an outage over 60ms ", 100: "an outage over 3.02s "} {
		e, err := judgeLoss(probe.Record{Answers: record.Answers[:n]}, 50)
		if err != nil || !strings.Contains(e.Summary, want) {
			t.Errorf("%d requests: %v, %s, want %s", n, err, e.Summary, want)
		}
	}
}
