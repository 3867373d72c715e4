package main

import (
	"strings"
	"testing"
	"time"

	"mllab.local/internal/alerts"
)

func TestAlertsAreATable(t *testing.T) {
	var b strings.Builder
	printAlerts(&b, nil)
	if b.String() != "no alert is pending or firing\n" {
		t.Errorf("got %q", b.String())
	}
	b.Reset()
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	printAlerts(&b, []alerts.Alert{
		{Name: "ModelErrors", State: "firing", Namespace: "n", App: "a", Since: since, Summary: "50.0 %", Taken: true},
		{Name: "DiskNearlyFull", State: "pending", Namespace: "monitoring", Since: since, Summary: "full\x1b[2J"},
	})
	const want = `ALERT           STATE    TAKEN  NAMESPACE   APP  SINCE  SUMMARY
ModelErrors     firing   yes    n           a    CLOCK  50.0 %
DiskNearlyFull  pending  no     monitoring  -    CLOCK  "full\x1b[2J"
`
	// The column is as wide as a time.
	got := strings.ReplaceAll(strings.ReplaceAll(b.String(), clock(since), "CLOCK"), "SINCE"+strings.Repeat(" ", len(clock(since))-len("SINCE")), "SINCE")
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
