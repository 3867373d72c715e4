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
		Verify: reaches("kubeflow", "running a TrainJob", "Complete"),
	}
}

// jobset runs the jobs that a TrainJob is made of.
func jobset() Addon {
	return Addon{
		Name:      "jobset",
		Summary:   "JobSet: groups of Jobs, under Kubeflow Trainer",
		Images:    []string{"jobset"},
		PostApply: certified(jobsetNamespace, "jobset-webhook-server-cert", "jobset-webhook-service."+jobsetNamespace+".svc", "jobset-ca"),
		Verify:    reaches("jobset", "having a JobSet held back", "Suspended"),
	}
}

// trainer is Kubeflow Trainer v2 with one runtime, the lab's.
func trainer() Addon {
	return Addon{
		Name:       "trainer",
		Summary:    "Kubeflow Trainer: TrainJobs",
		StartAfter: []string{"jobset"}, // its kinds
		Images:     []string{"trainer"},
		PostApply: certified(trainerNamespace, "kubeflow-trainer-webhook-cert",
			"kubeflow-trainer-controller-manager."+trainerNamespace+".svc", "kubeflow-trainer-ca"),
		Verify: judged("trainer", "having the webhook judge runtimes", "always must be 1"), // a runtime must have a job to train in
	}
}

// certified returns a Use that certifies a server.
func certified(ns, secret string, hosts ...string) Use {
	return func(ctx context.Context, env Env, reason func(string)) error {
		_, err := certify(ctx, env, reason, ns, secret, hosts...)
		return err
	}
}
