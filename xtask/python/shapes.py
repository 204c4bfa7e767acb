"""Writes GGUF models of a real model's shape with seeded random weights, for benchmarks.

    shapes.py NAME MODEL.gguf

Shapes are those of Llama 3.2 1B and Mistral 7B; `NAME` is one of `MODELS`. Codes are uniform, scales such that
activations stay finite. The mix q4_k_m is llama-quantize's: Q6_K for the head and for attn_v and ffn_down of
those blocks that llama.cpp's `use_more_bits` picks, Q4_K elsewhere.
"""
import os
import sys

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFWriter

SHAPES = {
    "1b": dict(blocks=16, width=2048, ffn=8192, heads=32, kv_heads=8, vocab=128256, tied=True),
    "7b": dict(blocks=32, width=4096, ffn=14336, heads=32, kv_heads=8, vocab=32000, tied=False),
}
MODELS = {"1b-q4_k_m": ("1b", "q4_k_m"), "1b-q8_0": ("1b", T.Q8_0), "1b-q4_0": ("1b", T.Q4_0), "7b-q4_k_m": ("7b", "q4_k_m")}

# Bytes of a block, elements of a block, standard deviation of a weight in units of the block's d.
BLOCKS = {T.Q4_0: (18, 32, 4.6), T.Q8_0: (34, 32, 74.0), T.Q4_K: (144, 256, 147.0), T.Q6_K: (210, 256, 1370.0)}


def encoding(mix, name, block, blocks):
    if mix != "q4_k_m":
        return mix
    more_bits = block < blocks // 8 or block >= 7 * blocks // 8 or (block - blocks // 8) % 3 == 2
    if name == "head" or (name in ("attn_v", "ffn_down") and more_bits):
        return T.Q6_K
    return T.Q4_K


def weights(random, kind, rows, cols):
    size, length, spread = BLOCKS[kind]
    count = rows * cols // length
    data = np.frombuffer(random.bytes(count * size), np.uint8).reshape(count, size).copy()
    d = 1 / (spread * np.sqrt(cols))
    half = lambda value: np.frombuffer(np.float16(value).tobytes(), np.uint8)
    at = 208 if kind == T.Q6_K else 0
    data[:, at : at + 2] = half(d)
    if kind == T.Q4_K:
        data[:, 2:4] = half(7.5 * d)
    return data.reshape(rows, -1)


def tensors(shape, mix):
    """Name, encoding (None: f32 ones), rows, columns, in file order."""
    n, width, ffn = shape["blocks"], shape["width"], shape["ffn"]
    kv = width // shape["heads"] * shape["kv_heads"]
    yield "token_embd.weight", encoding(mix, "head" if shape["tied"] else "token_embd", 0, n), shape["vocab"], width
    for i in range(n):
        matrices = [("attn_q", width, width), ("attn_k", kv, width), ("attn_v", kv, width), ("attn_output", width, width)]
        matrices += [("ffn_gate", ffn, width), ("ffn_up", ffn, width), ("ffn_down", width, ffn)]
        yield f"blk.{i}.attn_norm.weight", None, 1, width
        yield f"blk.{i}.ffn_norm.weight", None, 1, width
        for name, rows, cols in matrices:
            yield f"blk.{i}.{name}.weight", encoding(mix, name, i, n), rows, cols
    yield "output_norm.weight", None, 1, width
    if not shape["tied"]:
        yield "output.weight", encoding(mix, "head", 0, n), shape["vocab"], width


def write(name, path):
    shape_name, mix = MODELS[name]
    shape = SHAPES[shape_name]
    writer = GGUFWriter(path + ".part", "llama")
    writer.add_name(name)
    writer.add_context_length(32768)
    writer.add_embedding_length(shape["width"])
    writer.add_block_count(shape["blocks"])
    writer.add_feed_forward_length(shape["ffn"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(shape["vocab"])])
    writer.add_token_merges(["t 1"])
    for tensor, kind, rows, cols in tensors(shape, mix):
        if kind is None:
            writer.add_tensor_info(tensor, (cols,), np.dtype(np.float32), 4 * cols)
        else:
            size, length, _ = BLOCKS[kind]
            row = cols // length * size
            writer.add_tensor_info(tensor, (rows, row), np.dtype(np.uint8), rows * row, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(1)
    for _, kind, rows, cols in tensors(shape, mix):
        ones = np.ones(cols, np.float32)
        writer.write_tensor_data(ones if kind is None else weights(random, kind, rows, cols))
    writer.close()
    os.replace(path + ".part", path)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in MODELS:
        sys.exit(__doc__)
    write(*sys.argv[1:])
