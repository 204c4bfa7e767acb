"""Nested planes against separate light copies: how well each drafts for the bytes it takes, and what a pass then streams.

    planes.py CGRAPH MODEL.gguf FOLDER F16.gguf Q8_0.gguf > TABLES.md      (needs the PyPI packages gguf and numpy)

MODEL is SmolLM2 as Q4_1; the other two are what noisy_smollm2.py makes of it. FOLDER takes scratch files.
A division splits each weight into a first plane, which alone gives a coarse weight and stays in memory, and a second
one; that both give back the weight bit for bit is asserted. Separate copies are minis that `cgraph split` writes.
Logits are computed here, in f32, with the weights that each form decodes to, so that only the weights differ; the
library's own logits of the full file are held against them once a model. Compared are the passages and the chat answers
of tests/data and prose of this repository's pages. Plans are calibrated on the library's own sample, which is none of these.
"""
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

# Many products are small: threads of ours on whole texts serve better than OpenBLAS's on each product.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np
from gguf import GGMLQuantizationType as T, GGUFReader
from gguf.quants import dequantize

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = ["README.md", "docs/c-api.md", "docs/format.md", "docs/report.md"]
PROSE = 640
POOL = ThreadPoolExecutor(os.cpu_count())
# As src/store/forecast.rs has them: guesses of a round, rates of disk and memory, cost of one more token in a pass.
GUESSES, DISK, MEMORY, EACH = 24, 1e9, 12e9, 0.04
EMBED = "token_embd.weight"
PARTS = {"attn": ["attn_q", "attn_k", "attn_v", "attn_output"], "ffn": ["ffn_gate", "ffn_up", "ffn_down"]}


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# Divisions: each gives the coarse weights and the bits of a weight in the first and in the second plane, on average.


def ulps(kind):
    """Of every magnitude of a 16-bit float: its value in f32."""
    codes = np.arange(1 << 15, dtype=np.uint32)
    if kind == T.F16:
        return codes.astype(np.uint16).view(np.float16).astype(np.float32)
    return (codes << 16).view(np.float32)


class Stored:
    """A matrix as its file stores it."""

    def __init__(self, kind, data, shape):
        self.kind, self.shape = kind, shape
        if kind in (T.F16, T.BF16):
            self.codes = np.ascontiguousarray(data).view(np.uint16).reshape(shape)
            self.exact = self.of_codes(self.codes)
            self.bits = 16.0
        elif kind == T.Q8_0:
            blocks = np.ascontiguousarray(data).reshape(-1, 34)
            self.scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
            self.codes = blocks[:, 2:].copy().view(np.int8).astype(np.int32)
            self.offset, self.bits, self.steps, self.beside = np.float32(0), 8.5, 8, 0.5
        elif kind == T.Q4_1:
            blocks = np.ascontiguousarray(data).reshape(-1, 20)
            self.scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
            self.offset = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
            self.codes = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1).astype(np.int32)
            self.bits, self.steps, self.beside = 5.0, 4, 1.0
        else:
            # 6-bit codes and a scale for 16 weights, as q6_K has them, whose blocks of 256 these rows do not divide into.
            groups = data.reshape(-1, 16)
            at = np.abs(groups).argmax(axis=1, keepdims=True)
            self.scale = (np.take_along_axis(groups, at, 1) / -32).astype(np.float16).astype(np.float32)
            safe = np.where(self.scale == 0, 1, self.scale)
            self.codes = np.clip(np.rint(groups / safe), -32, 31).astype(np.int32)
            self.offset, self.bits, self.steps, self.beside = np.float32(0), 6.5625, 6, 0.5625
        if kind not in (T.F16, T.BF16):
            self.exact = self.decoded(self.codes)
        self.bytes = self.exact.size * self.bits / 8

    def decoded(self, codes):
        return (self.scale * codes.astype(np.float32) + self.offset).reshape(self.shape)

    def of_codes(self, codes):
        values = ulps(self.kind)[codes & 0x7FFF]
        return np.where(codes >> 15, -values, values)


def truncated(add):
    """The upper byte of a 16-bit float; `add` is put in place of the lower one."""

    def divide(m):
        first, second = m.codes >> 8, m.codes & 255
        assert ((first << 8 | second) == m.codes).all()
        return m.of_codes(first << 8 | add), 8, 8

    return divide


def rounded(m):
    """The nearest upper byte, and a signed remainder."""
    first = (m.codes.astype(np.int32) + 128) >> 8
    second = m.codes.astype(np.int32) - (first << 8)
    assert second.min() >= -128 and second.max() <= 127 and ((first << 8) + second == m.codes).all()
    return m.of_codes((first << 8).astype(np.uint16)), 8, 8


def tabled(m):
    """A byte that counts through bins of at most 256 codes, laid out for each tensor: narrow where its weights are many and
    large, wide where they are small. The tensor stores a width for each power of two."""
    fraction = 10 if m.kind == T.F16 else 7
    magnitudes = (m.codes & 0x7FFF).astype(np.int32)
    counts = np.bincount(magnitudes.ravel() >> fraction, minlength=1)
    values = ulps(m.kind).astype(np.float64)
    ulp = values[(np.arange(len(counts)) << fraction) + 1] - values[np.arange(len(counts)) << fraction]
    used = np.flatnonzero(counts)
    width = {e: min(8, fraction) for e in used}
    room = 128 - sum(1 << (fraction - w) for w in width.values())
    assert room >= 0
    while True:
        able = [e for e in used if width[e] > 0 and 1 << (fraction - width[e]) <= room]
        if not able:
            break
        # What halving the bins of a power repairs, for each bin that it takes.
        gain = [counts[e] * (ulp[e] * 2.0 ** width[e]) ** 2 / (1 << (fraction - width[e])) for e in able]
        best = able[int(np.argmax(gain))]
        room -= 1 << (fraction - width[best])
        width[best] -= 1
    starts, centres = [], []
    for e in used:
        for code in range(e << fraction, (e + 1) << fraction, 1 << width[e]):
            starts.append(code)
            centres.append((values[code] + values[code + (1 << width[e]) - 1]) / 2)
    starts = np.array(starts)
    first = np.searchsorted(starts, magnitudes, side="right") - 1
    second = magnitudes - starts[first]
    assert len(starts) <= 128 and second.min() >= 0 and second.max() <= 255
    coarse = np.array(centres, dtype=np.float32)[first]
    return np.where(m.codes >> 15, -coarse, coarse), 8, 8


def counted(bits):
    """The first plane is a quantised copy, as q8_0 is with 8 bits; the second one tells which of the floats that round to its
    code the weight is, in as many bits as those need: few where weights are large, more where they are small."""

    def divide(m):
        def at_least(bound):
            """Number, in ascending order, of the first float that is not below `bound`."""
            value = bound.astype(np.float32)
            if m.kind == T.F16:
                codes = value.astype(np.float16).view(np.uint16).astype(np.int32)
            else:
                codes = (value.view(np.uint32) >> 16).astype(np.int32)
            order = ordered(codes)
            for step in (-1, 1):
                beyond = order - (step < 0)
                below = values(beyond) < bound
                order += np.where(below, 0, -1) if step < 0 else below
            assert (values(order) >= bound).all() and (values(order - 1) < bound).all()
            return order

        def values(order):
            return m.of_codes(np.where(order < 0, 0x8000 | (-1 - order), order)).astype(np.float64)

        def ordered(codes):
            return np.where(codes >> 15, -1 - (codes & 0x7FFF), codes)

        most, used = (1 << (bits - 1)) - 1, 0.0
        coarse, rows = np.empty_like(m.exact), 4096
        for first in range(0, m.shape[0], rows):
            exact = m.exact[first : first + rows].reshape(-1, 32).astype(np.float64)
            order = ordered(m.codes[first : first + rows].reshape(-1, 32).astype(np.int32))
            scale = (np.abs(exact).max(axis=1, keepdims=True) / most).astype(np.float16).astype(np.float64)
            scale = np.maximum(scale, 2.0**-24)
            code = np.floor(exact / scale + 0.5)
            code += (exact >= (code + 0.5) * scale).astype(int) - (exact < (code - 0.5) * scale).astype(int)
            low, high = at_least((code - 0.5) * scale), at_least((code + 0.5) * scale)
            assert (order >= low).all() and (order < high).all() and np.abs(code).max() <= most
            used += np.ceil(np.log2(high - low)).sum()
            coarse[first : first + rows] = (code * scale).reshape(-1, m.shape[1])
        return coarse, bits + 0.5, used / m.exact.size

    return divide


def upper(bits, refit=False):
    """The upper bits of an integer code, read as the middle of what they leave open; the scales are in the first plane.
    With `refit` it holds a scale and an offset of its own too, two f16 a block, fitted by least squares."""

    def divide(m):
        drop = m.steps - bits
        first, second = m.codes >> drop, m.codes & ((1 << drop) - 1)
        assert ((first << drop | second) == m.codes).all()
        centre = (first << drop) + ((1 << drop) - 1) / 2
        if not refit:
            return m.decoded(centre), bits + m.beside, drop
        wanted = m.exact.reshape(centre.shape)
        x = centre - centre.mean(axis=1, keepdims=True)
        y = wanted - wanted.mean(axis=1, keepdims=True)
        slope = (x * y).sum(axis=1, keepdims=True) / np.maximum((x * x).sum(axis=1, keepdims=True), 1e-9)
        slope = slope.astype(np.float16).astype(np.float64)
        offset = (wanted - slope * centre).mean(axis=1, keepdims=True).astype(np.float16)
        coarse = (slope * centre + offset).astype(np.float32).reshape(m.shape)
        return coarse, bits + m.beside + 1.0, drop

    return divide


class Model:
    """SmolLM2 with the weights that it is given."""

    def __init__(self, reader, kind=None):
        def number(key):
            return reader.fields[f"llama.{key}"].contents()

        self.heads, self.kv_heads = number("attention.head_count"), number("attention.head_count_kv")
        self.blocks, self.base = number("block_count"), number("rope.freq_base")
        self.epsilon = number("attention.layer_norm_rms_epsilon")
        self.vectors, self.matrices = {}, {}
        for tensor in reader.tensors:
            if tensor.tensor_type == T.F32:
                self.vectors[tensor.name] = np.array(tensor.data)
                continue
            shape = tuple(int(n) for n in reversed(tensor.shape))
            data, own = tensor.data, tensor.tensor_type
            if kind is not None:
                data, own = dequantize(data, own).astype(np.float32).reshape(shape), kind
            if kind == T.BF16:
                bits = data.view(np.uint32)
                data = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
            self.matrices[tensor.name] = Stored(own, data, shape)
        self.capsules = {"embed": [EMBED]}
        for n in range(self.blocks):
            for part, names in PARTS.items():
                self.capsules[f"block.{n}.{part}"] = [f"blk.{n}.{name}.weight" for name in names]
        self.elements = sum(m.exact.size for m in self.matrices.values())
        self.bytes = sum(m.bytes for m in self.matrices.values())
        self.exact = {name: m.exact for name, m in self.matrices.items()}

    def norm(self, x, name):
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.epsilon) * self.vectors[name]

    def embed(self, windows, weights):
        return weights[EMBED][windows]

    def step(self, capsule, x, weights):
        """What a capsule makes of hidden states of [windows, tokens, width]."""
        block, part = capsule.split(".")[1:]

        def linear(x, name):
            matrix = weights[f"blk.{block}.{name}.weight"]
            return (x.reshape(-1, x.shape[-1]) @ matrix.T).reshape(*x.shape[:-1], -1)

        h = self.norm(x, f"blk.{block}.{part}_norm.weight")
        if part == "ffn":
            gate = linear(h, "ffn_gate")
            return x + linear(gate / (1 + np.exp(-gate)) * linear(h, "ffn_up"), "ffn_down")
        count, tokens, width = x.shape
        dim = width // self.heads

        def split(values, heads):
            return values.reshape(count, tokens, heads, dim).transpose(0, 2, 1, 3)

        angles = np.outer(np.arange(tokens), float(self.base) ** (-2 * np.arange(dim // 2) / dim))
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

        def rotate(v):
            out = np.empty_like(v)
            out[..., ::2] = v[..., ::2] * cos - v[..., 1::2] * sin
            out[..., 1::2] = v[..., ::2] * sin + v[..., 1::2] * cos
            return out

        group = self.heads // self.kv_heads
        q = rotate(split(linear(h, "attn_q"), self.heads))
        k = rotate(split(linear(h, "attn_k"), self.kv_heads)).repeat(group, axis=1)
        v = split(linear(h, "attn_v"), self.kv_heads).repeat(group, axis=1)
        scores = q @ k.swapaxes(2, 3) / np.float32(np.sqrt(dim))
        scores += np.triu(np.full((tokens, tokens), -np.inf, dtype=np.float32), 1)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = scores / scores.sum(axis=-1, keepdims=True) @ v
        return x + linear(mixed.transpose(0, 2, 1, 3).reshape(x.shape), "attn_output")

    def head(self, x, weights):
        """Logarithms of the probabilities of each token, [positions, vocabulary], for hidden states [positions, width]."""
        logits = self.norm(x, "output_norm.weight") @ weights[EMBED].T
        logits -= logits.max(axis=-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return logits

    def run(self, text, weights):
        """What `head` gives for the positions that count."""
        x = self.embed(text.ids, weights)
        for capsule in list(self.capsules)[1:]:
            x = self.step(capsule, x, weights)
        return self.head(x[text.counts], weights)

    def sensitivities(self, text, coarse):
        """Of each capsule the divergence for a squared relative error of 1 in its weights, with `coarse` weights tried."""
        hidden, names = {}, list(self.capsules)
        x = self.embed(text.ids, self.exact)
        for name in names[1:]:
            hidden[name] = x
            x = self.step(name, x, self.exact)
        wanted = self.head(x[text.counts], self.exact)

        def probe(at):
            name = names[at]
            weights = self.exact | {t: coarse[t] for t in self.capsules[name]}
            x = hidden[name] if at else self.embed(text.ids, weights)
            for later in names[max(at, 1) :]:
                x = self.step(later, x, weights)
            return divergence(wanted, self.head(x[text.counts], weights)).mean() / self.error(name, coarse)

        return dict(zip(names, POOL.map(probe, range(len(names)))))

    def error(self, capsule, coarse):
        """Squared error of a capsule's coarse weights, relative to the weights."""
        pairs = [(self.exact[t], coarse[t]) for t in self.capsules[capsule]]
        return sum(float(np.square(a - b).sum() / np.square(a).sum()) for a, b in pairs)


def divergence(p, q):
    return np.maximum((np.exp(p) * (p - q)).sum(axis=-1), 0)


class Text:
    """Sequences of token ids of one length, and which of their positions count: those from each one's first on."""

    def __init__(self, sequences):
        longest = max(len(ids) for _, ids in sequences)
        self.ids = np.zeros((len(sequences), longest), dtype=np.int64)
        self.counts = np.zeros(self.ids.shape, dtype=bool)
        for row, (first, ids) in enumerate(sequences):
            self.ids[row, : len(ids)] = ids
            self.counts[row, first : len(ids)] = True


class Forms:
    """What a model is measured with: its texts, what the exact weights say of them, its budget; and the table."""

    def __init__(self, cgraph, title, model, share, texts):
        self.cgraph, self.title, self.model, self.texts = cgraph, title, model, texts
        self.share, self.budget = share, share * model.bytes
        segment = min(max(model.bytes // 256, 128 << 10), 2 << 20)
        self.ring = min(8 * segment, self.budget / 8)
        self.wanted = list(POOL.map(lambda text: model.run(text, model.exact), texts))
        self.exact_pass = model.bytes - self.budget + self.ring
        self.rows, self.best, self.sensitivities = [], {}, None

    def measure(self, name, weights, mini, streamed, kind):
        """A row: `mini` bytes stay for drafts, a pass streams `streamed` bytes (None: the mini does not fit the budget)."""

        def compare(text, wanted):
            found = self.model.run(text, self.model.exact | weights)
            return found.argmax(axis=1) == wanted.argmax(axis=1), divergence(wanted, found)

        same, divergences = map(np.concatenate, zip(*POOL.map(compare, self.texts, self.wanted)))
        a = float(same.mean())
        row = [name, f"{8 * mini / self.model.elements:.2f}", f"{mini / 1e6:.1f}"]
        row += [f"{100 * a:.1f} ± {100 * np.sqrt(a * (1 - a) / len(same)):.1f}", f"{divergences.mean():.4f}"]
        if streamed is None:
            row += ["does not fit", "", "", ""]
        else:
            tokens = 1 + sum(a**i for i in range(1, GUESSES + 1))
            read = streamed / tokens / self.exact_pass
            speed = self.speed(mini, streamed, a) / self.speed(0, self.exact_pass, 0)
            row += [f"{streamed / 1e6:.1f}", f"{tokens:.1f}", f"{100 * read:.0f}%", f"{speed:.2f}"]
            best = self.best.setdefault(kind, {"read": (np.inf, ""), "speed": (0, "")})
            best["read"] = min(best["read"], (read, name))
            best["speed"] = max(best["speed"], (speed, name))
        self.rows.append(row)
        say(f"{self.title}: {row}")

    def speed(self, mini, streamed, a):
        """Tokens a second, by the model of src/store/forecast.rs, with the number of guesses that suits best."""
        compute = self.model.bytes / MEMORY
        rates = []
        for n in range(GUESSES + 1 if mini else 1):
            tokens = 1 + sum(a**i for i in range(1, n + 1))
            rates.append(tokens / (max(streamed / DISK, compute * (1 + EACH * n)) + n * mini / MEMORY))
        return max(rates)

    def divided(self, divide, keep):
        """Coarse weights, their bytes in the first plane, and the bytes of both planes, by tensor."""
        coarse, first, both = {}, {}, {}
        for name, matrix in self.model.matrices.items():
            if name in keep:
                coarse[name], first[name], both[name] = matrix.exact, matrix.bytes, matrix.bytes
            else:
                coarse[name], one, two = divide(matrix)
                first[name], both[name] = matrix.exact.size * one / 8, matrix.exact.size * (one + two) / 8
        return coarse, first, both

    def nested(self, name, divide, keep=(EMBED,)):
        coarse, first, both = self.divided(divide, keep)
        mini, total = sum(first.values()), sum(both.values())
        fits = mini + self.ring <= self.budget
        self.measure(f"nested {name}", coarse, mini, total - self.budget + self.ring if fits else None, "nested")

    def mixed(self, name, choices, sample, sizes):
        """Nested planes in a plan: for each capsule one of `choices` or its whole weights, by what repairs most per byte."""
        model = self.model
        divided = [self.divided(divide, ()) for divide in choices]
        found = self.sensitivities = self.sensitivities or model.sensitivities(sample, divided[0][0])
        for size in sizes:
            forms, chosen = {}, {}
            for capsule, tensors in model.capsules.items():
                options = []
                for coarse, first, both in divided:
                    used, total = (sum(part[t] for t in tensors) for part in (first, both))
                    options.append((used, found[capsule] * model.error(capsule, coarse), coarse, total))
                total = min(option[3] for option in options)
                forms[capsule] = sorted([*options, (total, 0.0, model.exact, total)], key=lambda o: o[0])
                chosen[capsule] = 0
            room = size * self.model.bytes - self.ring - sum(o[0][0] for o in forms.values())
            if room < 0:
                continue
            while True:
                steps = [
                    ((options[chosen[c]][1] - o[1]) / (o[0] - options[chosen[c]][0]), c, i)
                    for c, options in forms.items()
                    for i, o in enumerate(options)
                    if i > chosen[c] and o[0] - options[chosen[c]][0] <= room and o[1] < options[chosen[c]][1]
                ]
                if not steps:
                    break
                _, capsule, form = max(steps)
                room -= forms[capsule][form][0] - forms[capsule][chosen[capsule]][0]
                chosen[capsule] = form
            weights, mini, total, whole = {}, 0.0, 0.0, 0
            for capsule, tensors in model.capsules.items():
                used, _, coarse, both = forms[capsule][chosen[capsule]]
                mini, total = mini + used, total + both
                whole += coarse is model.exact
                weights |= {t: coarse[t] for t in tensors}
            label = f"nested {name}, planned to {100 * size:.0f}%: {whole} of {len(forms)} capsules whole"
            fits = mini + self.ring <= self.budget + 1
            self.measure(label, weights, mini, total - self.budget + self.ring if fits else None, "nested")

    def separate(self, full, shares, folder, light="auto"):
        """Minis of `cgraph split` whose weights take these shares of the full file's."""
        for share in shares:
            mini_path = folder / "separate.mini.cgraph"
            size = int(share * self.model.bytes + full.stat().st_size - self.model.bytes)
            args = ["split", full, "-o", mini_path, "--size", size, "--light", light, "--quiet"]
            if subprocess.run([self.cgraph, *map(str, args)], stdout=subprocess.DEVNULL).returncode:
                say(f"no mini of {share}")
                continue
            weights, mini, pinned, kept = {}, 0.0, 0.0, 0
            encodings = json.loads(run(self.cgraph, "inspect", mini_path, "--json"))["encodings"]
            mini = sum(e["bytes"] for name, e in encodings.items() if name != "f32")
            for capsule, tensors in self.model.capsules.items():
                out = folder / "capsule"
                shutil.rmtree(out, ignore_errors=True)
                run(self.cgraph, "fetch", mini_path, capsule, "--mode", "fast", "--layout", "f32", "-o", out, "-q")
                about = json.loads((out / "capsule.json").read_text())
                if about["precision"] == "pinned":
                    kept += 1
                    pinned += sum(self.model.matrices[t].bytes for t in tensors)
                files = {t["name"]: t["file"] for t in about["tensors"]}
                weights |= {t: np.load(out / files[t]) for t in tensors}
            shutil.rmtree(out)
            mini_path.unlink()
            fits = mini + self.ring <= self.budget
            streamed = self.model.bytes - pinned - (self.budget - mini - self.ring)
            label = f"separate, {100 * mini / self.model.bytes:.0f}%: {kept} of {len(self.model.capsules)} capsules whole"
            label += "" if light == "auto" else f", others {light}"
            self.measure(label, weights, mini, streamed if fits else None, "separate")

    def check(self, full, folder):
        """How often the library's own logits of the full file have the same largest one as those that are computed here."""
        ids, out = folder / "window.json", folder / "window.npy"
        ids.write_text(json.dumps(self.texts[-1].ids[0].tolist()))
        run(self.cgraph, "eval", full, "--tokens", ids, "--logits", out, "--ctx", PROSE, "-q")
        same = float((np.load(out).argmax(axis=1) == self.wanted[-1].argmax(axis=1)).mean())
        out.unlink()
        return same

    def table(self, engine):
        model = self.model
        titles = ["form", "bits a weight", "mini, MB", "agreement, %", "divergence, nats", "a pass reads, MB",
                  "tokens a pass", "read a token, of exact's", "speed, of exact's"]
        text = f"**{self.title}**: {model.bytes / 1e6:.0f} MB of weights, a budget of {100 * self.share:.0f}% of them. "
        text += f"`exact` reads {self.exact_pass / 1e6:.1f} MB a token."
        if engine is not None:
            text += f" The library's own most likely tokens are those computed here at {100 * engine:.1f}% of positions."
        text += "\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in [titles, ["---"] * len(titles), *self.rows])
        if len(self.best) == 2:
            one, other = self.best["nested"], self.best["separate"]
            text += (
                f"\n\nBest nested against best separate form: {one['read'][0] / other['read'][0]:.2f} times the bytes "
                f"a token, {one['speed'][0] / other['speed'][0]:.2f} times the speed."
            )
        return text + "\n"


def run(program, *args):
    done = subprocess.run([program, *map(str, args)], check=True, stdout=subprocess.PIPE, encoding="utf-8")
    return done.stdout


def prose():
    """Paragraphs of the pages: no code, tables, lists or headings."""
    found = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)
        for paragraph in re.split(r"\n\s*\n", text):
            lines = [line for line in paragraph.splitlines() if not line.startswith("#")]
            words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", " ".join(lines).replace("`", ""))
            if len(words) > 150 and not re.match(r"\s*([-|*<!]|\d+\.)", words):
                found.append(words.strip())
    return "\n\n".join(found)


def passages():
    """The passages of tests/data."""
    data = (ROOT / "tests/data/smollm2.reference.bin").read_bytes()
    at, found = 4, []
    for _ in range(struct.unpack("<I", data[:4])[0]):
        count, top = struct.unpack("<II", data[at : at + 8])
        found.append((0, struct.unpack(f"<{count}i", data[at + 8 : at + 8 + 4 * count])))
        at += 8 + 4 * count + count * (8 * top + 4)
    return found


def answers():
    """The chats of tests/data without their system prompt; what counts is the answer."""
    found = []
    for chat in json.loads((ROOT / "tests/data/smollm2.greedy.json").read_text()):
        begin = [at for at, token in enumerate(chat["ids"]) if token == chat["ids"][0]]
        question = chat["ids"][begin[1] :]
        found.append((len(question) - 1, [*question, *chat["out"][:-1]]))
    return found


def sample():
    """The text that the library calibrates on where it is given none."""
    source = (ROOT / "src/split/agreement.rs").read_text(encoding="utf-8")
    return re.search(r'SAMPLE: &str = "(.*?)";', source, flags=re.S)[1].replace("\\\n", "")


# What is measured: forms of nested planes, then of separate copies, for each model.


def f16(forms, calibration, full, folder):
    forms.nested("8+8, truncated", truncated(0), ())
    forms.nested("8+8, truncated, middle", truncated(128), ())
    forms.nested("8+8, nearest", rounded, ())
    forms.nested("8+8, own bins, embedding whole", tabled)
    forms.nested("8+8, own bins", tabled, ())
    forms.nested("6-bit copy and remainder", counted(6), ())
    forms.nested("8-bit copy and remainder", counted(8), ())
    forms.mixed("8+8, own bins", [tabled], calibration, [0.6])
    forms.separate(full, [0.3, 0.4, 0.5, 0.55], folder)


def q8_0(forms, calibration, full, folder):
    for bits in (4, 5, 6):
        forms.nested(f"{bits}+{8 - bits}, embedding whole", upper(bits))
    for bits in (5, 6):
        forms.mixed(f"{bits}+{8 - bits}", [upper(bits)], calibration, [0.75])
    forms.mixed("4+4, 5+3 or 6+2", [upper(bits) for bits in (5, 4, 6)], calibration, [0.65, 0.75])
    forms.separate(full, [0.56, 0.63, 0.68, 0.7], folder)


def q4_1(forms, calibration, full, folder):
    forms.nested("3+1, embedding whole", upper(3))
    forms.nested("3+1, fitted, embedding whole", upper(3, refit=True))
    forms.nested("2+2, embedding whole", upper(2))
    forms.nested("2+2, fitted, embedding whole", upper(2, refit=True))

    def part(bits):
        # The embedding has codes of 8 bits.
        return lambda matrix: upper(3 if matrix.kind == T.Q4_1 else bits)(matrix)

    forms.mixed("3+1, embedding 5+3 or 6+2", [part(5), part(6)], calibration, [0.85])
    forms.separate(full, [0.76, 0.8], folder)


def bf16(forms, *_):
    forms.nested("8+8, truncated", truncated(0), ())
    forms.nested("8+8, truncated, middle", truncated(128), ())
    forms.nested("8+8, nearest", rounded, ())
    forms.nested("8+8, own bins", tabled, ())
    forms.nested("8-bit copy and remainder", counted(8), ())


def six(forms, *_):
    for bits in (3, 4, 5):
        forms.nested(f"{bits}+{6 - bits}, embedding whole", upper(bits))


# Title, the file of the weights, the type that they are given (None: their own), the budget's share of them, what is done.
MEASURED = [
    ("F16", "f16", None, 0.6, f16),
    ("Q8_0", "q8_0", None, 0.75, q8_0),
    ("Q4_1", "q4_1", None, 0.85, q4_1),
    ("BF16 (no separate copies measured)", "f16", T.BF16, 0.6, bf16),
    ("6-bit codes with a scale for 16, as q6_K (no separate copies measured)", "q8_0", T.Q6_K, 0.75, six),
]


def main():
    cgraph, original, folder, *noisy = sys.argv[1:]
    folder = pathlib.Path(folder)
    sources = dict(zip(["q4_1", "f16", "q8_0"], [original, *noisy]))
    full = {}
    for name, source in sources.items():
        full[name] = folder / f"{name}.cgraph"
        run(cgraph, "convert", source, "--no-mini", "-o", full[name], "-q")

    def tokens(text):
        return json.loads(run(cgraph, "tokenize", full["q4_1"], "-p", text))

    prose_ids = tokens(prose())[:PROSE]
    texts = [Text(passages()), Text(answers()[::2]), Text(answers()[1::2]), Text([(0, prose_ids)])]
    calibration = Text([(0, tokens(sample()))])
    positions = sum(int(text.counts.sum()) for text in texts)
    print(f"Compared at {positions} positions; ± is the standard error.")
    for title, name, kind, share, measure in MEASURED:
        forms = Forms(cgraph, title, Model(GGUFReader(sources[name]), kind), share, texts)
        measure(forms, calibration, full[name], folder)
        print("\n" + forms.table(None if kind else forms.check(full[name], folder)), end="", flush=True)


if __name__ == "__main__":
    main()
