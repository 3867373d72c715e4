package main

import "sync"

// maxID bounds what is remembered of one request ID.
const maxID = 128

// seen remembers the last request IDs in the order of their arrival, each as often as it came.
type seen struct {
	mu    sync.Mutex
	count int      // of all, remembered or not
	ids   []string // ring: request number n (from 0) is at n % cap
}

func newSeen(keep int) *seen { return &seen{ids: make([]string, 0, keep)} }

func (s *seen) add(id string) {
	// A copy: a part of it would keep the whole of the request's header in memory.
	id = string([]byte(id[:min(len(id), maxID)]))
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ids) < cap(s.ids) {
		s.ids = append(s.ids, id)
	} else {
		s.ids[s.count%cap(s.ids)] = id
	}
	s.count++
}

// seenAnswer is what /seen says. IDs[i] is the ID of request number From+i; requests before From are no longer
// remembered, or were not asked for. A pod that is replaced starts at 0: read every pod.
type seenAnswer struct {
	Target   string   `json:"target"`
	Revision string   `json:"revision"`
	Pod      string   `json:"pod"`
	Count    int      `json:"count"`
	From     int      `json:"from"`
	IDs      []string `json:"ids"`
}

// since returns the IDs that came after the first n requests.
func (s *seen) since(n int) seenAnswer {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := min(max(n, s.count-len(s.ids)), s.count)
	a := seenAnswer{Count: s.count, From: from, IDs: make([]string, 0, s.count-from)}
	for i := from; i < s.count; i++ {
		a.IDs = append(a.IDs, s.ids[i%cap(s.ids)])
	}
	return a
}
