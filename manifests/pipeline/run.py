"""Runs one step of a notebook: python3 run.py NOTEBOOK STEP CELL,CELL… [STEP-BEFORE…]

First run the cells tagged imports, functions and pipeline-parameters, as they are in the notebook. Then come the names
that the steps before have left, in the order in which they are named, and then the step's own cells. What is left at the
end, the next steps get: every name but those of modules, functions and classes, and those that begin with _.

The names travel as an image in the lab's registry, $STORE:$RUN-STEP. One line of JSON says what came of it. What is left
under the name result is also written as JSON to /tmp/outputs/result, for Argo to read; null if there is none. Exit codes:
0, and 1 when a cell fails; its traceback is on stderr, and its last line is the pod's message, too.
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
import types
from pathlib import Path

SHARED = {"imports", "functions", "pipeline-parameters"}
NO_VALUES = types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type


def say(**fields):
    print(json.dumps(fields), flush=True)


def modelcar(*args):
    subprocess.run(["modelcar", *args], stdout=subprocess.DEVNULL, check=True)


def hand_out(result):
    text = json.dumps(result, allow_nan=False)
    folder = Path("/tmp/outputs")
    folder.mkdir(exist_ok=True)
    (folder / "result").write_text(text)


def reference(step):
    return f"{os.environ['STORE']}:{os.environ['RUN']}-{step}"


def main(notebook, step, own, before):
    import joblib

    cells = json.loads(Path(notebook).read_text())["cells"]
    names = {"__name__": "__main__"}

    def run(number):
        text = "".join(cells[number - 1]["source"])
        exec(compile(text, f"cell {number}", "exec"), names)

    hand_out(None)
    number = 0
    try:
        for number, cell in enumerate(cells, 1):
            if cell["cell_type"] == "code" and SHARED & set(cell["metadata"].get("tags", [])):
                run(number)
        for each in before:
            modelcar("pull", reference(each), f"/tmp/{each}")
            names.update(joblib.load(f"/tmp/{each}/names.joblib"))
        for number in own:
            run(number)
        hand_out(names.get("result"))
    except (Exception, SystemExit) as e:  # a cell that exits has not ended
        traceback.print_exc()
        error = f"{type(e).__name__}: {e}"
        say(step=step, cell=number, error=error)
        # https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
        message = Path("/dev/termination-log")
        if message.exists():
            message.write_text(f"cell {number}: {error}"[:2000])
        return 1

    left, lost = {}, []
    for name, value in names.items():
        if name.startswith("_") or isinstance(value, NO_VALUES):
            continue
        try:
            joblib.dump(value, "/tmp/one.joblib")
            left[name] = value
        except Exception:  # whatever a value's own pickling raises
            lost.append(name)
    folder = Path("/tmp/left")
    folder.mkdir()
    joblib.dump(left, folder / "names.joblib")
    modelcar("push", folder, reference(step))
    say(step=step, names=sorted(left), not_kept=sorted(lost), seconds=round(time.monotonic() - BEGAN, 3))
    return 0


if __name__ == "__main__":
    BEGAN = time.monotonic()
    # Process 1 of a container has no default action for SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    sys.exit(main(sys.argv[1], sys.argv[2], list(map(int, sys.argv[3].split(","))), sys.argv[4:]))
