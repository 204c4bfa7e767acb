"""Finds and loads the library, once."""

import ctypes
import functools
import importlib.util
import os
import sys
from pathlib import Path
from typing import List, Optional

from . import _native

VARIABLE = "CAPSULEGRAPH_LIBRARY"
_NAMES = {"win32": "capsulegraph.dll", "darwin": "libcapsulegraph.dylib"}
NAME = _NAMES.get(sys.platform, "libcapsulegraph.so")
PROGRAM = "cgraph.exe" if sys.platform == "win32" else "cgraph"
_PACKAGE = Path(__file__).resolve().parent


def places(name: str) -> List[Path]:
    """Where the library or the program may be, the first one first: in the package; where the variable says, a folder or the
    library itself; only where there is no variable, what cargo built of the checkout that the package lies in."""
    found = [_PACKAGE / "bin" / name if name == PROGRAM else _PACKAGE / name]
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(named)
        if path.is_dir():
            path = path / name
        elif name == PROGRAM:
            path = path.with_name(name)
        found.append(path)
    elif len(_PACKAGE.parents) > 2 and (_PACKAGE.parents[2] / "Cargo.toml").is_file():
        target = os.environ.get("CARGO_TARGET_DIR") or _PACKAGE.parents[2] / "target"
        found.append(Path(target) / "release" / name)
    return found


def _load() -> ctypes.CDLL:
    searched = places(NAME)
    path = next((place for place in searched if place.is_file()), None)
    if path is None:
        named = os.environ.get(VARIABLE)
        because = f" ({VARIABLE} is {named!r})" if named else ""
        raise ImportError(
            f"{NAME} was not found; searched: {', '.join(map(str, searched))}{because}. Install the wheel, or build the "
            f"library (cargo build --release) and name it or its folder in {VARIABLE}"
        )
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(f"{path} cannot be loaded: {error}") from error
    try:
        library.capg_abi_version.restype = ctypes.c_uint32
        found = library.capg_abi_version()
    except AttributeError:
        raise ImportError(f"{path} is no library of CapsuleGraph: it has no capg_abi_version") from None
    if found != _native.ABI_VERSION:
        raise ImportError(
            f"{path} keeps version {found} of the C API, and this package was made for {_native.ABI_VERSION}: "
            "install package and library of one release"
        )
    try:
        _native.declare(library)
    except AttributeError as error:
        raise ImportError(f"{path} is older than this package ({error}): use a library of its release") from None
    return library


lib = _load()


@functools.lru_cache(maxsize=None)
def onnxruntime() -> Optional[str]:
    """The folder of this Python's own ONNX Runtime, where the package is installed and nothing else is asked for."""
    if os.environ.get("CAPSULEGRAPH_ONNXRUNTIME"):
        return None
    spec = importlib.util.find_spec("onnxruntime")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "capi"
        if any(folder.glob("libonnxruntime*")) or (folder / "onnxruntime.dll").is_file():
            return str(folder)
    return None
