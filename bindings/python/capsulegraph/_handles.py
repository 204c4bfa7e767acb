"""Calls with their errors, handles that free themselves, and what every object with a handle can do."""

import ctypes
import functools
import json
import operator
import os
import re
import threading
from ctypes import byref
from typing import Any, Dict, List, Optional, Type, TypeVar

from . import _native
from ._library import lib
from .errors import (
    BY_STATUS,
    BusyError,
    CapsuleGraphError,
    ClosedError,
    FileError,
    ForkedError,
    InvalidArgumentError,
    file_error,
)

R = TypeVar("R", bound="Resource")

# How often this process was forked off another one since the package was imported.
_forks = 0


def _forked() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def failure(status: int, error: ctypes.c_void_p) -> CapsuleGraphError:
    """The exception of a status, with the message of the error, which is freed."""
    length = ctypes.c_size_t()
    message = lib.capg_error_message(error, byref(length)) or b""
    lib.capg_error_free(error)
    kind, text = BY_STATUS.get(status, CapsuleGraphError), message.decode("utf-8", "replace") or f"status {status}"
    # Errors of the system end with their number, and mostly name the file.
    found = re.search(r"(?:\Acannot \w+ (.+): )?[^:]*\(os error (\d+)\)\Z", text, re.S)
    if kind is FileError and found:
        return file_error(text, int(found[2]), found[1])
    return kind(text)


def call(function: Any, *args: Any) -> None:
    """Calls a function that takes an error last; a failure is raised."""
    error = ctypes.c_void_p()
    status = function(*args, byref(error))
    if status:
        raise failure(status, error)


class Handle(ctypes.c_void_p):
    """A pointer that the library gave. It is freed when no Python object holds it any more: one that a running call
    was given is held by that call, so closing on another thread cannot pull it away."""

    free: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.born = _forks

    @property
    def __del__(self) -> Any:
        # What frees it is given, and not called here: an interrupt in a finalizer's own frame would be lost, and so it comes
        # in that of the caller. A child's copy is left alone: freeing waits for threads that it does not have.
        return functools.partial(self.free, self) if self.value and self.born == _forks else int

    def __reduce__(self) -> Any:
        raise TypeError("a handle of the library cannot be copied or pickled")


def _handle(name: str, free: Any) -> Type[Handle]:
    return type(name, (Handle,), {"free": staticmethod(free)})


TextHandle = _handle("TextHandle", lib.capg_text_free)
TokensHandle = _handle("TokensHandle", lib.capg_tokens_free)
CancelHandle = _handle("CancelHandle", lib.capg_cancel_free)
LogHandle = _handle("LogHandle", lib.capg_log_free)
BudgetHandle = _handle("BudgetHandle", lib.capg_budget_free)
ModelHandle = _handle("ModelHandle", lib.capg_model_free)
SessionHandle = _handle("SessionHandle", lib.capg_session_free)
GroupHandle = _handle("GroupHandle", lib.capg_group_free)
PartHandle = _handle("PartHandle", lib.capg_part_free)
ValuesHandle = _handle("ValuesHandle", lib.capg_values_free)
CapsuleHandle = _handle("CapsuleHandle", lib.capg_capsule_free)
FetchHandle = _handle("FetchHandle", lib.capg_fetch_free)


class Resource:
    """Something of the library: closed with `close()`, by `with`, or when nothing refers to it any more."""

    _kind = "object"
    _handle: Optional[Handle] = None

    def _use(self) -> Handle:
        """The handle, where it may be used."""
        handle = self._handle
        if handle is None:
            raise ClosedError(f"the {self._kind} is closed; make another one")
        if handle.born != _forks:
            raise ForkedError(
                f"the {self._kind} was made before this process was forked off: its threads are not here; "
                "make another one in this process"
            )
        return handle

    def close(self) -> None:
        """Gives the memory back; where a call or a view still needs it, when that ends. Closing twice does nothing."""
        self._handle = None

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._handle is None

    def __enter__(self: R) -> R:
        self._use()
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _about(self) -> str:
        """What `repr` says of it while it is open."""
        return "open"

    def __repr__(self) -> str:
        try:
            self._use()
            about = self._about()
        except CapsuleGraphError as error:
            about = error.status
        return f"<capsulegraph.{type(self).__name__} {about}>"

    def __reduce__(self) -> Any:
        raise TypeError(f"a {self._kind} cannot be copied, pickled or sent to another process; make one there")


class Exclusive(Resource):
    """A resource that one call at a time uses."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def _enter(self) -> Handle:
        """The handle, where no other call uses it. `with self._lock` follows, which Ctrl-C cannot come between, as it can
        behind `acquire`: two threads that get here at the same moment have their turns one after the other.

        The library has such a lock too; this one covers views, which are read after the call that gave them."""
        handle = self._handle
        if handle is None or handle.born != _forks or self._lock.locked():
            self._use()
            kind = self._kind
            raise BusyError(f"the {kind} is in use by another call; wait for it, or make a {kind} for each thread")
        return handle


def required(resource: Any, kind: Type[Resource]) -> Handle:
    """The handle of an argument: of another kind it would be taken for one of this kind."""
    if not isinstance(resource, kind):
        raise TypeError(f"a {kind.__name__} is wanted, not {type(resource).__name__}")
    return resource._use()


def optional(resource: Optional[Resource], kind: Type[Resource]) -> Optional[Handle]:
    """The handle of an argument that may be left out."""
    return None if resource is None else required(resource, kind)


def view_text(function: Any, *args: Any) -> str:
    """The text of a function that gives a view: data and length."""
    data, length = ctypes.c_void_p(), ctypes.c_size_t()
    call(function, *args, byref(data), byref(length))
    return decoded(data.value, length.value)


def decoded(data: Optional[int], length: int) -> str:
    """Text of the library at an address."""
    return ctypes.string_at(data, length).decode("utf-8", "replace") if data and length else ""


def text_of(handle: Handle) -> str:
    """What a text of the library says."""
    return view_text(lib.capg_text_view, handle)


def json_of(handle: Handle) -> Dict[str, Any]:
    """The object that a text of the library is, in JSON."""
    made: Dict[str, Any] = json.loads(text_of(handle))
    return made


def tokens_of(handle: Handle) -> List[int]:
    """The ids of tokens of the library."""
    ids, count = ctypes.POINTER(ctypes.c_uint32)(), ctypes.c_size_t()
    call(lib.capg_tokens_view, handle, byref(ids), byref(count))
    return ids[: count.value]


def number(function: Any, kind: Any, handle: Handle) -> int:
    """The number that a function gives."""
    out = kind()
    call(function, handle, byref(out))
    return int(out.value)


def encoded(value: str, what: str) -> bytes:
    """UTF-8 of an argument."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {type(value).__name__}")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"{what} has half of a surrogate pair at {error.start} ({value[error.start]!r}), which UTF-8 cannot write"
        ) from None


def path_bytes(value: Any) -> bytes:
    """UTF-8 of a path."""
    try:
        return os.fsdecode(value).encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"the path {value!r} is not UTF-8") from None


def whole(value: Any, what: str, bits: int = 64) -> int:
    """A number that the library takes as an unsigned integer of so many bits."""
    try:
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be an int, not {type(value).__name__}") from None
    if not 0 <= result < 1 << bits:
        raise InvalidArgumentError(f"{what} is {result}; it must be from 0 to {(1 << bits) - 1}")
    return result


def choice(value: str, what: str, choices: Dict[str, int]) -> int:
    """The number of a name."""
    found = choices.get(value) if isinstance(value, str) else None
    if found is None:
        raise InvalidArgumentError(f"{what} is {value!r}; it must be one of {', '.join(choices)}")
    return found


def real(value: Any, what: str) -> float:
    """A number that the library takes as a float."""
    try:
        if not isinstance(value, (str, bytes)):
            return float(value)
    except TypeError:
        pass
    raise TypeError(f"{what} must be a number, not {type(value).__name__}")


def listed(values: Any, what: str, of: str) -> List[Any]:
    """The items of an argument, once: it may be an iterator."""
    try:
        if not isinstance(values, (str, bytes)):
            return list(values)
    except TypeError:
        pass
    raise TypeError(f"{what} must be a sequence of {of}, not {type(values).__name__}")


def ids_array(ids: Any, what: str = "token ids") -> Any:
    """Token ids as the library takes them."""
    values = [whole(token, what, 32) for token in listed(ids, what, "int")]
    return (ctypes.c_uint32 * len(values))(*values)


class Options:
    """A struct of options, with the bytes that it points to."""

    def __init__(self, kind: Any) -> None:
        self.struct = kind()
        self.struct.struct_size = ctypes.sizeof(kind)
        self.kept: List[Any] = []

    def text(self, field: str, value: Optional[bytes]) -> None:
        """A string and its length."""
        if value is not None:
            self.kept.append(value)
            setattr(self.struct, field, ctypes.cast(ctypes.c_char_p(value), ctypes.c_void_p))
            setattr(self.struct, field + "_len", len(value))

    def handle(self, field: str, value: Optional[Handle]) -> None:
        """A handle."""
        if value is not None:
            self.kept.append(value)
            setattr(self.struct, field, value)

    def keep(self, field: str, value: Any) -> None:
        """Anything that ctypes can put there and that has to live as long."""
        self.kept.append(value)
        setattr(self.struct, field, value)

    def ref(self) -> Any:
        """For the call."""
        return byref(self.struct)


def strings(values: Any, what: str) -> Any:
    """An array of `capg_string`, which holds the bytes too."""
    encoded_values = [encoded(value, what) for value in listed(values, what, "str")]
    array: Any = (_native.String * len(encoded_values))()
    for item, value in zip(array, encoded_values):
        item.data = ctypes.cast(ctypes.c_char_p(value), ctypes.c_void_p)
        item.len = len(value)
    array.kept = encoded_values
    return array
