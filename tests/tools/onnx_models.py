"""Small ONNX models for tests/onnx_import.rs, and what ONNX Runtime makes of them.

make DIR   writes DIR/NAME/model.onnx and its inputs
check DIR  holds the outputs of DIR/NAME/{1,2,1000}.onnx and of the chains {..}.0.onnx, {..}.1.onnx, ... against model.onnx
"""

import os
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

RANDOM = np.random.default_rng(5)
N = 32


def weight(name, shape=(N, N), dtype=np.float32):
    return numpy_helper.from_array((RANDOM.random(shape) - 0.5).astype(dtype), name)


def info(name, shape=("b", N), element=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, element, shape)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def model(nodes, inputs, outputs, weights=(), opset=21, ir=10, **more):
    graph = helper.make_graph(nodes, "test", inputs, outputs, list(weights), **more.pop("graph", {}))
    # Without the types of inner values, as many models are.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir, **more)


def constant(name, tensor):
    return node("Constant", [], [name], value=tensor)


def rows(count=3):
    return (RANDOM.random((count, N)) - 0.5).astype(np.float32)


def models():
    """Name, model and inputs."""
    x, y = info("x"), info("y")
    feed = {"x": rows()}
    plain = [node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["r"]), node("MatMul", ["r", "v"], ["y"])]
    yield "inline", model(plain, [x], [y], [weight("w"), weight("v")]), feed
    yield "external", model(plain, [x], [y], [weight("w"), weight("v")]), feed
    yield "shared", model(
        [node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["a", "w"], ["y"])], [x], [y], [weight("w")]
    ), feed
    yield "constants", model(
        [constant("w", weight("")), constant("h", weight("", ())), *plain[:2], node("Mul", ["r", "h"], ["y"])], [x], [y]
    ), feed
    branch = [
        helper.make_graph(
            [constant("c", weight("")), node("MatMul", ["x", "w"], ["i"]), node("MatMul", ["i", "c"], [out])],
            "branch",
            [],
            [info(out)],
            [weight("w")],
        )
        for out in ("t", "e")
    ]
    chosen = node("If", ["yes"], ["b"], then_branch=branch[0], else_branch=branch[1])
    flag = info("yes", (), TensorProto.BOOL)
    for name, yes in (("if_true", True), ("if_false", False)):
        yield name, model(
            [chosen, node("MatMul", ["b", "w"], ["y"])], [x, flag], [y], [weight("w")]
        ), {**feed, "yes": np.array(yes)}
    body = helper.make_graph(
        [node("MatMul", ["s", "lw"], ["m"]), node("Tanh", ["m"], ["s2"]), node("Identity", ["go"], ["go2"])],
        "body",
        [info("i", (), TensorProto.INT64), info("go", (), TensorProto.BOOL), info("s")],
        [info("go2", (), TensorProto.BOOL), info("s2")],
        [weight("lw")],
    )
    yield "loop", model(
        [node("Loop", ["n", "", "x"], ["l"], body=body), node("Neg", ["l"], ["y"])],
        [x],
        [y],
        [numpy_helper.from_array(np.array(3, np.int64), "n")],
    ), feed
    scan = helper.make_graph(
        [node("MatMul", ["row", "sw"], ["p"]), node("Add", ["state", "p"], ["next"]), node("Identity", ["next"], ["each"])],
        "scan",
        [info("state", (1, N)), info("row", (1, N))],
        [info("next", (1, N)), info("each", (1, N))],
        [weight("sw")],
    )
    yield "scan", model(
        [node("Scan", ["s0", "x3"], ["last", "all"], body=scan, num_scan_inputs=1), node("Neg", ["last"], ["y"])],
        [info("s0", (1, N)), info("x3", ("b", 1, N))],
        [info("y", (1, N)), info("all", ("b", 1, N))],
    ), {"s0": rows(1), "x3": rows(4).reshape(4, 1, N)}
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    function = helper.make_function(
        "own", "Twice", ["a", "w"], ["c"], [node("MatMul", ["a", "w"], ["b"]), node("MatMul", ["b", "w"], ["c"])], opsets[:1]
    )
    called = helper.make_graph(
        [node("Twice", ["x", "w"], ["t"], domain="own"), node("Relu", ["t"], ["y"])],
        "test",
        [x],
        [y],
        [weight("w")],
        value_info=[info("t")],
    )
    yield "function", helper.make_model(called, opset_imports=opsets, functions=[function], ir_version=10), feed
    yield "sequence", model(
        [node("SequenceConstruct", ["x", "w"], ["s"]), node("ConcatFromSequence", ["s"], ["c"], axis=0), node("Neg", ["c"], ["y"])],
        [x],
        [y],
        [weight("w", (4, N))],
    ), feed
    # Defaults, small and large, that are given and that are not.
    for name, given in (("default", {}), ("override", {"w": rows(N), "c": rows(1)[0]})):
        yield name, model(
            [*plain, node("Add", ["y", "c"], ["z"])],
            [x, info("w", (N, N)), info("c", (N,))],
            [info("z")],
            [weight("w"), weight("v"), weight("c", (N,))],
        ), {**feed, **given}
    yield "outputs", model(
        [node("Relu", ["x"], ["y"]), node("Neg", ["w"], ["n"])],
        [x],
        [y, x, info("w", (N, N)), info("n", (N, N)), info("s", (2,))],
        [weight("w"), weight("s", (2,))],
    ), feed
    yield "nothing", model([node("Identity", ["w"], ["y"])], [], [info("y", (N, N))], [weight("w")]), {}
    old = model(plain, [x, info("w", (N, N)), info("v", (N, N)), info("unused", (2,))], [y],
                [weight("w"), weight("v"), weight("unused", (2,))], opset=8, ir=3)
    yield "old", old, feed
    quantized = numpy_helper.from_array(RANDOM.integers(-99, 99, (N, N)).astype(np.int8), "q")
    yield "quantized", model(
        [
            node("DequantizeLinear", ["q", "scale"], ["w"]),
            node("MatMul", ["x", "w"], ["a"]),
            node("MatMul", ["a", "w"], ["y"]),
        ],
        [x],
        [y],
        [quantized, numpy_helper.from_array(np.float32(0.01), "scale")],
    ), feed
    yield "dead", model(
        [node("Neg", ["x"], ["unused"]), node("Relu", ["x"], ["y"]), node("Abs", ["y"], ["unused2"])], [x], [y]
    ), feed
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("sp", TensorProto.FLOAT, [2], [1.5, 2.5]),
        helper.make_tensor("at", TensorProto.INT64, [2], [3, N + 1]),
        [N, N],
    )
    yield "sparse", model(
        [node("MatMul", ["x", "sp"], ["a"]), node("Neg", ["a"], ["y"])], [x], [y],
        graph={"sparse_initializer": [sparse]},
    ), feed
    text = helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"\xc3\xa9"])
    yield "strings", model(
        [node("Concat", ["words", "s"], ["c"], axis=0), node("Identity", ["c"], ["y"])],
        [info("s", ("k",), TensorProto.STRING)],
        [info("y", ("m",), TensorProto.STRING)],
        [text],
    ), {"s": np.array(["x"], dtype=object)}
    typed = helper.make_tensor("w", TensorProto.FLOAT, (N, N), rows(N).flatten().tolist())
    yield "typed", model(plain, [x], [y], [typed, weight("v")]), feed
    for element in (TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16,
                    TensorProto.UINT16, TensorProto.INT32, TensorProto.UINT32, TensorProto.INT64, TensorProto.UINT64,
                    TensorProto.BOOL, TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2,
                    TensorProto.INT4, TensorProto.UINT4):
        values = RANDOM.integers(0, 2, (200, 128)).flatten().tolist()
        tensor = helper.make_tensor("w", element, (200, 128), values)
        name = TensorProto.DataType.Name(element).lower()
        yield f"type_{name}", model(
            [node("Cast", ["w"], ["f"], to=TensorProto.FLOAT), node("Add", ["x", "f"], ["y"])],
            [info("x", (1,))],
            [info("y", (200, 128))],
            [tensor],
        ), {"x": np.ones(1, np.float32)}


def make(folder):
    for name, made, feed in models():
        path = os.path.join(folder, name)
        os.mkdir(path)
        target = os.path.join(path, "model.onnx")
        if name == "external":
            onnx.save_model(made, target, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
        else:
            onnx.save_model(made, target)
        onnx.checker.check_model(target)
        np.savez(os.path.join(path, "feed.npz"), **feed)


def session(path):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(path, values):
    loaded = session(path)
    wanted = [i.name for i in loaded.get_inputs()]
    # Those with a default are no inputs to ONNX Runtime, and can be given all the same.
    wanted += [i.name for i in loaded.get_overridable_initializers()]
    names = [o.name for o in loaded.get_outputs()]
    return dict(zip(names, loaded.run(names, {n: values[n] for n in wanted if n in values})))


def same(a, b):
    if a.dtype == object:
        return a.tolist() == b.tolist()
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def check(folder):
    wrong = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        feed = dict(np.load(os.path.join(path, "feed.npz"), allow_pickle=True))
        want = run(os.path.join(path, "model.onnx"), feed)
        for capsules in ("1", "2", "1000"):
            try:
                back = os.path.join(path, f"{capsules}.onnx")
                onnx.checker.check_model(back)
                found = run(back, feed)
                chained = dict(feed)
                number = 0
                while os.path.exists(part := os.path.join(path, f"{capsules}.{number}.onnx")):
                    chained |= run(part, chained)
                    number += 1
                for output, value in want.items():
                    if not same(value, found[output]):
                        wrong.append(f"{name}: {output} differs after export of {capsules} capsules")
                    if not same(value, chained[output]):
                        wrong.append(f"{name}: {output} differs in {number} capsules")
            except Exception as error:  # every model is told of, not the first alone
                wrong.append(f"{name}, {capsules} capsules: {error}")
    print("\n".join(wrong))
    return not wrong


if __name__ == "__main__":
    what, folder = sys.argv[1:]
    sys.exit(make(folder) if what == "make" else not check(folder))
