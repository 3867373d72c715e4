package addons

import "context"

// Where users of Kubeflow look for its parts.
const (
	trainerNamespace = "kubeflow-system"
	jobsetNamespace  = "jobset-system"
)

// kubeflow is the lab's minimal Kubeflow: its parts, and what the lab brings
// to them.
func kubeflow() Addon {
	return Addon{
		Name:    "kubeflow",
		Summary: "a minimal Kubeflow: Trainer, KServe, Argo Workflows and a registry, with Python and scikit-learn",
		// Verified: their webhooks judge what is applied here.
		Needs:  []string{"trainer", "kserve"},
		Brings: []string{"argo-workflows", "registry"},
		Images: []string{"python", "modelcar", "runner"},
		Verify: verifyKubeflow,
	}
}

// verifyKubeflow has a TrainJob run Python.
func verifyKubeflow(ctx context.Context, env Env, reason func(string)) error {
	objs, err := manifest("kubeflow/verify.yaml")
	if err != nil {
		return err
	}
	return use(ctx, env, reason, "running a TrainJob", objs, func(ctx context.Context) error {
		return wantCondition(ctx, env, objs[0], "Complete")
	})
}

// jobset runs the jobs that a TrainJob is made of.
func jobset() Addon {
	return Addon{
		Name:    "jobset",
		Summary: "JobSet: groups of Jobs, under Kubeflow Trainer",
		Images:  []string{"jobset"},
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
		StartAfter: []string{"jobset"}, // its kinds
		Images:     []string{"trainer"},
		PostApply: func(ctx context.Context, env Env, reason func(string)) error {
			_, err := certify(ctx, env, reason, trainerNamespace, "kubeflow-trainer-webhook-cert",
				"kubeflow-trainer-controller-manager."+trainerNamespace+".svc", "kubeflow-trainer-ca")
			return err
		},
		Verify: verifyTrainer,
	}
}

// verifyJobSet has the controller answer for a JobSet that is held back.
func verifyJobSet(ctx context.Context, env Env, reason func(string)) error {
	objs, err := manifest("jobset/verify.yaml")
	if err != nil {
		return err
	}
	return use(ctx, env, reason, "having a JobSet held back", objs, func(ctx context.Context) error {
		return wantCondition(ctx, env, objs[0], "Suspended")
	})
}

// verifyTrainer has the webhook judge a runtime, which it must take, and one
// without a job to train in, which it must refuse.
func verifyTrainer(ctx context.Context, env Env, reason func(string)) error {
	return poll(ctx, reason, "having the webhook judge runtimes", func(ctx context.Context) error {
		if err := accepted(ctx, env, "trainer"); err != nil {
			return err
		}
		return refused(ctx, env, "trainer", "always must be 1")
	})
}
