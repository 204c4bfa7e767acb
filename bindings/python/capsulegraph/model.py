"""Opened models."""

import ctypes
import time
from ctypes import byref
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from . import _native
from ._calls import Cancel, Stoppable, interruptible, throw
from ._handles import (
    CapsuleHandle,
    FetchHandle,
    Handle,
    ModelHandle,
    Options,
    Resource,
    TextHandle,
    TokensHandle,
    ValuesHandle,
    call,
    choice,
    decoded,
    encoded,
    ids_array,
    json_of,
    listed,
    number,
    optional,
    path_bytes,
    strings,
    text_of,
    tokens_of,
    view_text,
    whole,
)
from ._library import lib
from ._library import onnxruntime as installed_runtime
from ._shared import Budget, Log
from .capsule import LAYOUTS, Capsule, Fetch
from .errors import InvalidArgumentError, UnsupportedError
from .files import Path
from .tensors import ELEMENTS, KINDS, Port, Values, numpy_module, value_of

if TYPE_CHECKING:
    from .session import Session

MODES = {"auto": 0, "exact": 1, "fast": 2, "speculative": 3}
PRIORITIES = {"inherited": 0, "low": 1, "lowest": 2}
PREPACK = {"auto": 0, "on": 1, "off": 2}
OPTIMIZATION = {"default": 0, "off": 1}
KV_TYPES = {"f16": 0, "q8_0": 1}
_MODE_NAMES = {value: name for name, value in MODES.items()}
# Seconds: a run that is likely to take longer is left to another thread, so that Ctrl-C ends it.
_LONG = 0.02
# Bytes: a longer text is tokenized on another thread, so that Ctrl-C need not wait for it.
_LONG_TEXT = 100_000
Message = Mapping[str, str]


class _File:
    """A binary file object as the library reads it inside one call; its exception is kept for the caller."""

    def __init__(self, file: Any, call: Stoppable) -> None:
        self._file, self._call = file, call
        self.failure: Optional[BaseException] = None
        self.reader = Options(_native.Reader)
        self.reader.struct.size = whole(file.seek(0, 2), "what seek(0, 2) of the file object gives")
        self.reader.keep("read", _native.ReadCallback(self._read))
        name = getattr(file, "name", None)
        # It is for messages alone.
        self.reader.text("name", name.encode("utf-8", "replace") if isinstance(name, str) else None)

    def _read(self, _: Any, offset: int, buffer: int, length: int) -> int:
        if self._call.stopped:
            return 1
        try:
            self._file.seek(offset)
            at = 0
            while at < length:
                data = _read_bytes(self._file, length - at)
                ctypes.memmove(buffer + at, data, len(data))
                at += len(data)
            return 0
        except BaseException as error:
            self.failure = error
            return 1

    def release(self) -> None:
        """Lets go of the callback: it and this object hold each other, by a way that the garbage collector cannot see."""
        self.reader.struct.read = _native.ReadCallback()
        self.reader.kept.clear()
        self.failure = None


def _read_bytes(file: Any, most: int) -> bytes:
    """At least one byte, and no more than there is room for."""
    given = file.read(most)
    if isinstance(given, str):
        raise TypeError("the file object gives text; open it with 'rb'")
    try:
        data = bytes(memoryview(given))
    except TypeError:
        raise TypeError(f"read({most}) of the file object gave {type(given).__name__}; it must give bytes") from None
    if not data:
        raise EOFError(f"the file ended {most} bytes early")
    if len(data) > most:
        raise InvalidArgumentError(f"read({most}) of the file object gave {len(data)} bytes, more than it was asked for")
    return data


class Model(Resource):
    """A language model or an ONNX model, opened from a .cgraph file. Any number of threads may share it.

    path: a path, or a binary file object, which is read as a whole. mode: "auto", "exact", "fast" or "speculative". memory:
    bytes that the model and its sessions may take, or a Budget that models share. full: a mini's full file, a path or a file
    object, where it is not beside it. threads, processors, priority: what computes. offset, length: where the model is in a
    larger file. capsules: the first and the end of a range of capsules, where other processes have the others. context, kv_type:
    the session that a budget leaves room for. onnxruntime, prepack, optimization: of an ONNX model; joined_bytes: weights up to
    which neighbouring capsules of one share a session of ONNX Runtime (0: the default).
    """

    _kind = "model"

    def __init__(
        self,
        path: Union[Path, Any],
        *,
        mode: str = "auto",
        memory: Union[int, Budget, None] = None,
        full: Union[Path, Any, None] = None,
        threads: int = 0,
        processors: Sequence[int] = (),
        priority: str = "inherited",
        offset: int = 0,
        length: int = 0,
        full_offset: int = 0,
        full_length: int = 0,
        capsules: Tuple[int, int] = (0, 0),
        context: int = 0,
        kv_type: str = "f16",
        onnxruntime: Optional[Path] = None,
        prepack: str = "auto",
        optimization: str = "default",
        joined_bytes: int = 0,
        log: Optional[Log] = None,
    ) -> None:
        options = Options(_native.ModelOptions)
        struct = options.struct
        struct.mode = choice(mode, "mode", MODES)
        if isinstance(memory, Budget):
            options.handle("budget", memory._use())
        elif memory is not None:
            struct.memory_budget_bytes = whole(memory, "memory")
            if struct.memory_budget_bytes == 0:
                raise InvalidArgumentError("memory is 0; leave it out where there is no bound")
        struct.threads = whole(threads, "threads", 32)
        numbers = ids_array(processors, "processors")
        if len(numbers):
            options.keep("processors", numbers)
            struct.processors_len = len(numbers)
        struct.priority = choice(priority, "priority", PRIORITIES)
        struct.offset, struct.length = whole(offset, "offset"), whole(length, "length")
        struct.full_offset, struct.full_length = whole(full_offset, "full_offset"), whole(full_length, "full_length")
        first, end = _range(capsules)
        struct.first_capsule, struct.end_capsule = whole(first, "capsules", 32), whole(end, "capsules", 32)
        struct.session_context = whole(context, "context", 32)
        struct.session_kv_type = choice(kv_type, "kv_type", KV_TYPES)
        runtime = onnxruntime if onnxruntime is not None else installed_runtime()
        options.text("onnxruntime_path", None if runtime is None else path_bytes(runtime))
        struct.prepack = choice(prepack, "prepack", PREPACK)
        struct.optimization = choice(optimization, "optimization", OPTIMIZATION)
        struct.joined_bytes = whole(joined_bytes, "joined_bytes")
        options.handle("log", optional(log, Log))
        self._handle = _open(path, full, options)
        self._ports: Dict[int, List[Port]] = {}
        # Seconds that the last run took, and bytes of its inputs.
        self._last_run = _LONG, 0

    def _about(self) -> str:
        return f"{self.name!r}, mode {self.mode}"

    # What the model is.

    @property
    def name(self) -> str:
        """The model's own name."""
        return view_text(lib.capg_model_name, self._use())

    @property
    def mode(self) -> str:
        """The mode in force: "exact", "fast" or "speculative"."""
        found = number(lib.capg_model_mode, ctypes.c_uint32, self._use())
        return _MODE_NAMES.get(found, str(found))

    @property
    def mode_reason(self) -> str:
        """Why that mode was taken."""
        return view_text(lib.capg_model_mode_reason, self._use())

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary: ids are below it."""
        return number(lib.capg_model_vocab_size, ctypes.c_uint32, self._use())

    @property
    def embedding_length(self) -> int:
        """Activations of a token between two capsules."""
        return number(lib.capg_model_embedding_length, ctypes.c_uint32, self._use())

    @property
    def context_length(self) -> int:
        """Positions that the model was trained for."""
        return number(lib.capg_model_context_length, ctypes.c_uint32, self._use())

    @property
    def threads(self) -> int:
        """Threads that compute, the caller's included."""
        return number(lib.capg_model_threads, ctypes.c_uint32, self._use())

    @property
    def held_bytes(self) -> int:
        """Anonymous memory that the model holds; mapped files are the system's."""
        return number(lib.capg_model_held_bytes, ctypes.c_uint64, self._use())

    @property
    def has_chat_template(self) -> bool:
        """Whether `chat` can be used."""
        return bool(number(lib.capg_model_has_chat_template, ctypes.c_uint32, self._use()))

    def inspect(self, *, details: bool = False) -> Dict[str, Any]:
        """The facts of its file; with details every capsule."""
        report = TextHandle()
        call(lib.capg_model_inspect, self._use(), bool(details), byref(report))
        return json_of(report)

    # Text.

    def tokenize(self, text: str, *, special: bool = False, parse_special: bool = False) -> List[int]:
        """Token ids of a text. special: with the tokens that the model asks for around it. parse_special: the text of a
        control token becomes that token; not for text from outside."""
        data, tokens = encoded(text, "text"), TokensHandle()
        flags = bool(special) | bool(parse_special) << 1
        _tokenize(len(data), lib.capg_model_tokenize, self._use(), data, len(data), flags, byref(tokens))
        return tokens_of(tokens)

    def detokenize(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of tokens. special: control tokens are printed too."""
        array, text = ids_array(ids), TextHandle()
        call(lib.capg_model_detokenize, self._use(), array, len(array), bool(special), byref(text))
        return text_of(text)

    def is_end_token(self, token: int) -> bool:
        """Whether the model ends its answer with this token."""
        answer = ctypes.c_uint32()
        call(lib.capg_model_is_end_token, self._use(), whole(token, "token", 32), byref(answer))
        return bool(answer.value)

    def chat_prompt(self, messages: Sequence[Message], *, reply: bool = True) -> str:
        """A conversation as the model's own template writes it; with reply the beginning of the next answer."""
        array, text = _messages(messages), TextHandle()
        call(lib.capg_model_chat_prompt, self._use(), array, len(array), 0 if reply else 1, byref(text))
        return text_of(text)

    def chat_tokens(self, messages: Sequence[Message]) -> List[int]:
        """A conversation as tokens, ready to be answered."""
        array, tokens = _messages(messages), TokensHandle()
        size = sum(map(len, array.kept))
        _tokenize(size, lib.capg_model_chat_tokens, self._use(), array, len(array), byref(tokens))
        return tokens_of(tokens)

    def session(
        self, *, context: int = 0, batch: int = 0, kv_type: str = "f16", lookup: bool = True
    ) -> "Session":
        """A sequence of tokens on this model, to generate with. context: positions that there is room for, by default the
        model's, at most 4096. kv_type: "f16", or "q8_0" for half the memory. lookup: False: mode speculative does not guess
        that repeated text goes on as before."""
        from .session import Session

        return Session(self, context=context, batch=batch, kv_type=kv_type, lookup=lookup)

    # Tensors.

    @property
    def inputs(self) -> List[Port]:
        """What an ONNX model takes."""
        return self._ports_of(0)

    @property
    def outputs(self) -> List[Port]:
        """What an ONNX model gives."""
        return self._ports_of(1)

    @property
    def is_onnx(self) -> bool:
        """Whether it is an ONNX model, which takes tensors, and not a language model."""
        try:
            return bool(self._ports_of(1))
        except UnsupportedError:
            return False

    def _ports_of(self, direction: int) -> List[Port]:
        handle = self._use()
        if direction not in self._ports:
            count = ctypes.c_size_t()
            call(lib.capg_model_port_count, handle, direction, byref(count))
            self._ports[direction] = [_port(handle, direction, index) for index in range(count.value)]
        return self._ports[direction]

    def run(
        self,
        inputs: Mapping[str, Any],
        outputs: Optional[Sequence[str]] = None,
        *,
        cancel: Optional[Cancel] = None,
    ) -> Dict[str, Any]:
        """Computes outputs of an ONNX model, by default all, from inputs by name. Arrays are taken as they are, without a copy
        where they are contiguous; numbers and lists take the type that the model asks for. Outputs are arrays that cannot be
        written and are not copied, lists of them (sequences), dicts (maps), or None (an absent optional value). It needs numpy."""
        numpy_module()
        handle = self._use()
        if not isinstance(inputs, Mapping):
            raise TypeError(f"inputs must be a dict of names and values, not {type(inputs).__name__}")
        ports = {port.name: port for port in self._ports_of(0)}
        values = Values()
        for name, value in inputs.items():
            values.add(name, value, ports.get(name))
        given, wanted = values.array(), strings(outputs or (), "outputs")
        result = ValuesHandle()

        def work(token: Optional[Handle]) -> None:
            call(lib.capg_model_run, handle, given, len(given), wanted, len(wanted), None, token, byref(result))

        token, begun = optional(cancel, Cancel), time.perf_counter()
        seconds, nbytes = self._last_run
        if seconds * max(1, values.nbytes / max(1, nbytes)) < _LONG:
            work(token)
        else:
            interruptible(work, cancel)
        self._last_run = time.perf_counter() - begun, values.nbytes
        return _outputs(result)

    def report(self) -> Dict[str, Any]:
        """The report of an ONNX model up to now: times, memory, ONNX Runtime's version. Of a language model its sessions have
        reports."""
        report = TextHandle()
        call(lib.capg_model_report, self._use(), byref(report))
        return json_of(report)

    # Capsules.

    @property
    def capsule_ids(self) -> List[str]:
        """The names of its capsules, in the order of computation."""
        handle = self._use()
        count = number(lib.capg_model_capsule_count, ctypes.c_size_t, handle)
        return [view_text(lib.capg_model_capsule_id, handle, index) for index in range(count)]

    def fetch(self, capsule: str, *, layout: str = "source") -> Capsule:
        """Takes a capsule out, whose arrays need numpy: as the mini has it in mode fast, else at full precision. layout: "source"
        (rows in the encoding that the file holds), "stored" (as kernels read them) or "f32" (decoded)."""
        name, handle = encoded(capsule, "capsule"), CapsuleHandle()
        number_of = choice(layout, "layout", LAYOUTS)
        call(lib.capg_model_fetch, self._use(), name, len(name), number_of, byref(handle))
        return Capsule(handle, capsule)

    def fetch_begin(self, capsules: Iterable[str], *, layout: str = "source") -> Fetch:
        """Begins to take capsules out, in this order, on a thread of the library."""
        wanted, handle = listed(capsules, "capsules", "str"), FetchHandle()
        names = strings(wanted, "capsules")
        number_of = choice(layout, "layout", LAYOUTS)
        call(lib.capg_model_fetch_begin, self._use(), names, len(names), number_of, byref(handle))
        return Fetch(handle, wanted)

    def prefetch(self, capsules: Iterable[int]) -> None:
        """A hint that these capsules, by number, are needed next."""
        numbers = [whole(index, "capsules") for index in listed(capsules, "capsules", "int")]
        array = (ctypes.c_size_t * len(numbers))(*numbers)
        call(lib.capg_model_prefetch, self._use(), array, len(numbers))

    def export_capsule(self, capsule: str, target: Path, *, cancel: Optional[Cancel] = None) -> Dict[str, Any]:
        """Writes what a capsule of an ONNX model computes as an ONNX model of its own, in mode fast as the mini has it; says
        which files."""
        name, path, summary = encoded(capsule, "capsule"), path_bytes(target), TextHandle()
        handle = self._use()

        def work(token: Optional[Handle]) -> None:
            call(
                lib.capg_model_export_capsule, handle, name, len(name), path, len(path), token, byref(summary)
            )

        interruptible(work, cancel)
        return json_of(summary)


def _range(capsules: Any) -> Tuple[Any, Any]:
    try:
        first, end = capsules
    except (TypeError, ValueError):
        raise TypeError(f"capsules must be two numbers, the first and the end, not {capsules!r}") from None
    return first, end


def _open(path: Any, full: Any, options: Options) -> Handle:
    """Opens a model from a path or a file object, each with its full file as one of them."""
    handle, running, files = ModelHandle(), Stoppable(None), []

    def file(given: Any) -> Any:
        if not (hasattr(given, "read") and hasattr(given, "seek")):
            return None
        files.append(_File(given, running))
        return files[-1].reader

    try:
        reader, full_reader = file(path), file(full)
        if full_reader:
            options.keep("full_reader", ctypes.pointer(full_reader.struct))
        elif full is not None:
            options.text("full_path", path_bytes(full))
        name = b"" if reader else path_bytes(path)
        given = (lib.capg_model_open_reader, reader.ref()) if reader else (lib.capg_model_open, name, len(name))
        if files:
            # On the main thread Ctrl-C could come into the callback before it can catch anything.
            running.run(lambda _: call(*given, options.ref(), byref(handle)))
        else:
            call(*given, options.ref(), byref(handle))
    except Exception:
        for one in files:
            if one.failure is not None:
                throw(one.failure)
        raise
    finally:
        for one in files:
            one.release()
    return handle


def _tokenize(size: int, *given: Any) -> None:
    """A call that tokenizes so many bytes."""
    if size < _LONG_TEXT:
        call(*given)
    else:
        interruptible(lambda _: call(*given), None, abandoned=True)


def _messages(messages: Sequence[Message]) -> Any:
    """Messages of a conversation as the library takes them; the array holds their text."""
    said = checked_messages(messages)
    array: Any = (_native.ChatMessage * len(said))()
    kept = []
    for item, message in zip(array, said):
        for field in ("role", "content"):
            if field not in message:
                raise InvalidArgumentError(f'a message has "role" and "content", and this one no {field!r}')
            text = encoded(message[field], field)
            kept.append(text)
            setattr(item, field, ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p))
            setattr(item, field + "_len", len(text))
    array.kept = kept
    return array


def checked_messages(messages: Any) -> List[Message]:
    """Messages, once: they may come from an iterator."""
    form = '{"role": ..., "content": ...}'
    if isinstance(messages, Mapping):
        raise TypeError(f"messages must be a list of {form}, not one of them")
    said = listed(messages, "messages", form)
    for message in said:
        if not isinstance(message, Mapping):
            raise TypeError(f"a message must be a dict {form}, not {type(message).__name__}")
    return said


def _port(handle: Handle, direction: int, index: int) -> Port:
    found = _native.Port(struct_size=ctypes.sizeof(_native.Port))
    call(lib.capg_model_port, handle, direction, index, byref(found))
    shape: Optional[Tuple[Any, ...]] = None
    if found.has_shape:
        names = [found.dim_names[i] for i in range(found.rank)]
        extents = zip(found.dims[: found.rank] if found.rank else (), names)
        shape = tuple(n if n >= 0 else decoded(name.data, name.len) or None for n, name in extents)
    element = ELEMENTS.get(found.element)
    return Port(
        decoded(found.name, found.name_len),
        KINDS.get(found.kind, str(found.kind)),
        element.name if element else "",
        shape,
        bool(found.optional),
    )


def _outputs(values: Handle) -> Dict[str, Any]:
    result = {}
    for index in range(number(lib.capg_values_count, ctypes.c_size_t, values)):
        value = _native.Value()
        call(lib.capg_values_view, values, index, byref(value))
        result[decoded(value.name, value.name_len)] = value_of(values, value)
    return result
