package addons

import (
	"context"
	"fmt"
	"io/fs"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/chart"
	"mllab.local/internal/probe"
	"mllab.local/manifests"
)

const (
	sampleName      = "sample"
	sampleNamespace = "mllab-sample"
)

// SampleHost is the Host under which the gateway serves the sample model.
const SampleHost = sampleName + "." + sampleNamespace + "." + Domain

// Reserved returns the addons' namespaces whose names begin as those of
// scenarios' runs do: no run may have one of them.
func Reserved() []string { return []string{sampleNamespace} }

// sample is one small model as a Knative Service, from the chart that users
// copy.
func sample() Addon {
	return Addon{
		Name:       "sample",
		Summary:    "a sample model server at " + SampleHost,
		StartAfter: []string{"knative"},
		Images:     []string{"sampleapp"},
		Render:     sampleObjects,
		Verify:     verifySample,
	}
}

func sampleObjects(im Images) ([]*unstructured.Unstructured, error) {
	image, err := im.get("sampleapp")
	if err != nil {
		return nil, err
	}
	files, err := fs.Sub(manifests.FS, "charts/sample")
	if err != nil {
		return nil, err
	}
	return chart.Render(files, sampleName, sampleNamespace, map[string]any{"image": image})
}

// verifySample sends one request from outside, as a user would. The answer
// must be the application's own and say who it is.
func verifySample(ctx context.Context, env Env, reason func(string)) error {
	return poll(ctx, reason, "asking "+SampleHost+" through the gateway", func(ctx context.Context) error {
		a := env.Send.Send(ctx, probe.Request{URL: env.Gateway, Host: SampleHost, Fresh: true})
		if !a.OK() {
			return fmt.Errorf("%s: %s", env.Gateway, a.Problem())
		}
		if a.Revision == "" || a.Pod == "" {
			return fmt.Errorf("%s: the answer of %q names no revision or no pod", env.Gateway, a.Target)
		}
		return nil
	})
}
