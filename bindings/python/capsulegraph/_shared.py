"""Logs and budgets, which several models may share."""

import ctypes
from ctypes import byref
from typing import List, Tuple

from . import _native
from ._calls import interruptible
from ._handles import BudgetHandle, LogHandle, Resource, call, choice, decoded, whole
from ._library import lib

LEVELS = {"error": 1, "warning": 2, "info": 3, "debug": 4}
_LEVEL_NAMES = {number: name for name, number in LEVELS.items()}


class Log(Resource):
    """Keeps log lines of this level and the more important ones until they are taken: at most 1024, then the oldest go."""

    _kind = "log"

    def __init__(self, level: str = "info") -> None:
        handle = LogHandle()
        call(lib.capg_log_new, choice(level, "level", LEVELS), byref(handle))
        self._handle = handle

    def take(self) -> List[Tuple[str, str]]:
        """The lines that have come since, oldest first: level and text."""
        lines: List[Tuple[str, str]] = []

        def line(_: object, level: int, data: int, length: int) -> None:
            lines.append((_LEVEL_NAMES.get(level, str(level)), decoded(data, length)))

        handle, callback = self._use(), _native.LogCallback(line)
        # On the main thread Ctrl-C could come into the callback, and would be lost there.
        interruptible(lambda _: call(lib.capg_log_deliver, handle, callback, None), None)
        return lines


class Budget(Resource):
    """A bound in bytes on all memory of the models that are opened with it, and of their sessions."""

    _kind = "budget"

    def __init__(self, size: int) -> None:
        handle = BudgetHandle()
        call(lib.capg_budget_new, whole(size, "size"), byref(handle))
        self._handle = handle

    def resize(self, size: int) -> None:
        """Another bound from now on. LimitError names the smallest one that is possible."""
        call(lib.capg_budget_resize, self._use(), whole(size, "size"))

    @property
    def size(self) -> int:
        """The bound in bytes."""
        return self._bytes()[0]

    @property
    def claimed(self) -> int:
        """Bytes of it that KV caches, activations, tables and fetched capsules claim; the rest holds weights."""
        return self._bytes()[1]

    def _about(self) -> str:
        size, claimed = self._bytes()
        return f"of {size} bytes, {claimed} claimed"

    def _bytes(self) -> Tuple[int, int]:
        size, claimed = ctypes.c_uint64(), ctypes.c_uint64()
        call(lib.capg_budget_bytes, self._use(), byref(size), byref(claimed))
        return size.value, claimed.value
