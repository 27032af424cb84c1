"""Bring an index in line with photos: encode what is new or changed, keep what is as it was, remove what is gone.

Photos are encoded in portions of a shard, and each portion is stored in one step with what it replaces. What a killed run
stored is found again by the next one, whose portions, and so whose batches, are then those that the first run would have made:
the finished index has the same bytes. Photos that could not be read were part of their portion; they are tried again in
portions of their own.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.encoders import EncodedPhotos, Encoder, Progress
from d2vpr_hf.index import PhotoFile, PlaceIndex, UpdateState
from d2vpr_hf.places import Place
from d2vpr_hf.readers import PhotoSource
from d2vpr_hf.readers.skipped import name_problem, report_skipped

logger = logging.getLogger(__name__)

_COUNTS = ("added", "changed", "kept", "removed")


@dataclass(frozen=True)
class UpdateReport:
    """What an update did.

    Attributes:
        added, changed, kept, removed: Photos that are new, whose content changed, that stayed, and that went.
        skipped: The reason for each photo that was left out, by its path.
    """

    added: int
    changed: int
    kept: int
    removed: int
    skipped: dict[str, str]


class TrackedPhoto:
    """A photo on its way into an index. The encoder's threads open it, and there what tells whether it changes is noted too.

    Size and time are taken before the content is hashed, and that before it is decoded: a photo that changes meanwhile is
    found changed by the next update.

    Attributes:
        place: Its place.
        file: What is known of its file, once it was opened.
    """

    def __init__(self, place: Place, source: PhotoSource) -> None:
        self.place = place
        self.file = PhotoFile()
        self._source: PhotoSource | None = source

    def __call__(self) -> PhotoSource:
        """Return the photo, once: contents are not held any longer than they are needed."""
        if self._source is None:
            raise ValueError(f"{self.place.path} was opened already.")
        source, self._source = self._source, None
        with contextlib.suppress(OSError):  # whoever decodes it says what is wrong
            self.file = PhotoFile.glance(source).with_hash(source)
        return source


class IndexUpdate:
    """One run over photos.

    Args:
        index: The index to update, with the right to change it; `None` for a new one.
        begin: Makes the new one, when the first photo could be read.
        encoder: Gives the descriptors.
        shard_size: Photos of a portion.
        folder: What the photos' paths are relative to, if the run sees all photos that there are: rows of others are removed at
            its end, apart from those with absolute paths, which came from elsewhere. `None` to add to what is there.
        total: How many photos there are, if somebody knows.
        strict: Whether a photo that cannot be read is an error; its portion is then not stored.
        progress: Called with the number of photos just finished.
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
    ) -> None:
        self.index = index
        self._begin, self._encoder, self._shard_size, self._folder = begin, encoder, shard_size, folder
        self._total, self._strict, self._progress = total, strict, progress
        self._known = {} if index is None else {place.path: (place, file) for place, file in index.places.with_files()}
        self._left_out = {} if index is None else index.skipped
        self._seen: set[str] = set()
        self._again: list[TrackedPhoto] = []
        self._amended: list[tuple[Place, PhotoFile]] = []
        self._skipped: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def run(self, photos: Iterable[tuple[Place, PhotoSource]]) -> UpdateReport:
        """Go through the photos, with paths as they shall stand in the index.

        Raises:
            ValueError: If a photo cannot be read and that is an error, or if these cannot be all photos, as not one of them is
                in the index already.
        """
        self._encode(self._pick(photos))
        self._encode(iter(self._again))
        if self.index is not None:
            self.index.amend([place for place, _ in self._amended], [file for _, file in self._amended])
            if self._folder is not None:
                self._finish(self.index, self._folder)
        return UpdateReport(**{name: self._counts[name] for name in _COUNTS}, skipped=self._skipped)

    def _pick(self, photos: Iterable[tuple[Place, PhotoSource]]) -> Iterator[TrackedPhoto]:
        """Pick the photos that must be encoded; note what else is to be done with the others."""
        for place, source in photos:
            problem = name_problem(place.path, self._seen)
            if problem:
                self._skip(problem)
            elif place.path in self._left_out:
                self._again.append(TrackedPhoto(place, source))
            elif not self._keep(place, source):
                yield TrackedPhoto(place, source)
            self._seen.add(place.path)

    def _keep(self, place: Place, source: PhotoSource) -> bool:
        """Tell whether a photo's descriptor can stay; what is known of the photo may be new all the same."""
        old = self._known.get(place.path)
        file = None if old is None else same_content(source, old[1])
        if file is None:
            return False
        if (place, file) != old:
            self._amended.append((place, file))
        self._counts["kept"] += 1
        if self._progress is not None:
            self._progress(1)
        return True

    def _encode(self, photos: Iterator[TrackedPhoto]) -> None:
        while True:
            portion = _Portion(photos, self._shard_size, self._total)
            encoded = self._encoder.encode(portion, self._progress)
            if not portion.photos:
                return
            self._store(encoded, portion.photos)

    def _store(self, encoded: EncodedPhotos, photos: list[TrackedPhoto]) -> None:
        """Store a portion, with what it replaces and what could not be read."""
        unreadable = {photos[row].place.path: reason for row, reason in encoded.skipped.items()}
        self._skip(unreadable)
        readable = [photos[row] for row in encoded.rows]
        left_out = _without(self._left_out | unreadable, (photo.place.path for photo in readable))
        if self.index is None and readable:
            self.index = self._begin()
        removed = [path for path in unreadable if path in self._known]
        replaced = [photo.place.path for photo in readable if photo.place.path in self._known]
        if self.index is not None and (readable or removed or left_out != self._left_out):
            places, files = [photo.place for photo in readable], [photo.file for photo in readable]
            notes: UpdateState = {"skipped": left_out, "complete": self.index.complete and self._folder is None}
            if readable:
                runtimes = _latest_last(self.index.settings.runtimes, self._encoder.runtime)
                notes["settings"] = replace(self.index.settings, runtimes=runtimes)
            self.index.upsert(encoded.descriptors, places, files, removed=[*removed, *replaced], **notes)
        self._left_out = left_out
        self._counts.update(added=len(readable) - len(replaced), changed=len(replaced), removed=len(removed))

    def _finish(self, index: PlaceIndex, folder: Path) -> None:
        """Remove the rows of photos that are gone, and note that the index is complete."""
        own = [path for path in self._known if not Path(path).is_absolute()]
        gone = [path for path in own if path not in self._seen]
        if own and len(gone) == len(own):
            raise ValueError(not_the_same_photos(index))
        left_out = {path: reason for path, reason in self._left_out.items() if path in self._seen}
        settings = replace(index.settings, photo_folder=folder)
        notes: UpdateState = {"settings": settings, "skipped": left_out, "complete": True}
        index.upsert(np.empty((0, settings.descriptor_dim)), [], [], removed=gone, **notes)
        self._counts["removed"] += len(gone)

    def _skip(self, reasons: dict[str, str]) -> None:
        self._skipped |= reasons
        if reasons and self._strict:
            report_skipped(self._skipped, max(len(self._seen), self._total or 0), strict=True)


class _Portion:
    """The next photos of a run, at most so many; they are noted as they pass."""

    def __init__(self, photos: Iterator[TrackedPhoto], size: int, total: int | None) -> None:
        self.photos: list[TrackedPhoto] = []
        self._next, self._size, self._total = photos, size, total

    def __iter__(self) -> Iterator[TrackedPhoto]:
        for photo in islice(self._next, self._size):
            self.photos.append(photo)
            yield photo

    def __length_hint__(self) -> int:
        return self._size if self._total is None else min(self._size, self._total)


def not_the_same_photos(index: PlaceIndex) -> str:
    """Say that photos cannot be those of an index."""
    return (
        f"Not one of the photos that the index {index.folder} holds is among those given: they would all be removed. Give the "
        "photos it was built from, `--overwrite` to replace it, or `d2vpr add` to add photos."
    )


def same_content(source: PhotoSource, known: PhotoFile) -> PhotoFile | None:
    """Return what is known of a photo's file now if its content is what it was, else `None`.

    Size and time of a file are trusted where both are as they were; else its content is compared. A URL is not fetched for
    that.
    """
    try:
        now = PhotoFile.glance(source)
        if isinstance(source, str) or (now.file_mtime_ns is not None and _glance(known) == now):
            return known
        hashed = now.with_hash(source) if now.file_size == known.file_size else now
    except OSError:
        return None
    return hashed if hashed.content_hash is not None and hashed.content_hash == known.content_hash else None


def _glance(file: PhotoFile) -> PhotoFile:
    return replace(file, content_hash=None)


def _latest_last(known: tuple[Runtime, ...], runtime: Runtime) -> tuple[Runtime, ...]:
    """Note what made the latest rows; where nobody said what made the others, nobody knows all."""
    return (*(one for one in known if one != runtime), runtime) if known else ()


def _without(reasons: dict[str, str], paths: Iterable[str]) -> dict[str, str]:
    left = set(paths)
    return {path: reason for path, reason in reasons.items() if path not in left}
