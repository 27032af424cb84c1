"""Files and folders that survive a crash: each appears whole or not at all, and what was stored stays stored.

A file is written under a temporary name, forced to the disk, and renamed; then the folder is forced to the disk too. Nothing
else in the index writes, renames or removes files.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError

TEMPORARY = ".tmp"  # ends the names of files that are being written
WRITING_ERRORS = (OSError, RuntimeError, SafetensorError)  # a full disk, in the words of Python, torch and safetensors

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


def store_files(folder: Path, contents: dict[str, bytes]) -> None:
    """Store files durably in an existing folder, replacing those of the same names; together they are not atomic.

    Raises:
        OSError: If the disk is full or the folder cannot be written to; with what to do.
    """
    with _explained(folder):
        for name, content in contents.items():
            _store(folder, name, content)
        sync_folder(folder)


def store_file(path: Path, write: Callable[[Path], object]) -> None:
    """Store a file durably that a library writes, whole or not at all, replacing one that is there.

    Args:
        path: Where it shall lie; the folder is made if it is missing.
        write: Makes it at the path it is given, which has the same name.

    Raises:
        OSError: If the disk is full or the folder cannot be written to; with what to do.
    """
    with _explained(path.parent), scratch_folder(path) as scratch:
        write(scratch / path.name)
        _sync(scratch / path.name)
        os.replace(scratch / path.name, path)  # noqa: PTH105
        sync_folder(path.parent)


@contextlib.contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """Give a folder beside a file or folder to be, where that is made before it takes its place; what is left there goes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        yield Path(scratch)


def store_folder(folder: Path, name: str, write: Callable[[Path], None]) -> None:
    """Store a folder of files durably, whole or not at all; one of that name is replaced.

    Args:
        folder: Where it shall lie.
        name: Its name.
        write: Makes it and its files at the path it is given.
    """
    temporary = folder / f"{name}{TEMPORARY}"
    remove_folders(folder, [temporary.name, name])
    with _explained(folder):
        try:
            write(temporary)
            _sync_tree(temporary)
            os.replace(temporary, folder / name)  # noqa: PTH105
        except BaseException:
            remove_folders(folder, [temporary.name])
            raise
        sync_folder(folder)


def replace_folder(new: Path, place: Path) -> None:
    """Bring a finished folder to its place durably; what was there goes when the new one is there.

    A crash between the two renames leaves the old one aside: [`restore_folder`] brings it back.
    """
    _sync_tree(new)
    old = _aside(place)
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    sync_folder(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(place: Path) -> None:
    """Bring back what [`replace_folder`] had moved away when it was killed, if the new one did not come to its place."""
    if _aside(place).exists() and not place.exists():
        _aside(place).rename(place)


def make_empty(folder: Path) -> None:
    """Make a folder, without what an earlier run may have left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def rename_file(folder: Path, old: str, new: str) -> None:
    """Give a stored file another name durably, replacing what had it."""
    with _explained(folder):
        os.replace(folder / old, folder / new)  # noqa: PTH105 - every step goes through `os`, where tests can crash it
        sync_folder(folder)


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Remove files that nothing needs any more; one that cannot be removed stays for the next time, and so does a folder."""
    for name in names:
        with contextlib.suppress(OSError):
            os.unlink(folder / name)  # noqa: PTH108


def remove_folders(folder: Path, names: Iterable[str]) -> None:
    """Remove what [`store_folder`] stored, or what is left of it; only the caller knows that these are no others' folders."""
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those that it lies in, durably.

    Raises:
        OSError: If that cannot be; with what to do.
    """
    missing = [folder, *folder.parents]
    missing = missing[: next(number for number, path in enumerate(missing) if path.exists())]
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk. Windows has no way to, and does so by itself."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)  # Windows forces to the disk only what may be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        (sync_folder if path.is_dir() else _sync)(path)
    sync_folder(folder)


def _aside(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def check_writable(out: Path) -> None:
    """Raise NotADirectoryError or PermissionError if the folder that a path would lie in cannot be written to."""
    parent = next(folder for folder in out.resolve().parents if folder.exists())
    if not parent.is_dir():
        raise NotADirectoryError(f"{parent} is a file, so that {out} cannot lie in it. Give another path.")
    if not os.access(parent, os.W_OK):
        raise PermissionError(f"No permission to write into {parent}, where {out} would lie.")


def _store(folder: Path, name: str, content: bytes) -> None:
    temporary = folder / f"{name}{TEMPORARY}"
    try:
        _write(temporary, content)
        os.replace(temporary, folder / name)  # noqa: PTH105
    except BaseException:
        remove_files(folder, [temporary.name])
        raise


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Say what a failure to write means and what to do, keeping its kind."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            advice = "The disk is full. Free some space and run the same again"
        elif error.errno in _FORBIDDEN:
            advice = "It cannot be written to. Give the permission, or choose another folder"
        else:
            raise
        raise OSError(error.errno, f"{advice}; what was stored before is whole ({error.strerror})", str(folder)) from error
