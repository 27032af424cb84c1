"""The protocols of vector stores, and the description that each store writes into its folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from d2vpr_hf.stores.descriptors import Descriptors
from d2vpr_hf.utils.atomic_files import write_file
from d2vpr_hf.utils.bounded_files import parse_json

STORE_FORMAT_VERSION = 1
DESCRIPTION = "store.json"

_RESCORE_SECONDS_PER_NUMBER = 2.5e-9
_OVERHEAD_SECONDS = 0.001


@dataclass(frozen=True)
class StoreInfo:
    """The size of a store.

    Attributes:
        compression: The word that chooses a local store, such as `"bits"`, or the kind of a remote one, such as `"milvus"`.
        count: Number of descriptors, N.
        descriptor_dim: Their width D.
        memory_bytes: Memory that the store holds while it is open, without the memory of a running search.
        mapped_bytes: Size of its mapped files; the system keeps them in memory as long as there is room.
    """

    compression: str
    count: int
    descriptor_dim: int
    memory_bytes: int
    mapped_bytes: int


class VectorStore(Protocol):
    """A search for the nearest of N descriptors. All stores give exact distances; compressed ones may miss a neighbour."""

    @property
    def info(self) -> StoreInfo:
        """The size of the store."""

    def search(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest descriptors of each query.

        Args:
            queries: (Q, D).
            k: Number of neighbours; all rows are returned if there are fewer.
            allowed: (N,) bool, the rows to choose from; `None` for all.

        Returns:
            Squared L2 distances (Q, min(k, number of rows)) in ascending order, ties in the order of the rows, and the rows.
        """

    def save(self, path: Path) -> None:
        """Write the store into a folder, which is created. The descriptors are not copied."""

    @classmethod
    def open(cls, path: Path, descriptors: Descriptors) -> Self:
        """Open a folder that `save` wrote.

        Args:
            path: The folder.
            descriptors: (N, D) the descriptors that the store was built of. Zeros stand for rows whose files were removed;
                every search must exclude them.

        Raises:
            FileNotFoundError: If there is no store, or a part of it is missing.
            ValueError: If it was built of other descriptors, is damaged, or has another format.
        """


class LocalStore(VectorStore, Protocol):
    """A store in a folder, built of descriptors alone.

    Attributes:
        compression: The word that chooses the store.
        scan_seconds_per_byte: Time to scan a byte, on two free cores, measured for docs/search.md.
    """

    compression: ClassVar[str]
    scan_seconds_per_byte: ClassVar[float]

    def __init__(self, descriptors: Descriptors) -> None:
        """Build the store of descriptors (N, D), which its searches read."""

    @staticmethod
    def row_bytes(descriptor_dim: int) -> int:
        """Return the bytes that a search reads of each row."""

    @staticmethod
    def num_rescored(count: int, descriptor_dim: int, k: int) -> int:
        """Return the number of rows whose exact distances a search for k neighbours among `count` rows computes."""

    @classmethod
    def check(cls, path: Path, descriptors: Descriptors) -> None:
        """Check the files of a store as far as possible without FAISS and torch; raises the errors of `open`."""


class RemoteStore(VectorStore, Protocol):
    """A store at a service; its folder in an index only records the address.

    An index may come from elsewhere and name any address: `build`, `open` and `discard` refuse an address that the user did not
    give, and send secrets to no other.

    Attributes:
        kind: The word that chooses the service.
        uri_examples: Examples of addresses, for error messages.
    """

    kind: ClassVar[str]
    uri_examples: ClassVar[tuple[str, ...]]

    @staticmethod
    def key(uri: str) -> str:
        """Return the form of an address that an index records.

        Raises:
            ValueError: If `uri` is not an address of the service, or contains a secret.
        """

    @classmethod
    def build(cls, path: Path, descriptors: Descriptors, uri: str, name: str, places: pa.Table) -> Self:
        """Send descriptors to the service.

        Args:
            path: The store's folder, in which the address and the name are recorded.
            descriptors: (N, D).
            uri: Address of the service.
            name: A name that no other descriptors at the same service have.
            places: The N places, with the column `seconds`, for services whose users search them by position or time.

        Raises:
            ConnectionError: If the service does not answer.
            ValueError: If the user did not give the address, or the name is in use.
        """

    @staticmethod
    def checksum(descriptors: Descriptors) -> str:
        """Return a checksum of descriptors (N, D), by which `discard` recognises them at the service."""

    @staticmethod
    def discard(uri: str, name: str, checksum: str) -> None:
        """Remove from the service the descriptors that `build` sent there under a name, if they are still there.

        Raises:
            ConnectionError: If the service does not answer.
            ValueError: If the user did not give the address, or the descriptors of this name have another checksum.
        """


@dataclass(frozen=True)
class Estimate:
    """The costs of a local store, for N descriptors of D numbers that are stored as float16.

    Attributes:
        compression: The word that chooses the store.
        stored_bytes: Size of the descriptors on disk.
        scanned_bytes: Bytes that each search reads; they should fit into memory, as mapped pages or held by the store.
        latency_seconds: Time of one query for 10 neighbours with warm files on two free cores, from the measurements in
            docs/search.md; the real time can be half of it or twice as long.
    """

    compression: str
    stored_bytes: int
    scanned_bytes: int
    latency_seconds: float

    @classmethod
    def of(cls, store: type[LocalStore], count: int, descriptor_dim: int) -> "Estimate":
        """Estimate the costs of a store of `count` descriptors."""
        scanned_bytes = count * store.row_bytes(descriptor_dim)
        rescored = store.num_rescored(count, descriptor_dim, k=10) * descriptor_dim
        seconds = scanned_bytes * store.scan_seconds_per_byte + rescored * _RESCORE_SECONDS_PER_NUMBER
        return cls(store.compression, 2 * count * descriptor_dim, scanned_bytes, _OVERHEAD_SECONDS + seconds)


def write_description(path: Path, info: StoreInfo) -> None:
    """Write the description of a store into its folder; it must be the last file that is written."""
    values = {key: value for key, value in asdict(info).items() if not key.endswith("_bytes")}
    text = json.dumps({"format_version": STORE_FORMAT_VERSION} | values, indent=2)
    write_file(path / DESCRIPTION, text + "\n")


def read_description(path: Path) -> dict[str, Any]:
    """Read the description of a store in a folder.

    Raises:
        FileNotFoundError: If the folder does not hold a store.
        ValueError: If the description cannot be read, or has another format.
    """
    file = path / DESCRIPTION
    if not file.is_file():
        raise FileNotFoundError(
            f"{path} has no {DESCRIPTION}, so it is not a vector store. Build it again from the descriptors."
        )
    try:
        description = parse_json(file.read_text(encoding="utf-8"))
        version = description["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error!r}). Build the store again from the descriptors.") from error
    if version != STORE_FORMAT_VERSION:
        raise ValueError(
            f"The store {path} has format {version}, this package reads format {STORE_FORMAT_VERSION}. Build it again from "
            "the descriptors."
        )
    return dict(description)


def check_description(path: Path, compression: str, descriptors: Descriptors) -> None:
    """Raise ValueError unless a folder holds a store of this kind for descriptors of the same number and width."""
    description = read_description(path)
    expected = {"compression": compression, "count": len(descriptors), "descriptor_dim": descriptors.shape[1]}
    different = {key: description.get(key) for key, value in expected.items() if description.get(key) != value}
    if different:
        raise ValueError(f"The store {path} does not fit: expected {expected}, found {different}. Build it again.")
