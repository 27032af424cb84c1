"""What is asked of rows before they become part of an index."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index.index_folder import IndexFolder
from d2vpr_hf.index.manifest import Manifest
from d2vpr_hf.index.shards import check_content
from d2vpr_hf.places import Place


def to_stored(descriptors: NDArray[np.floating], places: Sequence[Place], manifest: Manifest) -> NDArray[Any]:
    """Return descriptors (M, D) in the type of the index.

    Raises:
        ValueError: If shapes do not fit, or a number is not finite in that type.
    """
    rows = np.atleast_2d(descriptors)
    if rows.shape != (len(places), manifest.descriptor_dim):
        raise ValueError(f"Expected descriptors ({len(places)}, {manifest.descriptor_dim}), one a place, got {rows.shape}.")
    with np.errstate(over="ignore"):
        stored = rows.astype(manifest.dtype)
    if not np.isfinite(stored).all():
        raise ValueError(f"A descriptor is not finite in {manifest.dtype}; nothing was added.")
    return stored


def check_new_places(folder: IndexFolder, places: Sequence[Place]) -> None:
    """Raise ValueError if a path is in the index already, or is given twice."""
    paths = [place.path for place in places]
    known = sorted({path for path in paths if path in folder.paths})
    if known:
        raise ValueError(f"{_some_of(known)} in the index {folder.path} already; remove them first. Nothing was added.")
    check_different(places)


def check_different(places: Sequence[Place]) -> None:
    """Raise ValueError if a path is given twice."""
    paths = Counter(place.path for place in places)
    if len(paths) != len(places):
        twice = sorted(path for path, count in paths.items() if count > 1)
        raise ValueError(f"{_some_of(twice)} given twice. Nothing was added.")


def check_known_paths(folder: IndexFolder, paths: set[str]) -> None:
    """Raise ValueError unless these paths are all in the index."""
    unknown = sorted(paths.difference(folder.paths))
    if unknown:
        raise ValueError(f"{_some_of(unknown)} not in the index {folder.path}; nothing was removed.")


def check_stored_rows(folder: IndexFolder, rows: Sequence[int]) -> None:
    """Raise DamagedIndexError unless the shards that rows lie in are what was stored."""
    ends = np.cumsum([shard.count for shard in folder.shards])
    touched = set(np.searchsorted(ends, rows, side="right").tolist())
    for number, shard in enumerate(folder.shards):
        if number in touched:
            check_content(folder.path, shard.descriptors, shard.places)


def _some_of(paths: Sequence[str]) -> str:
    """Name a few of many paths, and say how many there are."""
    rest = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"{', '.join(paths[:3])}{rest}" + (" is" if len(paths) == 1 else " are")
