"""Shards: rows that are stored together, in a file of descriptors and one of places, which are never changed."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from d2vpr_hf.index.manifest import Manifest, Shard, StoredFile, damaged_file, shard_files
from d2vpr_hf.index.place_rows import ROW_SCHEMA, StoredPlaces, table_to_bytes
from d2vpr_hf.stores.descriptors import MappedDescriptors, descriptors_to_bytes, kept_rows, map_descriptors
from d2vpr_hf.utils.atomic_files import checksum


class Rows(NamedTuple):
    """Descriptors (n, D) in the type of the index, and the table of their places."""

    descriptors: NDArray[Any]
    table: pa.Table


class OpenShard(NamedTuple):
    """The files of a shard, mapped: all descriptors, and the places without the removed ones."""

    descriptors: NDArray[Any]
    places: StoredPlaces


def make_shard(number: int, rows: Rows) -> tuple[Shard, dict[str, bytes]]:
    """Return a shard of these rows and the contents of its files."""
    names = shard_files(number)
    contents = dict(zip(names, (descriptors_to_bytes(rows.descriptors), table_to_bytes(rows.table)), strict=True))
    return Shard(len(rows.descriptors), (), *(StoredFile.of(*item) for item in contents.items())), contents


def open_shard(folder: Path, shard: Shard, manifest: Manifest) -> OpenShard:
    """Map the files of a shard, and test what can be tested without reading them.

    Raises:
        DamagedIndexError: If one is missing, has another size than it was stored with, or holds something else.
    """
    for file in (shard.descriptors, shard.places):
        problem = _size_problem(folder, file)
        if problem is not None:
            raise damaged_file(folder, file.name, problem)
    descriptors = _named(folder, shard.descriptors, map_descriptors)
    if descriptors.shape != (shard.rows, manifest.settings.descriptor_dim) or descriptors.dtype != manifest.settings.dtype:
        found = f"it holds {descriptors.dtype} {descriptors.shape}"
        raise damaged_file(folder, shard.descriptors.name, f"{found}, not {manifest.settings.dtype} of {shard.rows} rows")
    places = _named(folder, shard.places, lambda path: StoredPlaces(path, shard.removed))
    if places.rows != shard.rows:
        raise damaged_file(folder, shard.places.name, f"it holds {places.rows} rows instead of {shard.rows}")
    return OpenShard(descriptors, places)


def check_content(folder: Path, *files: StoredFile) -> None:
    """Raise DamagedIndexError unless files are what was stored, to the last bit.

    To be called before rows are stored anew as well: damage must not get a right checksum.
    """
    for file in files:
        problem = content_problem(folder, file)
        if problem is not None:
            raise damaged_file(folder, file.name, problem)


def content_problem(folder: Path, file: StoredFile) -> str | None:
    """Say what is wrong with a stored file, read in full; `None` if nothing is."""
    problem = _size_problem(folder, file)
    if problem is None and checksum((folder / file.name).read_bytes()) != file.sha256:
        return "its checksum is not the one it was stored with"
    return problem


def _size_problem(folder: Path, file: StoredFile) -> str | None:
    path = folder / file.name
    if not path.is_file():
        return "it is missing"
    size = path.stat().st_size
    return None if size == file.size else f"it has {size} bytes instead of {file.size}"


def without_paths(shard: Shard, opened: OpenShard, paths: Collection[str]) -> Shard:
    """Return a shard without the rows of these paths."""
    if not paths:
        return shard
    found = pc.is_in(opened.places.table.column("path"), value_set=pa.array(sorted(paths), pa.string()))
    rows = kept_rows(shard.rows, shard.removed)[found.to_numpy()]
    return replace(shard, removed=tuple(sorted({*shard.removed, *rows.tolist()}))) if len(rows) else shard


def count_to_merge(shards: Sequence[Shard], count: int, shard_size: int) -> int:
    """Say how many of the last shards to store anew together with `count` rows behind them.

    Those that are no larger, and fit: many small flushes then leave few files, and a row is rewritten a logarithmic number of
    times.
    """
    merged = 0
    for shard in reversed(shards):
        if shard.count > count or shard.count + count > shard_size:
            break
        count, merged = count + shard.count, merged + 1
    return merged


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Join rows."""
    return Rows(np.concatenate([part.descriptors for part in parts]), pa.concat_tables([part.table for part in parts]))


def read_rows(shards: Sequence[Shard], opened: Sequence[OpenShard], shard_size: int) -> Iterator[Rows]:
    """Read the rows of shards that were not removed, as many at once as a full shard holds."""
    width, dtype = opened[0].descriptors.shape[1], str(opened[0].descriptors.dtype)
    removed = [shard.removed for shard in shards]
    descriptors = MappedDescriptors([one.descriptors for one in opened], removed, descriptor_dim=width, dtype=dtype)
    table = pa.concat_tables([one.places.table.cast(ROW_SCHEMA) for one in opened])
    for start in range(0, len(descriptors), shard_size):
        yield Rows(descriptors[start : start + shard_size], table.slice(start, shard_size))


def _named(folder: Path, file: StoredFile, read: Any) -> Any:
    """Read a file; what is wrong with it becomes an error that names it."""
    try:
        return read(folder / file.name)
    except ValueError as error:
        raise damaged_file(folder, file.name, error) from error
