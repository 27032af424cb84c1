"""The vector store of an index: derived from its rows as they once were, and used for the rows as they are.

Files of shards never change, so a store knows what it was built of by their names and checksums. Rows that were removed since
are masked, rows that came since are searched exactly beside it; when these are too many it is built anew. A store can always be
made from the rows and is no part of the index: not in the manifest, not verified, not sent to the Hub.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index.folders import list_names
from d2vpr_hf.index.manifest import Manifest, Shard, is_store_folder, store_folder
from d2vpr_hf.index.shards import OpenShard
from d2vpr_hf.stores import Compression, VectorStore, build_store, check_compression, open_store
from d2vpr_hf.stores.descriptors import MappedDescriptors, kept_rows
from d2vpr_hf.stores.milvus import COLLECTION, MilvusStore, check_uri, note_collection
from d2vpr_hf.utils import atomic_files

StoreWord = Literal["faiss", "milvus"]
STORES: tuple[StoreWord, ...] = get_args(StoreWord)


def check_store(store: str | None, uri: str | None, compression: str | None) -> None:
    """Raise ValueError unless these words choose how rows are searched; `None` leaves what is chosen."""
    check_compression(compression or "none")
    if store not in (None, *STORES):
        raise ValueError(f"Expected a store of {', '.join(STORES)}, got {store!r}.")
    if store == "milvus" and uri is None:
        raise ValueError("Milvus needs to know where: give `--uri places.db` or `--uri http://HOST:19530`.")
    if uri is not None and store != "milvus":
        raise ValueError("A URI is Milvus's: give `--store milvus` with `--uri`.")
    if uri is not None:
        check_uri(uri)


def with_store(manifest: Manifest, compression: Compression | None, store: str | None, uri: str | None) -> Manifest:
    """Return a manifest that notes how rows are to be searched; `None` leaves what it notes.

    Raises:
        ValueError: If there is no such compression or store, or they do not go together.
    """
    check_store(store, uri, compression)
    known = None if store == "faiss" else manifest.store_uri
    chosen = check_uri(uri) if uri else known
    if compression not in (None, "none") and chosen is not None:
        raise ValueError(f"Milvus compresses by itself: leave out `--compression {compression}`, or give `--store faiss`.")
    return replace(manifest, compression=compression or manifest.compression, store_uri=chosen)


logger = logging.getLogger(__name__)

# how many rows may come or go until a store is built anew: 4,096 of 512 numbers take 2 ms to search, a million 4 s to build
LAG_ROWS = 4096
LAG_SHARE = 0.005
_SHARDS = "shards.json"


class BuiltShard(NamedTuple):
    """A shard as it was when a store was built: its file of descriptors, the rows of that, and those removed by then."""

    name: str
    sha256: str
    rows: int
    removed: tuple[int, ...]

    @classmethod
    def of(cls, shard: Shard) -> "BuiltShard":
        """Describe a shard."""
        return cls(shard.descriptors.name, shard.descriptors.sha256, shard.rows, shard.removed)


class DerivedStore:
    """A store of former rows that is searched for present ones.

    Args:
        path: Its folder.
        built: What it was built of.
        vectors: The store.
        manifest: The present rows.

    Attributes:
        num_shards: How many of the first shards it covers.
        num_rows: How many of the first rows these are.
        lag: How many rows came or went since it was built.

    Raises:
        ValueError: If the present rows do not begin with rows that it was built of.
    """

    def __init__(self, path: Path, built: Sequence[BuiltShard], vectors: VectorStore, manifest: Manifest) -> None:
        self.path, self._built, self._vectors = path, built, vectors
        self.num_shards = num_covered_shards(built, manifest)
        present = _present_rows(built, manifest.shards[: self.num_shards])
        self.num_rows = int(present.sum())
        self.lag = manifest.count + len(present) - 2 * self.num_rows
        self._present = None if present.all() else present
        self._numbers = None if self._present is None else np.flatnonzero(present)

    def of(self, manifest: Manifest) -> "DerivedStore":
        """Return the same store for other rows."""
        return DerivedStore(self.path, self._built, self._vectors, manifest)

    def search(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest of the first `num_rows` rows, or of those allowed: squared distances and rows (Q, k)."""
        distances, found = self._vectors.search(queries, k, self._mask(allowed))
        return distances, found if self._numbers is None else np.searchsorted(self._numbers, found)

    def _mask(self, allowed: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        if self._present is None or self._numbers is None:
            return allowed
        if allowed is None:
            return self._present
        mask = np.zeros(len(self._present), np.bool_)
        mask[self._numbers] = allowed
        return mask


def has_store(manifest: Manifest) -> bool:
    """Tell whether searching these rows takes a store: not where none was asked for, or nothing is stored."""
    return manifest.store_kind != "none" and manifest.count > 0


def is_fresh(store: DerivedStore | None, manifest: Manifest) -> bool:
    """Tell whether a store need not be built anew: there is one, and few rows came or went since."""
    return store is not None and store.lag <= max(LAG_ROWS, LAG_SHARE * manifest.count)


def open_derived_store(
    folder: Path, manifest: Manifest, shards: Mapping[Shard, OpenShard], known: DerivedStore | None
) -> DerivedStore | None:
    """Open the store that lags the least, `None` if none covers a row. One that is damaged is logged and counts as none.

    Args:
        folder: The index's.
        manifest: The rows.
        shards: Their files.
        known: The store that was open before; it is taken if it is the one.
    """
    if not has_store(manifest):
        return None
    built = {name: _read_built(folder / name) for name in list_names(folder) if is_of_kind(name, manifest)}
    lags = {name: _lag(shards_then, manifest) for name, shards_then in built.items()}
    name = min((name for name in lags if lags[name] is not None), key=lambda name: lags[name] or 0, default=None)
    if name is None:
        return None
    if known is not None and known.path == folder / name:
        return known.of(manifest)
    try:
        vectors = open_store(folder / name, _descriptors_of(built[name], shards, manifest))
    except (ValueError, OSError, ImportError) as error:
        logger.warning("The search is exact: %s `d2vpr index` and `d2vpr compact` build the store anew.", error)
        return None
    return DerivedStore(folder / name, built[name], vectors, manifest)


def build_derived_store(folder: Path, manifest: Manifest, descriptors: MappedDescriptors) -> None:
    """Build the store of these rows, in place of a damaged one.

    Raises:
        OSError: If the disk is full or the folder cannot be written to.
    """
    built = json.dumps([BuiltShard.of(shard)._asdict() for shard in manifest.shards], indent=1) + "\n"

    def write(path: Path) -> None:
        _build(manifest, descriptors, path).save(path)
        (path / _SHARDS).write_text(built, encoding="utf-8")

    atomic_files.store_folder(folder, store_folder(manifest), write)


def _build(manifest: Manifest, descriptors: MappedDescriptors, path: Path) -> VectorStore:
    if manifest.store_uri is None:
        return build_store(descriptors, manifest.compression)
    collection = f"{COLLECTION}_{manifest.rows_id}"
    note_collection(path, manifest.store_uri, collection)  # first, so that a run that is killed leaves word of it
    return MilvusStore.refill(descriptors, manifest.store_uri, collection)


def discard_store(path: Path) -> None:
    """Drop what the store in a folder has elsewhere, as Milvus's does, before the folder is removed."""
    if ".milvus-" not in path.name:
        return
    try:
        MilvusStore.discard(path)
    except (OSError, ImportError) as error:
        logger.warning("A collection that %s names is not needed any more and could not be dropped: %s", path, error)


def is_of_kind(name: str, manifest: Manifest) -> bool:
    """Tell whether a folder of such a name holds a store of the kind that an index has."""
    return is_store_folder(name) and name.endswith(f".{manifest.store_kind}")


def num_covered_shards(built: Sequence[BuiltShard], manifest: Manifest) -> int:
    """Return how many of the first shards a store covers.

    Raises:
        ValueError: If the shards that it was built of are not the first ones any more.
    """
    present = [(shard.descriptors.name, shard.descriptors.sha256) for shard in manifest.shards]
    kept = [(shard.name, shard.sha256) for shard in built if (shard.name, shard.sha256) in set(present)]
    if kept != present[: len(kept)]:
        raise ValueError("The store was built of rows in another order. Build it anew from the descriptors.")
    return len(kept)


def _lag(built: Sequence[BuiltShard], manifest: Manifest) -> int | None:
    """Return how many rows came or went since a store was built; `None` if it covers none of those there are."""
    try:
        covered = sum(shard.count for shard in manifest.shards[: num_covered_shards(built, manifest)])
    except ValueError:
        return None
    return manifest.count + sum(shard.rows - len(shard.removed) for shard in built) - 2 * covered if covered else None


def _present_rows(built: Sequence[BuiltShard], shards: Sequence[Shard]) -> NDArray[np.bool_]:
    """Return which of the rows that a store was built of are still there."""
    removed = {shard.descriptors.name: shard.removed for shard in shards}
    return np.concatenate([np.empty(0, np.bool_), *(_present_in(shard, removed.get(shard.name)) for shard in built)])


def _present_in(built: BuiltShard, removed: tuple[int, ...] | None) -> NDArray[np.bool_]:
    if removed is None or removed == built.removed:
        return np.full(built.rows - len(built.removed), removed is not None)
    return ~np.isin(kept_rows(built.rows, built.removed), removed)


def _descriptors_of(built: Sequence[BuiltShard], shards: Mapping[Shard, OpenShard], manifest: Manifest) -> MappedDescriptors:
    """See the descriptors that a store was built of as one array; zeros stand for files that are gone."""
    files = {shard.descriptors.name: opened.descriptors for shard, opened in shards.items()}
    width, dtype = manifest.settings.descriptor_dim, manifest.settings.dtype
    gone = np.zeros((1, width), dtype)
    parts = [files.get(shard.name, np.broadcast_to(gone, (shard.rows, width))) for shard in built]
    removed = [shard.removed for shard in built]
    return MappedDescriptors(parts, removed, descriptor_dim=width, dtype=dtype)


def _read_built(path: Path) -> list[BuiltShard]:
    """Read what a store was built of; nothing where that cannot be read."""
    try:
        values: list[dict[str, Any]] = json.loads((path / _SHARDS).read_bytes())
        return [BuiltShard(str(v["name"]), str(v["sha256"]), int(v["rows"]), tuple(map(int, v["removed"]))) for v in values]
    except (OSError, ValueError, KeyError, TypeError):
        return []
