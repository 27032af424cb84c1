"""Files of a vector store in an index folder: sizes and checksums, which are stored next to them.

A store that an earlier version built has no checksums. Its results are checked like those of any store.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

from d2vpr_hf.index.manifest import StoredFile
from d2vpr_hf.index.shards import content_problem, size_problem
from d2vpr_hf.utils.atomic_files import file_checksum, write_file
from d2vpr_hf.utils.bounded_files import parse_json

CHECKSUMS = "checksums.json"


def write_checksums(path: Path) -> None:
    """Write sizes and checksums of all files in a store's folder; this must be the last file that is written."""
    files = [StoredFile(file.name, file.stat().st_size, file_checksum(file)) for file in sorted(path.iterdir())]
    write_file(path / CHECKSUMS, json.dumps({"files": [asdict(file) for file in files]}, indent=1) + "\n")


def check_store_sizes(path: Path) -> None:
    """Check that all files of a store exist, are regular files and have their sizes, and the contents of the small ones.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a file was changed, is missing, or is not a regular file.
    """
    with os.scandir(path) as entries:
        others = [entry.path for entry in entries if not entry.is_file(follow_symlinks=False)]
    if others:  # reading a pipe or a device may never end
        raise ValueError(f"{others[0]} is not a regular file.")
    for file in _recorded_files(path):
        find_problem = content_problem if file.name.endswith(".json") else size_problem
        _check(path / file.name, find_problem(path, file))


def check_store_contents(path: Path) -> None:
    """Compare all files of a store with their checksums; raises as [`check_store_sizes`] does.

    A store of 512 MB takes about half a second, once for each process that searches it.
    """
    for file in _recorded_files(path):
        _check(path / file.name, content_problem(path, file))


def has_checksums(path: Path) -> bool:
    """Return whether a store has checksums."""
    return (path / CHECKSUMS).exists()


def _recorded_files(path: Path) -> list[StoredFile]:
    """Read sizes and checksums; none for a store that an earlier version built."""
    file = path / CHECKSUMS
    if not has_checksums(path):
        return []
    try:
        values = parse_json(file.read_bytes())["files"]
        files = [StoredFile(str(v["name"]), int(v["size"]), str(v["sha256"])) for v in values]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{file} is damaged ({error!r}).") from error
    if any(Path(entry.name).name != entry.name for entry in files):
        raise ValueError(f"{file} is damaged: it names a file of another folder.")
    return files


def _check(file: Path, problem: str | None) -> None:
    if problem is not None:
        raise ValueError(f"{file} is damaged: {problem}.")
