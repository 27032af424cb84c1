"""pgvector: a copy of places and descriptors in a table of PostgreSQL.

An index from elsewhere can name any address. Only addresses that the user gave are used (`d2vpr_hf/utils/confirmed_names.py`),
so that a password reaches no other server; and a table is dropped only if it holds the rows that the index sent there.

PostgreSQL finds candidates, and exact distances decide among them (`d2vpr_hf/stores/services.py`). Without an index of
pgvector it compares all descriptors and misses none; `?index=hnsw` or `?index=ivfflat` in the address builds one, which is
faster and may miss some.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from d2vpr_hf.stores.descriptors import Descriptors
from d2vpr_hf.stores.postgres import (
    MAX_INDEXED,
    address_key,
    answering,
    connect,
    has_table,
    index_type,
    indexed_operand,
    indexed_type,
    read_metadata,
    read_rows,
    vector_text,
    write_table,
)
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
    search_candidates,
)

if TYPE_CHECKING:
    import psycopg

logger = logging.getLogger(__name__)

TABLE = "d2vpr_places"
_CONNECTION = "pgvector.json"
_FEW_ROWS = 10_000  # allowed rows that are looked up by their numbers, instead of by runs in a scan
_MAX_EXPLORED = 1000  # candidates that pgvector's indexes return; more are found by a scan
_QUERIES_AT_ONCE = 100


class PgVectorStore:
    """A table of PostgreSQL that holds places and descriptors under their row numbers.

    Args:
        descriptors: (N, D) the stored descriptors, whose distances decide among the candidates.
        uri: Address of the database, such as `postgresql://USER@HOST/DATABASE`. libpq reads the password from `PGPASSWORD` or
            its password file: give an address that you know, not one of a file.
        table: Name of the table.

    Raises:
        ImportError: If psycopg is not installed.
        ConnectionError: If the server does not answer.
        FileNotFoundError: If the table is gone.
        ValueError: If the table does not hold as many rows as there are descriptors.
    """

    kind: ClassVar[str] = "pgvector"
    uri_examples: ClassVar[tuple[str, ...]] = ("postgresql://USER@HOST/DATABASE",)

    def __init__(self, descriptors: Descriptors, uri: str, table: str) -> None:
        self._descriptors = descriptors
        self._uri, self._table = uri, table
        self._client: psycopg.Connection[Any] | None = None
        self._lock = threading.Lock()  # transactions of two threads cannot share a connection
        self._index = index_type(uri)
        if self._index is not None and descriptors.shape[1] > MAX_INDEXED["halfvec"]:
            self._index = None
        connection = self._connection()
        with answering(uri):
            if not has_table(connection, table):
                raise FileNotFoundError(f"The table {table} in {uri} is gone. Build the store again from the descriptors.")
            count = _count_rows(connection, table)
        if count != len(descriptors):
            raise ValueError(
                f"The table {table} in {uri} holds {count} rows, the descriptors are {len(descriptors)}. Remove it, and build "
                "the store again."
            )

    @property
    def info(self) -> StoreInfo:
        """The size of the store, without the memory that PostgreSQL takes."""
        return StoreInfo(self.kind, len(self._descriptors), self._descriptors.shape[1], 0, 0)

    def search(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest rows of each query (Q, D): squared distances and row numbers (Q, k).

        Raises:
            ConnectionError: If the server does not answer.
            ValueError: If arguments do not fit, or the table has too few rows.
        """
        condition, values = row_condition(allowed)
        return search_candidates(
            queries,
            self._descriptors,
            k,
            allowed,
            lambda part, wanted: self._candidates(part, wanted, condition, values),
            max_candidates=len(self._descriptors),
            queries_at_once=_QUERIES_AT_ONCE,
        )

    def _candidates(self, queries: NDArray[np.float32], wanted: int, condition: str, values: list[Any]) -> NDArray[np.int64]:
        """Return the rows (Q, `wanted`) that are nearest to each query by PostgreSQL's distances."""
        nearest: list[list[int]] = []
        with self._lock, answering(self._uri):
            connection = self._connection()
            with connection.transaction():
                for query in queries:
                    rows: list[int] = []
                    if self._index is not None and wanted <= _MAX_EXPLORED:
                        rows = self._from_index(connection, query, wanted, condition, values)
                    if len(rows) < wanted:
                        rows = self._from_scan(connection, query, wanted, condition, values)
                    nearest.append(rows)
        if any(len(rows) != wanted for rows in nearest):
            raise ValueError(f"The table {self._table} has too few rows. Remove it, and build the store again.")
        return np.array(nearest, np.int64)

    def _from_scan(
        self, connection: psycopg.Connection[Any], query: NDArray[np.float32], wanted: int, condition: str, values: list[Any]
    ) -> list[int]:
        """Compare all allowed rows in float32: a query as halfvec would be rounded, and other rows would be candidates."""
        connection.execute("SET LOCAL enable_indexscan = off; SET LOCAL enable_seqscan = on")
        width = len(query)
        return self._sorted_rows(
            connection, f"descriptor::vector({width})", f"vector({width})", query, wanted, condition, values
        )

    def _from_index(
        self, connection: psycopg.Connection[Any], query: NDArray[np.float32], wanted: int, condition: str, values: list[Any]
    ) -> list[int]:
        """Return the rows that the index finds; fewer than `wanted` if it has explored enough."""
        dtype, width = str(self._descriptors.dtype), len(query)
        connection.execute("SET LOCAL enable_indexscan = on; SET LOCAL enable_seqscan = off")  # or small tables are scanned
        if self._index == "hnsw":
            connection.execute(f"SET LOCAL hnsw.ef_search = {min(_MAX_EXPLORED, max(100, 2 * wanted))}")
            connection.execute("SET LOCAL hnsw.iterative_scan = relaxed_order")
        else:
            connection.execute("SET LOCAL ivfflat.probes = 20")
            connection.execute("SET LOCAL ivfflat.iterative_scan = relaxed_order")
        kind = f"{indexed_type(dtype, width)}({width})"
        return self._sorted_rows(connection, indexed_operand(dtype, width), kind, query, wanted, condition, values)

    def _sorted_rows(
        self,
        connection: psycopg.Connection[Any],
        operand: str,
        kind: str,
        query: NDArray[np.float32],
        wanted: int,
        condition: str,
        values: list[Any],
    ) -> list[int]:
        statement = _sql(f"SELECT row FROM {{}} {condition} ORDER BY {operand} <-> %s::{kind} LIMIT %s", self._table)
        return [int(row) for (row,) in connection.execute(statement, [*values, vector_text(query), wanted])]

    def _connection(self) -> psycopg.Connection[Any]:
        """Return the connection, or a new one after the server has ended it."""
        if self._client is None or self._client.closed:
            self._client = connect(self._uri)
        return self._client

    @staticmethod
    def key(uri: str) -> str:
        """Return the form of an address that an index records; see [`address_key`]."""
        return address_key(uri)

    @staticmethod
    def checksum(descriptors: Descriptors) -> str:
        """Return the number of descriptors, and hashes of some of them."""
        return rows_checksum(descriptors)

    @classmethod
    def build(cls, path: Path, descriptors: Descriptors, uri: str, name: str, places: pa.Table) -> Self:
        """Write a new table whose name ends in `name`.

        Raises:
            ConnectionError: If the server does not answer.
            ValueError: If the user did not give the address, there is such a table, or pgvector does not store descriptors of
                this width.
        """
        _check_address(uri)
        table = f"{TABLE}_{name}"
        record_connection(path, _CONNECTION, {"uri": uri, "table": table})
        index, width = index_type(uri), descriptors.shape[1]
        if index is not None and width > MAX_INDEXED["halfvec"]:
            logger.warning(
                "pgvector's indexes take up to %d numbers, and the descriptors have %d: searches compare all rows. A "
                "projection (`d2vpr fit-projection`) makes them narrower.",
                MAX_INDEXED["halfvec"],
                width,
            )
            index = None

        def refuse(is_own: bool) -> None:
            raise ValueError(f"There is a table {table} in {uri} already. Remove it, or build the store again.")

        write_table(uri, table, descriptors, places, metadata={"rows": len(descriptors)}, index=index, refuse=refuse)
        return cls(descriptors, uri, table)

    def save(self, path: Path) -> None:
        """Record the address of the table, which stays in PostgreSQL."""
        record_connection(path, _CONNECTION, {"uri": self._uri, "table": self._table})
        write_description(path, self.info)

    @classmethod
    def open(cls, path: Path, descriptors: Descriptors) -> Self:
        """Connect to the table that a folder records.

        Raises:
            ConnectionError: If the server does not answer.
            FileNotFoundError: If the table is gone.
            ValueError: If the user did not give the address, or the table does not fit the descriptors.
        """
        check_description(path, cls.kind, descriptors)
        uri, table = read_connection(path, _CONNECTION, ("uri", "table"))
        _check_address(uri)
        return cls(descriptors, uri, table)

    @staticmethod
    def discard(uri: str, name: str, checksum: str) -> None:
        """Drop the table that [`build`] wrote, if it is still there and holds these rows.

        Raises:
            ConnectionError: If the server does not answer.
            ValueError: If the user did not give the address, or the table holds other rows.
        """
        _check_address(uri)
        table = f"{TABLE}_{name}"
        with connect(uri) as connection, answering(uri):
            if not has_table(connection, table):
                return
            if not _holds_rows(connection, table, checksum):
                raise ValueError(f"The table {table} in {uri} holds other rows than this index sent there.")
            connection.execute(_sql("DROP TABLE {}", table))

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()


def _check_address(uri: str) -> None:
    check_address(uri, "PostgreSQL", PgVectorStore.kind, PgVectorStore.key)


def _holds_rows(connection: psycopg.Connection[Any], table: str, checksum: str) -> bool:
    """Return whether this program wrote a table, and its rows are those of a checksum."""
    if read_metadata(connection, table) is None or not is_rows_checksum(checksum):
        return False
    rows = read_rows(connection, table, checksum_rows(checksum))
    return fits_checksum(checksum, _count_rows(connection, table), rows)


def _count_rows(connection: psycopg.Connection[Any], table: str) -> int:
    row = connection.execute(_sql("SELECT count(*) FROM {}", table)).fetchone()
    return 0 if row is None else int(row[0])


def row_condition(allowed: NDArray[np.bool_] | None) -> tuple[str, list[Any]]:
    """Return the condition of a mask (N,) on `row`, and its values: the numbers of few rows, or runs of many."""
    if allowed is None:
        return "", []
    rows = np.flatnonzero(allowed)
    if len(rows) <= _FEW_ROWS:
        return "WHERE row = ANY(%s)", [rows.tolist()]
    runs = ",".join(f"[{first},{last}]" for first, last in runs_of(allowed).tolist())
    return "WHERE row <@ %s::int8multirange", [f"{{{runs}}}"]


def _sql(text: str, table: str) -> Any:
    from psycopg import sql

    return sql.SQL(text).format(sql.Identifier(table))
