"""Runs pip. If it fails for want of a package index, this adds why, and what is there."""

import os
import sys
from importlib.metadata import distributions

# As pip does: the working directory is not where its own modules are.
if sys.path[0] in ("", os.getcwd()):
    sys.path.pop(0)

if __name__ == "__main__":
    from pip._internal.cli.main import main

    failed = main()
    if failed and os.environ.get("PIP_NO_INDEX") == "1" and {"install", "download", "wheel"} & set(sys.argv):
        there = ", ".join(sorted({f"{d.name} {d.version}" for d in distributions()}))
        print(
            "This lab has no package index, and pip in this image asks none (PIP_NO_INDEX=1), whatever --index-url says.\n"
            f"Installed: {there}.\n"
            "For another package, build an image that has it, push it to the lab's registry, and name it (docs/kubeflow.md).",
            file=sys.stderr,
        )
    sys.exit(failed)
