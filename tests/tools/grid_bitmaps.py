"""Prints the membership bitmaps of src/kernels/encodings/grids.rs from the tables of the PyPI package gguf.

Every published grid is sorted when its points are read as numbers whose first coordinate is the least
significant digit, so the set of its members determines the table. Run: python grid_bitmaps.py > bitmaps.txt
"""

import numpy as np
from gguf import quants


def bitmap(cls):
    cls.init_grid()
    grid = cls.grid.reshape(cls.grid_shape)
    levels = list(cls.grid_map)
    digits = np.searchsorted(levels, grid)
    keys = (digits * len(levels) ** np.arange(grid.shape[1])).sum(axis=1).tolist()
    assert keys == sorted(set(keys)), cls.__name__
    words = [0] * ((len(levels) ** grid.shape[1] + 63) // 64)
    for key in keys:
        words[key // 64] |= 1 << (key % 64)
    return words


for name in ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"):
    words = bitmap(getattr(quants, name))
    print(f"/// Members of the code book of {name.replace('IQ1_S', 'IQ1')}.")
    print("#[rustfmt::skip]")
    print(f"const {name}_MEMBERS: [u64; {len(words)}] = [")
    for i in range(0, len(words), 5):
        print("    " + " ".join(f"0x{w:016x}," for w in words[i : i + 5]))
    print("];\n")
