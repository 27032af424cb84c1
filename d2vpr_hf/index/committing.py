"""Changing the rows of an index: each function here ends in one commit, or in several that each leave it whole."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TypedDict, Unpack

from d2vpr_hf.index.index_folder import IndexFolder
from d2vpr_hf.index.manifest import Shard
from d2vpr_hf.index.shards import (
    Rows,
    check_content,
    count_to_merge,
    join_rows,
    make_shard,
    open_shard,
    read_rows,
    without_paths,
)
from d2vpr_hf.utils.atomic_files import store_files


class UpdateState(TypedDict, total=False):
    """What an update may note in the manifest together with the rows that it stores; see [`Manifest`]."""

    left_out: dict[str, str]
    complete: bool
    photos: str
    runtimes: tuple[str, ...]


def commit_waiting(folder: IndexFolder, *, whole_shards: bool = False) -> None:
    """Store what waits; with `whole_shards`, a rest that fills none goes on waiting."""
    waiting, size = folder.waiting, folder.manifest.shard_size
    while len(waiting) >= (size if whole_shards else 1):
        count = min(len(waiting), size)
        rows = Rows(waiting.descriptors[:count], waiting.places.first(count))
        commit_rows(folder, rows, (), waiting=count)


def commit_rows(
    folder: IndexFolder, rows: Rows | None, removed: Collection[str], *, waiting: int = 0, **changes: Unpack[UpdateState]
) -> None:
    """Store rows, removals and notes in one step; `waiting` says how many of the waiting rows these are."""
    kept = [without_paths(shard, opened, removed) for shard, opened in folder.shards.items()]
    shards, number = [shard for shard in kept if shard.count], folder.manifest.next_shard
    contents: dict[str, bytes] = {}
    if rows is not None and len(rows.descriptors):
        shards, contents = _with_rows(folder, shards, rows)
        number += 1
    manifest = replace(folder.manifest, shards=tuple(shards), next_shard=number, **changes)
    if manifest != folder.manifest:
        folder.commit(contents, manifest, waiting)
    if removed or (rows is not None and not waiting):
        folder.forget_paths()


def _with_rows(folder: IndexFolder, shards: list[Shard], rows: Rows) -> tuple[list[Shard], dict[str, bytes]]:
    """Put rows behind shards, the last of which may be stored anew with them; return what files that takes."""
    size = folder.manifest.shard_size
    kept = len(shards) - count_to_merge(shards, len(rows.descriptors), size)
    merged = [open_shard(folder.path, shard, folder.manifest) for shard in shards[kept:]]
    _check_shards(folder, shards[kept:])
    if merged:
        rows = join_rows([*read_rows(shards[kept:], merged, size), rows])
    shard, contents = make_shard(folder.manifest.next_shard, rows)
    return [*shards[:kept], shard], contents


def compact_rows(folder: IndexFolder) -> None:
    """Write the rows anew without those that were removed, in full shards, from the first shard on that is not full."""
    size, shards = folder.manifest.shard_size, list(folder.manifest.shards)
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
