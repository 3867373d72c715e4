//go:build e2e

package main

import (
	"strings"
	"testing"

	"mllab.local/internal/alerts"
)

// testAlerts is about what the addon alertmanager brings.
func testAlerts(t *testing.T, c cli) {
	c.part(t, "alerts", func(t *testing.T) {
		c.scenario(t, 0, "alerts", "--short")
		c.catches(t, "alerts", "--short")

		var list struct{ Alerts []alerts.Alert }
		c.run("alerts", "-o", "json").ok(t, &list)
		if list.Alerts == nil {
			t.Error("it lists no alerts, not even an empty list")
		}
		const disk = "/api/v1/namespaces/monitoring/services/prometheus:9090/proxy/api/v1/query?query=container_fs_limit_bytes"
		if got := c.kubectl(t, "get", "--raw", disk); !strings.Contains(got, `"id":"/"`) || strings.Contains(got, "/shm") {
			t.Errorf("the rule about the disk has no value, or one of memory: %s", got)
		}
	})
}
