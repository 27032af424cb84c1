"""Vector stores: how descriptors are searched. One word chooses: `none`, `half`, `int8` or `bits`."""

from pathlib import Path

from d2vpr_hf.stores.bits import BitStore
from d2vpr_hf.stores.descriptors import Descriptors
from d2vpr_hf.stores.estimate import Estimate, estimate
from d2vpr_hf.stores.exact import ExactStore
from d2vpr_hf.stores.half import HalfStore
from d2vpr_hf.stores.int8 import Int8Store
from d2vpr_hf.stores.protocol import COMPRESSIONS, Compression, StoreInfo, VectorStore, read_description

_STORES: dict[str, type[ExactStore | HalfStore | Int8Store | BitStore]] = {
    "none": ExactStore,
    "half": HalfStore,
    "int8": Int8Store,
    "bits": BitStore,
}


def build_store(descriptors: Descriptors, compression: Compression = "none") -> VectorStore:
    """Build a store of descriptors (N, D), which it goes on reading."""
    return _STORES[check_compression(compression)](descriptors)


def open_store(path: str | Path, descriptors: Descriptors) -> VectorStore:
    """Open a store that was saved, with the descriptors that it was built of.

    Raises:
        FileNotFoundError: If there is no store, or a part of it is missing.
        ValueError: If it was built of other descriptors, is damaged, or has another format.
    """
    compression = read_description(Path(path)).get("compression")
    if compression == "milvus":
        from d2vpr_hf.stores.milvus import MilvusStore  # its client is an extra

        return MilvusStore.open(Path(path), descriptors)
    return _STORES[check_compression(str(compression))].open(Path(path), descriptors)


def check_compression(word: str) -> str:
    """Return a word that chooses a compression; raise ValueError for others."""
    if word not in _STORES:
        raise ValueError(f"Expected a compression of {', '.join(COMPRESSIONS)}, got {word!r}.")
    return word


__all__ = [
    "COMPRESSIONS",
    "BitStore",
    "Compression",
    "Estimate",
    "ExactStore",
    "HalfStore",
    "Int8Store",
    "StoreInfo",
    "VectorStore",
    "build_store",
    "check_compression",
    "estimate",
    "open_store",
]
