package manifests

import _ "embed"

// Istio is the IstioOperator that package mesh renders.
//
//go:embed istio.yaml
var Istio []byte
