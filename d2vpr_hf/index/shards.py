"""Shards: rows that are stored together, in a file of descriptors and a file of places, which never change."""

import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from d2vpr_hf.index.manifest import Manifest, Shard, StoredFile, UnfinishedPortion, damaged_file, shard_names
from d2vpr_hf.index.place_rows import ROW_SCHEMA, StoredPlaces, table_to_bytes
from d2vpr_hf.stores.descriptors import MappedDescriptors, descriptors_to_bytes, kept_rows, map_descriptors
from d2vpr_hf.stores.files import MappedFile
from d2vpr_hf.utils.atomic_files import file_checksum

_MISSING = "it is missing"


class Rows(NamedTuple):
    """Descriptors (n, D) in the type of the index, and the table of their places."""

    descriptors: NDArray[Any]
    table: pa.Table


class OpenShard(NamedTuple):
    """The mapped files of a shard: all descriptors, the places without the removed ones, and the file of the descriptors."""

    descriptors: NDArray[Any]
    places: StoredPlaces
    mapped: MappedFile

    def check(self) -> None:
        """Raise DamagedIndexError if the descriptors were cut since they were mapped."""
        try:
            self.mapped.check()
        except ValueError as error:
            raise damaged_file(self.mapped.path.parent, self.mapped.path.name, error) from error


def make_shard(number: int, rows: Rows, unfinished: UnfinishedPortion | None = None) -> tuple[Shard, dict[str, bytes]]:
    """Return the entry of a new shard for the manifest, and the contents of its files by name.

    With `unfinished` it is an interim shard, whose last rows are the last ones of that portion.
    """
    names = shard_names(number, unfinished)
    contents = dict(zip(names, (descriptors_to_bytes(rows.descriptors), table_to_bytes(rows.table)), strict=True))
    return Shard(len(rows.descriptors), (), *(StoredFile.of(*item) for item in contents.items())), contents


def open_shard(folder: Path, shard: Shard, manifest: Manifest) -> OpenShard:
    """Map the files of a shard, and check everything that can be checked without reading them.

    Raises:
        DamagedIndexError: If a file is missing, or has another size, shape or type than when it was stored.
        OSError, MemoryError: If a file cannot be read at this moment, which is not damage.
    """
    for file in (shard.descriptors, shard.places):
        problem = size_problem(folder, file)
        if problem is not None:
            raise damaged_file(folder, file.name, problem)
    mapped = _read_file(folder, shard.descriptors, MappedFile.of)
    descriptors = _read_file(folder, shard.descriptors, map_descriptors)
    if descriptors.shape != (shard.rows, manifest.settings.descriptor_dim) or descriptors.dtype != manifest.settings.dtype:
        problem = f"it holds {descriptors.dtype} {descriptors.shape}, not {manifest.settings.dtype} of {shard.rows} rows"
        raise damaged_file(folder, shard.descriptors.name, problem)
    places = _read_file(folder, shard.places, lambda path: StoredPlaces(path, shard.removed, shard.places.sha256))
    if places.rows != shard.rows:
        raise damaged_file(folder, shard.places.name, f"it holds {places.rows} rows instead of {shard.rows}")
    return OpenShard(descriptors, places, mapped)


def check_content(folder: Path, *files: StoredFile) -> None:
    """Raise DamagedIndexError if a bit of one of the files has changed since it was stored.

    Call this before rows are written to new files: damaged rows must not get a correct checksum.
    """
    for file in files:
        problem = content_problem(folder, file)
        if problem is not None:
            raise damaged_file(folder, file.name, problem)


def content_problem(folder: Path, file: StoredFile) -> str | None:
    """Return the damage of a stored file, which is read in full; `None` if it is undamaged.

    Raises:
        OSError: If the file cannot be read, as with too many open files. It may be undamaged: a repair must not remove it.
    """
    problem = size_problem(folder, file)
    if problem is not None:
        return problem
    try:
        is_unchanged = file_checksum(folder / file.name) == file.sha256
    except FileNotFoundError:  # a writer removed it at this moment
        return _MISSING
    return None if is_unchanged else "its checksum has changed since it was stored"


def size_problem(folder: Path, file: StoredFile) -> str | None:
    """Return the reason why a stored file is not a file of its size; `None` if it is one."""
    try:
        status = (folder / file.name).stat()
    except FileNotFoundError:
        return _MISSING
    if not stat.S_ISREG(status.st_mode):
        return "it is not a file"
    return None if status.st_size == file.size else f"it has {status.st_size} bytes instead of {file.size}"


def without_paths(shard: Shard, opened: OpenShard, paths: Collection[str]) -> Shard:
    """Return a shard without the rows that have one of these paths."""
    if not paths:
        return shard
    matching = pc.is_in(opened.places.table.column("path"), value_set=pa.array(sorted(paths), pa.string()))
    rows = kept_rows(shard.rows, shard.removed)[matching.to_numpy()]
    return replace(shard, removed=tuple(sorted({*shard.removed, *rows.tolist()}))) if len(rows) else shard


def count_to_merge(shards: Sequence[Shard], count: int, shard_size: int) -> int:
    """Return how many shards at the end are merged with `count` new rows.

    From the last shard on, a shard is merged if it has no more rows than all rows behind it together, and they fit into one
    shard. Many small flushes then leave few files, and a row is rewritten a logarithmic number of times.
    """
    merged = 0
    for shard in reversed(shards):
        if shard.count > count or shard.count + count > shard_size:
            break
        count, merged = count + shard.count, merged + 1
    return merged


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Return the rows of several parts, in order."""
    table = pa.concat_tables([part.table for part in parts]).combine_chunks()  # the file must not depend on the parts
    return Rows(np.concatenate([part.descriptors for part in parts]), table)


def read_rows(shards: Sequence[Shard], opened: Sequence[OpenShard], shard_size: int) -> Iterator[Rows]:
    """Yield the rows of shards that were not removed, in parts of `shard_size` rows."""
    width, dtype = opened[0].descriptors.shape[1], str(opened[0].descriptors.dtype)
    removed = [shard.removed for shard in shards]
    descriptors = MappedDescriptors([files.descriptors for files in opened], removed, descriptor_dim=width, dtype=dtype)
    table = pa.concat_tables([files.places.table.cast(ROW_SCHEMA) for files in opened])
    for start in range(0, len(descriptors), shard_size):
        yield Rows(descriptors[start : start + shard_size], table.slice(start, shard_size))


def _read_file(folder: Path, file: StoredFile, read: Any) -> Any:
    """Read a file, and turn the error of a parser or of a missing file into the one of a damaged file."""
    try:
        return read(folder / file.name)
    except (ValueError, FileNotFoundError) as error:
        raise damaged_file(folder, file.name, error) from error
