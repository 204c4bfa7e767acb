"""Takes a capsule out of a model and draws how its weights are spread.

    weights.py MODEL.cgraph CAPSULE PICTURE.png
"""

import sys

import matplotlib

import capsulegraph

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402


def main():
    path, name, picture = sys.argv[1:]
    with capsulegraph.Model(path) as model, model.fetch(name, layout="f32") as capsule:
        figure, axes = pyplot.subplots()
        for tensor in capsule.tensors:
            weights = tensor.array  # where the library has them, without a copy
            print(f"{tensor.name}: {weights.shape}, mean {weights.mean():+.4f}, deviation {weights.std():.4f}")
            if weights.ndim == 2:
                axes.hist(weights.ravel(), bins=200, histtype="step", density=True, label=tensor.name)
        axes.set(title=f"{name} of {model.name}", xlabel="weight", ylabel="density", yscale="log")
        axes.legend()
        figure.savefig(picture)
    print(picture)


if __name__ == "__main__":
    main()
