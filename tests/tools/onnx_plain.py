"""ONNX Runtime by its own C API: what CapsuleGraph is compared with.

Used by the onnx_*.py tools. The Python package's own binding is not taken, since it refuses types that the C API takes
(bfloat16, 4 bits). The numbers below are the places of functions in the published struct OrtApi; they never move.
"""

import ctypes as c
import os

import numpy as np

from onnx_values import STRING, Map, Sequence, Tensor

API_VERSION = 18
FUNCTIONS = {
    "GetErrorMessage": 2, "CreateEnv": 3, "CreateSession": 7, "Run": 9, "CreateSessionOptions": 10,
    "SetSessionGraphOptimizationLevel": 23, "SetIntraOpNumThreads": 24, "SessionGetInputCount": 30,
    "SessionGetOutputCount": 31, "SessionGetInputName": 36, "SessionGetOutputName": 37, "CreateTensorAsOrtValue": 48,
    "CreateTensorWithDataAsOrtValue": 49, "GetTensorMutableData": 51, "FillStringTensor": 52,
    "GetStringTensorDataLength": 53, "GetStringTensorContent": 54, "GetTensorElementType": 60, "GetDimensionsCount": 61,
    "GetDimensions": 62, "GetTensorTypeAndShape": 65, "GetValueType": 67, "CreateCpuMemoryInfo": 69,
    "GetAllocatorWithDefaultOptions": 78, "GetValue": 80, "GetValueCount": 81, "CreateValue": 82, "ReleaseEnv": 92,
    "ReleaseStatus": 93, "ReleaseSession": 95, "ReleaseValue": 96, "ReleaseTensorTypeAndShapeInfo": 99,
    "ReleaseSessionOptions": 100, "AddSessionConfigEntry": 130, "HasValue": 192,
}
# ONNX numbers the types above 23 in one order, ONNX Runtime in another.
TO_RUNTIME = {24: 26, 25: 24, 26: 25}
FROM_RUNTIME = {v: k for k, v in TO_RUNTIME.items()}
BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
        17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}
TENSOR, SEQUENCE, MAP = 1, 2, 3
LEVELS = {"off": 0, "basic": 1, "extended": 2, "all": 99}


def library():
    """The shared library inside the PyPI package."""
    import importlib.util

    folder = os.path.join(os.path.dirname(importlib.util.find_spec("onnxruntime").origin), "capi")
    return os.path.join(folder, next(f for f in sorted(os.listdir(folder)) if f.startswith("libonnxruntime.so")))


class Failure(Exception):
    """What ONNX Runtime says."""


class Runtime:
    def __init__(self, path=None, threads=0):
        base = c.CDLL(path or library())
        base.OrtGetApiBase.restype = c.POINTER(c.c_void_p * 2)
        get_api = c.CFUNCTYPE(c.c_void_p, c.c_uint32)(base.OrtGetApiBase().contents[0])
        table = get_api(API_VERSION)
        if not table:
            raise Failure(f"the library does not serve API {API_VERSION}")
        self.table, self.threads, self.functions = c.cast(table, c.POINTER(c.c_void_p)), threads, {}
        self.env = self.made("CreateEnv", c.c_int(3), b"reference")
        self.memory = self.made("CreateCpuMemoryInfo", c.c_int(1), c.c_int(0))
        self.allocator = self.made("GetAllocatorWithDefaultOptions")

    def call(self, name, *arguments):
        function = self.functions.get(name)
        if function is None:
            result = None if name.startswith("Release") else c.c_char_p if name == "GetErrorMessage" else c.c_void_p
            function = c.CFUNCTYPE(result)(self.table[FUNCTIONS[name]])
            function.argtypes = None
            self.functions[name] = function
        status = function(*arguments)
        if name.startswith("Release") or name == "GetErrorMessage":
            return status
        if status:
            status = c.c_void_p(status)
            text = self.call("GetErrorMessage", status).decode("utf-8", "replace")
            self.call("ReleaseStatus", status)
            raise Failure(text)
        return None

    def made(self, name, *arguments, kind=c.c_void_p):
        out = kind()
        self.call(name, *arguments, c.byref(out))
        return out

    def session(self, path, level="all", config=()):
        return Session(self, path, level, config)


class Session:
    def __init__(self, runtime, path, level, config):
        self.runtime = r = runtime
        options = r.made("CreateSessionOptions")
        try:
            r.call("SetSessionGraphOptimizationLevel", options, c.c_int(LEVELS[level]))
            r.call("SetIntraOpNumThreads", options, c.c_int(r.threads))
            for key, value in config:
                r.call("AddSessionConfigEntry", options, key.encode(), value.encode())
            self.handle = r.made("CreateSession", r.env, os.fsencode(path), options)
        finally:
            r.call("ReleaseSessionOptions", options)
        self.inputs, self.outputs = self.names("Input"), self.names("Output")

    def names(self, which):
        r = self.runtime
        count = r.made(f"SessionGet{which}Count", self.handle, kind=c.c_size_t).value
        names = []
        for index in range(count):
            name = r.made(f"SessionGet{which}Name", self.handle, c.c_size_t(index), r.allocator)
            names.append(c.string_at(name).decode())  # a few bytes of the allocator's; the process is short
        return names

    def tensor(self, tensor, keep):
        r = self.runtime
        element = c.c_int(TO_RUNTIME.get(tensor.element, tensor.element))
        dims = (c.c_int64 * max(len(tensor.dims), 1))(*tensor.dims)
        rank = c.c_size_t(len(tensor.dims))
        if tensor.element == STRING:
            value = r.made("CreateTensorAsOrtValue", r.allocator, dims, rank, element)
            keep.append(value)
            texts = (c.c_char_p * max(len(tensor.data), 1))(*tensor.data)
            r.call("FillStringTensor", value, texts, c.c_size_t(len(tensor.data)))
            return value
        length = c.c_size_t(memoryview(tensor.data).nbytes)
        data = tensor.data if isinstance(tensor.data, np.ndarray) else np.frombuffer(tensor.data or b"\0", np.uint8)
        value = r.made("CreateTensorWithDataAsOrtValue", r.memory, c.c_void_p(data.ctypes.data), length, dims, rank, element)
        keep.extend([value, data, tensor])
        return value

    def value(self, value, keep):
        if isinstance(value, Tensor):
            return self.tensor(value, keep)
        if isinstance(value, Sequence):
            parts = [self.tensor(t, keep) for t in value.tensors]
            handles = (c.c_void_p * max(len(parts), 1))(*[p.value for p in parts])
            made = self.runtime.made("CreateValue", handles, c.c_size_t(len(parts)), c.c_int(SEQUENCE))
            keep.append(made)
            return made
        raise Failure(f"the C API has no way to give a {type(value).__name__}")

    def run(self, inputs, outputs=None):
        """inputs: pairs of name and value. Gives the values of `outputs`, by default of all."""
        with self.bound(inputs, outputs) as bound:
            return bound.run()

    def bound(self, inputs, outputs=None):
        return Bound(self, inputs, outputs)

    def take(self, handle):
        r = self.runtime
        if not handle or not r.made("HasValue", handle, kind=c.c_int).value:
            return None
        kind = r.made("GetValueType", handle, kind=c.c_int).value
        if kind == TENSOR:
            return self.take_tensor(handle)
        count = r.made("GetValueCount", handle, kind=c.c_size_t).value
        parts = []
        for index in range(count):
            part = r.made("GetValue", handle, c.c_int(index), r.allocator)
            parts.append(self.take(part))
            r.call("ReleaseValue", part)
        if kind == MAP:
            return Map(*parts)
        if parts and isinstance(parts[0], Map):
            return parts
        return Sequence(parts[0].element if parts else 0, parts)

    def take_tensor(self, handle):
        r = self.runtime
        info = r.made("GetTensorTypeAndShape", handle)
        element = r.made("GetTensorElementType", info, kind=c.c_int).value
        rank = r.made("GetDimensionsCount", info, kind=c.c_size_t).value
        dims = (c.c_int64 * max(rank, 1))()
        r.call("GetDimensions", info, dims, c.c_size_t(rank))
        r.call("ReleaseTensorTypeAndShapeInfo", info)
        element, dims = FROM_RUNTIME.get(element, element), tuple(dims[:rank])
        count = int(np.prod(dims, dtype=np.int64))
        if element == STRING:
            if count == 0:
                return Tensor(STRING, dims, [])
            length = r.made("GetStringTensorDataLength", handle, kind=c.c_size_t).value
            text, offsets = c.create_string_buffer(length + 1), (c.c_size_t * count)()
            r.call("GetStringTensorContent", handle, text, c.c_size_t(length), offsets, c.c_size_t(count))
            ends = list(offsets[1:]) + [length]
            return Tensor(STRING, dims, [text.raw[a:b] for a, b in zip(offsets, ends)])
        size = (count * BITS[element] + 7) // 8
        data = r.made("GetTensorMutableData", handle)
        return Tensor(element, dims, c.string_at(data, size) if size else b"")

    def close(self):
        self.runtime.call("ReleaseSession", self.handle)


class Bound:
    """Inputs and names made once, for any number of runs."""

    def __init__(self, session, inputs, outputs):
        self.session, self.keep = session, []
        values = [session.value(v, self.keep) for _, v in inputs]
        names = session.outputs if outputs is None else outputs
        self.input_names = (c.c_char_p * max(len(inputs), 1))(*[n.encode() for n, _ in inputs])
        self.inputs = (c.c_void_p * max(len(values), 1))(*[v.value for v in values])
        self.output_names = (c.c_char_p * len(names))(*[n.encode() for n in names])
        self.counts = c.c_size_t(len(inputs)), c.c_size_t(len(names))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for value in self.keep:
            if isinstance(value, c.c_void_p):
                self.session.runtime.call("ReleaseValue", value)

    def run(self, take=True):
        s, (inputs, outputs) = self.session, self.counts
        found = (c.c_void_p * outputs.value)()
        s.runtime.call("Run", s.handle, None, self.input_names, self.inputs, inputs, self.output_names, outputs, found)
        handles = [c.c_void_p(v) for v in found]
        try:
            return [s.take(h) for h in handles] if take else None
        finally:
            for handle in handles:
                if handle:
                    s.runtime.call("ReleaseValue", handle)
