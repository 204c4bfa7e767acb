"""Measures llama.cpp (PyPI llama-cpp-python) the way llama-bench does, and compares logits with ours.

    peer.py speed MODEL.gguf [options]                                one JSON line: times, speeds, memory
    peer.py agree CGRAPH_PROGRAM MODEL.gguf DATA FOLDER               one JSON line: agreement figures
    peer.py reference MODEL.gguf DATA FOLDER                          writes DATA/smollm2.f32.*
    peer.py mix MODEL.gguf OUT.gguf TYPE                              llama-quantize's mix of that name, such as Q4_K_M

`agree` evaluates the passages of DATA/smollm2.reference.bin (DATA is tests/data) with both engines: on the
model as it is, and on its weights decoded to f32, where neither engine rounds activations. `reference` writes
llama.cpp's outputs on the decoded weights for the tests. FOLDER keeps the decoded and converted files.

`speed` takes, in one process: the time from before the model is loaded to the first token after a prompt of
--first tokens (a context of 512, the page cache as it is); tokens a second of each --prompt, of --generate tokens
decoded at each --depth (from the greatest on: a context is kept), and of passes of each --pass tokens with the
logits of all, after a context of --pass-depth; memory of the process, without what it held before: the most
anonymous memory after the first token and after any test, and the system's own peak of resident memory.
"""
import argparse
import ctypes
import json
import os
import subprocess
import time

import llama_cpp
import numpy as np


# Passes of one measurement, and the most tokens of a prompt and decoded tokens of the run before each measurement,
# which is not measured: as src/generate/bench.rs has them.
PASSES = 8
WARM_UP = (128, 16)


class Peer:
    """A model in llama.cpp, driven through its C API, without the Python wrapper's overhead per token."""

    def __init__(self, path, threads, context, repack=True):
        params = llama_cpp.llama_model_default_params()
        params.use_extra_bufts = repack
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.context = None
        self.open_context(threads, context, context)

    def open_context(self, threads, context, ubatch):
        """A context in place of the one before; batches are cut into parts of `ubatch` tokens."""
        if self.context:
            llama_cpp.llama_free(self.context)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, context, ubatch
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.held = 0

    def hold(self, tokens, depth):
        """Brings the context to exactly the first `depth` of `tokens`."""
        if self.held < depth:
            self.evaluate(tokens[self.held : depth])
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self.context), 0, depth, -1)
        self.held = depth

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        self.held = 0

    def evaluate(self, tokens):
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        self.decode(llama_cpp.llama_batch_get_one(array, len(tokens)))

    def decode(self, batch):
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        llama_cpp.llama_synchronize(self.context)
        self.held += batch.n_tokens

    def batch(self, tokens, start):
        """Tokens at positions `start ..` whose logits are all asked for; to be freed."""
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, start + i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, 1
        return batch

    def logits(self, i):
        """[vocab] float32: a view of the logits of the last batch's token `i`."""
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, i), shape=(self.vocab,))

    def all_logits(self, tokens):
        """[n, vocab] float32: each position's logits, asked for explicitly, in one batch."""
        self.clear()
        batch = self.batch(tokens, 0)
        self.decode(batch)
        rows = [self.logits(i).copy() for i in range(len(tokens))]
        llama_cpp.llama_batch_free(batch)
        return np.stack(rows)


def memory():
    """Bytes of this process as the system counts them."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return {name: 1024 * int(fields[name].split()[0]) for name in ("VmHWM", "VmRSS", "RssAnon")}


def timed(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def prefill_speed(peer, tokens, count):
    for n in (min(count, WARM_UP[0]), count):
        peer.hold(tokens, 0)
        seconds = timed(lambda: peer.evaluate(tokens[:n]))
    return count / seconds


def decode_speed(peer, tokens, depth, count):
    for n in (min(count, WARM_UP[1]), count):
        peer.hold(tokens, depth)
        seconds = timed(lambda: [peer.evaluate([token]) for token in tokens[depth : depth + n]])
    return count / seconds


def pass_speed(peer, tokens, depth, count):
    batch = peer.batch(tokens[depth : depth + count], depth)

    def once():
        peer.hold(tokens, depth)
        peer.decode(batch)

    for _ in range(2):
        peer.hold(tokens, depth)
        seconds = timed(lambda: [once() for _ in range(PASSES)])
    llama_cpp.llama_batch_free(batch)
    return PASSES * count / seconds


def speed(args):
    before = memory()
    begun = time.perf_counter()
    peer = Peer(args.model, args.threads, 512, not args.no_repack)
    tokens = [int(t) for t in np.random.default_rng(1).integers(10, peer.vocab - 10, 1 << 14)]
    peer.evaluate(tokens[: args.first])
    peer.logits(-1).argmax()
    result = {"first_token_ms": 1e3 * (time.perf_counter() - begun)}
    anonymous = [memory()["RssAnon"]]

    def sampled(measure, *test):
        value = measure(peer, tokens, *test)
        anonymous.append(memory()["RssAnon"])
        return value

    sizes = args.prompt + [depth + args.generate for depth in args.depth]
    sizes += [args.pass_depth + count for count in args.passes]
    if sizes:
        peer.open_context(args.threads, max(sizes), min(512, max(sizes)))
        result["prefill"] = {n: sampled(prefill_speed, n) for n in args.prompt}
        result["decode"] = {depth: sampled(decode_speed, depth, args.generate) for depth in args.depth}
        result["pass"] = {n: sampled(pass_speed, args.pass_depth, n) for n in args.passes}
    result["anonymous_bytes"] = max(anonymous) - before["RssAnon"]
    result["resident_bytes"] = memory()["VmHWM"] - before["VmRSS"]
    print(json.dumps(result))


def passages(path):
    """[(ids, top [n, k], logit [n, k], lse [n])] of a file in the format of tests/tools/reference_smollm2.py."""
    words = np.fromfile(path, dtype="<u4")
    at, found = 1, []
    for _ in range(words[0]):
        n, k = int(words[at]), int(words[at + 1])
        ids = words[at + 2 : at + 2 + n].astype(int)
        rows = words[at + 2 + n : at + 2 + n + n * (2 * k + 1)].reshape(n, 2 * k + 1)
        floats = rows.view("<f4").astype(np.float64)
        found.append((ids.tolist(), rows[:, :k].astype(int), floats[:, k : 2 * k], floats[:, -1]))
        at += 2 + n + n * (2 * k + 1)
    return found


def decoded(model, target):
    """Writes the model with every tensor decoded to f32 (metadata as it is)."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize

    reader = GGUFReader(model)
    writer = GGUFWriter(target + ".part", "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind, value = field.types[0], field.contents()
        sub = field.types[1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, kind, sub)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(target + ".part", target)


def log_softmax(rows):
    rows = rows.astype(np.float64) - rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def compare(reference, other, ids):
    p, q = log_softmax(reference), log_softmax(other)
    following = np.array(ids[1:])
    nll = lambda rows: -rows[np.arange(len(following)), following]
    return {
        "same": (reference.argmax(1) == other.argmax(1)).astype(float),
        "kl": (np.exp(p) * (p - q)).sum(axis=1),
        "nll": nll(q) - nll(p),
    }


def compare_stored(stored, logits):
    """llama.cpp here against its stored outputs from another CPU, over the stored tokens and the rest as one."""
    same, divergence = [], []
    for (_, top, logit, lse), rows in zip(stored, logits):
        p, q = logit - lse[:, None], np.take_along_axis(log_softmax(rows), top, axis=1)
        rest_p = np.maximum(1 - np.exp(p).sum(axis=1), 1e-12)
        rest_q = np.maximum(1 - np.exp(q).sum(axis=1), 1e-12)
        divergence.append((np.exp(p) * (p - q)).sum(axis=1) + rest_p * np.log(rest_p / rest_q))
        same.append(rows.argmax(1) == top[:, 0])
    same, divergence = np.concatenate(same), np.concatenate(divergence)
    return {"positions": len(same), "same": same.mean(), "kl": divergence.mean()}


def decoded_model(args):
    path = os.path.join(args.folder, "decoded.gguf")
    if not os.path.exists(path):
        decoded(args.model, path)
    return path


def reference(args):
    stored = passages(os.path.join(args.data, "smollm2.reference.bin"))
    peer = Peer(decoded_model(args), 2, 1024)
    with open(os.path.join(args.data, "smollm2.f32.reference.bin"), "wb") as file:
        file.write(np.array([len(stored)], dtype="<u4").tobytes())
        for ids, top, _, _ in stored:
            rows, k = peer.all_logits(ids), top.shape[1]
            best = np.argsort(-rows, axis=1, kind="stable")[:, :k]
            peak = rows.max(axis=1, keepdims=True).astype(np.float64)
            lse = np.log(np.exp(rows - peak).sum(axis=1, keepdims=True)) + peak
            file.write(np.array([len(ids), k], dtype="<u4").tobytes() + np.array(ids, dtype="<i4").tobytes())
            parts = [best.astype("<i4"), np.take_along_axis(rows, best, 1).astype("<f4"), lse.astype("<f4")]
            file.write(np.concatenate([part.view("<u4") for part in parts], axis=1).tobytes())
    with open(os.path.join(args.data, "smollm2.greedy.json")) as file:
        prompts = json.load(file)
    for prompt in prompts:
        tokens, out, gap = list(prompt["ids"]), [], []
        peer.clear()
        peer.evaluate(tokens)
        for _ in range(len(prompt["out"])):
            row = peer.logits(-1)
            second, first = np.partition(row, -2)[-2:]
            out.append(int(row.argmax()))
            gap.append(round(float(first - second), 4))
            peer.evaluate(out[-1:])
        prompt["out"], prompt["gap"] = out, gap
    with open(os.path.join(args.data, "smollm2.f32.greedy.json"), "w") as file:
        json.dump(prompts, file)


def agree(args):
    stored = passages(os.path.join(args.data, "smollm2.reference.bin"))
    texts = [ids for ids, *_ in stored]
    logits = {}
    for name, path in (("quantised", args.model), ("decoded", decoded_model(args))):
        own = os.path.join(args.folder, name + ".cgraph")
        subprocess.run([args.program, "convert", path, "-o", own, "--no-mini", "-q"], check=True, stdout=subprocess.DEVNULL)
        peer = Peer(path, 2, 512)
        for i, ids in enumerate(texts):
            tokens, out = os.path.join(args.folder, "ids.json"), os.path.join(args.folder, "logits.npy")
            with open(tokens, "w") as file:
                json.dump(ids, file)
            command = [args.program, "eval", own, "--tokens", tokens, "--logits", out, "-q"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            logits[name, "ours", i] = np.load(out)
            logits[name, "peer", i] = peer.all_logits(ids)
    pairs = {
        "quantised: ours against llama.cpp": (("quantised", "peer"), ("quantised", "ours")),
        "f32 weights: ours against llama.cpp": (("decoded", "peer"), ("decoded", "ours")),
        "ours: quantised against f32 weights": (("decoded", "ours"), ("quantised", "ours")),
        "llama.cpp: quantised against f32 weights": (("decoded", "peer"), ("quantised", "peer")),
    }
    result = {}
    for title, (reference, other) in pairs.items():
        parts = [compare(logits[(*reference, i)], logits[(*other, i)], ids) for i, ids in enumerate(texts)]
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        result[title] = {
            "positions": len(joined["same"]),
            "same": joined["same"].mean(),
            "kl": joined["kl"].mean(),
            "perplexity_ratio": float(np.exp(joined["nll"].mean())),
        }
    peer_rows = [logits["quantised", "peer", i] for i in range(len(texts))]
    result["quantised: llama.cpp here against llama.cpp on Zen 3"] = compare_stored(stored, peer_rows)
    print(json.dumps(result))


def mix(args):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + args.type), 2
    if llama_cpp.llama_model_quantize(args.model.encode(), args.out.encode(), params) != 0:
        raise RuntimeError("llama_model_quantize failed")


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("speed")
    command.add_argument("model")
    numbers = lambda text: [int(number) for number in text.split(",") if number]
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--first", type=int, default=16)
    command.add_argument("--prompt", type=numbers, default=[])
    command.add_argument("--generate", type=int, default=128)
    command.add_argument("--depth", type=numbers, default=[])
    command.add_argument("--pass", type=numbers, default=[], dest="passes")
    command.add_argument("--pass-depth", type=int, default=64)
    command.add_argument("--no-repack", action="store_true")
    command.set_defaults(run=speed)
    command = commands.add_parser("agree")
    command.add_argument("program")
    command.add_argument("model")
    command.add_argument("data")
    command.add_argument("folder")
    command.set_defaults(run=agree)
    command = commands.add_parser("reference")
    command.add_argument("model")
    command.add_argument("data")
    command.add_argument("folder")
    command.set_defaults(run=reference)
    command = commands.add_parser("mix")
    command.add_argument("model")
    command.add_argument("out")
    command.add_argument("type")
    command.set_defaults(run=mix)
    args = parser.parse_args()
    llama_cpp.llama_log_set(SILENT, ctypes.c_void_p(0))
    args.run(args)


@llama_cpp.llama_log_callback
def SILENT(level, text, user_data):
    pass


if __name__ == "__main__":
    main()
