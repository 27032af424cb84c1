"""What all vector stores have in common."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self, get_args

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.stores.descriptors import Descriptors

Compression = Literal["none", "half", "int8", "bits"]
COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)
STORE_FORMAT_VERSION = 1
DESCRIPTION = "store.json"


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds.

    Attributes:
        compression: `"none"`, `"half"`, `"int8"`, `"bits"`, or `"milvus"`.
        count: Descriptors N.
        descriptor_dim: Their width D.
        memory_bytes: Memory of its own that it holds while open, beside what a search takes for a moment.
        mapped_bytes: Files of its own that are mapped: the system keeps them in memory as long as there is room.
    """

    compression: str
    count: int
    descriptor_dim: int
    memory_bytes: int
    mapped_bytes: int


class VectorStore(Protocol):
    """Finds the nearest of N descriptors. All stores give exact distances; compressed ones may miss a neighbour."""

    @property
    def info(self) -> StoreInfo:
        """Say what the store holds."""

    def search(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest descriptors of each query.

        Args:
            queries: (Q, D).
            k: Neighbours wanted; with fewer rows to choose from all are returned.
            allowed: (N,) the rows to choose from; `None` for all.

        Returns:
            Squared L2 distances (Q, min(k, number of rows)) in ascending order, ties in the order of the rows, and the rows.
        """

    def save(self, path: Path) -> None:
        """Write what can be derived from the descriptors into a folder, which is made; the descriptors stay where they are."""

    @classmethod
    def open(cls, path: Path, descriptors: Descriptors) -> Self:
        """Open what `save` wrote.

        Args:
            path: The folder.
            descriptors: (N, D) the descriptors that the store was built of. Zeros stand for rows that are gone, which every
                search must forbid.

        Raises:
            FileNotFoundError: If there is no store, or a part of it is missing.
            ValueError: If it was built of other descriptors, is damaged, or has another format.
        """


def write_description(path: Path, info: StoreInfo) -> None:
    """Say in the folder what it holds; the last file to be written."""
    fields = {key: value for key, value in asdict(info).items() if not key.endswith("_bytes")}
    text = json.dumps({"format_version": STORE_FORMAT_VERSION} | fields, indent=2)
    (path / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read_description(path: Path) -> dict[str, Any]:
    """Read what a store's folder holds.

    Raises:
        FileNotFoundError: If it is no store.
        ValueError: If its description cannot be read, or has another format.
    """
    file = path / DESCRIPTION
    if not file.is_file():
        raise FileNotFoundError(f"{path} holds no vector store: it has no {DESCRIPTION}. Build it anew from the descriptors.")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        version = found["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error!r}). Build the store anew from the descriptors.") from error
    if version != STORE_FORMAT_VERSION:
        raise ValueError(
            f"The store {path} has format {version}, this package reads format {STORE_FORMAT_VERSION}. Build it anew from the "
            "descriptors."
        )
    return dict(found)


def check_description(path: Path, compression: str, descriptors: Descriptors) -> None:
    """Raise ValueError unless a folder holds a store of that kind, built of as many descriptors, as wide."""
    found = read_description(path)
    expected = {"compression": compression, "count": len(descriptors), "descriptor_dim": descriptors.shape[1]}
    wrong = {key: found.get(key) for key, value in expected.items() if found.get(key) != value}
    if wrong:
        raise ValueError(f"The store {path} does not fit: expected {expected}, found {wrong}. Build it anew.")
