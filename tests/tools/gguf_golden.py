"""Writes tests/data/encodings.golden: what the PyPI package gguf decodes blocks of every tensor type to.

Run: python tests/tools/gguf_golden.py tests/data/encodings.golden      (needs gguf and numpy)

Format, little-endian. "CGGOLD1\\n", then for each type:
  u32 ggml type, u32 elements per block, u32 bytes per block,
  u32 n and n blocks, each its bytes and its decoded f32 values: half of the blocks random bytes, half with
    scales of ordinary size;
  u32 m and m digests (u64), each of the f32 values of SERIES consecutive blocks out of one stream of random
    bytes, splitmix64 seeded with the type number: many blocks are compared that the file does not hold.
A digest is FNV-1a over the values' bits, a u32 at a time; every NaN counts as 0x7fc00000.
"""

import struct
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

SHOWN_ELEMENTS = 3 * 256
SERIES = 32
SERIES_ELEMENTS = 512 * 1024

# Where the f16 scales lie in a block.
F16_AT = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108],
    T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.TQ1_0: [52], T.TQ2_0: [64], T.IQ2_XXS: [0], T.IQ2_XS: [0],
    T.IQ2_S: [0], T.IQ3_XXS: [0], T.IQ3_S: [0], T.IQ1_S: [0], T.IQ4_NL: [0], T.IQ4_XS: [0],
}
TYPES = [T.F32, T.F16, T.BF16, *F16_AT, T.MXFP4, T.NVFP4, T.IQ1_M]


def splitmix64(seed, n):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def stream(seed, shape):
    n = int(np.prod(shape))
    return splitmix64(seed, (n + 7) // 8).astype("<u8").view(np.uint8)[:n].reshape(shape)


def tame(blocks, qtype, rng):
    """Gives random blocks scales of the size that models have."""
    n = len(blocks)
    for at in F16_AT.get(qtype, []):
        sizes = (2.0 ** rng.uniform(-12, 2, n) * rng.choice([-1, 1], n)).astype("<f2")
        blocks[:, at : at + 2] = sizes.view(np.uint8).reshape(n, 2)
    if qtype == T.MXFP4:
        blocks[:, 0] = rng.integers(110, 135, n)
    elif qtype == T.NVFP4:
        blocks[:, :4] = rng.integers(0x20, 0x60, (n, 4))
    elif qtype == T.IQ1_M:
        blocks[:, 55] = (blocks[:, 55] & 0x8F) | 0x20
    elif qtype in (T.F32, T.F16, T.BF16):
        values = rng.standard_normal(n).astype("<f4")
        if qtype == T.F16:
            values = values.astype("<f2")
        bits = values.view(np.uint8).reshape(n, -1)
        blocks[:] = bits[:, -blocks.shape[1] :]
    return blocks


def decode(blocks, qtype):
    with np.errstate(all="ignore"):
        return dequantize(np.ascontiguousarray(blocks), qtype).astype("<f4", copy=False).reshape(len(blocks), -1)


def digests(values):
    bits = np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32)).astype(np.uint64)
    bits = bits.reshape(-1, SERIES * values.shape[1])
    state = np.full(len(bits), 0xCBF29CE484222325, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in bits.T:
            state = (state ^ column) * np.uint64(0x100000001B3)
    return state


def main(path):
    rng = np.random.default_rng(20260101)
    with open(path, "wb") as file:
        file.write(b"CGGOLD1\n")
        for qtype in TYPES:
            elements, size = GGML_QUANT_SIZES[qtype]
            half = SHOWN_ELEMENTS // elements
            blocks = rng.integers(0, 256, (2 * half, size), dtype=np.uint8)
            blocks[half:] = tame(blocks[half:], qtype, rng)
            values = decode(blocks, qtype)
            file.write(struct.pack("<4I", qtype, elements, size, len(blocks)))
            for block, decoded in zip(blocks, values):
                file.write(block.tobytes() + decoded.tobytes())
            blocks = stream(int(qtype), (SERIES_ELEMENTS // elements, size))
            found = digests(decode(blocks, qtype))
            # The floats' series is cut short: a digest of theirs covers only SERIES elements.
            found = found[: SERIES_ELEMENTS // (256 * SERIES)] if elements == 1 else found
            file.write(struct.pack("<I", len(found)) + found.astype("<u8").tobytes())


if __name__ == "__main__":
    main(sys.argv[1])
