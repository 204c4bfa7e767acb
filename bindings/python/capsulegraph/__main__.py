"""The command line: `python -m capsulegraph`, and the script `cgraph` of the wheel."""

import os
import signal
import subprocess
import sys
from typing import List

from ._library import PROGRAM, onnxruntime, places


def _wait(arguments: List[str]) -> int:
    """Runs a program to its end and gives its code. Ctrl-C goes to both: the program ends as it does, and this one waits."""
    # A function, since a program would inherit that the signal is ignored.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.Popen(arguments).wait()
    finally:
        signal.signal(signal.SIGINT, before)


def main() -> int:
    """Becomes the program `cgraph`, with these arguments and this Python's ONNX Runtime."""
    searched = places(PROGRAM)
    program = next((place for place in searched if place.is_file()), None)
    if program is None:
        where = ", ".join(map(str, searched))
        print(f"{PROGRAM} was not found; searched: {where}. Install the wheel, or run: cargo build --release", file=sys.stderr)
        return 1
    runtime = onnxruntime()
    if runtime is not None:
        os.environ["CAPSULEGRAPH_ONNXRUNTIME"] = runtime
    arguments = [str(program), *sys.argv[1:]]
    if sys.platform == "win32":
        return _wait(arguments)
    os.execv(program, arguments)


if __name__ == "__main__":
    sys.exit(main())
