package scenarios

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"mllab.local/internal/probe"
	"mllab.local/internal/split"
)

// prober sends requests at a constant rate through a run's changes, whatever
// becomes of them. The zero value has not been started.
type prober struct {
	*probe.Watcher
	rate float64 // requests per second
}

// start has it send r from now on. It ends with the run at last.
func (p *prober) start(ctx context.Context, l *Session, r probe.Request, rate float64) {
	p.startBy(ctx, l, l, r, rate)
}

// startBy is start by a sender of its own, such as one that gives each request
// another body.
func (p *prober) startBy(ctx context.Context, l *Session, by probe.Sender, r probe.Request, rate float64) {
	var w *probe.Watcher
	l.cleanup(func() { w.Stop() }) // after its context has ended, so that it waits for no answer
	ctx, _ = l.lasting(ctx)
	of := l.asked(r)
	w = probe.Watch(ctx, by, r, rate, func(a probe.Answer) { l.events.saw(FromWatcher, of, a) })
	p.Watcher, p.rate = w, rate
}

func (p *prober) started() bool { return p.Watcher != nil }

// mark notes a moment in the record, if there is one.
func (p *prober) mark(moment string) {
	if p.started() {
		p.Mark(moment)
	}
}

// lastStep ends a story: no request was lost in all of it.
func (p *prober) lastStep(why string) Step {
	return Step{
		Name: "no request lost", Check: p.lostNone,
		Why:      why,
		WatchFor: "None lost, and how small a loss this number of requests could have missed.",
	}
}

// seen returns the answers until now, and lets it go on. It refutes NoLoss if one of
// them is lost.
func (p *prober) seen() ([]probe.Answer, error) {
	answers := p.Answers()
	if len(answers) == 0 {
		return nil, errors.New("the watcher has seen nothing")
	}
	if refuted := lost(NoLoss, probe.Count(answers)); refuted != nil {
		return nil, refuted
	}
	return answers, nil
}

// sentAfter is how many requests a watch still sends after the newest change: if half of them are lost since then, the
// chance that all of these were answered is 2^-20, 1e-6.
const sentAfter = 20

// lostNone lets it see the newest change, stops it, and judges whether it lost anything.
func (p *prober) lostNone(ctx context.Context, l *Session) (Evidence, error) {
	p.More(ctx, sentAfter)
	record := p.Stop()
	e, err := judgeLoss(record, p.rate)
	var notKept error
	e.File, notKept = l.keep(record.Answers)
	return e, cmp.Or(notKept, err)
}

// judgeLoss refutes that a record at this rate has no lost request.
func judgeLoss(record probe.Record, rate float64) (Evidence, error) {
	tally := probe.Count(record.Answers)
	e := Evidence{Tally: &tally}
	seen := &Watched{Sent: tally.Sent, Lost: len(tally.Failed), Missed: record.Missed, Rate: rate, Outage: max(3/rate, longestPause(record.Answers).Seconds())}
	if tally.Sent > 0 {
		seen.Seconds = record.Answers[tally.Sent-1].Scheduled.Sub(record.Answers[0].Scheduled).Seconds()
	}
	seen.Bound = split.UpperBound(seen.Lost, tally.Sent, confidence)
	e.Watch = seen
	e.Summary = fmt.Sprintf("%d of %d watched requests lost in %.0f s: below %.2f %% with %.0f %% confidence; an outage over %s would have been seen",
		seen.Lost, seen.Sent, seen.Seconds, 100*seen.Bound, 100*confidence, time.Duration(seen.Outage*float64(time.Second)).Round(time.Millisecond))
	switch {
	case record.Err != nil:
		return e, record.Err
	case tally.Sent == 0:
		return e, errors.New("the watcher sent nothing")
	case seen.Missed > 0:
		return e, fmt.Errorf("the watcher could not send %d requests in time: nothing can be said about loss", seen.Missed)
	}
	if lost := lost(NoLoss, tally); lost != nil {
		lost.Reasons[0] += whenLost(tally.Failed)
		return e, lost
	}
	return e, nil
}

// longestPause is the longest time between two requests of a watcher. It is more than their interval when this machine stood still,
// or the program (^Z): an outage in that time is not seen.
func longestPause(answers []probe.Answer) (longest time.Duration) {
	for i := 1; i < len(answers); i++ {
		longest = max(longest, answers[i].Sent.Sub(answers[i-1].Sent))
	}
	return longest
}

// whenLost is when lost requests were sent, in the clock of the lab's logs, and how many of them were a connection's first.
func whenLost(failed []probe.Answer) string {
	fresh := 0
	for _, a := range failed {
		if a.Fresh {
			fresh++
		}
	}
	const clock = "15:04:05.000"
	return fmt.Sprintf("; sent from %s to %s UTC, %d of them over a new connection",
		failed[0].Scheduled.UTC().Format(clock), failed[len(failed)-1].Scheduled.UTC().Format(clock), fresh)
}

// watchRate is how many requests per second a watcher sends: with 95 % it sees
// an outage of 60 ms.
const watchRate = 50
