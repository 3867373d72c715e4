// Package ui leaves Alertmanager's pages out: they are generated, and not in its
// module. Its API and what probes ask are elsewhere.
package ui

import "github.com/prometheus/common/route"

// Register adds nothing.
func Register(*route.Router) {}
