"""What goes wrong: one exception for each status of the C API, and those that only Python can have."""

from typing import Dict, Type


class CapsuleGraphError(Exception):
    """A call failed. The message says what, where, why, and what to do; `status` is the status's name."""

    status = "unknown"


class InvalidArgumentError(CapsuleGraphError, ValueError):
    """An argument or option is out of range or contradicts another."""

    status = "invalid_argument"


class UnsupportedError(CapsuleGraphError):
    """Valid, but this version or this kind of model cannot do it."""

    status = "unsupported"


class FileError(CapsuleGraphError, OSError):
    """The system refused to open, read, map, write or rename a file."""

    status = "io"


class MalformedError(CapsuleGraphError):
    """A file is not what its format demands."""

    status = "malformed"


class MismatchError(CapsuleGraphError):
    """Mini and full file, or file and mode, do not belong together; or ONNX Runtime refuses a graph."""

    status = "mismatch"


class CorruptError(CapsuleGraphError):
    """Stored bytes do not match their checksum."""

    status = "corrupt"


class NotFoundError(CapsuleGraphError, LookupError):
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
