package incluster

import (
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A watch has to outlive the limit of a call, and ends when its version is too old.
func TestAWatchReportsEachChangeUntilItsVersionIsTooOld(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("resourceVersion") != "7" || r.Header.Get("Authorization") != "Bearer of-the-pod" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		fmt.Fprint(w, `{"type":"ADDED","object":{}}{"type":"MODIFIED","object":{}}{"type":"ERROR","object":{"code":410}}`)
	}))
	defer srv.Close()
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	for name, content := range map[string]string{"token": "of-the-pod\n", "namespace": "x", "ca.crt": string(ca)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	host, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", host)
	t.Setenv("KUBERNETES_SERVICE_PORT", port)
	c, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	if c.http.Timeout != 0 {
		t.Errorf("a watch would end after %s", c.http.Timeout)
	}
	changes := 0
	if err := c.Watch(t.Context(), "/api/v1/services", "7", func() { changes++ }); err == nil || !strings.Contains(err.Error(), "too old") || changes != 2 {
		t.Errorf("%d changes, then %v", changes, err)
	}
	if err := c.Watch(t.Context(), "/api/v1/services", "8", func() {}); !Is(err, http.StatusForbidden) {
		t.Errorf("a watch that is refused: %v", err)
	}
}
