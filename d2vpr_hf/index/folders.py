"""The folder of an index: the lock of its writer, and checks of folders that an index is written to."""

import os
from pathlib import Path

from filelock import FileLock, Timeout

from d2vpr_hf.index.manifest import FORMAT_VERSION, MANIFEST, is_index_file
from d2vpr_hf.utils.atomic_files import TEMPORARY, check_writable
from d2vpr_hf.utils.bounded_files import parse_json

LOCK = ".lock"  # the locked file, which stays in the folder


class WriterLock:
    """The lock that a process must hold to change the index in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder / LOCK, timeout=0, thread_local=False)

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock.is_locked

    def acquire(self) -> None:
        """Acquire the lock without waiting.

        Raises:
            BlockingIOError: If another writer holds it.
            OSError: If the folder cannot be written to.
        """
        try:
            self._lock.acquire()
        except Timeout as error:
            raise BlockingIOError(
                f"The index {self._folder} is being changed by another process, or by another object of this one. Wait until "
                "it has finished; searches are possible at any time."
            ) from error
        except OSError as error:
            raise OSError(error.errno, f"The index cannot be changed here ({error.strerror})", str(self._folder)) from error

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()


def check_free(out: Path, overwrite: bool) -> Path:
    """Return the folder, links resolved, of a new index that is to be written to `out`.

    Raises:
        FileExistsError: If something exists at `out`, unless `overwrite` is set and it is an index.
        PermissionError: If its parent folder cannot be written to.
    """
    folder = check_out(out)
    if folder.exists() and not _is_free(folder) and not overwrite:
        raise FileExistsError(f"{out} exists already. Give another folder, or `overwrite=True` to replace the index there.")
    return folder


def check_out(out: Path) -> Path:
    """Return the folder, links resolved, of an index that is to be made, updated or replaced at `out`.

    Raises:
        FileExistsError: If something exists at `out` that is not an index.
        PermissionError: If its parent folder cannot be written to.
        OSError: If the manifest there exists and cannot be read at this moment.
    """
    try:
        folder = out.resolve()
    except RuntimeError as error:  # Python raises it for links in a circle
        raise FileExistsError(f"{out} is a link that points to itself. Give another folder.") from error
    if _is_free(folder):
        check_writable(out)
    elif not is_index(folder):
        raise FileExistsError(f"{out} exists already and is not an index; it was not changed. Give another folder.")
    return folder


def is_index(folder: Path) -> bool:
    """Return whether a folder holds an index that this version may replace: of format 1 or 2, or with a damaged manifest.

    Raises:
        OSError: If the manifest exists and cannot be read at this moment.
    """
    try:
        values = parse_json((folder / MANIFEST).read_bytes())
        return values["format_version"] in (1, FORMAT_VERSION) and "fingerprint" in values
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, KeyError, TypeError):
        return False
    except OSError as error:
        raise OSError(
            error.errno, f"The manifest cannot be read, so that nothing was changed ({error.strerror})", str(folder / MANIFEST)
        ) from error
    except ValueError:  # the manifest is not JSON any more
        names = [name for name in list_names(folder) if name != LOCK]
        return len(names) > 1 and all(map(is_index_file, names))


def list_names(folder: Path) -> list[str]:
    """Return the names in a folder."""
    return os.listdir(folder)  # noqa: PTH208 - a `Path` for each of many names would cost time


def _is_free(path: Path) -> bool:
    """Return whether a path does not exist, or is a folder that holds at most a lock and a manifest that was never finished."""
    if not path.exists():
        return True
    return path.is_dir() and all(name in (LOCK, MANIFEST + TEMPORARY) for name in list_names(path))
