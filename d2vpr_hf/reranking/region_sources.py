"""Sources of the regions of queries and candidates: the stored rows, or the photos, which are encoded again."""

from __future__ import annotations

import functools
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.reranking.region_similarity import split_regions
from d2vpr_hf.reranking.whitening import SAMPLE, Whitening, fit_whitening
from d2vpr_hf.stores.descriptors import Descriptors, MappedDescriptors, take_rows

if TYPE_CHECKING:
    from d2vpr_hf.encoders import Encoder

logger = logging.getLogger(__name__)

_CACHE_BYTES = 256 * 2**20
Regions = NDArray[np.float32]  # (N, R, D), L2-normalised


class RegionSource(Protocol):
    """The regions of queries and of rows."""

    def of_queries(self, descriptors: NDArray[np.floating], photos: Sequence[Any]) -> Regions:
        """Return the regions (Q, R, D) of queries, from their descriptors (Q, D) or their photos; NaN for unreadable photos."""

    def of_rows(self, rows: NDArray[np.int64]) -> Regions:
        """Return the regions (M, R, D) of different rows; NaN for rows whose photos cannot be read."""

    def report(self) -> None:
        """Log the number of photos that were encoded again, and of those that could not be read."""


class StoredRegions:
    """Regions of descriptors (N, R * D) that hold them, whitened.

    Args:
        descriptors: The descriptors of the database.
        num_regions: R.
    """

    def __init__(self, descriptors: Descriptors, num_regions: int) -> None:
        self._descriptors, self._num_regions = descriptors, num_regions

    @functools.cached_property
    def _whitening(self) -> Whitening | None:
        """The whitening of some rows, spread evenly; `None` for a database with few rows."""
        rows = np.unique(np.linspace(0, len(self._descriptors) - 1, SAMPLE).astype(np.int64))
        return fit_whitening(split_regions(take_rows(self._descriptors, rows), self._num_regions))

    def of_queries(self, descriptors: NDArray[np.floating], photos: Sequence[Any]) -> Regions:
        """Return the regions (Q, R, D) of the descriptors of queries."""
        regions = split_regions(descriptors, self._num_regions)
        return regions if self._whitening is None else self._whitening(regions)

    def of_rows(self, rows: NDArray[np.int64]) -> Regions:
        """Return the regions (M, R, D) of rows."""
        return self.of_queries(take_rows(self._descriptors, rows), ())

    def report(self) -> None:
        """Log nothing: no photo is encoded again."""


_INDEXED: WeakKeyDictionary[PlaceIndex, tuple[MappedDescriptors, int, StoredRegions]] = WeakKeyDictionary()


def indexed_regions(index: PlaceIndex, num_regions: int) -> StoredRegions:
    """Return the regions of an index whose descriptors hold them; their whitening is fitted once for the same stored rows."""
    descriptors = index.descriptors
    if index in _INDEXED:
        earlier, earlier_num_regions, regions = _INDEXED[index]
        if earlier_num_regions == num_regions and descriptors.shares_rows(earlier):
            return regions
    regions = StoredRegions(descriptors, num_regions)
    _INDEXED[index] = descriptors, num_regions, regions
    return regions


class EncodedRegions:
    """Regions of photos that are encoded again, because the stored descriptors hold none; they are not whitened.

    Args:
        encoder: A [`PlaceEncoder`] whose model computes regions.
        photo_of_row: Returns the photo of a row.
    """

    def __init__(self, encoder: Encoder, photo_of_row: Callable[[int], Path]) -> None:
        self._encoder: Any = encoder
        self._photo_of_row = photo_of_row
        self._cache: OrderedDict[int, NDArray[np.float16] | None] = OrderedDict()  # `None` for unreadable photos
        self._cached_bytes = 0
        self._num_queries = self._num_rows = 0
        self._unread: dict[int, str] = {}

    def of_queries(self, descriptors: NDArray[np.floating], photos: Sequence[Any]) -> Regions:
        """Return the regions (Q, R, D) of the photos of queries."""
        self._num_queries += len(photos)
        return self._encode(photos)[0]

    def of_rows(self, rows: NDArray[np.int64]) -> Regions:
        """Return the regions (M, R, D) of the photos of rows; each is encoded once, as long as the cache has room for it."""
        numbers = rows.tolist()
        cached = {row: self._cache[row] for row in numbers if row in self._cache}
        missing = [row for row in numbers if row not in cached]
        if missing:
            encoded, skipped = self._encode([self._photo_of_row(row) for row in missing])
            self._num_rows += len(missing)
            self._unread |= {missing[number]: reason for number, reason in skipped.items()}
            of_missing = [None if number in skipped else regions for number, regions in enumerate(encoded.astype(np.float16))]
            cached |= dict(zip(missing, of_missing, strict=True))
        self._keep(cached)
        regions = np.full((len(numbers), *self._encoder.region_shape), np.nan, np.float32)
        for number, row in enumerate(numbers):
            if cached[row] is not None:
                regions[number] = cached[row]
        return regions

    def _encode(self, photos: Sequence[Any]) -> tuple[Regions, dict[int, str]]:
        encoded = self._encoder.encode_regions(photos)
        regions = np.full((len(photos), *self._encoder.region_shape), np.nan, np.float32)
        if len(encoded.rows):
            regions[encoded.rows] = split_regions(encoded.descriptors, regions.shape[1])
        return regions, encoded.skipped

    def _keep(self, regions: dict[int, NDArray[np.float16] | None]) -> None:
        """Add regions to the cache, and drop those that were not used for the longest time."""
        for row, part in regions.items():
            if row not in self._cache:
                self._cached_bytes += 0 if part is None else part.nbytes
            self._cache[row] = part
            self._cache.move_to_end(row)
        while self._cached_bytes > _CACHE_BYTES:
            _, part = self._cache.popitem(last=False)
            self._cached_bytes -= 0 if part is None else part.nbytes

    def report(self) -> None:
        """Log the number of photos that were encoded again, and of those that could not be read."""
        if not self._num_rows:
            return
        logger.warning(
            "The descriptors of this index hold no regions. For re-ranking, %d photos of the index and %d queries were encoded "
            "again.",
            self._num_rows,
            self._num_queries,
        )
        if self._unread:
            row, reason = next(iter(self._unread.items()))
            logger.warning(
                "%d photos of the index could not be read, and count with the smallest region similarity of their query; %s "
                "first: %s",
                len(self._unread),
                self._photo_of_row(row),
                reason,
            )
