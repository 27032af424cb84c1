"""Arrays in files that are mapped into memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from d2vpr_hf.utils.atomic_files import create_file, store_file


@dataclass(frozen=True)
class MappedFile:
    """A file when it was mapped. If another program then cuts it, reading the missing part ends the process (SIGBUS).

    The mapping of a file that was removed or replaced stays complete.

    Attributes:
        path: The file.
        device, inode: Numbers that distinguish it from a new file of this name.
        size: In bytes.
    """

    path: Path
    device: int
    inode: int
    size: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return the present state of a file."""
        status = path.stat()
        return cls(path, status.st_dev, status.st_ino, status.st_size)

    def check(self) -> None:
        """Raise ValueError if the file is shorter than it was. Call this before each long use of the mapping."""
        try:
            status = self.path.stat()
        except OSError:  # removed, or its folder was
            return
        if (status.st_dev, status.st_ino) == (self.device, self.inode) and status.st_size < self.size:
            raise ValueError(f"it was cut to {status.st_size} of {self.size} bytes while it was in use")


def save_array(path: Path, values: NDArray[Any]) -> None:
    """Write an array into a new `.npy` file, which replaces an old one; its readers keep the old file."""

    def write(scratch: Path) -> None:
        with create_file(scratch) as file:  # numpy would add a suffix to a path
            np.save(file, values, allow_pickle=False)

    store_file(path, write)


def map_array(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """Map an array that `save_array` wrote.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged, or has another type or shape.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Build the store again from the descriptors.")
    try:
        values = np.load(path, mmap_mode="r" if 0 not in shape else None, allow_pickle=False)
    except (OSError, MemoryError):  # as with too many open files; the file may be undamaged
        raise
    except Exception as error:  # numpy reads the header with Python's parser, whose errors are of many types
        raise ValueError(f"{path} is damaged ({error}). Build the store again from the descriptors.") from error
    if values.dtype != dtype or values.shape != shape or not values.flags.c_contiguous:
        expected = f"{np.dtype(dtype)} {shape}"
        raise ValueError(f"Expected {expected} in {path}, found {values.dtype} {values.shape}. Build the store again.")
    return values
