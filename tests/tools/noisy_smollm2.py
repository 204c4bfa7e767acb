"""Writes SmolLM2 with weights that lie on no 4-bit grid, for measuring light forms and speculation.

    noisy_smollm2.py MODEL.gguf OUT.gguf f16|q8_0

MODEL is the Q4_1 file. Each of its quantised weights is decoded and moved by seeded noise, uniform within half a step of
its block either way, and written as f16 or q8_0; what is not quantised stays. The text stays sensible, and no 4-bit copy
can recover the weights exactly, as it could those of the file itself.
"""
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize

BLOCK = 32
SEED = 4


def steps(tensor):
    """[rows, cols] float32: the distance of neighbouring values of each weight's block."""
    kind, data = tensor.tensor_type, tensor.data
    if kind == GGMLQuantizationType.Q4_1:
        blocks = data.reshape(data.shape[0], -1, 20)
        scale = blocks[:, :, :2].copy().view(np.float16).astype(np.float32)
    elif kind == GGMLQuantizationType.Q8_0:
        blocks = data.reshape(data.shape[0], -1, 34)
        # The embedding of some conversions: noise of a 4-bit step all the same.
        scale = 17 * blocks[:, :, :2].copy().view(np.float16).astype(np.float32)
    else:
        # Other types have no step of their own: that of 4 bits over each block's range.
        values = dequantize(data, kind).astype(np.float32).reshape(data.shape[0], -1, BLOCK)
        scale = (values.max(axis=2, keepdims=True) - values.min(axis=2, keepdims=True)) / 15
    return np.repeat(scale.reshape(scale.shape[0], -1), BLOCK, axis=1)


def main():
    source, target, form = sys.argv[1:]
    kind = {"f16": GGMLQuantizationType.F16, "q8_0": GGMLQuantizationType.Q8_0}[form]
    random = np.random.default_rng(SEED)
    reader = GGUFReader(source)
    writer = GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value_type, value = field.types[0], field.contents()
        inner = field.types[1] if value_type == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, value_type, inner)
    for tensor in reader.tensors:
        if tensor.tensor_type == GGMLQuantizationType.F32:
            writer.add_tensor(tensor.name, np.array(tensor.data))
            continue
        weights = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        noisy = weights + steps(tensor) * random.uniform(-0.5, 0.5, weights.shape).astype(np.float32)
        if form == "f16":
            writer.add_tensor(tensor.name, noisy.astype(np.float16))
        else:
            writer.add_tensor(tensor.name, quantize(noisy, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
