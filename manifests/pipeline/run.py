"""Runs one step of a notebook: python3 run.py NOTEBOOK STEP CELL,CELL… [STEP-BEFORE=IMAGE…]

First run the cells tagged imports, functions and pipeline-parameters, as they are in the notebook. Then come the names
that the steps before have left, in the order in which they are named, and then the step's own cells. What is left at the
end, the next steps get: every name but those of modules, functions and classes, and those that begin with _.

The names travel as an image in the lab's registry, pushed as $STORE:$RUN-STEP. Its reference by digest is written to
/tmp/outputs/names, and that is what a next step is given: what it reads is what this one has left, whatever becomes of
the tag. What is left under the name result is written as JSON to /tmp/outputs/result; null if there is none. One line of
JSON says what came of the step.

Exit codes: 0; 1 when a cell fails, or leaves what cannot be handed on; 75 when the registry does, which another try may
mend. The last line of what went wrong is the pod's message, too.
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
TEMP_FAIL = 75  # EX_TEMPFAIL of sysexits.h: also what modelcar says of a registry that fails


def say(**fields):
    print(json.dumps(fields), flush=True)


def modelcar(*args):
    """Runs modelcar, and returns the image by its digest. What it says when it fails is in the exception's stderr."""
    done = subprocess.run(["modelcar", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    done.check_returncode()
    return done.stdout.strip()


def hand_out(name, text):
    folder = Path("/tmp/outputs")
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def failed(code, step, where, error):
    say(step=step, where=where, error=error)
    # https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
    message = Path("/dev/termination-log")
    if message.exists():
        message.write_text(f"{where}: {error}"[:2000])
    return code


def main(notebook, step, own, before):
    import joblib

    cells = json.loads(Path(notebook).read_text())["cells"]
    # Cells are a program of their own: what they define can be pickled by its name.
    program = types.ModuleType("__main__")
    names = vars(program)
    sys.modules["__main__"] = program

    def run(number):
        text = "".join(cells[number - 1]["source"])
        exec(compile(text, f"cell {number}", "exec"), names)

    hand_out("result", "null")
    hand_out("names", "")
    where = "the registry"
    try:
        left = {name: modelcar("pull", image, f"/tmp/{name}") for name, image in before}
    except subprocess.CalledProcessError as e:  # another step has pushed it: it is not this one's fault
        return failed(TEMP_FAIL, step, where, e.stderr.strip())
    try:
        for number, cell in enumerate(cells, 1):
            if cell["cell_type"] == "code" and SHARED & set(cell["metadata"].get("tags", [])):
                where = f"cell {number}"
                run(number)
        shared = dict(names)
        for name in left:
            where = f"the names that step {name} has left"
            names.update(joblib.load(f"/tmp/{name}/names.joblib"))
        for number in own:
            where = f"cell {number}"
            run(number)
        hand_out("result", json.dumps(names.get("result"), allow_nan=False))
    except (Exception, SystemExit) as e:  # a cell that exits has not ended
        traceback.print_exc()
        if isinstance(e, subprocess.CalledProcessError) and e.returncode == TEMP_FAIL:  # the cell's own modelcar
            return failed(TEMP_FAIL, step, where, (e.stderr or str(e)).strip())
        return failed(1, step, where, f"{type(e).__name__}: {e}")

    values = {n: v for n, v in names.items() if not n.startswith("_") and not isinstance(v, NO_VALUES)}
    # The next step defines again what the shared cells do, and nothing else: a value that needs more cannot be kept.
    for name, value in list(names.items()):
        if isinstance(value, NO_VALUES) and shared.get(name) is not value:
            del names[name]
    kept, lost = {}, []
    for name, value in values.items():
        try:
            joblib.dump(value, "/tmp/one.joblib")
            kept[name] = value
        except Exception:  # whatever a value's own pickling raises
            lost.append(name)
    folder = Path("/tmp/left")
    folder.mkdir()
    joblib.dump(kept, folder / "names.joblib")
    try:
        hand_out("names", modelcar("push", folder, f"{os.environ['STORE']}:{os.environ['RUN']}-{step}"))
    except subprocess.CalledProcessError as e:
        return failed(e.returncode, step, "handing its names on", e.stderr.strip())
    say(step=step, names=sorted(kept), not_kept=sorted(lost), seconds=round(time.monotonic() - BEGAN, 3))
    return 0


if __name__ == "__main__":
    BEGAN = time.monotonic()
    # Process 1 of a container has no default action for SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    before = [each.split("=", 1) for each in sys.argv[4:]]
    sys.exit(main(sys.argv[1], sys.argv[2], list(map(int, sys.argv[3].split(","))), before))
