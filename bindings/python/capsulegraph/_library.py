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
_PACKAGE = Path(__file__).resolve().parent


def _places() -> List[Path]:
    """Where the library may be, the first one first."""
    places = [_PACKAGE / NAME]
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(named)
        places.append(path / NAME if path.is_dir() else path)
    if len(_PACKAGE.parents) > 2 and (_PACKAGE.parents[2] / "Cargo.toml").is_file():
        # A checkout, of which this package is used as it lies there.
        target = os.environ.get("CARGO_TARGET_DIR") or _PACKAGE.parents[2] / "target"
        places.append(Path(target) / "release" / NAME)
    return places


def _load() -> ctypes.CDLL:
    places = _places()
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        searched = ", ".join(str(place) for place in places)
        raise ImportError(
            f"{NAME} was not found; searched: {searched}. Install the wheel, or build the library "
            f"(cargo build --release) and name it in {VARIABLE}"
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
