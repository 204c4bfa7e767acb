"""Tensors, sequences and maps as the tests of ONNX models pass them around, independent of any runtime.

Used by the onnx_*.py tools; needs the PyPI packages numpy and onnx.

A value is a Tensor, a Sequence, a Map, a list of Maps, or None for an optional that is absent. A tensor holds its bytes as
ONNX's raw_data has them (little-endian, types below 8 bits packed), which is what both C APIs take, so that types that
numpy does not have go through unchanged.
"""

import pathlib

import numpy as np

STRING = 8  # of TensorProto.DataType, as FLOAT below
PLAIN = {"<f4": 1, "|u1": 2, "|i1": 3, "<i4": 6, "<i8": 7, "|b1": 9, "<f2": 10, "<f8": 11}


class _Onnx:
    """The package, loaded when it is first needed: processes whose memory is measured do without."""

    def __getattr__(self, name):
        import onnx

        return getattr(onnx, name)


onnx = _Onnx()



class Tensor:
    """element: the number of TensorProto.DataType. data: a buffer, of strings a list of bytes."""

    def __init__(self, element, dims, data):
        self.element, self.dims, self.data = element, tuple(int(d) for d in dims), data

    @classmethod
    def of(cls, array):
        """Of a numpy array, or of a TensorProto."""
        if hasattr(array, "data_type"):
            if array.data_type == STRING:
                return cls(STRING, array.dims, list(array.string_data))
            if array.HasField("raw_data"):
                return cls(array.data_type, array.dims, array.raw_data)
            element, array = array.data_type, onnx.numpy_helper.to_array(array)
            return cls(element, array.shape, onnx.numpy_helper.from_array(array).raw_data)
        array = np.asarray(array)
        if array.dtype.kind in "OUS":
            texts = [t if isinstance(t, bytes) else str(t).encode() for t in array.ravel()]
            return cls(STRING, array.shape, texts)
        element = PLAIN.get(array.dtype.str) or onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        return cls(element, array.shape, np.ascontiguousarray(array))

    def array(self):
        if self.element == STRING:
            texts = np.empty(len(self.data), dtype=object)
            texts[:] = [t.decode("utf-8", "surrogateescape") for t in self.data]
            return texts.reshape(self.dims)
        if isinstance(self.data, np.ndarray):
            return self.data
        proto = onnx.TensorProto(data_type=self.element, dims=self.dims, raw_data=bytes(self.data))
        return onnx.numpy_helper.to_array(proto)

    def raw(self):
        """All that the tensor is, for comparing bit by bit."""
        data = tuple(self.data) if self.element == STRING else memoryview(self.data).tobytes()
        return self.element, self.dims, data


class Sequence:
    """element: that of the tensors, which an empty sequence has too."""

    def __init__(self, element, tensors):
        self.element, self.tensors = element, list(tensors)

    def raw(self):
        return self.element, tuple(t.raw() for t in self.tensors)


class Map:
    """keys and values: tensors of one dimension."""

    def __init__(self, keys, values):
        self.keys, self.values = keys, values

    def raw(self):
        return self.keys.raw(), self.values.raw()


def raw(value):
    """A value as something that == compares bit by bit."""
    if isinstance(value, list):
        return tuple(v.raw() for v in value)
    return None if value is None else value.raw()


def _sequence_element(type_proto):
    if type_proto.HasField("optional_type"):
        return _sequence_element(type_proto.optional_type.elem_type)
    return type_proto.sequence_type.elem_type.tensor_type.elem_type


def read(path, type_proto):
    """The value in a .pb file of a test data set; `type_proto` is that of the graph's input or output."""
    content = pathlib.Path(path).read_bytes()
    kind = type_proto.WhichOneof("value")
    if kind == "tensor_type":
        return Tensor.of(onnx.TensorProto.FromString(content))
    if kind == "sequence_type":
        tensors = onnx.SequenceProto.FromString(content).tensor_values
        return Sequence(_sequence_element(type_proto), map(Tensor.of, tensors))
    if kind == "optional_type":
        optional = onnx.OptionalProto.FromString(content)
        if optional.elem_type == onnx.OptionalProto.TENSOR:
            return Tensor.of(optional.tensor_value)
        if optional.elem_type == onnx.OptionalProto.SEQUENCE:
            tensors = optional.sequence_value.tensor_values
            return Sequence(_sequence_element(type_proto), map(Tensor.of, tensors))
        return None
    raise ValueError(f"{path}: values of kind {kind} are not read")


def difference(wanted, found, rtol, atol):
    """What makes `found` another value than `wanted`, by the rules of ONNX's own backend runner; None where nothing does."""
    if wanted is None or found is None:
        return None if wanted is found else f"{type(found).__name__} in place of {type(wanted).__name__}"
    if isinstance(wanted, Sequence) and isinstance(found, Sequence):
        if len(wanted.tensors) != len(found.tensors):
            return f"{len(found.tensors)} tensors in place of {len(wanted.tensors)}"
        parts = (difference(w, f, rtol, atol) for w, f in zip(wanted.tensors, found.tensors))
        return next((p for p in parts if p), None)
    if not (isinstance(wanted, Tensor) and isinstance(found, Tensor)):
        return f"{type(found).__name__} in place of {type(wanted).__name__}"
    if wanted.dims != found.dims or wanted.element != found.element:
        return f"type {found.element} {found.dims} in place of type {wanted.element} {wanted.dims}"
    if wanted.element == STRING:
        return None if wanted.data == found.data else f"{found.data[:4]} in place of {wanted.data[:4]}"
    want, have = wanted.array(), found.array()
    if want.dtype.kind not in "fciub":  # bfloat16, float8, int4, ...: numpy compares what they stand for
        want, have = want.astype(np.float32), have.astype(np.float32)
    try:
        np.testing.assert_allclose(have, want, rtol=rtol, atol=atol)
    except AssertionError as e:
        return " ".join(str(e).split())[:200]
    return None
