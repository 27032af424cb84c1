"""Milvus: a copy of the descriptors in a database, embedded in a file (milvus-lite) or on a cluster.

An index from elsewhere can name any address. Only addresses that the user gave are used (`d2vpr_hf/utils/confirmed_names.py`),
so that the token reaches no other server; and a collection is dropped only if it holds the rows that the index sent there.

Milvus finds candidates, and exact distances decide among them (`d2vpr_hf/stores/services.py`).
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from d2vpr_hf.stores.descriptors import Descriptors
from d2vpr_hf.stores.exact import float32_blocks
from d2vpr_hf.stores.protocol import StoreInfo, check_description, write_description
from d2vpr_hf.stores.services import (
    check_address,
    checksum_rows,
    fits_checksum,
    is_rows_checksum,
    read_connection,
    record_connection,
    rows_checksum,
    runs_of,
    sampled_rows,
    search_candidates,
)
from d2vpr_hf.utils.optional_imports import check_extra, import_extra

if TYPE_CHECKING:
    from pymilvus import MilvusClient

COLLECTION = "d2vpr_places"
TOKEN_VARIABLE = "MILVUS_TOKEN"
_CONNECTION = "milvus.json"
_MAX_LIMIT = 16_384  # largest number of neighbours that Milvus returns
_INSERT_BYTES = 8 << 20  # float32 bytes sent at once; servers refuse messages above 64 MB
_QUERIES_AT_ONCE = 100
_SEARCH_SECONDS = 60.0  # timeout of a search; the client's default is minutes


class MilvusStore:
    """A collection of Milvus that holds descriptors under their row numbers.

    Args:
        descriptors: (N, D) the stored descriptors, whose distances decide among the candidates.
        uri: A file that ends in `.db`, for milvus-lite, or the address of a server such as `http://localhost:19530`. The token
            of a user is read from the environment variable `MILVUS_TOKEN`: give an address that you know, not one of a file.
        collection: Name of the collection, which is created and filled if it does not exist.
        index_type: Type of the Milvus index; `"FLAT"` compares all descriptors and misses none.

    Raises:
        ImportError: If pymilvus is not installed.
        ConnectionError: If the server does not answer.
        ValueError: If the collection exists and does not hold as many rows as there are descriptors.
    """

    kind: ClassVar[str] = "milvus"
    uri_examples: ClassVar[tuple[str, ...]] = ("places.db", "http://HOST:19530")

    def __init__(self, descriptors: Descriptors, uri: str, collection: str = COLLECTION, *, index_type: str = "FLAT") -> None:
        self._descriptors = descriptors
        self._uri, self._collection = uri, collection
        self._client = _connect(uri)
        if not self._client.has_collection(collection):
            self._fill(index_type)
        self._client.load_collection(collection)
        count = int(self._client.get_collection_stats(collection)["row_count"])
        if count != len(descriptors):
            raise ValueError(
                f"The collection {collection} in {uri} holds {count} rows, the descriptors are {len(descriptors)}. Give "
                "another collection, or remove that one."
            )

    @property
    def info(self) -> StoreInfo:
        """The size of the store, without the memory that Milvus takes."""
        return StoreInfo("milvus", len(self._descriptors), self._descriptors.shape[1], 0, 0)

    def search(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest rows of each query (Q, D): squared distances and row numbers (Q, k).

        More neighbours than Milvus returns are searched exactly.

        Raises:
            ValueError: If arguments do not fit, or Milvus returns too few rows.
        """
        expression = "" if allowed is None else row_expression(allowed)
        return search_candidates(
            queries,
            self._descriptors,
            k,
            allowed,
            lambda part, wanted: self._candidates(part, wanted, expression),
            max_candidates=_MAX_LIMIT,
            queries_at_once=_QUERIES_AT_ONCE,
        )

    @staticmethod
    def key(uri: str) -> str:
        """Return the form of an address that an index records: the absolute path of a file, or the URL of a server.

        Raises:
            ImportError: If pymilvus is not installed.
            ValueError: If `uri` is neither a `.db` file nor a URL, or contains a password or token.
        """
        check_extra("pymilvus", "milvus")  # before photos are encoded for hours
        if "://" not in uri:
            if not uri.endswith(".db"):
                raise ValueError(
                    f"Expected a file that ends in .db, or an address such as http://localhost:19530, got {uri!r}."
                )
            return str(Path(uri).absolute())
        parts = urlsplit(uri)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                f"The address would be recorded with its secrets. Set {TOKEN_VARIABLE} to `user:password` instead."
            )
        return uri

    @staticmethod
    def checksum(descriptors: Descriptors) -> str:
        """Return the number of descriptors, and hashes of some of them as float32, in which Milvus stores them."""
        return rows_checksum(descriptors)

    @classmethod
    def build(cls, path: Path, descriptors: Descriptors, uri: str, name: str, places: pa.Table | None = None) -> Self:
        """Fill a new collection whose name ends in `name`; it has no places.

        Raises:
            ConnectionError: If the server does not answer.
            ValueError: If the user did not give the address, or there is such a collection.
        """
        _check_address(uri)
        collection = f"{COLLECTION}_{name}"
        record_connection(path, _CONNECTION, {"uri": uri, "collection": collection})
        if _connect(uri).has_collection(collection):
            raise ValueError(f"There is a collection {collection} in {uri} already. Remove it, or build the store again.")
        return cls(descriptors, uri, collection)

    def save(self, path: Path) -> None:
        """Record the address of the collection, which stays in Milvus."""
        record_connection(path, _CONNECTION, {"uri": self._uri, "collection": self._collection})
        write_description(path, self.info)

    @classmethod
    def open(cls, path: Path, descriptors: Descriptors) -> Self:
        """Connect to the collection that a folder records.

        Raises:
            ConnectionError: If the server does not answer.
            FileNotFoundError: If the collection is gone.
            ValueError: If the user did not give the address, or the collection does not fit the descriptors.
        """
        check_description(path, "milvus", descriptors)
        uri, collection = read_connection(path, _CONNECTION, ("uri", "collection"))
        _check_address(uri)
        if not _connect(uri).has_collection(collection):
            raise FileNotFoundError(
                f"The collection {collection} in {uri} is gone. Build the store again from the descriptors."
            )
        return cls(descriptors, uri, collection)

    @staticmethod
    def discard(uri: str, name: str, checksum: str) -> None:
        """Drop the collection that [`build`] filled, if it is still there and holds these rows, or the first ones or none.

        A build that was killed leaves the first rows.

        Raises:
            ConnectionError: If the server does not answer.
            ValueError: If the user did not give the address, or the collection holds other rows.
        """
        _check_address(uri)
        client, collection = _connect(uri), f"{COLLECTION}_{name}"
        with _answering(uri):
            if not client.has_collection(collection):
                return
            if not _holds_rows(client, collection, checksum):
                raise ValueError(f"The collection {collection} in {uri} holds other rows than this index sent there.")
            client.drop_collection(collection)

    def close(self) -> None:
        """Close the connection; the server of milvus-lite runs until the process ends."""
        self._client.close()

    def _candidates(self, queries: NDArray[np.float32], wanted: int, expression: str) -> NDArray[np.int64]:
        with _answering(self._uri):
            results = self._client.search(
                self._collection,
                data=list(queries),
                filter=expression,
                limit=wanted,
                anns_field="descriptor",
                output_fields=["row"],
                timeout=_SEARCH_SECONDS,
            )
        rows = [[hit["entity"]["row"] for hit in hits] for hits in results]
        if any(len(row) != wanted for row in rows):
            raise ValueError(
                f"The collection {self._collection} returned too few rows. Remove it; it is filled again when it is opened."
            )
        return np.array(rows, np.int64)

    def _fill(self, index_type: str) -> None:
        """Create the collection and send all descriptors."""
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False)
        schema.add_field("row", DataType.INT64, is_primary=True)
        schema.add_field("descriptor", DataType.FLOAT_VECTOR, dim=self._descriptors.shape[1])
        index = self._client.prepare_index_params()
        index.add_index("descriptor", index_type=index_type, metric_type="L2")
        self._client.create_collection(self._collection, schema=schema, index_params=index, consistency_level="Strong")
        try:
            for rows in self._rows():
                self._client.insert(self._collection, rows)
            self._client.flush(self._collection)
        except BaseException:
            self._client.drop_collection(self._collection)  # a part of a collection would give wrong answers
            raise

    def _rows(self) -> Iterator[list[dict[str, Any]]]:
        """Yield blocks of rows in the form that the client inserts."""
        start = 0
        for block in float32_blocks(self._descriptors, _INSERT_BYTES):
            yield [{"row": start + number, "descriptor": descriptor} for number, descriptor in enumerate(block)]
            start += len(block)


def _check_address(uri: str) -> None:
    check_address(uri, "Milvus", MilvusStore.kind, MilvusStore.key)


def _old_checksum(count: int, descriptors: dict[int, Any]) -> str:
    """Return the checksum of earlier versions: the SHA-256 of a number of rows, and of the descriptors of some of them."""
    digest = hashlib.sha256(str(count).encode())
    for row, descriptor in sorted(descriptors.items()):
        digest.update(f" {row} ".encode() + np.asarray(descriptor, np.float32).tobytes())
    return digest.hexdigest()


def _holds_rows(client: "MilvusClient", collection: str, checksum: str) -> bool:
    """Return whether a collection has the fields of a store, and rows of a checksum, or the first ones or none."""
    fields = {field["name"] for field in client.describe_collection(collection)["fields"]}
    if fields != {"row", "descriptor"}:
        return False
    count = int(client.get_collection_stats(collection)["row_count"])
    if count == 0:
        return True
    is_old = not is_rows_checksum(checksum)
    sampled = sampled_rows(count) if is_old else checksum_rows(checksum)
    client.load_collection(collection)
    entries = client.query(collection, filter=f"row in {sampled}", output_fields=["row", "descriptor"], timeout=_SEARCH_SECONDS)
    rows = {int(entry["row"]): entry["descriptor"] for entry in entries}
    if is_old:
        return _old_checksum(count, rows) == checksum
    return fits_checksum(checksum, count, rows)


def row_expression(allowed: NDArray[np.bool_]) -> str:
    """Return a mask (N,) as an expression on `row`: runs of the allowed rows or, if these are fewer, of the excluded rows."""
    allowed_runs, excluded_runs = runs_of(allowed), runs_of(~allowed)
    return _ranges(allowed_runs) if len(allowed_runs) <= len(excluded_runs) else f"not ({_ranges(excluded_runs)})"


def _ranges(runs: NDArray[np.int64]) -> str:
    single = runs[runs[:, 0] == runs[:, 1], 0].tolist()
    parts = [f"(row >= {first} and row <= {last})" for first, last in runs.tolist() if first < last]
    return " or ".join([f"row in {single}", *parts] if single or not parts else parts)


def _connect(uri: str) -> "MilvusClient":
    pymilvus = import_extra("pymilvus", "milvus")
    for name in ("grpc._server", "milvus_lite"):  # they log tracebacks of calls that milvus-lite lacks; real errors are raised
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if uri.endswith(".db") and not Path(uri).exists():
        _end_server(uri)
    with _answering(uri):
        client: MilvusClient = pymilvus.MilvusClient(uri, token=os.environ.get(TOKEN_VARIABLE, ""))
        return client


def _end_server(uri: str) -> None:
    """End this process's server of a removed file: milvus-lite would go on to answer from the rows that it held."""
    with contextlib.suppress(ImportError):  # without milvus-lite the client says so
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(uri)


@contextlib.contextmanager
def _answering(uri: str) -> Iterator[None]:
    """Turn the client's errors into ConnectionError."""
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        advice = f"Is it running, and is the token in {TOKEN_VARIABLE} right?"
        raise ConnectionError(f"Milvus at {uri} did not answer ({error.message}). {advice}") from error
