"""PlaceIndex: descriptors and places in a folder that can be inspected, searched and changed, and that survives a crash."""

import contextlib
import itertools
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.descriptors import MappedDescriptors
from d2vpr_hf.index import hub
from d2vpr_hf.index.compression import build_rows_store, has_store, open_rows_store
from d2vpr_hf.index.durable_files import make_folder, remove_files, remove_folders, rename_file, store_files
from d2vpr_hf.index.folders import check_free, list_names
from d2vpr_hf.index.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    REPLACEMENT,
    SHARD_SIZE,
    DamagedIndexError,
    Manifest,
    Shard,
    StoredFile,
    calibration_file,
    folder_text,
    free_number,
    is_store_folder,
    leftover_files,
    read_manifest,
)
from d2vpr_hf.index.place_rows import PhotoFile, PlaceRows, rows_to_table
from d2vpr_hf.index.shards import (
    OpenShard,
    Rows,
    check_content,
    count_to_merge,
    join_rows,
    make_shard,
    open_shard,
    read_rows,
    without_paths,
)
from d2vpr_hf.index.verification import verify_index
from d2vpr_hf.index.waiting_rows import WaitingRows
from d2vpr_hf.index.writer_lock import WriterLock
from d2vpr_hf.readers import Place
from d2vpr_hf.readers.timestamps import to_seconds
from d2vpr_hf.search import check_search, exact_search, similarity
from d2vpr_hf.stores import Compression, VectorStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Match:
    """One database photo found for a query.

    Attributes:
        rank: 1 for the nearest.
        row: Its row in the index.
        place: Its place; `photo` is its file.
        score: Cosine similarity of the descriptors, at most 1 (1 - d² / 2 of the L2 distance d for projected ones).
    """

    rank: int
    row: int
    place: Place
    photo: Path
    score: float


class UpdateState(TypedDict, total=False):
    """What an update may note in the manifest together with the rows that it stores; see [`Manifest`]."""

    left_out: dict[str, str]
    complete: bool
    photos: str


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

    def __init__(self, folder: Path, manifest: Manifest, *, manifest_name: str = MANIFEST, read_only: bool = False) -> None:
        self.folder = folder
        self._manifest_name = manifest_name
        self._read_only = read_only
        self._lock = WriterLock(folder)
        self._entered = False  # a `with` block
        self._behind = True  # until the manifest was read with the right to change it
        self._depth = 0  # of the methods at work that change the index
        self._known_paths: set[str] | None = None
        self._attempt: tuple[Manifest, int] | None = None  # a commit that failed, and how many waiting rows were in it
        self._waiting = WaitingRows(manifest.descriptor_dim, manifest.dtype)
        self._shards: dict[Shard, OpenShard] = {}
        self._vectors: VectorStore | None = None
        self._adopt(manifest)

    # ---- making and opening

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        model: str | None,
        fingerprint: str,
        descriptor_dim: int,
        photos: str | Path | None = None,
        dtype: str = "float16",
        projection_dim: int | None = None,
        batch_size: int | None = None,
        shard_size: int = SHARD_SIZE,
        overwrite: bool = False,
    ) -> "PlaceIndex":
        """Begin an index without rows.

        Args:
            folder: Where it shall lie; nothing or an empty folder may be there.
            model: The model's folder or Hub id; `None` for the embedded one, or one that was never saved.
            fingerprint: The hash of the model and its preprocessing, which queries must have too.
            descriptor_dim: Width of the descriptors.
            photos: The folder that the places' paths are relative to; `None` if there is none.
            dtype: How numbers are stored, `"float16"` or `"float32"`.
            projection_dim: Width that the model projects descriptors to, if it does.
            batch_size: Photos that the network sees at once.
            shard_size: Rows of a shard at most: what a crash may lose. Tests take small ones.
            overwrite: Whether the new index may take the place of another. The old one stays in force until [`close`], or the
                end of a `with` block that nothing interrupts.

        Raises:
            FileExistsError: If something is there already, unless `overwrite` is set and it is an index.
            BlockingIOError: If another process is changing the index there.
        """
        folder = check_free(Path(folder), overwrite)
        make_folder(folder)
        manifest = Manifest(
            model,
            fingerprint,
            descriptor_dim,
            dtype,
            folder_text(photos),
            projection_dim,
            batch_size,
            shard_size=shard_size,
        )
        if not (folder / MANIFEST).exists():
            return cls._begin(folder, manifest, MANIFEST)
        return cls._begin(folder, replace(manifest, next_shard=free_number(list_names(folder))), REPLACEMENT)

    @classmethod
    def _begin(cls, folder: Path, manifest: Manifest, manifest_name: str) -> "PlaceIndex":
        index = cls(folder, manifest, manifest_name=manifest_name)
        index._lock.acquire()
        try:
            if manifest_name == MANIFEST and (folder / MANIFEST).exists():
                raise FileExistsError(f"{folder} was made by another process in this moment. Open it, or give another folder.")
            index._store({}, manifest)
        except BaseException:
            index._lock.release()
            raise
        index._behind = False
        index._give_back()
        return index

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
        index = cls._load(Path(folder))
        if not index.complete:
            logger.warning(
                "The index %s is not complete: a build of it was interrupted, or is at work. `d2vpr index` with the same "
                "photos resumes it.",
                folder,
            )
        return index

    @classmethod
    def _load(cls, folder: Path, manifest_name: str = MANIFEST, read_only: bool = False) -> "PlaceIndex":
        """Open an index; a writer may replace the files that a manifest names before they are opened."""
        while True:
            manifest = read_manifest(folder, manifest_name)
            try:
                return cls(folder, manifest, manifest_name=manifest_name, read_only=read_only)
            except DamagedIndexError:
                if read_manifest(folder, manifest_name) == manifest:
                    raise

    @classmethod
    def resume(cls, folder: str | Path, *, replacement: bool) -> "PlaceIndex | None":
        """Open an index to go on with its build, or `None` if nothing was begun there.

        Args:
            folder: Where it lies.
            replacement: Whether the index is meant that was begun with `overwrite` to take the place of the one there.
        """
        name = REPLACEMENT if replacement else MANIFEST
        if not (Path(folder) / name).exists():
            return None
        return cls._load(Path(folder), name)

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
        return cls._load(hub.fetch_index(str(name), revision=revision, token=token), read_only=True)

    # ---- what it is

    def __len__(self) -> int:
        return self._manifest.count + len(self._waiting)

    @property
    def photos(self) -> Path:
        """The folder that the places' paths are relative to."""
        return Path(self._manifest.photos)

    @property
    def model(self) -> str | None:
        """The model's folder or Hub id; `None` for the one that comes with this package, or one that was never saved."""
        return self._manifest.model

    @property
    def fingerprint(self) -> str:
        """The hash of the model and its preprocessing, which queries must have too."""
        return self._manifest.fingerprint

    @property
    def descriptor_dim(self) -> int:
        """Width of the descriptors."""
        return self._manifest.descriptor_dim

    @property
    def dtype(self) -> str:
        """How the descriptors' numbers are stored."""
        return self._manifest.dtype

    @property
    def batch_size(self) -> int | None:
        """Photos that the network saw at once; `None` if nobody said."""
        return self._manifest.batch_size

    @property
    def shard_size(self) -> int:
        """Rows of a shard at most."""
        return self._manifest.shard_size

    @property
    def complete(self) -> bool:
        """Whether the last build or update came to its end."""
        return self._manifest.complete

    @property
    def left_out(self) -> dict[str, str]:
        """Photos that could not be read when they were last tried, with the reason."""
        return dict(self._manifest.left_out)

    @property
    def descriptors(self) -> MappedDescriptors:
        """All descriptors (N, D), those that wait to be stored last. Nothing is read before it is asked for."""
        return self._mapped([self._waiting.descriptors])

    @property
    def _stored_descriptors(self) -> MappedDescriptors:
        return self._mapped([])

    def _mapped(self, more: list[NDArray[Any]]) -> MappedDescriptors:
        """See the descriptors of all shards as one array, with more behind them."""
        parts = [*(opened.descriptors for opened in self._shards.values()), *more]
        removed = [*(shard.removed for shard in self._shards), *(() for _ in more)]
        return MappedDescriptors(parts, removed, descriptor_dim=self.descriptor_dim, dtype=self.dtype)

    @property
    def places(self) -> PlaceRows:
        """The place of each row, in the order of the descriptors."""
        return PlaceRows([*(opened.places for opened in self._shards.values()), self._waiting.places])

    def info(self) -> dict[str, Any]:
        """Say what the index is, as `d2vpr info --json` prints it."""
        manifest = self._manifest
        names = ("model", "fingerprint", "projection_dim", "batch_size", "metric", "descriptor_dim", "dtype", "photos")
        return {
            "format_version": FORMAT_VERSION,
            **{name: getattr(manifest, name) for name in names},
            "count": len(self),
            "with_position": sum(place.has_position for place in self.places),
            "removed": sum(len(shard.removed) for shard in manifest.shards),
            "shards": len(manifest.shards),
            "shard_size": manifest.shard_size,
            "bytes": sum(file.size for file in manifest.files),
            "complete": manifest.complete,
            "left_out": manifest.left_out,
            "compression": manifest.compression,
            "store_is_fresh": self.store_is_fresh,
            "calibrated": manifest.calibration is not None,
        }

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

        Exact, unless there is a vector store that fits the rows (see [`compress`]): then a neighbour may be missed.

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
        chosen = self._allowed(allowed, exclude_last_seconds, query_time)
        distances, rows = self._nearest(np.atleast_2d(descriptors), top_k, chosen)
        scores, places = similarity(distances), self.places
        return [
            [self._match(rank, row, places[row], score) for rank, (row, score) in enumerate(zip(*pair, strict=True), 1)]
            for pair in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def _nearest(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest rows of queries (Q, D): squared distances and rows (Q, k). Rows that wait are in no store."""
        if self._vectors is None:
            return exact_search(queries, self.descriptors, k, allowed)
        check_search(queries, self.descriptors, k, allowed)
        count = self._manifest.count
        parts = (None, None) if allowed is None else (allowed[:count], allowed[count:])
        distances, rows = self._vectors.search(queries, k, parts[0])
        if not len(self._waiting):
            return distances, rows
        more = exact_search(queries, self._waiting.descriptors, k, parts[1])
        distances, rows = np.hstack([distances, more[0]]), np.hstack([rows, more[1] + count])
        order = np.argsort(distances, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)

    def _match(self, rank: int, row: int, place: Place, score: float) -> Match:
        return Match(rank, row, place, self.photos / place.path, score)

    def _allowed(
        self, allowed: NDArray[np.bool_] | None, exclude_last_seconds: float | None, query_time: str | float | None
    ) -> NDArray[np.bool_] | None:
        if exclude_last_seconds is None:
            return allowed
        seconds = self.places.seconds
        now = _latest(seconds) if query_time is None else to_seconds(query_time)
        if np.isnan(now):
            raise ValueError(f"Expected a time in seconds or as in ISO 8601, got {query_time!r}, or places that have one.")
        old = ~(seconds > now - exclude_last_seconds)  # also where there is no time to compare
        return old if allowed is None else allowed & old

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
        rows = self._checked(descriptors, places)
        files = [PhotoFile()] * len(places) if files is None else list(files)
        with self._writing():
            self._check_new(places)
            for start in range(0, len(rows), self.shard_size):
                part = slice(start, start + self.shard_size)
                self._waiting.extend(rows[part], places[part], files[part])
                self._paths.update(place.path for place in places[part])
                if len(self._waiting) >= self.shard_size:
                    self._store_waiting(whole_shards=True)

    def put(
        self,
        descriptors: NDArray[np.floating],
        places: Sequence[Place],
        files: Sequence[PhotoFile],
        *,
        removed: Collection[str] = (),
        **state: Unpack[UpdateState],
    ) -> None:
        """Store rows, removals and notes in one step: all of it happens, or nothing.

        Use this to bring an index in line with photos; use [`add`] to add frame by frame.

        Args:
            descriptors: (M, D), at most a shard.
            places: One a row.
            files: What is known of the photos' files.
            removed: Paths of rows to remove; a row with the path of one that is there already belongs among them.
            state: What to note in the manifest in the same step.

        Raises:
            ValueError: If shapes do not fit, there are more rows than a shard takes, or a number is not finite.
        """
        if len(places) > self.shard_size:
            raise ValueError(f"Expected at most a shard of {self.shard_size} rows, got {len(places)}.")
        rows = Rows(self._checked(descriptors, places), rows_to_table(places, files))
        with self._writing():
            self._store_waiting()
            self._commit(rows, set(removed), **state)

    def amend(self, places: Sequence[Place], files: Sequence[PhotoFile]) -> None:
        """Replace what is known of photos whose descriptors stay, found by their paths."""
        with self._writing():
            self._store_waiting()
            for start in range(0, len(places), self.shard_size):
                part = slice(start, start + self.shard_size)
                row_of = {path: row for row, path in enumerate(self.places.column("path"))}
                rows = [row_of[place.path] for place in places[part]]
                self._check_rows(rows)
                descriptors = self.descriptors.take(rows)
                self.put(descriptors, places[part], files[part], removed=[place.path for place in places[part]])

    def remove(self, paths: Iterable[str]) -> int:
        """Remove the rows of these paths, all at once; [`compact`] gives their room back. Returns how many there were.

        Raises:
            ValueError: If a path is not in the index; then nothing is removed.
        """
        wanted = set(paths)
        with self._writing():
            unknown = sorted(wanted.difference(self._paths))
            if unknown:
                raise ValueError(f"{_some(unknown)} not in the index {self.folder}; nothing was removed.")
            self._store_waiting()
            self._commit(None, wanted)
        return len(wanted)

    def flush(self) -> None:
        """Store what waits. When this returns, a crash loses nothing that was added before."""
        if len(self._waiting) or self._attempt is not None:
            with self._writing():
                self._store_waiting()

    def compact(self) -> None:
        """Write the rows anew without those that were removed, in full shards, and give back the room.

        Every row stays as it is. Needs room for the new files beside the old ones; a crash leaves the old ones in force.
        """
        with self._writing():
            self._store_waiting()
            shards = self._manifest.shards
            full = [shard.rows == self.shard_size and not shard.removed for shard in shards]
            first = full.index(False) if False in full else len(full)
            if first == len(full) or (first == len(full) - 1 and not shards[first].removed):
                return
            for shard in shards[first:]:
                check_content(self.folder, shard.descriptors, shard.places)
            whole, number = list(shards[:first]), self._manifest.next_shard
            for rows in read_rows(shards[first:], [self._shards[shard] for shard in shards[first:]], self.shard_size):
                shard, contents = make_shard(number, rows)
                store_files(self.folder, contents)
                whole, number = [*whole, shard], number + 1
            self._store({}, replace(self._manifest, shards=tuple(whole), next_shard=number))

    def close(self) -> None:
        """Store what waits and give back the right to change the index; one made with `overwrite` takes its place now."""
        if not (self._lock.held or len(self._waiting)):
            return
        self._entered = False
        with self._writing():
            self._store_waiting()
            if self._manifest_name == REPLACEMENT:
                rename_file(self.folder, REPLACEMENT, MANIFEST)
                self._manifest_name = MANIFEST
                self._clean()

    def __enter__(self) -> "PlaceIndex":
        with self._writing():
            self._entered = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._entered = False
        try:
            self.flush() if error is not None else self.close()
        finally:
            self._lock.release()

    # ---- what hangs on it

    @property
    def compression(self) -> Compression:
        """How rows are compressed for searching, as [`compress`] noted it; `"none"` for exact search."""
        return self._manifest.compression

    @property
    def store_is_fresh(self) -> bool | None:
        """Whether the vector store is there and fits the stored rows; `None` where there need not be one."""
        return self._vectors is not None if has_store(self._manifest) else None

    def compress(self, compression: Compression | None = None) -> None:
        """Build the vector store that [`search`] uses, unless it is there, and store what waits.

        The store belongs to exactly the rows that are stored now. When they change it goes, and searches are exact until this
        is called again. It can be made anew and is no part of the index: not in the manifest, not verified and not sent to
        the Hub.

        Args:
            compression: What to note in the manifest first; `None` for what is noted there.

        Raises:
            ValueError: If there is no such compression.
        """
        compression = compression or self.compression
        if compression == self.compression and self.store_is_fresh is not False and not len(self._waiting):
            return
        with self._writing():
            self._store_waiting()
            if compression != self.compression:
                self._store({}, replace(self._manifest, compression=compression))
            if self.store_is_fresh is False:
                build_rows_store(self.folder, self._manifest, self._stored_descriptors)
                self._adopt(self._manifest)

    @property
    def calibration(self) -> dict[str, Any] | None:
        """What [`store_calibration`] stored, or `None`. It stays when rows are added or removed.

        Raises:
            DamagedIndexError: If its file is missing or damaged.
        """
        stored = self._manifest.calibration
        if stored is None:
            return None
        check_content(self.folder, stored)
        return json.loads((self.folder / stored.name).read_bytes())

    def store_calibration(self, calibration: dict[str, Any]) -> None:
        """Store a calibration, JSON values, in a file that the manifest names, instead of the one before."""
        content = (json.dumps(calibration, indent=2, allow_nan=False) + "\n").encode()
        stored = StoredFile.of(calibration_file(content), content)
        with self._writing():
            self._store({stored.name: content}, replace(self._manifest, calibration=stored))

    def verify(self) -> list[str]:
        """Read everything that is stored and name every damaged file; see [`verify_index`]."""
        return verify_index(self.folder)

    def push_to_hub(
        self, name: str, *, private: bool | None = None, commit_message: str = "Upload a PlaceIndex", token: str | None = None
    ) -> str:
        """Put the index into a data set repository of the Hugging Face Hub, in one commit, instead of what was there of it.

        Photos are not uploaded; their positions and the names of the photos' and the model's folder are.

        Returns:
            The URL of the commit.
        """
        with contextlib.nullcontext() if self._read_only else self._writing():
            self.flush()
            files = [MANIFEST, *(file.name for file in self._manifest.files)]
            return hub.push_index(self.folder, files, name, private=private, commit_message=commit_message, token=token)

    # ---- within

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Take the right to change the index, if need be, and see what others did; give it back when all is stored."""
        if self._read_only:
            raise ValueError(f"The index {self.folder} lies in the Hub's cache. Copy the folder to change it.")
        if not self._lock.held:
            self._lock.acquire()
            self._behind = True
        self._depth += 1
        try:
            if self._behind or self._attempt is not None:
                self._catch_up()
            yield
        finally:
            self._depth -= 1
            self._give_back()

    def _give_back(self) -> None:
        if not (self._depth or self._entered or len(self._waiting) or self._manifest_name == REPLACEMENT):
            self._lock.release()

    def _catch_up(self) -> None:
        """See what is stored: another process may have changed it, or an own attempt that failed late was stored after all."""
        stored = read_manifest(self.folder, self._manifest_name)
        if self._attempt is not None and stored == self._attempt[0]:
            self._waiting.drop(self._attempt[1])
        self._attempt = None
        if stored != self._manifest:
            made_by = (stored.fingerprint, stored.descriptor_dim, stored.dtype)
            if made_by != (self.fingerprint, self.descriptor_dim, self.dtype):
                raise ValueError(f"The index {self.folder} was replaced by one of another model meanwhile. Open it anew.")
            self._adopt(stored)
            self._known_paths = None
        self._behind = False
        self._clean()

    def _adopt(self, manifest: Manifest) -> None:
        opened = {shard: self._shards.get(shard) for shard in manifest.shards}
        self._shards = {shard: one or open_shard(self.folder, shard, manifest) for shard, one in opened.items()}
        self._manifest = manifest
        self._vectors = open_rows_store(self.folder, manifest, self._stored_descriptors)

    def _clean(self) -> None:
        """Remove what the index no longer needs; while it is to replace another, that one's files are needed."""
        if self._manifest_name == MANIFEST:
            names = leftover_files(list_names(self.folder), self._manifest)
            remove_folders(self.folder, filter(is_store_folder, names))
            remove_files(self.folder, itertools.filterfalse(is_store_folder, names))

    def _checked(self, descriptors: NDArray[np.floating], places: Sequence[Place]) -> NDArray[Any]:
        """Return descriptors (M, D) in the type of the index."""
        rows = np.atleast_2d(descriptors)
        if rows.shape != (len(places), self.descriptor_dim):
            raise ValueError(f"Expected descriptors ({len(places)}, {self.descriptor_dim}), one a place, got {rows.shape}.")
        with np.errstate(over="ignore"):
            stored = rows.astype(self.dtype)
        if not np.isfinite(stored).all():
            raise ValueError(f"A descriptor is not finite in {self.dtype}; nothing was added.")
        return stored

    def _check_rows(self, rows: Sequence[int]) -> None:
        """Raise DamagedIndexError unless the shards that rows lie in are what was stored."""
        ends = np.cumsum([shard.count for shard in self._shards])
        touched = set(np.searchsorted(ends, rows, side="right").tolist())
        for number, shard in enumerate(self._shards):
            if number in touched:
                check_content(self.folder, shard.descriptors, shard.places)

    def _check_new(self, places: Sequence[Place]) -> None:
        paths = [place.path for place in places]
        known = sorted({path for path in paths if path in self._paths})
        if known:
            raise ValueError(f"{_some(known)} in the index {self.folder} already; remove them first. Nothing was added.")
        if len(set(paths)) != len(paths):
            raise ValueError(f"A path is given twice among {_some(sorted(paths))}. Nothing was added.")

    @property
    def _paths(self) -> set[str]:
        """The paths of all rows; collected when they are first needed, as only those who add need them."""
        if self._known_paths is None:
            self._known_paths = set(self.places.column("path"))
        return self._known_paths

    def _store_waiting(self, whole_shards: bool = False) -> None:
        """Store what waits; with `whole_shards`, a rest that fills none goes on waiting."""
        while len(self._waiting) >= (self.shard_size if whole_shards else 1):
            count = min(len(self._waiting), self.shard_size)
            rows = Rows(self._waiting.descriptors[:count], self._waiting.places.first(count))
            self._commit(rows, (), waiting=count)

    def _commit(self, rows: Rows | None, removed: Collection[str], *, waiting: int = 0, **changes: Unpack[UpdateState]) -> None:
        """Store rows, removals and notes in one step; `waiting` says how many of the waiting rows these are."""
        shards = [without_paths(shard, opened, removed) for shard, opened in self._shards.items()]
        shards = [shard for shard in shards if shard.count]
        number = self._manifest.next_shard
        contents: dict[str, bytes] = {}
        if rows is not None and len(rows.descriptors):
            shards, contents = self._with_rows(shards, rows)
            number += 1
        manifest = replace(self._manifest, shards=tuple(shards), next_shard=number, **changes)
        if manifest != self._manifest:
            self._store(contents, manifest, waiting)
        if removed or (rows is not None and not waiting):
            self._known_paths = None

    def _with_rows(self, shards: list[Shard], rows: Rows) -> tuple[list[Shard], dict[str, bytes]]:
        """Put rows behind shards, the last of which may be stored anew with them; return what files that takes."""
        kept = len(shards) - count_to_merge(shards, len(rows.descriptors), self.shard_size)
        merged = [open_shard(self.folder, shard, self._manifest) for shard in shards[kept:]]
        for shard in shards[kept:]:
            check_content(self.folder, shard.descriptors, shard.places)
        if merged:
            rows = join_rows([*read_rows(shards[kept:], merged, self.shard_size), rows])
        shard, contents = make_shard(self._manifest.next_shard, rows)
        return [*shards[:kept], shard], contents

    def _store(self, contents: dict[str, bytes], manifest: Manifest, waiting: int = 0) -> None:
        """Store files, then the manifest that names them: from then on, and not before, they are part of the index."""
        self._attempt = (manifest, waiting)
        if contents:
            store_files(self.folder, contents)
        store_files(self.folder, {self._manifest_name: manifest.to_text().encode()})
        self._adopt(manifest)
        self._waiting.drop(waiting)
        self._attempt = None
        self._clean()


def _latest(seconds: NDArray[np.float64]) -> float:
    known = seconds[~np.isnan(seconds)]
    return float(known.max()) if len(known) else np.nan


def _some(paths: Sequence[str]) -> str:
    """Name a few of many paths, and say how many there are."""
    rest = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"{', '.join(paths[:3])}{rest}" + (" is" if len(paths) == 1 else " are")


__all__ = ["Match", "PlaceIndex", "UpdateState"]
