"""The detector's error rates by simulation, and what it does with what it reads."""

import json
import math
import shutil
import sys
import tempfile
import threading
import unittest
import unittest.mock
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from scipy.stats import binom, binomtest, ks_2samp

SCENARIOS = Path(__file__).resolve().parents[3] / "manifests" / "scenarios"
sys.path[:0] = [str(SCENARIOS / "drift"), str(SCENARIOS / "train")]
import detector as d
import mllab_train as trainer

LAB = {"alpha": 1e-6, "window": 100}  # as in the scenario; a test of it compares


def bound(count, n):
    """What a rate is below with 99.9 %, after so many of n."""
    return binomtest(count, n, alternative="less").proportion_ci(0.999, method="exact").high


class NoDrift(unittest.TestCase):
    def test_it_alarms_in_fewer_streams_than_alpha(self):
        """Independent features, a fresh reference and a fresh held-out set in each stream: the worst case."""
        alpha, streams, windows, features, right = 0.1, 2000, 8, 5, 0.9
        random = np.random.default_rng(1)
        alarmed = dict.fromkeys(d.KINDS, 0)
        ever = 0
        for _ in range(streams):
            reference = random.standard_normal((60, features))
            it = d.Detector("abcde", reference, random.binomial(60, right), 60, alpha, window=20)
            for i, row in enumerate(random.standard_normal((20 * windows, features))):
                it.capture(i, row, 1)
                it.label(i, int(random.random() < right))
            kinds = {each["kind"] for each in it.alarms}
            ever += bool(kinds)
            for kind in kinds:
                alarmed[kind] += 1
        self.assertLess(bound(ever, streams), alpha, f"{ever} of {streams} streams alarmed: {alarmed}")
        self.assertGreater(alarmed["covariate"], 0.2 * alpha * streams, "it hardly ever alarms: it would find nothing")

    def test_the_looks_share_the_rate(self):
        spent = sum(1 / (d.corrected(1e-15, 1, look) / 1e-15) for look in range(1, 100_000))
        self.assertAlmostEqual(len(d.KINDS) * spent, 1, 4)
        self.assertEqual(d.corrected(0.9, 30, 7), 1)


class Drift(unittest.TestCase):
    """With the scenario's data, sizes and rate."""

    @classmethod
    def setUpClass(cls):
        cls.data = trainer.prepare("breast-cancer", 1)
        cls.model = trainer.train(cls.data.train_x, cls.data.train_y)
        cls.x = np.vstack([cls.data.train_x, cls.data.held_x])
        cls.y = np.concatenate([cls.data.train_y, cls.data.held_y])
        cls.random = np.random.default_rng(2)

    def detector(self):
        right = int((self.model.predict(self.data.held_x) == self.data.held_y).sum())
        return d.Detector(self.data.features, self.data.train_x, right, len(self.data.held_y), **LAB)

    def send(self, it, n, factor=1.0, feature=0, labels=None, begin=0):
        which = self.random.integers(0, len(self.x), n)
        rows = self.x[which].copy()
        rows[:, feature] *= factor
        for i, (row, prediction) in enumerate(zip(rows.tolist(), self.model.predict(rows).tolist())):
            it.capture(begin + i, row, prediction)
            if labels is not None:
                it.label(begin + i, int(labels[which[i]]))

    def moved(self):
        """The labels by the scenario's other criterion: a large worst area is malignant (0), too."""
        return np.where(self.x[:, self.data.features.index("worst area")] > 450, 0, self.y)

    def test_a_shifted_feature_is_named_alone(self):
        feature = self.data.features.index("mean smoothness")
        for _ in range(30):
            it = self.detector()
            self.send(it, 950, labels=self.y)
            self.assertEqual(it.alarms, [])
            self.send(it, 250, 1.5, feature, begin=950)  # no labels: nobody knows them yet
            self.assertEqual({name for each in it.alarms for name in each["features"]}, {"mean smoothness"})
            self.assertLess(it.alarms[0]["last"], 950 + 2 * LAB["window"])

    def test_other_labels_alarm_as_concept_drift_alone(self):
        moved = self.moved()
        for _ in range(30):
            it = self.detector()
            self.send(it, 950, labels=self.y)
            self.send(it, 350, labels=moved, begin=950)
            self.assertEqual({each["kind"] for each in it.alarms}, {"concept"})
            self.assertLess(it.alarms[0]["last"], 950 + 3 * LAB["window"])

    def test_how_rarely_the_concept_is_missed(self):
        """docs/scenarios.md has the number: both of two whole windows of the new labels, at the 20th look or before."""
        it, found = self.detector(), 0
        accuracy = (self.model.predict(self.x) == self.moved()).mean()
        while True:
            table = [[it.right, it.held - it.right], [found, it.window - found]]
            if d.corrected(d.fisher_exact(table, alternative="greater").pvalue, 1, 20) > it.alpha:
                break
            found += 1
        self.assertLess(binom.sf(found - 1, it.window, accuracy) ** 2, 2e-6)

    def test_from_the_critical_distance_on_it_alarms(self):
        m, n, features = len(self.data.train_x), LAB["window"], 30
        reference = np.arange(m) / m
        for look in 1, 10, 100:
            for alpha in 1e-6, 1e-3, 0.1:
                least = d.critical(m, n, features, look, alpha)
                # The last part of the window is beyond the whole reference, and the rest is like it.
                beyond = min(n, math.ceil(n * least))
                while True:
                    rest = (np.arange(n - beyond) + 0.5) / max(1, n - beyond)
                    result = ks_2samp(reference, np.concatenate([rest, np.full(beyond, 2.0)]), method="exact")
                    if result.statistic >= least:
                        break
                    beyond += 1
                self.assertLessEqual(d.corrected(result.pvalue, features, look), alpha, (look, alpha, least, result))


def small(window=2, alpha=0.5, right=99, held=100):
    return d.Detector(["a", 'b"c'], [[0, 0]] * 50, right, held, alpha, window)


class Reading(unittest.TestCase):
    def line(self, **other):
        return json.dumps({"msg": "captured", "id": "1", "model": "sha256:m", "shadow": False, "status": 200,
                           "input": {"instances": [[1, 2]]}, "output": {"prediction": [1]}, **other})

    def test_only_this_models_answers_are_read(self):
        self.assertEqual(d.read(self.line(), "sha256:m"), ("1", [1, 2], 1))
        for other in ({"model": "sha256:other"}, {"shadow": True}, {"status": 500}, {"msg": "request"}, {"input": None},
                      {"input": {"instances": [[1], [2]]}}, {"output": {"error": "no"}}):
            self.assertIsNone(d.read(self.line(**other), "sha256:m"), other)
        for line in "", "GET /", "[]", "3", "{}":
            self.assertIsNone(d.read(line, "sha256:m"), line)

    def test_what_comes_twice_is_taken_once(self):
        it = small()
        for _ in range(3):
            it.capture("1", [0, 0], 1)
        self.assertEqual((it.rows, it.looks["covariate"]), (1, 0))
        self.assertFalse(it.label("unknown", 1))
        self.assertTrue(it.label("1", 1))
        self.assertFalse(it.label("1", 0))
        self.assertEqual(len(it.labeled), 1)

    def test_old_rows_are_forgotten(self):
        it = small(window=10)
        for i in range(d.KEEP + 10):
            it.captured[i] = [[0, 0], 1, False]
        it.capture("new", [0, 0], 1)
        self.assertEqual((len(it.captured), it.label(0, 1), it.label("new", 1)), (d.KEEP, False, True))

    def test_metrics_show_what_the_newest_look_says(self):
        it = small(window=20)
        for i in range(20):
            it.capture(i, [0, 9], 1)
        self.assertIn('mllab_drift_alarm{model="m",kind="covariate",feature="b\\"c"} 1\n', it.metrics("m"))
        self.assertIn('mllab_drift_alarm{model="m",kind="covariate",feature="a"} 0\n', it.metrics("m"))
        self.assertIn('mllab_drift_looks_total{model="m",kind="covariate"} 1\n', it.metrics("m"))
        for i in range(20):
            it.capture(20 + i, [0, 0], 1)
        self.assertIn('feature="b\\"c"} 0\n', it.metrics("m"))
        self.assertEqual([each["features"] for each in it.alarms], [['b"c']])


class Serving(unittest.TestCase):
    def test_it_takes_labels_and_answers_prometheus(self):
        it = small(window=20)
        it.capture("1", [0, 0], 1)
        server = d.ThreadingHTTPServer(("127.0.0.1", 0), d.handler(it, "m"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)

        def ask(path, body=None):
            request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}{path}", body, method="PUT" if body else "GET")
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.headers["Content-Type"], answer.read().decode()

        self.assertEqual(ask("/labels", b'{"1": 1, "2": 0}'), ("application/json", '["1"]'))
        kind, text = ask("/metrics")
        self.assertEqual((kind, text), ("text/plain; version=0.0.4", it.metrics("m")))
        self.assertEqual(json.loads(ask("/state")[1])["labeled"], 1)
        self.assertEqual(json.loads(ask("/labeled")[1]), {"instances": [], "labels": []})
        with self.assertRaises(urllib.error.HTTPError):
            ask("/other")


class Training(unittest.TestCase):
    """What mllab_train.py makes of rows from an address."""

    def test_rows_that_come_twice_are_taken_once_and_the_training_rows_are_kept(self):
        data = trainer.prepare("breast-cancer", 1)
        it = small(window=10**9)
        it.retrain_from = 0
        for i, (row, label) in enumerate(2 * list(zip(data.train_x.tolist(), data.train_y.tolist()))):
            it.labeled.append((i, row, 1 - label, True))
        server = d.ThreadingHTTPServer(("127.0.0.1", 0), d.handler(it, "m"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        out = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, out)
        arguments = ["--dataset", "breast-cancer", "--threshold", "0.9", "--out", out, "--reference"]
        with unittest.mock.patch.object(sys, "argv", ["train", *arguments, "--rows", f"http://127.0.0.1:{server.server_port}/labeled"]):
            self.assertEqual(trainer.main(), 0)
        reference, held = (json.loads(Path(out, f"{name}.json").read_text()) for name in ("reference", "heldout"))
        got = {tuple(row): label for file in (reference, held) for row, label in zip(file["instances"], file["labels"])}
        self.assertEqual(len(reference["instances"]) + len(held["instances"]), len(data.train_x))
        self.assertEqual(got, {tuple(row): 1 - label for row, label in zip(data.train_x.tolist(), data.train_y.tolist())})


class Cluster:
    """Has the captured lines, is away once, and notes what is created."""

    def __init__(self, lines, asks):
        self.lines, self.asks, self.jobs, self.since = lines, asks, [], []

    def logs(self, service, since):
        self.since.append(since)
        if len(self.since) == self.asks:
            raise SystemExit
        if len(self.since) == 1:
            raise OSError("refused")
        return self.lines

    def train(self, job):
        self.jobs.append(job)


class Following(unittest.TestCase):
    def test_it_goes_on_after_an_error_and_trains_once(self):
        it = small(window=20)
        lines = [Reading().line(id=str(i)) for i in range(60)]
        cluster = Cluster(lines, 4)
        with self.assertRaises(SystemExit):
            d.follow(it, cluster, "sha256:m", "model", 30, b"job")
        self.assertEqual((it.rows, cluster.jobs, cluster.since[:2]), (60, [], [None, None]))
        self.assertGreaterEqual(cluster.since[2], 2)
        for i in range(60):
            it.label(str(i), 0)  # all wrong: the first 20 alarm, and 40 come after them
        cluster = Cluster(lines, 5)
        with self.assertRaises(SystemExit):
            d.follow(it, cluster, "sha256:m", "model", 40, b"job")
        self.assertEqual((cluster.jobs, len(it.recent()["labels"])), ([b"job"], 40))


if __name__ == "__main__":
    unittest.main()
