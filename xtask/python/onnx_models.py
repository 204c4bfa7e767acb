"""Writes ONNX models with seeded random weights, for tests and benchmarks.

    onnx_models.py KIND MODEL.onnx

small        one node or two of everything that the C API passes around: strings, sequences, maps, an absent optional value,
             a default input, a loop that runs as long as its input says
transformer  a small decoder-only transformer whose weights lie in two data files beside it
large        the same at 2.1 GB
loop         a recurrent network in a Loop whose body reads weights of the graph around it, and a Scan

Weights are scaled such that activations stay finite. Data files are written piece by piece: memory stays small.
"""
import os
import sys

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

IR_VERSION, OPSET = 9, 18
# layers, width, heads, ffn, vocabulary, positions, data files, whether the head is the embedding
SHAPES = {"transformer": (4, 192, 6, 768, 1024, 128, 2, True), "large": (10, 2048, 16, 8192, 8192, 2048, 1, False)}
PIECE = 1 << 22


class Weights:
    """Initializers; those of at least `least` bytes in data files beside the model, in turns."""

    def __init__(self, path, files=0, least=1024, seed=1):
        self.random, self.least, self.initializers, self.turn = np.random.default_rng(seed), least, [], 0
        self.names = [f"{os.path.basename(path)}.{i}.data" for i in range(files)]
        self.files = [open(os.path.join(os.path.dirname(path) or ".", name), "wb") for name in self.names]

    def normal(self, name, *shape, scale=None):
        """Normal; by default such that a product with it keeps its input's size."""
        scale = shape[0] ** -0.5 if scale is None else scale
        count = int(np.prod(shape))
        if not self.files or 4 * count < self.least:
            array = (self.random.standard_normal(shape, np.float32) * np.float32(scale))
            return self.constant(name, array)
        file, location = self.files[self.turn], self.names[self.turn]
        self.turn = (self.turn + 1) % len(self.files)
        file.write(b"\0" * (-file.tell() % 4096))
        offset = file.tell()
        for at in range(0, count, PIECE):
            piece = self.random.standard_normal(min(PIECE, count - at), np.float32)
            file.write((piece * np.float32(scale)).tobytes())
        tensor = T(name=name, data_type=T.FLOAT, dims=shape, data_location=T.EXTERNAL)
        for key, value in [("location", location), ("offset", offset), ("length", 4 * count)]:
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)
        return name

    def constant(self, name, array):
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def close(self):
        for file in self.files:
            file.close()


def written(path, graph, opsets=((("", OPSET)),)):
    model = h.make_model(graph, opset_imports=[h.make_opsetid(*o) for o in opsets], ir_version=IR_VERSION,
                         producer_name="capsulegraph-tests")
    onnx.save(model, path)


def transformer(path, kind):
    layers, width, heads, ffn, vocabulary, positions, files, tied = SHAPES[kind]
    w, nodes = Weights(path, files), []

    def node(op, inputs, output, **attributes):
        nodes.append(h.make_node(op, inputs, [output], name=output, **attributes))
        return output

    w.constant("zero", np.int64(0))
    w.constant("one", np.int64(1))
    w.constant("axis", np.array([0], np.int64))
    w.constant("split", np.array([0, 0, heads, width // heads], np.int64))
    w.constant("join", np.array([0, 0, width], np.int64))
    w.constant("root", np.float32((width // heads) ** -0.5))
    w.constant("never", np.float32(-1e9))
    node("Shape", ["ids"], "ids.shape")
    node("Gather", ["ids.shape", "one"], "length")
    node("Range", ["zero", "length", "one"], "places")
    node("Gather", [w.normal("embedding", vocabulary, width, scale=1.0), "ids"], "embedded")
    node("Gather", [w.normal("position", positions, width, scale=0.1), "places"], "placed")
    x = node("Add", ["embedded", "placed"], "x.0")
    node("Unsqueeze", ["places", "axis"], "columns")
    node("Unsqueeze", ["places", w.constant("last", np.array([1], np.int64))], "rows")
    node("Greater", ["columns", "rows"], "later")
    node("Where", ["later", "never", w.constant("nothing", np.float32(0))], "mask")

    def norm(name, x):
        scale, bias = w.constant(f"{name}.scale", np.ones(width, np.float32)), w.normal(f"{name}.bias", width, scale=0.02)
        return node("LayerNormalization", [x, scale, bias], f"{name}.out", axis=-1, epsilon=1e-5)

    def linear(name, x, rows, columns):
        product = node("MatMul", [x, w.normal(f"{name}.weight", rows, columns)], f"{name}.product")
        return node("Add", [product, w.normal(f"{name}.bias", columns, scale=0.02)], f"{name}.out")

    for i in range(layers):
        b, n = f"block.{i}", norm(f"block.{i}.norm1", x)
        parts = {}
        for part in "qkv":
            split = node("Reshape", [linear(f"{b}.{part}", n, width, width), "split"], f"{b}.{part}.split")
            order = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
            parts[part] = node("Transpose", [split], f"{b}.{part}.heads", perm=order)
        scores = node("Mul", [node("MatMul", [parts["q"], parts["k"]], f"{b}.scores"), "root"], f"{b}.scaled")
        weights = node("Softmax", [node("Add", [scores, "mask"], f"{b}.masked")], f"{b}.weights", axis=-1)
        mixed = node("Transpose", [node("MatMul", [weights, parts["v"]], f"{b}.mixed")], f"{b}.turned", perm=[0, 2, 1, 3])
        joined = node("Reshape", [mixed, "join"], f"{b}.joined")
        x = node("Add", [x, linear(f"{b}.o", joined, width, width)], f"{b}.attended")
        up = linear(f"{b}.up", norm(f"{b}.norm2", x), width, ffn)
        gate = node("Sigmoid", [up], f"{b}.gate")
        x = node("Add", [x, linear(f"{b}.down", node("Mul", [up, gate], f"{b}.gated"), ffn, width)], f"x.{i + 1}")
    x = norm("norm", x)
    head = node("Transpose", ["embedding"], "head", perm=[1, 0]) if tied else w.normal("head", width, vocabulary)
    node("MatMul", [x, head], "logits")
    w.close()
    inputs = [h.make_tensor_value_info("ids", T.INT64, ["batch", "length"])]
    outputs = [h.make_tensor_value_info("logits", T.FLOAT, ["batch", "length", vocabulary])]
    written(path, h.make_graph(nodes, kind, inputs, outputs, w.initializers))


def loop(path):
    """x -> h(t + 1) = tanh(h(t) A + x(t) B) for every t in a Loop, then a running sum of it in a Scan, then a product."""
    w, width = Weights(path, seed=2), 96
    body = h.make_graph(
        [
            h.make_node("Gather", ["x", "t"], ["row"], axis=0),
            h.make_node("MatMul", ["state", "A"], ["kept"]),
            h.make_node("MatMul", ["row", "B"], ["new"]),
            h.make_node("Add", ["kept", "new"], ["sum"]),
            h.make_node("Tanh", ["sum"], ["next"]),
            h.make_node("Identity", ["go"], ["go_on"]),
            h.make_node("Mul", ["next", "gain"], ["given"]),
        ],
        "step",
        [h.make_tensor_value_info("t", T.INT64, []), h.make_tensor_value_info("go", T.BOOL, []),
         h.make_tensor_value_info("state", T.FLOAT, [1, width])],
        [h.make_tensor_value_info("go_on", T.BOOL, []), h.make_tensor_value_info("next", T.FLOAT, [1, width]),
         h.make_tensor_value_info("given", T.FLOAT, [1, width])],
        [numpy_helper.from_array(w.random.standard_normal((1, width)).astype(np.float32), "gain")])
    running = h.make_graph(
        [h.make_node("Add", ["total", "one_row"], ["total_next"]), h.make_node("Identity", ["total_next"], ["so_far"])],
        "running",
        [h.make_tensor_value_info("total", T.FLOAT, [1, width]), h.make_tensor_value_info("one_row", T.FLOAT, [1, width])],
        [h.make_tensor_value_info("total_next", T.FLOAT, [1, width]), h.make_tensor_value_info("so_far", T.FLOAT, [1, width])])
    w.normal("A", width, width)
    w.normal("B", width, width)
    w.constant("start", np.zeros((1, width), np.float32))
    w.constant("yes", np.array(True))
    w.constant("first", np.int64(0))
    nodes = [
        h.make_node("MatMul", ["input", w.normal("in", 64, width)], ["x"]),
        h.make_node("Shape", ["x"], ["x.shape"]),
        h.make_node("Gather", ["x.shape", "first"], ["steps"]),
        h.make_node("Loop", ["steps", "yes", "start"], ["final", "all"], body=body),
        h.make_node("Scan", ["start", "all"], ["sum_all", "sums"], body=running, num_scan_inputs=1),
        h.make_node("MatMul", ["sums", w.normal("out", width, 32)], ["output"]),
    ]
    inputs = [h.make_tensor_value_info("input", T.FLOAT, ["steps", 64])]
    outputs = [h.make_tensor_value_info("output", T.FLOAT, ["steps", 1, 32]), h.make_tensor_value_info("final", T.FLOAT, [1, width])]
    written(path, h.make_graph(nodes, "loop", inputs, outputs, w.initializers))


def small(path):
    w = Weights(path, seed=3)
    again = h.make_graph(
        [h.make_node("MatMul", ["v", "turn"], ["u"]), h.make_node("Identity", ["go"], ["go_on"])], "again",
        [h.make_tensor_value_info("i", T.INT64, []), h.make_tensor_value_info("go", T.BOOL, []),
         h.make_tensor_value_info("v", T.FLOAT, [16, 16])],
        [h.make_tensor_value_info("go_on", T.BOOL, []), h.make_tensor_value_info("u", T.FLOAT, [16, 16])])
    w.constant("turn", np.roll(np.eye(16, dtype=np.float32), 1, axis=1))
    w.constant("weight", np.arange(4 * 128, dtype=np.float32).reshape(4, 128) / 512)
    w.constant("yes", np.array(True))
    w.constant("shift", np.array([1, 2, 3, 4], np.float32))
    float_type = h.make_tensor_type_proto(T.FLOAT, None)
    nodes = [
        h.make_node("Add", ["x", "shift"], ["shifted"]),
        h.make_node("MatMul", ["shifted", "weight"], ["product"]),
        h.make_node("StringConcat", ["words", "words"], ["doubled"]),
        h.make_node("SplitToSequence", ["x"], ["rows"], axis=0, keepdims=1),
        h.make_node("SequenceInsert", ["list", "x"], ["longer"]),
        h.make_node("Optional", [], ["nothing"], type=float_type),
        h.make_node("ZipMap", ["shifted"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[10, 20, 30, 40]),
        h.make_node("Loop", ["rounds", "yes", "turn"], ["turned"], body=again),
    ]
    sequence = h.make_sequence_type_proto(float_type)
    optional = h.make_optional_type_proto(float_type)
    maps = h.make_sequence_type_proto(h.make_map_type_proto(T.INT64, h.make_tensor_type_proto(T.FLOAT, [])))
    value = h.make_value_info
    inputs = [
        h.make_tensor_value_info("x", T.FLOAT, ["n", 4]), h.make_tensor_value_info("shift", T.FLOAT, [4]),
        h.make_tensor_value_info("words", T.STRING, [None]), value("list", sequence), h.make_tensor_value_info("rounds", T.INT64, []),
    ]
    outputs = [
        h.make_tensor_value_info("product", T.FLOAT, ["n", 128]), h.make_tensor_value_info("doubled", T.STRING, [None]),
        value("rows", sequence), value("longer", sequence), value("nothing", optional), value("maps", maps),
        h.make_tensor_value_info("turned", T.FLOAT, [16, 16]),
    ]
    graph = h.make_graph(nodes, "small", inputs, outputs, w.initializers)
    written(path, graph, [("", 20), ("ai.onnx.ml", 3)])


if __name__ == "__main__":
    kind, target = sys.argv[1:]
    if kind in SHAPES:
        transformer(target, kind)
    else:
        {"loop": loop, "small": small}[kind](target)
