package incluster

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"mllab.local/internal/incluster/inclustertest"
)

// A watch has to outlive the limit of a call, and ends when its version is too old.
func TestAWatchReportsEachChangeUntilItsVersionIsTooOld(t *testing.T) {
	c, err := New(inclustertest.Pod(t, "x", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("resourceVersion") != "7" || r.Header.Get("Authorization") != "Bearer "+inclustertest.Token {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		fmt.Fprint(w, `{"type":"ADDED","object":{}}{"type":"MODIFIED","object":{}}{"type":"ERROR","object":{"code":410}}`)
	})))
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
