"""One writer at a time: a lock of the operating system, which a process that ends gives back however it ends."""

from pathlib import Path

from filelock import FileLock, Timeout

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
