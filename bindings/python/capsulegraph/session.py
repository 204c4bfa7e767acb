"""Sessions: sequences of tokens on a language model, and the texts that are generated with them."""

import ctypes
from ctypes import byref
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, TypedDict, Union

from . import _native
from ._calls import Cancel, interruptible
from ._handles import (
    Exclusive,
    Handle,
    Options,
    SessionHandle,
    TextHandle,
    call,
    choice,
    failure,
    ids_array,
    json_of,
    number,
    optional,
    real,
    required,
    strings,
    whole,
)
from ._library import lib
from .errors import CapsuleGraphError, InvalidArgumentError
from .model import KV_TYPES, Message, Model, checked_messages
from .tensors import numpy_module, rows_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

FINISH = {0: "none", 1: "end", 2: "stop", 3: "length", 4: "context", 5: "callback"}
# The function without the types of its arguments, which are given as such: converting them takes as long as the call.
_advance: Any = lib["capg_session_advance"]
# How long a call stays, in microseconds: it comes back so often that Ctrl-C ends a long prompt too, and where no token is waited
# for, that `stop` on another thread has its effect soon.
_LONG, _SHORT = ctypes.c_uint64(100_000), ctypes.c_uint64(10_000)
# How many tokens it may generate.
_ONE, _ANY = ctypes.c_size_t(1), ctypes.c_size_t(0)
Prompt = Union[str, Iterable[int]]
OnToken = Callable[[int, str], Any]


class GenerateOptions(TypedDict, total=False):
    """What `chat` and `complete` hand on to `Session.generate`, which says what each is."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    repeat_window: int
    seed: int
    stop: Union[str, Sequence[str]]
    ignore_end: bool
    cancel: Optional[Cancel]
    on_token: Optional[OnToken]


class _Text:
    """What came of a generation so far. Session and Generation share it, so that neither has to refer to the other.

    An exception of Ctrl-C may come between any two steps of it. So a slice that the library has filled stays here until it was
    taken up, and to take it up twice gives the same.

    Between two tokens a model's weights have passed through the processor's caches, so that all that is touched here comes from
    memory: a slice, and what looks into it, are made once."""

    __slots__ = ("messages", "kept", "pieces", "reason", "filling", "slice", "slice_ref", "error", "error_ref", "_bytes", "_ids")
    # A number in a slice's `more` that the library never writes: nothing was filled in.
    EMPTY = 2

    def __init__(self, messages: Optional[List[Dict[str, str]]]) -> None:
        # Of a chat: the conversation that is answered, and whether the session's has become it, with the answer.
        self.messages, self.kept = messages, False
        # Tokens and text of each slice that had any, by its number: 0, 1, ...
        self.pieces: Dict[int, Tuple[List[int], str]] = {}
        self.reason = "none"
        # The number of the slice that a call is to fill or has filled.
        self.filling: Optional[int] = None
        self.slice = found = _native.Slice(struct_size=ctypes.sizeof(_native.Slice))
        self.slice_ref = byref(found)
        self.error = ctypes.c_void_p()
        self.error_ref = byref(self.error)
        # Its two pointers: a text up to the first NUL, and an array.
        self._bytes = ctypes.c_char_p.from_buffer(found, _native.Slice.text.offset)
        self._ids = ctypes.POINTER(ctypes.c_uint32).from_buffer(found, _native.Slice.tokens.offset)

    def begin(self) -> None:
        """Makes the slice ready for a call. What it points to lives until the session's next call: `take` comes before that."""
        if self.filling is not None:
            self.take()
        self.slice.more = self.EMPTY
        self.filling = len(self.pieces)

    def take(self) -> None:
        """Takes up what a call has filled, if there is any."""
        if self.filling is None:
            return
        found = self.slice
        more = found.more
        if more != self.EMPTY:
            count, length = found.token_count, found.text_len
            if count or length:
                raw = self._bytes.value or b""
                if len(raw) != length:
                    raw = ctypes.string_at(found.text, length)
                tokens = [self._ids[0]] if count == 1 else self._ids[:count]
                self.pieces[self.filling] = tokens, raw.decode("utf-8", "replace")
            if not more and self.reason == "none":
                self.reason = FINISH.get(found.finish_reason, str(found.finish_reason))
        self.filling = None

    def text(self, first: int = 0) -> str:
        """The text of the pieces from that one on."""
        return "".join([self.pieces[i][1] for i in range(first, len(self.pieces))])

    def conversation(self) -> List[Dict[str, str]]:
        """Of a chat: with the answer, as far as it came."""
        return [*(self.messages or []), {"role": "assistant", "content": self.text()}]


class Session(Exclusive):
    """A sequence of tokens with its KV cache on one model. One call at a time: a second one meanwhile is BusyError."""

    _kind = "session"

    def __init__(
        self, model: Model, *, context: int = 0, batch: int = 0, kv_type: str = "f16", lookup: bool = True
    ) -> None:
        super().__init__()
        options = Options(_native.SessionOptions)
        options.struct.context = whole(context, "context", 32)
        options.struct.batch = whole(batch, "batch", 32)
        options.struct.kv_type = choice(kv_type, "kv_type", KV_TYPES)
        options.struct.flags = 0 if lookup else 1
        handle = SessionHandle()
        call(lib.capg_session_new, required(model, Model), options.ref(), byref(handle))
        self._handle = handle
        # Outputs of `_held`, used under the lock alone: they are not made anew for each call.
        self._ids, self._count, self._error = ctypes.POINTER(ctypes.c_uint32)(), ctypes.c_size_t(), ctypes.c_void_p()
        self._held_outputs = byref(self._ids), byref(self._count), byref(self._error)
        self._current: Optional[_Text] = None
        self._messages: List[Dict[str, str]] = []
        self.model = model

    @property
    def messages(self) -> List[Dict[str, str]]:
        """The conversation of `chat`: each message has "role" and "content"."""
        self._keep(self._current)
        return self._messages

    @messages.setter
    def messages(self, messages: Sequence[Message]) -> None:
        if self._current is not None:
            self._current.kept = True
        self._messages = [dict(message) for message in checked_messages(messages)]

    def _keep(self, text: Optional[_Text], *, left: bool = False) -> None:
        """Has a chat become the conversation, at its end, or where it was left after a part of the answer."""
        if text is None or text.messages is None or text.kept:
            return
        ended = text.reason != "none"
        if ended or (left and text.pieces):
            self._messages = text.conversation()
            text.kept = ended

    def _settle(self) -> None:
        """Takes up what Ctrl-C left of the generation in progress, under the lock and before the library is called, which then
        overwrites it."""
        if self._current is not None:
            self._current.take()
            self._keep(self._current)

    def _leave(self) -> None:
        """As `_settle`, before the generation in progress is forgotten."""
        self._settle()
        self._keep(self._current, left=True)
        self._current = None

    def _about(self) -> str:
        return f"of {self.model._about() if not self.model.closed else 'a closed model'}, {len(self)} of {self.context} tokens"

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
        stop: Union[str, Sequence[str]] = (),
        ignore_end: bool = False,
        cancel: Optional[Cancel] = None,
        on_token: Optional[OnToken] = None,
    ) -> "Generation":
        """Generates after a prompt, a text or token ids: an iterator of pieces of text. What the session holds of the same
        prefix is not computed again. In a text the text of a control token counts as that token; `model.tokenize` reads text
        from outside.

        max_tokens: at most so many; 0: until the context is full. stop: the text ends before this string, or the first of
        these. ignore_end: goes on behind a token that ends the model's answer, for measurements. on_token: gets each token and
        the text that became complete with it; what it returns, if true, stops the generation. cancel: stops it from any thread.

        Without the options of sampling, which are off at 0, the best token is always taken. temperature: 0 to 100, divides the
        logits; 1 leaves the model's own distribution. top_k: keeps so many best tokens. top_p: 0 to 1, keeps the fewest best
        ones whose probabilities reach this sum. min_p: 0 to 1, drops tokens less probable than this share of the best one's
        probability. repeat_penalty: 0 to 100, divides positive and multiplies negative logits of recent tokens; 1 changes nothing.
        repeat_window: how many tokens are recent; 0: 64. seed: which of the random sequences; the same one, 0 as well, gives
        the same text again.
        """
        options = Options(_native.GenerateOptions)
        struct = options.struct
        stops = [stop] if isinstance(stop, str) else stop
        array = strings(stops, "stop")
        if len(array):
            options.keep("stop", array)
            struct.stop_count = len(array)
        struct.max_tokens, struct.seed = whole(max_tokens, "max_tokens"), whole(seed, "seed")
        struct.temperature = real(temperature, "temperature")
        struct.top_p, struct.min_p = real(top_p, "top_p"), real(min_p, "min_p")
        struct.repeat_penalty, struct.top_k = real(repeat_penalty, "repeat_penalty"), whole(top_k, "top_k", 32)
        struct.repeat_window, struct.ignore_end = whole(repeat_window, "repeat_window", 32), bool(ignore_end)
        if on_token is not None and not callable(on_token):
            raise TypeError("on_token must be a function of a token and its text")
        optional(cancel, Cancel)
        if isinstance(prompt, str):
            prompt = self.model.tokenize(prompt, special=True, parse_special=True)
        return Generation(self, ids_array(prompt, "prompt"), options, cancel, on_token)

    def chat(
        self, message: Union[str, Sequence[Message]], *, system: Optional[str] = None, **options: "Unpack[GenerateOptions]"
    ) -> "Generation":
        """Answers a message of the user, with the conversation so far in mind (`messages`); a list of messages begins another
        one. Message and answer become part of the conversation when the answer is at its end, by `stop()`, or when the session
        goes on with something else after the answer was left in the middle: then as far as it came, and not at all where
        nothing of it had. options: as of `generate`."""
        if isinstance(message, str):
            self._enter()
            with self._lock:
                self._settle()
                left = self._current
            before = self.messages
            if left is not None and left.messages is not None and left.pieces and not left.kept:
                before = left.conversation()
            messages = [*before, {"role": "user", "content": message}]
            if system is not None and not before:
                messages.insert(0, {"role": "system", "content": system})
        else:
            if system is not None:
                raise InvalidArgumentError("system goes with a message of the user; here it is one of the list")
            messages = [dict(item) for item in checked_messages(message)]
        generation = self.generate(self.model.chat_tokens(messages), **options)
        generation._text.messages = messages
        return generation

    def complete(self, prompt: Prompt, **options: "Unpack[GenerateOptions]") -> str:
        """All text that `generate` gives, at once. options: as of `generate`."""
        return self.generate(prompt, **options).read()

    # Evaluating.

    def eval(self, ids: Iterable[int], *, all_logits: bool = False, cancel: Optional[Cancel] = None) -> Any:
        """Evaluates tokens after those that the session holds, and gives logits as a numpy array: of the last one
        [vocabulary], with all_logits of each [tokens, vocabulary]. Forgets a generation in progress."""
        numpy_module()
        array = ids_array(ids)
        handle = self._enter()
        with self._lock:
            self._leave()

            def work(token: Optional[Handle]) -> None:
                call(lib.capg_session_eval, handle, array, len(array), bool(all_logits), token)

            if len(array) > 1:
                interruptible(work, cancel)
            else:
                work(optional(cancel, Cancel))
            logits = rows_of(lib.capg_session_logits, handle)
        return logits if all_logits else logits[-1]

    @property
    def logits(self) -> Any:
        """Logits of the last evaluation, a row a token. After a generated token those that it was chosen from."""
        handle = self._enter()
        with self._lock:
            self._settle()
            return rows_of(lib.capg_session_logits, handle)

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
        self._messages = []

    def _change(self, function: Any, *args: Any) -> None:
        handle = self._enter()
        with self._lock:
            self._leave()
            call(function, handle, *args)

    def report(self) -> Dict[str, Any]:
        """What the session did and cost: mode and why, times, memory, text and tokens of the last generation."""
        report = TextHandle()
        handle = self._enter()
        with self._lock:
            self._settle()
            call(lib.capg_session_report, handle, byref(report))
        return json_of(report)


class Generation:
    """A text as it is generated: iterating gives pieces of it. What has not been asked for is not computed, and leaving off
    in the middle needs no farewell. After Ctrl-C it goes on where it was: no token and no text is lost."""

    def __init__(
        self, session: Session, prompt: Any, options: Options, cancel: Optional[Cancel], on_token: Optional[OnToken]
    ) -> None:
        self._session, self._cancel, self._on_token = session, cancel, on_token
        # How many pieces the iterator has given, and how many `on_token` has been told.
        self._given = self._told = 0
        self._text = _Text(None)
        handle = session._enter()
        with session._lock:
            before = session._current
            session._leave()
            session._current = self._text
            try:
                call(lib.capg_session_start, handle, prompt, len(prompt), options.ref())
            except CapsuleGraphError:
                session._current = before
                raise

    @property
    def tokens(self) -> List[int]:
        """The tokens so far."""
        pieces = self._text.pieces
        return [token for index in range(len(pieces)) for token in pieces[index][0]]

    @property
    def text(self) -> str:
        """The text so far."""
        return self._text.text()

    @property
    def finish_reason(self) -> str:
        """Why it ended: "end", "stop", "length", "context" or "callback"; "none" before."""
        return self._text.reason

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next piece of text, which is never empty."""
        text = self._text
        pieces = text.pieces
        while True:
            if self._on_token is not None:
                self._tell(self._on_token)
            if self._given < len(pieces):
                piece = self._fresh()
                if piece:
                    return piece
            if text.reason != "none":
                raise StopIteration
            self._step()

    def read(self) -> str:
        """Goes on to the end; the whole text."""
        while self._on_token is None and self.finish_reason == "none":
            self._step(_SHORT, _ANY)
        for _ in self:
            pass
        return self.text

    def stop(self) -> None:
        """Ends it here; the session keeps what it has, and an answer of `chat` becomes part of the conversation. Where another
        thread goes on with it, that ends with its next token, in `read` within 10 ms."""
        text, session = self._text, self._session
        if text.reason != "none":
            return
        text.reason = "callback"
        # Where another thread goes on with it, that one does the rest.
        if not session.closed and not session._lock.locked():
            with session._lock:
                if session._current is text:
                    session._settle()

    def _step(self, turn: ctypes.c_uint64 = _LONG, most: ctypes.c_size_t = _ONE) -> None:
        """Goes on by so many tokens at most, or for one turn."""
        session, text = self._session, self._text
        cancel = optional(self._cancel, Cancel)
        handle = session._enter()
        with session._lock:
            self._check()
            text.begin()
            try:
                status = _advance(handle, turn, most, cancel, text.slice_ref, text.error_ref)
            finally:
                text.take()
            if status:
                raise failure(status, text.error)
            if text.messages is not None:
                session._keep(text)

    def _check(self) -> None:
        """Refuses to go on where the session has gone on with something else."""
        if self._session._current is not self._text:
            raise InvalidArgumentError(
                "this generation is over: its session has gone on with something else; generate again"
            )

    def _fresh(self) -> str:
        """The text that the iterator has not given."""
        count = len(self._text.pieces)
        if self._given == count:
            return ""
        text = self._text.text(self._given) if self._given + 1 < count else self._text.pieces[self._given][1]
        # From here to the caller there is no call, and so no place where Ctrl-C could come.
        self._given = count
        return text

    def _tell(self, on_token: OnToken) -> None:
        """Tells each token that has not been told."""
        pieces = self._text.pieces
        while self._told < len(pieces):
            tokens, text = pieces[self._told]
            self._told += 1
            for index, token in enumerate(tokens):
                if on_token(token, text if index == len(tokens) - 1 else ""):
                    self.stop()

    def __repr__(self) -> str:
        reason = "in progress" if self.finish_reason == "none" else f"ended by {self.finish_reason!r}"
        return f"<capsulegraph.Generation {reason}, {len(self.tokens)} tokens>"

    def __reduce__(self) -> Any:
        raise TypeError("a generation cannot be copied, pickled or sent to another process; its text can")
