"""The vector stores by the words that choose them. The modules import FAISS, torch and clients only when they are used."""

from pathlib import Path
from typing import Literal, cast, get_args

from d2vpr_hf.stores.bits import BitStore
from d2vpr_hf.stores.descriptors import Descriptors
from d2vpr_hf.stores.exact import ExactStore
from d2vpr_hf.stores.half import HalfStore
from d2vpr_hf.stores.int8 import Int8Store
from d2vpr_hf.stores.milvus import MilvusStore
from d2vpr_hf.stores.pgvector import PgVectorStore
from d2vpr_hf.stores.protocol import Estimate, LocalStore, RemoteStore, VectorStore, read_description

Compression = Literal["none", "half", "int8", "bits"]
StoreWord = Literal["faiss", "milvus", "pgvector"]  # a local store of any compression, or a service

_LOCAL: dict[Compression, type[LocalStore]] = {"none": ExactStore, "half": HalfStore, "int8": Int8Store, "bits": BitStore}
_REMOTE: dict[str, type[RemoteStore]] = {"milvus": MilvusStore, "pgvector": PgVectorStore}

COMPRESSIONS = tuple(_LOCAL)
SERVICES = tuple(_REMOTE)
STORES: tuple[StoreWord, ...] = get_args(StoreWord)
LOCAL_STORE = STORES[0]


def build_store(descriptors: Descriptors, compression: Compression = "none") -> VectorStore:
    """Build a local store of descriptors (N, D), which its searches read."""
    return _LOCAL[check_compression(compression)](descriptors)


def open_store(path: str | Path, descriptors: Descriptors) -> VectorStore:
    """Open a store that was saved, with the descriptors that it was built of.

    Raises:
        FileNotFoundError: If there is no store, or a part of it is missing.
        ValueError: If it was built of other descriptors, is damaged, or has another format.
    """
    return _store_in(Path(path)).open(Path(path), descriptors)


def check_store_files(path: Path, descriptors: Descriptors) -> None:
    """Check the files of a local store without loading FAISS and torch; raises the errors of [`open_store`]."""
    store = _store_in(path)
    if not issubclass(store, tuple(_REMOTE.values())):
        cast(type[LocalStore], store).check(path, descriptors)


def remote_store(kind: str) -> type[RemoteStore]:
    """Return the class of the stores of a service.

    Raises:
        KeyError: If the kind is not a service.
    """
    return _REMOTE[kind]


def estimate(count: int, descriptor_dim: int, compression: str) -> Estimate:
    """Estimate size and latency of a local store.

    Raises:
        ValueError: If there is no such compression.
    """
    return Estimate.of(_LOCAL[check_compression(compression)], count, descriptor_dim)


def check_compression(word: str) -> Compression:
    """Return a word that chooses a local store; raise ValueError for other words."""
    if word not in _LOCAL:
        raise ValueError(f"Expected a compression of {', '.join(COMPRESSIONS)}, got {word!r}.")
    return word


def _store_in(path: Path) -> type[VectorStore]:
    """Return the class of the store in a folder."""
    word = str(read_description(path).get("compression"))
    return _REMOTE[word] if word in _REMOTE else _LOCAL[check_compression(word)]
