package manifests

import _ "embed"

// Git is the lab's Git server; its image is called gitserver.
//
//go:embed git.yaml
var Git []byte

// Registry is the lab's registry; its images are called registry, agent, which
// stands before it, and gitserver, whose command makes the folder its own.
//
//go:embed registry.yaml
var Registry []byte

// Network is what stands in for a cloud; its image is called agent.
//
//go:embed network.yaml
var Network []byte

// Flux is what the lab adds to Flux.
//
//go:embed flux.yaml
var Flux []byte

// GatewayAPI is what the lab adds to the Gateway API's kinds.
//
//go:embed gateway-api.yaml
var GatewayAPI []byte

// NotebookRunner is the program that runs one step of a notebook.
//
//go:embed pipeline/run.py
var NotebookRunner []byte
