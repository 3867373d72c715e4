package main

import (
	"sync"

	"mllab.local/sampleapp/api"
)

// What is remembered of one request ID and of one prediction is bounded, in bytes.
const (
	maxID     = 128
	maxOutput = 128
)

// seen remembers the last requests in the order of their arrival, an ID as often as it came.
type seen struct {
	mu    sync.Mutex
	count int           // of all, remembered or not
	open  int           // of those that are not answered
	ring  []seenRequest // request number n (from 0) is at n % cap
}

type seenRequest struct {
	id, output string
	atOnce     int
}

func newSeen(keep int) *seen { return &seen{ring: make([]seenRequest, 0, keep)} }

// add returns the request's number. It is open until done is called.
func (s *seen) add(id string) int {
	// A copy: a part of it would keep the whole of the request's header in memory.
	id = string([]byte(id[:min(len(id), maxID)]))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	r := seenRequest{id: id, atOnce: s.open}
	if len(s.ring) < cap(s.ring) {
		s.ring = append(s.ring, r)
	} else {
		s.ring[s.count%cap(s.ring)] = r
	}
	s.count++
	return s.count - 1
}

// done says that a request was answered, or that its client left.
func (s *seen) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
}

// setOutput fills in the prediction of request number n, unless a later request has taken its place.
func (s *seen) setOutput(n int, prediction []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n >= s.count-len(s.ring) {
		s.ring[n%cap(s.ring)].output = string(prediction[:min(len(prediction), maxOutput)])
	}
}

// since returns the requests that came after the first n requests.
func (s *seen) since(n int) api.Seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := min(max(n, s.count-len(s.ring)), s.count)
	all := s.count - from
	a := api.Seen{Count: s.count, From: from, IDs: make([]string, all), Outputs: make([]string, all), AtOnce: make([]int, all)}
	for i := range a.IDs {
		r := s.ring[(from+i)%cap(s.ring)]
		a.IDs[i], a.Outputs[i], a.AtOnce[i] = r.id, r.output, r.atOnce
	}
	return a
}
