"""Whatever is done wrong is an exception that says so, never a crash."""

import copy
import errno
import io
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

from support import language, mini, onnx, variable

import capsulegraph as cg

PROMPT = "Once upon a time"


class Closing(unittest.TestCase):
    def test_use_after_close(self):
        model = cg.Model(language())
        session = model.session()
        generation = session.generate(PROMPT)
        capsule = model.fetch("block.0.attn")
        cancel, log, budget = cg.Cancel(), cg.Log(), cg.Budget(1 << 30)
        for item in (session, capsule, cancel, log, budget):
            item.close()
            item.close()
            self.assertTrue(item.closed)
        model.close()
        uses = [
            lambda: model.name,
            lambda: model.tokenize("a"),
            lambda: model.session(),
            lambda: model.fetch("embed"),
            lambda: model.__enter__(),
            lambda: len(session),
            lambda: session.complete(PROMPT),
            lambda: next(generation),
            lambda: capsule["blk.0.attn_k.weight"],
            lambda: cancel.trigger(),
            lambda: log.take(),
            lambda: budget.size,
            lambda: cg.Model(language(), memory=budget),
        ]
        for use in uses:
            with self.assertRaises(cg.ClosedError) as caught:
                use()
            self.assertIn("is closed", str(caught.exception))

    def test_closing_the_model_leaves_its_session(self):
        model = cg.Model(language())
        session = model.session()
        ids = model.tokenize(PROMPT)
        model.close()
        self.assertEqual(session.complete(ids, max_tokens=2), ", the")

    def test_closing_while_another_thread_generates(self):
        for _ in range(3):
            model = cg.Model(language())
            session = model.session()
            begun, results = threading.Event(), []

            def work():
                try:
                    session.generate(PROMPT, max_tokens=200, on_token=lambda *_: begun.set()).read()
                    results.append(None)
                except cg.ClosedError as error:
                    results.append(error)

            thread = threading.Thread(target=work)
            thread.start()
            begun.wait()
            session.close()
            model.close()
            thread.join()
            self.assertIsInstance(results[0], cg.ClosedError)

    def test_copies_are_refused(self):
        with cg.Model(language()) as model, model.session() as session, model.fetch("block.0.attn") as capsule:
            tensor = capsule.tensors[0]
            for item in (model, session, session.generate(PROMPT), capsule, tensor, tensor._owner, cg.Cancel()):
                for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
                    with self.assertRaises(TypeError) as caught:
                        attempt(item)
                    self.assertIn("cannot be copied", str(caught.exception))

    def test_what_things_say_they_are(self):
        with cg.Model(language()) as model, cg.Budget(1 << 30) as budget, cg.Log() as log:
            session = model.session(context=256)
            generation = session.generate(PROMPT, max_tokens=2)
            capsule = model.fetch("block.0.attn")
            generation.read()
            for item, text in (
                (model, f"<capsulegraph.Model {model.name!r}, mode exact>"),
                (session, f"<capsulegraph.Session of {model.name!r}, mode exact, 5 of 256 tokens>"),
                (generation, "<capsulegraph.Generation ended by 'length', 2 tokens>"),
                (capsule, "<capsulegraph.Capsule 'block.0.attn', 5 tensors, full>"),
                (cg.Part(model, context=16), "<capsulegraph.Part 0 positions>"),
                (budget, f"<capsulegraph.Budget of {1 << 30} bytes, 0 claimed>"),
                (log, "<capsulegraph.Log open>"),
            ):
                self.assertEqual(repr(item), text)
            session.close()
            self.assertEqual(repr(session), "<capsulegraph.Session closed>")


class WrongArguments(unittest.TestCase):
    def test_types_and_ranges(self):
        with cg.Model(language()) as model, model.session() as session:
            for error, use in (
                (TypeError, lambda: cg.Model(None)),
                (TypeError, lambda: cg.Model(5)),
                (TypeError, lambda: model.tokenize(b"bytes")),
                (TypeError, lambda: model.detokenize("text")),
                (TypeError, lambda: model.detokenize([1.5])),
                (ValueError, lambda: model.detokenize([-1])),
                (ValueError, lambda: model.detokenize([1 << 32])),
                (cg.InvalidArgumentError, lambda: model.detokenize([10**6])),
                (TypeError, lambda: session.complete(5)),
                (TypeError, lambda: session.complete(PROMPT, max_tokens="8")),
                (ValueError, lambda: session.complete(PROMPT, max_tokens=-1)),
                (TypeError, lambda: session.complete(PROMPT, temperature="hot")),
                (ValueError, lambda: session.complete(PROMPT, temperature=float("nan"))),
                (TypeError, lambda: session.complete(PROMPT, cancel=session)),
                (TypeError, lambda: session.complete(PROMPT, on_token=5)),
                (cg.InvalidArgumentError, lambda: session.complete([])),
                (TypeError, lambda: model.chat_tokens("hello")),
                (ValueError, lambda: model.chat_tokens([{"role": "user"}])),
                (TypeError, lambda: model.chat_tokens([{"role": "user", "content": 5}])),
                (cg.NotFoundError, lambda: model.fetch("no such capsule")),
                (ValueError, lambda: model.fetch("embed", layout="f64")),
                (ValueError, lambda: cg.Model(language(), mode="quick")),
                (ValueError, lambda: cg.Model(language(), memory=0)),
                (ValueError, lambda: cg.Model(language(), memory=-5)),
                (cg.LimitError, lambda: cg.Model(language(), memory=1000)),
                (cg.FileError, lambda: cg.Model("absent.cgraph")),
                (OSError, lambda: cg.convert("absent.gguf", "never.cgraph")),
                (TypeError, lambda: cg.convert("a", "b", progress=5)),
                (TypeError, lambda: model.run([1])),
                (cg.UnsupportedError, lambda: model.run({"x": 1})),
                (LookupError, lambda: model.fetch("embed")["no such tensor"]),
            ):
                with self.assertRaises(error):
                    use()
            # All of that has left the session as it was.
            self.assertEqual(session.complete(PROMPT, max_tokens=2), ", the")

    def test_messages_say_what_is_wrong(self):
        with cg.Model(language()) as model, model.session() as session, cg.Group() as group:
            for error, text, use in (
                (TypeError, "a Model is wanted, not Session", lambda: cg.Session(session)),
                (TypeError, "a Model is wanted, not Session", lambda: cg.Part(session)),
                (TypeError, "a Model is wanted, not Budget", lambda: cg.Session(cg.Budget(1 << 20))),
                (TypeError, "a Model is wanted, not NoneType", lambda: cg.Session(None)),
                (TypeError, "a Generation is wanted, .* not Session", lambda: group.advance([session])),
                (TypeError, "generations must be", lambda: group.advance(None)),
                (TypeError, "stop must be a sequence of str", lambda: session.complete(PROMPT, stop=None)),
                (TypeError, "temperature must be a number, not str", lambda: session.complete(PROMPT, temperature="hot")),
                (TypeError, "top_p must be a number", lambda: session.complete(PROMPT, top_p=None)),
                (TypeError, "capsules must be two numbers", lambda: cg.Model(language(), capsules=5)),
                (TypeError, "token ids must be a sequence of int, not NoneType", lambda: session.eval(None)),
                (TypeError, "messages must be a sequence", lambda: model.chat_prompt(None)),
                (TypeError, "messages must be a list .*, not one of them", lambda: model.chat_prompt({"role": "user"})),
                (TypeError, "a message must be a dict", lambda: model.chat_prompt([1])),
                (TypeError, "a message must be a dict", lambda: session.chat(["hi"])),
                (ValueError, "text has half of a surrogate pair at 1", lambda: model.tokenize("a\ud800")),
                (ValueError, "stop has half of a surrogate pair", lambda: session.complete(PROMPT, stop="\ud800")),
                (ValueError, "content has half of a surrogate pair", lambda: session.chat("\ud800")),
            ):
                with self.assertRaisesRegex(error, text):
                    use()

    def test_files_that_are_not_there(self):
        for use in (
            lambda: cg.Model("absent.cgraph"),
            lambda: cg.convert("absent.cgraph", "never.cgraph"),
            lambda: cg.verify(Path("absent.cgraph")),
        ):
            with self.assertRaises(FileNotFoundError) as caught:
                use()
            error = pickle.loads(pickle.dumps(caught.exception))
            for one in (caught.exception, error):
                self.assertIsInstance(one, cg.FileError)
                self.assertEqual((one.errno, one.filename, one.status), (errno.ENOENT, "absent.cgraph", "io"))
                self.assertTrue(str(one).startswith("cannot open absent.cgraph: "), one)

    def test_the_lone_status_names(self):
        from capsulegraph import errors

        for number, kind in errors.BY_STATUS.items():
            self.assertEqual(cg._lib.capg_status_name(number).decode(), kind.status)
        only_here = {cg.ClosedError, cg.ForkedError, cg.CapsuleGraphError}
        named = {value for name, value in vars(cg).items() if name.endswith("Error")}
        self.assertEqual(named - only_here, set(errors.BY_STATUS.values()))
        self.assertTrue({cg.HostError, cg.InternalError} <= named)

    def test_files_that_are_no_models(self):
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "text.cgraph"
            path.write_bytes(b"text " * 1000)
            with self.assertRaises(cg.MalformedError):
                cg.Model(path)
        with self.assertRaises(cg.MismatchError):
            cg.Model(language(), mode="fast")


class Failing(RuntimeError):
    pass


def fail(*_):
    raise Failing("by the test")


class Callbacks(unittest.TestCase):
    def test_a_token_callback_that_raises(self):
        with cg.Model(language()) as model, model.session() as session:
            with self.assertRaises(Failing):
                session.complete(PROMPT, on_token=fail)
            self.assertEqual(session.complete(PROMPT, max_tokens=2), ", the")

    def test_a_token_callback_that_uses_its_session(self):
        with cg.Model(language()) as model, model.session() as session:
            with self.assertRaises(cg.InvalidArgumentError) as caught:
                session.complete(PROMPT, on_token=lambda *_: session.reset())
            self.assertIn("gone on with something else", str(caught.exception))

    def test_a_progress_callback_that_raises(self):
        with tempfile.TemporaryDirectory() as place:
            target = Path(place) / "a.cgraph"
            with self.assertRaises(Failing):
                cg.convert(variable("CAPSULEGRAPH_TEST_MODEL"), target, mini=False, progress=fail)
            self.assertEqual(os.listdir(place), [])
            cancel = cg.Cancel()
            with self.assertRaises(cg.CancelledError):
                stop = lambda *_: cancel.trigger()  # noqa: E731
                cg.convert(variable("CAPSULEGRAPH_TEST_MODEL"), target, mini=False, progress=stop, cancel=cancel)
            self.assertEqual(os.listdir(place), [])

    def test_a_file_object_that_raises(self):
        class File:
            def seek(self, offset, whence=0):
                return 100_000

            def read(self, length):
                raise Failing("by the test")

        with self.assertRaises(Failing):
            cg.Model(File())
        with self.assertRaises(Failing):
            cg.Model(mini(), full=File())

    def test_file_objects_that_are_none(self):
        class File(io.BytesIO):
            def __init__(self, given, end=None):
                super().__init__(language().read_bytes())
                self.given, self.end = given, end

            def seek(self, offset, whence=0):
                at = super().seek(offset, whence)
                return at if self.end is None else self.end

            def read(self, length):
                return self.given(super().read(length))

        class Lying:
            def __len__(self):
                return 1 << 22

            def __bytes__(self):
                return b"x"

        longer = lambda data: memoryview(data + bytes(-len(data) % 4 + 4)).cast("i")  # noqa: E731
        for error, text, file in (
            (ValueError, "more than it was asked for", File(lambda data: data + b"x")),
            (ValueError, "more than it was asked for", File(longer)),
            (TypeError, "gave Lying; it must give bytes", File(lambda _: Lying())),
            (TypeError, "gave NoneType", File(lambda _: None)),
            (TypeError, "gave int", File(lambda _: 7)),
            (TypeError, "open it with 'rb'", File(lambda data: "text")),
            (EOFError, "bytes early", File(lambda _: b"")),
            (ValueError, "what seek", File(bytes, -1)),
            (TypeError, "what seek", File(bytes, "end")),
        ):
            with self.assertRaisesRegex(error, text):
                cg.Model(file)
        with open(language(), errors="replace") as file, self.assertRaisesRegex(TypeError, "open it with 'rb'"):
            cg.Model(file)
        named = io.BytesIO(language().read_bytes())
        named.name = "\udcff"
        cg.Model(named).close()


class Sharing(unittest.TestCase):
    def test_a_session_on_two_threads(self):
        with cg.Model(language()) as model, model.session() as session:
            wrong, busy, stop = [], 0, threading.Event()

            def other():
                nonlocal busy
                while not stop.is_set():
                    try:
                        session.tokens, session.logits, len(session)
                    except cg.BusyError:
                        busy += 1
                    except BaseException as error:
                        wrong.append(error)

            thread = threading.Thread(target=other)
            thread.start()
            done = 0
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline and (done < 3 or not busy):
                try:
                    session.complete(PROMPT, max_tokens=20)
                    done += 1
                except cg.BusyError:
                    busy += 1
            stop.set()
            thread.join()
            self.assertEqual(wrong, [])
            self.assertGreater(busy, 0)
            self.assertEqual(session.complete(PROMPT, max_tokens=2), ", the")

    def test_a_part_on_two_threads(self):
        with cg.Model(language(), capsules=(0, 2)) as model:
            part, wrong, done, stop = cg.Part(model), [], [0], threading.Event()

            def work(count):
                while not stop.is_set():
                    try:
                        shape = part.eval([1] * count).shape
                        if shape != (count, model.embedding_length):
                            wrong.append((count, shape))
                        done[0] += 1
                        part.truncate(0)
                    except cg.BusyError:
                        time.sleep(0)
                    except BaseException as error:
                        wrong.append(error)

            threads = [threading.Thread(target=work, args=(count,)) for count in (1, 5)]
            for thread in threads:
                thread.start()
            time.sleep(1)
            stop.set()
            for thread in threads:
                thread.join()
            self.assertEqual(wrong, [])
            self.assertGreater(done[0], 10)
            part._lock.acquire()
            for use in (lambda: part.eval([1]), lambda: len(part), lambda: part.truncate(0)):
                with self.assertRaisesRegex(cg.BusyError, "the part is in use"):
                    use()

    def test_the_interpreter_goes_on_while_native_code_runs(self):
        with cg.Model(language()) as model, model.session() as session:
            counted, done = 0, threading.Event()

            def work():
                session.eval(model.tokenize(PROMPT) * 300)
                done.set()

            thread = threading.Thread(target=work)
            begun = time.perf_counter()
            thread.start()
            while not done.wait(0.001):
                counted += 1
            thread.join()
            spent = time.perf_counter() - begun
        # With the lock held it would have been once.
        self.assertGreater(counted, spent * 50)

    @unittest.skipUnless(hasattr(os, "fork"), "the system has no fork")
    def test_a_forked_process(self):
        code = (
            "import os, sys, capsulegraph as cg\n"
            "model = cg.Model(sys.argv[1]); session = model.session()\n"
            "before = session.complete('Once upon a time', max_tokens=4)\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    for use in (lambda: model.name, lambda: len(session), lambda: session.complete('a')):\n"
            "        try: use()\n"
            "        except cg.ForkedError as error: assert 'forked' in str(error)\n"
            "        else: os._exit(1)\n"
            "    session.close(); model.close(); del session, model\n"
            "    with cg.Model(sys.argv[1]) as model, model.session() as session:\n"
            "        os._exit(0 if session.complete('Once upon a time', max_tokens=4) == before else 2)\n"
            "assert os.waitpid(child, 0)[1] == 0\n"
            "assert session.complete('Once upon a time', max_tokens=4) == before\n"
        )
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, language()], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)


INTERRUPTED = """
import os, signal, sys, threading, time
import numpy as np
import capsulegraph as cg

# What a shell starts in the background ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)

def interrupted(work, after):
    timer = threading.Timer(after, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    begun = time.monotonic()
    try:
        work()
    except KeyboardInterrupt:
        spent = time.monotonic() - begun - after
        assert spent < 3, f"it took {spent:.2f} s"
        return
    raise SystemExit("it was over before it was interrupted")
"""


class Interrupts(unittest.TestCase):
    """Ctrl-C ends a call that runs, and what it used is usable."""

    def interrupted(self, code, *args):
        command = [sys.executable, "-c", INTERRUPTED + code, *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_generating(self):
        code = (
            "with cg.Model(sys.argv[1]) as model, model.session() as session:\n"
            "    interrupted(lambda: session.complete('Once upon a time', ignore_end=True), 0.5)\n"
            "    interrupted(lambda: session.complete('word ' * 4000, max_tokens=1), 0.3)\n"
            "    session.reset()\n"
            "    interrupted(lambda: session.eval(model.tokenize('word ' * 4000)), 0.3)\n"
            "    session.reset()\n"
            "    assert session.complete('Once upon a time', max_tokens=2) == ', the'\n"
        )
        self.interrupted(code, language())

    def test_converting(self):
        code = (
            "place = sys.argv[2]\n"
            "split = lambda: cg.split(sys.argv[1], os.path.join(place, 'a.mini.cgraph'))\n"
            "interrupted(split, 2.0)\n"
            "assert os.listdir(place) == [], os.listdir(place)\n"
        )
        with tempfile.TemporaryDirectory() as place:
            self.interrupted(code, language(), place)

    def test_running_an_onnx_model(self):
        code = (
            "with cg.Model(sys.argv[1]) as model:\n"
            "    x = np.zeros((500_000, 64), np.float32)\n"
            "    interrupted(lambda: model.run({'input': x}), 0.5)\n"
            "    assert model.run({'input': x[:3]})['output'].shape[0] == 3\n"
        )
        self.interrupted(code, onnx("loop"))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    unittest.main()
