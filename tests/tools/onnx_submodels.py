"""Capsules of real ONNX models as models of their own.

    onnx_submodels.py CGRAPH MODELS WORK

CGRAPH is the program; MODELS a folder with the models of onnx_real.py (cargo xtask setup fills it); WORK an empty folder.
Needs the PyPI packages numpy, onnx and onnxruntime.

Each model is converted into 8 capsules, each of which is fetched as a model of its own, and from a mini with 8 bits again, in
mode fast, where the model has light forms.
- ONNX's own checker takes every one of them, but for those that take or give a value whose number of dimensions ONNX's shape
  inference does not find in the source either, as both branches of an If may give another.
- One after the other, by the onnxruntime package, they give what the whole model gives: within 1e-5 of the source, and of the
  mini what cgraph run --mode fast gives, in units of the largest output (at least 1).

The last line is: sub-models: N models, N capsules, N light, N fail; the status is 0 where none fails.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime

from onnx_real import feeds

CAPSULES = "8"
# A scan's or loop's body is all that these weigh, or convolutions below version 13 of ONNX's operators.
NOT_LIGHT = "has a light form"


def session(path):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(model, values):
    names = [output.name for output in model.get_outputs()]
    # Scalars of numpy are no arrays.
    fed = {port.name: np.asarray(values[port.name]) for port in model.get_inputs()}
    return dict(zip(names, model.run(names, fed)))


def has_rank(port):
    return port.type.WhichOneof("value") != "tensor_type" or port.type.tensor_type.HasField("shape")


def ports(path):
    graph = onnx.load(str(path), load_external_data=False).graph
    return [*graph.input, *graph.output]


def inferred(source):
    """The values of the source whose number of dimensions is known, or found by ONNX's shape inference."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(source))).graph
    return {port.name for port in [*graph.input, *graph.output, *graph.value_info] if has_rank(port)}


def distance(wanted, found):
    wanted, found = np.asarray(wanted, np.float64), np.asarray(found, np.float64)
    if wanted.shape != found.shape:
        return np.inf
    return float(np.max(np.abs(wanted - found), initial=0)) / max(1.0, float(np.max(np.abs(wanted), initial=0)))


class Chain:
    """The capsules of a file, one after the other."""

    def __init__(self, cgraph, file, ranked, work, *options):
        self.cgraph, self.file, self.ranked, self.options, self.problems = cgraph, file, ranked, options, []
        facts = json.loads(subprocess.check_output([cgraph, "inspect", file, "--json", "--capsules"]))
        self.capsules = facts["capsules"]
        self.paths = [self.fetched(capsule["id"], work) for capsule in self.capsules]

    def fetched(self, capsule, work):
        folder = work / f"{self.file.name}.{capsule}"
        subprocess.run([self.cgraph, "-q", "fetch", self.file, capsule, "-o", folder, *self.options], check=True)
        path = folder / f"{capsule}.onnx"
        try:
            onnx.checker.check_model(str(path))
        except onnx.checker.ValidationError as e:
            unranked = [port.name for port in ports(path) if not has_rank(port)]
            if not unranked or any(name in self.ranked for name in unranked):
                self.problems.append(f"{capsule}: {e}")
        return path

    def run(self, inputs):
        values = dict(inputs)
        for path in self.paths:
            values.update(run(session(path), values))
        return values

    def compare(self, wanted, inputs):
        found = self.run(inputs)
        for name, value in wanted.items():
            off = distance(value, found[name])
            # What is no number is not within it.
            if not off <= 1e-5:
                self.problems.append(f"output {name} is off by {off}")


def by_program(cgraph, file, inputs, outputs, work):
    """What cgraph run gives in mode fast."""
    arguments = [cgraph, "-q", "run", file, "--mode", "fast", "--optimization", "off"]
    for number, (name, array) in enumerate(inputs.items()):
        np.save(work / f"{number}.npy", array)
        arguments += ["--input", f"{name}={work / f'{number}.npy'}"]
    for number, name in enumerate(outputs):
        arguments += ["--output", f"{name}={work / f'out{number}.npy'}"]
    subprocess.run(arguments, check=True)
    return {name: np.load(work / f"out{number}.npy") for number, name in enumerate(outputs)}


def light(cgraph, name, ranked, inputs, outputs, work):
    """The capsules of a mini, or None where the model has no light forms."""
    mini = work / f"{name}.mini.cgraph"
    made = subprocess.run(
        [cgraph, "-q", "split", work / f"{name}.cgraph", "-o", mini, "--light", "q8_0", "--max-error", "10"],
        stderr=subprocess.PIPE, text=True,
    )
    if made.returncode:
        if NOT_LIGHT not in made.stderr:
            raise RuntimeError(f"{name}: {made.stderr}")
        return None
    chain = Chain(cgraph, mini, ranked, work, "--mode", "fast")
    chain.compare(by_program(cgraph, mini, inputs, outputs, work), inputs)
    return chain


def main(cgraph, models, work):
    work, capsules, held_lightly, failed = pathlib.Path(work), 0, 0, 0
    for name, inputs in feeds().items():
        source, full = pathlib.Path(models) / f"{name}.onnx", work / f"{name}.cgraph"
        subprocess.run([cgraph, "-q", "convert", source, "-o", full, "--no-mini", "--capsules", CAPSULES], check=True)
        wanted, ranked = run(session(source), inputs), inferred(source)
        chains = [Chain(cgraph, full, ranked, work)]
        chains[0].compare(wanted, inputs)
        chains += filter(None, [light(cgraph, name, ranked, inputs, wanted, work)])
        capsules += len(chains[0].capsules)
        held_lightly += sum(capsule.get("residence") == "light" for chain in chains for capsule in chain.capsules)
        for problem in (problem for chain in chains for problem in chain.problems):
            failed += 1
            print(f"fails: {name}: {problem}", flush=True)
    print(f"sub-models: {len(feeds())} models, {capsules} capsules, {held_lightly} light, {failed} fail")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
