"""No compression: every search reads all descriptors."""

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.descriptors import Descriptors
from d2vpr_hf.search import exact_search
from d2vpr_hf.stores.protocol import StoreInfo, check_description, write_description


class ExactStore:
    """Descriptors as they are, searched by [`exact_search`]; has nothing of its own.

    Args:
        descriptors: (N, D).
    """

    def __init__(self, descriptors: Descriptors) -> None:
        self._descriptors = descriptors

    @property
    def info(self) -> StoreInfo:
        """Say what the store holds."""
        return StoreInfo("none", len(self._descriptors), self._descriptors.shape[1], 0, 0)

    def search(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest of each query (Q, D): squared distances and rows (Q, k)."""
        return exact_search(queries, self._descriptors, k, allowed)

    def save(self, path: Path) -> None:
        """Write a description only."""
        path.mkdir(parents=True, exist_ok=True)
        write_description(path, self.info)

    @classmethod
    def open(cls, path: Path, descriptors: Descriptors) -> Self:
        """Open a folder that `save` wrote."""
        check_description(path, "none", descriptors)
        return cls(descriptors)
