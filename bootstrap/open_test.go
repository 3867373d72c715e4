package bootstrap

import (
	"strings"
	"testing"
)

func TestWhoeverOnlyLooksDoesNotWaitForTheLock(t *testing.T) {
	o := Options{Name: "mllab", State: t.TempDir()}
	unlock, err := o.store().lock("scenario canary")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, err := Open(t.Context(), o, "scenario all"); err == nil || !strings.Contains(err.Error(), "is locked: mllab scenario canary") {
		t.Errorf("a second one that works on the lab: %v", err)
	}
	if _, err := OpenReadOnly(t.Context(), o); err == nil || err.Error() != `there is no lab "mllab"` {
		t.Errorf("one that only looks: %v", err)
	}
}
