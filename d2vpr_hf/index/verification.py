"""Verifying an index: everything that is stored is read and compared with what was stored."""

from pathlib import Path

import numpy as np

from d2vpr_hf.index.manifest import DamagedIndexError, Manifest, Shard, StoredFile, read_manifest
from d2vpr_hf.index.shards import content_problem, open_shard


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
