"""Frame numbers of two aligned sequences, from the names of their photos."""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

_ENOUGH = 0.5  # share of queries with a database photo near their number, from which the numbers are taken as aligned
_LARGEST = 2**53  # float64, in which frames are compared, holds whole numbers up to here

_Numbers = tuple[list[int], list[int]]  # of the database and of the queries


@dataclass(frozen=True)
class FrameNumbers:
    """Frame numbers of database and queries.

    Attributes:
        database: (N,) numbers.
        queries: (Q,) numbers.
        database_sequences: Folders of the N photos, if there are several; photos of two folders never show the same place.
        query_sequences: The same for the Q queries.
        by_order: The reason why photos are numbered in the order of their names; `None` if their names have the numbers.
    """

    database: NDArray[np.int64]
    queries: NDArray[np.int64]
    database_sequences: list[str] | None = None
    query_sequences: list[str] | None = None
    by_order: str | None = None


def number_frames(database: Sequence[str], queries: Sequence[str], tolerance: int) -> FrameNumbers:
    """Return the frame numbers of two aligned sequences.

    Numbers are taken from the names: the last number of a file's name that every photo has and that no two photos of a sequence
    share, such as 123 of `frame_000123.jpg`. Folders of equal names on both sides are sequences of their own. If the names have
    no such number, or the numbers are not aligned (such as times in nanoseconds of two drives), the n-th query belongs to the
    n-th database photo, in the order of the names, in which digits count as numbers: `9.jpg`, `10.jpg`.

    Args:
        database: Paths of the database photos.
        queries: Paths of the queries.
        tolerance: Largest difference of two numbers of one place.

    Raises:
        ValueError: If neither numbers nor the order align the sequences.
    """
    sequences = [[PurePosixPath(path).parent.as_posix() for path in paths] for paths in (database, queries)]
    several = max(len(set(folders)) for folders in sequences) > 1
    keys = sequences if several else [[""] * len(database), [""] * len(queries)]
    numbers = _numbers_of_names(database, queries, keys)
    share = 0.0 if numbers is None else _share_near(numbers, keys, tolerance)
    same_length = len(database) == len(queries)
    if numbers is not None and (share >= _ENOUGH or (share > 0 and not same_length)):
        frames = [np.array(side, np.int64) for side in numbers]
        return FrameNumbers(frames[0], frames[1], *(sequences if several else (None, None)))
    if numbers is None:
        reason = "because not all names have a number of their own"
    else:
        reason = "because their numbers do not occur in the database"
    if not same_length:
        raise ValueError(
            "With `frame_tolerance`, a query belongs to the database photos of its number. Here the n-th query would belong to "
            f"the n-th database photo, {reason} (queries such as {queries[0]}, database photos such as {database[0]}), so both "
            f"need the same number of photos; got {len(database)} and {len(queries)}. Give equal numbers in the names, "
            "positions, or positives to evaluate_descriptors()."
        )
    return FrameNumbers(_ranks(database), _ranks(queries), by_order=reason)


def _numbers_of_names(database: Sequence[str], queries: Sequence[str], keys: list[list[str]]) -> _Numbers | None:
    """Return the numbers in the names; `None` if there are none that tell the photos of a sequence apart."""
    runs = [[re.findall(r"[0-9]+", PurePosixPath(path).stem) for path in paths] for paths in (database, queries)]
    depth = min((len(digits) for side in runs for digits in side), default=0)
    for place in range(1, depth + 1):
        numbers = ([int(digits[-place]) for digits in runs[0]], [int(digits[-place]) for digits in runs[1]])
        if all(len(set(zip(folders, side, strict=True))) == len(side) for folders, side in zip(keys, numbers, strict=True)):
            first = min(map(min, numbers)) if max(map(max, numbers)) > _LARGEST else 0
            shifted = ([number - first for number in numbers[0]], [number - first for number in numbers[1]])
            return shifted if max(map(max, shifted)) <= _LARGEST else None
    return None


def _share_near(numbers: _Numbers, keys: list[list[str]], tolerance: int) -> float:
    """Return the share of queries whose number is near that of a database photo of their sequence."""
    database = defaultdict(list)
    for folder, number in sorted(zip(keys[0], numbers[0], strict=True)):
        database[folder].append(number)
    near = 0
    for folder, number in zip(keys[1], numbers[1], strict=True):
        sequence = database[folder]
        row = bisect_left(sequence, number - tolerance)
        near += row < len(sequence) and sequence[row] <= number + tolerance
    return near / max(len(keys[1]), 1)


def _ranks(paths: Sequence[str]) -> NDArray[np.int64]:
    """Return the photos' numbers (N,) in the order of their names, in which digits count as numbers."""
    keys = [[int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path)] for path in paths]
    ranks = np.empty(len(paths), np.int64)
    ranks[sorted(range(len(paths)), key=lambda row: keys[row])] = np.arange(len(paths))
    return ranks
