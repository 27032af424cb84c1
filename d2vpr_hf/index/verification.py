"""Verify an index, whose files are read in full and compared with their checksums, and repair it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from d2vpr_hf.index.folders import WriterLock
from d2vpr_hf.index.fused_photos import REMEDY as FUSED_REMEDY
from d2vpr_hf.index.manifest import MANIFEST, DamagedIndexError, Manifest, Shard, StoredFile, read_manifest
from d2vpr_hf.index.place_rows import StoredPlaces
from d2vpr_hf.index.shards import check_content, content_problem, open_shard
from d2vpr_hf.stores.descriptors import kept_rows
from d2vpr_hf.utils.atomic_files import store_files

SAMPLE_BYTES = 16 << 20  # of descriptors that are read when an index is opened; 10 ms


def verify_index(folder: str | Path) -> list[str]:
    """Read all files of an index and return the damaged ones: wrong sizes, checksums, shapes, counts, numbers not finite.

    An index that is too damaged to be opened can be verified too. Vector stores are not read, as they can be built again.

    Returns:
        One line for each damaged file. If the manifest is damaged, only its line, because it lists the other files.

    Raises:
        FileNotFoundError: If `folder` is not an index.
        ValueError: If another version of this package wrote it.
        OSError, MemoryError: If a file cannot be read at this moment.
    """
    folder = Path(folder)
    while True:
        try:
            manifest = read_manifest(folder)
            problems = _problems(folder, manifest)
            if not problems or read_manifest(folder) == manifest:  # else a writer removed files that were being read
                return problems
        except DamagedIndexError as error:
            return [str(error)]


def _problems(folder: Path, manifest: Manifest) -> list[str]:
    problems = [problem for shard in manifest.shards for problem in shard_problems(folder, shard, manifest)]
    if manifest.calibration is not None:
        calibration_problems = _file_problems(folder, manifest.calibration)
        problems += [f"{problem}; `d2vpr calibrate` makes it again" for problem in calibration_problems]
    if manifest.fusion is not None:
        problems += [f"{problem}; {FUSED_REMEDY}" for problem in _file_problems(folder, manifest.fusion.file)]
    return problems


def check_sample(folder: Path, shards: Sequence[Shard]) -> None:
    """Compare files of descriptors with their checksums: all of a small index, random ones, 16 MB in sum, of a larger one.

    Larger files than that are not read: opening an index must take the same short time, however large its shards are.

    Raises:
        DamagedIndexError: If one of them is damaged.
    """
    files = [shard.descriptors for shard in shards if shard.descriptors.size <= SAMPLE_BYTES]
    random.Random().shuffle(files)  # the sequence of the global generator belongs to the caller
    size = 0
    for file in files:
        size += file.size
        if size > SAMPLE_BYTES:
            return
        check_content(folder, file)


def shard_problems(folder: Path, shard: Shard, manifest: Manifest) -> list[str]:
    """Read the files of a shard and return their damage."""
    problems = _file_problems(folder, shard.descriptors, shard.places)
    if problems:
        return problems
    try:
        opened = open_shard(folder, shard, manifest)
        _ = opened.places.table
    except DamagedIndexError as error:  # a faulty or foreign program wrote files with correct checksums
        return [str(error)]
    return [] if np.isfinite(opened.descriptors).all() else [f"{shard.descriptors.name}: a descriptor is not finite"]


def _file_problems(folder: Path, *files: StoredFile) -> list[str]:
    problems = {file.name: content_problem(folder, file) for file in files}
    return [f"{name}: {problem}" for name, problem in problems.items() if problem is not None]


@dataclass(frozen=True)
class Repair:
    """The parts of an index that a repair removed.

    Attributes:
        shards: Number of damaged shards.
        rows: Number of rows in them.
        paths: The paths of those rows that can still be read.
        calibration: Whether the calibration was damaged and removed.
    """

    shards: int
    rows: int
    paths: list[str]
    calibration: bool


def repair_index(folder: str | Path) -> Repair:
    """Remove damaged shards and a damaged calibration from an index, which is then undamaged but not complete.

    An update with its photos (`d2vpr index`) then encodes only the removed rows again.

    Raises:
        FileNotFoundError: If `folder` is not an index.
        DamagedIndexError: If its manifest is damaged: without it the other files are not known.
        BlockingIOError: If another process is changing the index.
        OSError, MemoryError: If a file cannot be read at this moment. It may be undamaged, and nothing is removed.
    """
    folder = Path(folder)
    read_manifest(folder)  # the lock would leave a file in a folder that is not an index
    lock = WriterLock(folder)
    lock.acquire()
    try:
        return _remove_damaged(folder, read_manifest(folder))
    finally:
        lock.release()


def _remove_damaged(folder: Path, manifest: Manifest) -> Repair:
    damaged = [shard for shard in manifest.shards if shard_problems(folder, shard, manifest)]
    calibration = manifest.calibration
    calibration_is_damaged = calibration is not None and content_problem(folder, calibration) is not None
    paths = [path for shard in damaged for path in _readable_paths(folder, shard)]
    if damaged or calibration_is_damaged:
        undamaged = tuple(shard for shard in manifest.shards if shard not in damaged)
        calibration = None if calibration_is_damaged else calibration
        complete = manifest.complete and not damaged
        repaired = replace(manifest, shards=undamaged, complete=complete, calibration=calibration)
        store_files(folder, {MANIFEST: repaired.to_text().encode()})
    return Repair(len(damaged), sum(shard.count for shard in damaged), paths, calibration_is_damaged)


def _readable_paths(folder: Path, shard: Shard) -> list[str]:
    """Return the paths of the rows of a damaged shard; none if the file of places is damaged too."""
    if content_problem(folder, shard.places) is not None:
        return []
    try:
        paths = StoredPlaces(folder / shard.places.name).column("path")
    except ValueError:
        return []
    return [paths[row] for row in kept_rows(shard.rows, shard.removed)]
