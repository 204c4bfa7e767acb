"""Runs tests/data/cases.txt by the Python package: the table of cases that every language runs."""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np

import capsulegraph as cg

TABLE = Path(__file__).resolve().parents[3] / "tests/data/cases.txt"
TYPES = {"float32": np.float32, "int32": np.int32, "int64": np.int64, "string": object}


class Wrong(Exception):
    """The case is not as it should be."""


def check(found, wanted, what):
    if found != wanted:
        raise Wrong(f"{what} is {found!r} and should be {wanted!r}")


class Case:
    """Keys and values of a case. Whatever was not asked for at the end is a key that this runner does not know."""

    def __init__(self, name):
        self.name, self.lines = name, {}

    def take(self, key, *default):
        """The one value of a key; without a default it must be there."""
        values = self.lines.pop(key, None)
        if values is None:
            if not default:
                raise Wrong(f"the case has no {key}")
            return default[0]
        if len(values) > 1:
            raise Wrong(f"{key} is there twice")
        return values[0]

    def all(self, key):
        return self.lines.pop(key, [])

    def number(self, key):
        return int(self.take(key, "0"))

    def ids(self):
        """Tokens; none where they are missing."""
        return [int(token) for token in self.take("tokens", "").split()]


def read(path):
    cases, case = [], None
    unescape = {"\\n": "\n", "\\\\": "\\"}
    places = {
        "{model}": os.environ["CAPSULEGRAPH_TEST_MODEL"],
        "{onnx}": os.path.join(os.environ["CAPSULEGRAPH_TEST_ONNX"], "models"),
    }
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line.startswith("#"):
            continue
        if not line:
            case = None
            continue
        key, _, value = line.partition(" ")
        if key == "case":
            case = Case(value)
            cases.append(case)
            continue
        if case is None:
            raise SystemExit(f"{path}: {line!r} is in no case")
        parts = value.split("\\\\")
        value = "\\".join(part.replace("\\n", unescape["\\n"]) for part in parts)
        for name, place in places.items():
            value = value.replace(name, place)
        case.lines.setdefault(key, []).append(value)
    return cases


def convert(case):
    # A file name is taken relative to the work folder, which is the process's.
    source, target, mini = case.take("source"), case.take("target"), case.take("mini", "")
    count = case.number("capsules")
    return lambda: cg.convert(source, target, mini=mini or False, capsule_count=count)


def split(case):
    source, target = case.take("source"), case.take("target")
    light, size = case.take("light", ""), case.number("mini_bytes")
    calibrate = case.take("calibrate", "")
    return lambda: cg.split(source, target, light=light or None, mini_bytes=size, calibrate=calibrate or None)


def tokenize(case):
    file, text, wanted = case.take("file"), case.take("text", ""), case.ids()

    def work():
        with cg.Model(file) as model:
            found = model.tokenize(text)
        check(found, wanted, "tokens")

    return work


def generate(case):
    file, mode, memory = case.take("file"), case.take("mode", "auto"), case.number("memory")
    prompt, chat, most = case.take("prompt", ""), case.take("chat", ""), case.number("max_tokens")
    cancel_after, stop_after = case.number("cancel_after"), case.number("stop_after")
    wanted, text = case.ids(), case.take("text", None)
    found, pieces, token = [], [], cg.Cancel()

    def on_token(number, piece):
        found.append(number)
        pieces.append(piece)
        if len(found) == cancel_after:
            token.trigger()
        return len(found) == stop_after

    def work():
        try:
            with cg.Model(file, mode=mode, memory=memory or None) as model, model.session() as session:
                if chat:
                    session.chat(chat, max_tokens=most, cancel=token, on_token=on_token).read()
                else:
                    session.complete(prompt, max_tokens=most, cancel=token, on_token=on_token)
        finally:
            check(found, wanted, "tokens")
            if text is not None:
                check("".join(pieces), text, "text")

    return work


def fetch(case):
    file, mode, capsule = case.take("file"), case.take("mode", "auto"), case.take("capsule")
    layout, name = case.take("layout", "source"), case.take("tensor")
    kind, shape, total = case.take("type", ""), case.take("shape", ""), case.number("sum")

    def work():
        with cg.Model(file, mode=mode) as model, model.fetch(capsule, layout=layout) as taken:
            tensor = taken.tensor(name)
            check(tensor.encoding, kind, "type")
            check(",".join(map(str, tensor.shape)), shape, "shape")
            check(int(tensor.raw.sum(dtype=np.uint64)), total, "sum")

    return work


def value_of(line):
    name, kind, shape, values = line.split(" ", 3)
    items = values.split(",")
    if kind not in TYPES:
        raise Wrong(f"{name} has the type {kind!r}, which is none of {', '.join(TYPES)}")
    extents = () if shape == "-" else tuple(int(extent) for extent in shape.split(","))
    return name, np.array(items, object).astype(TYPES[kind]).reshape(extents)


def run(case):
    file, memory, tolerance = case.take("file"), case.number("memory"), float(case.take("tolerance", "0"))
    inputs = dict(value_of(line) for line in case.all("input"))
    wanted = dict(value_of(line) for line in case.all("output"))

    def work():
        with cg.Model(file, memory=memory or None) as model:
            found = model.run(inputs, list(wanted))
        for name, value in wanted.items():
            check((found[name].dtype, found[name].shape), (value.dtype, value.shape), f"{name}: type and shape")
            if value.dtype == object:
                check(found[name].tolist(), value.tolist(), name)
            else:
                difference = np.abs(found[name].astype(np.float64) - value).max()
                if not difference <= tolerance:
                    raise Wrong(f"{name} differs by {difference}")

    return work


def write_bytes(case):
    target, data = case.take("target"), bytes.fromhex(case.take("hex"))
    return lambda: Path(target).write_bytes(data)


KINDS = {
    "convert": convert,
    "split": split,
    "tokenize": tokenize,
    "generate": generate,
    "fetch": fetch,
    "run": run,
    "bytes": write_bytes,
}


def attempt(case):
    kind = case.take("do")
    if kind not in KINDS:
        raise Wrong(f"this runner does not know how to do {kind!r}")
    expect, messages = case.take("expect", "ok"), case.all("message")
    work = KINDS[kind](case)
    if case.lines:
        raise Wrong(f"this runner does not know {', '.join(case.lines)}")
    try:
        work()
        status, message = "ok", ""
    except cg.CapsuleGraphError as error:
        status, message = error.status, str(error)
    if status != expect:
        raise Wrong(f"status is {status} ({message}) and should be {expect}")
    for text in messages:
        if text not in message:
            raise Wrong(f"the message {message!r} does not have {text!r}")


def main():
    """Gives the numbers of cases that passed and failed."""
    passed = failed = 0
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for case in read(TABLE):
            try:
                attempt(case)
                print(f"case {case.name} ... ok", flush=True)
                passed += 1
            except Exception as error:
                print(f"case {case.name} ... FAILED: {error or type(error).__name__}", flush=True)
                failed += 1
        os.chdir(before)
    return passed, failed


if __name__ == "__main__":
    passed, failed = main()
    print(f"test result: {'FAILED' if failed or not passed else 'ok'}. {passed} passed; {failed} failed")
    sys.exit(1 if failed or not passed else 0)
