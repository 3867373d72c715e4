package bootstrap

import (
	"context"
	"sync"
	"time"

	"mllab.local/internal/report"
)

// idleContext is a context that ends with DeadlineExceeded when nothing has changed for the time quiet. A change is a new
// text of a step: an image is pulled, a container starts, a condition is met. The parent has the hard limit.
type idleContext struct {
	context.Context
	quiet time.Duration
	done  chan struct{}
	mu    sync.Mutex
	err   error
	timer *time.Timer
}

// withIdleTimeout returns a context that ends after the time quiet without a call of changed, or with its parent.
func withIdleTimeout(parent context.Context, quiet time.Duration) (ctx *idleContext, stop func()) {
	p := &idleContext{Context: parent, quiet: quiet, done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(quiet, func() { p.end(context.DeadlineExceeded) })
	forget := context.AfterFunc(parent, func() { p.end(parent.Err()) })
	return p, func() {
		forget()
		p.end(context.Canceled)
	}
}

func (p *idleContext) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
		p.timer.Stop()
		close(p.done)
	}
}

func (p *idleContext) changed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.timer.Reset(p.quiet)
	}
}

// Done is closed when the context ends.
func (p *idleContext) Done() <-chan struct{} { return p.done }

// Err returns why the context has ended, or nil.
func (p *idleContext) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// progressReporter is a Reporter that calls changed for each change of a step.
type progressReporter struct {
	report.Reporter
	changed func()
}

// Step starts a step.
func (w progressReporter) Step(name string) report.Task {
	w.changed()
	return &progressTask{Task: w.Reporter.Step(name), changed: w.changed}
}

type progressTask struct {
	report.Task
	changed func()
	seen    sync.Map // reasons
}

// Update calls changed if the reason is new. One that comes again is no progress: an API whose server is started again and
// again gives two reasons in turns.
func (t *progressTask) Update(reason string) {
	if _, seen := t.seen.LoadOrStore(reason, true); !seen {
		t.changed()
	}
	t.Task.Update(reason)
}

// Done ends the step successfully.
func (t *progressTask) Done(result string) {
	t.changed()
	t.Task.Done(result)
}
