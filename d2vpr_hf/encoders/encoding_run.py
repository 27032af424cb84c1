"""Descriptors of a stream of photos: photos of one size share batches, and results come in the order of the photos."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.backends.protocol import Finish
from d2vpr_hf.encoders.photo_batches import CorrectedPixels, DescriptorArray, Preprocessed, check_finite
from d2vpr_hf.encoders.protocol import EncodedPhotos, Progress, ReceiveBatch

NameOf = Callable[[int], str | None]  # the path of a photo by its position
Stack = Callable[[Sequence[NDArray[np.float32]]], Any]


class SizeGroups:
    """Photos that wait for others of their size, so that batches are full although sizes alternate.

    Args:
        batch_size: Number of photos of a full batch.
        max_waiting: Largest number of photos that wait; beyond it, those of the size that waits longest become a batch that is
            not full. 0 makes batches of all photos at once.
        stack: Joins the pixel values of photos to a batch.
        is_one_size: Whether photos of all shapes share batches, because they are resized later.
    """

    def __init__(self, batch_size: int, max_waiting: int, stack: Stack = np.stack, *, is_one_size: bool = False) -> None:
        self._batch_size, self._max_waiting = batch_size, max_waiting
        self._stack, self._is_one_size = stack, is_one_size
        self._groups: dict[tuple[int, ...], list[tuple[int, NDArray[np.float32]]]] = {}  # in the order of their first photos

    def add(self, photos: Iterable[tuple[int, NDArray[np.float32]]]) -> Iterator[tuple[list[int], Any]]:
        """Add positions and pixel values of photos, and yield those of the batches that are due, stacked."""
        for row, pixels in photos:
            shape = () if self._is_one_size else pixels.shape
            group = self._groups.setdefault(shape, [])
            group.append((row, pixels))
            if len(group) == self._batch_size:
                yield self._take(shape)
        while sum(map(len, self._groups.values())) > self._max_waiting:
            yield self._take(next(iter(self._groups)))

    def finish(self) -> Iterator[tuple[list[int], Any]]:
        """Yield the batches of all photos that still wait."""
        while self._groups:
            yield self._take(next(iter(self._groups)))

    def _take(self, shape: tuple[int, ...]) -> tuple[list[int], Any]:
        group = self._groups.pop(shape)
        return [row for row, _ in group], self._stack([pixels for _, pixels in group])


class EncodingRun:
    """The descriptors of one call of an encoder.

    Args:
        start: Starts to describe the pixel values of some photos; returns a function that waits for descriptors (B, width).
        width: Numbers of the descriptors of a photo.
        expected_count: Number of photos; 0 if it is not known.
        groups: Forms the batches.
        name_of: Returns the path of a photo, for errors.
        on_batch: Called with finished photos, in the order of the photos.
        progress: Called with the number of photos that were just finished, skipped ones included.
        num_ahead: Number of batches that are being described while the next one is formed.
    """

    def __init__(
        self,
        start: Callable[[Any], Finish],
        width: int,
        expected_count: int,
        groups: SizeGroups,
        name_of: NameOf,
        on_batch: ReceiveBatch | None,
        progress: Progress | None,
        num_ahead: int = 0,
    ) -> None:
        self._start, self._name_of = start, name_of
        self._num_ahead = num_ahead
        self._started: deque[tuple[list[int], Finish]] = deque()  # positions of photos that are being described
        self._groups = groups
        self._on_batch, self._progress = on_batch, progress
        self._descriptors = DescriptorArray(expected_count, width)
        self._skipped: dict[int, str] = {}
        self._corrected: dict[int, str] = {}
        self._pending: deque[int] = deque()  # positions of photos that were not given to `on_batch`
        self._described: set[int] = set()  # positions of pending photos that have descriptors
        self._count = 0

    def add(self, batch: list[tuple[int, Preprocessed]]) -> list[int]:
        """Take positions and pixel values of the next photos, describe the batches that are due, and return finished photos."""
        self._count += len(batch)
        self._pending.extend(row for row, _ in batch)
        self._skipped |= {row: reason for row, reason in batch if isinstance(reason, str)}
        self._corrected |= {row: pixels.correction for row, pixels in batch if isinstance(pixels, CorrectedPixels)}
        readable = (
            (row, pixels.pixel_values if isinstance(pixels, CorrectedPixels) else pixels)
            for row, pixels in batch
            if not isinstance(pixels, str)
        )
        self._store(self._groups.add(readable))
        return self._report()

    def finish(self) -> EncodedPhotos:
        """Describe the photos that wait, and return the descriptors of all photos, in their order."""
        self._store(self._groups.finish())
        self._finish_batches(0)
        self._report()
        encoded = np.array([row for row in range(self._count) if row not in self._skipped], dtype=np.int64)
        skipped, corrected = dict(sorted(self._skipped.items())), dict(sorted(self._corrected.items()))
        return EncodedPhotos(self._descriptors.take(encoded), encoded, skipped, corrected)

    def _store(self, batches: Iterator[tuple[list[int], Any]]) -> None:
        for rows, pixel_values in batches:
            self._started.append((rows, self._start(pixel_values)))
            self._finish_batches(self._num_ahead)

    def _finish_batches(self, num_ahead: int) -> None:
        """Wait for the descriptors of the earliest batches, until a number of batches is left."""
        while len(self._started) > num_ahead:
            rows, finish = self._started.popleft()
            described = finish()
            check_finite(described, rows, {row: name for row in rows if (name := self._name_of(row)) is not None})
            self._descriptors.store(rows, described)
            self._described.update(rows)

    def _report(self) -> list[int]:
        """Report the photos that are finished and have no unfinished ones before them, and return their positions."""
        rows = []
        while self._pending and (self._pending[0] in self._described or self._pending[0] in self._skipped):
            rows.append(self._pending.popleft())
        if not rows:
            return rows
        encoded = np.array([row for row in rows if row not in self._skipped], dtype=np.int64)
        self._described.difference_update(rows)
        if self._on_batch is not None:
            skipped = {row: self._skipped[row] for row in rows if row in self._skipped}
            corrected = {row: self._corrected[row] for row in rows if row in self._corrected}
            self._on_batch(EncodedPhotos(self._descriptors.copy(encoded), encoded, skipped, corrected))
        if self._progress is not None:
            self._progress(len(rows))
        return rows
