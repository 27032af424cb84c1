"""Update an index from photos: encode new and changed photos, keep unchanged ones, remove the rows of missing ones.

Photos are encoded in portions of at most a shard. Each portion is stored in one step together with the removal of the rows that
it replaces. Each minute, and when the run is interrupted, the finished batches of an unfinished portion are stored as interim
shards, which the shard of the whole portion replaces. After a kill, the next run continues the unfinished portion and forms the
same portions, and so the same batches, that the first run would have formed: the finished index has the same bytes. Photos that
could not be read counted for their portion; the next run tries them again at its end, in separate portions.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from inspect import signature
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.encoders import EncodedPhotos, Encoder, Progress, ReceiveBatch
from d2vpr_hf.index import IndexSettings, PhotoFile, PlaceIndex, UnfinishedPortion, UpdateState
from d2vpr_hf.places import Place
from d2vpr_hf.places.stored_values import to_stored_places
from d2vpr_hf.readers import PhotoSource, Remark
from d2vpr_hf.readers.remarks import RemarkCounter
from d2vpr_hf.readers.skipped import name_problem, report_skipped
from d2vpr_hf.utils.interrupts import deferred_interrupts

logger = logging.getLogger(__name__)

STORE_SECONDS = 60.0  # after which the finished batches are stored


@dataclass(frozen=True)
class UpdateReport:
    """Counts of an update.

    Attributes:
        added, changed, kept, removed: Numbers of photos that are new, that changed, that stayed, and that were removed.
        skipped: The reason for each photo that was skipped, by its path.
        remarks: Lines about files that were skipped, and values that were corrected or assumed.
    """

    added: int
    changed: int
    kept: int
    removed: int
    skipped: dict[str, str]
    remarks: tuple[Remark, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        counts = {"added": self.added, "changed": self.changed, "removed": self.removed, "kept": self.kept}
        return counts | {"skipped": self.skipped, "remarks": [remark.to_dict() for remark in self.remarks]}


class TrackedPhoto:
    """A photo to be encoded: a function that an encoder's thread calls, and which also records the file's size, time and hash.

    Size and time are recorded before the content is hashed, and the hash before the photo is decoded. If the file changes
    meanwhile, the next update therefore notices the change.

    Attributes:
        place: Its place.
        file: Size, time and hash of its file, recorded by the call.
    """

    def __init__(self, place: Place, source: PhotoSource) -> None:
        self.place = place
        self.file = PhotoFile()
        self._source: PhotoSource | None = source

    def __call__(self) -> PhotoSource:
        """Return the photo's source. It can be called once only, so that contents are released as soon as possible."""
        if self._source is None:
            raise ValueError(f"{self.place.path} was opened before.")
        source, self._source = self._source, None
        with contextlib.suppress(OSError):  # decoding reports the error
            self.file = PhotoFile.glance(source).with_hash(source)
        return source


class IndexUpdate:
    """One run that brings an index in line with photos, or adds photos to the index.

    Args:
        index: The index to update, whose writer lock the caller holds; `None` for a new index.
        begin: Makes the new index; called after the first photo could be read.
        encoder: Makes the descriptors.
        shard_size: Number of photos of a portion.
        folder: The folder that the photos' paths are relative to, if the run gets all photos of the index. At its end the rows
            of other photos are removed, except rows with absolute paths, which `add_photos` made. `None` only adds photos.
        total: Number of photos; `None` if it is not known.
        strict: Whether a photo that cannot be read is an error; its portion is then not stored.
        progress: Called with the number of photos just finished.
        clock: Returns seconds; it decides when finished batches are stored.
    """

    def __init__(
        self,
        index: PlaceIndex | None,
        begin: Callable[[], PlaceIndex],
        encoder: Encoder,
        *,
        shard_size: int,
        folder: Path | None,
        total: int | None = None,
        strict: bool = False,
        progress: Progress | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.index = index
        self._begin, self._encoder = begin, encoder
        self._shard_size, self._folder = shard_size, folder
        self._total, self._strict = total, strict
        self._progress = progress
        self._indexed = {} if index is None else {place.path: (place, file) for place, file in index.places.with_files()}
        self._skipped_in_index = {} if index is None else index.skipped
        self._seen: set[str] = set()
        self._skipped_before: list[TrackedPhoto] = []
        self._amended: list[tuple[Place, PhotoFile]] = []
        self._skipped: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._remarks = RemarkCounter()
        self._clock = monotonic if clock is None else clock
        self._stored_at = self._clock()

    def run(self, photos: Iterable[tuple[Place, PhotoSource]]) -> UpdateReport:
        """Update the index from photos, whose paths are stored unchanged.

        KeyboardInterrupt and SystemExit are raised again after the finished batches were stored.

        Raises:
            ValueError: If a photo cannot be read and `strict` is set, or if no photo of the index is among the given ones.
        """
        self._encode_portions(self._photos_to_encode(photos))
        self._encode_portions(self._photos_to_retry(), retried=True)
        if self.index is not None:
            self.index.amend([place for place, _ in self._amended], [file for _, file in self._amended])
            if self._folder is not None:
                self._remove_missing(self.index, self._folder)
        counts = self._counts
        numbers = counts["added"], counts["changed"], counts["kept"], counts["removed"]
        return UpdateReport(*numbers, self._skipped, self._remarks.summary())

    def _photos_to_encode(self, photos: Iterable[tuple[Place, PhotoSource]]) -> Iterator[TrackedPhoto]:
        """Yield the new and changed photos. Photos that the last update skipped are collected for the end of the run.

        The row of an unchanged photo stays; a changed place or file time is recorded for it.
        """
        for place, source in photos:
            problem = name_problem(place.path, self._seen)
            indexed = self._indexed.get(place.path)
            if problem:
                self._skip(problem)
            elif place.path in self._skipped_in_index:
                self._skipped_before.append(TrackedPhoto(place, source))
            elif indexed is None or (file := same_content(source, indexed[1])) is None:
                yield TrackedPhoto(place, source)
            else:
                if (place, file) != indexed and (to_stored_places([place])[0], file) != indexed:
                    self._amended.append((place, file))
                self._counts["kept"] += 1
                if self._progress is not None:
                    self._progress(1)
            self._seen.add(place.path)

    def _photos_to_retry(self) -> Iterator[TrackedPhoto]:
        """Yield the photos that the last update skipped, but not those that the unfinished portion has tried again already."""
        unfinished = None if self.index is None else self.index.unfinished
        num_tried = 0
        if self.index is not None and unfinished is not None and unfinished.retried:
            num_tried = unfinished.photos - self.index.num_interim
        for photo in self._skipped_before[:num_tried]:
            self._skip({photo.place.path: self._skipped_in_index[photo.place.path]})
        yield from self._skipped_before[num_tried:]

    def _encode_portions(self, photos: Iterator[TrackedPhoto], *, retried: bool = False) -> None:
        """Encode photos, and store them portion by portion; begin with the portion that an interrupted run left unfinished."""
        while True:
            unfinished = None if self.index is None else self.index.unfinished
            begun = unfinished.photos if unfinished is not None and unfinished.retried == retried else 0
            portion = _Portion(photos, self._shard_size, self._total, begun, retried)
            self._encode(portion)
            if not portion.photos and not begun:
                return
            self._store(portion, finished=True)

    def _encode(self, portion: _Portion) -> None:
        """Encode the photos of a portion. If that is interrupted, store the finished batches."""

        def receive(batch: EncodedPhotos) -> None:
            portion.batches.append(batch)
            for row, text in batch.corrected.items():
                self._remarks.add("corrected", text, portion.photos[row].place.path)
            if self._clock() - self._stored_at >= STORE_SECONDS:
                self._store(portion, finished=False)

        try:
            _encode_in_batches(self._encoder, portion, receive, self._progress)
        except (KeyboardInterrupt, SystemExit):
            if not (self._strict and any(batch.skipped for batch in portion.batches)):  # such a portion is not stored
                self._store(portion, finished=False)
            raise

    def _store(self, portion: _Portion, *, finished: bool) -> None:
        """Store the finished batches of a portion, its skipped photos, and the removal of the rows that they replace.

        Without a new batch only the end of the portion is stored. An interrupt waits until everything is stored and counted.
        """
        with deferred_interrupts():
            descriptors, readable, skipped = portion.join_batches(self._encoder.descriptor_dim)
            self._skip(skipped)
            encoded_paths = {photo.place.path for photo in readable}
            all_skipped = self._skipped_in_index | skipped
            all_skipped = {path: reason for path, reason in all_skipped.items() if path not in encoded_paths}
            if self.index is None and readable:
                self.index = self._begin()
            removed = [path for path in skipped if path in self._indexed]
            replaced = [photo.place.path for photo in readable if photo.place.path in self._indexed]
            if self.index is None:
                if not finished:
                    return
            elif finished or portion.batches:
                self._commit(self.index, portion, descriptors, readable, [*removed, *replaced], all_skipped, finished)
            portion.forget_batches()
            self._skipped_in_index = all_skipped
            self._counts.update(added=len(readable) - len(replaced), changed=len(replaced), removed=len(removed))
            self._stored_at = self._clock()

    def _commit(
        self,
        index: PlaceIndex,
        portion: _Portion,
        descriptors: NDArray[np.float32],
        readable: list[TrackedPhoto],
        removed: list[str],
        skipped: dict[str, str],
        finished: bool,
    ) -> None:
        """Store rows of a portion, unless nothing has changed."""
        if index.unfinished is not None and not portion.num_stored:
            index.finish_portion()  # an earlier portion of another kind, which this run cannot continue
        unfinished = None if finished else UnfinishedPortion(portion.num_encoded, portion.retried)
        if not (readable or removed or skipped != self._skipped_in_index or unfinished != index.unfinished):
            return
        places, files = [photo.place for photo in readable], [photo.file for photo in readable]
        state: UpdateState = {
            "skipped": skipped,
            "complete": index.complete and self._folder is None,
            "unfinished": unfinished,
        }
        if readable:
            state["settings"] = _with_runtime(index.settings, self._encoder.runtime)
        index.upsert(descriptors, places, files, removed=removed, **state)

    def _remove_missing(self, index: PlaceIndex, folder: Path) -> None:
        """Remove the rows of missing photos, and record that the index is complete.

        Earlier versions indexed photos of the folder by absolute paths, if a table listed them so; these rows are removed too.
        """
        in_folder = [path for path in self._indexed if not Path(path).is_absolute()]
        missing = [path for path in in_folder if path not in self._seen]
        if in_folder and len(missing) == len(in_folder):
            raise ValueError(other_photos_message(index))
        missing += [path for path in self._indexed if path.startswith(f"{folder.as_posix()}/") and path not in self._seen]
        skipped = {path: reason for path, reason in self._skipped_in_index.items() if path in self._seen}
        settings = replace(index.settings, photo_folder=folder)
        state: UpdateState = {"settings": settings, "skipped": skipped, "complete": True}
        index.upsert(np.empty((0, settings.descriptor_dim)), [], [], removed=missing, **state)
        self._counts["removed"] += len(missing)

    def _skip(self, reasons: dict[str, str]) -> None:
        """Record the reasons for skipped photos, by path; raise ValueError if `strict`."""
        self._skipped |= reasons
        if reasons and self._strict:
            report_skipped(self._skipped, max(len(self._seen), self._total or 0), strict=True)


class _Portion:
    """The next photos of a run, and the finished batches that are not stored yet.

    Args:
        photos: The photos that come next.
        size: Number of photos of a whole portion.
        total: Number of photos of the run; `None` if it is not known.
        begun: Number of photos of this portion that an earlier run encoded or skipped.
        retried: Whether the photos were skipped by an earlier run.

    Attributes:
        photos: The photos that were taken so far.
        batches: The finished batches; their rows are positions in `photos`.
        num_stored: Number of photos that are in the index, or recorded as skipped; those that were begun included.
    """

    def __init__(self, photos: Iterator[TrackedPhoto], size: int, total: int | None, begun: int, retried: bool) -> None:
        self.photos: list[TrackedPhoto] = []
        self.batches: list[EncodedPhotos] = []
        self.num_stored = begun
        self.retried = retried
        self._next = photos
        self._size, self._total = max(0, size - begun), total

    def __iter__(self) -> Iterator[TrackedPhoto]:
        return self.take(self._size)

    def __length_hint__(self) -> int:
        return self._size if self._total is None else min(self._size, self._total)

    def take(self, count: int) -> Iterator[TrackedPhoto]:
        """Yield the next photos, at most `count`."""
        for photo in islice(self._next, min(count, self._size - len(self.photos))):
            self.photos.append(photo)
            yield photo

    @property
    def is_full(self) -> bool:
        """Whether all photos of the portion were taken."""
        return len(self.photos) == self._size

    @property
    def num_encoded(self) -> int:
        """The number of photos that were encoded or skipped, those that were begun included."""
        return self.num_stored + sum(len(batch.rows) + len(batch.skipped) for batch in self.batches)

    def join_batches(self, descriptor_dim: int) -> tuple[NDArray[np.float32], list[TrackedPhoto], dict[str, str]]:
        """Return the descriptors (n, D) and photos of the batches, and the reasons for skipped photos by path."""
        descriptors = [np.empty((0, descriptor_dim), np.float32), *(batch.descriptors for batch in self.batches)]
        photos = [self.photos[row] for batch in self.batches for row in batch.rows]
        skipped = {self.photos[row].place.path: why for batch in self.batches for row, why in batch.skipped.items()}
        return np.concatenate(descriptors), photos, skipped

    def forget_batches(self) -> None:
        """Count the batches as stored."""
        self.num_stored = self.num_encoded
        self.batches.clear()


def _encode_in_batches(encoder: Encoder, portion: _Portion, receive: ReceiveBatch, progress: Progress | None) -> None:
    """Encode the photos of a portion, and call `receive` with each batch; see [`Encoder`] for encoders without `on_batch`."""
    if "on_batch" in signature(encoder.encode).parameters:
        encoder.encode(portion, progress, on_batch=receive)  # type: ignore[call-arg] # an optional parameter
        return
    while not portion.is_full:
        start = len(portion.photos)
        encoded = encoder.encode(portion.take(encoder.batch_size), progress)
        if len(portion.photos) == start:
            return
        skipped, corrected = (
            {start + row: text for row, text in texts.items()} for texts in (encoded.skipped, encoded.corrected)
        )
        receive(EncodedPhotos(encoded.descriptors, encoded.rows + start, skipped, corrected))


def other_photos_message(index: PlaceIndex) -> str:
    """Return the error message for photos of which an index holds none."""
    return (
        f"Not one of the photos that the index {index.folder} holds is among the given photos: all rows would be removed. "
        "Give the photos that it was built from, `overwrite=True` to replace it, or `d2vpr add` to add photos."
    )


def same_content(source: PhotoSource, recorded: PhotoFile) -> PhotoFile | None:
    """Return a file's present size, time and hash if its content is the recorded one, else `None`.

    A file with the recorded size and time counts as unchanged; otherwise its content is hashed and compared. A URL counts as
    unchanged: it is not fetched.
    """
    try:
        now = PhotoFile.glance(source)
        if isinstance(source, str) or (now.file_mtime_ns is not None and replace(recorded, content_hash=None) == now):
            return recorded
        hashed = now.with_hash(source) if now.file_size == recorded.file_size else now
    except OSError:
        return None
    return hashed if hashed.content_hash is not None and hashed.content_hash == recorded.content_hash else None


def _with_runtime(settings: IndexSettings, latest: Runtime) -> IndexSettings:
    """Return the settings with the latest runtime last. An old index whose runtimes are not known records none later either."""
    earlier = [runtime for runtime in settings.runtimes if runtime != latest]
    return replace(settings, runtimes=(*earlier, latest)) if settings.runtimes else settings
