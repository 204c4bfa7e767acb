"""The C API as ctypes sees it: constants, structs, callbacks and functions of include/capsulegraph.h, nothing else.

tests/test_native.py compares all of it with the header, and the structs with what a C compiler makes of them.
"""

import ctypes
from ctypes import CFUNCTYPE, POINTER, Structure
from ctypes import c_char_p as text
from ctypes import c_float as f32
from ctypes import c_int32 as i32
from ctypes import c_int64 as i64
from ctypes import c_size_t as size
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64
from ctypes import c_void_p as address
from typing import Any, Dict, List, Tuple

# A pointer to an opaque struct, and one to memory, are the same to ctypes; the names tell them apart for the reader. Text in
# structs and callbacks is an address, since ctypes would cut a `c_char_p` at the first NUL.
handle = address
pointer = POINTER

ABI_VERSION = 1
OK = 0
ERROR_INVALID_ARGUMENT = 1
ERROR_UNSUPPORTED = 2
ERROR_IO = 3
ERROR_MALFORMED = 4
ERROR_MISMATCH = 5
ERROR_CORRUPT = 6
ERROR_NOT_FOUND = 7
ERROR_LIMIT = 8
ERROR_CANCELLED = 9
ERROR_HOST = 10
ERROR_BUSY = 11
ERROR_INTERNAL = 12
LOG_ERROR = 1
LOG_WARNING = 2
LOG_INFO = 3
LOG_DEBUG = 4
PHASE_CONVERT = 1
PHASE_SPLIT = 2
PHASE_VERIFY = 3
PLANES_AUTO = 0
PLANES_WHOLE = 1
PLANES_DIVIDED = 2
PRIORITY_INHERITED = 0
PRIORITY_LOW = 1
PRIORITY_LOWEST = 2
MODE_AUTO = 0
MODE_EXACT = 1
MODE_FAST = 2
MODE_SPECULATIVE = 3
PREPACK_AUTO = 0
PREPACK_ON = 1
PREPACK_OFF = 2
OPTIMIZATION_DEFAULT = 0
OPTIMIZATION_OFF = 1
JOINED_NONE = 1
TOKENIZE_ADD_SPECIAL = 1
TOKENIZE_PARSE_SPECIAL = 2
DETOKENIZE_SPECIAL = 1
CHAT_NO_REPLY = 1
KV_F16 = 0
KV_Q8_0 = 1
SESSION_WITHOUT_LOOKUP = 1
EVAL_ALL_LOGITS = 1
FINISH_NONE = 0
FINISH_END = 1
FINISH_STOP = 2
FINISH_LENGTH = 3
FINISH_CONTEXT = 4
FINISH_CALLBACK = 5
ELEMENT_NONE = 0
ELEMENT_FLOAT32 = 1
ELEMENT_UINT8 = 2
ELEMENT_INT8 = 3
ELEMENT_UINT16 = 4
ELEMENT_INT16 = 5
ELEMENT_INT32 = 6
ELEMENT_INT64 = 7
ELEMENT_STRING = 8
ELEMENT_BOOL = 9
ELEMENT_FLOAT16 = 10
ELEMENT_FLOAT64 = 11
ELEMENT_UINT32 = 12
ELEMENT_UINT64 = 13
ELEMENT_COMPLEX64 = 14
ELEMENT_COMPLEX128 = 15
ELEMENT_BFLOAT16 = 16
ELEMENT_FLOAT8E4M3FN = 17
ELEMENT_FLOAT8E4M3FNUZ = 18
ELEMENT_FLOAT8E5M2 = 19
ELEMENT_FLOAT8E5M2FNUZ = 20
ELEMENT_UINT4 = 21
ELEMENT_INT4 = 22
ELEMENT_FLOAT4E2M1 = 23
ELEMENT_FLOAT8E8M0 = 24
ELEMENT_UINT2 = 25
ELEMENT_INT2 = 26
VALUE_TENSOR = 0
VALUE_SEQUENCE = 1
VALUE_NONE = 2
VALUE_MAP = 3
VALUE_SEQUENCE_OF_MAPS = 4
VALUE_SPARSE = 5
PORT_INPUT = 0
PORT_OUTPUT = 1
LAYOUT_SOURCE = 0
LAYOUT_STORED = 1
LAYOUT_F32 = 2

LogCallback = CFUNCTYPE(None, address, u32, address, size)
ProgressCallback = CFUNCTYPE(None, address, u32, u64, u64)
ReadCallback = CFUNCTYPE(i32, address, u64, address, size)
ParallelTask = CFUNCTYPE(None, address)
ParallelForCallback = CFUNCTYPE(None, address, u32, ParallelTask, address)
TokenCallback = CFUNCTYPE(i32, address, u32, address, size)


class ConvertOptions(Structure):
    """`capg_convert_options`."""

    _fields_ = [
        ("struct_size", size),
        ("mini_path", address),
        ("mini_path_len", size),
        ("light", address),
        ("light_len", size),
        ("calibrate", address),
        ("calibrate_len", size),
        ("cancel", handle),
        ("log", handle),
        ("progress", ProgressCallback),
        ("progress_user_data", address),
        ("mini_bytes", u64),
        ("no_mini", u32),
        ("planes", u32),
        ("capsule_bytes", u64),
        ("capsule_count", u32),
        ("max_error", f32),
        ("onnxruntime_path", address),
        ("onnxruntime_path_len", size),
    ]


class SplitOptions(Structure):
    """`capg_split_options`."""

    _fields_ = [
        ("struct_size", size),
        ("light", address),
        ("light_len", size),
        ("calibrate", address),
        ("calibrate_len", size),
        ("cancel", handle),
        ("log", handle),
        ("progress", ProgressCallback),
        ("progress_user_data", address),
        ("mini_bytes", u64),
        ("onnxruntime_path", address),
        ("onnxruntime_path_len", size),
        ("max_error", f32),
        ("reserved", u32),
    ]


class VerifyOptions(Structure):
    """`capg_verify_options`."""

    _fields_ = [
        ("struct_size", size),
        ("full_path", address),
        ("full_path_len", size),
        ("cancel", handle),
        ("log", handle),
        ("progress", ProgressCallback),
        ("progress_user_data", address),
        ("deep", u32),
        ("repair", u32),
    ]


class Reader(Structure):
    """`capg_reader`."""

    _fields_ = [
        ("struct_size", size),
        ("read", ReadCallback),
        ("user_data", address),
        ("name", address),
        ("name_len", size),
        ("size", u64),
    ]


class ModelOptions(Structure):
    """`capg_model_options`."""

    _fields_ = [
        ("struct_size", size),
        ("full_path", address),
        ("full_path_len", size),
        ("full_reader", pointer(Reader)),
        ("log", handle),
        ("offset", u64),
        ("length", u64),
        ("full_offset", u64),
        ("full_length", u64),
        ("memory_budget_bytes", u64),
        ("mode", u32),
        ("threads", u32),
        ("processors", pointer(u32)),
        ("processors_len", size),
        ("parallel_for", ParallelForCallback),
        ("parallel_for_data", address),
        ("priority", u32),
        ("reserved", u32),
        ("budget", handle),
        ("first_capsule", u32),
        ("end_capsule", u32),
        ("session_context", u32),
        ("session_kv_type", u32),
        ("onnxruntime_path", address),
        ("onnxruntime_path_len", size),
        ("prepack", u32),
        ("optimization", u32),
        ("joined_bytes", u64),
    ]


class ChatMessage(Structure):
    """`capg_chat_message`."""

    _fields_ = [
        ("role", address),
        ("role_len", size),
        ("content", address),
        ("content_len", size),
    ]


class SessionOptions(Structure):
    """`capg_session_options`."""

    _fields_ = [
        ("struct_size", size),
        ("context", u32),
        ("batch", u32),
        ("kv_type", u32),
        ("flags", u32),
    ]


class String(Structure):
    """`capg_string`."""

    _fields_ = [
        ("data", address),
        ("len", size),
    ]


class GenerateOptions(Structure):
    """`capg_generate_options`."""

    _fields_ = [
        ("struct_size", size),
        ("stop", pointer(String)),
        ("stop_count", size),
        ("max_tokens", u64),
        ("seed", u64),
        ("temperature", f32),
        ("top_p", f32),
        ("min_p", f32),
        ("repeat_penalty", f32),
        ("top_k", u32),
        ("repeat_window", u32),
        ("ignore_end", u32),
        ("reserved", u32),
    ]


class Slice(Structure):
    """`capg_slice`."""

    _fields_ = [
        ("struct_size", size),
        ("text", address),
        ("text_len", size),
        ("tokens", pointer(u32)),
        ("token_count", size),
        ("more", u32),
        ("finish_reason", u32),
    ]


class PartOptions(Structure):
    """`capg_part_options`."""

    _fields_ = [
        ("struct_size", size),
        ("context", u32),
        ("kv_type", u32),
    ]


class Tensor(Structure):
    """`capg_tensor`."""

    _fields_ = [
        ("data", address),
        ("data_len", size),
        ("dims", pointer(i64)),
        ("rank", size),
        ("element", u32),
        ("reserved", u32),
    ]


class Value(Structure):
    """`capg_value`."""

    _fields_ = [
        ("name", address),
        ("name_len", size),
        ("tensors", pointer(Tensor)),
        ("count", size),
        ("kind", u32),
        ("element", u32),
    ]


class Port(Structure):
    """`capg_port`."""

    _fields_ = [
        ("struct_size", size),
        ("name", address),
        ("name_len", size),
        ("dims", pointer(i64)),
        ("dim_names", pointer(String)),
        ("rank", size),
        ("kind", u32),
        ("element", u32),
        ("has_shape", u32),
        ("optional", u32),
    ]


class RunOptions(Structure):
    """`capg_run_options`."""

    _fields_ = [
        ("struct_size", size),
        ("flags", u32),
        ("reserved", u32),
    ]


class TensorView(Structure):
    """`capg_tensor_view`."""

    _fields_ = [
        ("struct_size", size),
        ("name", address),
        ("name_len", size),
        ("encoding", address),
        ("encoding_len", size),
        ("layout", address),
        ("layout_len", size),
        ("shape", pointer(u64)),
        ("dimensions", size),
        ("data", address),
        ("data_len", size),
    ]


# Name without `capg_`: what it returns, and its parameters.
FUNCTIONS: Dict[str, Tuple[Any, List[Any]]] = {
    "version_string": (text, []),
    "abi_version": (u32, []),
    "status_name": (text, [u32]),
    "error_status": (u32, [handle]),
    "error_message": (text, [handle, pointer(size)]),
    "error_free": (None, [handle]),
    "text_view": (u32, [handle, pointer(address), pointer(size), pointer(handle)]),
    "text_free": (None, [handle]),
    "tokens_view": (u32, [handle, pointer(pointer(u32)), pointer(size), pointer(handle)]),
    "tokens_free": (None, [handle]),
    "budget_new": (u32, [u64, pointer(handle), pointer(handle)]),
    "budget_resize": (u32, [handle, u64, pointer(handle)]),
    "budget_bytes": (u32, [handle, pointer(u64), pointer(u64), pointer(handle)]),
    "budget_free": (None, [handle]),
    "cancel_new": (u32, [pointer(handle), pointer(handle)]),
    "cancel_trigger": (u32, [handle, pointer(handle)]),
    "cancel_reset": (u32, [handle, pointer(handle)]),
    "cancel_is_triggered": (u32, [handle, pointer(u32), pointer(handle)]),
    "cancel_free": (None, [handle]),
    "log_new": (u32, [u32, pointer(handle), pointer(handle)]),
    "log_deliver": (u32, [handle, LogCallback, address, pointer(handle)]),
    "log_free": (None, [handle]),
    "convert": (u32, [text, size, text, size, pointer(ConvertOptions), pointer(handle), pointer(handle)]),
    "split": (u32, [text, size, text, size, pointer(SplitOptions), pointer(handle), pointer(handle)]),
    "verify": (u32, [text, size, pointer(VerifyOptions), pointer(size), pointer(handle), pointer(handle)]),
    "inspect": (u32, [text, size, u32, pointer(handle), pointer(handle)]),
    "model_inspect": (u32, [handle, u32, pointer(handle), pointer(handle)]),
    "model_open": (u32, [text, size, pointer(ModelOptions), pointer(handle), pointer(handle)]),
    "model_open_reader": (u32, [pointer(Reader), pointer(ModelOptions), pointer(handle), pointer(handle)]),
    "model_mode": (u32, [handle, pointer(u32), pointer(handle)]),
    "model_mode_reason": (u32, [handle, pointer(address), pointer(size), pointer(handle)]),
    "model_name": (u32, [handle, pointer(address), pointer(size), pointer(handle)]),
    "model_vocab_size": (u32, [handle, pointer(u32), pointer(handle)]),
    "model_embedding_length": (u32, [handle, pointer(u32), pointer(handle)]),
    "model_context_length": (u32, [handle, pointer(u32), pointer(handle)]),
    "model_threads": (u32, [handle, pointer(u32), pointer(handle)]),
    "model_held_bytes": (u32, [handle, pointer(u64), pointer(handle)]),
    "model_has_chat_template": (u32, [handle, pointer(u32), pointer(handle)]),
    "model_is_end_token": (u32, [handle, u32, pointer(u32), pointer(handle)]),
    "model_free": (None, [handle]),
    "model_tokenize": (u32, [handle, text, size, u32, pointer(handle), pointer(handle)]),
    "model_detokenize": (u32, [handle, pointer(u32), size, u32, pointer(handle), pointer(handle)]),
    "model_chat_prompt": (u32, [handle, pointer(ChatMessage), size, u32, pointer(handle), pointer(handle)]),
    "model_chat_tokens": (u32, [handle, pointer(ChatMessage), size, pointer(handle), pointer(handle)]),
    "session_new": (u32, [handle, pointer(SessionOptions), pointer(handle), pointer(handle)]),
    "session_eval": (u32, [handle, pointer(u32), size, u32, handle, pointer(handle)]),
    "session_logits": (u32, [handle, pointer(pointer(f32)), pointer(size), pointer(size), pointer(handle)]),
    "session_tokens": (u32, [handle, pointer(pointer(u32)), pointer(size), pointer(handle)]),
    "session_context": (u32, [handle, pointer(size), pointer(handle)]),
    "session_truncate": (u32, [handle, size, pointer(handle)]),
    "session_reset": (u32, [handle, pointer(handle)]),
    "session_report": (u32, [handle, pointer(handle), pointer(handle)]),
    "session_free": (None, [handle]),
    "session_generate": (u32, [
        handle, pointer(u32), size, pointer(GenerateOptions), TokenCallback, address, handle, pointer(u32),
        pointer(handle)
    ]),
    "session_start": (u32, [handle, pointer(u32), size, pointer(GenerateOptions), pointer(handle)]),
    "session_advance": (u32, [handle, u64, size, handle, pointer(Slice), pointer(handle)]),
    "session_slice": (u32, [handle, pointer(Slice), pointer(handle)]),
    "group_new": (u32, [pointer(handle), pointer(handle)]),
    "group_advance": (u32, [handle, pointer(handle), size, u64, size, handle, pointer(size), pointer(handle)]),
    "group_free": (None, [handle]),
    "part_new": (u32, [handle, pointer(PartOptions), pointer(handle), pointer(handle)]),
    "part_eval": (u32, [handle, pointer(u32), size, u32, handle, pointer(handle)]),
    "part_eval_activations": (u32, [handle, pointer(f32), size, size, u32, handle, pointer(handle)]),
    "part_output": (u32, [handle, pointer(pointer(f32)), pointer(size), pointer(size), pointer(handle)]),
    "part_len": (u32, [handle, pointer(size), pointer(handle)]),
    "part_truncate": (u32, [handle, size, pointer(handle)]),
    "part_free": (None, [handle]),
    "values_count": (u32, [handle, pointer(size), pointer(handle)]),
    "values_view": (u32, [handle, size, pointer(Value), pointer(handle)]),
    "values_free": (None, [handle]),
    "model_port_count": (u32, [handle, u32, pointer(size), pointer(handle)]),
    "model_port": (u32, [handle, u32, size, pointer(Port), pointer(handle)]),
    "model_run": (u32, [
        handle, pointer(Value), size, pointer(String), size, pointer(RunOptions), handle, pointer(handle),
        pointer(handle)
    ]),
    "model_report": (u32, [handle, pointer(handle), pointer(handle)]),
    "model_capsule_count": (u32, [handle, pointer(size), pointer(handle)]),
    "model_capsule_id": (u32, [handle, size, pointer(address), pointer(size), pointer(handle)]),
    "model_fetch": (u32, [handle, text, size, u32, pointer(handle), pointer(handle)]),
    "capsule_precision": (u32, [handle, pointer(address), pointer(size), pointer(handle)]),
    "capsule_tensor_count": (u32, [handle, pointer(size), pointer(handle)]),
    "capsule_tensor": (u32, [handle, size, pointer(TensorView), pointer(handle)]),
    "capsule_free": (None, [handle]),
    "model_fetch_begin": (u32, [handle, pointer(String), size, u32, pointer(handle), pointer(handle)]),
    "fetch_poll": (u32, [handle, pointer(size), pointer(handle)]),
    "fetch_take": (u32, [handle, size, pointer(handle), pointer(handle)]),
    "model_prefetch": (u32, [handle, pointer(size), size, pointer(handle)]),
    "fetch_free": (None, [handle]),
    "export": (u32, [text, size, text, size, handle, pointer(handle), pointer(handle)]),
    "model_export_capsule": (u32, [
        handle, text, size, text, size, handle, pointer(handle), pointer(handle)
    ]),
}


def declare(library: ctypes.CDLL) -> None:
    """Gives every function its types; one that the library does not have raises AttributeError."""
    for name, (result, parameters) in FUNCTIONS.items():
        function = getattr(library, "capg_" + name)
        function.restype, function.argtypes = result, parameters
