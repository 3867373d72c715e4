// Package inclustertest gives tests the pod that package incluster reads: its account, and a Kubernetes API.
package inclustertest

import (
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// Token is the token of the pod's account.
const Token = "of-the-pod"

// Pod makes this test's process a pod of a namespace, whose API is answered by api, until the test ends. It returns the
// folder for incluster.New.
func Pod(t *testing.T, namespace string, api http.Handler) (account string) {
	t.Helper()
	srv := httptest.NewTLSServer(api)
	t.Cleanup(srv.Close)
	account = t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	for name, content := range map[string]string{"token": Token + "\n", "namespace": namespace, "ca.crt": string(ca)} {
		if err := os.WriteFile(filepath.Join(account, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	host, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", host)
	t.Setenv("KUBERNETES_SERVICE_PORT", port)
	return account
}
