package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/kube"
)

// rendered is what Istio's operator library makes of an operator.yaml.
func rendered(t *testing.T, operator string) (text []byte, objs []*unstructured.Unstructured) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "istio"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "istio", "operator.yaml"), []byte(operator), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := istio(dir)
	if err == nil {
		objs, err = kube.Decode(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	return text, objs
}

const operatorFile = "kind: IstioOperator\nspec: {values: {pilot: {autoscaleEnabled: false, image: kind.local/pilot}, global: {proxy: {image: kind.local/proxy}}}}\n"

func TestIstioIsItsCRDsIstiodAndOneGatewayEachTimeTheSame(t *testing.T) {
	text, objs := rendered(t, operatorFile)
	found := map[string]int{}
	for _, o := range objs {
		found[o.GetKind()]++
		if o.GetKind() == "Deployment" {
			found[o.GetName()]++
		}
		if ns := o.GetNamespace(); ns != "" && ns != "istio-system" {
			t.Errorf("%s is in another namespace", kube.Name(o))
		}
	}
	if found["CustomResourceDefinition"] < 10 || found["Namespace"] != 0 || found["Deployment"] != 2 || found["istiod"] != 1 || found["istio-ingressgateway"] != 1 {
		t.Errorf("rendered %v, want Istio's CRDs and the Deployments istiod and istio-ingressgateway", found)
	}
	if again, _ := rendered(t, operatorFile); !bytes.Equal(text, again) {
		t.Error("a second rendering differs")
	}
}

func TestIstioHasNoFieldWithoutAValue(t *testing.T) {
	var look func(o *unstructured.Unstructured, path string, value any)
	look = func(o *unstructured.Unstructured, path string, value any) {
		switch v := value.(type) {
		case nil:
			t.Errorf("%s: %s is null", kube.Name(o), path)
		case map[string]any:
			for k, inner := range v {
				look(o, path+"."+k, inner)
			}
		case []any:
			for _, inner := range v {
				look(o, path+"[]", inner)
			}
		}
	}
	_, objs := rendered(t, operatorFile)
	for _, o := range objs {
		if o.GetKind() != "CustomResourceDefinition" {
			look(o, "", o.Object)
		}
	}
}

func TestIstioIsNotRenderedFromWhatIsNoOperatorsFile(t *testing.T) {
	dir := t.TempDir()
	if text, err := istio(dir); err == nil {
		t.Errorf("without operator.yaml it rendered %d bytes", len(text))
	}
}
