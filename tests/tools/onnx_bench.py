"""Measures ONNX models: CapsuleGraph's C API against ONNX Runtime alone, in time and memory.

    onnx_bench.py LIBRARY MODELS LARGE WORK

LIBRARY is libcapsulegraph.so of a release build; MODELS the folder of real models that cargo xtask setup fills; LARGE the model
"large" of xtask/python/onnx_models.py; WORK a folder with 3 GB of room. Needs the PyPI packages numpy, onnx, onnxruntime.

Every subject is a process of its own, so that its memory is its own: peaks are VmHWM, Python and numpy (about 40 MB) included;
anonymous memory is RssAnon less what it was before opening. Times of the two sides alternate while the other waits; the median
of the ratios of neighbours counts.
WORK gets onnx-limits.md and onnx-speed.md, the tables of docs/onnx.md. The last line is: marks: N hold, N do not; the
status is 0 where all hold.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

THREADS = 2
MB, MIB = 1_000_000, 1 << 20
BUDGET = 512 * MIB
LARGE_ROUNDS, OPEN_ROUNDS, SMALL_ROUNDS = 7, 3, 15
# Where a process's memory happens to lie makes runs of 0.1 ms differ by a tenth: real models have several of each side.
PROCESSES = 5
CAPSULES = 4
# ONNX Runtime's threads go on looking for work after a run, for about 40 ms, beside what the other side does.
REST = 0.1
LENGTH = 32


def status(field):
    """Bytes of a line of /proc/self/status."""
    line = next(l for l in open("/proc/self/status") if l.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def large_inputs():
    import numpy as np

    return {"ids": np.random.default_rng(11).integers(0, 8192, (1, LENGTH))}


def child(library_path):
    """Carries out one command a line: a list of a name and its arguments. Answers with one line of JSON."""
    import onnx_capi
    import onnx_plain
    import onnx_real

    answers, bound, keep, before = os.fdopen(os.dup(1), "w"), None, [], 0
    os.dup2(2, 1)
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        begun, answer = time.perf_counter(), None
        if command == "convert":
            onnx_capi.Library(library_path).convert(*arguments)
        elif command in ("ours", "plain"):
            path, name, options = arguments
            arrays = large_inputs() if name == "large" else onnx_real.feeds()[name]
            inputs, before = onnx_real.inputs(arrays), status("RssAnon")
            if command == "ours":
                library = onnx_capi.Library(library_path, onnx_plain.library())
                begun = time.perf_counter()
                opened = library.open(path, threads=THREADS, **options)
                capsules = opened.capsules()
            else:
                runtime = onnx_plain.Runtime(threads=THREADS)
                begun = time.perf_counter()
                opened, capsules = runtime.session(path), 1
            opened_in = time.perf_counter() - begun
            bound = opened.bound(inputs)
            keep.append((opened, bound))
            begun = time.perf_counter()
            bound.run(take=False)
            answer = {"open": opened_in, "first": time.perf_counter() - begun, "capsules": capsules}
        elif command == "run":
            for _ in range(arguments[0]):
                bound.run(take=False)
        elif command == "output":
            import zlib

            answer = [zlib.crc32(memoryview(v.data).tobytes()) for v in bound.run()]
        seconds = time.perf_counter() - begun
        answer = {"answer": answer, "seconds": seconds, "peak": status("VmHWM"), "anonymous": status("RssAnon") - before}
        print(json.dumps(answer), file=answers, flush=True)


class Child:
    def __init__(self, library):
        self.process = subprocess.Popen([sys.executable, __file__, "--child", library], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def ask(self, *command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{command[0]} ended its process with {self.process.wait()}")
        return json.loads(line)


class Marks:
    def __init__(self):
        self.rows, self.missed = [], 0

    def add(self, what, found, bound, form):
        held = found <= bound
        self.missed += not held
        self.rows.append((what, form(found), form(bound), "yes" if held else "**no**"))
        print(f"{what}: {form(found)} (at most {form(bound)})", flush=True)

    def table(self):
        lines = ["| what | measured | at most | holds |", "|---|---:|---:|---|"]
        return "\n".join(lines + [f"| {' | '.join(row)} |" for row in self.rows]) + "\n"


def megabytes(number):
    return f"{number / MB:,.0f} MB"


def times(number):
    return f"{number:.2f}"


def alternating(children, rounds, repeat):
    """The time of a run of each, round by round."""
    found = []
    for _ in range(rounds):
        seconds = []
        for process in children:
            time.sleep(REST)
            seconds.append(process.ask("run", repeat)["seconds"] / repeat)
        found.append(seconds)
    return found


def medians(rounds):
    """The median time of each, and the median of how often each takes the second's: neighbours in time, as the processor's
    speed changes by half within seconds where others use it too."""
    times = [statistics.median(seconds) for seconds in zip(*rounds)]
    ratios = [statistics.median(seconds[i] / seconds[1] for seconds in rounds) for i in range(len(times))]
    return times, ratios


def measure_large(library, source, work, marks):
    cut = os.path.join(work, "large.cgraph")
    with Child(library) as process:
        found = process.ask("convert", source, cut)
        print(f"converted in {found['seconds']:.1f} s")
        marks.add("peak of the conversion", found["peak"], 200 * MB, megabytes)
    with Child(library) as process:
        process.ask("ours", cut, "large", {"budget": BUDGET})
        in_budget = process.ask("output")
        marks.add("peak of running in a budget of 512 MiB", in_budget["peak"], 640 * MIB, megabytes)
    ready, created = [], []
    for _ in range(OPEN_ROUNDS):
        with Child(library) as process:
            begun = process.ask("ours", cut, "large", {"prepack": "off"})["answer"]
            usual = min(process.ask("run", 1)["seconds"] for _ in range(2))
            ready.append(begun["open"] + max(0.0, begun["first"] - usual))
            anonymous = process.ask("output")["anonymous"]
        with Child(library) as process:
            created.append(process.ask("plain", source, "large", {})["answer"]["open"])
    marks.add("anonymous memory without a budget, prepack off", anonymous, 100 * MB, megabytes)
    print(f"ready in {statistics.median(ready):.2f} s, ONNX Runtime's session in {statistics.median(created):.2f} s")
    ratio = statistics.median(ready) / statistics.median(created)
    marks.add("opening and making ready, prepack off, over ONNX Runtime's session", ratio, 0.25, times)
    with Child(library) as ours, Child(library) as plain:
        ours.ask("ours", cut, "large", {"prepack": "on"})
        plain.ask("plain", source, "large", {})
        seconds, ratios = medians(alternating([ours, plain], LARGE_ROUNDS, 1))
    print(f"a run in {seconds[0]:.3f} s, of ONNX Runtime in {seconds[1]:.3f} s")
    marks.add(f"a run of {LENGTH} tokens, prepack on, over ONNX Runtime's", ratios[0], 1.10, times)
    os.remove(cut)


def measure_real(library, models, work, marks):
    import onnx_real

    lines = ["| model | capsules | ms a run | ONNX Runtime's | ratio | with a session for each capsule |",
             "|---|---:|---:|---:|---:|---:|"]
    for name in onnx_real.feeds():
        source, cut = os.path.join(models, f"{name}.onnx"), os.path.join(work, f"{name}.cgraph")
        with Child(library) as process:
            process.ask("convert", source, cut, CAPSULES)
        found = []
        for _ in range(PROCESSES):
            with Child(library) as ours, Child(library) as single, Child(library) as plain:
                capsules = ours.ask("ours", cut, name, {})["answer"]["capsules"]
                single.ask("ours", cut, name, {"joined": False})
                plain.ask("plain", source, name, {})
                # A run lasts from 0.1 ms on: as many at a time as make 20 ms, so that waking up after the rest counts little.
                once = min(plain.ask("run", 1)["seconds"] for _ in range(3))
                found.extend(alternating([ours, plain, single], SMALL_ROUNDS, max(1, round(0.02 / once))))
        seconds, ratios = medians(found)
        lines.append(f"| {name} | {capsules} | {seconds[0] * 1e3:.2f} | {seconds[1] * 1e3:.2f} | {ratios[0]:.2f} "
                     f"| {ratios[2]:.2f} |")
        marks.add(f"{name}: a run in {capsules} capsules over ONNX Runtime's", ratios[0], 1.15, times)
    return "\n".join(lines) + "\n"


def main(library, models, large, work):
    marks = Marks()
    if large != "-":
        measure_large(library, large, work, marks)
    limits = marks.table()
    speed = measure_real(library, models, work, marks)
    pathlib.Path(work, "onnx-limits.md").write_text(limits)
    pathlib.Path(work, "onnx-speed.md").write_text(speed)
    print(f"marks: {len(marks.rows) - marks.missed} hold, {marks.missed} do not")
    return bool(marks.missed)


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        child(sys.argv[2])
    else:
        sys.exit(main(*sys.argv[1:5]))
