package addons

import (
	"context"
	"errors"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/kube"
)

// WorkflowExecutor is the ClusterRole with what a Workflow's pods must be
// allowed in their namespace: to report their results.
// https://argo-workflows.readthedocs.io/en/latest/workflow-rbac/
const WorkflowExecutor = "workflow-executor"

// argo is Argo Workflows' controller for all namespaces: the engine under
// Kubeflow Pipelines. Its server and its archive are left out.
func argo() Addon {
	return Addon{
		Name:    "argo-workflows",
		Summary: "Argo Workflows: pipelines as graphs of steps",
		Images:  []string{"argo-workflow-controller", "argo-executor"},
		Verify:  verifyArgo,
	}
}

func verifyArgo(ctx context.Context, env Env, reason func(string)) error {
	var controller appsv1.Deployment
	if err := env.Kube.Get(ctx, client.ObjectKey{Namespace: "argo", Name: "workflow-controller"}, &controller); err != nil {
		return err
	}
	args := controller.Spec.Template.Spec.Containers[0].Args
	i := slices.Index(args, "--executor-image")
	if i < 0 || i+1 == len(args) {
		return fmt.Errorf("the controller names no image for its executor: %q", args)
	}
	return use(ctx, env, reason, "running a Workflow", "argo-workflows", func(_ context.Context, live *unstructured.Unstructured) error {
		phase, _, err := unstructured.NestedString(live.Object, "status", "phase")
		message, _, _ := unstructured.NestedString(live.Object, "status", "message")
		if phase != "Succeeded" {
			err = errors.Join(err, fmt.Errorf("%s: %q (%s)", kube.Name(live), phase, message))
		}
		return err
	}, "$(executor)", args[i+1])
}
