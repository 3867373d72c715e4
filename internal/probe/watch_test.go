package probe

import (
	"context"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mllab.local/sampleapp/api"
)

func sleep(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

func TestWatchMeasuresAStallFromTheScheduledTime(t *testing.T) {
	var gate sync.RWMutex // the server stalls while it is write-locked
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		gate.RLock()
		defer gate.RUnlock()
		hello(w, r)
	})
	w := Watch(t.Context(), newHTTP(t, time.Minute), Request{URL: s.URL}, 100, nil)
	sleep(t, 200*time.Millisecond)
	gate.Lock()
	stalled := time.Now()
	sleep(t, 500*time.Millisecond)
	released := time.Now()
	gate.Unlock()
	sleep(t, 200*time.Millisecond)
	r := w.Stop()

	during := 0
	for i, a := range r.Answers {
		if !a.OK() {
			t.Errorf("answer %d: %s", i, a.Problem())
		}
		if a.Scheduled.After(stalled) && a.Scheduled.Before(released) {
			during++
			if waited := released.Sub(a.Scheduled); a.Latency < waited {
				t.Errorf("answer %d was due %v before the stall ended but claims a latency of %v", i, waited, a.Latency)
			}
		}
	}
	// A closed loop would have sent one request and then seen one slow answer.
	if want := int(released.Sub(stalled)/(10*time.Millisecond)) - 1; during < want {
		t.Errorf("%d requests were sent during the stall, the schedule says %d", during, want)
	}
	if tally := Count(r.Answers); tally.Max < 400*time.Millisecond || tally.P95 < 200*time.Millisecond || r.Missed != 0 {
		t.Errorf("the stall does not show: %+v, missed %d", tally, r.Missed)
	}
}

func TestALateSenderCannotHideItsDelay(t *testing.T) {
	w, run := newWatcher(t.Context(), fake(func(context.Context, Request) Answer { return Answer{Status: 200, Target: "v1", Latency: 1} }), Request{}, 100)
	start := time.Now().Add(-time.Second) // as if the process had been stopped for a second
	go run(start)
	eventually(t, "the backlog is sent", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.record.Answers) > 101 })
	r := w.Stop()
	for i, a := range r.Answers {
		if due := start.Add(time.Duration(i) * 10 * time.Millisecond); !a.Scheduled.Equal(due) {
			t.Fatalf("answer %d is scheduled %v off its place in the schedule", i, a.Scheduled.Sub(due))
		}
		if a.Latency < a.Sent.Sub(a.Scheduled) || a.Sent.Before(a.Scheduled) {
			t.Errorf("answer %d: sent %v late, latency %v", i, a.Sent.Sub(a.Scheduled), a.Latency)
		}
	}
	if r.Answers[0].Latency < time.Second || !r.Answers[0].OK() {
		t.Errorf("the first was a second late, but %+v", r.Answers[0])
	}
}

func TestEveryScheduledRequestIsAnAnswerOrMissed(t *testing.T) {
	const rate = 5000
	release := make(chan struct{})
	var open, most atomic.Int64
	w := Watch(t.Context(), fake(func(context.Context, Request) Answer {
		most.Store(max(most.Load(), open.Add(1)))
		defer open.Add(-1)
		<-release
		return Answer{Status: 200, Target: "v1"}
	}), Request{}, rate, nil)
	missed := func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.record.Missed > 100 }
	eventually(t, "requests are missed once all places are taken", missed)
	if got := open.Load(); got > MaxInFlight {
		t.Errorf("%d are open at once, bound %d", got, MaxInFlight)
	}
	close(release)
	eventually(t, "the places are free again", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.record.Answers) > MaxInFlight })
	before := time.Now()
	r := w.Stop()
	after := time.Now()
	first := r.Answers[0].Scheduled
	least, most2 := int(before.Sub(first)*rate/time.Second), int(after.Sub(first)*rate/time.Second)+1
	if total := len(r.Answers) + r.Missed; total < least || total > most2 || r.Missed <= 100 {
		t.Errorf("%d answers and %d missed, the schedule had %d to %d", len(r.Answers), r.Missed, least, most2)
	}
	if most.Load() > MaxInFlight {
		t.Errorf("%d were open at once, bound %d", most.Load(), MaxInFlight)
	}
}

func TestWhatWasDueBeforeTheEndIsStillSentAndAfterAnInterruptMissed(t *testing.T) {
	for _, interrupted := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		w, run := newWatcher(ctx, fake(func(context.Context, Request) Answer { return Answer{Status: 200, Target: "v1"} }), Request{}, 100)
		w.halt()
		if interrupted {
			cancel()
		}
		go run(time.Now().Add(-995 * time.Millisecond)) // 100 are due
		r := w.Stop()
		cancel()
		if sent, missed := len(r.Answers), r.Missed; sent+missed < 100 || interrupted != (sent == 0) || interrupted != (missed > 0) {
			t.Errorf("interrupted %v: %d sent, %d missed of 100 that were due", interrupted, sent, missed)
		}
	}
}

func TestWatchAlternatesKeptAliveAndFreshConnections(t *testing.T) {
	var mu sync.Mutex
	from := map[string]net.Conn{} // request ID to its connection; not to the client's address, which the kernel uses again
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		from[r.Header.Get(api.HeaderID)] = r.Context().Value(connKey{}).(net.Conn)
		mu.Unlock()
		hello(w, r)
	})
	w := Watch(t.Context(), newHTTP(t, time.Minute), Request{URL: s.URL, Fresh: true}, 200, nil)
	sleep(t, 400*time.Millisecond)
	r := w.Stop()
	connections := map[bool]map[net.Conn]bool{true: {}, false: {}}
	for i, a := range r.Answers {
		if a.Fresh != (i%2 == 1) || !a.OK() {
			t.Fatalf("answer %d: %+v", i, a)
		}
		connections[a.Fresh][from[a.ID]] = true
	}
	if len(r.Answers) < 70 {
		t.Fatalf("%d answers in 400 ms at 200 a second", len(r.Answers))
	}
	if n := len(r.Answers) / 2; len(connections[true]) != n {
		t.Errorf("%d fresh requests came over %d connections", n, len(connections[true]))
	}
	// More than one only where answers overlap, as after a pause of this process; one that has just been answered is not
	// idle yet.
	if n, most := len(connections[false]), overlap(r.Answers); n > 2*most+5 {
		t.Errorf("%d kept-alive requests came over %d connections, at most %d at once", len(r.Answers)/2, n, most)
	}
	eventually(t, "the fresh connections are closed", func() bool { return int(s.closed.Load()) >= len(connections[true]) })
}

// overlap is how many kept-alive requests were under way at once.
func overlap(answers []Answer) (most int) {
	for _, a := range answers {
		n := 0
		for _, b := range answers {
			if !a.Fresh && !b.Fresh && !b.Sent.After(a.Sent) && b.Scheduled.Add(b.Latency).After(a.Sent) {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

func TestWatchKeepsTheRate(t *testing.T) {
	w := Watch(t.Context(), fake(func(context.Context, Request) Answer { return Answer{} }), Request{}, 250, nil)
	sleep(t, 400*time.Millisecond)
	before := time.Now()
	r := w.Stop()
	after := time.Now()
	first := r.Answers[0].Scheduled
	if n := len(r.Answers); n < int(before.Sub(first)/(4*time.Millisecond)) || n > int(after.Sub(first)/(4*time.Millisecond))+1 || r.Missed != 0 {
		t.Errorf("%d answers in %v at 250 a second, %d missed", n, before.Sub(first), r.Missed)
	}
}

func TestMarksKeepTheirNamesAndTimes(t *testing.T) {
	w := Watch(t.Context(), fake(func(context.Context, Request) Answer { return Answer{} }), Request{}, 100, nil)
	a := time.Now()
	w.Mark("weights changed")
	b := time.Now()
	w.Mark("old pods gone")
	r := w.Stop()
	w.Mark("too late")
	if len(r.Marks) != 2 || r.Marks[0].Name != "weights changed" || r.Marks[1].Name != "old pods gone" || r.Marks[0].At.Before(a) || r.Marks[0].At.After(b) || r.Marks[1].At.Before(b) {
		t.Errorf("got %+v", r.Marks)
	}
}

func TestStopWaitsForTheAnswersInFlight(t *testing.T) {
	arrived := make(chan struct{}, MaxInFlight)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		sleep(t, 300*time.Millisecond)
		hello(w, r)
	})
	w := Watch(t.Context(), newHTTP(t, time.Minute), Request{URL: s.URL}, 20, nil)
	<-arrived
	r := w.Stop()
	if len(r.Answers) == 0 || int(s.requests.Load()) != len(r.Answers) {
		t.Errorf("%d answers of %d requests", len(r.Answers), s.requests.Load())
	}
	for _, a := range r.Answers {
		if !a.OK() {
			t.Errorf("cut short: %+v", a)
		}
	}
	if again := w.Stop(); !slices.EqualFunc(r.Answers, again.Answers, func(a, b Answer) bool { return a.ID == b.ID }) {
		t.Error("a second Stop says something else")
	}
}

func TestStopBreaksOffWhatNeverAnswers(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	w, run := newWatcher(t.Context(), newHTTP(t, time.Minute), Request{URL: s.URL}, 50)
	w.stopWait = 50 * time.Millisecond
	go run(time.Now())
	eventually(t, "some are in flight", func() bool { return s.requests.Load() >= 3 })
	start := time.Now()
	r := w.Stop()
	if took := time.Since(start); took < w.stopWait || took > 30*time.Second || len(r.Answers) < 3 {
		t.Errorf("%d answers after %v", len(r.Answers), took)
	}
	for _, a := range r.Answers {
		if a.Err != "no answer: broken off: the watch ended" || a.ID == "" {
			t.Errorf("got %+v", a)
		}
	}
}

func TestStopLeavesASenderBehindThatIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		w := Watch(t.Context(), fake(func(context.Context, Request) Answer {
			<-release
			return Answer{Status: 200, Target: "late"}
		}), Request{}, 50, nil)
		synctest.Wait() // one is in flight
		began := time.Now()
		r := w.Stop()
		if took := time.Since(began); took != StopWait+leaveWait {
			t.Errorf("it was left behind after %s", took)
		}
		close(release)
		w.open.Wait()
		for _, a := range append(r.Answers, w.Stop().Answers...) {
			if a.OK() || a.Err != "no answer before the watch ended" || a.Scheduled.IsZero() {
				t.Errorf("got %+v", a)
			}
		}
		if len(r.Answers) != 1 {
			t.Errorf("%d are on the record, want the one that was in flight", len(r.Answers))
		}
	})
}

func TestAnEndedContextEndsTheWatchAndKeepsItsRecord(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Connection") == "close" { // the fresh ones hang
			<-r.Context().Done()
			return
		}
		hello(w, r)
	})
	w := Watch(ctx, newHTTP(t, time.Minute), Request{URL: s.URL}, 100, nil)
	eventually(t, "some are answered and some hang", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return Count(w.record.Answers).Counts["v1"] >= 2 && s.requests.Load() >= 6
	})
	cancel()
	start := time.Now()
	r := w.Stop()
	if time.Since(start) > 30*time.Second {
		t.Errorf("Stop took %v after ^C", time.Since(start))
	}
	tally := Count(r.Answers)
	if tally.Counts["v1"] < 2 || len(tally.Failed) < 2 || !strings.Contains(tally.Failed[0].Err, "context canceled") {
		t.Errorf("got %+v", tally)
	}
}

func TestWatchRefusesARateThatIsNone(t *testing.T) {
	for _, rate := range []float64{0, -1, math.NaN(), math.Inf(1), MaxPerSecond + 1, 1e-12} {
		w := Watch(t.Context(), fake(func(context.Context, Request) Answer { return Answer{} }), Request{}, rate, nil)
		if r := w.Stop(); r.Err == nil || len(r.Answers) > 0 {
			t.Errorf("rate %v was taken: %+v", rate, r)
		}
	}
}

func TestEachAnswerIsPassedOnWhenItIsThere(t *testing.T) {
	var n, answered, failed atomic.Int64
	hang := make(chan struct{})
	w := Watch(t.Context(), fake(func(context.Context, Request) Answer {
		switch i := n.Add(1); {
		case i > 30: // no answer yet
			<-hang
			return Answer{Status: 200, Target: "v1"}
		case i%3 == 0:
			return Answer{Status: 500, Target: "v1"}
		}
		return Answer{Status: 200, Target: "v1"}
	}), Request{}, 1000, func(a Answer) {
		answered.Add(1)
		if !a.OK() {
			failed.Add(1)
		}
		if a.Latency <= 0 || a.Scheduled.IsZero() {
			t.Errorf("got %+v", a)
		}
	})
	eventually(t, "30 were answered", func() bool { return answered.Load() == 30 })
	eventually(t, "more are open", func() bool { return n.Load() > 40 })
	if answered.Load() != 30 || failed.Load() != 10 {
		t.Errorf("%d answered, %d failed", answered.Load(), failed.Load())
	}
	close(hang)
	if r := w.Stop(); int(answered.Load()) != len(r.Answers) || failed.Load() != 10 {
		t.Errorf("%d answered of %d, %d failed", answered.Load(), len(r.Answers), failed.Load())
	}
}

func TestWhatIsSeenMeanwhileIsOnlyWhatWasAnswered(t *testing.T) {
	release := make(chan struct{})
	var n atomic.Int64
	w := Watch(t.Context(), fake(func(context.Context, Request) Answer {
		if n.Add(1) > 3 {
			<-release
		}
		return Answer{Status: 200, Target: "v1"}
	}), Request{}, 200, nil)
	eventually(t, "some are answered and some in flight", func() bool { return len(w.Answers()) == 3 && n.Load() > 5 })
	for _, a := range w.Answers() {
		if !a.OK() {
			t.Errorf("got %+v", a)
		}
	}
	close(release)
	if r := w.Stop(); len(r.Answers) <= 5 || len(w.Answers()) != len(r.Answers) {
		t.Errorf("%d answers at the end, %d seen", len(r.Answers), len(w.Answers()))
	}
}
