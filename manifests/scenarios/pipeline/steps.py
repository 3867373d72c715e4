"""The steps of the pipeline: python3 steps.py STEP, each in a pod of its own.

What a step makes goes to the lab's registry as an image, under the run's name, and the next step takes it from there.
What the workflow must know is written to /tmp/outputs/NAME. All settings are in the environment:

    STORE       repository of the run's files, HOST:PORT/NAME
    RUN         the run's name
    MODELS      repository of the models
    SEED, LABEL_NOISE, THRESHOLD
    IMAGE       verify: the model's image
    GATEWAY, SERVICE_HOST, EXPECT   verify: where to send requests, the Host, and the model's digest
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


def push(folder, reference):
    return subprocess.run(["modelcar", "push", folder, reference], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def pull(reference, folder):
    subprocess.run(["modelcar", "pull", reference, folder], stdout=subprocess.DEVNULL, check=True)


def output(name, value):
    Path("/tmp/outputs").mkdir(exist_ok=True)
    Path("/tmp/outputs", name).write_text(str(value))


def say(stage, **fields):
    print(json.dumps({"stage": stage, **fields}), flush=True)


def keep(thing, folder, name):
    import joblib

    folder.mkdir(exist_ok=True)
    joblib.dump(thing, folder / "it.joblib")
    push(folder, f"{env['STORE']}:{env['RUN']}-{name}")


def kept(folder, name):
    import joblib

    pull(f"{env['STORE']}:{env['RUN']}-{name}", folder)
    return joblib.load(folder / "it.joblib")


def prepare():
    data = trainer.prepare("breast-cancer", int(env["SEED"]), float(env["LABEL_NOISE"]))
    keep(data, DATA, "data")
    say("prepare", data=data.digest, rows=len(data.train_y) + len(data.held_y))
    output("data", data.digest)


def train():
    data = kept(DATA, "data")
    began = time.monotonic()
    fitted = trainer.train(data.train_x, data.train_y)
    say("train", seconds=round(time.monotonic() - began, 3))
    keep(fitted, FITTED, "fitted")


def evaluate():
    data, fitted = kept(DATA, "data"), kept(FITTED, "fitted")
    e = trainer.evaluate(fitted, data)
    say("evaluate", accuracy=e.accuracy, low=e.low, high=e.high, held_out=e.held_out)
    threshold = float(env["THRESHOLD"])
    passed = trainer.gate(e, threshold)
    say("gate", passed=passed, threshold=threshold)
    return 0 if passed else 4


def package():
    data, fitted = kept(DATA, "data"), kept(FITTED, "fitted")
    digests = trainer.write(MODEL, fitted, data, trainer.evaluate(fitted, data))
    say("write", model=digests[0], heldout=digests[1])
    image = push(MODEL, env["MODELS"])
    say("push", image=image)
    output("image", image)
    output("model", digests[0])


def verify():
    """Asks the deployed model for every held-out row, as a user inside the cluster would."""
    pull(env["IMAGE"], MODEL)
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
    sys.exit({f.__name__: f for f in (prepare, train, evaluate, package, verify)}[sys.argv[1]]() or 0)
