package manifests

import "embed"

// Scenarios is the YAML of the stories, one folder each below scenarios/.
//
//go:embed scenarios
var Scenarios embed.FS
