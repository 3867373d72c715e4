package scenarios

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mllab.local/internal/probe"
)

// switchboard is a way without a cluster: atShared says who answers the n-th
// request to the shared address, and greens who answers green's own; "" is a
// proxy's 503.
type switchboard struct {
	atShared, greens atomic.Pointer[func(n int64) string]
	sent             atomic.Int64
	onPoint          func(color string)
	onDeploy         func(ctx context.Context, l *Session) error // if any
}

func always(color string) *func(int64) string {
	f := func(int64) string { return color }
	return &f
}

func (b *switchboard) shared(l *Session) probe.Request            { return l.to("shared") }
func (b *switchboard) own(l *Session, color string) probe.Request { return l.to(color) }

func (b *switchboard) begin(_ context.Context, _ *Session, color string) error {
	b.atShared.Store(always(color))
	return nil
}

func (b *switchboard) deploy(ctx context.Context, l *Session, _ string) error {
	b.greens.CompareAndSwap(nil, always(green))
	if b.onDeploy == nil {
		return nil
	}
	return b.onDeploy(ctx, l)
}

func (b *switchboard) point(_ context.Context, l *Session, color string) error {
	l.lastApply = time.Now()
	b.onPoint(color)
	return nil
}

func (b *switchboard) lab(t *testing.T) *Session {
	return &Session{Env: &Env{}, Sender: b, record: record{evidence: t.TempDir()}}
}

// Send answers after 10 ms.
func (b *switchboard) Send(_ context.Context, r probe.Request) probe.Answer {
	who := b.greens.Load()
	if strings.HasPrefix(r.Host, "shared.") {
		who = b.atShared.Load()
	}
	a := probe.Answer{Target: (*who)(b.sent.Add(1)), Status: http.StatusOK, Sent: time.Now(), Latency: 10 * time.Millisecond}
	if a.Scheduled = a.Sent; a.Target == "" {
		a.Status, a.Router = http.StatusServiceUnavailable, true
	}
	time.Sleep(a.Latency)
	return a
}

// watched returns when the watcher has n answers more to requests that it
// sent from now on.
func watched(ctx context.Context, l *Session, s *blueGreenStory, n int) error {
	from := time.Now()
	return l.until(ctx, "what the watcher sees", func() string {
		seen := 0
		for _, a := range s.prober.Answers() {
			if a.Sent.After(from) {
				seen++
			}
		}
		if seen < n {
			return "not yet"
		}
		return ""
	})
}

func TestASwitchIsJudgedByWhoAnswersWhen(t *testing.T) {
	after := func(d time.Duration, then, now string) *func(int64) string {
		end := time.Now().Add(d)
		f := func(int64) string {
			if time.Now().Before(end) {
				return now
			}
			return then
		}
		return &f
	}
	for _, tc := range []struct {
		name    string
		breaks  func(b *switchboard, s *blueGreenStory)
		refutes Claim
		at      string // the step that sees it
	}{
		{"a clean switch passes", func(*switchboard, *blueGreenStory) {}, "", ""},
		{"an old answer within the window passes", func(b *switchboard, _ *blueGreenStory) {
			b.onPoint = func(c string) {
				b.atShared.Store(after(drainWindow/2, c, map[string]string{green: blue, blue: green}[c]))
			}
		}, "", ""},
		{"a switch that is not followed is refuted", func(b *switchboard, _ *blueGreenStory) {
			b.onPoint = func(string) {}
		}, Cutover, "x: switch to green"},
		{"one old answer in fifty after the window is refuted", func(b *switchboard, _ *blueGreenStory) {
			b.onPoint = func(c string) {
				f := func(n int64) string {
					if n%50 == 0 {
						return blue
					}
					return c
				}
				b.atShared.Store(&f)
			}
		}, Cutover, "x: switch to green"},
		{"a green answer before the switch is refuted", func(b *switchboard, s *blueGreenStory) {
			b.onDeploy = func(ctx context.Context, l *Session) error {
				b.atShared.Store(always(green))
				return watched(ctx, l, s, 1)
			}
		}, Cutover, "x: green by its own address"},
		{"a third version is refuted", func(b *switchboard, _ *blueGreenStory) {
			b.onPoint = func(string) { b.atShared.Store(after(drainWindow/2, green, "red")) }
		}, Cutover, "x: switch to green"},
		{"an outage before the switch is refuted", func(b *switchboard, s *blueGreenStory) {
			s.beforeSwitch = func(ctx context.Context, l *Session) error {
				b.atShared.Store(always(""))
				return watched(ctx, l, s, 20)
			}
		}, NoLoss, "x: switch to green"},
		{"a green that does not answer is refuted before the switch", func(b *switchboard, _ *blueGreenStory) {
			b.greens.Store(always(""))
		}, Answers, "x: green by its own address"},
		{"blue at green's own address is refuted", func(b *switchboard, _ *blueGreenStory) {
			b.greens.Store(always(blue))
		}, Shares, "x: green by its own address"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &switchboard{}
				b.onPoint = func(c string) { b.atShared.Store(always(c)) }
				s := &blueGreenStory{Options: Options{Requests: 100, Alpha: DefaultAlpha}, way: b, drain: drainWindow}
				tc.breaks(b, s)
				at, err := walk(t, b.lab(t), s)
				var refuted *ClaimError
				switch {
				case tc.refutes == "" && err != nil:
					t.Fatal(err)
				case tc.refutes != "" && (!errors.As(err, &refuted) || refuted.Claim != tc.refutes || at != tc.at):
					t.Fatalf("got %v at %q, want claim %q refuted at %q", err, at, tc.refutes, tc.at)
				}
			})
		})
	}
}

// walk goes through the steps to the one with an error.
func walk(t *testing.T, l *Session, s *blueGreenStory) (string, error) {
	t.Helper()
	t.Cleanup(func() { s.prober.Stop() })
	for _, step := range s.steps("x") {
		l.stepName = step.Name
		if step.Change != nil {
			if err := step.Change(t.Context(), l); err != nil {
				return step.Name, err
			}
		}
		e, err := step.Check(t.Context(), l)
		if err != nil {
			return step.Name, err
		}
		if e.Summary == "" || e.File == "" {
			t.Errorf("%s: got %+v", step.Name, e)
		}
	}
	return "", nil
}

func TestAnAnswerIsJudgedByTheTurnInWhichItCame(t *testing.T) {
	start := time.Now()
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	s := &blueGreenStory{drain: 3 * time.Second, turns: []turn{{blue, at(0), at(0)}, {green, at(10), at(11)}, {blue, at(20), at(21)}}}
	answer := func(target string, came float64) probe.Answer {
		return probe.Answer{Target: target, Status: 200, Scheduled: at(came - 0.5), Latency: 500 * time.Millisecond}
	}
	for _, tc := range []struct {
		target string
		came   float64
		ok     bool
	}{
		{blue, 1, true},
		{green, 9.9, false},
		{blue, 10.1, true}, {green, 10.1, true},
		{blue, 13.9, true}, {blue, 14.1, false}, {green, 14.1, true},
		{green, 23.9, true}, {green, 24.1, false}, {blue, 24.1, true},
		{"red", 10.1, false},
	} {
		_, err := s.judge([]probe.Answer{answer(tc.target, tc.came)})
		if (err == nil) != tc.ok {
			t.Errorf("%s at %v s: got %v", tc.target, tc.came, err)
		}
	}
	c, err := s.judge([]probe.Answer{answer(blue, 9), answer(green, 20.2), answer(blue, 20.1), answer(green, 20.3), answer(blue, 24.1), answer(blue, 25)})
	want := cutover{first: 100 * time.Millisecond, last: 300 * time.Millisecond, settled: 2}
	if err != nil || c != want {
		t.Errorf("got %+v, %v, want %+v", c, err, want)
	}
}

func TestBlueGreenManifestsAreFilledIn(t *testing.T) {
	for file, data := range map[string]map[string]string{
		"service.yaml": {"Name": "model", "Version": blue},
		"route.yaml":   {"Name": "model", "Host": "model.ns.mllab.test", "Service": "model", "Mark": "1"},
	} {
		objs, err := render("blue-green/"+file, data)
		if err != nil || len(objs) == 0 || objs[0].GetName() != "model" {
			t.Errorf("%s: got %v, %v", file, objs, err)
		}
	}
}
