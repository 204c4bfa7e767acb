"""Several sequences at once: sessions that share each pass, and parts of a model that processes share."""

import ctypes
from ctypes import byref
from typing import TYPE_CHECKING, Any, Callable, Iterable, List, Optional, Sequence

from . import _native
from ._handles import (
    Cancel,
    GroupHandle,
    Handle,
    Options,
    PartHandle,
    Resource,
    call,
    choice,
    ids_array,
    number,
    optional,
    whole,
)
from ._library import lib
from .errors import InvalidArgumentError
from .model import KV_TYPES
from .session import FINISH, Generation

if TYPE_CHECKING:
    from .model import Model
    from .session import Session


class Group(Resource):
    """Steps sessions of one model together, so that they share each pass over the weights."""

    _kind = "group"

    def __init__(self) -> None:
        handle = GroupHandle()
        call(lib.capg_group_new, byref(handle))
        self._handle = handle

    def advance(
        self,
        generations: Sequence[Generation],
        *,
        max_microseconds: int = 100_000,
        max_tokens: int = 0,
        cancel: Optional[Cancel] = None,
    ) -> List[str]:
        """Goes on with these generations, of a session each, for about so long and so many tokens of each; gives the text that
        became complete in each. At the end of one its `finish_reason` is no longer "none"."""
        running = [g for g in generations if g.finish_reason == "none"]
        handles = [g._session._enter() for g in running]
        token, group = optional(cancel, Cancel), self._use()
        limits = whole(max_microseconds, "max_microseconds"), whole(max_tokens, "max_tokens")

        def work() -> List[str]:
            if any(g._session._generation is not g for g in running):
                raise InvalidArgumentError("a session has gone on with something else than its generation; generate again")
            array = (ctypes.c_void_p * len(running))(*[handle.value for handle in handles])
            call(lib.capg_group_advance, group, array, len(running), *limits, token, None)
            return [_slice(g, handle) for g, handle in zip(running, handles)]

        sessions = {id(g._session): g._session for g in running}
        if len(sessions) < len(running):
            raise InvalidArgumentError("a session is there twice; a group steps one generation of each")
        # In one order everywhere, so that two groups do not wait for each other.
        texts = _locked([sessions[key] for key in sorted(sessions)], work) if running else []
        found = {id(g): text for g, text in zip(running, texts)}
        return [found.get(id(g), "") for g in generations]


def _locked(sessions: List["Session"], work: Callable[[], List[str]]) -> List[str]:
    """Does work while nothing else uses these sessions."""
    if not sessions:
        return work()
    with sessions[0]._lock:
        return _locked(sessions[1:], work)


def _slice(generation: Generation, handle: Handle) -> str:
    found = generation._slice
    call(lib.capg_session_slice, handle, byref(found))
    text = ctypes.string_at(found.text, found.text_len).decode() if found.text_len else ""
    generation.tokens += found.tokens[: found.token_count] if found.token_count else []
    if text:
        generation._pieces.append(text)
    if not found.more:
        generation._finish(FINISH.get(found.finish_reason, str(found.finish_reason)))
    return text


class Part(Resource):
    """A sequence on the capsules that a model was opened for (`capsules=`), where other processes have the others. One call at a
    time."""

    _kind = "part"

    def __init__(self, model: "Model", *, context: int = 0, kv_type: str = "f16") -> None:
        options = Options(_native.PartOptions)
        options.struct.context = whole(context, "context", 32)
        options.struct.kv_type = choice(kv_type, "kv_type", KV_TYPES)
        handle = PartHandle()
        call(lib.capg_part_new, model._use(), options.ref(), byref(handle))
        self._handle = handle

    def eval(self, ids: Iterable[int], *, all_logits: bool = False, cancel: Optional[Cancel] = None) -> Any:
        """Evaluates tokens, in the part that begins with capsule 0. Gives activations, or logits of the part with the head."""
        array = ids_array(ids)
        call(lib.capg_part_eval, self._use(), array, len(array), bool(all_logits), optional(cancel, Cancel))
        return self._output()

    def eval_activations(self, rows: Any, *, all_logits: bool = False, cancel: Optional[Cancel] = None) -> Any:
        """Evaluates what the part before gave: floats, a row a token."""
        import numpy as np

        array = np.ascontiguousarray(rows, np.float32)
        if array.ndim != 2:
            raise ValueError(f"activations have two dimensions, and these {array.ndim}")
        data = array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        token = optional(cancel, Cancel)
        call(lib.capg_part_eval_activations, self._use(), data, *array.shape, bool(all_logits), token)
        return self._output()

    def _output(self) -> Any:
        import numpy as np

        data, rows, columns = ctypes.POINTER(ctypes.c_float)(), ctypes.c_size_t(), ctypes.c_size_t()
        call(lib.capg_part_output, self._use(), byref(data), byref(rows), byref(columns))
        if not rows.value:
            return np.empty((0, columns.value), np.float32)
        return np.ctypeslib.as_array(data, (rows.value, columns.value)).copy()

    def __len__(self) -> int:
        """Positions that it has evaluated."""
        return number(lib.capg_part_len, ctypes.c_size_t, self._use())

    def truncate(self, count: int) -> None:
        """Forgets every position from that one on."""
        call(lib.capg_part_truncate, self._use(), whole(count, "count"))
