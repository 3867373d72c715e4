package scenarios

import (
	"context"
	"sync"
	"time"
)

// cpuMeter divides the CPU time that the node uses among the runs that are under way: at each moment each has the same
// share, so the shares of all runs add up to what the node used. Nil measures nothing.
type cpuMeter struct {
	read func(context.Context) (seconds float64, err error)
	mu   sync.Mutex
	last float64
	runs map[*cpuShare]bool
}

type cpuShare struct {
	seconds float64
	unknown bool // the node could not be asked at some time
}

// cpuBound is how long it may take to ask the node, also after ^C.
const cpuBound = 10 * time.Second

func newCPUMeter(read func(context.Context) (float64, error)) *cpuMeter {
	if read == nil {
		return nil
	}
	return &cpuMeter{read: read, runs: map[*cpuShare]bool{}}
}

// begin begins a run. The function that it returns ends the run and returns its share in seconds, or 0 if that is unknown.
func (m *cpuMeter) begin(ctx context.Context) (end func() float64) {
	if m == nil {
		return func() float64 { return 0 }
	}
	s := &cpuShare{}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.unknown = !m.advance(ctx)
	m.runs[s] = true
	return func() float64 {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.advance(ctx)
		delete(m.runs, s)
		if s.unknown {
			return 0
		}
		return s.seconds
	}
}

// advance gives the runs what the node has used since the last time, and says whether it could be asked.
func (m *cpuMeter) advance(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cpuBound)
	defer cancel()
	now, err := m.read(ctx)
	for s := range m.runs {
		s.seconds += (now - m.last) / float64(len(m.runs))
		s.unknown = s.unknown || err != nil
	}
	m.last = now
	return err == nil
}
