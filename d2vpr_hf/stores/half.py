"""Half precision: an exact search of a float16 copy, and exact distances of the nearest rows."""

from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.stores.descriptors import Descriptors
from d2vpr_hf.stores.exact import check_search, exact_search, float32_blocks, rescore
from d2vpr_hf.stores.files import map_array, save_array
from d2vpr_hf.stores.protocol import StoreInfo, check_description, write_description

EXTRA_CANDIDATES = 16  # in addition to k: rounding swaps neighbours only if they are close
_FILE = "half.npy"


class HalfStore:
    """Descriptors in half precision. Use this store for descriptors that are stored as float32; float16 ones are not copied.

    Args:
        descriptors: (N, D) the stored descriptors, whose distances decide.
        halves: (N, D) the descriptors in float16; `None` to convert them.
    """

    compression: ClassVar[str] = "half"
    scan_seconds_per_byte: ClassVar[float] = 2.5e-10

    def __init__(self, descriptors: Descriptors, halves: Descriptors | None = None) -> None:
        self._descriptors = descriptors
        self._halves = _to_half(descriptors) if halves is None else halves

    @property
    def info(self) -> StoreInfo:
        """The size of the store."""
        count, width = self._halves.shape
        size = 0 if self._halves is self._descriptors else 2 * count * width
        mapped = size if isinstance(self._halves, np.memmap) else 0
        return StoreInfo("half", count, width, size - mapped, mapped)

    @staticmethod
    def row_bytes(descriptor_dim: int) -> int:
        """Return the bytes of a float16 row."""
        return 2 * descriptor_dim

    @staticmethod
    def num_rescored(count: int, descriptor_dim: int, k: int) -> int:
        """Return k, as estimates are of descriptors that are stored as float16."""
        return k

    def search(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest rows of each query (Q, D): squared distances and row numbers (Q, k)."""
        check_search(queries, self._descriptors, k, allowed)
        if self._halves is self._descriptors:
            return exact_search(queries, self._descriptors, k, allowed)
        _, candidates = exact_search(queries, self._halves, k + EXTRA_CANDIDATES, allowed)
        return rescore(queries, self._descriptors, candidates, min(k, candidates.shape[1]))

    def save(self, path: Path) -> None:
        """Write the float16 copy, if there is one."""
        path.mkdir(parents=True, exist_ok=True)
        if self._halves is not self._descriptors:
            save_array(path / _FILE, np.asarray(self._halves))
        write_description(path, self.info)

    @classmethod
    def open(cls, path: Path, descriptors: Descriptors) -> Self:
        """Open a folder that `save` wrote."""
        return cls(descriptors, cls._map(path, descriptors))

    @classmethod
    def check(cls, path: Path, descriptors: Descriptors) -> None:
        """Check the description and the size of the copy."""
        cls._map(path, descriptors)

    @staticmethod
    def _map(path: Path, descriptors: Descriptors) -> Descriptors:
        check_description(path, "half", descriptors)
        if descriptors.dtype == np.float16:
            return descriptors
        return map_array(path / _FILE, np.float16, (len(descriptors), descriptors.shape[1]))


def _to_half(descriptors: Descriptors) -> Descriptors:
    if descriptors.dtype == np.float16:
        return descriptors
    halves = np.empty((len(descriptors), descriptors.shape[1]), np.float16)
    start = 0
    for block in float32_blocks(descriptors):
        halves[start : start + len(block)] = block
        start += len(block)
    if not np.isfinite(halves).all():
        raise ValueError("A descriptor is not finite, or too large for half precision. Choose another compression.")
    return halves
