package mesh

import (
	"reflect"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

var operator = []byte("kind: IstioOperator\nspec: {values: {pilot: {autoscaleEnabled: false}}}\n")

var options = Options{Operator: operator, PilotImage: "kind.local/pilot:1", ProxyImage: "kind.local/proxy:1"}

func TestRenderGivesCRDsIstiodAndOneGatewayWithoutACluster(t *testing.T) {
	objs, err := Render(options)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, o := range objs {
		found[o.GetKind()]++
		if o.GetKind() == "Deployment" {
			found[o.GetName()]++
		}
		if ns := o.GetNamespace(); ns != "" && ns != Namespace {
			t.Errorf("%s %s is in namespace %s", o.GetKind(), o.GetName(), ns)
		}
	}
	if found["CustomResourceDefinition"] < 10 || found["Deployment"] != 2 || found["istiod"] != 1 || found[Gateway] != 1 {
		t.Errorf("rendered %v, want Istio's CRDs and the Deployments istiod and %s", found, Gateway)
	}
	again, err := Render(options)
	if err != nil || !reflect.DeepEqual(objs, again) {
		t.Errorf("a second rendering differs (error %v)", err)
	}
}

func TestRenderLeavesNoFieldWithoutAValue(t *testing.T) {
	objs, err := Render(options)
	if err != nil {
		t.Fatal(err)
	}
	var look func(o *unstructured.Unstructured, path string, value any)
	look = func(o *unstructured.Unstructured, path string, value any) {
		switch v := value.(type) {
		case nil:
			t.Errorf("%s %s: %s is null", o.GetKind(), o.GetName(), path)
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
	for _, o := range objs {
		if o.GetKind() != "CustomResourceDefinition" {
			look(o, "", o.Object)
		}
	}
}

func TestRenderRefusesIncompleteOptions(t *testing.T) {
	for _, o := range []Options{
		{Operator: operator, ProxyImage: "p"},
		{Operator: operator, PilotImage: "p"},
		{PilotImage: "p", ProxyImage: "p"},
	} {
		if _, err := Render(o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}
