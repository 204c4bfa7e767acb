"""Work on files: convert, split, verify, inspect, export."""

from ctypes import byref, c_size_t
from os import PathLike
from typing import Any, Callable, Dict, Optional, Union

from . import _native
from ._calls import Cancel, Stoppable, interruptible, throw
from ._handles import Options, TextHandle, call, choice, encoded, json_of, optional, path_bytes, real, whole
from ._library import lib
from ._library import onnxruntime as installed_runtime
from ._shared import Log

Path = Union[str, "PathLike[str]"]
# Gets the phase ("convert", "split" or "verify"), bytes done and bytes in all; or tqdm: the class or one bar of it.
Progress = Union[Callable[[str, int, int], Any], Any]

PLANES = {"auto": 0, "whole": 1, "divided": 2}
_PHASES = {1: "convert", 2: "split", 3: "verify"}


class _Bars:
    """Shows progress in tqdm bars: in one that is given, or in one for each phase of a class that is given."""

    def __init__(self, tqdm: Any) -> None:
        self._make = tqdm if isinstance(tqdm, type) else None
        self._bar: Any = None if self._make else tqdm
        self._phase = ""

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase != self._phase:
            self._phase = phase
            if self._make:
                self.close()
                self._bar = self._make(total=total, desc=phase, unit="B", unit_scale=True)
            else:
                self._bar.reset(total=total)
                self._bar.set_description(phase)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Ends the bars that were made here."""
        if self._make and self._bar is not None:
            self._bar.close()


class _Job:
    """A call that lasts and tells its progress. An exception of the callback stops it and is raised when that has ended; so
    does Ctrl-C, for which the callback is on another thread than the main one."""

    def __init__(self, options: Options, cancel: Optional[Cancel], log: Optional[Log], progress: Optional[Progress]) -> None:
        self._call = Stoppable(cancel)
        self._options = options
        self._failure: Optional[BaseException] = None
        self._bars = None
        if progress is not None and hasattr(progress, "update"):
            self._bars = progress = _Bars(progress)
        if progress is not None and not callable(progress):
            raise TypeError("progress must be a function of phase, done and total, or tqdm")
        self._report = progress
        options.handle("cancel", self._call.handle)
        options.handle("log", optional(log, Log))

    def _progress(self, _: Any, phase: int, done: int, total: int) -> None:
        if self._failure is not None or self._report is None:
            return
        try:
            self._report(_PHASES.get(phase, str(phase)), done, total)
        except BaseException as error:
            self._failure = error
            self._call.stop()

    def run(self, function: Any, *args: Any) -> None:
        """Calls the function; what the callback raised comes before what the call says of being cancelled."""
        struct = self._options.struct
        if self._report is not None:
            struct.progress = _native.ProgressCallback(self._progress)
        try:
            self._call.run(lambda _: call(function, *args))
        except Exception:
            if self._failure is None:
                raise
        finally:
            # `byref` objects, which tracebacks hold, are unknown to the garbage collector: no cycle may go through them.
            struct.progress = _native.ProgressCallback()
            failure, self._failure = self._failure, None
            if self._bars is not None:
                self._bars.close()
        if failure is not None:
            try:
                throw(failure)
            finally:
                del failure


def _mini_options(
    options: Options,
    light: Optional[str],
    mini_bytes: int,
    calibrate: Optional[str],
    max_error: float,
    runtime: Optional[Path],
) -> None:
    """What convert and split have in common."""
    if light is not None:
        options.text("light", encoded(light, "light"))
    if calibrate is not None:
        options.text("calibrate", encoded(calibrate, "calibrate"))
    options.struct.mini_bytes = whole(mini_bytes, "mini_bytes")
    options.struct.max_error = real(max_error, "max_error")
    found = runtime if runtime is not None else installed_runtime()
    options.text("onnxruntime_path", None if found is None else path_bytes(found))


def convert(
    source: Path,
    target: Optional[Path] = None,
    *,
    mini: Union[bool, Path] = True,
    light: Optional[str] = None,
    mini_bytes: int = 0,
    calibrate: Optional[str] = None,
    max_error: float = 0.0,
    planes: str = "auto",
    capsule_bytes: int = 0,
    capsule_count: int = 0,
    onnxruntime: Optional[Path] = None,
    progress: Optional[Progress] = None,
    cancel: Optional[Cancel] = None,
    log: Optional[Log] = None,
) -> Dict[str, Any]:
    """Converts a GGUF or ONNX model to a .cgraph file, and derives its mini, which takes most of the time; tells what was written.

    target: by default the source's name with .cgraph. mini: False for none, or its path; by default the target's name with
    .mini.cgraph. progress: a function that gets the
    phase, bytes done and bytes in all, or tqdm; called on a thread of its own where the main thread converts.
    """
    options = Options(_native.ConvertOptions)
    _mini_options(options, light, mini_bytes, calibrate, max_error, onnxruntime)
    if mini is False:
        options.struct.no_mini = 1
    elif mini is not True:
        options.text("mini_path", path_bytes(mini))
    options.struct.planes = choice(planes, "planes", PLANES)
    options.struct.capsule_bytes = whole(capsule_bytes, "capsule_bytes")
    options.struct.capsule_count = whole(capsule_count, "capsule_count", 32)
    job = _Job(options, cancel, log, progress)
    source_path = path_bytes(source)
    target_path = b"" if target is None else path_bytes(target)
    summary = TextHandle()
    job.run(
        lib.capg_convert,
        source_path,
        len(source_path),
        target_path,
        len(target_path),
        options.ref(),
        byref(summary),
    )
    return json_of(summary)


def split(
    full: Path,
    mini: Optional[Path] = None,
    *,
    light: Optional[str] = None,
    mini_bytes: int = 0,
    calibrate: Optional[str] = None,
    max_error: float = 0.0,
    onnxruntime: Optional[Path] = None,
    progress: Optional[Progress] = None,
    cancel: Optional[Cancel] = None,
    log: Optional[Log] = None,
) -> Dict[str, Any]:
    """Derives a mini from a full file; gives the plan. mini: by default the full file's name with .mini.cgraph."""
    options = Options(_native.SplitOptions)
    _mini_options(options, light, mini_bytes, calibrate, max_error, onnxruntime)
    job = _Job(options, cancel, log, progress)
    full_path = path_bytes(full)
    mini_path = b"" if mini is None else path_bytes(mini)
    summary = TextHandle()
    job.run(
        lib.capg_split, full_path, len(full_path), mini_path, len(mini_path), options.ref(), byref(summary)
    )
    return json_of(summary)


def verify(
    path: Path,
    *,
    full: Optional[Path] = None,
    deep: bool = False,
    repair: bool = False,
    progress: Optional[Progress] = None,
    cancel: Optional[Cancel] = None,
    log: Optional[Log] = None,
) -> Dict[str, Any]:
    """Verifies a .cgraph file, with deep every checksum; repair rebuilds a damaged mini. The report lists the problems, and
    its `problem_count` is their number."""
    options = Options(_native.VerifyOptions)
    options.text("full_path", None if full is None else path_bytes(full))
    options.struct.deep, options.struct.repair = bool(deep), bool(repair)
    job = _Job(options, cancel, log, progress)
    name, problems, report = path_bytes(path), c_size_t(), TextHandle()
    job.run(lib.capg_verify, name, len(name), options.ref(), byref(problems), byref(report))
    return {**json_of(report), "problem_count": problems.value}


def inspect(path: Path, *, details: bool = False) -> Dict[str, Any]:
    """The facts of a .cgraph, GGUF or ONNX file; with details every capsule."""
    name, report = path_bytes(path), TextHandle()
    call(lib.capg_inspect, name, len(name), bool(details), byref(report))
    return json_of(report)


def export_onnx(source: Path, target: Path, *, cancel: Optional[Cancel] = None) -> Dict[str, Any]:
    """Writes the ONNX model again that a full file was converted from; says which files."""
    full, model, summary = path_bytes(source), path_bytes(target), TextHandle()

    def work(token: Any) -> None:
        call(lib.capg_export, full, len(full), model, len(model), token, byref(summary))

    interruptible(work, cancel)
    return json_of(summary)
