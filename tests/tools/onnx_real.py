"""Real ONNX models through CapsuleGraph's C API, in one capsule and in many, against each other and ONNX Runtime alone.

    onnx_real.py LIBRARY MODELS WORK

LIBRARY is libcapsulegraph.so; MODELS a folder with the models of FEEDS (cargo xtask setup fills it); WORK an empty folder.
Needs the PyPI packages numpy, onnx and onnxruntime.

Each model is converted into 1 capsule, 2, 4, and as many as its graph can be cut into.
- Without optimisation every one of them gives the bits of ONNX Runtime alone on the whole model without optimisation, for
  each choice of prepacking: a product with prepacked weights may be summed in another order.
- With it every one gives numbers within 1e-5 of ONNX Runtime's with it, in units of the largest output (at least 1).
- In the smallest budget that works and in twice that each gives the bits that it gives without, for each choice of
  prepacking. The smallest one is what the error of a smaller one names: it may be found in steps, since what a capsule computes
  with is known once it has run.

The last line is: real models: N models, N comparisons, N fail; the status is 0 where none fails.
"""

import os
import pathlib
import pickle
import re
import subprocess
import sys

import numpy as np

import onnx_capi
import onnx_plain
from onnx_values import Tensor, raw

THREADS = 2
MANY = 1 << 20
COUNTS = (1, 2, 4, MANY)
PREPACK = {"on": [], "off": [("session.disable_prepacking", "1")]}
STEPS = 8


def feeds():
    """Model: inputs by name. Seeded."""
    random = np.random.default_rng(7)
    normal = lambda *shape: random.standard_normal(shape, dtype=np.float32)
    sound = lambda *shape: (0.1 * normal(*shape)).clip(-1, 1)
    rate = np.int64(16000)
    silero = lambda: {"input": sound(1, 576), "state": normal(2, 1, 128) * np.float32(0.1)}
    return {
        "magika": {"bytes": random.integers(0, 256, (2, 2048), dtype=np.int32)},
        "ch_PP-OCRv4_det_infer": {"x": normal(1, 3, 96, 160)},
        "ch_PP-OCRv4_rec_infer": {"x": normal(1, 3, 48, 160)},
        "ch_ppocr_mobile_v2.0_cls_infer": {"x": normal(2, 3, 48, 192)},
        "silero_vad": {**silero(), "sr": rate},
        "silero_vad_16k_op15": {**silero(), "sr": rate},
        "silero_vad_16k_sequence": {"input": sound(5, 576), "h": normal(1, 1, 128), "c": normal(1, 1, 128)},
        "silero_vad_half": silero(),
        "silero_vad_op18_ifless": {**silero(), "sr": rate},
        "silero_vad_openvino_16k": silero(),
        "transformer": {"ids": random.integers(0, 1024, (2, 24))},
        "loop": {"input": normal(9, 64)},
    }


def inputs(arrays):
    return [(name, Tensor.of(array)) for name, array in arrays.items()]


def plain(models):
    """A child's work: what ONNX Runtime alone gives, by model and level."""
    runtime, found = onnx_plain.Runtime(threads=THREADS), {}
    for name, arrays in feeds().items():
        for level in ("off", "all"):
            for prepack, config in PREPACK.items():
                session = runtime.session(os.path.join(models, f"{name}.onnx"), level, config)
                found[name, level, prepack] = session.run(inputs(arrays))
                session.close()
    sys.stdout.buffer.write(pickle.dumps(found))


def distance(wanted, found):
    """Largest difference in units of the largest output."""
    worst = 0.0
    for want, have in zip(wanted, found, strict=True):
        want, have = want.array().astype(np.float64), have.array().astype(np.float64)
        if want.shape != have.shape or not np.array_equal(np.isfinite(want), np.isfinite(have)):
            return np.inf
        finite = np.isfinite(want)
        if not np.array_equal(want[~finite], have[~finite], equal_nan=True):
            return np.inf
        want, have = want[finite], have[finite]
        worst = max(worst, float(np.max(np.abs(want - have), initial=0)) / max(1.0, float(np.max(np.abs(want), initial=0))))
    return worst


def bits(values):
    return [raw(value) for value in values]


class Comparisons:
    def __init__(self):
        self.count, self.failed = 0, 0

    def hold(self, what, problem):
        self.count += 1
        if problem:
            self.failed += 1
            print(f"fails: {what}: {problem}", flush=True)


def computed(library, path, fed, **options):
    model = library.open(path, threads=THREADS, **options)
    try:
        first, second = model.run(fed), model.run(fed)
        if bits(first) != bits(second):
            raise onnx_capi.Failure("a second run gives other bits")
        return first
    finally:
        model.close()


def in_smallest_budget(library, path, fed, **options):
    """The smallest budget that works, by what the errors of smaller ones name, and what is computed in it."""
    budget = 1
    for _ in range(STEPS):
        try:
            return budget, computed(library, path, fed, budget=budget, **options)
        except onnx_capi.Failure as e:
            named = re.search(r"the smallest possible one is (\d+)", str(e))
            if not (str(e).startswith("limit") and named and int(named[1]) > budget):
                raise
            budget = int(named[1])
    raise onnx_capi.Failure(f"a budget of {budget} bytes, which an error named, is not enough")


def check(library, name, fed, reference, source, work, comparisons):
    made = []
    for count in COUNTS:
        path = os.path.join(work, f"{name}.{count}.cgraph")
        library.convert(source, path, capsules=count)
        model = library.open(path)
        capsules = model.capsules()
        model.close()
        if capsules > count or (count == 1 and capsules != 1):
            comparisons.hold(f"{name} in {count}", f"{capsules} capsules")
        made.append((path, capsules))
    if made[-1][1] < 2:
        comparisons.hold(name, "it was not cut")
    for path, capsules in {c: (p, c) for p, c in made}.values():
        for joined in {capsules > 1 and joined for joined in (False, True)}:
            what = f"{name} in {capsules} capsules{', joined' if joined else ''}"
            try:
                compare(library, path, fed, reference, what, comparisons, joined)
            except onnx_capi.Failure as e:
                comparisons.hold(what, e)
    print(f"{name}: {', '.join(str(c) for _, c in made)} capsules", flush=True)


def compare(library, path, fed, reference, what, comparisons, joined):
    off = distance(reference["all", "on"], computed(library, path, fed, joined=joined))
    comparisons.hold(what, None if off <= 1e-5 else f"off by {off}")
    for prepack in PREPACK:
        options = {"prepack": prepack, "joined": joined}
        wanted = reference["off", prepack]
        exact = computed(library, path, fed, optimization="off", **options)
        problem = None if bits(exact) == bits(wanted) else f"other bits, by {distance(wanted, exact)}"
        comparisons.hold(f"{what} without optimisation, prepack {prepack}", problem)
        free = computed(library, path, fed, **options)
        least, found = in_smallest_budget(library, path, fed, **options)
        for budget in (least, 2 * least):
            if budget > least:
                found = computed(library, path, fed, budget=budget, **options)
            problem = None if bits(found) == bits(free) else f"other bits, by {distance(free, found)}"
            comparisons.hold(f"{what}, prepack {prepack}, in {budget} bytes", problem)


def main(library, models, work):
    child = subprocess.run([sys.executable, __file__, "--plain", models], stdout=subprocess.PIPE, check=True)
    references = pickle.loads(child.stdout)
    library, comparisons = onnx_capi.Library(library, onnx_plain.library()), Comparisons()
    for name, arrays in feeds().items():
        reference = {key[1:]: values for key, values in references.items() if key[0] == name}
        source = pathlib.Path(models) / f"{name}.onnx"
        try:
            check(library, name, inputs(arrays), reference, source, work, comparisons)
        except onnx_capi.Failure as e:
            comparisons.hold(name, e)
    print(f"real models: {len(feeds())} models, {comparisons.count} comparisons, {comparisons.failed} fail")
    return bool(comparisons.failed)


if __name__ == "__main__":
    if sys.argv[1] == "--plain":
        plain(sys.argv[2])
    else:
        sys.exit(main(*sys.argv[1:4]))
