"""Watches what a model is asked, and says when that, or the model's accuracy, is not as it was in training.

    python3 detector.py

follows the lines that the sample model prints with CAPTURE_PERCENT, and looks at them WINDOW at a time. Two things are
compared with what lies next to the model:

    covariate   each feature of a window's rows with that feature of the training rows (reference.json), by the
                two-sample test of Kolmogorov and Smirnov with exact p-values (scipy.stats.ks_2samp)
    concept     how many of a window's labeled rows the model got right with how many held-out rows it did
                (heldout.json), by Fisher's exact test, one-sided (scipy.stats.fisher_exact); labels may come late

A look is an alarm if a corrected p-value is at most ALPHA. The correction is Bonferroni's: over the features, over the two
kinds, and over the looks, of which the k-th may spend 6 / (pi k)^2 of the rate; these shares add up to one. So if nothing
changes, the probability that it ever alarms is at most ALPHA, however often it looks. That takes rows that are drawn
independently. It does not take independent features, nor independent looks.

After a concept alarm it waits for RETRAIN rows with labels, and then creates the TrainJob in trainjob.json, once.

    GET /state      all that it knows, as JSON
    PUT /labels     true classes by request ID: {"ID": 1, …}
    GET /labeled   the rows with labels that came after the concept alarm, as mllab_train.py --rows reads them
    GET /metrics    for Prometheus

The environment: NAMESPACE, SERVICE (the Knative Service), MODEL_DIR, ALPHA, WINDOW, RETRAIN.
"""

import hashlib
import json
import math
import os
import signal
import ssl
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from scipy.stats import fisher_exact, ks_2samp

KINDS = "covariate", "concept"
KEEP = 20_000  # captured rows that may still get a label


def corrected(p, tests, look):
    """Corrects a p-value for so many tests in this look, for all looks, and for both kinds. looks count from 1."""
    return min(1.0, p * tests * len(KINDS) * (math.pi * look) ** 2 / 6)


def critical(reference, window, tests, look, alpha):
    """Returns a distance of the two distributions from which on this look is an alarm; it may be one at smaller ones, too.

    It is by the inequality of Dvoretzky, Kiefer, Wolfowitz and Massart for two samples (Wei and Dudley, 2012,
    https://arxiv.org/abs/1107.5356). A test compares it with the exact p-values.
    """
    level = alpha / (corrected(1e-300, tests, look) / 1e-300)
    return math.sqrt((reference + window) / (2 * reference * window) * math.log(2 / level))


class Detector:
    """Looks at one model's rows. reference are the training rows; right of held held-out rows were predicted right."""

    def __init__(self, features, reference, right, held, alpha, window):
        self.features, self.reference, self.right, self.held = features, np.asarray(reference, float), right, held
        self.alpha, self.window = alpha, window
        self.captured = {}  # by request ID: row, prediction, and whether it has a label
        self.rows = 0
        self.labeled = []  # request ID, row, label, whether the prediction was right
        self.looks = dict.fromkeys(KINDS, 0)
        self.smallest = dict.fromkeys(KINDS, 1.0)  # corrected p-value of all looks
        self.now = {kind: [] for kind in KINDS}  # what the newest look alarms about
        self.alarms = []
        self.retrain_from = None  # number of the labeled row
        self.lock = threading.Lock()

    def capture(self, identity, row, prediction):
        """Takes one answered request; the same one again changes nothing."""
        if identity in self.captured:
            return
        self.captured[identity] = [row, prediction, False]
        self.rows += 1
        if self.rows % self.window == 0:
            newest = list(self.captured)[-self.window :]
            rows = np.array([self.captured[each][0] for each in newest], float)
            p = ks_2samp(self.reference, rows, axis=0, method="exact").pvalue
            self.look("covariate", dict(zip(self.features, p)), newest)
        while len(self.captured) > KEEP:
            del self.captured[next(iter(self.captured))]

    def label(self, identity, label):
        """Takes the true class of a captured request. Returns whether it was one that had none."""
        if identity not in self.captured or self.captured[identity][2]:
            return False
        row, prediction, _ = self.captured[identity]
        self.captured[identity][2] = True
        self.labeled.append((identity, row, label, prediction == label))
        if len(self.labeled) % self.window == 0:
            newest = self.labeled[-self.window :]
            right = sum(each[3] for each in newest)
            table = [[self.right, self.held - self.right], [right, self.window - right]]
            p = fisher_exact(table, alternative="greater").pvalue
            self.look("concept", {"": p}, [each[0] for each in newest])
            if self.now["concept"] and self.retrain_from is None:
                self.retrain_from = len(self.labeled)
        return True

    def look(self, kind, pvalues, newest):
        """Judges the p-values of one look, by feature. newest are the window's request IDs."""
        self.looks[kind] += 1
        p = {name: corrected(float(p), len(pvalues), self.looks[kind]) for name, p in pvalues.items()}
        self.smallest[kind] = min(self.smallest[kind], *p.values())
        self.now[kind] = [name for name in p if p[name] <= self.alpha]
        if self.now[kind]:
            self.alarms = self.alarms[-99:] + [{
                "kind": kind, "features": self.now[kind], "look": self.looks[kind], "p": min(p.values()),
                "first": newest[0], "last": newest[-1],
            }]

    def state(self):
        soon = self.looks["covariate"] + 2  # a shift that begins now fills a window by then
        return {"rows": self.rows, "labeled": len(self.labeled), "looks": self.looks, "smallest": self.smallest,
                "alarms": self.alarms, "critical": critical(len(self.reference), self.window, len(self.features), soon, self.alpha)}

    def recent(self):
        """The rows that came with their labels after the first concept alarm."""
        rows = self.labeled[self.retrain_from :] if self.retrain_from is not None else []
        return {"instances": [each[1] for each in rows], "labels": [each[2] for each in rows]}

    def metrics(self, model):
        """https://prometheus.io/docs/instrumenting/exposition_formats/"""
        model = json.dumps(model)
        lines = ["# TYPE mllab_drift_alarm gauge"]
        for kind, names in ("covariate", self.features), ("concept", [""]):
            lines += [f'mllab_drift_alarm{{model={model},kind="{kind}",feature={json.dumps(name)}}} {int(name in self.now[kind])}'
                      for name in names]
        for name, values in ("looks_total", self.looks), ("smallest_p", self.smallest):
            lines.append(f"# TYPE mllab_drift_{name} {'counter' if name.endswith('total') else 'gauge'}")
            lines += [f'mllab_drift_{name}{{model={model},kind="{kind}"}} {values[kind]}' for kind in KINDS]
        return "\n".join(lines) + "\n"


def read(line, digest):
    """Returns request ID, row and prediction of a captured line; None for any other line, and another model's."""
    try:
        it = json.loads(line)
        if it["msg"] != "captured" or it["model"] != digest or it["shadow"] or it["status"] != 200:
            return None
        (row,), (prediction,) = it["input"]["instances"], it["output"]["prediction"]
        return it["id"], row, prediction
    except (ValueError, KeyError, TypeError):  # no JSON, another program's line, more than one row
        return None


class Cluster:
    """What this pod's service account may do in its namespace."""

    files = Path("/var/run/secrets/kubernetes.io/serviceaccount")

    def __init__(self, namespace):
        self.namespace = namespace
        self.tls = ssl.create_default_context(cafile=self.files / "ca.crt")

    def ask(self, path, body=None):
        """GETs a path, or POSTs body, and returns the answer's text. The token is read each time: it changes."""
        request = urllib.request.Request("https://kubernetes.default.svc" + path, body, {
            "Authorization": "Bearer " + (self.files / "token").read_text(), "Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10, context=self.tls) as answer:
            return answer.read().decode()

    def logs(self, service, since):
        """The lines of the pods of a Knative Service, of the last so many seconds; None: all."""
        pods = f"/api/v1/namespaces/{self.namespace}/pods"
        selector = urllib.parse.quote("serving.knative.dev/service=" + service)
        for pod in json.loads(self.ask(f"{pods}?labelSelector={selector}"))["items"]:
            if pod["status"]["phase"] == "Running":
                last = f"&sinceSeconds={since}" if since else ""
                yield from self.ask(f"{pods}/{pod['metadata']['name']}/log?container=server{last}").splitlines()

    def train(self, job):
        """Creates a TrainJob; one that is there is left alone."""
        try:
            self.ask(f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{self.namespace}/trainjobs", job)
        except urllib.error.HTTPError as e:
            if e.code != 409:
                raise


def follow(detector, cluster, digest, service, retrain, job):
    """Reads the logs again and again, and starts the training when it is time."""
    asked, started = None, False
    while True:
        began = time.monotonic()
        try:
            # Two seconds more than need be: what came twice is taken once.
            lines = list(cluster.logs(service, asked and math.ceil(began - asked) + 2))
            with detector.lock:
                for line in lines:
                    if found := read(line, digest):
                        detector.capture(*found)
                due = not started and len(detector.recent()["labels"]) >= retrain
            asked = began
            if due:
                cluster.train(job)
                started = True
        except OSError as e:  # the API server is away, or a pod has gone meanwhile
            print(f"detector: {e}", file=sys.stderr, flush=True)
        threading.Event().wait(max(0.0, 0.5 - (time.monotonic() - began)))


def handler(detector, model):
    class Handler(BaseHTTPRequestHandler):
        def answer(self, code, text, kind="application/json"):
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

        def do_GET(self):
            with detector.lock:
                pages = {"/state": detector.state, "/labeled": detector.recent, "/metrics": lambda: detector.metrics(model)}
                page = pages[self.path]() if self.path in pages else None
            if page is None:
                self.answer(404, "want /state, /labeled or /metrics\n", "text/plain")
            elif isinstance(page, str):
                self.answer(200, page, "text/plain; version=0.0.4")  # Prometheus takes nothing without it
            else:
                self.answer(200, json.dumps(page))

        def do_PUT(self):
            labels = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with detector.lock:
                taken = [identity for identity, label in labels.items() if detector.label(identity, label)]
            self.answer(200, json.dumps(taken))

        def log_message(self, *_):
            pass

    return Handler


def main():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # process 1 has no default action for it
    env, folder = os.environ, Path(os.environ["MODEL_DIR"])
    model, held, reference = (json.loads((folder / f"{name}.json").read_text()) for name in ("model", "heldout", "reference"))
    digest = "sha256:" + hashlib.sha256((folder / "model.json").read_bytes()).hexdigest()
    right = sum(a == b for a, b in zip(held["predictions"], held["labels"]))
    detector = Detector(model["features"], reference["instances"], right, len(held["labels"]), float(env["ALPHA"]), int(env["WINDOW"]))
    job = Path(__file__).with_name("trainjob.json").read_bytes()
    server = ThreadingHTTPServer(("", 8080), handler(detector, env["SERVICE"]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    follow(detector, Cluster(env["NAMESPACE"]), digest, env["SERVICE"], int(env["RETRAIN"]), job)


if __name__ == "__main__":
    main()
