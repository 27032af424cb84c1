"""Verifying an index: everything that is stored is read and compared with what was stored."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from d2vpr_hf.index.durable_files import checksum
from d2vpr_hf.index.manifest import DamagedIndexError, Manifest, Shard, StoredFile, read_manifest
from d2vpr_hf.index.shards import check_size, open_shard


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
    calibration = [] if manifest.calibration is None else _file_problems(folder, manifest.calibration)
    return [*calibration, *(problem for shard in manifest.shards for problem in _shard_problems(folder, shard, manifest))]


def _shard_problems(folder: Path, shard: Shard, manifest: Manifest) -> Iterator[str]:
    problems = [*_file_problems(folder, shard.descriptors), *_file_problems(folder, shard.places)]
    yield from problems
    if problems:
        return
    opened = open_shard(folder, shard, manifest)
    if not np.isfinite(opened.descriptors).all():
        yield f"{shard.descriptors.name}: a descriptor is not finite"


def _file_problems(folder: Path, file: StoredFile) -> list[str]:
    try:
        check_size(folder, file)
        right = checksum((folder / file.name).read_bytes()) == file.sha256
    except (DamagedIndexError, OSError) as error:
        return [str(error)]
    return [] if right else [f"{file.name}: its checksum is not the one it was stored with"]


__all__ = ["verify_index"]
