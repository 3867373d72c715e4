// Package plugins registers the only service discovery that a lab needs.
// Upstream's list has those of every cloud; upstream writes it from a file that
// a builder may shorten:
// https://github.com/prometheus/prometheus#building-from-source
package plugins

import _ "github.com/prometheus/prometheus/discovery/kubernetes"
