package manifests

import _ "embed"

// Git is the lab's Git server; its image is called gitserver.
//
//go:embed git.yaml
var Git []byte
