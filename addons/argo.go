package addons

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/kube"
)

const (
	argoNamespace = "argo"
	argoKinds     = "argoproj.io/v1alpha1"
)

// WorkflowExecutor is the ClusterRole with what a Workflow's pods must be
// allowed in their namespace: to report their results.
// https://argo-workflows.readthedocs.io/en/latest/workflow-rbac/
const WorkflowExecutor = "workflow-executor"

// workflowNamespaces are those where a Workflow that names no service account
// may report its results: where clients put one that names no namespace, and
// where Argo's own guide puts its first.
var workflowNamespaces = []string{"default", argoNamespace}

// executorBinding lets a namespace's default service account report results.
func executorBinding(ns string) *unstructured.Unstructured {
	return object("rbac.authorization.k8s.io/v1", "RoleBinding", ns, WorkflowExecutor, map[string]any{
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": WorkflowExecutor},
		"subjects": []any{map[string]any{"kind": "ServiceAccount", "name": "default", "namespace": ns}},
	})
}

// argo is Argo Workflows' controller for all namespaces: the engine under
// Kubeflow Pipelines. Its server and its archive are left out.
func argo() Addon {
	return Addon{
		Name:     "argo-workflows",
		Summary:  "Argo Workflows: pipelines as graphs of steps",
		Optional: true,
		Images:   []string{"argo-workflow-controller", "argo-executor"},
		Render:   argoObjects,
		Verify:   verifyArgo,
	}
}

func argoObjects(im Images) ([]*unstructured.Unstructured, error) {
	executor, err := im.get("argo-executor")
	if err != nil {
		return nil, err
	}
	objs, err := controller(im, "argo-workflows", map[string]string{"workflow-controller": "argo-workflow-controller"}, "256Mi")
	if err != nil {
		return nil, err
	}
	for _, o := range objs {
		if o.GetKind() != "Deployment" {
			continue
		}
		err := eachContainer(o, func(c map[string]any) {
			c["args"] = []any{"--executor-image", executor, "--executor-image-pull-policy", "IfNotPresent"}
			c["env"] = []any{
				map[string]any{"name": "LEADER_ELECTION_DISABLE", "value": "true"},
				// How soon a workflow is looked at again: else a step begins up to
				// 10 s after the one before.
				map[string]any{"name": "DEFAULT_REQUEUE_TIME", "value": "1s"},
			}
		})
		if err != nil {
			return nil, err
		}
	}
	role := object("rbac.authorization.k8s.io/v1", "ClusterRole", "", WorkflowExecutor, map[string]any{"rules": []any{
		map[string]any{"apiGroups": []any{"argoproj.io"}, "resources": []any{"workflowtaskresults"}, "verbs": []any{"create", "patch"}},
	}})
	objs = append([]*unstructured.Unstructured{namespace(argoNamespace), role}, objs...)
	for _, ns := range workflowNamespaces {
		objs = append(objs, executorBinding(ns))
	}
	return objs, nil
}

// verifyArgo runs a Workflow of one pod.
func verifyArgo(ctx context.Context, env Env, reason func(string)) error {
	controller := object("apps/v1", "Deployment", argoNamespace, "workflow-controller", nil)
	if err := env.Kube.Get(ctx, client.ObjectKeyFromObject(controller), controller); err != nil {
		return err
	}
	var executor string
	err := eachContainer(controller, func(c map[string]any) {
		if args, _ := c["args"].([]any); len(args) > 1 {
			executor, _ = args[1].(string)
		}
	})
	if err != nil {
		return err
	}
	workflow := object(argoKinds, "Workflow", verifyNamespace, verifyName+"-argo", map[string]any{"spec": map[string]any{
		"entrypoint": "main",
		// On a busy machine a container may fail to start.
		"templates": []any{map[string]any{"name": "main", "retryStrategy": map[string]any{"limit": "3", "retryPolicy": "Always"}, "container": map[string]any{
			"image": executor, "command": []any{"argoexec", "version"},
		}}},
	}})
	return use(ctx, env, reason, "running a Workflow", []*unstructured.Unstructured{workflow}, func(ctx context.Context) error {
		live := workflow.DeepCopy()
		if err := env.Kube.Get(ctx, client.ObjectKeyFromObject(live), live); err != nil {
			return err
		}
		phase, _, err := unstructured.NestedString(live.Object, "status", "phase")
		message, _, _ := unstructured.NestedString(live.Object, "status", "message")
		if phase != "Succeeded" {
			err = errors.Join(err, fmt.Errorf("%s: %q (%s)", kube.Name(live), phase, message))
		}
		return err
	})
}
