package kube

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

func TestClientGoWritesNothing(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	defer func(was *os.File) { os.Stderr = was }(os.Stderr)
	os.Stderr = file
	silenceKlog()
	klog.Background().Error(errors.New("deadline"), "Unexpected error when reading response body")
	klog.FromContext(t.Context()).Info("a request")
	klog.Errorf("an error")
	klog.Flush()
	if said, err := os.ReadFile(file.Name()); err != nil || len(said) > 0 {
		t.Errorf("it writes %q, %v", said, err)
	}
}

func TestTheServerIsReadyBeforeItsOwnRolesAre(t *testing.T) {
	ready := true // but for these two
	late := []string{"poststarthook/rbac/bootstrap-roles", "poststarthook/scheduling/bootstrap-system-priority-classes"}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if excluded := r.URL.Query()["exclude"]; r.URL.Path != "/readyz" || !ready || !slices.Equal(excluded, late) {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	c, err := New(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Serves(t.Context()); err != nil {
		t.Error(err)
	}
	ready = false
	if err := c.Serves(t.Context()); err == nil {
		t.Error("it serves before it is ready")
	}
}
