"""PlaceIndex: descriptors and places in a folder that can be inspected, searched and changed, and that survives a crash."""

import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index import hub
from d2vpr_hf.index.commits import (
    UpdateState,
    check_different,
    check_known_paths,
    check_new_places,
    check_stored_rows,
    commit_pending,
    commit_rows,
    compact_rows,
    read_calibration,
    store_calibration,
    to_stored,
)
from d2vpr_hf.index.derived_store import has_store, is_fresh, with_store
from d2vpr_hf.index.index_folder import IndexFolder, begin_folder, open_folder
from d2vpr_hf.index.info import index_info
from d2vpr_hf.index.manifest import MANIFEST, REPLACEMENT, IndexSettings, Manifest
from d2vpr_hf.index.place_rows import PhotoFile, PlaceRows, rows_to_table
from d2vpr_hf.index.search import Match, nearest_rows, rows_of_other_times, to_matches
from d2vpr_hf.index.shards import Rows
from d2vpr_hf.index.verification import verify_index
from d2vpr_hf.places import Place
from d2vpr_hf.stores import Compression, StoreWord
from d2vpr_hf.stores.descriptors import MappedDescriptors

logger = logging.getLogger(__name__)


class PlaceIndex:
    """Places and their descriptors in a folder, and what made them.

    [`PlaceIndex.create`] begins one and [`PlaceIndex.open`] opens one. Any number of processes may search an index while one
    changes it; each sees the rows as they were when it opened it. Rows are stored in shards, and what is stored is never
    changed in place: a crash loses what was added since the last [`flush`] and nothing else.

    Methods that change the index take the right to (see [`WriterLock`]) and give it back when all is stored. In a `with` block
    it is kept to the end, where everything is stored:

        with PlaceIndex.open("my-index") as index:
            for descriptor, place in frames:
                index.add(descriptor, place)
                matches = index.search(descriptor, 5, exclude_last_seconds=30, query_time=place.timestamp)

    Attributes:
        folder: Where it lies.
    """

    def __init__(self, state: IndexFolder) -> None:
        self.folder = state.path
        self._state = state

    # ---- making and opening

    @classmethod
    def create(cls, folder: str | Path, settings: IndexSettings, *, overwrite: bool = False) -> "PlaceIndex":
        """Begin an index without rows.

        Args:
            folder: Its folder, which must be empty or not exist.
            settings: The settings of the encoder that makes its rows, and of how they are stored.
            overwrite: Whether the new index may replace another one. The old one stays until [`close`], or the end of a `with`
                block that is not interrupted.

        Raises:
            FileExistsError: If something is there already, unless `overwrite` is set and it is an index.
            BlockingIOError: If another process is changing the index there.
        """
        return cls(begin_folder(folder, Manifest(settings), overwrite))

    @classmethod
    def open(cls, folder: str | Path) -> "PlaceIndex":
        """Open an index.

        Tests that all files are there, have their sizes and hold as many rows as they should. Damage within a file is found for
        places when they are read, and for descriptors by [`verify`] only.

        Raises:
            FileNotFoundError: If `folder` is no index.
            DamagedIndexError: If a file is missing or damaged; it is a ValueError.
            ValueError: If another version of this package wrote it.
        """
        index = cls(open_folder(Path(folder)))
        if not index.complete:
            logger.warning(
                "The index %s is not complete: a build of it was interrupted, or is at work. `d2vpr index` with the same "
                "photos resumes it.",
                folder,
            )
        return index

    @classmethod
    def resume(cls, folder: str | Path, *, replacement: bool) -> "PlaceIndex | None":
        """Open an index to go on with its build, or `None` if nothing was begun there.

        Args:
            folder: Where it lies.
            replacement: Whether the index is meant that was begun with `overwrite` to take the place of the one there.
        """
        name = REPLACEMENT if replacement else MANIFEST
        return cls(open_folder(Path(folder), name)) if (Path(folder) / name).exists() else None

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None, token: str | bool | None = None) -> "PlaceIndex":
        """Open an index from the Hugging Face Hub, where [`push_to_hub`] put it, or from a folder.

        Args:
            name: A data set repository, such as `"user/my-index"`, or a folder.
            revision: Branch, tag or commit.
            token: Access token; by default the one that is logged in with.

        Returns:
            The index; what lies in the Hub's cache can be searched and not changed.
        """
        if Path(name).is_dir():
            return cls.open(name)
        return cls(open_folder(hub.fetch_index(str(name), revision=revision, token=token), read_only=True))

    # ---- what it is

    def __len__(self) -> int:
        return self._state.count

    @property
    def settings(self) -> IndexSettings:
        """The settings of the encoder that made the rows, and of how they are stored."""
        return self._state.manifest.settings

    @property
    def complete(self) -> bool:
        """Whether the last build or update came to its end."""
        return self._state.manifest.complete

    @property
    def skipped(self) -> dict[str, str]:
        """Photos that could not be read at the last attempt, with the reason."""
        return dict(self._state.manifest.skipped)

    @property
    def descriptors(self) -> MappedDescriptors:
        """All descriptors (N, D), those that wait to be stored last. Nothing is read before it is asked for."""
        return self._state.descriptors()

    @property
    def places(self) -> PlaceRows:
        """The place of each row, in the order of the descriptors."""
        return self._state.places

    def info(self) -> dict[str, Any]:
        """Say what the index is, as `d2vpr info --json` prints it."""
        return index_info(self._state)

    def verify(self) -> list[str]:
        """Read everything that is stored and name every damaged file; see [`verify_index`]."""
        return verify_index(self.folder)

    # ---- searching

    def search(
        self,
        descriptors: NDArray[np.floating],
        top_k: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        exclude_last_seconds: float | None = None,
        query_time: str | float | None = None,
    ) -> list[list[Match]]:
        """Find the nearest places of each descriptor, those that wait to be stored included.

        Exact, unless there is a vector store (see [`compress`]): then a neighbour among the rows that it covers may be missed.

        Args:
            descriptors: (Q, D), or one (D,).
            top_k: Matches wanted.
            allowed: (N,) bool, which rows may be found; `None` for all.
            exclude_last_seconds: Leave out what was taken less than so many seconds before the queries, or after them: a robot
                that looks for places it was at before must not find where it just was. Rows without a time are not left out.
            query_time: When the queries were taken: seconds, ISO 8601, or as EXIF writes it, like the places' timestamps;
                `None` for the latest time in the index.

        Returns:
            Q lists of matches, the nearest first, equally near ones in the order of their rows; as many as were wanted, or as
            there are.

        Raises:
            ValueError: If shapes do not fit, or a time cannot be read.
        """
        places = self.places
        if exclude_last_seconds is not None:
            old = rows_of_other_times(places, exclude_last_seconds, query_time)
            allowed = old if allowed is None else allowed & old
        found = nearest_rows(self._state, np.atleast_2d(descriptors), top_k, allowed)
        return to_matches(found, places, self.settings.photo_folder)

    # ---- changing

    def add(
        self,
        descriptors: NDArray[np.floating],
        places: Place | Sequence[Place],
        files: Sequence[PhotoFile] | None = None,
    ) -> None:
        """Add rows behind the others: found at once, stored with [`flush`], or as soon as a shard is full.

        Args:
            descriptors: (M, D), or one (D,), of unit length.
            places: One a row.
            files: What is known of the photos' files; `None` where there are none.

        Raises:
            ValueError: If shapes do not fit, a number is not finite in the index's type, or a path is in the index already.
            BlockingIOError: If another process is changing the index.
            OSError: If a full shard could not be stored. Rows that wait are kept; `flush` tries again.
        """
        places = [places] if isinstance(places, Place) else list(places)
        rows = to_stored(descriptors, places, self.settings)
        files = [PhotoFile()] * len(places) if files is None else list(files)
        with self._state.writing():
            check_new_places(self._state, places)
            for start in range(0, len(rows), self.settings.shard_size):
                part = slice(start, start + self.settings.shard_size)
                self._state.pending.extend(rows[part], places[part], files[part])
                self._state.paths.update(place.path for place in places[part])
                commit_pending(self._state, whole_shards=True)

    def update(
        self,
        descriptors: NDArray[np.floating],
        places: Place | Sequence[Place],
        files: Sequence[PhotoFile] | None = None,
    ) -> None:
        """Add rows behind the others, each in place of the one with its path if there is one, and store them.

        Use this where places were seen anew; a shard of rows at a time is replaced in one step.

        Args:
            descriptors: (M, D), or one (D,), of unit length.
            places: One a row.
            files: What is known of the photos' files; `None` where there are none.

        Raises:
            ValueError: If shapes do not fit, a number is not finite in the index's type, or a path is given twice.
        """
        places = [places] if isinstance(places, Place) else list(places)
        rows = to_stored(descriptors, places, self.settings)
        files = [PhotoFile()] * len(places) if files is None else list(files)
        check_different(places)
        with self._storing():
            for start in range(0, len(rows), self.settings.shard_size):
                part = slice(start, start + self.settings.shard_size)
                known = [place.path for place in places[part] if place.path in self._state.paths]
                self.upsert(rows[part], places[part], files[part], removed=known)

    def upsert(
        self,
        descriptors: NDArray[np.floating],
        places: Sequence[Place],
        files: Sequence[PhotoFile],
        *,
        removed: Collection[str] = (),
        **state: Unpack[UpdateState],
    ) -> None:
        """Store rows, removals and notes in one step: all of it happens, or nothing.

        Use this to bring an index in line with photos; use [`add`] to add frame by frame, and [`update`] to replace rows.

        Args:
            descriptors: (M, D), at most a shard.
            places: One a row.
            files: What is known of the photos' files.
            removed: Paths of rows to remove; a row with the path of one that is there already belongs among them.
            state: What to note in the manifest in the same step.

        Raises:
            ValueError: If shapes do not fit, there are more rows than a shard takes, or a number is not finite.
        """
        if len(places) > self.settings.shard_size:
            raise ValueError(f"Expected at most a shard of {self.settings.shard_size} rows, got {len(places)}.")
        rows = Rows(to_stored(descriptors, places, self.settings), rows_to_table(places, files))
        with self._storing():
            commit_rows(self._state, rows, set(removed), **state)

    def amend(self, places: Sequence[Place], files: Sequence[PhotoFile]) -> None:
        """Replace the places and file information of photos in the index; their descriptors stay.

        Raises:
            ValueError: If a path is given twice.
            KeyError: If a path is not in the index.
        """
        check_different(places)
        with self._storing():
            row_of = {path: row for row, path in enumerate(self.places.column("path"))}
            rows = np.array([row_of[place.path] for place in places], np.int64)
            for start in range(0, len(places), self.settings.shard_size):
                part = slice(start, start + self.settings.shard_size)
                # the rows before `start` were moved to the end, so that the rows behind each of them moved up by one
                present = rows[part] - np.searchsorted(np.sort(rows[:start]), rows[part])
                check_stored_rows(self._state, present.tolist())
                descriptors = self.descriptors.take(present)
                self.upsert(descriptors, places[part], files[part], removed=[place.path for place in places[part]])

    def remove(self, paths: Iterable[str]) -> int:
        """Remove the rows of these paths, all at once; [`compact`] gives their room back. Returns how many there were.

        Raises:
            ValueError: If a path is not in the index; then nothing is removed.
        """
        wanted = set(paths)
        with self._state.writing():
            check_known_paths(self._state, wanted)
            commit_pending(self._state)
            commit_rows(self._state, None, wanted)
        return len(wanted)

    def flush(self) -> None:
        """Store what waits. When this returns, a crash loses nothing that was added before."""
        if len(self._state.pending) or self._state.attempted:
            with self._storing():
                pass

    def compact(self) -> None:
        """Write the rows anew without those that were removed, in full shards, and give back the room.

        Every row stays as it is. Needs room for the new files beside the old ones; a crash leaves the old ones in force.
        """
        with self._storing():
            compact_rows(self._state)

    def close(self) -> None:
        """Store what waits and give back the right to change the index; one made with `overwrite` takes its place now."""
        if self._state.lock.held or len(self._state.pending):
            self._state.kept = False
            with self._storing():
                self._state.take_place()

    def __enter__(self) -> "PlaceIndex":
        with self._state.writing():
            self._state.kept = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._state.kept = False
        try:
            self.flush() if error is not None else self.close()
        finally:
            self._state.lock.release()

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        """Take the right to change the index, as [`IndexFolder.writing`] does, and store what waits."""
        with self._state.writing():
            commit_pending(self._state)
            yield

    # ---- what hangs on it

    @property
    def compression(self) -> Compression:
        """How rows are compressed for searching, as [`compress`] noted it; `"none"` for exact search."""
        return self._state.manifest.compression

    @property
    def store_is_fresh(self) -> bool | None:
        """Whether a vector store can be used and few rows were added or removed since it was built; `None` without one."""
        store, manifest = self._state.store, self._state.manifest
        if not has_store(manifest):
            return None
        return store is not None and is_fresh(store, manifest) and store.vectors is not None

    def build_store(
        self, compression: Compression | None = None, *, store: StoreWord | None = None, uri: str | None = None
    ) -> None:
        """Build the vector store that [`search`] uses, unless a fresh one is there, and store what waits.

        Rows that are added later are searched exactly beside the store, and rows that are removed are not found there. When
        many came or went, this builds it anew. The store is no part of the index: not in the manifest, not verified and not
        sent to the Hub.

        Args:
            compression: What to note in the manifest first; `None` for what is noted there.
            store: `"faiss"`, a store in the index folder, compressed; or `"milvus"`, a collection of its own; `None` for what
                is noted in the manifest.
            uri: Where Milvus is, see [`MilvusStore`]; noted in the manifest. Needs `store="milvus"`.

        Raises:
            ValueError: If there is no such compression or store, or no URI for one that needs it.
            ConnectionError: If Milvus does not answer.
        """
        wanted = with_store(self._state.manifest, compression, store, uri)
        if wanted == self._state.manifest and self.store_is_fresh is not False and not len(self._state.pending):
            return
        with self._storing():
            wanted = with_store(self._state.manifest, compression, store, uri)
            if wanted != self._state.manifest:
                self._state.commit({}, wanted)
            if self.store_is_fresh is False:
                self._state.rebuild_store()

    @property
    def calibration(self) -> dict[str, Any] | None:
        """What [`store_calibration`] stored, or `None`. It stays when rows are added or removed.

        Raises:
            DamagedIndexError: If its file is missing or damaged.
        """
        return read_calibration(self._state)

    def store_calibration(self, calibration: dict[str, Any]) -> None:
        """Store a calibration, JSON values, in a file that the manifest names, instead of the one before."""
        with self._state.writing():
            store_calibration(self._state, calibration)

    def push_to_hub(
        self, name: str, *, private: bool | None = None, commit_message: str = "Upload a PlaceIndex", token: str | None = None
    ) -> str:
        """Put the index into a data set repository of the Hugging Face Hub, in one commit, instead of what was there of it.

        Photos are not uploaded; their positions, the names of the photos' and the model's folder,
        and the address of Milvus are.

        Returns:
            The URL of the commit.
        """
        with contextlib.nullcontext() if self._state.read_only else self._state.writing():
            self.flush()
            files = [MANIFEST, *(file.name for file in self._state.manifest.files)]
            return hub.push_index(self.folder, files, name, private=private, commit_message=commit_message, token=token)
