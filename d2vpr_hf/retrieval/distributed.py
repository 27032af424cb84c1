"""Encode a large photo set shard by shard, by several processes or machines, and merge the shards into one index.

Each shard is encoded into an index folder of its own, `part-NUMBER-of-TOTAL-JOB`. The shards follow from the photos and
settings, not from the number of processes: a killed run can be continued by more or fewer processes. Merging stores the shards
in their order, as one process does that encodes all photos: the index has the same bytes as an index from [`index_photos`].
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
from d2vpr_hf.places.stored_values import has_unknown_time
from d2vpr_hf.readers import PlaceTable, read_places
from d2vpr_hf.readers.place_table import check_any_photo
from d2vpr_hf.readers.remarks import Remark, report_remarks
from d2vpr_hf.readers.skipped import name_problem, report_skipped
from d2vpr_hf.retrieval.compatibility import index_settings
from d2vpr_hf.retrieval.interruptions import interruption_message
from d2vpr_hf.retrieval.updates import IndexUpdate, same_content
from d2vpr_hf.stores import Compression, StoreWord

_SHARD_NAME = re.compile(r"part-(\d{6,})-of-(\d{6,})-([0-9a-f]{16})")
_EMBED = "`d2vpr embed` with the same photos, model and options"


class ShardId(NamedTuple):
    """The shard in a folder, as the folder's name identifies it.

    Attributes:
        number: Its number, from 0.
        total: Number of all shards.
        job: Hash of all photos and the settings; shards with the same hash belong together.
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
    """Counts of one process of a job.

    Attributes:
        encoded, kept: Numbers of shards that the process encoded, and of its shards that were complete before.
        total: Number of all shards, the shards of other processes included.
        skipped: The reason for each photo that the process skipped, by its path.
        remarks: Lines about files that were skipped, and values that were corrected or assumed, in all photos.
    """

    encoded: int
    kept: int
    total: int
    skipped: dict[str, str]
    remarks: tuple[Remark, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        counts = {"encoded": self.encoded, "kept": self.kept, "total": self.total}
        return counts | {"skipped": self.skipped, "remarks": [remark.to_dict() for remark in self.remarks]}


def launched_process() -> tuple[int, int]:
    """Return this process's number, from 0, and the number of processes, as `accelerate launch` and torchrun set them."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def launched_device() -> str | None:
    """Return the GPU of this process if several were launched; `None` leaves the choice to the encoder."""
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
    """Encode this process's shards of a photo set; [`merge_parts`] makes one index of all shards.

    Complete shards of unchanged photos are kept; the others are encoded again.

    Args:
        photos: A folder, a CSV file, or a table from [`read_places`]; the same for all processes.
        out: The folder of the shards; processes may share a folder, or have one each.
        encoder: Makes the descriptors.
        process: This process's number, from 0, and the number of processes; see [`launched_process`].
        strict: Whether a skipped photo is an error.
        dtype: Number type of the stored descriptors: `"float16"` or `"float32"`.
        shard_size: Maximum number of photos in a shard.
        progress: Called with the number of photos just finished.

    Raises:
        ValueError: If `out` holds shards of other photos or settings, or if a photo was skipped and `strict` is set.
        BlockingIOError: If another process encodes the same shard.
    """
    table = read_places(photos) if isinstance(photos, str | Path) else photos
    report_remarks(table.remarks)
    check_any_photo(table)
    places, skipped = _usable_places(table)
    report_skipped(skipped, len(table.places) + len(table.skipped), strict)
    folder = table.folder.resolve()
    job = _Job(table, places, replace(index_settings(encoder), dtype=dtype, shard_size=shard_size, photo_folder=folder))
    _check_no_other_job(Path(out), job)
    numbers = range(process[0], job.total, process[1])
    missing = []
    for number in numbers:
        if not _is_stored(Path(out), job, number):
            missing.append(number)
        elif progress is not None:
            progress(len(job.places_of(number)))
    total = sum(len(job.places_of(number)) for number in numbers)
    with interruption_message(out, lambda: _count_stored(Path(out), job, numbers), total):
        for number in missing:
            skipped |= _encode_shard(Path(out), job, number, encoder, strict, progress)
    return EmbedReport(len(missing), len(numbers) - len(missing), job.total, skipped, table.remarks)


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
    """Make one index of all shards of a photo set. The same call continues a killed run. The folders of the shards stay.

    Args:
        parts: The folders that [`embed_photos`] wrote shards into.
        out: The index folder.
        overwrite: Whether to replace an index at `out`; the old index can be searched until the new one is complete.
        compression: Form of the descriptors that searches read, as for [`index_photos`].
        store: Library that searches, as for [`index_photos`].
        uri: Address of the service, as for [`index_photos`].
        progress: Called with the number of photos just finished, skipped ones included.

    Raises:
        FileNotFoundError: If there are no shards.
        FileExistsError: If `out` exists and these shards did not begin it.
        ValueError: If a shard is missing, incomplete, damaged or present twice, or shards are of different photos or settings.
    """
    check_store(store, uri, compression)
    folder = check_out(Path(out))
    shards = [_open_shard(path) for path in _find_shards(parts)]
    if not any(map(len, shards)):
        raise ValueError("None of the photos could be read; no index was made.")
    with _open_or_begin(folder, shards, overwrite) as index:
        merged = _count_merged(index, shards)
        for number, shard in enumerate(shards):
            if number >= merged and len(shard):
                places, files = zip(*shard.places.with_files(), strict=True)
                # earlier versions stored any text as a time
                places = tuple(replace(place, timestamp=None) if has_unknown_time(place) else place for place in places)
                index.upsert(shard.descriptors[:], places, files, complete=False)
            if progress is not None:
                progress(len(shard) + len(shard.skipped))
        skipped = {path: reason for shard in shards for path, reason in shard.skipped.items()}
        index.upsert(np.empty((0, index.settings.descriptor_dim)), [], [], skipped=skipped, complete=True)
        index.build_store(compression, store=store, uri=uri)
    return index


# ---- encoding


def _usable_places(table: PlaceTable) -> tuple[list[Place], dict[str, str]]:
    """Return the photos that an index accepts, and the reasons for all skipped photos, those of the table included."""
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

    def folder_name(self, number: int) -> str:
        return ShardId(number, self.total, self.hash).name

    def places_of(self, number: int) -> list[Place]:
        size = self.settings.shard_size
        return self.places[number * size : (number + 1) * size]


def _check_no_other_job(out: Path, job: _Job) -> None:
    """Raise ValueError if a folder holds shards of another job, which could not be merged with these."""
    for shard_id, path in _shards_in(out) if out.is_dir() else ():
        if shard_id.job != job.hash:
            difference = _difference(_settings_of(path), job.settings)
            raise ValueError(f"{out} holds shards of another job ({difference}). Remove them, or give another folder.")


def _is_stored(out: Path, job: _Job, number: int) -> bool:
    """Return whether a shard is complete and the files of its photos did not change; skipped photos are not compared."""
    try:
        shard = PlaceIndex.resume(out / job.folder_name(number), replacement=False)
    except (ValueError, OSError):
        return False
    if shard is None or not _is_complete(shard) or shard.verify():
        return False
    files = {place.path: file for place, file in shard.places.with_files()}
    return all(
        same_content(job.table.photo(place), files[place.path]) if place.path in files else place.path in shard.skipped
        for place in job.places_of(number)
    )


def _count_stored(out: Path, job: _Job, numbers: Sequence[int]) -> int:
    """Return the number of photos that shards hold."""
    shards = [PlaceIndex.resume(out / job.folder_name(number), replacement=False) for number in numbers]
    return sum(len(shard) for shard in shards if shard is not None)


def _is_complete(shard: PlaceIndex) -> bool:
    """Return whether all photos of a shard were encoded. A new index counts as complete too, but holds nothing."""
    return shard.complete and len(shard) + len(shard.skipped) > 0


def _encode_shard(
    out: Path, job: _Job, number: int, encoder: Encoder, strict: bool, progress: Progress | None
) -> dict[str, str]:
    """Encode and store the photos of a shard; return the reasons for skipped photos."""
    places, settings = job.places_of(number), job.settings
    with _resume_shard(out, job, number) or PlaceIndex.create(out / job.folder_name(number), settings, overwrite=True) as shard:
        update = IndexUpdate(
            shard,
            lambda: shard,
            encoder,
            shard_size=settings.shard_size,
            folder=settings.photo_folder,
            total=len(places),
            strict=strict,
            progress=progress,
        )
        report = update.run((place, job.table.photo(place)) for place in places)
    report_remarks(report.remarks)
    report_skipped(report.skipped, len(places), strict)
    return report.skipped


def _resume_shard(out: Path, job: _Job, number: int) -> PlaceIndex | None:
    """Open a shard that an interrupted run began to encode, if it is undamaged and of the same runtime."""
    try:
        shard = PlaceIndex.resume(out / job.folder_name(number), replacement=False)
    except (ValueError, OSError):
        return None
    resumable = shard is not None and shard.unfinished is not None and shard.settings == job.settings and not shard.verify()
    return shard if resumable else None


# ---- merging


def _find_shards(folders: Sequence[str | Path]) -> list[Path]:
    """Return the folders of all shards of a job, in their order."""
    shards = [shard for folder in folders for shard in _shards_in(Path(folder))]
    if not shards:
        raise FileNotFoundError(f"No shards in {', '.join(map(str, folders))}. `d2vpr embed PHOTOS --out PARTS` makes them.")
    first, first_path = shards[0]
    for shard_id, path in shards:
        if shard_id.job != first.job:
            difference = _difference(_settings_of(first_path), _settings_of(path))
            raise ValueError(
                f"{first_path} and {path} are shards of different jobs ({difference}). Give the shards of one job."
            )
    paths: dict[int, Path] = {}
    for (number, *_), path in shards:
        if number in paths:
            raise ValueError(f"Shard {number} is present twice, {paths[number]} and {path}. Give or keep one of them.")
        paths[number] = path
    missing = sorted(set(range(first.total)) - set(paths))
    if missing:
        numbers = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"{len(missing)} of {first.total} shards are missing: {numbers}. Give all folders of shards, or run {_EMBED} "
            "again, which makes the missing ones."
        )
    return [paths[number] for number in sorted(paths)]


def _shards_in(folder: Path) -> Iterator[tuple[ShardId, Path]]:
    """Yield the identity and path of each shard in a folder, in the order of their names."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. `d2vpr embed PHOTOS --out PARTS` makes shards.")
    for path in sorted(folder.iterdir()):
        name = _SHARD_NAME.fullmatch(path.name)
        if name:
            yield ShardId(int(name[1]), int(name[2]), name[3]), path


def _settings_of(path: Path) -> IndexSettings | None:
    """Return the settings of a shard; `None` if it cannot be opened."""
    try:
        shard = PlaceIndex.resume(path, replacement=False)
    except (ValueError, OSError):
        return None
    return None if shard is None else shard.settings


def _difference(first: IndexSettings | None, second: IndexSettings | None) -> str:
    """Return the names and values of the settings that differ between two jobs."""
    if first is None or second is None:
        return "their lists of photos differ"
    here, there = _shared_settings(first), _shared_settings(second)
    different = [f"{name}: {here[name]} and {there[name]}" for name in here if here[name] != there[name]]
    return "; ".join(different) or "their lists of photos differ"


def _shared_settings(settings: IndexSettings) -> dict[str, Any]:
    """Return the settings that all shards of a job share. The hash in the folder names of shards is computed from this form."""
    values = settings.to_dict() | {"runtime": None if settings.runtime is None else str(settings.runtime)}
    del values["metric"], values["runtimes"], values["model_revision"], values["model_options"]  # the fingerprint has these
    return values


def _open_shard(path: Path) -> PlaceIndex:
    """Open a complete shard and verify its files, because merging writes new checksums for their content."""
    shard = PlaceIndex.resume(path, replacement=False)
    if shard is None or not _is_complete(shard):
        raise ValueError(f"{path} is not complete: its process was killed or is still running. Run {_EMBED} again.")
    problems = shard.verify()
    if problems:
        raise ValueError(f"{path} is damaged: {'; '.join(problems)}. Run {_EMBED} again, which encodes it again.")
    return shard


def _open_or_begin(folder: Path, shards: Sequence[PlaceIndex], overwrite: bool) -> PlaceIndex:
    """Open the index that an interrupted merge began, or begin an index."""
    try:
        index = PlaceIndex.resume(folder, replacement=overwrite)
        if index is not None:
            _count_merged(index, shards)
            return index
    except (ValueError, OSError):
        if not overwrite:  # `overwrite` replaces a damaged index and an index of other photos
            raise
    return PlaceIndex.create(folder, shards[0].settings, overwrite=overwrite)


def _count_merged(index: PlaceIndex, shards: Sequence[PlaceIndex]) -> int:
    """Return the number of shards, counted from the first, whose rows an index holds already.

    Raises:
        FileExistsError: If the index holds other rows.
    """
    paths = index.places.column("path")
    start = merged = 0
    for shard in shards:
        shard_paths = shard.places.column("path")
        if paths[start : start + len(shard_paths)] != shard_paths:
            break
        start, merged = start + len(shard_paths), merged + 1
    if start < len(paths) or index.settings != shards[0].settings:
        difference = _difference(index.settings, shards[0].settings)
        raise FileExistsError(
            f"{index.folder} is an index of something else ({difference}). Give another folder, or `overwrite=True`."
        )
    return merged
