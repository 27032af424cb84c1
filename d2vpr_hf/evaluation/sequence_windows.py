"""Evaluation of sequences: windows of consecutive photos take the place of single photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.evaluation.photo_selection import PhotoSelection
from d2vpr_hf.evaluation.positives import Positives
from d2vpr_hf.evaluation.sequence_rule import Scores, SequenceRule
from d2vpr_hf.readers import PlaceTable
from d2vpr_hf.readers.at_names import is_at_name
from d2vpr_hf.readers.photo_listing import natural_key
from d2vpr_hf.stores.descriptors import Descriptors, take_rows

SEQUENCE_COUNTS = ("database_photos", "query_photos", "database_sequences", "query_sequences")  # of reports


def find_windows(selection: PhotoSelection, length: int) -> NDArray[np.int64]:
    """Return the rows (W, length) in a selection of all sequences of consecutive photos.

    A sequence is in one folder. Its photos are in the order of a CSV file, else in the natural order of their names; a photo
    that is not selected, such as one that cannot be read, interrupts it.

    Raises:
        ValueError: If there is no sequence of this length, or the order of names is that of positions, as of `@` names.
    """
    paths = [place.path for place in selection.table.places]
    order = np.arange(len(paths))
    if not (isinstance(selection.table, PlaceTable) and selection.table.source == "csv"):
        paths += selection.table.skipped  # photos that are not in the table, but in the drive
        names = list(map(PurePosixPath, paths))
        if any(map(is_at_name, names)):
            raise ValueError(
                f"The names of the {selection.name} in {selection.table.folder} begin with @ and a position, so that their "
                "order is not that of a drive. Give a CSV file that lists the photos in their order, or omit `sequence_length`."
            )
        order = np.array(sorted(range(len(paths)), key=lambda row: _folder_key(names[row])), np.int64)
    numbers = np.full(len(paths), -1, np.int64)
    numbers[selection.rows] = np.arange(len(selection.rows))
    folders = np.unique([paths[row].rpartition("/")[0] for row in order.tolist()], return_inverse=True)[1]
    ordered = numbers[order]
    if len(ordered) >= length:
        windows = np.lib.stride_tricks.sliding_window_view(ordered, length)
        of_folders = np.lib.stride_tricks.sliding_window_view(folders, length)
        complete = (windows >= 0).all(axis=1) & (of_folders == of_folders[:, :1]).all(axis=1)
        if complete.any():
            return np.array(windows[complete])
    raise ValueError(
        f"There is no sequence of {length} consecutive photos in a folder of the {selection.name} in {selection.table.folder}. "
        "Give a smaller `sequence_length`, or one folder for each drive."
    )


def _folder_key(path: PurePosixPath) -> tuple[Any, Any]:
    """Return a key that keeps the photos of a folder together: those of its subfolders are not between them."""
    return natural_key(path.parent), natural_key(path)


class WindowDescriptors:
    """The descriptors of sequences, as [`Descriptors`]; they are computed when they are used.

    Args:
        descriptors: (N, D) of the photos.
        windows: (W, L) rows of each sequence.
        scores: As in [`SequenceRule`]: means have D numbers, and sums L · D.
    """

    def __init__(self, descriptors: Descriptors, windows: NDArray[np.int64], scores: Scores) -> None:
        self._descriptors, self._windows = descriptors, windows
        self._scores = scores
        factor = windows.shape[1] if scores == "sum" else 1
        self.shape = (len(windows), factor * descriptors.shape[1])
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        return self._join(self._windows[rows])

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return any rows."""
        return self._join(self._windows[rows])

    def _join(self, windows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the descriptors of sequences: windows (W, L) -> (W, D) or (W, L · D), of unit length."""
        photos = np.asarray(take_rows(self._descriptors, windows.reshape(-1)), np.float32)
        photos = photos.reshape(*windows.shape, photos.shape[-1])
        if self._scores == "sum":
            return np.asarray(photos.reshape(len(windows), self.shape[1]) / np.float32(np.sqrt(windows.shape[1])))
        sums = photos.sum(axis=1)
        return np.asarray(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12))


class WindowPositives:
    """The positives of sequences, looked up in those of photos.

    Args:
        positives: Positives of the photos.
        database: (W, L) rows of the database's sequences.
        queries: (Q, L) rows of the queries' sequences.
        rule: The rule of sequences.
    """

    def __init__(
        self, positives: Positives, database: NDArray[np.int64], queries: NDArray[np.int64], rule: SequenceRule
    ) -> None:
        columns = slice(rule.centre, rule.centre + 1) if rule.positives == "centre" else slice(None)
        self._positives, self._queries = positives, queries[:, columns]
        frames = database[:, columns]
        order = np.argsort(frames, axis=None, kind="stable")
        self._frames, self._windows = frames.reshape(-1)[order], order // frames.shape[1]

    def __len__(self) -> int:
        return len(self._queries)

    def __getitem__(self, query: int, /) -> NDArray[np.int64]:
        rows = np.unique(np.concatenate([self._positives[row] for row in self._queries[query].tolist()]))
        first, last = (np.searchsorted(self._frames, rows, side) for side in ("left", "right"))
        parts = [self._windows[start:stop] for start, stop in zip(first.tolist(), last.tolist(), strict=True)]
        return np.unique(np.concatenate([np.empty(0, np.int64), *parts]))


def describe_sequences(rule: SequenceRule, num_photos: Sequence[int], num_sequences: Sequence[int]) -> dict[str, Any]:
    """Return the sequences of an evaluation for its report: the rule, and the numbers of photos and sequences of both sides."""
    return rule.to_dict() | dict(zip(SEQUENCE_COUNTS, [*num_photos, *num_sequences], strict=True))
