package probe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// MaxInFlight is how many requests a Watcher has open at most. A request that is due beyond that is not sent but
	// counted as missed. Rates up to MaxInFlight / the Sender's timeout never get there: 200 a second with 10 s.
	MaxInFlight = 2048
	// MaxPerSecond is the highest rate Watch takes.
	MaxPerSecond = 10_000
	// StopWait is how long Stop waits for answers that are still due; after that it breaks them off.
	StopWait = 30 * time.Second
	// leaveWait is how long Stop then waits for what it broke off; a Sender that ignores its context is left behind.
	leaveWait = 10 * time.Second
)

// Mark is a named moment of a watch, e.g. "weights changed".
type Mark struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// Record is the result of a Watcher. Answers are in the order of their schedule.
type Record struct {
	Answers []Answer `json:"answers"`
	Marks   []Mark   `json:"marks,omitempty"`
	Missed  int      `json:"missed"` // scheduled but never sent
	Err     error    `json:"-"`      // why nothing was sent at all
}

// Watcher sends requests at a constant rate, without waiting for answers, until it is stopped.
type Watcher struct {
	send     Sender
	request  Request
	interval time.Duration
	breakOff context.CancelCauseFunc // ends the requests in flight
	halt     context.CancelFunc      // ends the schedule
	halted   chan struct{}
	stopWait time.Duration
	slots    chan struct{}
	open     sync.WaitGroup
	stop     sync.Once
	final    Record // what Stop returns

	each func(Answer) // may be nil

	mu     sync.Mutex
	record Record
}

// Watch sends r at a constant rate until Stop is called or ctx ends: an open loop, where a slow answer delays no other
// request. Latency runs from the scheduled time, so that neither a stalled server nor a late sender can hide waiting time
// ("coordinated omission", https://github.com/giltene/wrk2). Every other request, beginning with the
// second, goes over a fresh connection; r.Fresh has no say. Each, unless nil, is called with every answer when it is
// there, never twice at once. With a rate below
// 0.001 or above MaxPerSecond it sends nothing, and the record has an error.
func Watch(ctx context.Context, s Sender, r Request, perSecond float64, each func(Answer)) *Watcher {
	w, run := newWatcher(ctx, s, r, perSecond)
	w.each = each
	if w.record.Err != nil {
		close(w.halted)
		return w
	}
	go run(time.Now())
	return w
}

// newWatcher returns a Watcher and what runs its schedule. The requests outlive that until Stop has waited.
func newWatcher(ctx context.Context, s Sender, r Request, perSecond float64) (w *Watcher, run func(start time.Time)) {
	w = &Watcher{
		send: s, request: r, interval: time.Duration(float64(time.Second) / perSecond), stopWait: StopWait,
		halted: make(chan struct{}), slots: make(chan struct{}, MaxInFlight),
	}
	inFlight, breakOff := context.WithCancelCause(ctx)
	schedule, halt := context.WithCancel(ctx)
	w.breakOff, w.halt = breakOff, halt
	if !(perSecond >= 0.001 && perSecond <= MaxPerSecond) {
		w.record.Err = fmt.Errorf("the rate of a watch must be 0.001 to %d a second, got %v", MaxPerSecond, perSecond)
	}
	return w, func(start time.Time) { w.run(schedule, inFlight, start) }
}

func (w *Watcher) run(schedule, inFlight context.Context, start time.Time) {
	defer close(w.halted)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := 0; ; i++ {
		due := start.Add(time.Duration(i) * w.interval)
		timer.Reset(time.Until(due))
		select {
		case <-timer.C:
			w.dispatch(inFlight, i, due)
		case <-schedule.Done():
			// What was due before the end is still sent, or counted as missed.
			for end := time.Now(); !due.After(end); due = due.Add(w.interval) {
				w.dispatch(inFlight, i, due)
				i++
			}
			return
		}
	}
}

// dispatch sends the i-th request in the background. It is missed when MaxInFlight are open or the watch was broken off.
func (w *Watcher) dispatch(ctx context.Context, i int, due time.Time) {
	if ctx.Err() != nil {
		w.miss()
		return
	}
	select {
	case w.slots <- struct{}{}:
	default:
		w.miss()
		return
	}
	r := w.request
	r.Fresh = i%2 == 1
	sent := time.Now()
	w.mu.Lock()
	place := len(w.record.Answers)
	// Stands until the answer replaces it: a request that never returns is on the record, too.
	w.record.Answers = append(w.record.Answers, Answer{Err: "no answer before the watch ended", Fresh: r.Fresh, Scheduled: due, Sent: sent})
	w.mu.Unlock()
	w.open.Go(func() {
		defer func() { <-w.slots }()
		a := w.send.Send(ctx, r)
		a.Fresh, a.Scheduled, a.Sent, a.Latency = r.Fresh, due, sent, time.Since(due)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.record.Answers[place] = a
		if w.each != nil {
			w.each(a)
		}
	})
}

func (w *Watcher) miss() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.record.Missed++
}

// More returns when n more requests were due, or when the schedule or ctx has ended.
func (w *Watcher) More(ctx context.Context, n int) {
	due := time.NewTimer(time.Duration(n) * w.interval)
	defer due.Stop()
	select {
	case <-due.C:
	case <-w.halted:
	case <-ctx.Done():
	}
}

// Mark notes that something happens now.
func (w *Watcher) Mark(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.record.Marks = append(w.record.Marks, Mark{name, time.Now()})
}

// Answers returns the answers that have come so far, in the order of their schedule; the watch goes on.
func (w *Watcher) Answers() []Answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	// What has no latency stands in for an answer that is still due.
	return slices.DeleteFunc(slices.Clone(w.record.Answers), func(a Answer) bool { return a.Latency == 0 })
}

// Stop ends the schedule, waits up to StopWait for the answers in flight, breaks off the rest (they are failed answers
// on the record) and returns what was seen. Further calls return the same.
func (w *Watcher) Stop() Record {
	w.stop.Do(func() {
		w.halt()
		<-w.halted
		done := make(chan struct{})
		go func() { w.open.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(w.stopWait):
			w.breakOff(errors.New("broken off: the watch ended"))
			select {
			case <-done:
			case <-time.After(leaveWait):
			}
		}
		w.breakOff(nil)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.final = w.record
		w.final.Answers, w.final.Marks = slices.Clone(w.record.Answers), slices.Clone(w.record.Marks)
	})
	return w.final
}
