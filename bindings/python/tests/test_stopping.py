"""What stops a call: Ctrl-C, cancel tokens, callbacks that raise, and the end of the interpreter. Nothing is lost by it."""

import ctypes
import gc
import io
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import weakref
from linecache import getline
from pathlib import Path

import numpy as np
from support import language, onnx

import capsulegraph as cg
from capsulegraph import _calls

PROMPT = "Once upon a time"


class Failing(RuntimeError):
    pass


def fail(*_):
    raise Failing("by the test")


class Alarm:
    """Has KeyboardInterrupt come after so many seconds, on the main thread."""

    def __enter__(self):
        self.before = signal.signal(signal.SIGALRM, self.interrupt)
        return self

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)

    def interrupt(self, *_):
        raise KeyboardInterrupt

    def during(self, after, work):
        """Whether the work was interrupted."""
        try:
            signal.setitimer(signal.ITIMER_REAL, after)
            work()
        except KeyboardInterrupt:
            return True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return False


@unittest.skipUnless(hasattr(signal, "setitimer"), "the system has no such timer")
class NothingIsLost(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = cg.Model(language())

    @classmethod
    def tearDownClass(cls):
        cls.model.close()

    def test_text_and_tokens_of_a_generation(self):
        with self.model.session() as session, Alarm() as alarm:
            whole = session.generate(PROMPT, max_tokens=24)
            whole.read()
            hits = 0
            for turn in range(12):
                session.reset()
                told, pieces = [], []
                generation = session.generate(PROMPT, max_tokens=24, on_token=lambda token, _: told.append(token) and None)
                while generation.finish_reason == "none":
                    hits += alarm.during(0.01 + 0.007 * turn, lambda: pieces.extend(generation))
                pieces.extend(generation)
                self.assertEqual((generation.text, generation.tokens, told), (whole.text, whole.tokens, whole.tokens))
                self.assertEqual("".join(pieces), whole.text)
            self.assertGreater(hits, 12)

    def test_a_slice_that_was_not_taken_up(self):
        """The instant behind the native call, which the test before meets by chance alone."""
        from capsulegraph import session as module

        with self.model.session() as session:
            whole = session.generate(PROMPT, max_tokens=6).read()
            real, interrupts = module._Text.take, []

            def take(text):
                filled = text.filling is not None and text.slice.more != text.EMPTY and text.slice.token_count
                if filled and len(interrupts) < 4:
                    interrupts.append(None)
                    raise KeyboardInterrupt
                real(text)

            for after in ("step", "stop", "messages", "reset"):
                session.reset()
                generation = session.chat("Hi", max_tokens=6) if after != "step" else session.generate(PROMPT, max_tokens=6)
                interrupts.clear()
                module._Text.take = take
                try:
                    while len(interrupts) < 4:
                        try:
                            generation._step()
                        except KeyboardInterrupt:
                            pass
                finally:
                    module._Text.take = real
                if after == "step":
                    self.assertEqual(generation.read(), whole)
                elif after == "stop":
                    generation.stop()
                    tokens = self.model.detokenize(generation.tokens)
                    self.assertTrue(tokens)
                    self.assertEqual(session.messages[-1]["content"], tokens)
                elif after == "messages":
                    session.chat("Go on", max_tokens=1)
                    self.assertEqual(session.messages[-1]["content"], self.model.detokenize(generation.tokens))
                else:
                    session.reset()
                    self.assertEqual(session.messages, [])

    def test_between_any_two_lines(self):
        """Ctrl-C at each line of a step, and in a group: no token is lost and none is there twice."""
        from capsulegraph import session as module

        watched = {f.__code__ for f in (module._Text.begin, module._Text.take, module.Generation._step)}
        with self.model.session() as session, cg.Group() as group:
            whole = session.generate(PROMPT, max_tokens=6)
            whole.read()

            def interrupted_at(number, go_on):
                lines, seen = 0, set()

                def trace(frame, event, _):
                    nonlocal lines
                    if frame.f_code not in watched:
                        return None
                    # Ctrl-C comes behind calls: neither where `with` is again to give its lock back nor at a `try`.
                    line = id(frame), frame.f_lineno
                    if event == "line" and line not in seen and getline(frame.f_code.co_filename, line[1]).strip() != "try:":
                        seen.add(line)
                        lines += 1
                        if lines == number:
                            sys.settrace(None)
                            raise KeyboardInterrupt
                    return trace

                sys.settrace(trace)
                try:
                    go_on()
                except KeyboardInterrupt:
                    return True
                finally:
                    sys.settrace(None)
                return False

            for after in ("read", "next", "group"):
                number, hit = 0, True
                while hit:
                    number += 1
                    session.reset()
                    generation = session.generate(PROMPT, max_tokens=6)
                    hit = interrupted_at(number, generation.read if after == "read" else lambda: next(generation))
                    while after == "group" and generation.finish_reason == "none":
                        group.advance([generation], max_tokens=1)
                    self.assertEqual(generation.read(), whole.text, f"line {number}, {after}")
                    self.assertEqual(generation.tokens, whole.tokens, f"line {number}, {after}")
                self.assertGreater(number, 20)

    def test_a_text_with_a_nul(self):
        from capsulegraph import session as module

        text, raw, ids = module._Text(None), ctypes.create_string_buffer(b"a\0b"), (ctypes.c_uint32 * 2)(5, 6)
        text.begin()
        text.slice.text, text.slice.text_len = ctypes.addressof(raw), 3
        text.slice.tokens, text.slice.token_count = ctypes.cast(ids, ctypes.POINTER(ctypes.c_uint32)), 2
        text.slice.more = 1
        text.take()
        self.assertEqual(text.pieces, {0: ([5, 6], "a\0b")})
        text.take()
        self.assertEqual(len(text.pieces), 1)

    def test_the_step_gives_what_the_library_takes(self):
        """It goes past the declared types of the arguments."""
        from capsulegraph import _native, session as module

        declared = cg._lib.capg_session_advance.argtypes
        self.assertEqual(len(declared), 6)
        self.assertEqual([declared[1], declared[2]], [type(module._LONG), type(module._ONE)])
        self.assertEqual([type(module._SHORT), type(module._ANY)], [type(module._LONG), type(module._ONE)])
        self.assertEqual(declared[4], ctypes.POINTER(_native.Slice))

    def test_a_group_without_a_limit(self):
        with self.model.session() as session, cg.Group() as group, Alarm() as alarm:
            begun = time.monotonic()
            whole = session.generate(PROMPT, max_tokens=120, ignore_end=True).read()
            alone = time.monotonic() - begun
            session.reset()
            generation = session.generate(PROMPT, max_tokens=120, ignore_end=True)
            begun = time.monotonic()
            self.assertTrue(alarm.during(0.1, lambda: group.advance([generation], max_microseconds=0)))
            self.assertLess(time.monotonic() - begun, alone / 2)
            self.assertEqual(generation.finish_reason, "none")
            group.advance([generation], max_microseconds=0)
            self.assertEqual(generation.text, whole)

    def test_parts_and_long_texts_end_soon(self):
        count = len(self.model.capsule_ids)
        with cg.Model(language(), capsules=(0, count - 1)) as front, Alarm() as alarm:
            part, ids = cg.Part(front, context=4096), [1] * 3000
            for work in (lambda: part.eval(ids), lambda: self.model.tokenize("hello world " * 1_000_000)):
                begun = time.monotonic()
                self.assertTrue(alarm.during(0.1, work))
                self.assertLess(time.monotonic() - begun, 2)
            self.assertEqual(len(part), 0)

    def test_an_interrupt_at_any_moment_leaves_nothing_running(self):
        ids = self.model.tokenize("word " * 200)
        with self.model.session() as session, Alarm() as alarm:
            for turn in range(150):
                if alarm.during(2e-5 + turn * 8e-6, lambda: session.eval(ids)):
                    # A call that is left would end by itself only much later.
                    deadline = time.monotonic() + 0.03
                    while _calls._running and time.monotonic() < deadline:
                        time.sleep(0.001)
                    self.assertFalse(_calls._running)
                session.reset()

    def test_interrupts_in_finalizers_arrive(self):
        with Alarm() as alarm:
            for turn in range(8):
                deadline = time.monotonic() + 0.6

                def work():
                    while time.monotonic() < deadline:
                        cg.Model(language()).close()

                self.assertTrue(alarm.during(0.05 + 0.003 * turn, work))

    def test_a_long_run_after_a_short_one(self):
        with cg.Model(onnx("loop")) as model, Alarm() as alarm:
            x = np.zeros((400_000, 64), np.float32)
            for _ in range(3):
                model.run({"input": x[:3]})
            begun = time.monotonic()
            self.assertTrue(alarm.during(0.3, lambda: model.run({"input": x})))
            self.assertLess(time.monotonic() - begun, 1.5)


class Tokens(unittest.TestCase):
    """Only `trigger` puts a token up, and only `reset` takes it down."""

    def test_trouble_of_a_call_is_its_own(self):
        cancel = cg.Cancel()
        with self.assertRaises(Failing):
            cg.verify(language(), deep=True, cancel=cancel, progress=fail)
        self.assertFalse(cancel.triggered)

        def triggers(*_):
            cancel.trigger()
            fail()

        with self.assertRaises(Failing):
            cg.verify(language(), deep=True, cancel=cancel, progress=triggers)
        self.assertTrue(cancel.triggered)

    def test_other_calls_with_the_token_go_on(self):
        cancel, ended = cg.Cancel(), []
        with cg.Model(language()) as model, model.session() as session:
            text = lambda: ended.append(session.complete(PROMPT, max_tokens=100, ignore_end=True, cancel=cancel))  # noqa: E731
            thread = threading.Thread(target=text)
            thread.start()
            with self.assertRaises(Failing):
                cg.verify(language(), deep=True, cancel=cancel, progress=fail)
            thread.join()
        self.assertEqual(len(ended), 1)

    def test_a_token_that_was_triggered_before(self):
        cancel = cg.Cancel()
        cancel.trigger()
        with cg.Model(language()) as model, model.session() as session:
            for work in (lambda: cg.verify(language(), cancel=cancel), lambda: session.eval([1, 2], cancel=cancel)):
                with self.assertRaisesRegex(cg.CancelledError, "reset"):
                    work()
            cancel.reset()
            session.eval([1, 2], cancel=cancel)

    def test_a_token_of_another_thread_stops_what_runs(self):
        with cg.Model(language()) as model, model.session() as session:
            cancel = cg.Cancel()
            timer = threading.Timer(0.2, cancel.trigger)
            timer.start()
            with self.assertRaises(cg.CancelledError):
                session.eval([1] * 4000, cancel=cancel)

    def test_a_callback_that_closes_its_token_and_raises(self):
        cancel = cg.Cancel()
        with self.assertRaises(Failing):
            cg.verify(language(), deep=True, cancel=cancel, progress=lambda *_: (cancel.close(), fail()))


class Forgetting(unittest.TestCase):
    """What nothing refers to any more is gone at once, without the garbage collector, which does not see all of it."""

    def setUp(self):
        gc.disable()

    def tearDown(self):
        gc.enable()

    def test_exceptions_of_callbacks(self):
        class File(io.BytesIO):
            read = fail

        for work in (lambda: cg.verify(language(), deep=True, progress=fail), lambda: cg.Model(File(bytes(100_000)))):
            with self.assertRaises(Failing) as caught:
                work()
            kept = weakref.ref(caught.exception)
            del caught
            self.assertIsNone(kept())

    def test_sessions_that_have_generated(self):
        with cg.Budget(400_000_000) as budget, cg.Model(language(), memory=budget) as model:
            before = budget.claimed
            session = model.session()
            session.complete(PROMPT, max_tokens=1)
            self.assertGreater(budget.claimed, before)
            del session
            self.assertEqual(budget.claimed, before)

    def test_files(self):
        file = io.BytesIO(onnx("loop").read_bytes())
        kept = weakref.ref(file)
        model = cg.Model(file)
        del file
        self.assertIsNone(kept())
        model.close()


class Ending(unittest.TestCase):
    """The interpreter ends while a call with a callback runs on a thread that nobody waits for."""

    def ended(self, code, *args):
        # What a shell starts in the background ignores Ctrl-C.
        begin = (
            "import os, signal, sys, threading, time\nimport capsulegraph as cg\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        )
        command = [sys.executable, "-c", begin + code]
        done = subprocess.run([*command, *map(str, args)], capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stdout), (0, "end\n"), done.stderr)

    def test_progress_on_a_daemon_thread(self):
        code = (
            "slow = lambda *_: time.sleep(0.01)\n"
            "work = lambda: [cg.verify(sys.argv[1], deep=True, progress=slow) for _ in range(100)]\n"
            "threading.Thread(target=work, daemon=True).start()\n"
            "time.sleep(0.3); print('end')\n"
        )
        self.ended(code, language())

    def test_a_file_object_on_a_daemon_thread(self):
        code = (
            "class File:\n"
            "    def __init__(self): self.file = open(sys.argv[1], 'rb')\n"
            "    def seek(self, at, whence=0): return self.file.seek(at, whence)\n"
            "    def read(self, most): time.sleep(0.002); return self.file.read(min(most, 1 << 16))\n"
            "threading.Thread(target=lambda: cg.Model(File()), daemon=True).start()\n"
            "time.sleep(0.3); print('end')\n"
        )
        self.ended(code, language())

    def test_ctrl_c_three_times(self):
        code = (
            "def spam():\n"
            "    for after in (0.15, 0.02, 0.02): time.sleep(after); os.kill(os.getpid(), signal.SIGINT)\n"
            "threading.Thread(target=spam, daemon=True).start()\n"
            "try: cg.convert(sys.argv[1], sys.argv[2], mini=False, progress=lambda *_: time.sleep(0.3))\n"
            "except KeyboardInterrupt: print('end')\n"
        )
        from support import variable

        with tempfile.TemporaryDirectory() as place:
            self.ended(code, variable("CAPSULEGRAPH_TEST_MODEL"), Path(place) / "a.cgraph")

    def test_calls_at_exit(self):
        code = (
            "import atexit\n"
            "atexit.register(lambda: cg.verify(sys.argv[1], progress=lambda *_: None))\n"
            "print('end')\n"
        )
        self.ended(code, language())


if __name__ == "__main__":
    unittest.main()
