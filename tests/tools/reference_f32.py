"""Writes small random llama models of every tensor type, and what a plain float64 forward pass gives for them.

Run: python tests/tools/reference_f32.py DIRECTORY      (needs the PyPI packages gguf and numpy)

For each case NAME.gguf is the model, NAME.tokens its token ids (u32), NAME.logits the logits of each position (f32),
NAME.NUMBER.raw the bytes of tensor NUMBER and NAME.NUMBER.f32 what gguf decodes them to, all little-endian; cases.json
lists the cases and their tensors.
Nothing of CapsuleGraph is used: gguf quantises, decodes and writes, and the forward pass is written from the papers
(RMS norm, grouped-query attention, RoPE with its linear and YaRN scalings and Llama 3's frequency factors, SwiGLU).
"""

import json
import pathlib
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUFWriter, GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

VOCAB, CONTEXT, TOKENS = 72, 96, 24
INTEGER_TYPES = [
    T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.TQ1_0, T.TQ2_0, T.MXFP4,
    T.NVFP4, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ3_XXS, T.IQ3_S, T.IQ1_S, T.IQ1_M, T.IQ4_NL, T.IQ4_XS,
]
# Where the f16 scales of a block lie, for the types that gguf decodes and does not quantise.
SCALES_AT = {
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ2_XXS: [0], T.IQ2_XS: [0],
    T.IQ2_S: [0], T.IQ3_XXS: [0], T.IQ3_S: [0], T.IQ1_S: [0], T.IQ4_NL: [0], T.IQ4_XS: [0],
}


# Middle of the codes of the types that have a second scale, for offsets.
MIDDLE = {T.Q2_K: 1.5, T.Q4_K: 7.5, T.Q5_K: 15.5}


def random_blocks(rng, qtype, rows, cols):
    """Random codes with scales of equal size, chosen so that the decoded weights have a variance of 1 / cols.

    Scales have random signs and offsets cancel the mean of the codes: weights with a mean would drown everything
    else in the sum of their inputs, and the comparison would see little of them.
    """
    elements, size = GGML_QUANT_SIZES[qtype]
    blocks = rng.integers(0, 256, (rows * cols // elements, size), dtype=np.uint8)
    signs = rng.choice([-1.0, 1.0], len(blocks))

    def scaled(scale):
        for at in SCALES_AT.get(qtype, []):
            values = signs * scale * (1 if at == SCALES_AT[qtype][0] else MIDDLE[qtype])
            blocks[:, at : at + 2] = values.astype("<f2").view(np.uint8).reshape(-1, 2)
        if qtype == T.IQ1_M:
            # The f16 scale is spread over the top four bits of the four last 16-bit words.
            bits = int(np.float16(scale).view(np.uint16))
            for i in range(4):
                blocks[:, 49 + 2 * i] = (blocks[:, 49 + 2 * i] & 0x0F) | ((bits >> (4 * i) & 15) << 4)
        elif qtype == T.NVFP4:
            # Four scales of 8 bits each, exponent and mantissa: one step of the exponent is 8.
            blocks[:, :4] = 8 * (7 + round(np.log2(scale))) + 2
        return dequantize(blocks, qtype).astype(np.float64)

    # The scales are f16, so that the first steps may round.
    target, scale = 1 / np.sqrt(cols), 1.0
    for _ in range(3):
        scale *= target / np.sqrt(np.mean(np.square(scaled(scale))))
    spread = np.sqrt(np.mean(np.square(scaled(scale)))) / target
    assert 0.4 < spread < 2.5, f"{qtype.name}: {spread}"
    return blocks.reshape(rows, -1)


def make_matrix(rng, qtype, rows, cols):
    """The bytes of a random matrix in `qtype`."""
    if qtype in SCALES_AT or qtype in (T.IQ1_M, T.NVFP4):
        return random_blocks(rng, qtype, rows, cols)
    values = (rng.standard_normal((rows, cols)) / np.sqrt(cols)).astype(np.float32)
    return quantize(values, qtype)


class Model:
    """A random llama model: its tensors as stored, and as gguf decodes them."""

    def __init__(self, seed, qtype, *, width=256, ffn=256, heads=8, kv_heads=2, head_dim=32, blocks=2, tied=True,
                 biases=False, rope=None, factors=False, embedding=None):
        rng = np.random.default_rng(seed)
        self.width, self.ffn, self.heads, self.kv_heads = width, ffn, heads, kv_heads
        self.head_dim, self.blocks, self.rope = head_dim, blocks, rope or {}
        self.stored, self.tensors = [], {}

        def matrix(name, rows, cols, kind=qtype):
            raw = make_matrix(rng, kind, rows, cols)
            self.stored.append((name, raw, kind, (rows, cols)))
            self.tensors[name] = dequantize(raw, kind).astype(np.float32).reshape(rows, cols)

        def vector(name, size, centre, spread):
            values = (centre + spread * rng.standard_normal(size)).astype(np.float32)
            self.stored.append((name, values, T.F32, (size,)))
            self.tensors[name] = values

        q, kv = heads * head_dim, kv_heads * head_dim
        matrix("token_embd.weight", VOCAB, width, embedding or qtype)
        if factors:
            vector("rope_freqs.weight", head_dim // 2, 3, 0.5)
        for n in range(blocks):
            shapes = {"attn_q": (q, width), "attn_k": (kv, width), "attn_v": (kv, width), "attn_output": (width, q),
                      "ffn_gate": (ffn, width), "ffn_up": (ffn, width), "ffn_down": (width, ffn)}
            vector(f"blk.{n}.attn_norm.weight", width, 1, 0.2)
            vector(f"blk.{n}.ffn_norm.weight", width, 1, 0.2)
            for part, shape in shapes.items():
                matrix(f"blk.{n}.{part}.weight", *shape)
                if biases:
                    vector(f"blk.{n}.{part}.bias", shape[0], 0, 0.3)
        vector("output_norm.weight", width, 1, 0.2)
        if not tied:
            matrix("output.weight", VOCAB, width)
        self.ids = rng.integers(0, VOCAB, TOKENS)

    def write(self, path):
        writer = GGUFWriter(str(path), "llama")
        writer.add_name(path.stem)
        writer.add_context_length(CONTEXT)
        writer.add_embedding_length(self.width)
        writer.add_block_count(self.blocks)
        writer.add_feed_forward_length(self.ffn)
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        writer.add_rope_dimension_count(self.rope.get("dims", self.head_dim))
        writer.add_rope_freq_base(self.rope.get("base", 10000.0))
        writer.add_layer_norm_rms_eps(1e-5)
        if "kind" in self.rope:
            writer.add_string("llama.rope.scaling.type", self.rope["kind"])
            writer.add_float32("llama.rope.scaling.factor", self.rope["factor"])
        if self.rope.get("kind") == "yarn":
            writer.add_uint32("llama.rope.scaling.original_context_length", self.rope["original"])
        for name, raw, kind, _ in self.stored:
            plain = kind in (T.F32, T.F16)
            writer.add_tensor(name, raw, raw_dtype=None if plain else kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def angles(self):
        """Angle of each pair at each position, and the factor on cosine and sine."""
        dims, base = self.rope.get("dims", self.head_dim), self.rope.get("base", 10000.0)
        pairs = np.arange(dims // 2, dtype=np.float64)
        step = base ** (-2 * pairs / dims)
        if "rope_freqs.weight" in self.tensors:
            step = step / self.tensors["rope_freqs.weight"][: dims // 2]
        magnitude, kind, factor = 1.0, self.rope.get("kind"), self.rope.get("factor", 1.0)
        if kind == "linear":
            step = step / factor
        elif kind == "yarn":
            # YaRN section 3.2: pairs of more than 32 turns over the original context stay, those of less than one
            # are interpolated, with a ramp between.
            def pair_of(turns):
                return dims * np.log(self.rope["original"] / (2 * np.pi * turns)) / (2 * np.log(base))

            low, high = max(np.floor(pair_of(32.0)), 0.0), min(np.ceil(pair_of(1.0)), dims - 1.0)
            ramp = np.clip((pairs - low) / max(high - low, 0.001), 0, 1)
            step = step * (1 - ramp) + step / factor * ramp
            magnitude = 0.1 * np.log(factor) + 1
        return np.outer(np.arange(len(self.ids)), step), magnitude

    def logits(self):
        def weight(name):
            return self.tensors[name].astype(np.float64)

        def norm(x, name):
            return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-5) * weight(name)

        def linear(x, name):
            bias = self.tensors.get(f"{name}.bias", np.zeros(1))
            return x @ weight(f"{name}.weight").T + bias

        angles, magnitude = self.angles()
        cos, sin = np.cos(angles) * magnitude, np.sin(angles) * magnitude
        dims = 2 * cos.shape[1]

        def rotate(x):
            out = x.copy()
            even, odd = x[..., 0:dims:2], x[..., 1:dims:2]
            out[..., 0:dims:2] = even * cos[:, None] - odd * sin[:, None]
            out[..., 1:dims:2] = even * sin[:, None] + odd * cos[:, None]
            return out

        n = len(self.ids)
        future = np.triu(np.full((n, n), -np.inf), 1)
        x = weight("token_embd.weight")[self.ids]
        for b in range(self.blocks):
            h = norm(x, f"blk.{b}.attn_norm.weight")
            q = rotate(linear(h, f"blk.{b}.attn_q").reshape(n, self.heads, self.head_dim))
            k = rotate(linear(h, f"blk.{b}.attn_k").reshape(n, self.kv_heads, self.head_dim))
            v = linear(h, f"blk.{b}.attn_v").reshape(n, self.kv_heads, self.head_dim)
            attended = np.empty_like(q)
            for head in range(self.heads):
                group = head // (self.heads // self.kv_heads)
                scores = q[:, head] @ k[:, group].T / np.sqrt(self.head_dim) + future
                scores = np.exp(scores - scores.max(axis=1, keepdims=True))
                attended[:, head] = scores / scores.sum(axis=1, keepdims=True) @ v[:, group]
            x = x + linear(attended.reshape(n, -1), f"blk.{b}.attn_output")
            h = norm(x, f"blk.{b}.ffn_norm.weight")
            gate = linear(h, f"blk.{b}.ffn_gate")
            x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, f"blk.{b}.ffn_up"), f"blk.{b}.ffn_down")
        x = norm(x, "output_norm.weight")
        head = "output.weight" if "output.weight" in self.tensors else "token_embd.weight"
        return x @ weight(head).T


def cases():
    for seed, qtype in enumerate([T.F32, T.F16, T.BF16, *INTEGER_TYPES]):
        yield qtype.name.lower(), Model(seed, qtype)
    small = {"width": 96, "ffn": 160, "heads": 6, "kv_heads": 3, "head_dim": 16, "blocks": 3}
    yield "biases", Model(100, T.F32, biases=True, **small)
    yield "untied", Model(101, T.F16, tied=False, **small)
    yield "one_kv_head", Model(102, T.F32, **(small | {"kv_heads": 1}))
    yield "odd_widths", Model(103, T.BF16, width=90, ffn=50, heads=3, kv_heads=3, head_dim=30)
    yield "partial_rope", Model(104, T.F32, rope={"dims": 8, "base": 500.0}, **small)
    yield "linear_rope", Model(105, T.F32, rope={"kind": "linear", "factor": 4.0}, **small)
    yarn = {"kind": "yarn", "factor": 4.0, "original": 24}
    yield "yarn_rope", Model(106, T.F32, rope=yarn, **small)
    yield "frequency_factors", Model(107, T.F32, factors=True, **small)
    yield "biases_q8_0", Model(108, T.Q8_0, biases=True, tied=False, embedding=T.F16, **small)
    yield "mixed_embedding", Model(109, T.Q4_1, embedding=T.Q6_K)


def main():
    directory = pathlib.Path(sys.argv[1])
    listed = []
    for name, model in cases():
        model.write(directory / f"{name}.gguf")
        logits = model.logits()
        assert np.isfinite(logits).all(), name
        model.ids.astype("<u4").tofile(directory / f"{name}.tokens")
        logits.astype("<f4").tofile(directory / f"{name}.logits")
        tensors = []
        for number, (tensor, raw, kind, shape) in enumerate(model.stored):
            model.tensors[tensor].astype("<f4").tofile(directory / f"{name}.{number}.f32")
            np.ascontiguousarray(raw).view(np.uint8).tofile(directory / f"{name}.{number}.raw")
            tensors.append({"name": tensor, "encoding": kind.name.lower(), "shape": shape})
        listed.append({"name": name, "blocks": model.blocks, "tensors": tensors})
    (directory / "cases.json").write_text(json.dumps(listed))


main()
