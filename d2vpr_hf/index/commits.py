"""Changes of the rows of an index. Each is made in one or several commits, and the index is consistent after every commit."""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index.index_folder import IndexFolder
from d2vpr_hf.index.manifest import (
    DamagedIndexError,
    IndexSettings,
    Shard,
    StoredFile,
    UnfinishedPortion,
    calibration_file,
)
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
from d2vpr_hf.utils.bounded_files import parse_json


class UpdateState(TypedDict, total=False):
    """Entries of the manifest that an update can set in the same commit as its rows; see [`Manifest`].

    A commit with `unfinished` continues the unfinished portion of the index; `None` finishes it. Any other commit finishes it
    before it begins.
    """

    settings: IndexSettings
    skipped: dict[str, str]
    complete: bool
    unfinished: UnfinishedPortion | None


def commit_pending(folder: IndexFolder, *, whole_shards: bool = False) -> None:
    """Store the pending rows; with `whole_shards`, rows that do not fill a shard stay pending."""
    pending, size = folder.pending, folder.manifest.settings.shard_size
    while len(pending) >= (size if whole_shards else 1):
        count = min(len(pending), size)
        rows = Rows(pending.descriptors[:count], pending.places.first(count))
        commit_rows(folder, rows, (), pending=count)


def commit_rows(
    folder: IndexFolder, rows: Rows | None, removed: Collection[str], *, pending: int = 0, **changes: Unpack[UpdateState]
) -> None:
    """Store rows, removals and entries of the manifest in one commit; `rows` are the first `pending` of the pending rows."""
    if "unfinished" not in changes:
        finish_portion(folder)
    remaining = [without_paths(shard, opened, removed) for shard, opened in folder.shards.items()]
    shards, number = [shard for shard in remaining if shard.count], folder.manifest.next_shard
    contents: dict[str, bytes] = {}
    unfinished = changes.get("unfinished")
    if unfinished is not None and rows is not None and len(rows.descriptors):
        shard, contents = make_shard(number, rows, unfinished)
        shards.append(shard)
    elif unfinished is None and ((rows is not None and len(rows.descriptors)) or any(shard.is_interim for shard in shards)):
        shards, contents = _with_rows(folder, shards, rows)
        number += 1
    manifest = replace(folder.manifest, shards=tuple(shards), next_shard=number, **changes)
    if manifest != folder.manifest:
        folder.commit(contents, manifest, pending)
    if removed or (rows is not None and not pending):
        folder.forget_paths()


def finish_portion(folder: IndexFolder) -> None:
    """Make one shard of the rows of an unfinished portion, if there is one."""
    if folder.manifest.unfinished is not None:
        commit_rows(folder, None, (), unfinished=None)


def _with_rows(folder: IndexFolder, shards: list[Shard], rows: Rows | None) -> tuple[list[Shard], dict[str, bytes]]:
    """Return the shards with rows added at the end, and the contents of the new files by name.

    Interim shards, and small shards before them, are merged with the rows into one shard.
    """
    size = folder.manifest.settings.shard_size
    stored = [shard for shard in shards if not shard.is_interim]
    interim = [shard for shard in shards if shard.is_interim]
    count = sum(shard.count for shard in interim) + (0 if rows is None else len(rows.descriptors))
    num_unchanged = len(stored) - count_to_merge(stored, count, size)
    merged = [*stored[num_unchanged:], *interim]
    if merged:
        opened = [open_shard(folder.path, shard, folder.manifest) for shard in merged]
        _check_shards(folder, merged)
        rows = join_rows([*read_rows(merged, opened, size), *([] if rows is None else [rows])])
    assert rows is not None  # there are interim shards or new rows
    shard, contents = make_shard(folder.manifest.next_shard, rows)
    return [*stored[:num_unchanged], shard], contents


def compact_rows(folder: IndexFolder) -> None:
    """Write the rows in full shards again, without removed ones, from the first shard that is not full."""
    finish_portion(folder)
    size, shards = folder.manifest.settings.shard_size, folder.manifest.shards
    num_full = next((number for number, shard in enumerate(shards) if shard.rows < size or shard.removed), len(shards))
    full, others = shards[:num_full], shards[num_full:]
    if not others or (len(others) == 1 and not others[0].removed):  # the last shard need not be full
        return
    _check_shards(folder, others)
    number = folder.manifest.next_shard
    for rows in read_rows(others, [folder.shards[shard] for shard in others], size):
        shard, contents = make_shard(number, rows)
        store_files(folder.path, contents)
        full, number = (*full, shard), number + 1
    folder.commit({}, replace(folder.manifest, shards=full, next_shard=number))


def _check_shards(folder: IndexFolder, shards: Sequence[Shard]) -> None:
    """Raise DamagedIndexError if a file of these shards is damaged."""
    for shard in shards:
        check_content(folder.path, shard.descriptors, shard.places)


def to_stored(descriptors: NDArray[np.floating], places: Sequence[Place], settings: IndexSettings) -> NDArray[Any]:
    """Return descriptors, (M, D) or one (D,), as an array (M, D) in the type of the index.

    Raises:
        ValueError: If the shapes of descriptors and places do not fit, or a number is not finite in that type.
    """
    rows = np.atleast_2d(descriptors)
    if rows.shape != (len(places), settings.descriptor_dim):
        raise ValueError(
            f"Expected descriptors ({len(places)}, {settings.descriptor_dim}), one for each place, got {rows.shape}."
        )
    with np.errstate(over="ignore"):
        stored = rows.astype(settings.dtype)
    if not np.isfinite(stored).all():
        raise ValueError(f"A descriptor is not finite in {settings.dtype}; nothing was added.")
    return stored


def check_new_places(folder: IndexFolder, places: Sequence[Place]) -> None:
    """Raise ValueError if the path of a place is already in the index, or is given twice."""
    paths = [place.path for place in places]
    present = sorted({path for path in paths if path in folder.paths})
    if present:
        raise ValueError(f"{_some_of(present)} in the index {folder.path} already; remove them first. Nothing was added.")
    check_different(places)


def check_different(places: Sequence[Place]) -> None:
    """Raise ValueError if a path is given twice."""
    paths = Counter(place.path for place in places)
    if len(paths) != len(places):
        twice = sorted(path for path, count in paths.items() if count > 1)
        raise ValueError(f"{_some_of(twice)} given twice. Nothing was added.")


def check_known_paths(folder: IndexFolder, paths: set[str]) -> None:
    """Raise ValueError unless all paths are in the index."""
    unknown = sorted(paths.difference(folder.paths))
    if unknown:
        raise ValueError(f"{_some_of(unknown)} not in the index {folder.path}; nothing was removed.")


def check_stored_rows(folder: IndexFolder, rows: Sequence[int]) -> None:
    """Raise DamagedIndexError if a shard that holds one of these rows is damaged."""
    ends = np.cumsum([shard.count for shard in folder.shards])
    shards = list(folder.shards)
    for number in np.unique(np.searchsorted(ends, rows, side="right")).tolist():
        check_content(folder.path, shards[number].descriptors, shards[number].places)


def _some_of(paths: Sequence[str]) -> str:
    """Return the first three paths and the number of the others, as the subject of a sentence with its verb: "a, b are"."""
    rest = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"{', '.join(paths[:3])}{rest}" + (" is" if len(paths) == 1 else " are")


def read_calibration(folder: IndexFolder) -> dict[str, Any] | None:
    """Return the stored calibration, or `None`.

    Raises:
        DamagedIndexError: If its file is missing or damaged.
    """
    stored = folder.manifest.calibration
    if stored is None:
        return None
    problem = content_problem(folder.path, stored)
    if problem is not None:
        advice = "`d2vpr calibrate INDEX --queries DIR` makes it again; everything else in the index can be used"
        raise DamagedIndexError(f"The calibration of {folder.path} is damaged: {stored.name}: {problem}. {advice}.")
    return parse_json((folder.path / stored.name).read_bytes())


def store_calibration(folder: IndexFolder, calibration: dict[str, Any]) -> None:
    """Store the JSON values of a calibration in a new file, which replaces the current one in the manifest."""
    content = (json.dumps(calibration, indent=2, allow_nan=False) + "\n").encode()
    stored = StoredFile.of(calibration_file(content), content)
    folder.commit({stored.name: content}, replace(folder.manifest, calibration=stored))
