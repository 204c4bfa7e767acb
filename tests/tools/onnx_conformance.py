"""ONNX's own backend cases through CapsuleGraph's C API, against ONNX Runtime alone.

    onnx_conformance.py LIBRARY CASES WORK [--locale FOLDER] [--only TEXT]

LIBRARY is libcapsulegraph.so; CASES a folder with `simple`, `pytorch-converted`, `pytorch-operator` and `light` of another
release of the package onnx than the installed one, which gives `node`; WORK an empty folder. Needs the PyPI packages numpy,
onnx and onnxruntime. FOLDER has the locale en_US.UTF-8, which StringNormalizer wants.

Each case is converted with as many capsules as its graph can be cut into, opened, and run on its inputs. It passes where
every output is the expected one, by the rules of ONNX's own runner: the same types and shapes, numbers within
rtol 1e-3 and atol 1e-7 unless the case says otherwise. ONNX Runtime alone has the same inputs and the same rules. A case
that it passes and CapsuleGraph does not is a failure. Cases run in child processes, two at a time; one that ends its
process, or takes more than two minutes, has failed, and the next has a new process.

The last line is: conformance: N cases, N pass with onnxruntime, N pass here, N fail here only, N cut; the status is 0
where none fails here only.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading

SECONDS = 120
WORKERS = 2


def cases(folder):
    """Kind, name, model, data folder (None: made as ONNX's runner does for `light`)."""
    import onnx.backend.test

    node = pathlib.Path(onnx.backend.test.__file__).parent / "data" / "node"
    for kind, place in [("node", node)] + [(k, folder / k) for k in ("simple", "pytorch-converted", "pytorch-operator")]:
        for case in sorted(place.iterdir()):
            if (case / "model.onnx").is_file():
                yield kind, case.name, case / "model.onnx", case
    for model in sorted((folder / "light").glob("*.onnx")):
        yield "light", model.stem, model, None


def data_sets(model, path, folder):
    """Inputs (pairs of name and value) and expected outputs of each data set, then rtol and atol."""
    import numpy as np

    import onnx_values as v

    tolerances = {}
    if folder and (folder / "data.json").is_file():
        tolerances = json.loads((folder / "data.json").read_text())
    sets = []
    for place in sorted(folder.glob("test_data_set*")) if folder else []:
        count = [len(list(place.glob(f"{side}_*.pb"))) for side in ("input", "output")]
        sides = [(model.graph.input, "input"), (model.graph.output, "output")]
        values = [[v.read(place / f"{side}_{i}.pb", ports[i].type) for i in range(n)] for (ports, side), n in zip(sides, count)]
        sets.append((list(zip([p.name for p in model.graph.input], values[0])), values[1]))
    if not folder:
        initializers = {i.name for i in model.graph.initializer}
        inputs = []
        for port in model.graph.input:
            if port.name not in initializers:
                dims = [d.dim_value if d.HasField("dim_value") else 1 for d in port.type.tensor_type.shape.dim]
                size = int(np.prod(dims))
                inputs.append((port.name, v.Tensor.of((np.arange(size).reshape(dims) / size).astype(np.float32))))
        stem = str(path)[: -len(".onnx")]
        sets.append((inputs, [v.read(f"{stem}_output_{i}.pb", o.type) for i, o in enumerate(model.graph.output)]))
    return sets, tolerances.get("rtol", 1e-3), tolerances.get("atol", 1e-7)


def separable(model):
    """Nodes that a cut may stand between: those that do not only compute constants."""
    constant = {i.name for i in model.graph.initializer}
    if model.ir_version >= 4:  # before, every initializer was an input too, and none could be overridden
        constant -= {i.name for i in model.graph.input}
    count = 0
    for node in model.graph.node:
        subgraphs = any(a.HasField("g") or a.graphs for a in node.attribute)
        if not subgraphs and all(i in constant for i in node.input if i) and not node.op_type.startswith("Random"):
            constant.update(node.output)
        else:
            count += 1
    return count


def judged(model, path, folder, run):
    """Runs every data set; None where all is as expected, else what is not."""
    import onnx_values as v

    sets, rtol, atol = data_sets(model, path, folder)
    if not sets:
        return "no data set"
    for inputs, wanted in sets:
        found = run(inputs)
        if len(found) < len(wanted):
            return f"{len(found)} outputs in place of {len(wanted)}"
        for index, (want, have) in enumerate(zip(wanted, found)):
            problem = v.difference(want, have, rtol, atol)
            if problem:
                return f"output {index}: {problem}"
    return None


def with_runtime(runtime, model, path, folder):
    session = runtime.session(path)
    try:
        return {"problem": judged(model, path, folder, session.run)}
    finally:
        session.close()


def with_library(library, model, path, folder, work):
    target = os.path.join(work, "case.cgraph")
    library.convert(path, target, capsules=1 << 20)
    try:
        opened = library.open(target, joined=False)
        with contextlib.closing(opened):
            count, nodes = opened.capsules(), separable(model)
            if count < min(nodes, 2):
                return {"problem": f"{nodes} nodes were not cut", "capsules": count}
            problem = judged(model, path, folder, opened.run)
        if count > 1 and problem is None:
            # As small capsules are computed unless something else is asked for: several by one session.
            with contextlib.closing(library.open(target)) as opened:
                problem = judged(model, path, folder, opened.run)
        return {"problem": problem, "capsules": count}
    finally:
        os.remove(target)


def work(engine, library_path, folder):
    """A child: a line of JSON for each case on its input, until that ends."""
    import onnx

    import onnx_capi
    import onnx_plain

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    if engine == "onnxruntime":
        runtime = onnx_plain.Runtime(threads=1)
        judge = lambda *case: with_runtime(runtime, *case)
    else:
        library = onnx_capi.Library(library_path, onnx_plain.library())
        judge = lambda *case: with_library(library, *case, folder)
    for line in sys.stdin:
        path, data = json.loads(line)
        try:
            model = onnx.load(path, load_external_data=False)
            answer = judge(model, path, data and pathlib.Path(data))
        except Exception as e:
            answer = {"problem": f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"}
        print(json.dumps(answer), file=answers, flush=True)


class Child:
    """A child process; a new one after each that ended."""

    def __init__(self, engine, library, folder):
        self.command = [sys.executable, __file__, "--child", engine, library, folder]
        self.process = None

    def ask(self, case):
        if self.process is None:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=subprocess.DEVNULL, text=True)
        timer = threading.Timer(SECONDS, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps(case) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        timer.cancel()
        if line:
            return json.loads(line)
        status, self.process = self.process.wait(), None
        return {"problem": f"the process ended with {status}"}

    def close(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait()


def run_all(engine, found, library, folder):
    """The answer for each case."""
    waiting, answers = queue.SimpleQueue(), {}
    for case in found:
        waiting.put(case)

    def serve(number):
        place = os.path.join(folder, f"{engine}-{number}")
        os.makedirs(place)
        child = Child(engine, library, place)
        while True:
            try:
                kind, name, model, data = waiting.get_nowait()
            except queue.Empty:
                return child.close()
            answers[kind, name] = child.ask((str(model), data and str(data)))

    threads = [threading.Thread(target=serve, args=(n,)) for n in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("cases", type=pathlib.Path)
    parser.add_argument("work")
    parser.add_argument("--locale")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    if options.locale:
        os.environ["LOCPATH"] = os.path.abspath(options.locale)
    found = [case for case in cases(options.cases) if options.only in case[1]]
    plain, ours = (run_all(engine, found, options.library, options.work) for engine in ("onnxruntime", "capsulegraph"))
    kinds, only_here = collections.Counter(c[0] for c in found), []
    for kind, count in kinds.items():
        names = [(k, n) for k, n, *_ in found if k == kind]
        passed = [[n for n in names if answers[n]["problem"] is None] for answers in (plain, ours)]
        print(f"{kind}: {count} cases, {len(passed[0])} pass with onnxruntime, {len(passed[1])} pass here")
        only_here += [n for n in passed[0] if n not in passed[1]]
        for name in passed[1]:
            if name not in passed[0]:
                print(f"passes here only: {name[0]}/{name[1]} (onnxruntime: {plain[name]['problem']})")
    for kind, name in only_here:
        print(f"fails here only: {kind}/{name}: {ours[kind, name]['problem']}")
    (pathlib.Path(options.work) / "answers.json").write_text(json.dumps(
        [{"case": "/".join(n), "onnxruntime": plain[n]["problem"], **ours[n]} for n in ours], indent=1))
    passed = [sum(a["problem"] is None for a in answers.values()) for answers in (plain, ours)]
    cut = sum(a.get("capsules", 0) > 1 for a in ours.values())
    print(f"conformance: {len(found)} cases, {passed[0]} pass with onnxruntime, {passed[1]} pass here, "
          f"{len(only_here)} fail here only, {cut} cut")
    return bool(only_here)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    if sys.argv[1:2] == ["--child"]:
        work(*sys.argv[2:5])
    else:
        sys.exit(main())
