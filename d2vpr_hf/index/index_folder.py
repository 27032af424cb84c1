"""What is in an index folder, what waits to be, and the one way to change it."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from d2vpr_hf.index.derived_store import DerivedStore, build_derived_store, discard_store, is_of_kind, open_derived_store
from d2vpr_hf.index.folders import WriterLock, check_free, list_names
from d2vpr_hf.index.manifest import (
    MANIFEST,
    REPLACEMENT,
    DamagedIndexError,
    Manifest,
    Shard,
    free_number,
    is_store_folder,
    leftover_files,
    read_manifest,
)
from d2vpr_hf.index.place_rows import PendingRows, PlaceRows
from d2vpr_hf.index.shards import OpenShard, open_shard
from d2vpr_hf.stores.descriptors import MappedDescriptors
from d2vpr_hf.utils.atomic_files import make_folder, remove_files, remove_folders, rename_file, store_files


class IndexFolder:
    """The state of an index: the manifest in force, its shards, the rows that wait, and the right to change all that.

    Args:
        path: Where it lies.
        manifest: What is in force.
        manifest_name: Its file; [`REPLACEMENT`] while the index is to take the place of another one.
        read_only: Whether nothing may be changed, as in the Hub's cache.

    Attributes:
        shards: The opened files of each shard.
        store: The vector store, or `None` where there is none that fits.
        pending: The rows that are not stored yet.
        lock: The right to change the folder.
    """

    def __init__(self, path: Path, manifest: Manifest, *, manifest_name: str = MANIFEST, read_only: bool = False) -> None:
        self.path = path
        self.manifest_name = manifest_name
        self.read_only = read_only
        self.lock = WriterLock(path)
        self.kept = False  # the right is kept until the end of a `with` block
        self.behind = True  # until the manifest was read with the right to change it
        self.pending = PendingRows(manifest.settings.descriptor_dim, manifest.settings.dtype)
        self.shards: dict[Shard, OpenShard] = {}
        self.store: DerivedStore | None = None
        self._depth = 0  # of the methods at work that change the index
        self._known_paths: set[str] | None = None
        self._attempt: tuple[Manifest, int] | None = None  # a commit that failed, and how many pending rows were in it
        self.adopt(manifest)

    @property
    def count(self) -> int:
        """Rows, those that wait included."""
        return self.manifest.count + len(self.pending)

    @property
    def attempted(self) -> bool:
        """Whether a commit failed, so that nobody knows yet whether it was stored."""
        return self._attempt is not None

    @property
    def places(self) -> PlaceRows:
        """The place of each row, in the order of the descriptors."""
        return PlaceRows([*(opened.places for opened in self.shards.values()), self.pending.places])

    @property
    def paths(self) -> set[str]:
        """The paths of all rows; collected when they are first needed, as only those who add need them."""
        if self._known_paths is None:
            self._known_paths = set(self.places.column("path"))
        return self._known_paths

    def descriptors(self, first_shard: int = 0, *, pending: bool = True) -> MappedDescriptors:
        """See the descriptors of all shards from one on as one array, with those that wait behind them."""
        more: list[NDArray[Any]] = [self.pending.descriptors] if pending else []
        shards = list(self.shards.items())[first_shard:]
        parts = [*(opened.descriptors for _, opened in shards), *more]
        removed = [*(shard.removed for shard, _ in shards), *(() for _ in more)]
        settings = self.manifest.settings
        return MappedDescriptors(parts, removed, descriptor_dim=settings.descriptor_dim, dtype=settings.dtype)

    # ---- the right to change it

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Take the right to change the index, if need be, and see what others did; give it back when all is stored."""
        if self.read_only:
            raise ValueError(f"The index {self.path} lies in the Hub's cache. Copy the folder to change it.")
        if not self.lock.held:
            self.lock.acquire()
            self.behind = True
        self._depth += 1
        try:
            if self.behind or self._attempt is not None:
                self._catch_up()
            yield
        finally:
            self._depth -= 1
            self.give_back()

    def give_back(self) -> None:
        """Give back the right to change the index, unless it is still needed."""
        if not (self._depth or self.kept or len(self.pending) or self.manifest_name == REPLACEMENT):
            self.lock.release()

    def take_place(self) -> None:
        """Put an index that was begun in the place of another one into force."""
        if self.manifest_name == REPLACEMENT:
            rename_file(self.path, REPLACEMENT, MANIFEST)
            self.manifest_name = MANIFEST
            self.clean()

    def _catch_up(self) -> None:
        """See what is stored: another process may have changed it, or an own attempt that failed late was stored after all."""
        stored = read_manifest(self.path, self.manifest_name)
        if self._attempt is not None and stored == self._attempt[0]:
            self.pending.drop(self._attempt[1])
        self._attempt = None
        if stored != self.manifest:
            self._check_same_model(stored)
            self.adopt(stored)
            self.forget_paths()
        self.behind = False
        self.clean()

    def _check_same_model(self, stored: Manifest) -> None:
        made_by = [(one.fingerprint, one.descriptor_dim, one.dtype) for one in (stored.settings, self.manifest.settings)]
        if made_by[0] != made_by[1]:
            raise ValueError(f"The index {self.path} was replaced by one of another model meanwhile. Open it anew.")

    # ---- changing it

    def commit(self, contents: dict[str, bytes], manifest: Manifest, pending: int = 0) -> None:
        """Store files, then the manifest that names them: from then on, and not before, they are part of the index.

        Args:
            contents: The files, by name.
            manifest: What will be in force.
            pending: How many of the rows that wait are in it.
        """
        self._attempt = (manifest, pending)
        if contents:
            store_files(self.path, contents)
        store_files(self.path, {self.manifest_name: manifest.to_text().encode()})
        self.adopt(manifest)
        self.pending.drop(pending)
        self._attempt = None
        self.clean()

    def adopt(self, manifest: Manifest) -> None:
        """See a manifest as the one in force: open its shards, and the vector store that fits them."""
        opened = {shard: self.shards.get(shard) for shard in manifest.shards}
        self.shards = {shard: one or open_shard(self.path, shard, manifest) for shard, one in opened.items()}
        self.manifest = manifest
        self.store = open_derived_store(self.path, manifest, self.shards, self.store)

    def rebuild_store(self) -> None:
        """Build the vector store of the stored rows, and remove the old one."""
        build_derived_store(self.path, self.manifest, self.descriptors(pending=False))
        self.store = None  # the new folder may have the name of a damaged one
        self.adopt(self.manifest)
        self.clean()

    def forget_paths(self) -> None:
        """Collect the paths of the rows anew when they are needed next."""
        self._known_paths = None

    def clean(self) -> None:
        """Remove what the index no longer needs; while it is to replace another, that one's files are needed."""
        if self.manifest_name == MANIFEST:
            names = list_names(self.path)
            unused = leftover_files(names, self.manifest, self._used_stores(names))
            for name in filter(is_store_folder, unused):
                discard_store(self.path / name)
            remove_folders(self.path, filter(is_store_folder, unused))
            remove_files(self.path, itertools.filterfalse(is_store_folder, unused))

    def _used_stores(self, names: Sequence[str]) -> list[str]:
        """Pick the store's folder; where Milvus did not answer, all that may be one when it does again."""
        if self.store is not None:
            return [self.store.path.name]
        return [name for name in names if self.manifest.store_uri is not None and is_of_kind(name, self.manifest)]


def begin_folder(folder: str | Path, manifest: Manifest, overwrite: bool) -> IndexFolder:
    """Begin an index without rows, in the place of another one if that is allowed and there is one.

    Raises:
        FileExistsError: If something is there already, unless `overwrite` is set and it is an index.
        BlockingIOError: If another process is changing the index there.
    """
    path = check_free(Path(folder), overwrite)
    make_folder(path)
    if not (path / MANIFEST).exists():
        return _begin(IndexFolder(path, manifest))
    manifest = replace(manifest, next_shard=free_number(list_names(path)))
    return _begin(IndexFolder(path, manifest, manifest_name=REPLACEMENT))


def _begin(begun: IndexFolder) -> IndexFolder:
    begun.lock.acquire()
    try:
        if begun.manifest_name == MANIFEST and (begun.path / MANIFEST).exists():
            raise FileExistsError(f"{begun.path} was made by another process in this moment. Open it, or give another folder.")
        begun.commit({}, begun.manifest)
    except BaseException:
        begun.lock.release()
        raise
    begun.behind = False
    begun.give_back()
    return begun


def open_folder(path: Path, manifest_name: str = MANIFEST, *, read_only: bool = False) -> IndexFolder:
    """Open an index; a writer may replace the files that a manifest names before they are opened.

    Raises:
        FileNotFoundError: If `path` is no index.
        DamagedIndexError: If a file is missing or damaged.
    """
    while True:
        manifest = read_manifest(path, manifest_name)
        try:
            return IndexFolder(path, manifest, manifest_name=manifest_name, read_only=read_only)
        except DamagedIndexError:
            if read_manifest(path, manifest_name) == manifest:
                raise
