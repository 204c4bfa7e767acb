"""Whatever is done wrong is an exception that says so, never a crash."""

import copy
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

from support import language, onnx, variable

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
        with cg.Model(language()) as model:
            for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
                with self.assertRaises(TypeError) as caught:
                    attempt(model)
                self.assertIn("cannot be copied", str(caught.exception))


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
                (TypeError, lambda: session.complete(PROMPT, stop="text")),
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

    def test_the_lone_status_names(self):
        from capsulegraph import errors

        for number, kind in errors.BY_STATUS.items():
            self.assertEqual(cg._lib.capg_status_name(number).decode(), kind.status)


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
