"""The first page of Kubeflow's SDK, on the lab's runtime: https://sdk.kubeflow.org/en/latest/"""

from kubeflow.trainer import CustomTrainer, TrainerClient


def fit(regularization: str):
    import os

    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    x, y = load_iris(return_X_y=True)
    accuracy = LogisticRegression(C=float(regularization), max_iter=1000).fit(x, y).score(x, y)
    print(f"worker {os.environ['JOB_COMPLETION_INDEX']}: accuracy={accuracy:.2f}")


def absent():
    import torch  # noqa: F401


client = TrainerClient()
print("runtimes:", [r.name for r in client.list_runtimes()])
runtime = client.get_runtime("python")
print("runtime:", runtime.trainer.framework, runtime.trainer.device, runtime.trainer.device_count)

good = client.train(
    runtime=runtime,
    trainer=CustomTrainer(func=fit, func_args={"regularization": "1.0"}, num_nodes=2, packages_to_install=["scikit-learn"]),
)
bad = client.train(runtime="python", trainer=CustomTrainer(func=absent, packages_to_install=["torch"]))
for job, end in ((good, "Complete"), (bad, "Failed")):
    print(end, client.wait_for_job_status(job, status={"Complete", "Failed"}, timeout=240).status)
    for step in client.get_job(job).steps:
        print(step.name, step.status, step.device)
        print("\n".join(client.get_job_logs(job, step=step.name)))
print("jobs:", len([j for j in client.list_jobs() if j.name in (good, bad)]), "events:", len(client.get_job_events(good)) > 0)
for job in (good, bad):
    client.delete_job(job)
try:
    client.get_runtime("torch-distributed")
except RuntimeError as e:
    print("torch-distributed:", e)
