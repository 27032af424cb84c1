"""Frame numbers of two aligned sequences, from the names of their photos."""

import posixpath
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

_ENOUGH = 0.5  # share of queries with a database photo near their number, from which the numbers are taken as aligned
_LARGEST = 2**53  # float64, in which frames are compared, holds whole numbers up to here

_NUMBER = re.compile(r"(?:(?<![A-Za-z0-9])-)?[0-9]+")  # the hyphen of `f_-1` is a sign, those of `img-1` and `05-01` are not

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

    Numbers are taken from the names: a number of a file's name that every photo has and that no two photos of a sequence share,
    such as 123 of `frame_000123.jpg`. Of several such numbers the last one counts by which half of the queries are near a
    database photo. Folders of equal names on both sides are sequences of their own, apart from the folder that all photos of a
    side are in. If the names have no such number, or the numbers are not aligned (such as times in nanoseconds of two drives),
    the n-th query belongs to the n-th database photo, in the order of the names, in which digits count as numbers: `9.jpg`,
    `10.jpg`.

    Args:
        database: Paths of the database photos.
        queries: Paths of the queries.
        tolerance: Largest difference of two numbers of one place.

    Raises:
        ValueError: If neither numbers nor the order align the sequences.
    """
    best, best_share = None, 0.0
    for numbers, sequences in _candidates(database, queries):
        share = _share_near(numbers, sequences, tolerance)
        if best is None or share > best_share:
            best, best_share = (numbers, sequences), share
        if share >= _ENOUGH:
            break
    same_length = len(database) == len(queries)
    if best is not None and (best_share >= _ENOUGH or (best_share > 0 and not same_length)):
        frames = [np.array(side, np.int64) for side in best[0]]
        several = max(len(set(folders)) for folders in best[1]) > 1
        return FrameNumbers(frames[0], frames[1], *(best[1] if several else (None, None)))
    if best is None:
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


def _candidates(database: Sequence[str], queries: Sequence[str]) -> Iterator[tuple[_Numbers, list[list[str]]]]:
    """Yield numbers and sequences of the photos, the most probable first."""
    for sequences in _sequences(database, queries):
        for numbers in _numbers_of_names(database, queries, sequences):
            yield numbers, sequences


def _sequences(database: Sequence[str], queries: Sequence[str]) -> list[list[list[str]]]:
    """Return the sequences of database and queries: their folders, and their folders without the one that contains all."""
    folders = [[PurePosixPath(path).parent.as_posix() for path in paths] for paths in (database, queries)]
    if max(len(set(side)) for side in folders) == 1:
        return [[[""] * len(side) for side in folders]]
    parts = [[PurePosixPath(folder).parts for folder in side] for side in folders]
    depths = [len(posixpath.commonprefix(side)) for side in parts]
    inner = [["/".join(folder[depth:]) for folder in side] for side, depth in zip(parts, depths, strict=True)]
    return [folders, inner] if any(depths) else [folders]


def _numbers_of_names(database: Sequence[str], queries: Sequence[str], sequences: list[list[str]]) -> Iterator[_Numbers]:
    """Yield the numbers in the names that tell the photos of a sequence apart, the last ones first."""
    runs = [[_NUMBER.findall(PurePosixPath(path).stem) for path in paths] for paths in (database, queries)]
    depth = min((len(digits) for side in runs for digits in side), default=0)
    for place in range(1, depth + 1):
        numbers = ([int(digits[-place]) for digits in runs[0]], [int(digits[-place]) for digits in runs[1]])
        if all(
            len(set(zip(folders, side, strict=True))) == len(side) for folders, side in zip(sequences, numbers, strict=True)
        ):
            first = min(map(min, numbers)) if max(map(max, numbers)) > _LARGEST else 0
            shifted = ([number - first for number in numbers[0]], [number - first for number in numbers[1]])
            if max(map(max, shifted)) <= _LARGEST:
                yield shifted


def _share_near(numbers: _Numbers, sequences: list[list[str]], tolerance: int) -> float:
    """Return the share of queries whose number is near that of a database photo of their sequence."""
    database = defaultdict(list)
    for folder, number in sorted(zip(sequences[0], numbers[0], strict=True)):
        database[folder].append(number)
    near = 0
    for folder, number in zip(sequences[1], numbers[1], strict=True):
        sequence = database[folder]
        row = bisect_left(sequence, number - tolerance)
        near += row < len(sequence) and sequence[row] <= number + tolerance
    return near / max(len(sequences[1]), 1)


def _ranks(paths: Sequence[str]) -> NDArray[np.int64]:
    """Return the photos' numbers (N,) in the order of their names, in which digits count as numbers."""
    keys = [[int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path)] for path in paths]
    ranks = np.empty(len(paths), np.int64)
    ranks[sorted(range(len(paths)), key=lambda row: keys[row])] = np.arange(len(paths))
    return ranks
