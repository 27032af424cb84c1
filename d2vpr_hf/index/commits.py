"""Changing the rows of an index: each function here ends in one commit, or in several that each leave it whole."""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index.index_folder import IndexFolder
from d2vpr_hf.index.manifest import DamagedIndexError, IndexSettings, Shard, StoredFile, calibration_file
from d2vpr_hf.index.shards import (
    Rows,
    check_content,
    content_problem,
    count_to_merge,
    join_rows,
    make_shard,
    open_shard,
    read_rows,
    without_paths,
)
from d2vpr_hf.places import Place
from d2vpr_hf.utils.atomic_files import store_files


class UpdateState(TypedDict, total=False):
    """What an update may note in the manifest together with the rows that it stores; see [`Manifest`]."""

    settings: IndexSettings
    skipped: dict[str, str]
    complete: bool


def commit_pending(folder: IndexFolder, *, whole_shards: bool = False) -> None:
    """Store what waits; with `whole_shards`, a rest that fills none goes on pending."""
    pending, size = folder.pending, folder.manifest.settings.shard_size
    while len(pending) >= (size if whole_shards else 1):
        count = min(len(pending), size)
        rows = Rows(pending.descriptors[:count], pending.places.first(count))
        commit_rows(folder, rows, (), pending=count)


def commit_rows(
    folder: IndexFolder, rows: Rows | None, removed: Collection[str], *, pending: int = 0, **changes: Unpack[UpdateState]
) -> None:
    """Store rows, removals and notes in one step; `pending` says how many of the pending rows these are."""
    kept = [without_paths(shard, opened, removed) for shard, opened in folder.shards.items()]
    shards, number = [shard for shard in kept if shard.count], folder.manifest.next_shard
    contents: dict[str, bytes] = {}
    if rows is not None and len(rows.descriptors):
        shards, contents = _with_rows(folder, shards, rows)
        number += 1
    manifest = replace(folder.manifest, shards=tuple(shards), next_shard=number, **changes)
    if manifest != folder.manifest:
        folder.commit(contents, manifest, pending)
    if removed or (rows is not None and not pending):
        folder.forget_paths()


def _with_rows(folder: IndexFolder, shards: list[Shard], rows: Rows) -> tuple[list[Shard], dict[str, bytes]]:
    """Put rows behind shards, the last of which may be stored anew with them; return what files that takes."""
    size = folder.manifest.settings.shard_size
    kept = len(shards) - count_to_merge(shards, len(rows.descriptors), size)
    merged = [open_shard(folder.path, shard, folder.manifest) for shard in shards[kept:]]
    _check_shards(folder, shards[kept:])
    if merged:
        rows = join_rows([*read_rows(shards[kept:], merged, size), rows])
    shard, contents = make_shard(folder.manifest.next_shard, rows)
    return [*shards[:kept], shard], contents


def compact_rows(folder: IndexFolder) -> None:
    """Write the rows anew without those that were removed, in full shards, from the first shard on that is not full."""
    size, shards = folder.manifest.settings.shard_size, list(folder.manifest.shards)
    first = _first_to_compact(shards, size)
    if first == len(shards):
        return
    _check_shards(folder, shards[first:])
    whole, number = shards[:first], folder.manifest.next_shard
    for rows in read_rows(shards[first:], [folder.shards[shard] for shard in shards[first:]], size):
        shard, contents = make_shard(number, rows)
        store_files(folder.path, contents)
        whole, number = [*whole, shard], number + 1
    folder.commit({}, replace(folder.manifest, shards=tuple(whole), next_shard=number))


def _first_to_compact(shards: Sequence[Shard], size: int) -> int:
    """Return the first shard that is not full; none if that is the last one and nothing was removed from it."""
    first = next((number for number, shard in enumerate(shards) if shard.rows < size or shard.removed), len(shards))
    return len(shards) if first == len(shards) - 1 and not shards[first].removed else first


def _check_shards(folder: IndexFolder, shards: Sequence[Shard]) -> None:
    for shard in shards:
        check_content(folder.path, shard.descriptors, shard.places)


def to_stored(descriptors: NDArray[np.floating], places: Sequence[Place], settings: IndexSettings) -> NDArray[Any]:
    """Return descriptors (M, D) in the type of the index.

    Raises:
        ValueError: If shapes do not fit, or a number is not finite in that type.
    """
    rows = np.atleast_2d(descriptors)
    if rows.shape != (len(places), settings.descriptor_dim):
        raise ValueError(f"Expected descriptors ({len(places)}, {settings.descriptor_dim}), one a place, got {rows.shape}.")
    with np.errstate(over="ignore"):
        stored = rows.astype(settings.dtype)
    if not np.isfinite(stored).all():
        raise ValueError(f"A descriptor is not finite in {settings.dtype}; nothing was added.")
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


def read_calibration(folder: IndexFolder) -> dict[str, Any] | None:
    """Return what is stored, or `None`.

    Raises:
        DamagedIndexError: If its file is missing or damaged.
    """
    stored = folder.manifest.calibration
    if stored is None:
        return None
    problem = content_problem(folder.path, stored)
    if problem is not None:
        advice = "`d2vpr calibrate INDEX --queries DIR` makes it anew; everything else in the index can be used"
        raise DamagedIndexError(f"The calibration of {folder.path} is damaged: {stored.name}: {problem}. {advice}.")
    return json.loads((folder.path / stored.name).read_bytes())


def store_calibration(folder: IndexFolder, calibration: dict[str, Any]) -> None:
    """Store JSON values in a file named by its content, so that a new one never overwrites the one in force."""
    content = (json.dumps(calibration, indent=2, allow_nan=False) + "\n").encode()
    stored = StoredFile.of(calibration_file(content), content)
    folder.commit({stored.name: content}, replace(folder.manifest, calibration=stored))
