"""Milvus: a copy of the descriptors in a database, embedded in a file (milvus-lite) or on a cluster.

An index from elsewhere can name any address. Only addresses that the user gave are used (`d2vpr_hf/utils/confirmed_names.py`),
so that the token reaches no other server; and a collection is dropped only if it holds the rows that the index sent there.

Milvus finds candidates; exact distances are computed from the stored descriptors, as in every store. More candidates are asked
for until no other row can be as near as the k-th one: Milvus returns any of the rows that are equally near.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.stores.descriptors import Descriptors
from d2vpr_hf.stores.exact import check_search, exact_search, float32_blocks, relative_rounding, rescore
from d2vpr_hf.stores.protocol import StoreInfo, check_description, write_description
from d2vpr_hf.utils.atomic_files import write_file
from d2vpr_hf.utils.bounded_files import parse_json
from d2vpr_hf.utils.confirmed_names import VARIABLES, is_confirmed
from d2vpr_hf.utils.optional_imports import check_extra, import_extra

if TYPE_CHECKING:
    from pymilvus import MilvusClient

COLLECTION = "d2vpr_places"
EXTRA_CANDIDATES = 16  # in addition to k: rounding swaps neighbours only if they are close
TOKEN_VARIABLE = "MILVUS_TOKEN"
_CONNECTION = "milvus.json"
_MAX_LIMIT = 16_384  # largest number of neighbours that Milvus returns
_GROWTH = 8  # factor of the number of candidates where many rows are equally near
_SAMPLED_ROWS = 16  # rows of a collection that are compared before it is dropped
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
        check_search(queries, self._descriptors, k, allowed)
        count = len(self._descriptors) if allowed is None else int(allowed.sum())
        wanted, k = min(count, k + EXTRA_CANDIDATES), min(k, count)
        if wanted > _MAX_LIMIT:
            return exact_search(queries, self._descriptors, k, allowed)
        distances, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        expression = "" if allowed is None else row_expression(allowed)
        for start in range(0, len(queries) if k else 0, _QUERIES_AT_ONCE):
            part = slice(start, start + _QUERIES_AT_ONCE)
            distances[part], rows[part] = self._search(queries[part], k, wanted, count, expression, allowed)
        return distances, rows

    def _search(
        self,
        queries: NDArray[np.floating],
        k: int,
        wanted: int,
        count: int,
        expression: str,
        allowed: NDArray[np.bool_] | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Search among `wanted` candidates, and again among more for queries that others may be as near to as the k-th row."""
        candidates = self._candidates(np.ascontiguousarray(queries, np.float32), wanted, expression)
        ranked, rows = rescore(queries, self._descriptors, candidates, wanted)
        distances, rows = ranked[:, :k].copy(), rows[:, :k].copy()
        unsure = np.flatnonzero(_may_miss(queries, ranked, k)) if wanted < count else np.empty(0, np.int64)
        if not len(unsure):
            return distances, rows
        if wanted == _MAX_LIMIT:
            distances[unsure], rows[unsure] = exact_search(queries[unsure], self._descriptors, k, allowed)
        else:
            more = min(count, _MAX_LIMIT, _GROWTH * wanted)
            distances[unsure], rows[unsure] = self._search(queries[unsure], k, more, count, expression, allowed)
        return distances, rows

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
        rows = _sampled_rows(len(descriptors))
        return ":".join([str(len(descriptors)), *(_row_hash(row, descriptors[row : row + 1]) for row in rows)])

    @classmethod
    def build(cls, path: Path, descriptors: Descriptors, uri: str, name: str) -> Self:
        """Fill a new collection whose name ends in `name`.

        Raises:
            ConnectionError: If the server does not answer.
            ValueError: If the user did not give the address, or there is such a collection.
        """
        check_address(uri)
        collection = f"{COLLECTION}_{name}"
        _record_collection(path, uri, collection)
        if _connect(uri).has_collection(collection):
            raise ValueError(f"There is a collection {collection} in {uri} already. Remove it, or build the store again.")
        return cls(descriptors, uri, collection)

    def save(self, path: Path) -> None:
        """Record the address of the collection, which stays in Milvus."""
        _record_collection(path, self._uri, self._collection)
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
        uri, collection = _read_connection(path)
        check_address(uri)
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
        check_address(uri)
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


def check_address(uri: str) -> None:
    """Raise ValueError unless the user gave an address, on the command line, in Python or in the environment."""
    if not is_confirmed("addresses", uri, MilvusStore.key):
        raise ValueError(
            f"The index names Milvus at {uri}, an address that you did not give on this machine, so that it is not used. If it "
            f'is yours, set the environment variable {VARIABLES["addresses"]}={uri}, or build the store with `store="milvus"` '
            f'and `uri="{uri}"`.'
        )


def _sampled_rows(count: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(count, _SAMPLED_ROWS)).astype(int).tolist()))


def _row_hash(row: int, descriptor: Any) -> str:
    """Return a hash of the number and the descriptor of a row."""
    return hashlib.sha256(f"{row} ".encode() + np.asarray(descriptor, np.float32).tobytes()).hexdigest()[:16]


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
    is_old = re.fullmatch(r"\d{1,12}(:[0-9a-f]{16})+", checksum) is None
    recorded_count, *hashes = [str(count)] if is_old else checksum.split(":")
    sampled = _sampled_rows(int(recorded_count))
    client.load_collection(collection)
    entries = client.query(collection, filter=f"row in {sampled}", output_fields=["row", "descriptor"], timeout=_SEARCH_SECONDS)
    rows = {int(entry["row"]): entry["descriptor"] for entry in entries}
    if is_old:
        return _old_checksum(count, rows) == checksum
    hash_of = dict(zip(sampled, hashes, strict=False))
    are_equal = all(hash_of.get(row) == _row_hash(row, descriptor) for row, descriptor in rows.items())
    return are_equal and count <= int(recorded_count) and rows.keys() >= {row for row in sampled if row < count}


def _may_miss(queries: NDArray[np.floating], ranked: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
    """Return for each query whether a row that is not a candidate may be as near as the k-th nearest candidate.

    The farthest candidate is nearer than all other rows by Milvus's float32 distances, and by exact ones up to their rounding.

    Args:
        queries: (Q, D).
        ranked: (Q, R) exact squared distances of the candidates, ascending.
        k: Number of neighbours.
    """
    norms = np.linalg.norm(queries.astype(np.float64), axis=1)
    kth, farthest = ranked[:, k - 1].astype(np.float64), ranked[:, -1].astype(np.float64)
    rounding = relative_rounding(queries.shape[1]) * (norms**2 + (norms + np.sqrt(farthest)) ** 2)
    return farthest - kth <= 2 * rounding


def row_expression(allowed: NDArray[np.bool_]) -> str:
    """Return a mask (N,) as an expression on `row`: runs of the allowed rows or, if these are fewer, of the excluded rows."""
    allowed_runs, excluded_runs = _runs(allowed), _runs(~allowed)
    return _ranges(allowed_runs) if len(allowed_runs) <= len(excluded_runs) else f"not ({_ranges(excluded_runs)})"


def _runs(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the first and last row of each run of true values (R, 2)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    return edges.reshape(-1, 2) - np.array([0, 1])


def _ranges(runs: NDArray[np.int64]) -> str:
    single = runs[runs[:, 0] == runs[:, 1], 0].tolist()
    parts = [f"(row >= {first} and row <= {last})" for first, last in runs.tolist() if first < last]
    return " or ".join([f"row in {single}", *parts] if single or not parts else parts)


def _record_collection(path: Path, uri: str, collection: str) -> None:
    """Write the address of a collection into the store's folder, which is created."""
    path.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"uri": uri, "collection": collection}, indent=2)
    write_file(path / _CONNECTION, text + "\n")


def _read_connection(path: Path) -> tuple[str, str]:
    try:
        connection = parse_json((path / _CONNECTION).read_text(encoding="utf-8"))
        return connection["uri"], connection["collection"]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path / _CONNECTION} is missing. Build the store again from the descriptors.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / _CONNECTION} is damaged. Build the store again from the descriptors.") from error


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
