"""Several sequences at once: sessions that share each pass, and parts of a model that processes share."""

import ctypes
from ctypes import byref
from typing import Any, Callable, Iterable, List, Optional

from . import _native
from ._calls import Cancel, interruptible
from ._handles import (
    Exclusive,
    GroupHandle,
    Handle,
    Options,
    PartHandle,
    Resource,
    call,
    choice,
    ids_array,
    listed,
    number,
    optional,
    required,
    whole,
)
from ._library import lib
from .errors import InvalidArgumentError
from .model import KV_TYPES, Model
from .session import Generation, Session
from .tensors import numpy_module, rows_of, unmasked

# A longer turn, in microseconds, is left to another thread, so that Ctrl-C ends it.
_TURN = 100_000


class Group(Resource):
    """Steps sessions of one model together, so that they share each pass over the weights."""

    _kind = "group"

    def __init__(self) -> None:
        handle = GroupHandle()
        call(lib.capg_group_new, byref(handle))
        self._handle = handle

    def advance(
        self,
        generations: Iterable[Generation],
        *,
        max_microseconds: int = _TURN,
        max_tokens: int = 0,
        cancel: Optional[Cancel] = None,
    ) -> List[str]:
        """Goes on with these generations, of a session each, for about so many microseconds and so many tokens of each (0 each:
        no limit); gives the text that became complete in each. At the end of one its `finish_reason` is no longer "none"."""
        given = listed(generations, "generations", "what session.generate() gives")
        for one in given:
            if not isinstance(one, Generation):
                raise TypeError(f"a Generation is wanted, which session.generate() gives, not {type(one).__name__}")
        running = [g for g in given if g.finish_reason == "none"]
        handles = [g._session._enter() for g in running]
        own, group = optional(cancel, Cancel), self._use()
        limits = whole(max_microseconds, "max_microseconds"), whole(max_tokens, "max_tokens")
        sessions = {id(g._session): g._session for g in running}
        if len(sessions) < len(running):
            raise InvalidArgumentError("a session is there twice; a group steps one generation of each")

        def work() -> None:
            for g in running:
                g._check()
                # What Ctrl-C left in a slice points to what the library is about to overwrite.
                g._session._settle()
            array = (ctypes.c_void_p * len(running))(*[handle.value for handle in handles])

            def advance(token: Optional[Handle]) -> None:
                call(lib.capg_group_advance, group, array, len(running), *limits, token, None)

            if 0 < limits[0] <= _TURN:
                advance(own)
            else:
                interruptible(advance, cancel)
            for g, handle in zip(running, handles):
                _slice(g, handle)

        if running:
            # In one order everywhere, so that two groups do not wait for each other.
            _locked([sessions[key] for key in sorted(sessions)], work)
        stepped = {id(g) for g in running}
        return [g._fresh() if id(g) in stepped else "" for g in given]


def _locked(sessions: List[Session], work: Callable[[], None]) -> None:
    """Does work while nothing else uses these sessions."""
    if not sessions:
        work()
        return
    with sessions[0]._lock:
        _locked(sessions[1:], work)


def _slice(generation: Generation, handle: Handle) -> None:
    """Takes up what became complete of a generation since its last slice."""
    text = generation._text
    text.begin()
    try:
        call(lib.capg_session_slice, handle, text.slice_ref)
    finally:
        text.take()
    generation._session._keep(text)


class Part(Exclusive):
    """A sequence on the capsules that a model was opened for (`capsules=`), where other processes have the others. One call at a
    time: a second one meanwhile is BusyError."""

    _kind = "part"

    def __init__(self, model: Model, *, context: int = 0, kv_type: str = "f16") -> None:
        super().__init__()
        options = Options(_native.PartOptions)
        options.struct.context = whole(context, "context", 32)
        options.struct.kv_type = choice(kv_type, "kv_type", KV_TYPES)
        handle = PartHandle()
        call(lib.capg_part_new, required(model, Model), options.ref(), byref(handle))
        self._handle = handle

    def eval(self, ids: Iterable[int], *, all_logits: bool = False, cancel: Optional[Cancel] = None) -> Any:
        """Evaluates tokens, in the part that begins with capsule 0. Gives activations, or logits of the part with the head, as a
        numpy array [tokens, columns]; without all_logits logits of the last token alone."""
        array = ids_array(ids)
        return self._eval(cancel, lib.capg_part_eval, array, len(array), bool(all_logits))

    def eval_activations(self, rows: Any, *, all_logits: bool = False, cancel: Optional[Cancel] = None) -> Any:
        """Evaluates what the part before gave: floats, a row a token."""
        np = numpy_module()
        unmasked(rows, "rows")
        array = np.ascontiguousarray(rows, np.float32)
        if array.ndim != 2:
            raise InvalidArgumentError(f"activations have two dimensions, and these {array.ndim}")
        data = array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        return self._eval(cancel, lib.capg_part_eval_activations, data, *array.shape, bool(all_logits))

    def _eval(self, cancel: Optional[Cancel], function: Any, *args: Any) -> Any:
        numpy_module()
        handle = self._enter()
        with self._lock:
            interruptible(lambda token: call(function, handle, *args, token), cancel)
            return rows_of(lib.capg_part_output, handle)

    def __len__(self) -> int:
        """Positions that it has evaluated."""
        handle = self._enter()
        with self._lock:
            return number(lib.capg_part_len, ctypes.c_size_t, handle)

    def __bool__(self) -> bool:
        return True

    def truncate(self, count: int) -> None:
        """Forgets every position from that one on."""
        handle = self._enter()
        with self._lock:
            call(lib.capg_part_truncate, handle, whole(count, "count"))

    def _about(self) -> str:
        return f"{len(self)} positions"
