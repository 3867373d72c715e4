package addons

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/kube"
)

// Where users of Kubeflow look for its parts.
const (
	trainerNamespace = "kubeflow-system"
	jobsetNamespace  = "jobset-system"
)

// The kinds that the lab itself writes.
const (
	trainerKinds = "trainer.kubeflow.org/v1alpha1"
	jobsetKinds  = "jobset.x-k8s.io/v1alpha2"
)

// PythonRuntime is the training runtime that the lab brings: one or more
// workers with Python and scikit-learn.
const PythonRuntime = "python"

// kubeflow is the lab's minimal Kubeflow: its parts, and what the lab brings
// to them.
func kubeflow() Addon {
	return Addon{
		Name:     "kubeflow",
		Summary:  "a minimal Kubeflow: Trainer, KServe, Argo Workflows and a registry, with Python and scikit-learn",
		Optional: true,
		// Verified: their webhooks judge what is applied here.
		Needs:  []string{"trainer", "kserve", "argo-workflows", "registry"},
		Images: []string{"python", "modelcar", "runner"},
		Render: kubeflowObjects,
		Verify: verifyKubeflow,
	}
}

func kubeflowObjects(im Images) ([]*unstructured.Unstructured, error) {
	python, err := im.get("python")
	if err != nil {
		return nil, err
	}
	modelcar, err := im.get("modelcar")
	if err != nil {
		return nil, err
	}
	runner, err := im.get("runner")
	if err != nil {
		return nil, err
	}
	return []*unstructured.Unstructured{pythonRuntime(python), modelStorage(modelcar), notebookRunner(runner, python)}, nil
}

// notebookRunner says which image runs a pushed notebook, and which one its
// steps: a Job in Git has to name both.
func notebookRunner(image, python string) *unstructured.Unstructured {
	return object("v1", "ConfigMap", trainerNamespace, "notebook-runner", map[string]any{"data": map[string]any{"image": image, "python": python}})
}

// verifyKubeflow has a TrainJob run Python.
func verifyKubeflow(ctx context.Context, env Env, reason func(string)) error {
	job := object(trainerKinds, "TrainJob", verifyNamespace, verifyName+"-python", map[string]any{"spec": map[string]any{
		"runtimeRef": map[string]any{"name": PythonRuntime},
		"trainer":    map[string]any{"command": []any{"python3", "-c", "import sys; sys.exit(0)"}},
	}})
	return use(ctx, env, reason, "running a TrainJob", []*unstructured.Unstructured{job}, func(ctx context.Context) error {
		return wantCondition(ctx, env, job, "Complete")
	})
}

// jobset runs the jobs that a TrainJob is made of.
func jobset() Addon {
	return Addon{
		Name:     "jobset",
		Summary:  "JobSet: groups of Jobs, under Kubeflow Trainer",
		Optional: true,
		Images:   []string{"jobset"},
		Render: func(im Images) ([]*unstructured.Unstructured, error) {
			return controller(im, "jobset", map[string]string{"manager": "jobset"}, "128Mi")
		},
		PostApply: func(ctx context.Context, env Env, reason func(string)) error {
			_, err := certify(ctx, env, reason, jobsetNamespace, "jobset-webhook-server-cert", "jobset-webhook-service."+jobsetNamespace+".svc", "jobset-ca")
			return err
		},
		Verify: verifyJobSet,
	}
}

// trainer is Kubeflow Trainer v2 with one runtime, the lab's.
func trainer() Addon {
	return Addon{
		Name:       "trainer",
		Summary:    "Kubeflow Trainer: TrainJobs",
		Optional:   true,
		StartAfter: []string{"jobset"}, // its kinds
		Images:     []string{"trainer"},
		Render:     trainerObjects,
		PostApply: func(ctx context.Context, env Env, reason func(string)) error {
			_, err := certify(ctx, env, reason, trainerNamespace, "kubeflow-trainer-webhook-cert",
				"kubeflow-trainer-controller-manager."+trainerNamespace+".svc", "kubeflow-trainer-ca")
			return err
		},
		Verify: verifyTrainer,
	}
}

func trainerObjects(im Images) ([]*unstructured.Unstructured, error) {
	objs, err := controller(im, "trainer", map[string]string{"manager": "trainer"}, "128Mi")
	if err != nil {
		return nil, err
	}
	modules, err := pinnedModules()
	if err != nil {
		return nil, err
	}
	// Kubeflow's SDK reads the version here.
	// (github.com/kubeflow/sdk, kubeflow/trainer/backends/kubernetes/backend.py, verify_backend.)
	version := object("v1", "ConfigMap", trainerNamespace, "kubeflow-trainer-public", map[string]any{
		"data": map[string]any{"kubeflow_trainer_version": modules["github.com/kubeflow/trainer/v2"]},
	})
	return append([]*unstructured.Unstructured{namespace(trainerNamespace), version}, objs...), nil
}

// verifyJobSet has the controller answer for a JobSet that is held back.
func verifyJobSet(ctx context.Context, env Env, reason func(string)) error {
	set := object(jobsetKinds, "JobSet", verifyNamespace, verifyName+"-jobset", map[string]any{"spec": map[string]any{
		"suspend": true,
		"replicatedJobs": []any{map[string]any{"name": "none", "template": map[string]any{"spec": map[string]any{
			"template": map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"name": "none", "image": "none"}}}},
		}}}},
	}})
	return use(ctx, env, reason, "having a JobSet held back", []*unstructured.Unstructured{set}, func(ctx context.Context) error {
		return wantCondition(ctx, env, set, "Suspended")
	})
}

// verifyTrainer has the webhook judge a runtime, which it must take, and one
// without a job to train in, which it must refuse.
func verifyTrainer(ctx context.Context, env Env, reason func(string)) error {
	good, bad := pythonRuntime("none"), pythonRuntime("none")
	for _, o := range []*unstructured.Unstructured{good, bad} {
		o.SetName(verifyName + "-trainer")
	}
	jobs, _, _ := unstructured.NestedSlice(bad.Object, "spec", "template", "spec", "replicatedJobs")
	job, _ := jobs[0].(map[string]any)
	job["replicas"] = int64(2) // a runtime's jobs are one each
	if err := unstructured.SetNestedSlice(bad.Object, jobs, "spec", "template", "spec", "replicatedJobs"); err != nil {
		return err
	}
	return poll(ctx, reason, "having the webhook judge runtimes", func(ctx context.Context) error {
		if err := env.Kube.Create(ctx, good.DeepCopy(), client.DryRunAll); err != nil {
			return err
		}
		if err := env.Kube.Create(ctx, bad.DeepCopy(), client.DryRunAll); !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
			return fmt.Errorf("the webhook does not refuse a runtime with two jobs in one: %v", err)
		}
		return nil
	})
}

// Where and under which names addons are verified, several at a time.
const verifyNamespace, verifyName = "default", "mllab-verify"

// use applies objects, polls done, and removes them.
func use(ctx context.Context, env Env, reason func(string), what string, objs []*unstructured.Unstructured, done func(context.Context) error) (err error) {
	defer func() { err = errors.Join(err, removeVerified(ctx, env, objs)) }()
	err = poll(ctx, reason, what, func(ctx context.Context) error {
		_, err := env.Kube.Apply(ctx, objs) // a webhook may come a moment after its pod
		return err
	})
	if err != nil {
		return err
	}
	return poll(ctx, reason, what, done)
}

// wantCondition is an error that says what is known until an object has a
// condition that is True.
func wantCondition(ctx context.Context, env Env, o *unstructured.Unstructured, kind string) error {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(o.GroupVersionKind())
	if err := env.Kube.Get(ctx, client.ObjectKeyFromObject(o), live); err != nil {
		return err
	}
	known := "it says nothing yet"
	for _, c := range kube.Conditions(live) {
		if c.Type == kind && c.True() {
			return nil
		}
		known = fmt.Sprintf("%s=%s: %s", c.Type, c.Status, c.Message)
	}
	return fmt.Errorf("%s: not yet %s (%s)", kube.Name(o), kind, known)
}

// pythonRuntime is what a TrainJob names: the Trainer looks for the job and
// the container that are called node, and for the label of the ancestor.
// (github.com/kubeflow/trainer, pkg/constants/constants.go.)
func pythonRuntime(image string) *unstructured.Unstructured {
	o := object(trainerKinds, "ClusterTrainingRuntime", "", PythonRuntime, map[string]any{"spec": map[string]any{
		"mlPolicy": map[string]any{"numNodes": int64(1)},
		"template": map[string]any{"spec": map[string]any{"replicatedJobs": []any{map[string]any{
			"name": "node",
			"template": map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
				"spec": map[string]any{
					// A pod that was killed, or did not start, is tried again, and so is
					// code that ends with 75 (EX_TEMPFAIL of sysexits.h), as modelcar does
					// for a registry that fails. Python's own failures (1, 2) and a gate's
					// (4) would be the same again.
					"backoffLimit": int64(3),
					"podFailurePolicy": map[string]any{"rules": []any{map[string]any{
						"action":      "FailJob",
						"onExitCodes": map[string]any{"operator": "In", "values": []any{int64(1), int64(2), int64(4)}},
					}}},
					"template": map[string]any{"spec": map[string]any{
						"restartPolicy":                "Never", // its log stays, and its exit code counts
						"automountServiceAccountToken": false,
						"securityContext":              map[string]any{"runAsNonRoot": true, "seccompProfile": map[string]any{"type": "RuntimeDefault"}},
						"containers": []any{map[string]any{
							"name": "node", "image": image, "imagePullPolicy": "IfNotPresent",
							"securityContext": map[string]any{
								"allowPrivilegeEscalation": false,
								"capabilities":             map[string]any{"drop": []any{"ALL"}},
							},
							"resources": map[string]any{
								"requests": map[string]any{"cpu": "100m", "memory": "256Mi"},
								// Kubeflow's SDK reads which device a runtime trains on from the
								// limits, and refuses limits that name none.
								"limits": map[string]any{"cpu": "1", "memory": "1Gi"},
							},
						}},
					}},
				},
			},
		}}}},
	}})
	label(o, "trainer.kubeflow.org/framework", "scikit-learn")
	return o
}

// controller is a rendered manifest made the lab's: our images for its
// containers, found ready within a second, and with requests that fit a
// laptop. Alone in the cluster, a controller needs no election, after which a
// restarted one would wait for the lease of the one before.
func controller(im Images, manifest string, containers map[string]string, memory string) ([]*unstructured.Unstructured, error) {
	objs, err := upstream(manifest + ".yaml")
	if err != nil {
		return nil, err
	}
	for _, o := range objs {
		switch o.GetKind() {
		case "Namespace":
			label(o, managedBy, mllab)
		case "ConfigMap":
			if _, err := replaceStrings(o.Object, func(s string) (string, error) {
				return strings.ReplaceAll(s, "leaderElect: true", "leaderElect: false"), nil
			}); err != nil {
				return nil, err
			}
		case "Deployment":
			if err := patchController(o, im, containers, memory); err != nil {
				return nil, err
			}
		}
	}
	return objs, nil
}

func patchController(o *unstructured.Unstructured, im Images, containers map[string]string, memory string) error {
	err := unstructured.SetNestedMap(o.Object, map[string]any{"type": "Recreate"}, "spec", "strategy")
	return errors.Join(err, eachContainer(o, func(c map[string]any) {
		name, _ := c["name"].(string)
		image, e := im.get(containers[name])
		if e != nil {
			err = errors.Join(err, fmt.Errorf("%s, container %s: %w", kube.Name(o), name, e))
			return
		}
		c["image"], c["imagePullPolicy"] = image, "IfNotPresent"
		quickProbe(c)
		c["resources"] = map[string]any{
			"requests": map[string]any{"cpu": "20m", "memory": "64Mi"},
			"limits":   map[string]any{"memory": memory},
		}
	}), err)
}
