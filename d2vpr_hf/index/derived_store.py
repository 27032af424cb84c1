"""The vector store of an index: built of the rows that the index had at some time, and used to search the present rows.

Files of shards never change, so a store records the shards that it was built of by the names and checksums of their files. Rows
that were removed later are masked, and rows that were added later are searched exactly; when these are too many, the store is
built again. A store can always be built from the rows: it is not in the manifest, not verified and not sent to the Hub.
"""

import errno
import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index.derived_files import check_store_contents, check_store_sizes, write_checksums
from d2vpr_hf.index.folders import list_names
from d2vpr_hf.index.manifest import Manifest, ServiceData, Shard, is_store_folder, store_folder, store_service
from d2vpr_hf.index.place_rows import PlaceRows
from d2vpr_hf.index.shards import OpenShard
from d2vpr_hf.stores import (
    LOCAL_STORE,
    SERVICES,
    STORES,
    Compression,
    VectorStore,
    build_store,
    check_compression,
    check_store_files,
    open_store,
    remote_store,
)
from d2vpr_hf.stores.descriptors import MappedDescriptors, kept_rows
from d2vpr_hf.stores.exact import check_result
from d2vpr_hf.stores.files import MappedFile
from d2vpr_hf.utils import atomic_files
from d2vpr_hf.utils.bounded_files import parse_json
from d2vpr_hf.utils.confirmed_names import confirm, is_confirmed

logger = logging.getLogger(__name__)

_EXACT = "The search is exact: the vector store %s%s cannot be used. %s %s"
_REBUILD = "`d2vpr index` and `d2vpr compact` build the store again."
_RETRY = "The next search tries the store again."

# Number and share of added and removed rows above which a store is built again.
# 4,096 rows of 512 numbers take 2 ms to search exactly; a store of a million takes 4 s to build.
LAG_ROWS = 4096
LAG_SHARE = 0.005
_SHARDS = "shards.json"
_MOST_ROWS = 1 << 24


class BuiltShard(NamedTuple):
    """The state of a shard when a store was built: its file of descriptors, the number of its rows, and the removed rows."""

    name: str
    sha256: str
    rows: int
    removed: tuple[int, ...]

    @classmethod
    def of(cls, shard: Shard) -> "BuiltShard":
        """Return the present state of a shard."""
        return cls(shard.descriptors.name, shard.descriptors.sha256, shard.rows, shard.removed)


class LazyStore:
    """The vector store in a folder, opened by the first search, because opening imports FAISS or the client of a service.

    A store only makes searches faster. Whatever fails in it, the search is exact, and one warning names the store. After an
    error that may pass, such as a service that does not answer or too many open files, the next search tries the store again.

    Args:
        path: The folder.
        descriptors: The descriptors that the store was built of; `None` if the folder could not be read.
        previous: The store of the same folder that was used before, whose warning is not repeated.

    Attributes:
        error: The damage for which the store is not used; `None` for a store that can be used.
    """

    def __init__(self, path: Path, descriptors: MappedDescriptors | None, previous: "LazyStore | None" = None) -> None:
        self.path, self._descriptors = path, descriptors
        self.error: Exception | None = None
        self._vectors: VectorStore | None = None
        self._mapped: list[MappedFile] = []  # files of the opened store
        self._has_warned: bool = previous is not None and previous._has_warned
        self._damaged_folder: tuple[int, int] | None = None  # the state of the folder at the error

    @property
    def vectors(self) -> VectorStore | None:
        """The opened store; `None` if it cannot be used. Opening it compares the contents of its files with their checksums."""
        if self._vectors is None and self.error is None and self._descriptors is not None:
            try:
                check_store_contents(self.path)
                self._mapped = [MappedFile.of(path) for path in sorted(self.path.iterdir())]
                self._vectors = open_store(self.path, self._descriptors)
            except Exception as error:  # parsers of damaged files raise errors of any type
                self.fail(error)
        return self._vectors

    @property
    def is_usable(self) -> bool:
        """Whether the store is opened, or nothing has failed in it until now."""
        return self._vectors is not None or (self._descriptors is not None and self.error is None and not self._has_warned)

    @property
    def must_be_read(self) -> bool:
        """Whether the folder must be read again: it was removed, replaced after an error, or could not be read."""
        if self._vectors is not None:
            return False
        if self.error is not None:
            return _folder_state(self.path) != self._damaged_folder
        return self._descriptors is None or not self.path.exists()

    def search(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        """Find the k nearest rows of the store, as [`VectorStore.search`] does; `None` if the store cannot be used."""
        vectors = self.vectors
        if vectors is None or self._descriptors is None:
            return None
        try:
            for mapped in self._mapped:
                mapped.check()
            distances, rows = vectors.search(queries, k, allowed)
            check_result(distances, rows, len(queries), k, len(self._descriptors) if allowed is None else allowed)
        except Exception as error:  # see `vectors`
            self.fail(error)
            return None
        self._has_warned = False
        return distances, rows

    def fail(self, error: Exception) -> None:
        """Log an error; record that the store cannot be used, unless the error may pass or a writer has just replaced it."""
        if _may_pass(error):
            self._warn(error, _RETRY)
            return
        self._vectors = None
        if self.path.exists():
            self.error, self._damaged_folder = error, _folder_state(self.path)
            self._warn(error, _REBUILD)

    def _warn(self, error: Exception, advice: str) -> None:
        if not self._has_warned:
            logger.warning(_EXACT, self.path, _file_names(self.path), str(error) or type(error).__name__, advice)
        self._has_warned = True


class DerivedStore:
    """A store of earlier rows of an index that is used to search the present rows.

    Args:
        store: The store in its folder.
        built: The shards that the store was built of.
        manifest: The manifest of the present rows.

    Attributes:
        num_shards: Number of present shards that the store covers; they are the first ones.
        num_rows: Number of present rows in these shards.
        lag: Number of rows that were added or removed since the store was built.

    Raises:
        ValueError: If the present rows do not begin with rows of the store.
    """

    def __init__(self, store: LazyStore, built: Sequence[BuiltShard], manifest: Manifest) -> None:
        self.path = store.path
        self._store, self._built = store, built
        self.num_shards = num_covered_shards(built, manifest)
        present = _present_rows(built, manifest.shards[: self.num_shards])
        self.num_rows = int(present.sum())
        self.lag = manifest.count + len(present) - 2 * self.num_rows
        self._present = None if present.all() else present  # mask of the store's rows
        self._store_rows = None if self._present is None else np.flatnonzero(present)  # number in the store of each present row

    @property
    def vectors(self) -> VectorStore | None:
        """The opened store of the earlier rows; `None` if it cannot be used."""
        return self._store.vectors

    @property
    def is_usable(self) -> bool:
        """Whether nothing has failed in the store until now, or it was opened after an error that has passed."""
        return self._store.is_usable

    @property
    def is_damaged(self) -> bool:
        """Whether the store failed and must be built again; a service that does not answer is not damaged."""
        return self._store.error is not None and not isinstance(self._store.error, ImportError)

    @property
    def must_be_read(self) -> bool:
        """Whether the folder must be read again; see [`LazyStore.must_be_read`]."""
        return self._store.must_be_read

    def fits(self, manifest: Manifest) -> bool:
        """Return whether the store covers rows of another manifest, or could not be read."""
        return not self._built or _lag(self._built, manifest) is not None

    def of(self, manifest: Manifest) -> "DerivedStore":
        """Return the same store for the rows of another manifest."""
        return DerivedStore(self._store, self._built, manifest)

    def search(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        """Find the k nearest of the first `num_rows` rows, or of the allowed ones: squared distances and rows (Q, k).

        Args:
            queries: (Q, D).
            k: Number of neighbours.
            allowed: (num_rows,) bool, the rows to choose from; `None` for all.

        Returns:
            Distances and rows; `None` if the store cannot be used, which was logged.
        """
        nearest = self._store.search(queries, k, self._mask(allowed))
        if nearest is None or self._store_rows is None:
            return nearest
        return nearest[0], np.searchsorted(self._store_rows, nearest[1])

    def _mask(self, allowed: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        """Turn a mask (num_rows,) of present rows into a mask of the store's rows; `None` stands for all rows."""
        if self._present is None or self._store_rows is None:
            return allowed
        if allowed is None:
            return self._present
        mask = np.zeros(len(self._present), np.bool_)
        mask[self._store_rows] = allowed
        return mask


def check_store(store: str | None, uri: str | None, compression: str | None) -> None:
    """Check that store, address and compression fit together; `None` keeps the recorded choice.

    Raises:
        ImportError: If the client of the service is not installed.
        ValueError: If they do not fit together.
    """
    check_compression(compression or "none")
    if store not in (None, *STORES):
        raise ValueError(f"Expected a store of {', '.join(STORES)}, got {store!r}.")
    if store is None or store == LOCAL_STORE:
        if uri is not None:
            services = " or ".join(f'`store="{service}"`' for service in SERVICES)
            raise ValueError(f"`uri` is the address of a service: give {services} with `uri`.")
    elif uri is None:
        examples = " or ".join(f'`uri="{example}"`' for example in remote_store(store).uri_examples)
        raise ValueError(f'`store="{store}"` needs the address of the service: give {examples}.')
    else:
        remote_store(store).key(uri)


def with_store(manifest: Manifest, compression: Compression | None, store: str | None, uri: str | None) -> Manifest:
    """Return a manifest that records the choice of a vector store; `None` keeps the recorded choice.

    The address of a service that is given here is one that the user gave: it may be used from then on.

    Raises:
        ValueError: If the compression or the store does not exist, or they do not fit together.
    """
    check_store(store, uri, compression)
    service = None if store == LOCAL_STORE else store or manifest.service
    address = None if service is None else remote_store(service).key(uri) if uri else manifest.store_uri
    if uri and address is not None:
        confirm("addresses", address)
    if compression not in (None, "none") and service is not None:
        raise ValueError(
            f'A {service} store has a compression of its own: omit `compression="{compression}"`, or give '
            f'`store="{LOCAL_STORE}"`.'
        )
    return replace(manifest, compression=compression or manifest.compression, store_uri=address, service=service)


def has_store(manifest: Manifest) -> bool:
    """Return whether searches of these rows use a vector store: one is chosen, and rows are stored."""
    return manifest.store_kind != "none" and manifest.count > 0


def is_fresh(store: DerivedStore | None, manifest: Manifest) -> bool:
    """Return whether there is a store that can be used, and few rows were added or removed since it was built."""
    return store is not None and store.is_usable and store.lag <= max(LAG_ROWS, LAG_SHARE * manifest.count)


def open_derived_store(
    folder: Path, manifest: Manifest, shards: Mapping[Shard, OpenShard], previous: DerivedStore | None
) -> DerivedStore | None:
    """Return the store with the smallest lag; `None` if no store covers a row.

    The files of a local store are checked, and it is opened by the first search. A store of a service is opened at once. A
    store that is damaged or does not answer is logged; it is returned too, and its searches give `None`.

    Args:
        folder: The folder of the index.
        manifest: The manifest of the present rows.
        shards: The opened files of the shards.
        previous: The store that was used before; it is returned for the present rows if it has the smallest lag.
    """
    if not has_store(manifest):
        return None
    names = [name for name in list_names(folder) if is_of_kind(name, manifest)]
    stores: list[DerivedStore] = []
    for name in sorted(names, key=lambda name: name != store_folder(manifest)):
        store = _open_store(folder / name, manifest, shards, previous)
        if store is not None and store.is_usable and store.lag == 0:  # so that others, which may be damaged, are not looked at
            return store
        if store is not None:
            stores.append(store)
    return min(stores, key=lambda store: (not store.is_usable, store.lag), default=None)


def _open_store(
    path: Path, manifest: Manifest, shards: Mapping[Shard, OpenShard], previous: DerivedStore | None
) -> DerivedStore | None:
    """Return the store in a folder; `None` if it covers no present row, or a writer has just removed the folder."""
    same = previous if previous is not None and previous.path == path and not previous.must_be_read else None
    unread = previous._store if previous is not None and previous.path == path and not previous.is_damaged else None
    try:
        built = _read_built(path, manifest)
        if _lag(built, manifest) is None:
            return None
        if same is not None:
            return same.of(manifest)
        descriptors = _descriptors_of(built, shards, manifest)
        store = LazyStore(path, descriptors, unread)
        check_store_files(path, descriptors)
        opened = DerivedStore(store, built, manifest)
        if manifest.service is not None:
            _ = opened.vectors
        return opened
    except Exception as error:  # see `LazyStore.vectors`
        if same is not None and (same.is_damaged or _may_pass(error)) and same.fits(manifest):  # damage was logged before
            return same.of(manifest)
        store = LazyStore(path, None, unread)
        store.fail(error)
        return DerivedStore(store, (), manifest) if path.exists() else None


def build_derived_store(folder: Path, manifest: Manifest, descriptors: MappedDescriptors, places: PlaceRows) -> None:
    """Build the store of the rows of a manifest, in place of a damaged one.

    Args:
        folder: The folder of the index.
        manifest: The manifest, which also records the kind of store.
        descriptors: The descriptors (N, D) of its rows.
        places: Their places.

    Raises:
        OSError: If the disk is full or the folder cannot be written to.
    """
    data = next((data for data in reversed(manifest.service_data) if data.folder == store_folder(manifest)), None)
    built = json.dumps([BuiltShard.of(shard)._asdict() for shard in manifest.shards], indent=1) + "\n"

    def write(path: Path) -> None:
        if data is None:
            store = build_store(descriptors, manifest.compression)
        else:
            store = remote_store(data.service).build(path, descriptors, data.uri, data.name, places.to_timed_table())
        store.save(path)
        atomic_files.write_file(path / _SHARDS, built)
        write_checksums(path)

    atomic_files.store_folder(folder, store_folder(manifest), write)


def may_build(manifest: Manifest) -> bool:
    """Return whether the store of an index may be built; log it if the user did not give the address of its service."""
    if manifest.store_uri is None or manifest.service is None:
        return True
    if is_confirmed("addresses", manifest.store_uri, remote_store(manifest.service).key):
        return True
    logger.warning(
        "The index names the service %s, an address that you did not give on this machine: no store is built there, and the "
        "search is exact. If it is yours, build the store with `uri`.",
        manifest.store_uri,
    )
    return False


def record_service_data(manifest: Manifest, descriptors: MappedDescriptors, names: Sequence[str]) -> Manifest:
    """Return a manifest that records the data which the store of its rows will have at a service, under a new name.

    The name has a part that others cannot guess, so that no index from elsewhere names the data. Data whose folder is not among
    the names in the index were removed before; data of the present store stay until the new ones are complete.
    """
    if manifest.service is None or manifest.store_uri is None:
        return manifest
    present = {name.removesuffix(atomic_files.TEMPORARY) for name in names}
    name = f"{manifest.rows_id}_{secrets.token_hex(8)}"
    checksum = remote_store(manifest.service).checksum(descriptors)
    data = ServiceData(store_folder(manifest), manifest.service, manifest.store_uri, name, checksum)
    others = tuple(other for other in manifest.service_data if other.folder in present | {data.folder})
    return replace(manifest, service_data=(*others, data))


def without_old_data(manifest: Manifest) -> Manifest:
    """Return a manifest that records only the latest data of each store."""
    latest = {data.folder: data for data in manifest.service_data}
    return replace(manifest, service_data=tuple(latest.values()))


def discard_store(path: Path, manifest: Manifest) -> None:
    """Remove the data that the store in a folder has at a service, before the folder is removed.

    The manifest decides which data that are: the folder may have been put there by others.
    """
    if store_service(path.name) is None:
        return
    recorded = [data for data in manifest.service_data if data.folder == path.name.removesuffix(atomic_files.TEMPORARY)]
    if not recorded and path.exists():
        logger.warning("%s names data at a service that this index did not record: they stay there.", path)
    for data in recorded:
        try:
            remote_store(data.service).discard(data.uri, data.name, data.checksum)
        except (OSError, ImportError, ValueError) as error:
            logger.warning(
                "The data of %s are no longer needed but were not removed: the %s data at %s whose name ends in %s. %s",
                path,
                data.service,
                data.uri,
                data.name,
                error,
            )


def is_of_kind(name: str, manifest: Manifest) -> bool:
    """Return whether a folder of this name holds a store of the kind that an index has chosen."""
    return is_store_folder(name) and name.endswith(f".{manifest.store_kind}")


def num_covered_shards(built: Sequence[BuiltShard], manifest: Manifest) -> int:
    """Return the number of the first shards that a store covers.

    Raises:
        ValueError: If the shards that it was built of are not the first ones in this order, or it lacks rows of these shards.
    """
    present = [(shard.descriptors.name, shard.descriptors.sha256) for shard in manifest.shards]
    covered = [shard for shard in built if (shard.name, shard.sha256) in set(present)]
    if [(shard.name, shard.sha256) for shard in covered] != present[: len(covered)]:
        raise ValueError("The store was built of rows in another order. Build it again from the descriptors.")
    pairs = zip(covered, manifest.shards, strict=False)
    if any(not set(shard.removed).issubset(present_shard.removed) for shard, present_shard in pairs):
        raise ValueError("The store was built after rows of the index were removed. Build it again from the descriptors.")
    return len(covered)


def _lag(built: Sequence[BuiltShard], manifest: Manifest) -> int | None:
    """Return the number of rows that were added or removed since a store was built; `None` if it covers no present row."""
    try:
        covered = sum(shard.count for shard in manifest.shards[: num_covered_shards(built, manifest)])
    except ValueError:
        return None
    return manifest.count + sum(shard.rows - len(shard.removed) for shard in built) - 2 * covered if covered else None


def _present_rows(built: Sequence[BuiltShard], shards: Sequence[Shard]) -> NDArray[np.bool_]:
    """Return the mask of the rows that a store was built of and that were not removed."""
    removed = {shard.descriptors.name: shard.removed for shard in shards}
    masks = [np.empty(0, np.bool_)]
    for shard in built:
        if shard.name not in removed:
            masks.append(np.zeros(shard.rows - len(shard.removed), np.bool_))
        elif removed[shard.name] == shard.removed:  # no later removal, as in most shards
            masks.append(np.ones(shard.rows - len(shard.removed), np.bool_))
        else:
            masks.append(~np.isin(kept_rows(shard.rows, shard.removed), removed[shard.name]))
    return np.concatenate(masks)


def _descriptors_of(built: Sequence[BuiltShard], shards: Mapping[Shard, OpenShard], manifest: Manifest) -> MappedDescriptors:
    """Return the descriptors that a store was built of as one array; zeros stand for rows whose files were removed."""
    files = {shard.descriptors.name: opened.descriptors for shard, opened in shards.items()}
    width, dtype = manifest.settings.descriptor_dim, manifest.settings.dtype
    zeros = np.zeros((1, width), dtype)
    parts = [files.get(shard.name, np.broadcast_to(zeros, (shard.rows, width))) for shard in built]
    removed = [shard.removed for shard in built]
    return MappedDescriptors(parts, removed, descriptor_dim=width, dtype=dtype)


def _read_built(path: Path, manifest: Manifest) -> list[BuiltShard]:
    """Read the shards that a store was built of, after a look at all files of its folder.

    Raises:
        OSError, ValueError, KeyError, TypeError: If a file is damaged, or these are not shards that an index had.
    """
    check_store_sizes(path)
    values: list[dict[str, Any]] = parse_json((path / _SHARDS).read_bytes())
    built = [BuiltShard(str(v["name"]), str(v["sha256"]), int(v["rows"]), tuple(map(int, v["removed"]))) for v in values]
    present = {shard.descriptors: shard.rows for shard in manifest.shards}
    rows_of = {(file.name, file.sha256): rows for file, rows in present.items()}
    for shard in built:
        removed = [row for row in shard.removed if 0 <= row < shard.rows]
        is_possible = 0 < shard.rows == rows_of.get((shard.name, shard.sha256), shard.rows)
        if not is_possible or sorted(set(removed)) != list(shard.removed):
            raise ValueError(f"{path / _SHARDS} is damaged: {shard.name} cannot have {shard.rows} rows.")
    if sum(shard.rows for shard in built) > _MOST_ROWS + 100 * manifest.count:  # they would take memory
        raise ValueError(f"{path / _SHARDS} is of a far larger index.")
    return built


def _may_pass(error: Exception) -> bool:
    """Return whether an error says nothing about the files of a store, so that a later search may succeed.

    Such are connections that fail, too little memory, and errors of the system other than missing files.
    """
    if isinstance(error, ConnectionError | TimeoutError | MemoryError):
        return True
    return isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


def _folder_state(path: Path) -> tuple[int, int] | None:
    """Return numbers that change when a folder is replaced; `None` if there is no folder."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _file_names(path: Path) -> str:
    """Return the names of the files of numbers in a folder, as a part of a sentence."""
    try:
        names = sorted(name for name in list_names(path) if not name.endswith(".json"))
    except OSError:
        return ""
    return f" ({', '.join(names)})" if names else ""
