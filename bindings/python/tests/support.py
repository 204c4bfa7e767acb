"""What the tests share: the real models, converted once into a folder that goes at the end."""

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

import capsulegraph as cg

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "bindings/python"


def variable(name):
    value = os.environ.get(name)
    if not value:
        raise SystemExit(f"{name} is not set; run the tests with: cargo xtask test")
    return value


@functools.lru_cache(maxsize=None)
def folder():
    path = Path(tempfile.mkdtemp(prefix="capsulegraph-test-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.lru_cache(maxsize=None)
def language():
    """The real language model, as a full file."""
    path = folder() / "language.cgraph"
    cg.convert(variable("CAPSULEGRAPH_TEST_MODEL"), path, mini=False)
    return path


@functools.lru_cache(maxsize=None)
def mini():
    """A mini of it that links some capsules."""
    path = folder() / "language.mini.cgraph"
    cg.split(language(), path, light="none", mini_bytes=40_000_000)
    return path


@functools.lru_cache(maxsize=None)
def onnx(name, capsules=0):
    """An ONNX model of the set-up, as a full file."""
    path = folder() / f"{name}.{capsules}.cgraph"
    source = Path(variable("CAPSULEGRAPH_TEST_ONNX")) / "models" / f"{name}.onnx"
    cg.convert(source, path, mini=False, capsule_count=capsules)
    return path
