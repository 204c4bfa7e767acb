"""Sessions: sequences of tokens on a language model, and the texts that are generated with them."""

import ctypes
import json
import threading
from ctypes import byref
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Union

from . import _native
from ._handles import (
    Cancel,
    Handle,
    Options,
    Resource,
    SessionHandle,
    TextHandle,
    call,
    choice,
    decoded,
    failure,
    ids_array,
    interruptible,
    number,
    optional,
    strings,
    text_of,
    whole,
)
from ._library import lib
from .errors import BusyError, InvalidArgumentError
from .model import KV_TYPES, Message

if TYPE_CHECKING:
    from .model import Model

FINISH = {0: "none", 1: "end", 2: "stop", 3: "length", 4: "context", 5: "callback"}
# A call comes back to Python this often, in microseconds, so that Ctrl-C ends a long prompt too.
_TURN = 100_000
Prompt = Union[str, Iterable[int]]
OnToken = Callable[[int, str], Any]


class Session(Resource):
    """A sequence of tokens with its KV cache on one model. One call at a time: a second one meanwhile is BusyError."""

    _kind = "session"

    def __init__(
        self, model: "Model", *, context: int = 0, batch: int = 0, kv_type: str = "f16", lookup: bool = True
    ) -> None:
        options = Options(_native.SessionOptions)
        options.struct.context = whole(context, "context", 32)
        options.struct.batch = whole(batch, "batch", 32)
        options.struct.kv_type = choice(kv_type, "kv_type", KV_TYPES)
        options.struct.flags = 0 if lookup else 1
        handle = SessionHandle()
        call(lib.capg_session_new, model._use(), options.ref(), byref(handle))
        self._handle = handle
        self._lock = threading.Lock()
        # Outputs of `_held`, used under the lock alone: they are not made anew for each call.
        self._ids, self._count, self._error = ctypes.POINTER(ctypes.c_uint32)(), ctypes.c_size_t(), ctypes.c_void_p()
        self._held_outputs = byref(self._ids), byref(self._count), byref(self._error)
        self._generation: Optional["Generation"] = None
        self.model = model
        # The conversation of `chat`.
        self.messages: List[Dict[str, str]] = []

    def _enter(self) -> Handle:
        """The handle, where no other call uses the session. `with self._lock` follows, which Ctrl-C cannot come between, as it
        can behind `acquire`: two threads that get here at the same moment have their turns one after the other.

        The library has such a lock too; this one covers views, which are read after the call that gave them."""
        handle = self._use()
        if self._lock.locked():
            raise BusyError("the session is in use by another call; wait for it, or make a session for each thread")
        return handle

    # Generating.

    def generate(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 0,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 0.0,
        min_p: float = 0.0,
        repeat_penalty: float = 0.0,
        repeat_window: int = 0,
        seed: int = 0,
        stop: Sequence[str] = (),
        ignore_end: bool = False,
        cancel: Optional[Cancel] = None,
        on_token: Optional[OnToken] = None,
    ) -> "Generation":
        """Generates after a prompt, a text or token ids: an iterator of pieces of text. What the session holds of the same
        prefix is not computed again. In a text the text of a control token counts as that token; `model.tokenize` reads text
        from outside. All sampling options are off by default: greedy.

        on_token gets each token and the text that became complete with it; what it returns, if true, stops the generation.
        """
        options = Options(_native.GenerateOptions)
        struct = options.struct
        if len(stop):
            array = strings(stop, "stop")
            options.keep("stop", array)
            struct.stop_count = len(array)
        struct.max_tokens, struct.seed = whole(max_tokens, "max_tokens"), whole(seed, "seed")
        struct.temperature, struct.top_p, struct.min_p = temperature, top_p, min_p
        struct.repeat_penalty, struct.top_k = repeat_penalty, whole(top_k, "top_k", 32)
        struct.repeat_window, struct.ignore_end = whole(repeat_window, "repeat_window", 32), bool(ignore_end)
        if on_token is not None and not callable(on_token):
            raise TypeError("on_token must be a function of a token and its text")
        optional(cancel, Cancel)
        if isinstance(prompt, str):
            prompt = self.model.tokenize(prompt, special=True, parse_special=True)
        return Generation(self, ids_array(prompt, "prompt"), options, cancel, on_token)

    def chat(
        self, message: Union[str, Sequence[Message]], *, system: Optional[str] = None, **options: Any
    ) -> "Generation":
        """Answers a message of the user, with the conversation so far in mind (`messages`); a list of messages begins another
        one. The answer becomes part of the conversation when it is at its end. options: as of `generate`."""
        if isinstance(message, str):
            messages = [*self.messages, {"role": "user", "content": message}]
            if system is not None and not self.messages:
                messages.insert(0, {"role": "system", "content": system})
        else:
            if system is not None:
                raise InvalidArgumentError("system goes with a message of the user; here it is one of the list")
            messages = [dict(item) for item in message]
        generation = self.generate(self.model.chat_tokens(messages), **options)
        generation._messages = messages
        return generation

    def complete(self, prompt: Prompt, **options: Any) -> str:
        """All text that `generate` gives, at once."""
        return self.generate(prompt, **options).read()

    # Evaluating.

    def eval(self, ids: Iterable[int], *, all_logits: bool = False, cancel: Optional[Cancel] = None) -> Any:
        """Evaluates tokens after those that the session holds, and gives logits as a numpy array: of the last one
        [vocabulary], with all_logits of each [tokens, vocabulary]."""
        array = ids_array(ids)
        handle = self._enter()
        with self._lock:
            self._generation = None

            def work(token: Optional[Handle]) -> None:
                call(lib.capg_session_eval, handle, array, len(array), bool(all_logits), token)

            if len(array) > 1:
                interruptible(work, cancel)
            else:
                work(optional(cancel, Cancel))
            logits = _logits(handle)
        return logits if all_logits else logits[-1]

    @property
    def logits(self) -> Any:
        """Logits of the last evaluation, a row a token. After a generated token those that it was chosen from."""
        handle = self._enter()
        with self._lock:
            return _logits(handle)

    @property
    def tokens(self) -> List[int]:
        """The tokens that the session holds."""
        handle = self._enter()
        with self._lock:
            count = self._held(handle)
            return self._ids[:count]

    def __len__(self) -> int:
        """How many tokens it holds."""
        handle = self._enter()
        with self._lock:
            return self._held(handle)

    def _held(self, handle: Handle) -> int:
        """How many tokens there are; `_ids` points to them until the lock is given back."""
        status = lib.capg_session_tokens(handle, *self._held_outputs)
        if status:
            raise failure(status, self._error)
        return self._count.value

    def __bool__(self) -> bool:
        return True

    @property
    def context(self) -> int:
        """Positions that there is room for."""
        return number(lib.capg_session_context, ctypes.c_size_t, self._use())

    def truncate(self, count: int) -> None:
        """Forgets every token from that position on, and a generation in progress."""
        self._change(lib.capg_session_truncate, whole(count, "count"))

    def reset(self) -> None:
        """Forgets all tokens, the conversation, and a generation in progress."""
        self._change(lib.capg_session_reset)
        self.messages = []

    def _change(self, function: Any, *args: Any) -> None:
        handle = self._enter()
        with self._lock:
            self._generation = None
            call(function, handle, *args)

    def report(self) -> Dict[str, Any]:
        """What the session did and cost: mode and why, times, memory, text and tokens of the last generation."""
        report = TextHandle()
        handle = self._enter()
        with self._lock:
            call(lib.capg_session_report, handle, byref(report))
        return json.loads(text_of(report))


class Generation:
    """A text as it is generated: iterating gives pieces of it. What has not been asked for is not computed, and leaving off
    in the middle needs no farewell."""

    def __init__(
        self, session: Session, prompt: Any, options: Options, cancel: Optional[Cancel], on_token: Optional[OnToken]
    ) -> None:
        self._session, self._cancel, self._on_token = session, cancel, on_token
        self._messages: Optional[List[Dict[str, str]]] = None
        self._slice = _native.Slice(struct_size=ctypes.sizeof(_native.Slice))
        self._pieces: List[str] = []
        # The tokens so far.
        self.tokens: List[int] = []
        # Why it ended: "end", "stop", "length", "context" or "callback"; "none" before.
        self.finish_reason = "none"
        handle = session._enter()
        with session._lock:
            call(lib.capg_session_start, handle, prompt, len(prompt), options.ref())
            session._generation = self

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next piece of text, which is never empty."""
        while True:
            piece = self._step()
            if piece:
                return piece
            if self.finish_reason != "none":
                raise StopIteration

    def read(self) -> str:
        """Goes on to the end; the whole text."""
        for _ in self:
            pass
        return self.text

    def stop(self) -> None:
        """Ends it here; the session keeps what it has."""
        if self.finish_reason == "none":
            self._finish("callback")

    def _step(self) -> str:
        """Goes on by one token at most, or for one turn."""
        if self.finish_reason != "none":
            return ""
        session, found = self._session, self._slice
        cancel = optional(self._cancel, Cancel)
        handle = session._enter()
        with session._lock:
            if session._generation is not self:
                raise InvalidArgumentError(
                    "this generation is over: its session has gone on with something else; generate again"
                )
            call(lib.capg_session_advance, handle, _TURN, 1, cancel, byref(found))
            count, more, reason = found.token_count, found.more, found.finish_reason
            tokens = found.tokens[:count] if count else []
            text = decoded(found.text, found.text_len)
        self.tokens += tokens
        if text:
            self._pieces.append(text)
        if not more:
            self._finish(FINISH.get(reason, str(reason)))
        if self._on_token is not None:
            for index, token in enumerate(tokens):
                stopped = self._on_token(token, text if index == len(tokens) - 1 else "")
                if stopped and self.finish_reason == "none":
                    self._finish("callback")
        return text

    def _finish(self, reason: str) -> None:
        self.finish_reason = reason
        if self._messages is not None:
            answer = {"role": "assistant", "content": self.text}
            self._session.messages = [*self._messages, answer]


def _logits(handle: Handle) -> Any:
    """A copy: the library's own logits are overwritten by the session's next call."""
    import numpy as np

    data, rows, columns = ctypes.POINTER(ctypes.c_float)(), ctypes.c_size_t(), ctypes.c_size_t()
    call(lib.capg_session_logits, handle, byref(data), byref(rows), byref(columns))
    shape = (rows.value, columns.value)
    if 0 in shape:
        return np.empty(shape, np.float32)
    return np.ctypeslib.as_array(data, shape).copy()
