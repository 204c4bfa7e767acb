"""The command line: `python -m capsulegraph`, and the script `cgraph` of the wheel."""

import os
import subprocess
import sys
from pathlib import Path
from typing import List, Optional

_NAME = "cgraph.exe" if sys.platform == "win32" else "cgraph"
_PACKAGE = Path(__file__).resolve().parent


def _program() -> Optional[Path]:
    places: List[Path] = [_PACKAGE / "bin" / _NAME]
    if len(_PACKAGE.parents) > 2 and (_PACKAGE.parents[2] / "Cargo.toml").is_file():
        target = os.environ.get("CARGO_TARGET_DIR") or _PACKAGE.parents[2] / "target"
        places.append(Path(target) / "release" / _NAME)
    named = os.environ.get("CAPSULEGRAPH_LIBRARY")
    if named:
        place = Path(named)
        places.append((place if place.is_dir() else place.parent) / _NAME)
    return next((place for place in places if place.is_file()), None)


def main() -> int:
    """Becomes the program `cgraph`, with these arguments and this Python's ONNX Runtime."""
    program = _program()
    if program is None:
        print("cgraph is not beside this package; install the wheel, or run: cargo build --release", file=sys.stderr)
        return 1
    from ._library import onnxruntime

    runtime = onnxruntime()
    if runtime is not None:
        os.environ["CAPSULEGRAPH_ONNXRUNTIME"] = runtime
    arguments = [str(program), *sys.argv[1:]]
    if sys.platform == "win32":
        return subprocess.call(arguments)
    os.execv(program, arguments)


if __name__ == "__main__":
    sys.exit(main())
