"""Half precision: a float16 copy of descriptors that are stored wider, searched in full and rescored."""

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.stores.descriptors import Descriptors
from d2vpr_hf.stores.exact import check_search, exact_search, float32_blocks, rescore
from d2vpr_hf.stores.files import map_array, save_array
from d2vpr_hf.stores.protocol import StoreInfo, check_description, write_description

EXTRA_CANDIDATES = 16  # beyond k: rounding swaps close neighbours only
_FILE = "half.npy"


class HalfStore:
    """Descriptors of half precision. Use it where the stored ones are float32; those that are float16 it takes as they are.

    Args:
        descriptors: (N, D) the stored ones, which decide.
        halves: (N, D) float16, the same rounded; `None` to make them.
    """

    def __init__(self, descriptors: Descriptors, halves: Descriptors | None = None) -> None:
        self._descriptors = descriptors
        self._halves = _round(descriptors) if halves is None else halves

    @property
    def info(self) -> StoreInfo:
        """Say what the store holds."""
        count, width = self._halves.shape
        own = 0 if self._halves is self._descriptors else 2 * count * width
        mapped = own if isinstance(self._halves, np.memmap) else 0
        return StoreInfo("half", count, width, own - mapped, mapped)

    def search(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest of each query (Q, D): squared distances and rows (Q, k)."""
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
        check_description(path, "half", descriptors)
        if descriptors.dtype == np.float16:
            return cls(descriptors, descriptors)
        return cls(descriptors, map_array(path / _FILE, np.float16, (len(descriptors), descriptors.shape[1])))


def _round(descriptors: Descriptors) -> Descriptors:
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
