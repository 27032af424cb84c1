"""Files whose names come from other people: inside a folder, and regular. A pipe, a socket or a device could block for ever."""

import io
import os
import stat
from pathlib import Path, PurePosixPath

# a pipe that replaces the file between the two checks must not block either; Windows has other flags
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT"))


class UnfitFileError(OSError):
    """A file that is not regular or too large. The message has the reason, without the path."""


def stays_inside(name: str) -> bool:
    """Return whether a path is that of a file in a folder that it is relative to, and cannot lead out of it, on any system."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and not set(name) & set("\\:\0")


def open_regular_file(path: str | Path, max_bytes: int | None = None) -> io.BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Args:
        path: The file.
        max_bytes: Largest size in bytes; `None` for any size.

    Raises:
        UnfitFileError: If it is a folder, a pipe, a socket or a device, or larger than `max_bytes`; nothing of it is read.
        OSError: If there is no such file, or it cannot be read.
    """
    _check(Path(path).stat(), max_bytes)
    file = io.FileIO(os.open(path, _FLAGS))
    try:
        _check(os.fstat(file.fileno()), max_bytes)
    except BaseException:
        file.close()
        raise
    return io.BufferedReader(file)


def _check(status: os.stat_result, max_bytes: int | None) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise UnfitFileError("a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise UnfitFileError("not a regular file")
    if max_bytes is not None and status.st_size > max_bytes:
        raise UnfitFileError(f"its file has {status.st_size:,} bytes; at most {max_bytes:,} are read")
