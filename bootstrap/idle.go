package bootstrap

import (
	"context"
	"sync"
	"time"

	"mllab.local/internal/report"
)

// patience is a context that ends, as one whose deadline has passed, when nothing has changed for quiet. What changes is
// what a step says: an image is pulled, a container starts, a condition is met. Its parent has the hard bound.
type patience struct {
	context.Context
	quiet time.Duration
	done  chan struct{}
	mu    sync.Mutex
	err   error
	timer *time.Timer
}

// withPatience returns a context that ends after quiet without a call of changed, or with its parent.
func withPatience(parent context.Context, quiet time.Duration) (ctx *patience, stop func()) {
	p := &patience{Context: parent, quiet: quiet, done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(quiet, func() { p.end(context.DeadlineExceeded) })
	forget := context.AfterFunc(parent, func() { p.end(parent.Err()) })
	return p, func() {
		forget()
		p.end(context.Canceled)
	}
}

func (p *patience) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
		p.timer.Stop()
		close(p.done)
	}
}

func (p *patience) changed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.timer.Reset(p.quiet)
	}
}

// Done is closed when the context ends.
func (p *patience) Done() <-chan struct{} { return p.done }

// Err returns why it has ended, nil before that.
func (p *patience) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// watched is a Reporter whose steps' news are changes.
type watched struct {
	report.Reporter
	changed func()
}

// Step begins a step.
func (w watched) Step(name string) report.Task {
	w.changed()
	return &watchedTask{Task: w.Reporter.Step(name), changed: w.changed}
}

type watchedTask struct {
	report.Task
	changed func()
	mu      sync.Mutex
	last    string
}

// Update is a change when the reason is another one.
func (t *watchedTask) Update(reason string) {
	t.mu.Lock()
	if t.last != reason {
		t.last = reason
		t.changed()
	}
	t.mu.Unlock()
	t.Task.Update(reason)
}

// Done ends the step well.
func (t *watchedTask) Done(result string) {
	t.changed()
	t.Task.Done(result)
}
