package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mllab.local/internal/incluster"
	"mllab.local/internal/incluster/inclustertest"
)

// kubernetes is the little of its API that is asked.
type kubernetes struct {
	mu      sync.Mutex
	patched []string
	told    chan struct{}       // of each patch
	answer  func(calls int) int // status of the listing
	calls   int
}

func (k *kubernetes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+inclustertest.Token {
		http.Error(w, "who?", http.StatusUnauthorized)
		return
	}
	if r.Method == http.MethodGet {
		k.calls++
		if status := k.answer(k.calls); status != 200 {
			http.Error(w, "no", status)
			return
		}
		fmt.Fprint(w, `{"items":[
			{"metadata":{"namespace":"flux-system","name":"lab"},"spec":{"url":"http://git.git.svc.cluster.local/lab.git"}},
			{"metadata":{"namespace":"team","name":"slash"},"spec":{"url":"http://git.git.svc.cluster.local/lab.git/"}},
			{"metadata":{"namespace":"closed","name":"lab"},"spec":{"url":"http://git.git.svc.cluster.local/lab.git"}},
			{"metadata":{"namespace":"flux-system","name":"gone"},"spec":{"url":"http://git.git.svc.cluster.local/lab.git"}},
			{"metadata":{"namespace":"flux-system","name":"other"},"spec":{"url":"https://example.com/lab.git"}}]}`)
		return
	}
	var patch struct {
		Metadata struct{ Annotations map[string]string }
	}
	if err := json.NewDecoder(r.Body).Decode(&patch); err != nil || r.Header.Get("Content-Type") != "application/merge-patch+json" {
		http.Error(w, "no merge patch", http.StatusBadRequest)
		return
	}
	switch {
	case strings.Contains(r.URL.Path, "/closed/"):
		http.Error(w, "no", http.StatusForbidden)
	case strings.HasSuffix(r.URL.Path, "/gone"):
		http.Error(w, "no", http.StatusNotFound)
	default:
		if _, err := time.Parse(time.RFC3339Nano, patch.Metadata.Annotations["reconcile.fluxcd.io/requestedAt"]); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		k.patched = append(k.patched, r.URL.Path)
		k.told <- struct{}{}
	}
}

func fakeFlux(t *testing.T, answer func(calls int) int) (*kubernetes, *flux, *buffer) {
	k := &kubernetes{answer: answer, told: make(chan struct{}, 100)}
	api, err := incluster.New(inclustertest.Pod(t, "git", k))
	if err != nil {
		t.Fatal(err)
	}
	log := &buffer{}
	return k, &flux{url: "http://git.git.svc.cluster.local/lab.git", api: api, pending: make(chan struct{}, 1), log: slog.New(slog.NewJSONHandler(log, nil))}, log
}

func TestEachGitRepositoryOfOursIsAskedAndNoOther(t *testing.T) {
	k, f, log := fakeFlux(t, func(int) int { return 200 })
	if err := f.reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	slices.Sort(k.patched)
	if want := []string{repositories + "namespaces/flux-system/gitrepositories/lab", repositories + "namespaces/team/gitrepositories/slash"}; !slices.Equal(k.patched, want) {
		t.Errorf("asked were %v, want %v", k.patched, want)
	}
	if !strings.Contains(log.String(), "no RoleBinding") || !strings.Contains(log.String(), "closed/lab") {
		t.Errorf("who may not be asked is not said:\n%s", log)
	}
}

func TestThatFluxIsNotInstalledIsNoError(t *testing.T) {
	_, f, _ := fakeFlux(t, func(int) int { return http.StatusNotFound })
	if err := f.reconcile(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAWishIsRepeatedUntilTheAPIAnswers(t *testing.T) {
	k, f, _ := fakeFlux(t, func(calls int) int {
		if calls == 1 {
			return http.StatusServiceUnavailable
		}
		return 200
	})
	go f.run(t.Context())
	for range 10 { // wishes that come while one is open are one
		f.ask()
	}
	deadline := time.After(time.Minute)
	for range 2 { // GitRepositories are ours and may be asked
		select {
		case <-k.told:
		case <-deadline:
			t.Fatal("Flux was never asked")
		}
	}
}

func TestOutsideOfAClusterNobodyIsAsked(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	f, err := newFlux("http://x/lab.git", slog.New(slog.DiscardHandler))
	if err != nil || f.api != nil {
		t.Errorf("got %+v, %v", f, err)
	}
}
