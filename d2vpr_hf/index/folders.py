"""Where an index may be written: nothing but an index is ever replaced."""

import json
import os
from pathlib import Path

from filelock import FileLock, Timeout

from d2vpr_hf.index.manifest import FORMAT_VERSION, MANIFEST, is_own_file
from d2vpr_hf.utils.atomic_files import TEMPORARY, check_writable

LOCK = ".lock"  # the file that is locked; it stays in the folder


class WriterLock:
    """The right to change the index in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder / LOCK, timeout=0, thread_local=False)

    @property
    def held(self) -> bool:
        """Whether this object has the right now."""
        return self._lock.is_locked

    def acquire(self) -> None:
        """Take the right, at once or not at all.

        Raises:
            BlockingIOError: If another writer has it.
            OSError: If the folder cannot be written to.
        """
        try:
            self._lock.acquire()
        except Timeout as error:
            raise BlockingIOError(
                f"The index {self._folder} is being changed by another process, or by another object of this one. Wait until "
                "it is done; searching is possible meanwhile."
            ) from error
        except OSError as error:
            raise OSError(error.errno, f"The index cannot be changed here ({error.strerror})", str(self._folder)) from error

    def release(self) -> None:
        """Give the right back."""
        self._lock.release()


def check_free(out: Path, overwrite: bool) -> Path:
    """Return where an index to be written to `out` will really lie, links followed.

    Raises:
        FileExistsError: If something is there already, unless `overwrite` is set and it is an index.
        PermissionError: If its parent folder cannot be written to.
    """
    place = check_out(out)
    if place.exists() and not _is_free(place) and not overwrite:
        raise FileExistsError(f"{out} exists already. Give another folder, or `--overwrite` to replace the index there.")
    return place


def check_out(out: Path) -> Path:
    """Return where an index to be made, updated or replaced will really lie, links followed.

    Raises:
        FileExistsError: If something is there already that is no index.
        PermissionError: If its parent folder cannot be written to.
    """
    try:
        place = out.resolve()
    except RuntimeError as error:  # Python's word for links in a circle
        raise FileExistsError(f"{out} is a link that leads nowhere. Give another folder.") from error
    if _is_free(place):
        check_writable(out)
    elif not is_index(place):
        raise FileExistsError(f"{out} exists already and is no index; it is not touched. Give another folder.")
    return place


def is_index(folder: Path) -> bool:
    """Tell whether a folder holds an index that this version may replace: of its own format or the one before, or damaged."""
    try:
        values = json.loads((folder / MANIFEST).read_bytes())
        return values["format_version"] in (1, FORMAT_VERSION) and "fingerprint" in values
    except (OSError, KeyError, TypeError):
        return False
    except ValueError:  # no JSON any more
        names = [name for name in list_names(folder) if name != LOCK]
        return len(names) > 1 and all(map(is_own_file, names))


def list_names(folder: Path) -> list[str]:
    """List the names in a folder."""
    return os.listdir(folder)  # noqa: PTH208 - names are all that is wanted, and there are many


def _is_free(place: Path) -> bool:
    """Tell whether there is nothing, or a folder with nothing but what a build leaves that was killed at once."""
    if not place.exists():
        return True
    return place.is_dir() and all(name in (LOCK, MANIFEST + TEMPORARY) for name in list_names(place))
