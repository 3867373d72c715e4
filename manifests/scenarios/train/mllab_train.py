"""Trains the lab's sample model: a linear classifier of one of scikit-learn's bundled data sets.

    python3 mllab_train.py --dataset breast-cancer --seed 1 --threshold 0.9 --out DIR [--push REPOSITORY]

prints one line of JSON for each stage to stdout:

    prepare   the data is split, and hashed
    shard     only with --folds or more than one worker: this worker's part of the cross-validation
    train     the model is fitted
    evaluate  its accuracy on rows that training never saw, with the exact 95 % interval
    gate      whether the accuracy reaches the threshold
    write     DIR/model.json, the model as the sample server reads it, and DIR/heldout.json, the held-out rows with the
              model's predictions and the true labels; the line has the SHA-256 of both
    push      DIR as an image, by its digest

The same arguments give the same files, byte for byte, on one kind of CPU.

With --rows URL the rows and labels are not the data set's, but what URL has: {"instances": [[…], …], "labels": […]}, with
the data set's features and classes. With --reference DIR/reference.json has the training rows and their labels: what the
model is asked later is compared with them.

With --folds each of several strengths of regularisation is cross-validated; which one is trained with is for --c to
say. The workers of a TrainJob (WORKERS of them, this being number JOB_COMPLETION_INDEX) share those fits. They need
not meet: the lines of all of them together have all scores. Only worker 0 goes on to train.

Exit codes: 0, 1 for a failure, 2 for wrong arguments, 4 for a model that does not pass the gate; then nothing is
written. 75 is a registry that failed: another try may fix that.
"""

import os
import signal

if __name__ == "__main__":
    # Process 1 of a container has no default action for SIGTERM. It is set before the imports, which take a while.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))

# More threads gain nothing on data this small, and may add up in another order. It is read when numpy is imported.
for library in "OMP", "OPENBLAS":
    os.environ.setdefault(library + "_NUM_THREADS", "1")

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

DATASETS = {"breast-cancer": load_breast_cancer, "iris": load_iris, "wine": load_wine}
HELD_OUT = 0.25
CONFIDENCE = 0.95
GRID = 0.001, 0.01, 0.1, 1.0, 10.0, 100.0  # strengths to cross-validate; the smaller, the stronger
FILES = "model.json", "heldout.json"
REFERENCE = "reference.json"


@dataclass
class Data:
    """A data set, split. x are rows of features, y are indices of classes."""

    name: str
    seed: int
    digest: str
    features: list
    classes: list
    train_x: np.ndarray
    train_y: np.ndarray
    held_x: np.ndarray
    held_y: np.ndarray


@dataclass
class Evaluation:
    """The share of held-out rows that a model gets right, and that share's confidence interval."""

    accuracy: float
    low: float
    high: float
    held_out: int


def fetch(url):
    """Reads rows and labels. A row that comes twice is taken once: in both parts of the split it would test nothing."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        got = json.load(answer)
    x, first = np.unique(np.asarray(got["instances"], float), axis=0, return_index=True)
    return x, np.asarray(got["labels"], int)[first]


def prepare(dataset, seed, label_noise=0.0, rows=None):
    """Loads and splits a data set, or rows with their labels; each class has its share of both parts.

    label_noise is the share of training rows whose label is replaced by a wrong one; held-out labels stay true.
    The digest is over names, features and labels as they are used, whatever the split.
    """
    bunch = DATASETS[dataset]()
    x, y = rows or (np.asarray(bunch.data, float), np.array(bunch.target))
    names = [list(map(str, bunch.feature_names)), list(map(str, bunch.target_names))]
    train, held = train_test_split(np.arange(len(y)), test_size=HELD_OUT, stratify=y, random_state=seed)
    held_y = y[held]
    random = np.random.default_rng(seed)
    wrong = random.choice(train, round(label_noise * len(train)), replace=False)
    y[wrong] = (y[wrong] + random.integers(1, len(names[1]), len(wrong))) % len(names[1])
    canonical = json.dumps([dataset, *names]).encode() + x.astype("<f8").tobytes() + y.astype("<i8").tobytes()
    return Data(dataset, seed, sha256(canonical), *names, x[train], y[train], x[held], held_y)


def train(x, y, c=1.0) -> Pipeline:
    """Fits a scaler and a classifier. c is the inverse strength of the regularisation."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=10_000)).fit(x, y)


def evaluate(model, data) -> Evaluation:
    """Counts what the model gets right of the held-out rows; the interval is Clopper and Pearson's."""
    right, n = int((model.predict(data.held_x) == data.held_y).sum()), len(data.held_y)
    interval = binomtest(right, n).proportion_ci(CONFIDENCE, method="exact")
    return Evaluation(right / n, float(interval.low), float(interval.high), n)


def gate(evaluation, threshold) -> bool:
    """Whether the model may be served."""
    return evaluation.accuracy >= threshold


def write(out, model, data, evaluation):
    """Writes both files into the folder out, which is made if need be, and returns their digests."""
    scaler, classifier = (step for _, step in model.steps)
    coefficients, intercepts = classifier.coef_.tolist(), classifier.intercept_.tolist()
    if len(data.classes) == 2:  # scikit-learn keeps one row: the second class' score, against a score of 0
        coefficients, intercepts = [[0.0] * len(data.features), *coefficients], [0.0, *intercepts]
    files = {
        "name": data.name,
        "kind": "linear-softmax",
        "features": data.features,
        "classes": data.classes,
        "mean": scaler.mean_.tolist(),
        "scale": scaler.scale_.tolist(),
        "coefficients": coefficients,
        "intercepts": intercepts,
        "data": data.digest,
        "seed": data.seed,
        "accuracy": evaluation.accuracy,
        "accuracy_low": evaluation.low,
        "accuracy_high": evaluation.high,
        "held_out": evaluation.held_out,
    }, {
        "instances": data.held_x.tolist(),
        "predictions": model.predict(data.held_x).tolist(),
        "labels": data.held_y.tolist(),
    }
    os.makedirs(out, exist_ok=True)
    return [write_file(out, name, content) for name, content in zip(FILES, files)]


def write_file(out, name, content):
    text = (json.dumps(content, allow_nan=False) + "\n").encode()
    with open(os.path.join(out, name), "wb") as file:
        file.write(text)
    return sha256(text)


def push(out, repository):
    """Pushes the folder as an image and returns its reference by digest."""
    return modelcar("push", out, repository)


def modelcar(*args):
    """Runs modelcar, and returns the image by its digest. What it says when it fails is in the exception's stderr."""
    done = subprocess.run(["modelcar", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    done.check_returncode()
    return done.stdout.strip()


def cross_validate(data, folds, worker=0, workers=1):
    """Fits each strength of GRID to all but each of the folds of the training rows, as far as it is this worker's.

    Returns how many fits that was, and for each strength how many rows of the folds were right, of how many.
    """
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=data.seed).split(data.train_x, data.train_y))
    mine = [(c, *split) for c in GRID for split in splits][worker::workers]
    scores = {}
    for c, rest, fold in mine:
        right = train(data.train_x[rest], data.train_y[rest], c).predict(data.train_x[fold]) == data.train_y[fold]
        before = scores.get(c, (0, 0))
        scores[c] = before[0] + int(right.sum()), before[1] + len(fold)
    return len(mine), scores


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def number(kind, low, high):
    """An argument that is a number of that kind from low to high."""

    def read(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: want a {'whole ' * (kind is int)}number from {low} to {high}")
        return value

    return read


def arguments():
    p = argparse.ArgumentParser(description="Trains the lab's sample model.", allow_abbrev=False)
    p.add_argument("--dataset", choices=sorted(DATASETS), required=True)
    p.add_argument("--seed", type=number(int, 0, 2**32 - 1), default=1, help="of the split and of the noise")
    p.add_argument("--label-noise", type=number(float, 0, 1), default=0.0, help="share of wrong training labels")
    p.add_argument("--c", type=number(float, 1e-6, 1e6), default=1.0, help="inverse strength of the regularisation")
    p.add_argument("--folds", type=number(int, 2, 30), help="cross-validate with so many folds first")
    p.add_argument("--threshold", type=number(float, 0, 1), required=True, help="least accuracy that passes the gate")
    p.add_argument("--out", required=True, help="folder for the model's files, and for nothing else")
    p.add_argument("--rows", metavar="URL", help="train with these rows and labels instead")
    p.add_argument("--reference", action="store_true", help="keep the training rows next to the model")
    p.add_argument("--push", metavar="REPOSITORY", help="where to push them as an image: HOST:PORT/NAME[:TAG]")
    a = p.parse_args()
    if os.path.isdir(a.out) and (others := sorted(set(os.listdir(a.out)) - {*FILES, REFERENCE})):
        p.error(f"argument --out: {a.out} has other files, such as {others[0]}: want a folder for the model alone")
    if os.path.exists(a.out) and not os.path.isdir(a.out):
        p.error(f"argument --out: {a.out} is no folder")
    if a.push and not shutil.which("modelcar"):
        p.error("argument --push: modelcar, which pushes, is not on the PATH")
    a.workers = environment(p, "WORKERS", 1, 1, 1000)
    a.worker = environment(p, "JOB_COMPLETION_INDEX", 0, 0, a.workers - 1)
    return a


def environment(p, name, default, low, high):
    try:
        return number(int, low, high)(os.environ.get(name, str(default)))
    except argparse.ArgumentTypeError as e:
        p.error(f"environment variable {name}={e}")


def main():
    a = arguments()
    began = time.monotonic()

    def say(stage, **fields):
        nonlocal began
        now = time.monotonic()
        print(json.dumps({"stage": stage, **fields, "seconds": round(now - began, 3)}), flush=True)
        began = now

    data = prepare(a.dataset, a.seed, a.label_noise, fetch(a.rows) if a.rows else None)
    trained, held = len(data.train_y), len(data.held_y)
    say("prepare", data=data.digest, dataset=a.dataset, rows=trained + held, train=trained, held_out=held,
        features=len(data.features), classes=len(data.classes), label_noise=a.label_noise)
    if a.folds or a.workers > 1:
        fits, scores = cross_validate(data, a.folds, a.worker, a.workers) if a.folds else (0, {})
        say("shard", worker=a.worker, of=a.workers, fits=fits, scores=scores)
    if a.worker > 0:
        return 0
    model = train(data.train_x, data.train_y, a.c)
    say("train", c=a.c, iterations=int(model[-1].n_iter_.max()))
    e = evaluate(model, data)
    say("evaluate", accuracy=e.accuracy, low=e.low, high=e.high, held_out=e.held_out)
    passed = gate(e, a.threshold)
    say("gate", passed=passed, threshold=a.threshold)
    if not passed:
        return 4
    digests = write(a.out, model, data, e)
    if a.reference:
        write_file(a.out, REFERENCE, {"instances": data.train_x.tolist(), "labels": data.train_y.tolist()})
    say("write", model=digests[0], heldout=digests[1])
    if a.push:
        say("push", image=push(a.out, a.push))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as e:  # modelcar has said why
        sys.exit(e.returncode)
    except OSError as e:
        sys.exit(f"mllab_train: {e}")
