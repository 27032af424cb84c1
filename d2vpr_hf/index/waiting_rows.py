"""Rows that were added and are not stored yet."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index.place_rows import PhotoFile, WaitingPlaces
from d2vpr_hf.places import Place


class WaitingRows:
    """Descriptors and places that wait for the next flush; adding one is cheap."""

    def __init__(self, descriptor_dim: int, dtype: str) -> None:
        self.places = WaitingPlaces()
        self._room = np.empty((0, descriptor_dim), dtype)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def descriptors(self) -> NDArray[Any]:
        """All of them, (n, D)."""
        return self._room[: len(self)]

    def extend(self, descriptors: NDArray[Any], places: Sequence[Place], files: Sequence[PhotoFile]) -> None:
        """Add rows, (m, D), in the type of the index."""
        start, end = len(self), len(self) + len(places)
        if end > len(self._room):
            larger = np.empty((max(end, 2 * len(self._room)), self._room.shape[1]), self._room.dtype)
            larger[:start] = self.descriptors
            self._room = larger
        self._room[start:end] = descriptors
        self.places.extend(places, files)

    def drop(self, count: int) -> None:
        """Forget the first rows."""
        self._room = self._room[count : len(self)].copy()
        self.places.drop(count)
