"""CapsuleGraph's C API for ONNX models, by ctypes: convert, open, ports, run.

Used by the onnx_*.py tools. The structs are those of include/capsulegraph.h.
"""

import ctypes as c
import json
import os

import numpy as np

from onnx_values import STRING, Map, Sequence, Tensor

VALUE_TENSOR, VALUE_SEQUENCE, VALUE_NONE, VALUE_MAP, VALUE_SEQUENCE_OF_MAPS = range(5)
PREPACK = {"auto": 0, "on": 1, "off": 2}
OPTIMIZATION = {"default": 0, "off": 1}


class String(c.Structure):
    _fields_ = [("data", c.c_void_p), ("len", c.c_size_t)]


def _address(data):
    """Of a bytes object, which the caller keeps."""
    return c.cast(c.c_char_p(data), c.c_void_p)


def _strings(texts):
    return (String * max(len(texts), 1))(*[String(_address(t), len(t)) for t in texts])


class CTensor(c.Structure):
    _fields_ = [("data", c.c_void_p), ("data_len", c.c_size_t), ("dims", c.POINTER(c.c_int64)), ("rank", c.c_size_t),
                ("element", c.c_uint32), ("reserved", c.c_uint32)]


class CValue(c.Structure):
    _fields_ = [("name", c.c_void_p), ("name_len", c.c_size_t), ("tensors", c.POINTER(CTensor)), ("count", c.c_size_t),
                ("kind", c.c_uint32), ("element", c.c_uint32)]


class Port(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("name", c.c_void_p), ("name_len", c.c_size_t),
                ("dims", c.POINTER(c.c_int64)), ("dim_names", c.c_void_p), ("rank", c.c_size_t), ("kind", c.c_uint32),
                ("element", c.c_uint32), ("has_shape", c.c_uint32), ("optional", c.c_uint32)]


def _pointer_and_length(*names):
    return [field for name in names for field in ((name, c.c_void_p), (name + "_len", c.c_size_t))]


class ConvertOptions(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), *_pointer_and_length("mini_path", "light", "calibrate"), ("cancel", c.c_void_p),
                ("log", c.c_void_p), ("progress", c.c_void_p), ("progress_user_data", c.c_void_p),
                ("mini_bytes", c.c_uint64), ("no_mini", c.c_uint32), ("planes", c.c_uint32),
                ("capsule_bytes", c.c_uint64), ("capsule_count", c.c_uint32), ("max_error", c.c_float),
                *_pointer_and_length("onnxruntime_path")]


class ModelOptions(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("full_path", c.c_void_p), ("full_path_len", c.c_size_t),
                ("full_reader", c.c_void_p), ("log", c.c_void_p), ("offset", c.c_uint64), ("length", c.c_uint64),
                ("full_offset", c.c_uint64), ("full_length", c.c_uint64), ("memory_budget_bytes", c.c_uint64),
                ("mode", c.c_uint32), ("threads", c.c_uint32), ("processors", c.c_void_p), ("processors_len", c.c_size_t),
                ("parallel_for", c.c_void_p), ("parallel_for_data", c.c_void_p), ("priority", c.c_uint32),
                ("reserved", c.c_uint32), ("budget", c.c_void_p), ("first_capsule", c.c_uint32),
                ("end_capsule", c.c_uint32), ("session_context", c.c_uint32), ("session_kv_type", c.c_uint32),
                *_pointer_and_length("onnxruntime_path"), ("prepack", c.c_uint32), ("optimization", c.c_uint32),
                ("joined_bytes", c.c_uint64)]


class Failure(Exception):
    """A status that is not CAPG_OK, with its message."""


class Library:
    """onnxruntime: path of ONNX Runtime's shared library; None: where CapsuleGraph looks for it."""

    def __init__(self, path, onnxruntime=None):
        self.c, self.onnxruntime = c.CDLL(path), onnxruntime
        self.c.capg_error_message.restype = self.c.capg_status_name.restype = c.c_char_p
        for name in ("error", "text", "model", "values"):
            getattr(self.c, f"capg_{name}_free").restype = None

    def call(self, name, *arguments):
        error = c.c_void_p()
        status = getattr(self.c, name)(*arguments, c.byref(error))
        if status:
            text = self.c.capg_error_message(error, None).decode("utf-8", "replace")
            self.c.capg_error_free(error)
            raise Failure(f"{self.c.capg_status_name(status).decode()}: {text}")

    def convert(self, source, target, capsules=0, capsule_bytes=0):
        """Without a mini. Gives the summary."""
        options = ConvertOptions(no_mini=1, capsule_count=capsules, capsule_bytes=capsule_bytes)
        options.struct_size = c.sizeof(options)
        source, target = os.fsencode(source), os.fsencode(target)
        summary = c.c_void_p()
        self.call("capg_convert", source, c.c_size_t(len(source)), target, c.c_size_t(len(target)), c.byref(options),
                  c.byref(summary))
        return self.json(summary)

    def json(self, text):
        data, length = c.c_char_p(), c.c_size_t()
        self.call("capg_text_view", text, c.byref(data), c.byref(length))
        value = json.loads(data.value)
        self.c.capg_text_free(text)
        return value

    def open(self, path, budget=0, prepack="auto", optimization="default", threads=0, joined=True):
        runtime = os.fsencode(self.onnxruntime) if self.onnxruntime else b""
        options = ModelOptions(memory_budget_bytes=budget, threads=threads, prepack=PREPACK[prepack],
                               optimization=OPTIMIZATION[optimization], joined_bytes=0 if joined else 1)
        options.struct_size = c.sizeof(options)
        options.onnxruntime_path = _address(runtime)
        options.onnxruntime_path_len = len(runtime)
        path, model = os.fsencode(path), c.c_void_p()
        self.call("capg_model_open", path, c.c_size_t(len(path)), c.byref(options), c.byref(model))
        return Model(self, model)


class Model:
    def __init__(self, library, handle):
        self.library, self.handle = library, handle

    def capsules(self):
        count = c.c_size_t()
        self.library.call("capg_model_capsule_count", self.handle, c.byref(count))
        return count.value

    def ports(self, direction):
        """Name, kind, element and dimensions (None: unknown) of each input (0) or output (1)."""
        count, ports = c.c_size_t(), []
        self.library.call("capg_model_port_count", self.handle, c.c_uint32(direction), c.byref(count))
        for index in range(count.value):
            port = Port(struct_size=c.sizeof(Port))
            self.library.call("capg_model_port", self.handle, c.c_uint32(direction), c.c_size_t(index), c.byref(port))
            dims = tuple(port.dims[:port.rank]) if port.has_shape else None
            ports.append((c.string_at(port.name, port.name_len).decode(), port.kind, port.element, dims))
        return ports

    def run(self, inputs, outputs=None):
        """inputs: pairs of name and value. Gives the values of `outputs`, by default of all."""
        return self.bound(inputs, outputs).run()

    def bound(self, inputs, outputs=None):
        return Bound(self, inputs, outputs)

    def close(self):
        self.library.c.capg_model_free(self.handle)


class Bound:
    """Inputs and names made once, for any number of runs."""

    def __init__(self, model, inputs, outputs):
        self.model, self.keep = model, []
        self.inputs = (CValue * max(len(inputs), 1))(*[self.value(name, value) for name, value in inputs])
        names = [n.encode() for n in outputs or []]
        self.keep.append(names)
        self.outputs = _strings(names)
        self.counts = c.c_size_t(len(inputs)), c.c_size_t(len(outputs or []))

    def value(self, name, value):
        parts = [value] if isinstance(value, Tensor) else [] if value is None else value.tensors
        kind = VALUE_TENSOR if isinstance(value, Tensor) else VALUE_NONE if value is None else VALUE_SEQUENCE
        tensors = (CTensor * max(len(parts), 1))(*[self.tensor(t) for t in parts])
        name = name.encode()
        self.keep.extend([tensors, name])
        return CValue(_address(name), len(name), tensors, len(parts), kind,
                      0 if value is None else value.element)

    def tensor(self, tensor):
        dims = (c.c_int64 * max(len(tensor.dims), 1))(*tensor.dims)
        if tensor.element == STRING:
            data, length = _strings(tensor.data), len(tensor.data)
            pointer = c.addressof(data)
        else:
            length = memoryview(tensor.data).nbytes
            data = tensor.data if isinstance(tensor.data, np.ndarray) else np.frombuffer(tensor.data or b"\0", np.uint8)
            pointer = data.ctypes.data
        self.keep.extend([dims, data, tensor])
        return CTensor(pointer, length, dims, len(tensor.dims), tensor.element, 0)

    def run(self, take=True):
        library, values = self.model.library, c.c_void_p()
        library.call("capg_model_run", self.model.handle, self.inputs, self.counts[0], self.outputs, self.counts[1],
                     None, None, c.byref(values))
        try:
            return self.take(library, values) if take else None
        finally:
            library.c.capg_values_free(values)

    @staticmethod
    def take(library, values):
        count, found = c.c_size_t(), []
        library.call("capg_values_count", values, c.byref(count))
        for index in range(count.value):
            value = CValue()
            library.call("capg_values_view", values, c.c_size_t(index), c.byref(value))
            found.append(_taken(value))
        return found


def _taken(value):
    tensors = [_taken_tensor(t) for t in value.tensors[:value.count]]
    if value.kind == VALUE_NONE:
        return None
    if value.kind == VALUE_SEQUENCE:
        return Sequence(value.element, tensors)
    if value.kind == VALUE_SEQUENCE_OF_MAPS:
        return [Map(*tensors[i:i + 2]) for i in range(0, len(tensors), 2)]
    return Map(*tensors) if value.kind == VALUE_MAP else tensors[0]


def _taken_tensor(tensor):
    dims = tensor.dims[:tensor.rank]
    if tensor.element == STRING:
        texts = c.cast(tensor.data, c.POINTER(String))[:tensor.data_len]
        return Tensor(STRING, dims, [c.string_at(t.data, t.len) if t.len else b"" for t in texts])
    return Tensor(tensor.element, dims, c.string_at(tensor.data, tensor.data_len) if tensor.data_len else b"")
