"""Packs llama.cpp's reference outputs on SmolLM2 into the two small files that tests/smollm2.rs reads.

    python reference_smollm2.py FOLDER_WITH_REFERENCE OUT_FOLDER

FOLDER holds smollm2.npz (six passages: ids, the 64 most likely tokens with their logits, log-sum-exp)
and smollm2.greedy.json. Written: smollm2.reference.bin, little-endian: u32 passages; for each u32 n,
u32 k, i32 ids[n], then per position i32 top[k], f32 logit[k], f32 lse. And smollm2.greedy.json as it is.
"""
import shutil, struct, sys
import numpy as np

source, out = sys.argv[1:3]
data = np.load(f"{source}/smollm2.npz")
passages = sorted({int(key.split("_")[1]) for key in data.files})
with open(f"{out}/smollm2.reference.bin", "wb") as file:
    file.write(struct.pack("<I", len(passages)))
    for number in passages:
        ids, top = data[f"ids_{number}"], data[f"top_{number}"]
        logit, lse = data[f"logit_{number}"], data[f"lse_{number}"]
        file.write(struct.pack("<II", *top.shape))
        file.write(ids.astype("<i4").tobytes())
        for position in range(len(ids)):
            file.write(top[position].astype("<i4").tobytes())
            file.write(logit[position].astype("<f4").tobytes())
            file.write(struct.pack("<f", lse[position]))
shutil.copy(f"{source}/smollm2.greedy.json", f"{out}/smollm2.greedy.json")
