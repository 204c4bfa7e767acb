"""What goes wrong: one exception for each status of the C API, and those that only Python can have."""

import errno
import os
from typing import Any, Dict, Optional, Type


class CapsuleGraphError(Exception):
    """A call failed. The message says what, where, why, and what to do; `status` is the status's name."""

    status = "unknown"

    def __str__(self) -> str:
        # Classes of Python that some of these are as well would write it otherwise.
        return str(self.args[0]) if self.args else ""


class InvalidArgumentError(CapsuleGraphError, ValueError):
    """An argument or option is out of range or contradicts another."""

    status = "invalid_argument"


class UnsupportedError(CapsuleGraphError):
    """Valid, but this version or this kind of model cannot do it."""

    status = "unsupported"


class FileError(CapsuleGraphError, OSError):
    """The system refused to open, read, map, write or rename a file. `errno` is the system's number and `filename` the file,
    where they are known. Where there is no such file it is a FileNotFoundError too, and a PermissionError where it may not be
    opened."""

    status = "io"

    def __reduce__(self) -> Any:
        return file_error, (str(self), self.errno, self.filename)


class MissingFileError(FileError, FileNotFoundError):
    """There is no such file or folder."""


class FilePermissionError(FileError, PermissionError):
    """The system does not permit to open, write or rename it."""


def file_error(message: str, number: Optional[int], filename: Optional[str]) -> FileError:
    """A FileError of the system's number for an error: on Windows its own, which Python knows an errno for."""
    if number is not None and os.name == "nt":
        number = OSError(None, "", None, number).errno
    kind = {errno.ENOENT: MissingFileError, errno.EACCES: FilePermissionError, errno.EPERM: FilePermissionError}
    error = kind.get(number or 0, FileError)(message)
    error.errno, error.strerror, error.filename = number, message, filename
    return error


class MalformedError(CapsuleGraphError):
    """A file is not what its format demands."""

    status = "malformed"


class MismatchError(CapsuleGraphError):
    """Mini and full file, or file and mode, do not belong together; or ONNX Runtime refuses a graph."""

    status = "mismatch"


class CorruptError(CapsuleGraphError):
    """Stored bytes do not match their checksum."""

    status = "corrupt"


class NotFoundError(CapsuleGraphError, KeyError):
    """No capsule or tensor of that name or number; or no ONNX Runtime."""

    status = "not_found"


class LimitError(CapsuleGraphError):
    """A limit (context, size, memory) does not allow it; the message names the limit."""

    status = "limit"


class CancelledError(CapsuleGraphError):
    """The caller's cancel token was triggered."""

    status = "cancelled"


class HostError(CapsuleGraphError):
    """A file object that the model is read from failed."""

    status = "host"


class BusyError(CapsuleGraphError):
    """Another call is using the session, part or group, or a capsule has not come yet."""

    status = "busy"


class InternalError(CapsuleGraphError):
    """A defect of the library; please report it."""

    status = "internal"


class ClosedError(CapsuleGraphError, ValueError):
    """The object was closed before."""

    status = "closed"


class ForkedError(CapsuleGraphError):
    """The object was made before this process was forked off, and its threads stayed behind."""

    status = "forked"


# By the number of the status. A library that is newer may have others, which are failures too.
BY_STATUS: Dict[int, Type[CapsuleGraphError]] = {
    1: InvalidArgumentError,
    2: UnsupportedError,
    3: FileError,
    4: MalformedError,
    5: MismatchError,
    6: CorruptError,
    7: NotFoundError,
    8: LimitError,
    9: CancelledError,
    10: HostError,
    11: BusyError,
    12: InternalError,
}
