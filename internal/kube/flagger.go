package kube

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Primary returns namespace/name of the copy that Flagger makes of a model.
//
// https://docs.flagger.app/usage/how-it-works#canary-target
func Primary(namespace, model string) string { return namespace + "/" + model + "-primary" }

// Primaries returns the models that Flagger judges, by Primary.
func (c *Client) Primaries(ctx context.Context) (map[string]string, error) {
	canaries, err := c.Objects(ctx, "flagger.app/v1beta1", "Canary")
	if err != nil {
		return nil, err
	}
	models := map[string]string{}
	for _, o := range canaries {
		name, _, _ := unstructured.NestedString(o.Object, "spec", "targetRef", "name")
		models[Primary(o.GetNamespace(), name)] = name
	}
	return models, nil
}
