"""Photos that are both in the database and among the queries: a search finds them always, so recall on them is too high."""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from d2vpr_hf.index import PhotoFile, PlaceIndex
from d2vpr_hf.readers.photo_listing import file_identity
from d2vpr_hf.readers.photos import open_photo_file
from d2vpr_hf.readers.place_table import is_file

logger = logging.getLogger(__name__)

_FIRST_BYTES = 1 << 16


def find_shared_photos(database: Sequence[Path], queries: Sequence[Path]) -> dict[int, int]:
    """Return the row of an equal database photo for the row of each query that has one.

    Equal photos are files of equal bytes. Files are read only if their size occurs on both sides: first their beginnings, and
    then whole those whose beginnings are equal too. Links to one file are equal without being read.
    """
    sides = [{row: photo for row, photo in enumerate(photos) if _has_content(photo)} for photos in (database, queries)]
    shared = _equal_rows(sides, file_identity)
    sides[1] = {row: photo for row, photo in sides[1].items() if row not in shared}
    alike = _on_both_sides(_on_both_sides(sides, _size), _beginning)
    return dict(sorted((shared | _equal_rows(alike, _content)).items()))


def find_indexed_photos(index: PlaceIndex, queries: Sequence[Path]) -> dict[int, str]:
    """Return the path in the index for the row of each query whose file has the hash of an indexed photo."""
    sizes = {row: _size(photo) for row, photo in enumerate(queries) if _has_content(photo)}
    indexed_sizes = index.places.arrow_column("file_size")
    alike = np.flatnonzero(pc.is_in(indexed_sizes, value_set=pa.array(set(sizes.values()), pa.int64())))
    sizes_of_alike = set(indexed_sizes.take(alike).to_pylist())
    row_of = dict(zip(index.places.arrow_column("content_hash").take(alike).to_pylist(), alike.tolist(), strict=True))
    indexed: dict[int, str] = {}
    for row, size in sizes.items():
        if size in sizes_of_alike:
            with contextlib.suppress(OSError):  # decoding reports the error
                content_hash = PhotoFile().with_hash(queries[row]).content_hash
                if content_hash in row_of:
                    indexed[row] = index.places[row_of[content_hash]].path
    return indexed


def warn_of_shared_photos(shared: Sequence[tuple[str, str]], total: int, place: str, measure: str, remedy: str) -> None:
    """Log a warning if queries are database photos too.

    Args:
        shared: Paths of such queries and of their equals.
        total: Number of queries.
        place: Their other place, such as `"photos of the index"`.
        measure: The number that is too high because of them.
        remedy: Advice.
    """
    if shared:
        query, match = shared[0]
        logger.warning(
            "%d of %d queries are also %s, such as %s (there: %s): %s is too high. %s",
            *(len(shared), total, place, query, match, measure, remedy),
        )


def _equal_rows(sides: list[dict[int, Path]], key: Callable[[Path], Hashable]) -> dict[int, int]:
    """Return the row of the first database photo with the key of each query that has one."""
    rows: dict[Hashable, int] = {}
    for row, photo in sides[0].items():
        rows.setdefault(key(photo), row)
    return {row: rows[value] for row, photo in sides[1].items() if (value := key(photo)) in rows}


def _on_both_sides(sides: list[dict[int, Path]], key: Callable[[Path], Hashable]) -> list[dict[int, Path]]:
    """Return the files whose key occurs on both sides."""
    keys = [{row: key(photo) for row, photo in side.items()} for side in sides]
    common = set(keys[0].values()) & set(keys[1].values())
    return [
        {row: photo for row, photo in side.items() if values[row] in common} for side, values in zip(sides, keys, strict=True)
    ]


def _has_content(photo: Path) -> bool:
    """Return whether a photo is a regular file that is not empty."""
    return is_file(photo) and _size(photo) > 0


def _size(photo: Path) -> int:
    return photo.stat().st_size


def _beginning(photo: Path) -> Hashable:
    try:
        with open_photo_file(photo) as file:
            return photo.stat().st_size, hashlib.sha256(file.read(_FIRST_BYTES)).digest()
    except OSError:  # decoding reports the error
        return None, photo


def _content(photo: Path) -> Hashable:
    try:
        return PhotoFile().with_hash(photo).content_hash
    except OSError:  # decoding reports the error
        return photo
