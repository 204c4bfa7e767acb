"""Tensors and other values of ONNX models, as numpy arrays and Python objects; numpy is imported when they are first used."""

import ctypes
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from . import _native
from ._handles import Handle, call, encoded
from .errors import InvalidArgumentError, UnsupportedError

TENSOR, SEQUENCE, NONE, MAP, SEQUENCE_OF_MAPS, SPARSE = range(6)
KINDS = {
    TENSOR: "tensor",
    SEQUENCE: "sequence",
    NONE: "optional",
    MAP: "map",
    SEQUENCE_OF_MAPS: "sequence of maps",
    SPARSE: "sparse tensor",
}
STRING = _native.ELEMENT_STRING


class _Element(NamedTuple):
    name: str
    # What numpy calls it; of types that numpy has not, unsigned integers of the same bits.
    numpy: str
    # Bits of an element, where they are fewer than a byte.
    bits: int = 8
    # What ml_dtypes calls it.
    other: str = ""


ELEMENTS: Dict[int, _Element] = {
    1: _Element("float32", "<f4"),
    2: _Element("uint8", "|u1"),
    3: _Element("int8", "|i1"),
    4: _Element("uint16", "<u2"),
    5: _Element("int16", "<i2"),
    6: _Element("int32", "<i4"),
    7: _Element("int64", "<i8"),
    8: _Element("string", "|O"),
    9: _Element("bool", "|b1"),
    10: _Element("float16", "<f2"),
    11: _Element("float64", "<f8"),
    12: _Element("uint32", "<u4"),
    13: _Element("uint64", "<u8"),
    14: _Element("complex64", "<c8"),
    15: _Element("complex128", "<c16"),
    16: _Element("bfloat16", "<u2", other="bfloat16"),
    17: _Element("float8e4m3fn", "|u1", other="float8_e4m3fn"),
    18: _Element("float8e4m3fnuz", "|u1", other="float8_e4m3fnuz"),
    19: _Element("float8e5m2", "|u1", other="float8_e5m2"),
    20: _Element("float8e5m2fnuz", "|u1", other="float8_e5m2fnuz"),
    21: _Element("uint4", "|u1", 4, "uint4"),
    22: _Element("int4", "|i1", 4, "int4"),
    23: _Element("float4e2m1", "|u1", 4, "float4_e2m1fn"),
    24: _Element("float8e8m0", "|u1", other="float8_e8m0fnu"),
    25: _Element("uint2", "|u1", 2, "uint2"),
    26: _Element("int2", "|i1", 2, "int2"),
}
BY_NAME = {element.name: number for number, element in ELEMENTS.items()}
_BY_NUMPY = {element.numpy.lstrip("<|"): number for number, element in ELEMENTS.items() if number < 16}
_BY_OTHER = {element.other: number for number, element in ELEMENTS.items() if element.other}


class Port(NamedTuple):
    """An input or output of an ONNX model."""

    name: str
    # "tensor", "sequence", "optional", "map", "sequence of maps" or "sparse tensor".
    kind: str
    # The type of its elements: "float32", ...; "" where the model does not say.
    type: str
    # Extents, outermost first: a number, the name of one that is open, or None; None in all where even their number is open.
    shape: Optional[Tuple[Any, ...]]
    # An input that has a default and may be left out.
    optional: bool


def numpy_module() -> Any:
    """numpy, which only arrays need."""
    try:
        import numpy
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        raise ModuleNotFoundError(
            "arrays need numpy, which is not installed: pip install 'capsulegraph[numpy]'", name="numpy"
        ) from None
    return numpy


class Memory:
    """Memory of the library as numpy reads it: an array that is made of it holds it, and it holds its owner."""

    def __init__(self, owner: Handle, data: int, shape: Sequence[int], numpy: str) -> None:
        self._owner = owner
        self.__array_interface__ = {
            "version": 3,
            "data": (data, True),
            "shape": tuple(shape),
            "typestr": numpy,
        }


def view(owner: Handle, data: Optional[int], shape: Sequence[int], numpy: str) -> Any:
    """An array that cannot be written, of memory that `owner` keeps; without a copy."""
    np = numpy_module()
    try:
        if not data or 0 in shape:
            array = np.empty(shape, numpy)
            array.flags.writeable = False
            return array
        return np.asarray(Memory(owner, data, shape, numpy))
    except ValueError as error:
        raise UnsupportedError(f"numpy has no array of {len(shape)} dimensions {tuple(shape)}: {error}") from None


def rows_of(function: Any, handle: Handle) -> Any:
    """A copy of the floats that a function gives a view of, [rows, columns]: the next call overwrites the library's own."""
    np = numpy_module()
    data, rows, columns = ctypes.POINTER(ctypes.c_float)(), ctypes.c_size_t(), ctypes.c_size_t()
    call(function, handle, ctypes.byref(data), ctypes.byref(rows), ctypes.byref(columns))
    shape = (rows.value, columns.value)
    if 0 in shape:
        return np.empty(shape, np.float32)
    return np.ctypeslib.as_array(data, shape).copy()


def unmasked(value: Any, what: str) -> None:
    """Refuses an array with a mask, which the library would not see."""
    np = numpy_module()
    if isinstance(value, np.ma.MaskedArray):
        raise InvalidArgumentError(f"{what} is a masked array, and its mask would be lost; give filled() of it")


class Values:
    """Inputs of a run as the library takes them; holds what they point to."""

    def __init__(self) -> None:
        self._kept: List[Any] = []
        self._values: List[_native.Value] = []
        # Bytes of all tensors; of strings their number.
        self.nbytes = 0

    def array(self) -> Any:
        """For the call."""
        return (_native.Value * len(self._values))(*self._values)

    def add(self, name: str, value: Any, port: Optional[Port]) -> None:
        """Adds a value under its name, of the kind that the model asks for."""
        kind = port.kind if port else "tensor"
        wanted = BY_NAME.get(port.type, 0) if port else 0
        if kind == "optional":
            # What the optional holds decides: a list is a sequence.
            kind = "sequence" if isinstance(value, (list, tuple)) else "tensor"
        if value is None:
            self._add(name, [], NONE, 0)
        elif kind == "sequence":
            items = self._items(name, value, "a list of arrays")
            self._add(name, [self._tensor(name, item, wanted) for item in items], SEQUENCE, wanted)
        elif kind == "map":
            self._add(name, self._map(name, value, wanted), MAP, wanted)
        elif kind == "sequence of maps":
            maps = self._items(name, value, "a list of dicts")
            self._add(name, [t for m in maps for t in self._map(name, m, wanted)], SEQUENCE_OF_MAPS, wanted)
        elif kind == "tensor":
            self._add(name, [self._tensor(name, value, wanted)], TENSOR, 0)
        else:
            raise UnsupportedError(f"input {name!r}: a {kind} cannot be given")

    @staticmethod
    def _items(name: str, value: Any, what: str) -> Any:
        if not isinstance(value, (list, tuple)):
            raise InvalidArgumentError(f"input {name!r} takes {what}, not {type(value).__name__}")
        return value

    def _add(self, name: str, tensors: List[_native.Tensor], kind: int, element: int) -> None:
        text = encoded(name, "name of an input")
        array = (_native.Tensor * len(tensors))(*tensors)
        value = _native.Value(count=len(tensors), kind=kind, element=element, name_len=len(text))
        value.name = ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p)
        value.tensors = array
        self._kept += [text, array]
        self._values.append(value)

    def _map(self, name: str, value: Any, wanted: int) -> List[_native.Tensor]:
        np = numpy_module()
        if not isinstance(value, dict):
            raise InvalidArgumentError(f"input {name!r} takes a dict, not {type(value).__name__}")
        keys = list(value)
        if keys and all(isinstance(key, str) for key in keys):
            pairs = self._tensor(name, np.array(keys, object), STRING)
        elif all(isinstance(key, (int, np.integer)) and -(1 << 63) <= key < 1 << 63 for key in keys):
            pairs = self._tensor(name, np.array(keys, np.int64), BY_NAME["int64"])
        else:
            raise InvalidArgumentError(f"input {name!r}: keys of a map are all str or all int of 64 bits, and these are {keys}")
        return [pairs, self._tensor(name, list(value.values()), wanted)]

    def _tensor(self, name: str, value: Any, wanted: int) -> _native.Tensor:
        np = numpy_module()
        unmasked(value, f"input {name!r}")

        has_type = hasattr(value, "__array__") or hasattr(value, "__array_interface__")
        if has_type and not isinstance(value, np.generic):
            array = np.asarray(value)
        else:
            array = _of_type(name, value, wanted)
        element = _element_of(name, array, wanted)
        dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        tensor = _native.Tensor(rank=array.ndim, element=element, dims=dims)
        if element == STRING:
            data, count = self._strings(name, array), array.size
        else:
            array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
            if ELEMENTS[element].bits < 8:
                array = _packed(name, array, ELEMENTS[element])
            data, count = array, array.nbytes
        tensor.data = ctypes.addressof(data) if element == STRING else array.ctypes.data
        tensor.data_len = count
        self.nbytes += count
        self._kept += [dims, data]
        return tensor

    def _strings(self, name: str, array: Any) -> Any:
        strings = (_native.String * array.size)()
        for item, text in zip(strings, array.ravel()):
            if not isinstance(text, (str, bytes)):
                raise InvalidArgumentError(f"input {name!r} takes str, and one element is {type(text).__name__}")
            data = encoded(text, f"input {name!r}") if isinstance(text, str) else bytes(text)
            self._kept.append(data)
            item.data, item.len = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data)
        return strings


def _of_type(name: str, value: Any, wanted: int) -> Any:
    """A list or number as an array. It has no type of its own and takes the model's, where that can hold its values."""
    np = numpy_module()
    try:
        found = np.asarray(value, object if wanted == STRING else None)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgumentError(f"input {name!r}: {error}") from None
    if not wanted or wanted == STRING:
        return found
    element = ELEMENTS[wanted]
    if element.other.startswith(("bfloat", "float")):
        bits = np.dtype(element.numpy).name
        raise InvalidArgumentError(
            f"input {name!r}: numpy has no {element.name}; give an array of ml_dtypes' {element.other}, or one of the bits ({bits})"
        )
    if not found.size:
        return np.zeros(found.shape, element.numpy)
    kinds = {"b": "b", "i": "iu", "u": "iu", "f": "iuf", "c": "iufc"}[np.dtype(element.numpy).kind]
    if found.dtype.kind not in kinds:
        raise InvalidArgumentError(f"input {name!r} takes {element.name}, and the values given are {found.dtype}")
    with np.errstate(over="ignore"):
        array = found.astype(element.numpy)
    # Whole numbers are taken as they are, others are rounded, but not to infinity.
    same = array == found if array.dtype.kind in "iu" else np.isfinite(array) | ~np.isfinite(found)
    if not np.all(same):
        raise InvalidArgumentError(f"input {name!r} takes {element.name}, which cannot hold {found[~same].flat[0]}")
    return array


def _element_of(name: str, array: Any, wanted: int) -> int:
    """The element type of an array. Types that numpy has not come as unsigned integers of the same bits, or as ml_dtypes'."""
    dtype = array.dtype
    if dtype.kind in "OUS":
        return STRING
    found = _BY_OTHER.get(dtype.name, 0) or _BY_NUMPY.get(dtype.newbyteorder("<").str.lstrip("<|"), 0)
    if wanted and ELEMENTS[wanted].other and dtype.str.lstrip("<|>=") == ELEMENTS[wanted].numpy.lstrip("<|"):
        return wanted
    if not found:
        raise InvalidArgumentError(f"input {name!r}: the library has no elements of type {dtype}")
    return found


def _packed(name: str, array: Any, element: _Element) -> Any:
    """One element to a byte, to several in a byte, the first in the low bits."""
    np = numpy_module()
    bits, per = element.bits, 8 // element.bits
    low = -(1 << (bits - 1)) if element.numpy == "|i1" else 0
    # Those of ml_dtypes are within it.
    if array.size and array.dtype.kind in "iu" and (array.min() < low or array.max() >= low + (1 << bits)):
        raise InvalidArgumentError(f"input {name!r} takes {element.name}: numbers from {low} to {low + (1 << bits) - 1}")
    codes = array.ravel().view(np.uint8) & ((1 << bits) - 1)
    codes = np.concatenate([codes, np.zeros(-len(codes) % per, np.uint8)]).reshape(-1, per)
    shifts = np.arange(per, dtype=np.uint8) * np.uint8(bits)
    return np.bitwise_or.reduce(codes << shifts, axis=1).astype(np.uint8)


def _unpacked(data: Any, shape: Tuple[int, ...], element: _Element) -> Any:
    """Several elements in a byte, to one to a byte."""
    np = numpy_module()
    bits, per = element.bits, 8 // element.bits
    shifts = np.arange(per, dtype=np.uint8) * np.uint8(bits)
    count = int(np.prod(shape, dtype=np.int64))
    codes = ((data[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)[:count]
    if element.numpy == "|i1":
        codes = (codes << np.uint8(8 - bits)).view(np.int8) >> (8 - bits)
    return codes.astype(element.numpy).reshape(shape)


def _tensor_of(owner: Handle, tensor: _native.Tensor) -> Any:
    np = numpy_module()
    shape = tuple(tensor.dims[: tensor.rank]) if tensor.rank else ()
    element = ELEMENTS[tensor.element]
    if tensor.element == STRING:
        items = np.empty(tensor.data_len, object)
        source: Any = ctypes.cast(tensor.data, ctypes.POINTER(_native.String)) if tensor.data_len else []
        for i in range(tensor.data_len):
            data = ctypes.string_at(source[i].data, source[i].len) if source[i].len else b""
            try:
                items[i] = data.decode()
            except UnicodeDecodeError:
                items[i] = data
        return items.reshape(shape)
    if element.bits < 8:
        return _unpacked(view(owner, tensor.data, (tensor.data_len,), "|u1"), shape, element)
    return view(owner, tensor.data, shape, element.numpy)


def value_of(owner: Handle, value: _native.Value) -> Any:
    """A value as Python has it: arrays, which are views of what `owner` keeps; lists of them; dicts; None."""
    tensors = [_tensor_of(owner, value.tensors[i]) for i in range(value.count)]
    if value.kind == TENSOR:
        return tensors[0]
    if value.kind == SEQUENCE:
        return tensors
    if value.kind == NONE:
        return None
    maps = [dict(zip(k.tolist(), v.tolist())) for k, v in zip(tensors[0::2], tensors[1::2])]
    if value.kind == MAP:
        return maps[0]
    if value.kind == SEQUENCE_OF_MAPS:
        return maps
    raise UnsupportedError(f"this package does not know values of kind {value.kind}; update it")
