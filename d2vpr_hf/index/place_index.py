"""PlaceIndex: descriptors and places in a folder. Other programs can read the files, and a crash does not damage them."""

import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

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
    finish_portion,
    read_calibration,
    store_calibration,
    to_stored,
)
from d2vpr_hf.index.dataset import index_to_dataset
from d2vpr_hf.index.derived_store import has_store, is_fresh, with_store
from d2vpr_hf.index.fused_photos import fused_photos_to_bytes
from d2vpr_hf.index.index_folder import IndexFolder, begin_folder, open_folder
from d2vpr_hf.index.info import index_info
from d2vpr_hf.index.manifest import (
    MANIFEST,
    REPLACEMENT,
    Fusion,
    FusionMethod,
    IndexSettings,
    Manifest,
    StoredFile,
    UnfinishedPortion,
    fused_photos_file,
)
from d2vpr_hf.index.place_rows import PhotoFile, PlaceRows, rows_to_table
from d2vpr_hf.index.search import Match, nearest_rows, rows_before, to_matches
from d2vpr_hf.index.shards import Rows
from d2vpr_hf.index.verification import verify_index
from d2vpr_hf.places import Place
from d2vpr_hf.places.stored_values import to_stored_places
from d2vpr_hf.places.timestamps import Timestamp
from d2vpr_hf.stores import Compression, StoreWord
from d2vpr_hf.stores.descriptors import MappedDescriptors

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


class PlaceIndex:
    """Places and their descriptors in a folder, with the settings of the encoder that made them.

    [`PlaceIndex.create`] begins an index and [`PlaceIndex.open`] opens one. Any number of processes can search an index while
    one changes it; each searches the rows that were stored when it opened the index. Rows are stored in shards, whose files
    never change: a crash loses only the rows that were added after the last [`flush`].

    Methods that modify the index acquire the writer lock (see [`WriterLock`]) and release it once everything is on disk. A
    `with` block holds it to the end and then stores everything:

        with PlaceIndex.open("my-index") as index:
            for descriptor, place in frames:
                index.add(descriptor, place)
                matches = index.search(descriptor, 5, exclude_last_seconds=30, query_time=place.timestamp)

    Attributes:
        folder: The folder of the index.
    """

    def __init__(self, state: IndexFolder) -> None:
        self.folder = state.path
        self._state = state
        self._has_warned_of_times = False

    # ---- creating and opening

    @classmethod
    def create(
        cls, folder: str | Path, settings: IndexSettings, *, overwrite: bool = False, searched_like: "PlaceIndex | None" = None
    ) -> "PlaceIndex":
        """Begin an index without rows.

        Args:
            folder: The folder of the index, which must be empty or not exist.
            settings: The settings of the encoder that makes its rows, and of how they are stored.
            overwrite: Whether the new index may replace another one. The old one stays until [`close`], or the end of a `with`
                block that is not interrupted.
            searched_like: An index whose choice of a vector store is recorded for the new one.

        Raises:
            FileExistsError: If something exists at `folder`, unless `overwrite` is set and it is an index.
            BlockingIOError: If another process is changing the index there.
        """
        manifest = Manifest(settings)
        if searched_like is not None:
            chosen = searched_like._state.manifest
            manifest = replace(manifest, compression=chosen.compression, service=chosen.service, store_uri=chosen.store_uri)
        return cls(begin_folder(folder, manifest, overwrite))

    @classmethod
    def open(cls, folder: str | Path) -> "PlaceIndex":
        """Open an index.

        This checks that all files exist and have the right sizes and numbers of rows, and compares some files of descriptors
        with their checksums: all of a small index, at most 16 MB of a large one, and no file above 16 MB. A file of places is
        compared with its checksum when it is first used; [`verify`] compares all files.

        Raises:
            FileNotFoundError: If `folder` is not an index.
            DamagedIndexError: If a file is missing or damaged; it is a ValueError.
            ValueError: If another version of this package wrote it.
        """
        index = cls(open_folder(Path(folder), is_sampled=True))
        if not index.complete:
            logger.warning(
                "The index %s is not complete: its build was interrupted, or is still running. `d2vpr index` with the same "
                "photos resumes it.",
                folder,
            )
        return index

    @classmethod
    def resume(cls, folder: str | Path, *, replacement: bool) -> "PlaceIndex | None":
        """Open an index to continue its build; return `None` if no index was begun in the folder.

        Args:
            folder: The folder of the index.
            replacement: Whether to open the index that was begun with `overwrite` and will replace the one in the folder.
        """
        name = REPLACEMENT if replacement else MANIFEST
        return cls(open_folder(Path(folder), name)) if (Path(folder) / name).exists() else None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        thumbnails: bool = False,
    ) -> "PlaceIndex":
        """Open an index that [`push_to_hub`] uploaded to the Hugging Face Hub, or an index in a folder.

        Args:
            name: A data set repository, such as `"user/my-index"` or `"user/my-index@revision"`, or a folder.
            revision: Branch, tag or commit on the Hub.
            token: Access token; by default that of the user who is logged in.
            thumbnails: Whether to download thumbnails too, if the index was pushed with some;
                [`d2vpr_hf.hub.thumbnails.read_thumbnails`] reads them.

        Returns:
            The index. An index in the Hub's cache can be searched but not changed.

        Raises:
            FileNotFoundError: If there is no such folder, and no such index on the Hub or in its cache.
            DamagedIndexError: If a file is missing or damaged; it is a ValueError.
            ValueError: If another version of this package wrote it.
        """
        if Path(name).is_dir():
            return cls.open(name)
        folder = hub.fetch_index(str(name), revision=revision, token=token, thumbnails=thumbnails)
        return cls(open_folder(folder, read_only=True, is_sampled=True))

    # ---- contents

    def __len__(self) -> int:
        return self._state.count

    @property
    def settings(self) -> IndexSettings:
        """The settings of the encoder that made the rows, and of how they are stored."""
        return self._state.manifest.settings

    @property
    def complete(self) -> bool:
        """Whether the last build or update was completed."""
        return self._state.manifest.complete

    @property
    def skipped(self) -> dict[str, str]:
        """Photos that could not be read at the last attempt, with the reason."""
        return dict(self._state.manifest.skipped)

    @property
    def unfinished(self) -> UnfinishedPortion | None:
        """The portion of photos that an interrupted build was encoding; `None` if there is none."""
        return self._state.manifest.unfinished

    @property
    def num_interim(self) -> int:
        """The number of rows of the unfinished portion."""
        return sum(shard.count for shard in self._state.shards if shard.is_interim)

    @property
    def descriptors(self) -> MappedDescriptors:
        """All descriptors (N, D), the pending ones last. They are mapped, and read when they are used."""
        return self._state.descriptors()

    @property
    def places(self) -> PlaceRows:
        """The place of each row, in the order of the descriptors."""
        return self._state.places

    def to_dataset(self, *, searchable: bool = True) -> "datasets.Dataset":
        """Return the places as a data set, with their descriptors in the column `descriptor`.

        The descriptors stay mapped. A FAISS index of exact search is added to the column, which copies them into memory as
        float32: `get_nearest_examples("descriptor", query, 5)` then finds the neighbours of [`search`], with squared L2
        distances as scores. Another one, such as `add_faiss_index("descriptor", string_factory="HNSW32")`, replaces it.

        Args:
            searchable: Whether to add the FAISS index.
        """
        return index_to_dataset(self.descriptors, self.places, searchable)

    def info(self) -> dict[str, Any]:
        """Return the information about the index that `d2vpr info --json` prints."""
        return index_info(self._state)

    def verify(self) -> list[str]:
        """Read all files and return one line for each damaged one; see [`verify_index`]."""
        return verify_index(self.folder)

    # ---- searching

    def search(
        self,
        descriptors: NDArray[np.floating],
        top_k: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        exclude_last_seconds: float | None = None,
        query_time: Timestamp | None = None,
    ) -> list[list[Match]]:
        """Find the nearest places of each descriptor, pending rows included.

        The search is exact without a vector store (see [`build_store`]); a compressed store may miss a neighbour.

        Args:
            descriptors: (Q, D), or one (D,); (Q, V, D) for queries with V descriptors each, of which the nearest counts.
            top_k: Number of matches for each descriptor.
            allowed: (N,) bool, the rows to choose from; `None` for all.
            exclude_last_seconds: Minimum age of a match at the time of the queries: a robot that looks for places of earlier
                visits must not find its last position. Rows without a time, such as those of a survey, are not excluded; the
                first such search warns of their number.
            query_time: Time of the queries: seconds, or a text in any form of a time, like the timestamps of places; `None`
                for the latest time in the index.

        Returns:
            Q lists of `top_k` matches, or of all rows if there are fewer; the nearest first, ties in the order of their rows.

        Raises:
            ValueError: If shapes do not fit, or a time cannot be read.
        """
        places = self.places
        if exclude_last_seconds is not None:
            old_enough = rows_before(places, exclude_last_seconds, query_time)
            self._warn_of_unknown_times(places)
            allowed = old_enough if allowed is None else allowed & old_enough
        nearest = nearest_rows(self._state, np.atleast_2d(descriptors), top_k, allowed)
        return to_matches(nearest, places, self.settings.photo_folder)

    def nearest(
        self, descriptors: NDArray[np.floating], top_k: int, *, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the nearest rows of each descriptor, as [`search`] does, without their places.

        Use this for many queries, such as all rows of the index.

        Args:
            descriptors: (Q, D).
            top_k: Number of rows for each descriptor.
            allowed: (N,) bool, the rows to choose from; `None` for all.

        Returns:
            Squared L2 distances (Q, k) in ascending order and row numbers (Q, k), with k the smaller of `top_k` and the number
            of allowed rows.

        Raises:
            ValueError: If shapes do not fit.
        """
        return nearest_rows(self._state, descriptors, top_k, allowed)

    def _warn_of_unknown_times(self, places: PlaceRows) -> None:
        """Log the number of the rows without a time, once: a robot searches for each frame."""
        count = 0 if self._has_warned_of_times else int(np.isnan(places.seconds).sum())
        if count:
            self._has_warned_of_times = True
            logger.warning(
                "`exclude_last_seconds` needs times: %d of %d rows have none and are not excluded.", count, len(places)
            )

    # ---- changing

    def add(
        self,
        descriptors: NDArray[np.floating],
        places: Place | Sequence[Place],
        files: Sequence[PhotoFile] | None = None,
    ) -> None:
        """Append rows. Searches find them at once; they are stored by [`flush`], or when they fill a shard.

        Args:
            descriptors: (M, D), or one (D,), of unit length.
            places: One for each row. UTM metres are added to degrees, and the reverse, as the readers do.
            files: Properties of the photos' files; `None` if there are no files.

        Raises:
            ValueError: If shapes do not fit, a number is not finite in the index's type, a path is in the index already, or a
                value of a place is not valid, see [`to_stored_places`]. Nothing is added.
            BlockingIOError: If another process is changing the index.
            OSError: If a full shard could not be stored. The rows stay pending, and `flush` tries again.
        """
        places = to_stored_places([places] if isinstance(places, Place) else places)
        rows = to_stored(descriptors, places, self.settings)
        files = [PhotoFile()] * len(places) if files is None else list(files)
        with self._state.writing():
            self.check_takes_photos()
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
        """Append rows, remove old rows that have the same paths, and store the change.

        Use this for places that were visited again. The rows of one shard are replaced in one commit.

        Args:
            descriptors: (M, D), or one (D,), of unit length.
            places: One for each row.
            files: Properties of the photos' files; `None` if there are no files.

        Raises:
            ValueError: If shapes do not fit, a number is not finite in the index's type, a path is given twice, or a value of a
                place is not valid. Nothing is stored.
        """
        places = to_stored_places([places] if isinstance(places, Place) else places)
        rows = to_stored(descriptors, places, self.settings)
        files = [PhotoFile()] * len(places) if files is None else list(files)
        check_different(places)
        with self._storing():
            self.check_takes_photos()
            for start in range(0, len(rows), self.settings.shard_size):
                part = slice(start, start + self.settings.shard_size)
                replaced = [place.path for place in places[part] if place.path in self._state.paths]
                self._store_rows(rows[part], places[part], files[part], replaced)

    def upsert(
        self,
        descriptors: NDArray[np.floating],
        places: Sequence[Place],
        files: Sequence[PhotoFile],
        *,
        removed: Collection[str] = (),
        **state: Unpack[UpdateState],
    ) -> None:
        """Store new rows, removals and entries of the manifest in one commit: either all of them are stored, or none.

        Use this to update an index with photos. Use [`add`] to add frame by frame, and [`update`] to replace rows by path.

        Args:
            descriptors: (M, D), at most as many as a shard holds.
            places: One for each row.
            files: Properties of the photos' files.
            removed: Paths of the rows to remove; the paths of rows that are replaced must be among them.
            state: Entries of the manifest to set in the same commit.

        Raises:
            ValueError: If shapes do not fit, there are more rows than a shard holds, a number is not finite, or a value of a
                place is not valid. Nothing is stored.
        """
        places = to_stored_places(places)
        rows = to_stored(descriptors, places, self.settings)
        with self._storing():
            self.check_takes_photos()
            if len(places) > self.settings.shard_size:
                raise ValueError(f"Expected at most a shard of {self.settings.shard_size} rows, got {len(places)}.")
            self._store_rows(rows, places, files, removed, **state)

    def _store_rows(
        self,
        rows: NDArray[Any],
        places: Sequence[Place],
        files: Sequence[PhotoFile],
        removed: Collection[str],
        **state: Unpack[UpdateState],
    ) -> None:
        commit_rows(self._state, Rows(rows, rows_to_table(places, files)), set(removed), **state)

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
                # the rows before `start` in `rows` were moved to the end, and all rows behind each of them moved up by one
                present = rows[part] - np.searchsorted(np.sort(rows[:start]), rows[part])
                check_stored_rows(self._state, present.tolist())
                descriptors = self.descriptors.take(present)
                self.upsert(descriptors, places[part], files[part], removed=[place.path for place in places[part]])

    def remove(self, paths: Iterable[str]) -> int:
        """Remove the rows of these paths in one commit, and return their number; [`compact`] frees their space on the disk.

        Raises:
            ValueError: If a path is not in the index; then nothing is removed.
        """
        removed = set(paths)
        with self._state.writing():
            self.check_takes_photos()
            check_known_paths(self._state, removed)
            commit_pending(self._state)
            commit_rows(self._state, None, removed)
        return len(removed)

    def flush(self) -> None:
        """Store the pending rows. Afterwards a crash cannot lose any row that was added before."""
        if len(self._state.pending) or self._state.attempted:
            with self._storing():
                pass

    def finish_portion(self) -> None:
        """Make one shard of the rows of an unfinished portion, if there is one. All changes that no build makes do so first."""
        with self._storing():
            finish_portion(self._state)

    def compact(self) -> None:
        """Write the rows into full shards again, without removed ones, which frees their space on the disk.

        The rows do not change. The disk must have space for the new and the old files together; a crash keeps the old ones.
        """
        with self._storing():
            compact_rows(self._state)

    def close(self) -> None:
        """Store the pending rows and release the writer lock; an index made with `overwrite` now replaces the old one."""
        if self._state.lock.held or len(self._state.pending):
            self._state.keep_lock = False
            with self._storing():
                self._state.replace_old()

    def __enter__(self) -> "PlaceIndex":
        with self._state.writing():
            self._state.keep_lock = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._state.keep_lock = False
        try:
            self.flush() if error is not None else self.close()
        finally:
            self._state.lock.release()

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        """Acquire the writer lock, as [`IndexFolder.writing`] does, and store the pending rows first."""
        with self._state.writing():
            commit_pending(self._state)
            yield

    # ---- fused places, vector store, calibration and Hub

    @property
    def fusion(self) -> Fusion | None:
        """The fusion that made the rows, each of which then stands for a place; `None` if each row is a photo."""
        return self._state.manifest.fusion

    def check_takes_photos(self) -> None:
        """Raise ValueError if the rows are fused places, so that single photos cannot be added, changed or removed."""
        if self.fusion is not None:
            raise ValueError(
                f"The rows of the index {self.folder} are fused places ({self.fusion}), and single photos cannot be added, "
                "changed or removed. Change the index of all photos, and fuse it again: `d2vpr index PHOTOS --out INDEX "
                f"--fuse-places {self.fusion.method}`."
            )

    def store_fusion(self, method: FusionMethod, cell: float, heading: float, photos: Sequence[Sequence[str]]) -> None:
        """Record that the rows are fused places and the index is complete. From then on no row can be added or removed.

        Args:
            method: As in [`Fusion`].
            cell: As there, in metres.
            heading: As there, in degrees.
            photos: Paths of the photos of each row.

        Raises:
            ValueError: If there is another number of rows.
        """
        if len(photos) != len(self):
            raise ValueError(f"Expected the photos of {len(self)} rows, got {len(photos)}.")
        content = fused_photos_to_bytes(self.places.column("path"), photos)
        file = StoredFile.of(fused_photos_file(content), content)
        with self._storing():
            fusion = Fusion(method, cell, heading, sum(map(len, photos)), file)
            self._state.commit({file.name: content}, replace(self._state.manifest, fusion=fusion, complete=True))

    @property
    def compression(self) -> Compression:
        """Compression of the vector store, as chosen by [`build_store`]; `"none"` for exact search."""
        return self._state.manifest.compression

    @property
    def store_is_fresh(self) -> bool | None:
        """Whether a vector store can be used and few rows were added or removed since it was built; `None` without one."""
        manifest = self._state.manifest
        if not has_store(manifest):
            return None
        store = self._state.store_to_search()
        return store is not None and store.vectors is not None and is_fresh(store, manifest)

    def build_store(
        self, compression: Compression | None = None, *, store: StoreWord | None = None, uri: str | None = None
    ) -> None:
        """Build the vector store that [`search`] uses, unless there is a fresh one, and store the pending rows.

        Rows that are added later are searched exactly, and removed rows are masked. If there are many of them, this builds the
        store again. A vector store can be built from the rows at any time: it is not verified and not sent to the Hub.

        This takes the writer lock, also if there is nothing to do.

        Args:
            compression: Compression of a store in the index folder, recorded in the manifest; `None` for the recorded one.
            store: `"faiss"` for a store in the index folder, or the service that searches, such as `"milvus"`; recorded in the
                manifest; `None` for the recorded one.
            uri: Address of the service, recorded in the manifest; only with a service, see [`RemoteStore`].

        Raises:
            ValueError: If there is no such compression or store, the address of a service is missing, or the index is in the
                Hub's cache.
            BlockingIOError: If another process is changing the index.
            ConnectionError: If the service does not answer.
        """
        with self._storing():
            chosen = with_store(self._state.manifest, compression, store, uri)
            if chosen != self._state.manifest:
                self._state.commit({}, chosen)
            if self.store_is_fresh is False or self._state.has_unchecked_store:
                self._state.rebuild_store()

    @property
    def calibration(self) -> dict[str, Any] | None:
        """The calibration that [`store_calibration`] stored, or `None`. It stays when rows are added or removed.

        Raises:
            DamagedIndexError: If its file is missing or damaged.
        """
        return read_calibration(self._state)

    def store_calibration(self, calibration: dict[str, Any]) -> None:
        """Store the JSON values of a calibration in a file that the manifest names; it replaces an earlier calibration."""
        with self._state.writing():
            store_calibration(self._state, calibration)

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[Manifest]:
        """Store the pending rows, and keep other processes from changing the index while its files are read."""
        with contextlib.nullcontext() if self._state.read_only else self._state.writing():
            self.flush()
            yield self._state.manifest

    def push_to_hub(
        self,
        name: str,
        *,
        model: str | None = None,
        push_model: str | None = None,
        private: bool | None = None,
        license: str | None = None,
        thumbnails: bool = False,
        thumbnail_size: int = hub.THUMBNAIL_SIZE,
        commit_message: str = "Upload a PlaceIndex",
        token: str | None = None,
    ) -> str:
        """Upload the index to a data set repository of the Hugging Face Hub in one commit, which replaces an earlier index.

        Photos are not uploaded, but the positions and names of all of them. Arguments, errors and more details:
        [`d2vpr_hf.hub.push_index.push_index`].

        Returns:
            The URL of the commit.
        """
        from d2vpr_hf.hub.push_index import push_index

        return push_index(
            self,
            name,
            model=model,
            push_model=push_model,
            private=private,
            license=license,
            thumbnails=thumbnails,
            thumbnail_size=thumbnail_size,
            commit_message=commit_message,
            token=token,
        )
