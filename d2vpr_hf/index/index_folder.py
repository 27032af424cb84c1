"""The state of an index folder: its stored rows, the pending rows, and the commits that change them."""

import contextlib
import itertools
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from d2vpr_hf.index.derived_files import has_checksums
from d2vpr_hf.index.derived_store import (
    DerivedStore,
    build_derived_store,
    discard_store,
    is_of_kind,
    may_build,
    open_derived_store,
    record_service_data,
    without_old_data,
)
from d2vpr_hf.index.folders import WriterLock, check_free, list_names
from d2vpr_hf.index.fused_photos import FusedPhotos
from d2vpr_hf.index.manifest import (
    MANIFEST,
    REPLACEMENT,
    DamagedIndexError,
    Fusion,
    Manifest,
    ServiceData,
    Shard,
    free_number,
    is_store_folder,
    leftover_files,
    read_manifest,
    store_folder,
)
from d2vpr_hf.index.place_rows import PendingRows, PlaceRows
from d2vpr_hf.index.shards import OpenShard, open_shard
from d2vpr_hf.index.verification import check_sample
from d2vpr_hf.stores.descriptors import MappedDescriptors
from d2vpr_hf.utils.atomic_files import make_folder, remove_files, remove_folders, rename_file, store_files

logger = logging.getLogger(__name__)


class IndexFolder:
    """The state of an index: its manifest, the open shards, the pending rows and the writer lock.

    Args:
        path: The folder.
        manifest: The current manifest.
        manifest_name: File name of the manifest; [`REPLACEMENT`] for an index that will replace another one.
        read_only: Whether the index must not be changed, as in the Hub's cache.

    Attributes:
        shards: The opened files of each shard.
        store: The vector store, or `None` if there is none that fits the rows.
        pending: The rows that are not stored yet.
        lock: The lock that is held to change the folder.
        keep_lock: Whether the lock is held until the end of a `with` block.
        is_outdated: Whether another process may have changed the folder since the manifest was read.
    """

    def __init__(self, path: Path, manifest: Manifest, *, manifest_name: str = MANIFEST, read_only: bool = False) -> None:
        self.path = path
        self.manifest_name = manifest_name
        self.read_only = read_only
        self.lock = WriterLock(path)
        self.keep_lock = False
        self.is_outdated = True
        self.pending = PendingRows(manifest.settings.descriptor_dim, manifest.settings.dtype)
        self.shards: dict[Shard, OpenShard] = {}
        self.store: DerivedStore | None = None
        self._depth = 0  # number of nested `writing` blocks
        self._known_paths: set[str] | None = None
        self._has_changed = False  # whether a commit was made since the lock was acquired
        self._may_rebuild = True  # whether a damaged vector store is built again after a change
        self.fused_photos: FusedPhotos | None = None
        self._fusion: Fusion | None = None
        self._attempt: tuple[Manifest, int] | None = None  # a commit that failed, and its number of pending rows
        self.adopt(manifest)

    @property
    def count(self) -> int:
        """The number of rows, pending ones included."""
        return self.manifest.count + len(self.pending)

    @property
    def attempted(self) -> bool:
        """Whether a commit failed, so that it is not known whether its rows were stored."""
        return self._attempt is not None

    @property
    def places(self) -> PlaceRows:
        """The place of each row, in the order of the descriptors."""
        return PlaceRows([*(opened.places for opened in self.shards.values()), self.pending.places], self.fused_photos)

    @property
    def paths(self) -> set[str]:
        """The paths of all rows; collected at the first use, as only changes need them."""
        if self._known_paths is None:
            self._known_paths = set(self.places.column("path"))
        return self._known_paths

    def descriptors(self, first_shard: int = 0, *, pending: bool = True) -> MappedDescriptors:
        """Return the descriptors of the shards from `first_shard` on, and then the pending ones, as one array (N, D).

        Raises:
            DamagedIndexError: If another program cut a file since it was mapped: reading it would end the process.
        """
        shards = list(self.shards.items())[first_shard:]
        for _, opened in shards:
            opened.check()
        parts: list[NDArray[Any]] = [opened.descriptors for _, opened in shards]
        removed: list[tuple[int, ...]] = [shard.removed for shard, _ in shards]
        if pending:
            parts.append(self.pending.descriptors)
            removed.append(())
        settings = self.manifest.settings
        return MappedDescriptors(parts, removed, descriptor_dim=settings.descriptor_dim, dtype=settings.dtype)

    def store_to_search(self) -> DerivedStore | None:
        """Return the vector store. If its folder was replaced or could not be read before, read it now."""
        if self.store is not None and self.store.must_be_read:
            self.store = open_derived_store(self.path, self.manifest, self.shards, self.store)
        return self.store

    @property
    def has_unchecked_store(self) -> bool:
        """Whether an earlier version built the vector store, so that there are no checksums of its files."""
        return self.manifest.service is None and self.store is not None and not has_checksums(self.store.path)

    # ---- the writer lock

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Acquire the writer lock, unless this object holds it, and read changes of others; release it once all is stored."""
        if self.read_only:
            raise ValueError(f"The index {self.path} is in the Hub's cache. Copy the folder to change it.")
        if not self.lock.held:
            self.lock.acquire()
            self.is_outdated = True
        self._depth += 1
        try:
            if self.is_outdated or self._attempt is not None:
                self._read_changes()
            yield
        finally:
            self._depth -= 1
            self.release()

    def release(self) -> None:
        """Release the writer lock, unless it is still needed. After a change, a vector store that is damaged is built again."""
        if self._depth or self.keep_lock or len(self.pending) or self.manifest_name == REPLACEMENT:
            return
        try:
            if self._has_changed and self._may_rebuild and self.store is not None and self.store.is_damaged:
                self._may_rebuild = False  # a second try would fail like the first one
                self.rebuild_store()
                self._may_rebuild = self.store is not None and self.store.is_usable
        except Exception as error:  # the change itself is stored, and a store only makes searches faster
            logger.warning("The vector store of %s could not be built again, searches are exact: %s", self.path, error)
        finally:
            self._has_changed = False
            self.lock.release()

    def replace_old(self) -> None:
        """Replace the old index, if this index was begun to replace it."""
        if self.manifest_name == REPLACEMENT:
            rename_file(self.path, REPLACEMENT, MANIFEST)
            self.manifest_name = MANIFEST
            self.clean()

    def _read_changes(self) -> None:
        """Read the stored manifest: another process may have changed it, or a commit that failed may have stored it."""
        stored = read_manifest(self.path, self.manifest_name)
        if self._attempt is not None and stored == self._attempt[0]:
            self.pending.drop(self._attempt[1])
        self._attempt = None
        if stored != self.manifest:
            new, old = stored.settings, self.manifest.settings
            if (new.fingerprint, new.descriptor_dim, new.dtype) != (old.fingerprint, old.descriptor_dim, old.dtype):
                raise ValueError(f"The index {self.path} was replaced by one of another model in the meantime. Open it again.")
            self.adopt(stored)
            self.forget_paths()
        self.is_outdated = False
        self.clean()

    # ---- changes

    def commit(self, contents: dict[str, bytes], manifest: Manifest, pending: int = 0) -> None:
        """Store files, and then the manifest that names them. The files belong to the index once the manifest is stored.

        Args:
            contents: The files, by name.
            manifest: The new manifest.
            pending: Number of pending rows that the new manifest holds; they are then no longer pending.
        """
        assert self.lock.held  # every change is made in a `writing` block, which reads the changes of other processes first
        self._attempt = (manifest, pending)
        if contents:
            store_files(self.path, contents)
        store_files(self.path, {self.manifest_name: manifest.to_text().encode()})
        self._has_changed = True
        self.adopt(manifest)
        self.pending.drop(pending)
        self._attempt = None
        self.clean()

    def adopt(self, manifest: Manifest) -> None:
        """Make a manifest the current one: open its shards, and the vector store that covers most of them."""
        old = self.shards
        self.shards = {shard: old.get(shard) or open_shard(self.path, shard, manifest) for shard in manifest.shards}
        if manifest.fusion != self._fusion:
            self._fusion = manifest.fusion
            self.fused_photos = None if manifest.fusion is None else FusedPhotos(self.path, manifest.fusion)
        self.manifest = manifest
        self.store = open_derived_store(self.path, manifest, self.shards, self.store)

    def rebuild_store(self) -> None:
        """Build the vector store of the stored rows, and remove the old one."""
        if not may_build(self.manifest):
            return
        descriptors = self.descriptors(pending=False)
        old_manifest, path = self.manifest, self.path / store_folder(self.manifest)
        recorded = record_service_data(old_manifest, descriptors, list_names(self.path))
        if recorded != old_manifest:
            self.commit({}, recorded)
        try:
            places = PlaceRows([opened.places for opened in self.shards.values()])
            build_derived_store(self.path, self.manifest, descriptors, places)
        finally:  # until now, readers searched the data of the old store
            if recorded != old_manifest:
                discard_store(path, old_manifest)
        self.store = None  # the new folder may have the name of a damaged one
        if without_old_data(self.manifest) != self.manifest:
            self.commit({}, without_old_data(self.manifest))
        else:
            self.adopt(self.manifest)
            self.clean()

    def forget_paths(self) -> None:
        """Collect the paths of the rows again at their next use."""
        self._known_paths = None

    def clean(self) -> None:
        """Remove files that the index no longer needs. An index that will replace another one keeps the files of that one."""
        if self.manifest_name == MANIFEST:
            names = list_names(self.path)
            used = [] if self.store is None else [self.store.path.name]
            if self.store is None and self.manifest.store_uri is not None:  # the service may not have answered: keep its stores
                used = [name for name in names if is_of_kind(name, self.manifest)]
            unused = leftover_files(names, self.manifest, used)
            for name in filter(is_store_folder, unused):
                discard_store(self.path / name, self.manifest)
            remove_folders(self.path, filter(is_store_folder, unused))
            remove_files(self.path, itertools.filterfalse(is_store_folder, unused))


def begin_folder(folder: str | Path, manifest: Manifest, overwrite: bool) -> IndexFolder:
    """Begin an index without rows, or an index that will replace the one in the folder.

    Raises:
        FileExistsError: If something exists at `folder`, unless `overwrite` is set and it is an index.
        BlockingIOError: If another process is changing the index there.
    """
    path = check_free(Path(folder), overwrite)
    make_folder(path)
    begun = IndexFolder(path, manifest)
    begun.lock.acquire()
    try:
        if (path / MANIFEST).exists():
            if not overwrite:
                raise FileExistsError(f"Another process made {path} at the same time. Open it, or give another folder.")
            begun.manifest_name = REPLACEMENT
            manifest = replace(manifest, next_shard=free_number(list_names(path)), service_data=_data_at_services(path))
        begun.commit({}, manifest)
    except BaseException:
        begun.lock.release()
        raise
    begun.is_outdated = False
    begun.release()
    return begun


def _data_at_services(folder: Path) -> tuple[ServiceData, ...]:
    """Return the data at services of the index in a folder, and of one that was begun to replace it.

    A new index takes over the duty to remove them. They are not known if a manifest is damaged.
    """
    data: dict[ServiceData, None] = {}  # as a set, but in order
    for name in (MANIFEST, REPLACEMENT):
        with contextlib.suppress(FileNotFoundError, ValueError):
            data.update(dict.fromkeys(read_manifest(folder, name).service_data))
    return tuple(data)


def open_folder(path: Path, manifest_name: str = MANIFEST, *, read_only: bool = False, is_sampled: bool = False) -> IndexFolder:
    """Open an index. If a writer replaces files of the manifest before they are opened, read the manifest again.

    Args:
        path: The folder.
        manifest_name: File name of the manifest.
        read_only: Whether the index must not be changed.
        is_sampled: Whether to compare some files of descriptors with their checksums.

    Raises:
        FileNotFoundError: If `path` is not an index.
        DamagedIndexError: If a file is missing or damaged.
    """
    while True:
        manifest = read_manifest(path, manifest_name)
        try:
            opened = IndexFolder(path, manifest, manifest_name=manifest_name, read_only=read_only)
            if is_sampled:
                check_sample(path, manifest.shards)
            return opened
        except DamagedIndexError:
            if read_manifest(path, manifest_name) == manifest:
                raise
