"""Files and folders that survive a crash: each is stored completely or not at all, and stays stored.

A file is written under a temporary name, forced to the disk and renamed; then its folder is forced to the disk too.

The other modules create files through this one, or inside a scratch folder that it made. A folder from elsewhere may contain a
link under a name that is about to be written: a link is replaced and never followed.
"""

import contextlib
import errno
import hashlib
import io
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

TEMPORARY = ".tmp"  # suffix of files that are being written
WRITING_ERRORS = (OSError, RuntimeError, SafetensorError)  # errors of a full disk from Python, torch and safetensors

_COPIED_BYTES = 1 << 20
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has none
_BINARY = getattr(os, "O_BINARY", 0)  # of Windows, which otherwise translates line ends
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


def store_files(folder: Path, contents: dict[str, bytes]) -> None:
    """Store files durably in an existing folder, in place of files of the same names. Each file is atomic, not all together.

    Raises:
        OSError: If the disk is full or the folder cannot be written to, with advice.
    """
    with _explained(folder):
        for name, content in contents.items():
            _store(folder, name, content)
        sync_folder(folder)


def create_file(path: Path) -> BinaryIO:
    """Create a file and open it for writing bytes. An old file or a link of this name is removed first.

    The file is neither atomic nor forced to the disk: use this for files of a scratch folder, or [`store_file`].

    Raises:
        OSError: If the file cannot be created.
    """
    return os.fdopen(_create(path), "wb")


def create_text(path: Path, errors: str = "strict") -> io.TextIOWrapper:
    """Create a file as [`create_file`] does and open it for writing text in UTF-8, without changing its line ends."""
    return io.TextIOWrapper(create_file(path), encoding="utf-8", errors=errors, newline="")


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file as [`create_file`] does; a text is written in UTF-8."""
    with create_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def copy_file(source: Path, target: Path) -> None:
    """Copy the content of a file, also of one that is a link, into a file that [`create_file`] creates."""
    with source.open("rb") as content, create_file(target) as file:
        shutil.copyfileobj(content, file, _COPIED_BYTES)


def append_text(path: Path, text: str) -> None:
    """Append text to a file, which is created if it is missing.

    Raises:
        OSError: If the file is a link, or cannot be written to.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK | _BINARY, 0o666)
    with os.fdopen(descriptor, "ab") as file:
        file.write(text.encode())


def store_file(path: Path, write: Callable[[Path], object]) -> None:
    """Store a file that a library writes, durably and completely or not at all, in place of an old one.

    Args:
        path: Path of the file; its folder is created if it is missing.
        write: Writes the file at the temporary path that it is given, which has the same name.

    Raises:
        OSError: If the disk is full or the folder cannot be written to, with advice.
    """
    with _explained(path.parent), scratch_folder(path) as scratch:
        write(scratch / path.name)
        set_usual_modes([scratch / path.name])
        _sync(scratch / path.name)
        os.replace(scratch / path.name, path)  # noqa: PTH105
        sync_folder(path.parent)


def set_usual_modes(paths: Iterable[Path]) -> None:
    """Set the mode of files to that of new files, which the umask gives; folders and links among the paths keep theirs.

    Some libraries create files for their owner alone, whatever the umask: safetensors does since version 0.8.
    """
    modes: dict[Path, int] = {}
    for path in list(paths):
        if path.is_dir() or path.is_symlink():
            continue
        if path.parent not in modes:
            modes[path.parent] = _usual_mode(path.parent)
        path.chmod(modes[path.parent])


@contextlib.contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `out`, in which a file or folder is made before it is moved to `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        yield Path(scratch)


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that is moved to `out` at the end, with the modes of new files. An error leaves nothing."""
    with scratch_folder(out) as scratch:
        folder = scratch / "new"
        folder.mkdir()
        yield folder
        set_usual_modes(folder.rglob("*"))
        if out.exists():
            out.rmdir()
        folder.rename(out)


def check_free(out: Path) -> None:
    """Raise FileExistsError if a path exists and is not an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder. Give another one.")


def store_folder(folder: Path, name: str, write: Callable[[Path], None]) -> None:
    """Store a folder of files durably, completely or not at all, in place of an old one of the same name.

    Args:
        folder: The folder that will contain it.
        name: Its name.
        write: Creates the folder and its files at the temporary path that it is given.
    """
    temporary = folder / f"{name}{TEMPORARY}"
    remove_folders(folder, [temporary.name, name])
    with _explained(folder):
        try:
            write(temporary)
            set_usual_modes(temporary.rglob("*"))
            _sync_tree(temporary)
            os.replace(temporary, folder / name)  # noqa: PTH105
        except BaseException:
            remove_folders(folder, [temporary.name])
            raise
        sync_folder(folder)


def replace_folder(new: Path, place: Path) -> None:
    """Move a finished folder to its place durably, and then remove the old folder.

    A crash between the two renames leaves the old folder under another name; [`restore_folder`] moves it back.
    """
    set_usual_modes(new.rglob("*"))
    _sync_tree(new)
    old = _aside(place)
    remove_folders(place.parent, [old.name])
    if place.exists():
        place.rename(old)
    new.rename(place)
    sync_folder(place.parent)
    remove_folders(place.parent, [old.name])


def restore_folder(place: Path) -> None:
    """Move the old folder back if [`replace_folder`] was killed before the new one was in its place."""
    if _aside(place).exists() and not place.exists():
        _aside(place).rename(place)


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Check that entries of a folder which will be written into are not links: they could lead anywhere.

    Raises:
        FileExistsError: If one is a link.
    """
    for name in names:
        if (folder / name).is_symlink():
            raise FileExistsError(
                f"{folder / name} is a link, which is not followed when files are written. Remove it; to write to another "
                f"disk, give a folder there in place of {folder}."
            )


def make_empty(folder: Path) -> None:
    """Create an empty folder, and remove files that an earlier run may have left there."""
    remove_folders(folder.parent, [folder.name])
    folder.mkdir(parents=True)


def rename_file(folder: Path, old: str, new: str) -> None:
    """Rename a stored file durably, in place of a file that has the new name."""
    with _explained(folder):
        os.replace(folder / old, folder / new)  # noqa: PTH105 - every step uses `os`, in which tests simulate crashes
        sync_folder(folder)


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Remove files that are no longer needed; folders and files that cannot be removed stay."""
    for name in names:
        with contextlib.suppress(OSError):
            os.unlink(folder / name)  # noqa: PTH108


def remove_folders(folder: Path, names: Iterable[str]) -> None:
    """Remove folders with all their files; of a link, the link alone. A file in the place of such a folder is removed too.

    Only call this for folders that this module stored, complete or not.
    """
    for name in names:
        if (folder / name).is_symlink() or (folder / name).is_file():
            remove_files(folder, [name])
        else:
            shutil.rmtree(folder / name, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents durably.

    Raises:
        OSError: If that is not possible, with advice.
    """
    missing = [folder, *folder.parents]
    missing = missing[: next(number for number, path in enumerate(missing) if path.exists())]
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk. Windows does so by itself and has no call for it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _usual_mode(folder: Path) -> int:
    """Return the mode of a new file. Reading the umask would set it for a moment, also for files of other threads."""
    new_file = folder / f".{secrets.token_hex(8)}{TEMPORARY}"
    new_file.touch(exist_ok=False)
    try:
        return stat.S_IMODE(new_file.stat().st_mode)
    finally:
        new_file.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)  # Windows forces only files to the disk that are open for writing
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


def file_checksum(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal, without holding its content in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_checksums(folder: Path, is_checked: Callable[[str], bool] | None = None) -> dict[str, str]:
    """Return the SHA-256 of the files in a folder and its subfolders, by their paths in it, in alphabetical order.

    Args:
        folder: The folder.
        is_checked: Returns whether a file is included, by its path in the folder; `None` for all files.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: file_checksum(folder / name) for name in names if is_checked is None or is_checked(name)}


def check_new_file(path: Path, overwrite: bool) -> None:
    """Check that a file can be written to a path.

    Raises:
        FileExistsError: If the path is a folder, or a file and `overwrite` is not set.
        NotADirectoryError: If a part of the path is a file.
        PermissionError: If the folder is not writable.
    """
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder; give a file.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already. Give another file, or `overwrite=True` to replace it.")
    check_writable(path)


def check_writable(out: Path) -> None:
    """Raise NotADirectoryError or PermissionError if a file or folder cannot be created at a path."""
    parent = next(folder for folder in out.resolve().parents if folder.exists())
    if not parent.is_dir():
        raise NotADirectoryError(f"{parent} is a file, so that {out} cannot be in it. Give another path.")
    if not os.access(parent, os.W_OK):
        raise PermissionError(f"No permission to write into {parent}, which would contain {out}.")


def _store(folder: Path, name: str, content: bytes) -> None:
    temporary = folder / f"{name}{TEMPORARY}"
    try:
        _write(temporary, content)
        os.replace(temporary, folder / name)  # noqa: PTH105
    except BaseException:
        remove_files(folder, [temporary.name])
        raise


def _create(path: Path) -> int:
    """Create a file and return its descriptor. A leftover or a link of this name is removed, because `O_EXCL` refuses both."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | _BINARY
    try:
        return os.open(path, flags, 0o666)
    except FileExistsError:
        os.unlink(path)  # noqa: PTH108
        return os.open(path, flags, 0o666)


def _write(path: Path, content: bytes) -> None:
    descriptor = _create(path)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Add an explanation and advice to an error of writing; its errno stays."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            advice = "The disk is full. Free some space and run the same command again"
        elif error.errno in _FORBIDDEN:
            advice = "It cannot be written to. Give the permission, or choose another folder"
        else:
            raise
        raise OSError(
            error.errno, f"{advice}; everything that was stored before is undamaged ({error.strerror})", str(folder)
        ) from error
