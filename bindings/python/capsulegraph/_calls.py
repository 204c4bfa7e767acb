"""Calls that last: how they are stopped, and how Ctrl-C and the end of the interpreter reach them."""

import _thread
import atexit
import os
import threading
import time
from ctypes import byref, c_uint32
from typing import Callable, Dict, Generic, NoReturn, Optional, Set, TypeVar

from ._handles import CancelHandle, Handle, Resource, call, optional
from ._library import lib
from .errors import CancelledError

T = TypeVar("T")

# Calls that run, on any thread, and whether the interpreter is ending.
_running: Set["Stoppable"] = set()
_ending = False
# Seconds that the end of the interpreter waits for calls that it has stopped.
_PATIENCE = 5.0


class Cancel(Resource):
    """A flag that any thread puts up to stop the calls that were given it. It stays up until `reset()`. Only `trigger()` puts
    it up: Ctrl-C and a callback that raises stop their own call and leave it alone."""

    _kind = "cancel token"

    def __init__(self) -> None:
        # Calls with a flag of their own, which follow this one.
        self._calls: Set["Stoppable"] = set()
        handle = CancelHandle()
        call(lib.capg_cancel_new, byref(handle))
        self._handle = handle

    def trigger(self) -> None:
        """Asks every call that has this token to stop, with CancelledError; from any thread."""
        call(lib.capg_cancel_trigger, self._use())
        for running in list(self._calls):
            running.stop()

    def reset(self) -> None:
        """Makes a triggered token usable again. Calls that it has stopped stay stopped."""
        call(lib.capg_cancel_reset, self._use())

    @property
    def triggered(self) -> bool:
        """Whether it was triggered since it was last reset."""
        answer = c_uint32()
        call(lib.capg_cancel_is_triggered, self._use(), byref(answer))
        return bool(answer.value)


class _Task(Generic[T]):
    """Work that another thread does for the main thread."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._owner: Dict[str, str] = {}
        self._ended = _thread.allocate_lock()
        self._ended.acquire()
        self.finished = False
        self.value: Optional[T] = None
        self.failure: Optional[BaseException] = None

    def claim(self, who: str) -> bool:
        """Whether the work is that side's: the first one to ask has it. Asking again gives the same answer."""
        return self._owner.setdefault("owner", who) == who

    def run(self, who: str) -> None:
        """Does the work, where it is that side's."""
        if not self.claim(who):
            return
        try:
            self.value = self._work()
        except BaseException as error:
            self.failure = error
        finally:
            self.finished = True
            self._ended.release()

    def wait(self) -> None:
        """Until it is finished. An exception may come between any two steps, so that the lock alone would not tell."""
        while not self.finished:
            # With a timeout the wait can be interrupted on every system.
            self._ended.acquire(True, 0.2)


class Stoppable:
    """A call that can be stopped. It has a flag of its own, which the caller's token, Ctrl-C, an exception of its callback and
    the end of the interpreter put up, so that nothing but this call is stopped and the caller's token stays as it is.

    abandoned: the library cannot stop it and it has no callback; after Ctrl-C it runs to its end by itself.
    """

    def __init__(self, cancel: Optional[Cancel], *, abandoned: bool = False) -> None:
        optional(cancel, Cancel)
        self._cancel, self._abandoned = cancel, abandoned
        self.handle = CancelHandle()
        call(lib.capg_cancel_new, byref(self.handle))
        self.stopped = False

    def stop(self) -> None:
        """Has the call end soon."""
        self.stopped = True
        call(lib.capg_cancel_trigger, self.handle)

    def run(self, work: Callable[[Handle], T]) -> T:
        """Does the work, which is given the flag. Python interrupts the main thread alone: for that one another thread works."""
        cancel = self._cancel
        if cancel is None:
            return self._run(work)
        cancel._calls.add(self)
        try:
            if cancel.triggered:
                raise CancelledError("the cancel token was triggered before the call; reset() makes it usable again")
            return self._run(work)
        finally:
            cancel._calls.discard(self)

    def _run(self, work: Callable[[Handle], T]) -> T:
        if threading.current_thread() is not threading.main_thread():
            return self._registered(work, True)
        task = _Task(lambda: self._registered(work, False))
        try:
            try:
                # An interrupt inside `threading.Thread.start` leaves locks held for ever; this is one step.
                _thread.start_new_thread(task.run, ("thread",))
            except RuntimeError:
                # No thread can be had, as is so while the interpreter ends.
                task.run("caller")
            task.wait()
        except BaseException:
            self._interrupted(task)
            raise
        if task.failure is not None:
            failure, task.failure = task.failure, None
            try:
                raise failure
            finally:
                del failure
        return task.value  # type: ignore[return-value]

    def _interrupted(self, task: "_Task[T]") -> None:
        """Stops a task and waits for its end: nothing of it may run on, and further interrupts do not change that."""
        while True:
            try:
                # Where the thread has not begun it never will.
                if not task.claim("caller") and not self._abandoned:
                    self.stop()
                    task.wait()
                    task.failure = None
                return
            except BaseException:
                continue

    def _registered(self, work: Callable[[Handle], T], own: bool) -> T:
        """Does the work on this thread; own: the thread is the caller's, and nothing waits for it when Python ends."""
        if self._abandoned:
            return work(self.handle)
        _running.add(self)
        try:
            if own and _ending:
                raise CancelledError("Python is ending; no call that lasts begins on another thread")
            return work(self.handle)
        finally:
            _running.discard(self)


def interruptible(work: Callable[[Handle], T], cancel: Optional[Cancel], *, abandoned: bool = False) -> T:
    """Does work that is given a flag, such that Ctrl-C and the token end it."""
    return Stoppable(cancel, abandoned=abandoned).run(work)


def throw(error: BaseException) -> NoReturn:
    """Raises what a callback raised, without a reference from its own traceback to it."""
    try:
        raise error from None
    finally:
        del error


def _end() -> None:
    """Stops what runs on daemon threads when Python ends and waits for it: a callback that then cannot have the interpreter's
    lock would end its thread in the middle of Rust, which aborts the process."""
    global _ending
    _ending = True
    deadline = time.monotonic() + _PATIENCE
    for running in list(_running):
        running.stop()
    while _running and time.monotonic() < deadline:
        time.sleep(0.005)


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    # Threads of the parent are not in a child.
    os.register_at_fork(after_in_child=_running.clear)
