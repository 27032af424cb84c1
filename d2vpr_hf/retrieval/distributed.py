"""Encode a large photo set in parts, by several processes or machines, and merge the parts into one index.

A part holds the photos of one shard, in an index folder of its own. Which parts there are follows from photos and settings and
not from the number of processes: a run that was killed goes on with more of them or fewer. Merging stores the parts in their
order, as one process would have stored what it encoded, so that the index has the bytes that [`index_photos`] gives.
"""

import functools
import hashlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from d2vpr_hf.encoders import Encoder, Progress
from d2vpr_hf.index import SHARD_SIZE, IndexSettings, PlaceIndex, check_out, check_store
from d2vpr_hf.places import Place
from d2vpr_hf.readers import PlaceTable, read_places
from d2vpr_hf.readers.skipped import name_problem, report_skipped
from d2vpr_hf.retrieval.compatibility import index_settings
from d2vpr_hf.retrieval.updates import IndexUpdate, same_content
from d2vpr_hf.stores import Compression, StoreWord

_PART = re.compile(r"part-(\d{6,})-of-(\d{6,})-([0-9a-f]{16})")
_EMBED = "`d2vpr embed` with the same photos, model and options"


class Part(NamedTuple):
    """Which part a folder is, as its name says.

    Attributes:
        number: From 0.
        total: Of all parts.
        job: A hash of all photos and the settings; parts with the same one belong together.
    """

    number: int
    total: int
    job: str

    @property
    def name(self) -> str:
        """The folder's name."""
        return f"part-{self.number:06d}-of-{self.total:06d}-{self.job}"


@dataclass(frozen=True)
class EmbedReport:
    """What a process did.

    Attributes:
        encoded, kept: Parts that it encoded, and those of its own that were there already.
        total: Of all parts, those of other processes included.
        skipped: The reason for each photo that was left out now, by its path.
    """

    encoded: int
    kept: int
    total: int
    skipped: dict[str, str]


def launched_process() -> tuple[int, int]:
    """Say which process this is, from 0, and of how many, as `accelerate launch` and torchrun tell their processes."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def launched_device() -> str | None:
    """Name the GPU of this process, where several processes were launched; `None` leaves the choice to the encoder."""
    if launched_process()[1] == 1 or not torch.cuda.is_available():
        return None
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


def embed_photos(
    photos: str | Path | PlaceTable,
    out: str | Path,
    encoder: Encoder,
    *,
    process: tuple[int, int] = (0, 1),
    strict: bool = False,
    dtype: str = "float16",
    shard_size: int = SHARD_SIZE,
    progress: Progress | None = None,
) -> EmbedReport:
    """Encode this process's parts of a photo set; [`merge_parts`] makes the index of all parts.

    Parts that are there and whole, of photos whose files did not change, are kept; others are encoded anew.

    Args:
        photos: A folder, a CSV file, or what [`read_places`] made of one; the same for all processes.
        out: The folder of the parts; processes may share it, or have one each.
        encoder: Gives the descriptors.
        process: Which process this is, from 0, and of how many; see [`launched_process`].
        strict: Whether a photo that is left out is an error.
        dtype: How descriptors are stored: `"float16"` or `"float32"`.
        shard_size: Photos of a part at most, and of a shard of the index.
        progress: Called with the number of photos just finished.

    Raises:
        ValueError: If `out` holds parts of other photos or settings, or with `strict` if a photo was left out.
        BlockingIOError: If another process encodes the same part.
    """
    table = read_places(photos) if isinstance(photos, str | Path) else photos
    places, skipped = _usable_places(table)
    report_skipped(skipped, len(table.places) + len(table.skipped), strict)
    folder = table.folder.resolve()
    job = _Job(table, places, replace(index_settings(encoder), dtype=dtype, shard_size=shard_size, photo_folder=folder))
    _check_no_others(Path(out), job)
    missing, numbers = [], range(process[0], job.total, process[1])
    for number in numbers:
        if _is_there(Path(out) / job.part(number).name, table, job.places_of(number)):
            _advance(progress, len(job.places_of(number)))
        else:
            missing.append(number)
    for number in missing:
        skipped |= _encode_part(Path(out), job, number, encoder, strict, progress)
    return EmbedReport(len(missing), len(numbers) - len(missing), job.total, skipped)


def merge_parts(
    parts: Sequence[str | Path],
    out: str | Path,
    *,
    overwrite: bool = False,
    compression: Compression | None = None,
    store: StoreWord | None = None,
    uri: str | None = None,
    progress: Progress | None = None,
) -> PlaceIndex:
    """Make one index of all parts of a photo set. A run that was killed goes on where it stopped; the parts stay.

    Args:
        parts: The folders that [`embed_photos`] wrote parts into.
        out: The index folder.
        overwrite: Whether to build anew what is at `out`; the old index stays in force until the new one is complete.
        compression: What searches read, as for [`index_photos`].
        store: Who searches, as for [`index_photos`].
        uri: Where, as for [`index_photos`].
        progress: Called with the number of photos just finished, those that could not be read included.

    Raises:
        FileNotFoundError: If there are no parts.
        FileExistsError: If there is something at `out` that is not what these parts began.
        ValueError: If a part is missing, not complete, damaged or there twice, or parts are of different photos or settings.
    """
    check_store(store, uri, compression)
    folder = check_out(Path(out))
    opened = [_open_part(path) for path in _find_parts(parts)]
    if not any(map(len, opened)):
        raise ValueError("None of the photos could be read; no index was made.")
    index = _index_to_merge_into(folder, opened, overwrite)
    with index:
        merged = _count_merged(index, opened)
        for number, part in enumerate(opened):
            if number >= merged and len(part):
                _put_part(index, part)
            _advance(progress, len(part) + len(part.skipped))
        skipped = {path: reason for part in opened for path, reason in part.skipped.items()}
        index.upsert(np.empty((0, index.settings.descriptor_dim)), [], [], skipped=skipped, complete=True)
    index.build_store(compression, store=store, uri=uri)
    return index


# ---- encoding


def _usable_places(table: PlaceTable) -> tuple[list[Place], dict[str, str]]:
    """Return the photos that an index takes, and why others, and those that the table lacks, are left out."""
    seen: set[str] = set()
    places, skipped = [], dict(table.skipped)
    for place in table.places:
        problem = name_problem(place.path, seen)
        if problem:
            skipped |= problem
        else:
            places.append(place)
        seen.add(place.path)
    return places, skipped


@dataclass(frozen=True)
class _Job:
    """The photos and the index settings that all processes share."""

    table: PlaceTable
    places: list[Place]
    settings: IndexSettings

    @property
    def total(self) -> int:
        return math.ceil(len(self.places) / self.settings.shard_size)

    @functools.cached_property
    def hash(self) -> str:
        digest = hashlib.sha256(repr(sorted(_shared_settings(self.settings).items())).encode())
        for place in self.places:
            digest.update(repr(place).encode())
        return digest.hexdigest()[:16]

    def part(self, number: int) -> Part:
        return Part(number, self.total, self.hash)

    def places_of(self, number: int) -> list[Place]:
        size = self.settings.shard_size
        return self.places[number * size : (number + 1) * size]


def _check_no_others(out: Path, job: _Job) -> None:
    """Raise ValueError if a folder holds parts of another job, which would be in the way when all are merged."""
    for part, path in _parts_in(out) if out.is_dir() else ():
        if part.job != job.hash:
            why = _difference(_settings_of(path), job.settings)
            raise ValueError(f"{out} holds parts of another job ({why}). Remove them, or give another folder.")


def _is_there(folder: Path, table: PlaceTable, places: Sequence[Place]) -> bool:
    """Tell whether a part is whole, and of photos whose files are as they were; those that could not be read do not count."""
    try:
        part = PlaceIndex.resume(folder, replacement=False)
    except (ValueError, OSError):
        return False
    if part is None or not _is_complete(part) or part.verify():
        return False
    known = {place.path: file for place, file in part.places.with_files()}
    return all(
        same_content(table.photo(place), known[place.path]) if place.path in known else place.path in part.skipped
        for place in places
    )


def _is_complete(part: PlaceIndex) -> bool:
    """Tell whether a part was encoded to its end: one that was just begun holds nothing."""
    return part.complete and len(part) + len(part.skipped) > 0


def _encode_part(
    out: Path, job: _Job, number: int, encoder: Encoder, strict: bool, progress: Progress | None
) -> dict[str, str]:
    """Encode the photos of a part and store them; return why photos were left out."""
    places = job.places_of(number)
    size, base = job.settings.shard_size, job.settings.photo_folder
    options: dict[str, Any] = {"total": len(places), "strict": strict, "progress": progress}
    with PlaceIndex.create(out / job.part(number).name, job.settings, overwrite=True) as part:
        update = IndexUpdate(part, lambda: part, encoder, shard_size=size, folder=base, **options)
        skipped = update.run((place, job.table.photo(place)) for place in places).skipped
    report_skipped(skipped, len(places), strict)
    return skipped


def _advance(progress: Progress | None, count: int) -> None:
    if progress is not None:
        progress(count)


# ---- merging


def _find_parts(folders: Sequence[str | Path]) -> list[Path]:
    """Return the folders of all parts, in their order."""
    found = [one for folder in folders for one in _parts_in(Path(folder))]
    if not found:
        raise FileNotFoundError(f"No parts in {', '.join(map(str, folders))}. `d2vpr embed PHOTOS --out PARTS` makes them.")
    _check_one_job(found)
    paths: dict[int, Path] = {}
    for part, path in found:
        if part.number in paths:
            raise ValueError(f"Part {part.number} is there twice, {paths[part.number]} and {path}. Give or keep one of them.")
        paths[part.number] = path
    missing = sorted(set(range(found[0][0].total)) - set(paths))
    if missing:
        some = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        total = f"{len(missing)} of {found[0][0].total} parts are missing"
        raise ValueError(f"{total}: {some}. Give all folders of parts, or run {_EMBED} again, which makes what is missing.")
    return [paths[number] for number in sorted(paths)]


def _parts_in(folder: Path) -> Iterator[tuple[Part, Path]]:
    """Yield the parts in a folder, by their names."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. `d2vpr embed PHOTOS --out PARTS` makes parts.")
    for path in sorted(folder.iterdir()):
        named = _PART.fullmatch(path.name)
        if named:
            yield Part(int(named[1]), int(named[2]), named[3]), path


def _check_one_job(found: Sequence[tuple[Part, Path]]) -> None:
    (first, path), jobs = found[0], {part.job: path for part, path in reversed(found)}
    for other in (jobs[job] for job in jobs if job != first.job):
        why = _difference(_settings_of(path), _settings_of(other))
        raise ValueError(f"{path} and {other} are parts of different jobs ({why}). Give the parts of one.")


def _settings_of(path: Path) -> IndexSettings | None:
    """Return the settings of a part, `None` if it cannot be opened."""
    try:
        part = PlaceIndex.resume(path, replacement=False)
    except (ValueError, OSError):
        return None
    return None if part is None else part.settings


def _difference(first: IndexSettings | None, second: IndexSettings | None) -> str:
    """Return the names and values of the settings that differ between two jobs."""
    if first is None or second is None:
        return "their lists of photos differ"
    values, others = _shared_settings(first), _shared_settings(second)
    different = [f"{name}: {values[name]} and {others[name]}" for name in values if values[name] != others[name]]
    return "; ".join(different) or "their lists of photos differ"


def _shared_settings(settings: IndexSettings) -> dict[str, Any]:
    """Return the settings that all parts of a job share. The names of stored parts are hashed from exactly this form."""
    values = settings.to_dict() | {"runtime": None if settings.runtime is None else str(settings.runtime)}
    del values["metric"], values["runtimes"]
    return values


def _open_part(path: Path) -> PlaceIndex:
    """Open a part that was encoded to its end and is as it was stored: damage must not get a right checksum."""
    part = PlaceIndex.resume(path, replacement=False)
    if part is None or not _is_complete(part):
        raise ValueError(f"{path} is not complete: its process was killed, or is at work. Run {_EMBED} again.")
    problems = part.verify()
    if problems:
        raise ValueError(f"{path} is damaged: {'; '.join(problems)}. Run {_EMBED} again, which makes it anew.")
    return part


def _index_to_merge_into(folder: Path, parts: Sequence[PlaceIndex], overwrite: bool) -> PlaceIndex:
    """Open the index that an interrupted run began, or begin one."""
    begun = _begun(folder, parts, overwrite)
    return PlaceIndex.create(folder, parts[0].settings, overwrite=overwrite) if begun is None else begun


def _begun(folder: Path, parts: Sequence[PlaceIndex], overwrite: bool) -> PlaceIndex | None:
    try:
        index = PlaceIndex.resume(folder, replacement=overwrite)
        if index is not None:
            _count_merged(index, parts)
    except (ValueError, OSError):
        if overwrite:  # whatever is wrong with it, a new one takes its place
            return None
        raise
    return index


def _count_merged(index: PlaceIndex, parts: Sequence[PlaceIndex]) -> int:
    """Return how many of the first parts an index holds.

    Raises:
        FileExistsError: If it holds anything else.
    """
    paths, start, merged = index.places.column("path"), 0, 0
    for part in parts:
        own = part.places.column("path")
        if paths[start : start + len(own)] != own:
            break
        start, merged = start + len(own), merged + 1
    if start < len(paths) or index.settings != parts[0].settings:
        why = _difference(index.settings, parts[0].settings)
        raise FileExistsError(f"{index.folder} is an index of something else ({why}). Give another folder, or `--overwrite`.")
    return merged


def _put_part(index: PlaceIndex, part: PlaceIndex) -> None:
    """Store the rows of a part behind the others, in one step."""
    places, files = zip(*part.places.with_files(), strict=True)
    index.upsert(part.descriptors[:], places, files, complete=False)
