"""Keep an index in line with a folder: photos that are new, changed or removed.

The folder is looked at again and again, which works on every file system. A photo counts when its file has rested for a moment,
so that files wait while they are being written; the same holds for tables and sidecar files.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2vpr_hf.encoders import Encoder, Progress
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.readers import ReadOptions, read_places
from d2vpr_hf.retrieval.index_photos import index_photos
from d2vpr_hf.retrieval.updates import UpdateReport

if TYPE_CHECKING:
    from d2vpr_hf.stores import Compression, StoreWord

logger = logging.getLogger(__name__)

FileState = tuple[int, int]  # time of the last change in nanoseconds, and size

_WITH_POSITIONS = (".csv", ".xmp", ".json", ".txt")  # suffixes of files that decide on photos
_RETRY_SECONDS = 10.0  # after a folder that could not be indexed
_LONGEST_WAIT = 30.0  # seconds for which an update waits for photos that are being written again
_SHARE = 0.1  # largest share of the time that looks take


class RestingFiles:
    """Finds the files that have not changed for some time.

    Args:
        seconds: The time. A file rests at the earliest this long after it was first seen.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[str, tuple[FileState, float]] = {}

    def update(self, states: Mapping[str, FileState], now: float) -> dict[str, FileState]:
        """Return the states of the files that rest.

        Args:
            states: The present states of all files by path.
            now: The present time in seconds.
        """
        since = {}
        for path, state in states.items():
            seen = self._since.get(path)
            since[path] = seen if seen is not None and seen[0] == state else (state, now)
        self._since = since
        return {path: state for path, (state, begin) in since.items() if now - begin >= self._seconds}


class FolderWatch:
    """Updates an index when photos of a folder have changed.

    Args:
        folder: The folder.
        out: The index folder; it may be inside the folder of photos.
        encoder: Makes the descriptors.
        settle_seconds: Seconds for which a file must rest before it counts.
        options: Options of the readers; `None` for the defaults.
        compression: As for [`index_photos`], as `store` and `uri`.
        store: Library that searches.
        uri: Address of a service.
        progress: Called with the number of photos just finished.
        clock: Returns seconds.
    """

    def __init__(
        self,
        folder: Path,
        out: Path,
        encoder: Encoder,
        *,
        settle_seconds: float = 2.0,
        options: ReadOptions | None = None,
        compression: Compression | None = None,
        store: StoreWord | None = None,
        uri: str | None = None,
        progress: Progress | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._out = folder, out
        self._encoder, self._options = encoder, options
        self._store_options: dict[str, Any] = {"compression": compression, "store": store, "uri": uri}
        self._progress, self._clock = progress, clock
        self._resting = RestingFiles(settle_seconds)
        self._indexed: dict[str, FileState] = {}  # states at the last update
        self._due_since: float | None = None  # time of the first look at which an update was due
        self._retry_at = -float("inf")
        self._error: str | None = None
        self._is_held_up = False  # whether the warning of tables that never rest was given

    def look(self) -> tuple[PlaceIndex, UpdateReport] | None:
        """Look at the folder, and update the index if files that rest differ from those of the last update.

        An update waits for photos of the index that are being written again, so that their rows stay meanwhile. A file that is
        written all the time is left alone after half a minute: then its row is removed until it rests.

        Returns:
            The index and the report of the update; `None` if there was none. A folder that cannot be indexed at present, such
            as one without photos, is a warning, and is tried again later.
        """
        now = self._clock()
        states = file_states(self._folder, self._out)
        resting = self._resting.update(states, now)
        moving = states.keys() - resting.keys()
        if not self._is_due(states, resting) or now < self._retry_at:
            return None
        self._due_since = now if self._due_since is None else self._due_since
        is_waiting = now - self._due_since < _LONGEST_WAIT and not moving.isdisjoint(self._indexed)
        tables = sorted(path for path in moving if path.lower().endswith(_WITH_POSITIONS))
        if tables and now - self._due_since >= _LONGEST_WAIT and not self._is_held_up:
            self._is_held_up = True
            logger.warning(
                "The index is not updated while %s is being written, because such a file can have positions. If it is a log, "
                "move it out of %s.",
                tables[0],
                self._folder,
            )
        if is_waiting or tables:
            return None
        try:
            updated = self._update(moving)
        except (ValueError, OSError) as error:
            self._retry_at = now + _RETRY_SECONDS
            if str(error) != self._error:
                logger.warning("The index was not updated. %s", error)
            self._error = str(error)
            return None
        self._indexed, self._error = resting, None
        self._is_held_up = False
        self._due_since = None
        return updated

    def _is_due(self, states: Mapping[str, FileState], resting: Mapping[str, FileState]) -> bool:
        """Return whether a file rests that is new or changed, or one of the last update is missing."""
        return (
            any(self._indexed.get(path) != state for path, state in resting.items())
            or not states.keys() >= self._indexed.keys()
        )

    def _update(self, moving: set[str]) -> tuple[PlaceIndex, UpdateReport] | None:
        """Index the photos except those that are being written."""
        if not self._folder.exists():
            raise FileNotFoundError(f"There is no folder {self._folder}. The index keeps its photos until the folder is back.")
        table = read_places(self._folder, self._options)
        places = [place for place in table.places if place.path not in moving]
        if not places:
            return None
        skipped = {path: reason for path, reason in table.skipped.items() if path not in moving}
        table = replace(table, places=places, skipped=skipped, place_ids=None, group_ids=None)
        return index_photos(table, self._out, self._encoder, progress=self._progress, **self._store_options)


def watch_folder(
    watch: FolderWatch,
    report: Callable[[PlaceIndex, UpdateReport], None],
    *,
    poll_seconds: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Look at a folder until the program is interrupted.

    Args:
        watch: The folder and its index.
        report: Called after each update.
        poll_seconds: Seconds between two looks; more for a folder that takes long to look at.
        sleep: Waits for some seconds.
    """
    while True:
        begin = time.monotonic()
        updated = watch.look()
        if updated is not None:
            report(*updated)
            begin = time.monotonic()
        sleep(max(poll_seconds, (time.monotonic() - begin) / _SHARE))


def file_states(folder: Path, ignored: Path | None = None) -> dict[str, FileState]:
    """Return the states of all files in a folder and its subfolders, by their paths with forward slashes relative to it.

    Linked folders are searched too, each folder once. What vanishes meanwhile, or cannot be read, has no state.

    Args:
        folder: The folder.
        ignored: A folder that is skipped.
    """
    states: dict[str, FileState] = {}
    seen = set()
    if ignored is not None and ignored.exists():
        seen.add(_identity(ignored.stat()))
    pending = [(folder, "")]
    while pending:
        path, prefix = pending.pop()
        try:
            identity = _identity(path.stat())
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(path) as entries:
                for entry in entries:
                    name = f"{prefix}{entry.name}"
                    try:
                        if entry.is_dir():
                            pending.append((Path(entry.path), f"{name}/"))
                            continue
                        state = entry.stat()
                    except OSError:
                        continue
                    states[name] = (state.st_mtime_ns, state.st_size)
        except OSError:
            continue
    return states


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino
