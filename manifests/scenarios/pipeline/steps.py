"""The steps of the pipeline: python3 steps.py STEP, each in a pod of its own.

What a step makes goes to the lab's registry as an image, under the run's name, and the next step takes it from there, by
its digest: a tag may be another image by then. What the workflow must know is written to /tmp/outputs/NAME. All settings
are in the environment:

    STORE       repository of the run's files, HOST:PORT/NAME
    RUN         the run's name
    MODELS      repository of the models
    SEED, LABEL_NOISE, THRESHOLD
    DATA        the data's image, that prepare has pushed
    FITTED      package: the fitted model's image, that evaluate has judged
    IMAGE       verify: the model's image
    GATEWAY, SERVICE_HOST, EXPECT   verify: where to send requests, the Host, and the model's digest

Exit codes: 0, 1 for a failure, 4 for a model that does not pass the gate, 5 for answers that are not the trainer's, 75 for
a registry that failed, which another try may fix.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mllab_train as trainer

env = os.environ
DATA, FITTED, MODEL = Path("/tmp/data"), Path("/tmp/fitted"), Path("/tmp/model")


def output(name, value):
    Path("/tmp/outputs").mkdir(exist_ok=True)
    Path("/tmp/outputs", name).write_text(str(value))


def say(stage, **fields):
    print(json.dumps({"stage": stage, **fields}), flush=True)


def tag(name):
    return f"{env['STORE']}:{env['RUN']}-{name}"


def keep(thing, folder, name):
    """Pushes a thing, and returns its image by the digest."""
    import joblib

    folder.mkdir(exist_ok=True)
    joblib.dump(thing, folder / "it.joblib")
    return trainer.modelcar("push", folder, tag(name))


def kept(folder, image):
    """Returns the thing of an image, and the image by its digest."""
    import joblib

    image = trainer.modelcar("pull", image, folder)
    return joblib.load(folder / "it.joblib"), image


def prepare():
    data = trainer.prepare("breast-cancer", int(env["SEED"]), float(env["LABEL_NOISE"]))
    output("dataset", keep(data, DATA, "data"))
    say("prepare", data=data.digest, rows=len(data.train_y) + len(data.held_y))


def train():
    data, _ = kept(DATA, env["DATA"])
    began = time.monotonic()
    fitted = trainer.train(data.train_x, data.train_y)
    say("train", seconds=round(time.monotonic() - began, 3))
    keep(fitted, FITTED, "fitted")


def evaluate():
    """Judges what train has pushed, hands it on by its digest, and says which model file it is."""
    (data, _), (fitted, image) = kept(DATA, env["DATA"]), kept(FITTED, tag("fitted"))  # a TrainJob hands nothing on
    output("fitted", image)
    e = trainer.evaluate(fitted, data)
    model, _ = trainer.write(MODEL, fitted, data, e)
    say("evaluate", accuracy=e.accuracy, low=e.low, high=e.high, held_out=e.held_out, model=model)
    threshold = float(env["THRESHOLD"])
    passed = trainer.gate(e, threshold)
    say("gate", passed=passed, threshold=threshold)
    return 0 if passed else 4


def package():
    (data, _), (fitted, _) = kept(DATA, env["DATA"]), kept(FITTED, env["FITTED"])
    digests = trainer.write(MODEL, fitted, data, trainer.evaluate(fitted, data))
    say("write", model=digests[0], heldout=digests[1])
    image = trainer.push(MODEL, env["MODELS"])
    say("push", image=image)
    output("image", image)
    output("model", digests[0])


def verify():
    """Asks the deployed model for every held-out row, as a user inside the cluster would."""
    trainer.modelcar("pull", env["IMAGE"], MODEL)
    held = json.loads((MODEL / "heldout.json").read_text())
    wrong, others = 0, set()
    for row, want in zip(held["instances"], held["predictions"]):
        body = json.dumps({"instances": [row]}).encode()
        request = urllib.request.Request(env["GATEWAY"], body, {"Host": env["SERVICE_HOST"], "Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            wrong += json.load(answer)["prediction"] != [want]
            others |= {answer.headers.get("X-Mllab-Model")} - {env["EXPECT"]}
    say("verify", requests=len(held["instances"]), wrong=wrong, others=sorted(map(str, others)))
    return 5 if wrong or others else 0


if __name__ == "__main__":
    step = {f.__name__: f for f in (prepare, train, evaluate, package, verify)}[sys.argv[1]]
    try:
        sys.exit(step() or 0)
    except subprocess.CalledProcessError as e:  # modelcar's
        # https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
        message = Path("/dev/termination-log")
        if message.exists():
            message.write_text(e.stderr[:2000])
        sys.exit(e.returncode)
