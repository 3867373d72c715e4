package kube

import (
	"testing"

	"k8s.io/client-go/rest"
)

func TestAGetterKeepsToItsNamespaceAndItsConfiguration(t *testing.T) {
	c, err := New(&rest.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	g, err := c.Getter("mine")
	if err != nil {
		t.Fatal(err)
	}
	if ns, _, err := g.ToRawKubeConfigLoader().Namespace(); ns != "mine" || err != nil {
		t.Errorf("namespace %q, %v", ns, err)
	}
	for range 2 { // what one user writes is not there for the next
		cfg, err := g.ToRESTConfig()
		if err != nil || cfg.APIPath != "" || cfg.UserAgent != owner || cfg.Timeout != getterBound {
			t.Fatalf("%v, %v", cfg, err)
		}
		cfg.APIPath = "/apis"
	}
}
