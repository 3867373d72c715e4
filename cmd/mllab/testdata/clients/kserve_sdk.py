"""The first page of KServe's SDK, with the lab's model server: https://kserve.github.io/website/docs/reference/python-client"""

import sys

from kserve import KServeClient, V1beta1InferenceService, V1beta1InferenceServiceSpec, V1beta1PredictorSpec, constants
from kubernetes.client import V1Container, V1EnvVar, V1ObjectMeta

name, namespace = "kserve-sdk", "default"
client = KServeClient()
if sys.argv[1] == "create":
    container = V1Container(name="kserve-container", image=sys.argv[2], env=[V1EnvVar(name="TARGET", value="sdk")])
    client.create(
        V1beta1InferenceService(
            api_version=constants.KSERVE_GROUP + "/v1beta1",
            kind=constants.KSERVE_KIND_INFERENCESERVICE,
            metadata=V1ObjectMeta(name=name, namespace=namespace),
            spec=V1beta1InferenceServiceSpec(predictor=V1beta1PredictorSpec(min_replicas=1, containers=[container])),
        )
    )
    client.wait_isvc_ready(name, namespace=namespace, timeout_seconds=180, polling_interval=1)
    print("url:", client.get(name, namespace=namespace)["status"]["url"])
else:
    client.delete(name, namespace=namespace)
