"""Arrays in files that are mapped instead of read."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from d2vpr_hf.utils.atomic_files import store_file


def save_array(path: Path, values: NDArray[Any]) -> None:
    """Write an array as numpy does, in place of what is there, so that readers of the old file keep it."""
    store_file(path, lambda scratch: _write(scratch, values))


def _write(path: Path, values: NDArray[Any]) -> None:
    with path.open("wb") as file:  # given a path, numpy would change its name
        np.save(file, values, allow_pickle=False)


def map_array(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """Map an array that `save_array` wrote.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is damaged, or is not what is expected.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Build the store anew from the descriptors.")
    try:
        found = np.load(path, mmap_mode="r" if 0 not in shape else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}). Build the store anew from the descriptors.") from error
    if found.dtype != dtype or found.shape != shape:
        expected = f"{np.dtype(dtype)} {shape}"
        raise ValueError(f"Expected {expected} in {path}, found {found.dtype} {found.shape}. Build the store anew.")
    return found
