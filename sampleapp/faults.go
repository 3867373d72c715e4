package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"mllab.local/sampleapp/api"
)

// faults are the faults that a scenario can set while the process runs.
type faults struct {
	api.Faults
	delay time.Duration
}

const faultsExample = `{"ready": true, "hang": false, "failPercent": 2.5, "delay": "250ms", "fillPercent": 0}`

// maxFaults bounds the body of PUT /faults, in bytes.
const maxFaults = 4096

type faultState struct {
	mu     sync.Mutex
	volume volume
	now    faults
}

func newFaultState(c config) *faultState {
	return &faultState{volume: c.volume, now: faults{api.Faults{Ready: true, FailPercent: c.failPercent, Delay: c.delay.String()}, c.delay}}
}

func (s *faultState) get() faults {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// change sets what the JSON object names; with an error nothing is changed.
func (s *faultState) change(body []byte) (faults, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.now
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := decode(d, &next, faultsExample); err != nil {
		return s.now, err
	}
	var err error
	next.delay, err = time.ParseDuration(next.Delay)
	switch {
	case bytes.Contains(body, []byte("null")): // no good value has it in it, and encoding/json passes over it
		return s.now, errors.New("want no null: leave out what is to stay")
	case !api.IsPercent(next.FailPercent):
		return s.now, fmt.Errorf("failPercent=%v: want %s", next.FailPercent, api.WantPercent)
	case err != nil || next.delay < 0:
		return s.now, fmt.Errorf("delay=%q: want %s", next.Delay, api.WantDuration)
	case !api.IsPercent(next.FillPercent):
		return s.now, fmt.Errorf("fillPercent=%v: want %s", next.FillPercent, api.WantPercent)
	case next.FillPercent != s.now.FillPercent:
		if err := s.volume.fill(next.FillPercent); err != nil {
			return s.now, fmt.Errorf("fillPercent=%v: %w", next.FillPercent, err)
		}
	}
	next.Delay = next.delay.String()
	s.now = next
	return next, nil
}

func (a *app) admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /faults", func(w http.ResponseWriter, _ *http.Request) { jsonAnswer(http.StatusOK, a.faults.get()).write(w) })
	mux.HandleFunc("PUT /faults", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxFaults))
		if err != nil {
			text(w, http.StatusBadRequest, fmt.Sprintf("reading the faults: %v\n", err))
			return
		}
		now, err := a.faults.change(body)
		if err != nil {
			text(w, http.StatusBadRequest, err.Error()+"\n")
			return
		}
		jsonAnswer(http.StatusOK, now).write(w)
	})
	return mux
}

// hang blocks until the client leaves.
func hang(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // net/http learns that a client left only by reading on
	<-r.Context().Done()
	panic(http.ErrAbortHandler) // otherwise net/http would answer 200
}
