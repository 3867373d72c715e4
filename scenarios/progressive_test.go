package scenarios

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
	"mllab.local/manifests"
)

// flaggerSays is a lab in which Flagger says this of one model, after what it had
// said before v2 was written, and a router answers.
func flaggerSays(t *testing.T, m *delivered, phase string, weight int64, by probe.Sender, words ...string) *Session {
	t.Helper()
	m.changed = time.Unix(1000, 0)
	log := "no JSON\n" + flaggerSaid(999, m.name+".ns", "Promotion completed! of v1, which was latency-p95 once")
	for i, said := range words {
		log += flaggerSaid(1000+int64(i), m.name+".ns", said) + flaggerSaid(1000+int64(i), "another.ns", "of another")
	}
	l := &Session{
		Env: &Env{Domain: "test"}, Namespace: "ns", Sender: by, events: openStream("", "", nil),
		flaggerLog: func(context.Context) (string, error) { return log, nil },
	}
	canary := l.object("flagger.app/v1beta1", "Canary", m.name)
	canary.Object["status"] = map[string]any{
		"phase": phase, "canaryWeight": weight,
		"conditions": []any{map[string]any{"type": "Promoted", "status": "Unknown", "reason": phase, "message": "as it says"}},
	}
	l.Kube = &kube.Client{Client: fake.NewClientBuilder().WithObjects(canary).Build()}
	if err := (deliveries{m}).ask(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	return l
}

// flaggerSaid is a line of Flagger's log.
func flaggerSaid(seconds int64, canary, said string) string {
	line, _ := json.Marshal(flaggerLine{time.Unix(seconds, 0).UTC(), canary, said}) // it fails of no line
	return string(line) + "\n"
}

// router draws v2 for a share of the requests, and errs for half of v2's.
func router(share float64, errs bool) *drawn {
	d := &drawn{share: share, random: rand.New(rand.NewPCG(1, 2))}
	if errs {
		d.fails = map[string]float64{"v2": progressiveFails / 100.}
	}
	return d
}

func good() *delivered {
	return &delivered{name: "good", strategy: strategyCanary, users: usersOf(strategyCanary)}
}

func erring() *delivered {
	return &delivered{name: "erring", strategy: strategyCanary, env: map[string]string{"FAIL_PERCENT": "50"}, users: usersOf(strategyCanary)}
}

func TestWhoAnswersIsJudgedAtTheWeightThatFlaggerSays(t *testing.T) {
	for _, tc := range []struct {
		name    string
		model   *delivered
		phase   string
		weight  int64
		by      *drawn
		refutes Claim
		says    string
	}{
		{"its share", good(), flaggerProgressing, firstWeight, router(.2, false), "", ""},
		{"its share, half of it errors", erring(), flaggerProgressing, firstWeight, router(.2, true), "", ""},
		{"another share", good(), flaggerProgressing, firstWeight, router(.8, false), Shares, "v2"},
		{"nothing", good(), flaggerProgressing, firstWeight, router(0, false), Shares, "v2"},
		{"errors of the good one", good(), flaggerProgressing, firstWeight, router(.2, true), Answers, "500"},
		{"errors of a proxy", erring(), flaggerProgressing, firstWeight, &drawn{lost: .1, random: rand.New(rand.NewPCG(1, 2))}, Answers, "503"},
		{"Flagger went on", good(), flaggerProgressing, secondWeight, router(.2, false), "error", "Flagger went on"},
		{"Flagger took the bad one back", erring(), flaggerFailed, 0, router(.2, true), "error", "Flagger went on"},
		{"Flagger took the good one back", good(), flaggerFailed, 0, router(0, false), Promotion, "Flagger ended with Failed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &progressiveStory{Options: Options{Requests: 1000, Alpha: 1e-6, Strategy: strategyCanary}, models: deliveries{tc.model}}
			l := flaggerSays(t, tc.model, tc.phase, tc.weight, tc.by)
			e, err := s.counted(firstWeight, "good", "erring")(t.Context(), l)
			if tc.refutes == "error" {
				if fault.Code(err) != 3 {
					t.Errorf("exit code %d: %v", fault.Code(err), err)
				}
			}
			wantRefuted(t, err, tc.refutes, tc.says)
			if tc.refutes == "" && !strings.Contains(e.Summary, "accepted") {
				t.Errorf("the evidence is %q", e.Summary)
			}
		})
	}
}

func TestFlaggersWordsAreHeldAgainstTheAnswers(t *testing.T) {
	const metric = "Halt erring.ns advancement success-percent 44.00 < 95"
	for _, tc := range []struct {
		name, phase string
		said        []string
		v2          float64
		refutes     Claim
		says        string
	}{
		{"both say v1", flaggerFailed, []string{"New revision detected!", metric, "Canary failed!"}, 0, "", ""},
		{"users still get v2", flaggerFailed, []string{metric}, .01, Rollback, "the answers say"},
		{"it was promoted", flaggerSucceeded, []string{metric}, 1, Rollback, "ended with Succeeded instead of Failed: " + metric},
		{"for another reason", flaggerFailed, []string{"Halt advancement latency-p95"}, 0, Rollback, "did not say \"success-percent\""},
		{"the reason was v1's", flaggerFailed, nil, 0, Rollback, "did not say"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := erring()
			s := &progressiveStory{Options: Options{Requests: 1000, Alpha: 1e-6, Strategy: strategyCanary}, models: deliveries{m}}
			l := flaggerSays(t, m, tc.phase, 0, router(tc.v2, false), tc.said...)
			e, err := s.ended("erring", flaggerFailed, "success-percent", Rollback)(t.Context(), l)
			wantRefuted(t, err, tc.refutes, tc.says)
			if tc.refutes == "" && !strings.Contains(e.Summary, metric) {
				t.Errorf("the evidence is %q", e.Summary)
			}
		})
	}
}

// Kubernetes may drop Flagger's last event; its status cannot be lost.
func TestAPromotionIsThatOfFlaggersStatus(t *testing.T) {
	for phase, refutes := range map[string]Claim{flaggerSucceeded: "", flaggerFailed: Promotion, flaggerProgressing: Promotion} {
		m := good()
		s := &progressiveStory{Options: Options{Requests: 1000, Alpha: 1e-6, Strategy: strategyCanary}, models: deliveries{m}}
		e, err := s.promoted(t.Context(), flaggerSays(t, m, phase, 0, router(1, false)))
		wantRefuted(t, err, refutes, "")
		if want := "Flagger: Succeeded: as it says; n=1000"; refutes == "" && !strings.HasPrefix(e.Summary, want) {
			t.Errorf("the evidence is %q, want %q", e.Summary, want)
		}
	}
}

func TestWordsThatAreGoneProveNothing(t *testing.T) {
	m := erring()
	l := flaggerSays(t, m, flaggerFailed, 0, router(0, false), "advancement success-percent")
	m.changed = time.Unix(0, 0) // Flagger was started after it
	if _, err := m.ended(t.Context(), l, flaggerFailed, "success-percent", Rollback); fault.Code(err) != 3 || !strings.Contains(err.Error(), "started again") {
		t.Errorf("%v, want exit code 3", err)
	}
}

func TestOnlyTheErringVersionMayLoseAndNoMoreThanItsWeight(t *testing.T) {
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name    string
		lost    int
		answer  probe.Answer
		refutes bool
	}{
		{"what its weight explains", 100, probe.Answer{Target: "v2", Status: 500}, false},
		{"more", 200, probe.Answer{Target: "v2", Status: 500}, true},
		{"by v1", 1, probe.Answer{Target: "v1", Status: 500}, true},
		{"by a proxy", 1, probe.Answer{Status: http.StatusServiceUnavailable, Router: true}, true},
	} {
		m := erring()
		m.changed, m.end = began, began.Add(20*time.Second)
		s := &progressiveStory{Options: Options{Alpha: 1e-6}, models: deliveries{m}}
		var sent, lost []probe.Answer
		for i := range 60 * watchRate {
			a := probe.Answer{Target: "v1", Status: 200, Scheduled: began.Add(time.Duration(i) * time.Second / watchRate)}
			if len(lost) < tc.lost {
				a.Target, a.Status, a.Router = tc.answer.Target, tc.answer.Status, tc.answer.Router
				lost = append(lost, a)
			}
			sent = append(sent, a)
		}
		summary, err := s.explained(m, m.users[0], sent, lost)
		if claim, why := refutes(t, err); (claim == NoLoss) != tc.refutes {
			t.Errorf("%s: %q %s, %s", tc.name, claim, why, summary)
		}
	}
}

func TestFewRequestsMayFindNobodyInTheMomentInWhichABadVersionIsTakenBack(t *testing.T) {
	end := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	nobody := probe.Answer{Status: http.StatusServiceUnavailable, Router: true, Scheduled: end.Add(-time.Second)}
	later, byV2, timeout := nobody, nobody, nobody
	later.Scheduled = end.Add(takenAwayBound + time.Second)
	byV2.Target, byV2.Router = "v2", false
	timeout.Status, timeout.Router, timeout.Err = 0, false, "no answer: timeout after 10s"
	for _, tc := range []struct {
		name    string
		env     map[string]string // nil: of the good version
		phase   string
		lost    []probe.Answer
		refutes bool
	}{
		{"one", map[string]string{"DELAY": "5s"}, flaggerFailed, []probe.Answer{nobody}, false},
		{"one, of the version that errs", map[string]string{"FAIL_PERCENT": "50"}, flaggerFailed, []probe.Answer{nobody}, false},
		{"too many", map[string]string{"DELAY": "5s"}, flaggerFailed, []probe.Answer{nobody, nobody, nobody, nobody}, true},
		{"too many, of the version that errs", map[string]string{"FAIL_PERCENT": "50"}, flaggerFailed, []probe.Answer{nobody, nobody, nobody, nobody}, true},
		{"later", map[string]string{"DELAY": "5s"}, flaggerFailed, []probe.Answer{later}, true},
		{"by the model", map[string]string{"DELAY": "5s"}, flaggerFailed, []probe.Answer{byV2}, true},
		{"without an answer", map[string]string{"DELAY": "5s"}, flaggerFailed, []probe.Answer{nobody, timeout}, true},
		{"of a version that is promoted", nil, flaggerSucceeded, []probe.Answer{nobody}, true},
		{"of another reason", map[string]string{"DELAY": "5s"}, flaggerFailed, nil, true},
	} {
		m := &delivered{name: "m", env: tc.env, phase: tc.phase, changed: end.Add(-time.Minute), end: end, users: usersOf(strategyCanary)}
		s := &progressiveStory{Options: Options{Alpha: 1e-6}}
		var sent []probe.Answer
		for i := range 60 * watchRate {
			sent = append(sent, probe.Answer{Target: "v1", Status: 200, Scheduled: m.changed.Add(time.Duration(i) * time.Second / watchRate)})
		}
		_, err := s.excused(m, m.users[0], sent, Evidence{Tally: &probe.Tally{Failed: tc.lost}}, refute(NoLoss, "something was lost"))
		if claim, why := refutes(t, err); (claim == NoLoss) != tc.refutes {
			t.Errorf("%s: %q %s", tc.name, claim, why)
		}
	}
}

// Where a bad version gets no user, a single answer of it is one too many.
func TestABadVersionAnswersNoUserOfWhomItHasNoShare(t *testing.T) {
	for _, tc := range []struct {
		strategy, target string
		refutes          Claim
	}{
		{strategyMirror, "v1", ""}, {strategyMirror, "v2", Answers}, {strategyBlueGreen, "v2", Answers}, {strategyAB, "v2", Answers}, {strategyCanary, "v2", ""},
	} {
		s := &progressiveStory{Options: Options{Alpha: 1e-6}}
		_, err := s.excused(erring(), usersOf(tc.strategy)[0], []probe.Answer{{Target: "v1", Status: 200}, {Target: tc.target, Status: 200}}, Evidence{}, nil)
		if claim, why := refutes(t, err); claim != tc.refutes {
			t.Errorf("%s, %s: %q: %s", tc.strategy, tc.target, claim, why)
		}
	}
}

// tagged answers those with a header or a cookie by v2, as an A/B route does.
type tagged struct{ header bool }

func (r tagged) Send(_ context.Context, asked probe.Request) probe.Answer {
	a := probe.Answer{Status: 200, Target: "v1"}
	if r.header && asked.Header.Get(armHeader) != "" || asked.Header.Get("Cookie") != "" || strings.HasPrefix(asked.Host, canaryHost) {
		a.Target = "v2"
	}
	return a
}

func TestWhoGetsV2WhileItIsTried(t *testing.T) {
	for _, tc := range []struct {
		name, strategy, phase string
		by                    probe.Sender
		refutes               Claim
		says                  string
	}{
		{"by header and cookie", strategyAB, flaggerWaiting, tagged{header: true}, "", ""},
		{"the header is not looked at", strategyAB, flaggerWaiting, tagged{}, Shares, ""},
		{"half of all", strategyAB, flaggerWaiting, router(.5, false), Shares, ""},
		{"at its own address", strategyBlueGreen, flaggerWaiting, tagged{}, "", ""},
		{"some users, too", strategyBlueGreen, flaggerWaiting, router(.01, false), Shares, ""},
		{"Flagger took it back", strategyBlueGreen, flaggerFailed, tagged{}, Promotion, "ended with Failed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := &delivered{name: "good", strategy: tc.strategy, users: usersOf(tc.strategy)}
			s := &progressiveStory{Options: Options{Requests: 1000, Alpha: 1e-6, Strategy: tc.strategy}, models: deliveries{m}}
			_, err := s.tried(t.Context(), flaggerSays(t, m, tc.phase, 0, tc.by))
			wantRefuted(t, err, tc.refutes, tc.says)
		})
	}
}

func TestFlaggersMetricsAreThoseThatTheModelsAskFor(t *testing.T) {
	text, err := manifests.Upstream("progressive.yaml")
	if err != nil {
		t.Fatal(err)
	}
	installed, err := kube.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	templates := map[string]bool{}
	for _, o := range installed {
		templates[o.GetName()] = true
	}
	l := &Session{Env: &Env{Domain: "test", Image: "model"}, Namespace: "mllab-test"}
	for _, m := range []*delivered{good(), {name: "free", strategy: strategyCanary, unjudged: true}, {name: "held", strategy: strategyCanary, held: true}, {name: "ab", strategy: strategyAB}, {name: "bg", strategy: strategyBlueGreen}, {name: "mirror", strategy: strategyMirror}} {
		objs, err := m.objects(l, "v1")
		if err != nil {
			t.Fatal(err)
		}
		var canary struct {
			Spec struct {
				Analysis struct {
					StepWeights []int
					Iterations  int
					Metrics     []struct {
						TemplateRef struct{ Name string }
					}
					Webhooks []struct{ Type string }
				}
			}
		}
		if err := kube.Into(objs[1].Object, &canary); err != nil {
			t.Fatal(err)
		}
		got, want := canary.Spec.Analysis, len(templates)
		if m.unjudged {
			want = 0
		}
		if (len(got.StepWeights) == 2) != (m.strategy == strategyCanary) || (got.Iterations > 0) == (m.strategy == strategyCanary) || len(got.Metrics) != want || (len(got.Webhooks) == 1) != m.held {
			t.Errorf("%s: the analysis is %+v", m.name, got)
		}
		for _, metric := range got.Metrics {
			if !templates[metric.TemplateRef.Name] {
				t.Errorf("no MetricTemplate is called %q", metric.TemplateRef.Name)
			}
		}
	}
}
