"""Verifying an index: everything that is stored is read and compared with what was stored."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from d2vpr_hf.index.folders import WriterLock
from d2vpr_hf.index.manifest import MANIFEST, DamagedIndexError, Manifest, Shard, StoredFile, read_manifest
from d2vpr_hf.index.place_rows import StoredPlaces
from d2vpr_hf.index.shards import content_problem, open_shard
from d2vpr_hf.stores.descriptors import kept_rows
from d2vpr_hf.utils.atomic_files import store_files


def verify_index(folder: str | Path) -> list[str]:
    """Read everything in an index and name what is damaged: sizes, checksums, shapes, counts, numbers that are not finite.

    Works where the index is too damaged to be opened. What can be made anew (a derived file) is not looked at.

    Returns:
        One line a damaged file; none if all is well. Of an index whose manifest is damaged nothing else is known.

    Raises:
        FileNotFoundError: If `folder` is no index.
        ValueError: If another version of this package wrote it.
    """
    folder = Path(folder)
    try:
        manifest = read_manifest(folder)
    except DamagedIndexError as error:
        return [str(error)]
    problems = [problem for shard in manifest.shards for problem in shard_problems(folder, shard, manifest)]
    return problems if manifest.calibration is None else [*problems, *_calibration_problems(folder, manifest.calibration)]


def shard_problems(folder: Path, shard: Shard, manifest: Manifest) -> list[str]:
    """Read the files of a shard and name what is damaged."""
    problems = _file_problems(folder, shard.descriptors, shard.places)
    if problems or np.isfinite(open_shard(folder, shard, manifest).descriptors).all():
        return problems
    return [f"{shard.descriptors.name}: a descriptor is not finite"]


def _calibration_problems(folder: Path, file: StoredFile) -> list[str]:
    return [f"{problem}; `d2vpr calibrate` makes it anew" for problem in _file_problems(folder, file)]


def _file_problems(folder: Path, *files: StoredFile) -> list[str]:
    problems = {file.name: content_problem(folder, file) for file in files}
    return [f"{name}: {problem}" for name, problem in problems.items() if problem is not None]


@dataclass(frozen=True)
class Repair:
    """What went.

    Attributes:
        shards: Damaged shards.
        rows: Rows that were in them.
        paths: The paths of those rows, as far as they can still be read.
        calibration: Whether the calibration went too.
    """

    shards: int
    rows: int
    paths: list[str]
    calibration: bool


def repair_index(folder: str | Path) -> Repair:
    """Drop the shards that are damaged, and a damaged calibration; the index is then whole, but not complete.

    An update with its photos (`d2vpr index`) encodes what went, and nothing else.

    Raises:
        FileNotFoundError: If `folder` is no index.
        DamagedIndexError: If its manifest is damaged: then nothing is known of the rest.
        BlockingIOError: If another process is changing the index.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    lock = WriterLock(folder)
    lock.acquire()
    try:
        return _drop_damage(folder, manifest)
    finally:
        lock.release()


def _drop_damage(folder: Path, manifest: Manifest) -> Repair:
    damaged = [shard for shard in manifest.shards if shard_problems(folder, shard, manifest)]
    calibration = manifest.calibration
    uncalibrated = calibration is not None and content_problem(folder, calibration) is not None
    paths = [path for shard in damaged for path in _readable_paths(folder, shard)]
    if damaged or uncalibrated:
        whole = tuple(shard for shard in manifest.shards if shard not in damaged)
        changes = {"complete": manifest.complete and not damaged, "calibration": None if uncalibrated else calibration}
        store_files(folder, {MANIFEST: replace(manifest, shards=whole, **changes).to_text().encode()})  # type: ignore[arg-type]
    return Repair(len(damaged), sum(shard.count for shard in damaged), paths, uncalibrated)


def _readable_paths(folder: Path, shard: Shard) -> list[str]:
    """Return the paths of a damaged shard's rows if it is only its descriptors that are damaged."""
    if content_problem(folder, shard.places) is not None:
        return []
    paths = StoredPlaces(folder / shard.places.name).column("path")
    return [paths[row] for row in kept_rows(shard.rows, shard.removed)]
