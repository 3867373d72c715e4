package kube

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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

// Else what is applied would keep the controllers out of the API for seconds.
func TestAnAPIWithoutItsOwnRolesAdmitsNobody(t *testing.T) {
	ready := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz/poststarthook/rbac/bootstrap-roles" && !ready {
			w.WriteHeader(http.StatusInternalServerError) // as the API server says "not finished"
		}
	}))
	defer server.Close()
	c, err := New(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Admits(t.Context()); err == nil {
		t.Error("it lets us in before")
	}
	ready = true
	if err := c.Admits(t.Context()); err != nil {
		t.Error(err)
	}
}
