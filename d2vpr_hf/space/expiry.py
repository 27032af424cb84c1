"""Deletion of visitors' files by the clock: nothing in their folder stays longer than promised."""

import contextlib
import os
import threading
import time
from pathlib import Path


def delete_old_files(folder: Path, max_age: float, now: float | None = None) -> int:
    """Delete files and empty folders that did not change for some time; return their number.

    Args:
        folder: Folder of the files; it stays.
        max_age: Age in seconds.
        now: The time as `time.time` gives it; `None` for the present.
    """
    now = time.time() if now is None else now
    count = 0
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(parent, name)
            with contextlib.suppress(OSError):  # deleted meanwhile
                if now - path.lstat().st_ctime > max_age:
                    path.unlink()
                    count += 1
        for name in folders:
            path = Path(parent, name)
            with contextlib.suppress(OSError):  # not empty, or deleted meanwhile
                if now - path.lstat().st_mtime > max_age:
                    path.rmdir()
                    count += 1
    return count


def start_deleting(folder: Path, max_age: float, every: float = 60) -> threading.Event:
    """Delete old files of a folder again and again, in a thread; return the event that ends it."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(every):
            delete_old_files(folder, max_age)

    threading.Thread(target=run, name="expiry", daemon=True).start()
    return ended
