package manifests

import "embed"

// Node is what every node's root file system gets from us, below node/.
//
//go:embed all:node
var Node embed.FS
