"""Capsules that were taken out of a file, and their tensors."""

import ctypes
from ctypes import byref
from dataclasses import dataclass, field
from typing import Any, Iterator, List, Mapping, Optional, Tuple

from . import _native
from ._handles import CapsuleHandle, Handle, Resource, call, decoded, number, view_text, whole
from ._library import lib
from .errors import NotFoundError
from .tensors import BY_NAME, ELEMENTS, STRING, view

LAYOUTS = {"source": 0, "stored": 1, "f32": 2}
_FLOATS = {"f32": "<f4", "f16": "<f2"}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a capsule. It keeps the memory that it is in, also after the capsule was closed."""

    name: str
    # How its elements are stored: "f32", "f16", "q4_k", ...; of ONNX models "float32", "int64", ...
    encoding: str
    # "rows", "packed8", or "plain" of an ONNX model.
    layout: str
    shape: Tuple[int, ...]
    nbytes: int
    _owner: Handle = field(repr=False)
    _data: Optional[int] = field(repr=False)

    def __reduce__(self) -> Any:
        raise TypeError("a tensor cannot be copied, pickled or sent to another process; a copy of its array can")

    @property
    def raw(self) -> Any:
        """Its bytes, as a numpy array that is a view."""
        return view(self._owner, self._data, (self.nbytes,), "|u1")

    @property
    def array(self) -> Any:
        """A numpy array of its shape, a view, where the encoding is one that numpy has; else the bytes as in `raw`."""
        numpy = _FLOATS.get(self.encoding)
        element = BY_NAME.get(self.encoding, STRING)
        if self.layout == "plain" and element != STRING and ELEMENTS[element].bits == 8:
            numpy = ELEMENTS[element].numpy
        if numpy is None or self.layout == "packed8":
            return self.raw
        return view(self._owner, self._data, self.shape, numpy)


class Capsule(Resource, Mapping[str, Any]):
    """A capsule's tensors, a mapping of names: `capsule["name"]` is a numpy array without a copy, `capsule.tensors` tells more.
    Arrays keep the memory that they are in, also after the capsule was closed."""

    _kind = "capsule"
    # As of any other resource: arrays cannot be compared to one answer.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(self, handle: Handle, name: str) -> None:
        self._handle = handle
        self.name = name

    @property
    def precision(self) -> str:
        """"full" and "pinned": the source's bits; "light" and "nested": the mini's coarser form."""
        return view_text(lib.capg_capsule_precision, self._use())

    @property
    def tensors(self) -> List[Tensor]:
        """Its tensors, in the order of use."""
        handle = self._use()
        count = number(lib.capg_capsule_tensor_count, ctypes.c_size_t, handle)
        return [self._tensor(handle, index) for index in range(count)]

    @staticmethod
    def _tensor(handle: Any, index: int) -> Tensor:
        found = _native.TensorView(struct_size=ctypes.sizeof(_native.TensorView))
        call(lib.capg_capsule_tensor, handle, index, byref(found))
        return Tensor(
            decoded(found.name, found.name_len),
            decoded(found.encoding, found.encoding_len),
            decoded(found.layout, found.layout_len),
            tuple(found.shape[: found.dimensions]) if found.dimensions else (),
            found.data_len,
            handle,
            found.data,
        )

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name."""
        tensors = self.tensors
        for tensor in tensors:
            if tensor.name == name:
                return tensor
        names = ", ".join(tensor.name for tensor in tensors)
        raise NotFoundError(f"capsule {self.name!r} has no tensor {name!r}; it has {names}")

    def __getitem__(self, name: str) -> Any:
        return self.tensor(name).array

    def __iter__(self) -> Iterator[str]:
        return iter([tensor.name for tensor in self.tensors])

    def __len__(self) -> int:
        return number(lib.capg_capsule_tensor_count, ctypes.c_size_t, self._use())

    def __bool__(self) -> bool:
        return True

    def _about(self) -> str:
        return f"{self.name!r}, {len(self)} tensors, {self.precision}"


class Fetch(Resource):
    """Capsules on their way, which a thread of the library takes out meanwhile."""

    _kind = "fetch"

    def __init__(self, handle: Handle, names: List[str]) -> None:
        self._handle = handle
        self._names = names

    @property
    def ready(self) -> int:
        """How many have come; never waits."""
        return number(lib.capg_fetch_poll, ctypes.c_size_t, self._use())

    def take(self, index: int) -> Capsule:
        """The capsule of that place in the order that was asked for, once; BusyError where it has not come yet."""
        capsule = CapsuleHandle()
        call(lib.capg_fetch_take, self._use(), whole(index, "index"), byref(capsule))
        return Capsule(capsule, self._names[index])

    def __len__(self) -> int:
        return len(self._names)

    def _about(self) -> str:
        return f"{self.ready} of {len(self)} ready"
