"""Runs language models (GGUF) and ONNX models inside a memory budget, from one file that opens at once.

    import capsulegraph

    capsulegraph.convert("model.gguf", "model.cgraph", mini=False)
    with capsulegraph.Model("model.cgraph") as model, model.session() as session:
        for text in session.chat("What is the capital of Japan?", max_tokens=100):
            print(text, end="", flush=True)

Without `mini=False` a mini is made as well, a small file that runs alone or together with the full one; of a small model that
takes about a minute.
"""

from ._calls import Cancel
from ._library import lib as _lib
from ._shared import Budget, Log
from .capsule import Capsule, Fetch, Tensor
from .errors import (
    BusyError,
    CancelledError,
    CapsuleGraphError,
    ClosedError,
    CorruptError,
    FileError,
    ForkedError,
    HostError,
    InternalError,
    InvalidArgumentError,
    LimitError,
    MalformedError,
    MismatchError,
    NotFoundError,
    UnsupportedError,
)
from .files import convert, export_onnx, inspect, split, verify
from .group import Group, Part
from .model import Model
from .session import Generation, Session
from .tensors import Port


def version() -> str:
    """The library's release, such as "0.1.0"."""
    return str(_lib.capg_version_string(), "utf-8")


__version__ = version()

__all__ = [
    "Budget",
    "BusyError",
    "Cancel",
    "CancelledError",
    "Capsule",
    "CapsuleGraphError",
    "ClosedError",
    "CorruptError",
    "Fetch",
    "FileError",
    "ForkedError",
    "Generation",
    "Group",
    "HostError",
    "InternalError",
    "InvalidArgumentError",
    "LimitError",
    "Log",
    "MalformedError",
    "MismatchError",
    "Model",
    "NotFoundError",
    "Part",
    "Port",
    "Session",
    "Tensor",
    "UnsupportedError",
    "convert",
    "export_onnx",
    "inspect",
    "split",
    "verify",
    "version",
]
