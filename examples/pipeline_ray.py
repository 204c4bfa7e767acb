"""One model in several Ray actors: each opens the same mini with its full file and holds only its range of capsules.

    pip install ray numpy
    python pipeline_ray.py model.mini.cgraph "Once upon a time" --parts 2 --library target/release/libcapsulegraph.so

Activations travel between the actors as numpy arrays, the likeliest token comes back, and the text is that of one
process. On a cluster (`--address auto`) every node needs the library and the files at the same paths.
"""
import argparse
import ctypes as c
import os
import sys

import numpy as np

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import ray

ABI_VERSION = 1  # CAPG_ABI_VERSION of the header that the structs below were written from
MODES = {"auto": 0, "exact": 1, "fast": 2}


class ModelOptions(c.Structure):
    """capg_model_options."""

    _fields_ = [
        ("struct_size", c.c_size_t),
        ("full_path", c.c_char_p),
        ("full_path_len", c.c_size_t),
        ("full_reader", c.c_void_p),
        ("log", c.c_void_p),
        ("offset", c.c_uint64),
        ("length", c.c_uint64),
        ("full_offset", c.c_uint64),
        ("full_length", c.c_uint64),
        ("memory_budget_bytes", c.c_uint64),
        ("mode", c.c_uint32),
        ("threads", c.c_uint32),
        ("processors", c.c_void_p),
        ("processors_len", c.c_size_t),
        ("parallel_for", c.c_void_p),
        ("parallel_for_data", c.c_void_p),
        ("priority", c.c_uint32),
        ("reserved", c.c_uint32),
        ("budget", c.c_void_p),
        ("first_capsule", c.c_uint32),
        ("end_capsule", c.c_uint32),
        ("session_context", c.c_uint32),
        ("session_kv_type", c.c_uint32),
        ("onnxruntime_path", c.c_char_p),
        ("onnxruntime_path_len", c.c_size_t),
        ("prepack", c.c_uint32),
        ("optimization", c.c_uint32),
        ("joined_bytes", c.c_uint64),
    ]


class PartOptions(c.Structure):
    """capg_part_options."""

    _fields_ = [("struct_size", c.c_size_t), ("context", c.c_uint32), ("kv_type", c.c_uint32)]


class Library:
    """The C API with errors as exceptions. Handles are c_void_p; every argument has its C type."""

    def __init__(self, path):
        try:
            self.capg = c.CDLL(path)
        except OSError as error:
            raise RuntimeError(f"{error}; build it with `cargo build --release`, or name it with --library") from error
        self.capg.capg_error_message.restype = c.c_char_p
        self.capg.capg_error_message.argtypes = [c.c_void_p, c.c_void_p]
        self.capg.capg_abi_version.restype = c.c_uint32
        if self.capg.capg_abi_version() != ABI_VERSION:
            raise RuntimeError(f"{path} has another version of the C API; get the one that this program was written for")

    def __call__(self, name, *arguments):
        error = c.c_void_p()
        if getattr(self.capg, name)(*arguments, c.byref(error)) != 0:
            message = self.capg.capg_error_message(error, None).decode()
            self.capg.capg_error_free(error)
            raise RuntimeError(message)

    def free(self, name, handle):
        getattr(self.capg, name)(handle)


class Model:
    """An opened model, of which only some capsules may be computed with."""

    def __init__(self, library, path, full=None, mode="auto", capsules=(0, 0), threads=0, budget=0):
        self.capg = Library(library)
        self.handle = c.c_void_p()
        path, full = path.encode(), (full or "").encode()
        options = ModelOptions(struct_size=c.sizeof(ModelOptions), mode=MODES[mode], threads=threads)
        options.full_path, options.full_path_len = full or None, len(full)
        options.first_capsule, options.end_capsule = capsules
        options.memory_budget_bytes = budget
        self.capg("capg_model_open", path, c.c_size_t(len(path)), c.byref(options), c.byref(self.handle))

    def capsule_count(self):
        count = c.c_size_t()
        self.capg("capg_model_capsule_count", self.handle, c.byref(count))
        return count.value

    def tokenize(self, text):
        text, tokens, ids, count = text.encode(), c.c_void_p(), c.POINTER(c.c_uint32)(), c.c_size_t()
        add_special = c.c_uint32(1)
        self.capg("capg_model_tokenize", self.handle, text, c.c_size_t(len(text)), add_special, c.byref(tokens))
        self.capg("capg_tokens_view", tokens, c.byref(ids), c.byref(count))
        result = ids[: count.value]
        self.capg.free("capg_tokens_free", tokens)
        return result

    def detokenize(self, ids):
        text, data, size = c.c_void_p(), c.c_void_p(), c.c_size_t()
        array = (c.c_uint32 * len(ids))(*ids)
        self.capg("capg_model_detokenize", self.handle, array, c.c_size_t(len(ids)), c.c_uint32(0), c.byref(text))
        self.capg("capg_text_view", text, c.byref(data), c.byref(size))
        result = c.string_at(data, size.value).decode()
        self.capg.free("capg_text_free", text)
        return result

    def is_end(self, token):
        end = c.c_uint32()
        self.capg("capg_model_is_end_token", self.handle, c.c_uint32(token), c.byref(end))
        return end.value == 1


@ray.remote
class Part:
    """A range of the capsules in a process of its own."""

    def __init__(self, model, context):
        self.model = Model(**model)
        self.capg, self.handle = self.model.capg, c.c_void_p()
        options = PartOptions(struct_size=c.sizeof(PartOptions), context=context)
        self.capg("capg_part_new", self.model.handle, c.byref(options), c.byref(self.handle))

    def eval(self, batch):
        """Token ids or activations [n, width] in; activations [n, width] or the last token's logits [1, vocab] out."""
        nothing = c.c_void_p()
        if isinstance(batch, np.ndarray):
            rows, columns = batch.shape
            data = np.ascontiguousarray(batch, np.float32)
            size = c.c_size_t(rows), c.c_size_t(columns)
            address = c.c_void_p(data.ctypes.data)
            self.capg("capg_part_eval_activations", self.handle, address, *size, c.c_uint32(0), nothing)
        else:
            ids = (c.c_uint32 * len(batch))(*batch)
            self.capg("capg_part_eval", self.handle, ids, c.c_size_t(len(batch)), c.c_uint32(0), nothing)
        data, rows, columns = c.POINTER(c.c_float)(), c.c_size_t(), c.c_size_t()
        self.capg("capg_part_output", self.handle, c.byref(data), c.byref(rows), c.byref(columns))
        # A view of the part; Ray copies it before the next call.
        return np.ctypeslib.as_array(data, (rows.value, columns.value))

    def next_token(self, activations):
        """As eval of the last part, which answers with the likeliest token."""
        return int(np.argmax(self.eval(activations)[0]))


def generate(model, parts, prompt, most):
    """Yields the text as it becomes complete."""
    ids = model.tokenize(prompt)
    printed, batch = len(model.detokenize(ids)), ids
    for _ in range(most):
        passed = batch
        for part in parts[:-1]:
            passed = part.eval.remote(passed)
        token = ray.get(parts[-1].next_token.remote(passed))
        if model.is_end(token):
            break
        ids, batch = ids + [token], [token]
        # A character whose bytes have not all come is U+FFFD so far.
        text = model.detokenize(ids).rstrip("\ufffd")
        yield text[printed:]
        printed = max(printed, len(text))
    yield model.detokenize(ids)[printed:]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("model", help="a mini or a full file")
    arguments.add_argument("prompt")
    arguments.add_argument("--full", help="the mini's full file, where it is not beside it")
    arguments.add_argument("--mode", choices=MODES, default="auto")
    arguments.add_argument("--parts", type=int, default=2, help="actors (default 2)")
    arguments.add_argument("--tokens", type=int, default=64, help="at most so many (default 64)")
    arguments.add_argument("--context", type=int, default=0, help="positions (default: the model's, at most 4096)")
    arguments.add_argument("--threads", type=int, default=1, help="of each actor (default 1)")
    arguments.add_argument("--memory", type=int, default=0, help="budget of each actor in bytes (default: none)")
    arguments.add_argument("--library", default="target/release/libcapsulegraph.so")
    arguments.add_argument("--address", help="of a Ray cluster (default: processes of this machine)")
    o = arguments.parse_args()
    library, path = os.path.abspath(o.library), os.path.abspath(o.model)
    full = o.full and os.path.abspath(o.full)
    # Opening maps the file: nothing is computed with here, so no weight is read.
    model = Model(library, path, full, o.mode, threads=1)
    count = model.capsule_count()
    if not 1 <= o.parts <= count:
        sys.exit(f"--parts {o.parts}: the model has {count} capsules; name a number from 1 to {count}")
    if o.address:
        ray.init(address=o.address)
    else:
        local = dict(include_dashboard=False, num_cpus=o.parts, _node_ip_address="127.0.0.1")
        ray.init(**local, object_store_memory=100 << 20, logging_level="error")
    cuts = [count * i // o.parts for i in range(o.parts + 1)]
    own = dict(library=library, path=path, full=full, mode=o.mode, threads=o.threads, budget=o.memory)
    parts = [Part.remote(dict(own, capsules=range_), o.context) for range_ in zip(cuts, cuts[1:])]
    try:
        for text in generate(model, parts, o.prompt, o.tokens):
            print(text, end="", flush=True)
        print()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    # Ray copies the code of the main program into the actors, which ctypes does not allow; modules it imports there.
    from pipeline_ray import main

    try:
        main()
    except RuntimeError as error:
        sys.exit(f"pipeline_ray: {error}")
