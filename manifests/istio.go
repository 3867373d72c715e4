package manifests

import _ "embed"

// Istio is the IstioOperator that package mesh renders.
//
//go:embed addons/istio/operator.yaml
var Istio []byte
