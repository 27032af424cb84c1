"""Places and descriptors in a table of PostgreSQL with pgvector, and PostGIS where the server has it.

The table is written in one transaction: it is complete, or not there. Its comment holds facts in JSON, by which a table of this
program is recognised. Descriptors travel in pgvector's binary form, places as CSV, both by COPY.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from d2vpr_hf.stores.descriptors import Descriptors
from d2vpr_hf.utils.optional_imports import check_extra, import_extra

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

IndexType = Literal["hnsw", "ivfflat"]
INDEX_TYPES: tuple[IndexType, ...] = get_args(IndexType)
EXTRA = "pgvector"
COMMENT_KEY = "d2vpr"
MAX_DIM = 16_000  # numbers of a vector or halfvec that pgvector stores
MAX_INDEXED = {"vector": 2_000, "halfvec": 4_000}  # numbers that its indexes take

_OPTIONS = {"host", "port", "user", "dbname", "sslmode", "sslrootcert", "connect_timeout", "target_session_attrs"}
_SECONDS = 60  # time limit of a search
_CONNECT_SECONDS = 10  # time limit of a connection, unless the address has another
_BLOCK_BYTES = 8 << 20
_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END = b"\xff\xff"
_NUMBER_TYPES = {"float16": ("halfvec", ">f2"), "float32": ("vector", ">f4")}
_COLUMN_TYPES = {pa.float64(): "float8", pa.string(): "text"}

Refuse = Callable[[bool], None]


def address_key(uri: str) -> str:
    """Return the form of an address that an index records: the URL itself.

    Raises:
        ImportError: If psycopg is not installed.
        ValueError: If `uri` is not a URL of PostgreSQL, contains a password, or has an option that is not for connections.
    """
    check_extra("psycopg", EXTRA)
    parts = urlsplit(uri)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError(f"Expected an address such as postgresql://USER@HOST/DATABASE, got {uri!r}.")
    if parts.password is not None or parts.fragment:
        raise ValueError("The address would be recorded with its password. Set PGPASSWORD, or use libpq's password file.")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - _OPTIONS - {"index"})
    if unknown:
        allowed = ", ".join(sorted(_OPTIONS | {"index"}))
        raise ValueError(f"The address has the options {', '.join(unknown)}; expected some of {allowed}.")
    if options.get("index", "hnsw") not in INDEX_TYPES:
        raise ValueError(f"Expected index={' or index='.join(INDEX_TYPES)} in the address, got {options['index']!r}.")
    return uri


def index_type(uri: str) -> IndexType | None:
    """Return the kind of approximate index that an address asks for by `?index=`; `None` for exact searches."""
    word = dict(parse_qsl(urlsplit(uri).query)).get("index")
    return None if word is None else INDEX_TYPES[INDEX_TYPES.index(word)]


def connect(uri: str) -> psycopg.Connection[Any]:
    """Connect to a database; each statement is then a transaction of its own.

    Raises:
        ImportError: If psycopg is not installed.
        ConnectionError: If the server does not answer, or refuses the user.
        ValueError: If the server has no pgvector and the user may not install it.
    """
    library = import_extra("psycopg", EXTRA)
    place, _, query = uri.partition("?")
    options = {name: value for name, value in parse_qsl(query, keep_blank_values=True) if name != "index"}
    address = f"{place}?{urlencode({'connect_timeout': _CONNECT_SECONDS} | options)}"
    with answering(uri):
        connection: psycopg.Connection[Any] = library.connect(address, autocommit=True, application_name="d2vpr-hf")
        connection.execute(f"SET statement_timeout = {1000 * _SECONDS}")
    try:
        _need_pgvector(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _need_pgvector(connection: psycopg.Connection[Any]) -> None:
    import psycopg

    try:
        if connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone() is None:
            connection.execute("CREATE EXTENSION vector")
    except psycopg.Error as error:
        raise ValueError(
            f"The database has no pgvector ({_first_line(error)}). Install it on the server, and let a user with the right to "
            "do so run `CREATE EXTENSION vector`."
        ) from error


@contextlib.contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turn errors of connections into ConnectionError, and other errors of the server into ValueError."""
    import psycopg

    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise ConnectionError(
            f"PostgreSQL at {uri} did not answer ({_first_line(error)}). Is it running, and is the password in PGPASSWORD or "
            "the password file right?"
        ) from error
    except psycopg.Error as error:
        raise ValueError(f"PostgreSQL at {uri} refused a statement ({_first_line(error)}).") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def write_table(
    uri: str,
    table: str,
    descriptors: Descriptors,
    places: pa.Table,
    *,
    metadata: dict[str, Any],
    index: IndexType | None = None,
    refuse: Refuse | None = None,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Write places and descriptors into a new table, in one transaction.

    The table has the columns `row` (its key), those of `places`, `descriptor` (`halfvec` for float16, `vector` for float32),
    and, where the server has PostGIS, `location`, a `geography` of points.

    Args:
        uri: Address of the database.
        table: Name of the table.
        descriptors: (N, D).
        places: N rows of numbers and texts, such as latitude, longitude, heading and seconds.
        metadata: Facts for the comment of the table.
        index: The approximate index to build; `None` for none.
        refuse: Called if the table exists, with whether its comment shows that this program wrote it; raises an error, or else
            the table is replaced. `None` replaces a table of this program, and raises for others.
        progress: Called with the number of rows just sent.

    Raises:
        ConnectionError: If the server does not answer.
        FileExistsError: If another program made the table.
        ValueError: If the descriptors are wider than pgvector stores, or the server refuses a statement.
    """
    from psycopg import sql

    width = descriptors.shape[1]
    if width > MAX_DIM:
        raise ValueError(
            f"pgvector stores vectors of up to {MAX_DIM} numbers, and the descriptors have {width}. Use a model with a "
            "projection (`d2vpr fit-projection`), or another database."
        )
    name = sql.Identifier(table)
    with connect(uri) as connection, answering(uri), connection.transaction():
        connection.execute("SET LOCAL statement_timeout = 0")
        if has_table(connection, table):
            _replace(connection, table, refuse)
        _copy_descriptors(connection, descriptors, progress)
        _copy_places(connection, places)
        has_postgis = _has_postgis(connection)
        _join_sent_tables(connection, name, places.column_names, with_location=has_postgis)
        keys = ["USING gist (location)"] if has_postgis else []
        if {"latitude", "longitude"} <= set(places.column_names):
            keys.append("(latitude, longitude)")
        if "seconds" in places.column_names:
            keys.append("(seconds)")
        if index is not None:
            keys.append(_descriptor_index(index, str(descriptors.dtype), width, len(descriptors)))
        for key in keys:
            connection.execute(sql.SQL("CREATE INDEX ON {} {}").format(name, sql.SQL(key)))
        comment = json.dumps({COMMENT_KEY: metadata})
        connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(name, sql.Literal(comment)))


def _join_sent_tables(
    connection: psycopg.Connection[Any], name: sql.Identifier, place_columns: list[str], *, with_location: bool
) -> None:
    """Make a table with a row key of the temporary tables `sent_places` and `sent_descriptors`, which are dropped."""
    from psycopg import sql

    point = "ST_SetSRID(ST_MakePoint(longitude, latitude), 4326)::geography AS location, " if with_location else ""
    statement = "CREATE TABLE {} AS SELECT row, {}, {} descriptor FROM sent_places JOIN sent_descriptors USING (row)"
    columns = sql.SQL(", ").join(map(sql.Identifier, place_columns))
    connection.execute(sql.SQL(statement).format(name, columns, sql.SQL(point)))
    connection.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (row)").format(name))
    connection.execute("DROP TABLE sent_places, sent_descriptors")


def _descriptor_index(index: IndexType, dtype: str, width: int, count: int) -> str:
    """Return the part of `CREATE INDEX` for descriptors; float32 ones beyond the limit of `vector` are indexed as halfvec.

    Raises:
        ValueError: If the descriptors are wider than an index takes.
    """
    if width > MAX_INDEXED["halfvec"]:
        raise ValueError(
            f"pgvector's indexes take up to {MAX_INDEXED['halfvec']} numbers, and the descriptors have {width}. Omit "
            f"`?index={index}` for exact searches, or use a model with a projection (`d2vpr fit-projection`)."
        )
    operand, kind = indexed_operand(dtype, width), indexed_type(dtype, width)
    lists = max(1, min(count // 1000, round(count**0.5)))  # as pgvector recommends for up to a million rows
    options = f" WITH (lists = {lists})" if index == "ivfflat" else ""
    return f"USING {index} ({operand} {kind}_l2_ops){options}"


def indexed_type(dtype: str, width: int) -> str:
    """Return the type of the numbers in an approximate index."""
    kind = _NUMBER_TYPES[dtype][0]
    return kind if width <= MAX_INDEXED[kind] else "halfvec"


def indexed_operand(dtype: str, width: int) -> str:
    """Return the expression that an approximate index sorts by."""
    kind = indexed_type(dtype, width)
    return "descriptor" if kind == _NUMBER_TYPES[dtype][0] else f"(descriptor::{kind}({width}))"


def has_table(connection: psycopg.Connection[Any], table: str) -> bool:
    """Return whether there is a table of this name in the first schema of the search path."""
    return _comment(connection, table) is not None


def read_metadata(connection: psycopg.Connection[Any], table: str) -> dict[str, Any] | None:
    """Return the facts in the comment of a table; `None` if this program did not write it."""
    try:
        values = json.loads(_comment(connection, table) or "")[COMMENT_KEY]
    except (ValueError, KeyError, TypeError):
        return None
    return values if isinstance(values, dict) else None


def _comment(connection: psycopg.Connection[Any], table: str) -> str | None:
    """Return the comment of a table, empty without one; `None` if there is no such table."""
    row = connection.execute(
        "SELECT coalesce(obj_description(oid, 'pg_class'), '') FROM pg_class "
        "WHERE relname = %s AND relnamespace = current_schema()::regnamespace",
        [table],
    ).fetchone()
    return None if row is None else str(row[0])


def _replace(connection: psycopg.Connection[Any], table: str, refuse: Refuse | None) -> None:
    """Drop a table of this program that may be replaced."""
    from psycopg import sql

    is_own = read_metadata(connection, table) is not None
    if refuse is not None:
        refuse(is_own)
    if not is_own:
        raise FileExistsError(f"There is a table {table} that this program did not write. Give another name.")
    connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(table)))


def _has_postgis(connection: psycopg.Connection[Any]) -> bool:
    return connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'postgis'").fetchone() is not None


def _copy_descriptors(
    connection: psycopg.Connection[Any], descriptors: Descriptors, progress: Callable[[int], object] | None
) -> None:
    """Send descriptors into the temporary table `sent_descriptors`."""
    width = descriptors.shape[1]
    kind, number = _NUMBER_TYPES[str(descriptors.dtype)]
    connection.execute(f"CREATE TEMPORARY TABLE sent_descriptors (row bigint, descriptor {kind}({width}))")
    header = [("fields", ">i2"), ("row_size", ">i4"), ("row", ">i8"), ("size", ">i4"), ("dim", ">i2"), ("unused", ">i2")]
    layout = np.dtype([*header, ("numbers", number, (width,))])
    rows_at_once = max(1, _BLOCK_BYTES // layout.itemsize)
    with connection.cursor().copy("COPY sent_descriptors FROM STDIN (FORMAT binary)") as copy:
        copy.write(_COPY_HEADER)
        for start in range(0, len(descriptors), rows_at_once):
            part = descriptors[start : start + rows_at_once]
            block = np.zeros(len(part), layout)
            block["fields"], block["row_size"] = 2, 8
            block["row"] = np.arange(start, start + len(part))
            block["size"], block["dim"] = 4 + width * np.dtype(number).itemsize, width
            block["numbers"] = part
            copy.write(block.tobytes())
            if progress is not None:
                progress(len(part))
        copy.write(_COPY_END)


def _copy_places(connection: psycopg.Connection[Any], places: pa.Table) -> None:
    """Send places into the temporary table `sent_places`; empty CSV fields without quotes are null."""
    from psycopg import sql

    columns: list[sql.Composable] = [sql.SQL("row bigint")]
    columns += [
        sql.SQL("{} {}").format(sql.Identifier(field.name), sql.SQL(_COLUMN_TYPES[field.type])) for field in places.schema
    ]
    connection.execute(sql.SQL("CREATE TEMPORARY TABLE sent_places ({})").format(sql.SQL(", ").join(columns)))
    table = places.add_column(0, "row", pa.array(np.arange(len(places)), pa.int64()))
    options = pyarrow.csv.WriteOptions(include_header=False)
    with connection.cursor().copy("COPY sent_places FROM STDIN (FORMAT csv)") as copy:
        for batch in table.to_batches(max_chunksize=10_000):
            text = io.BytesIO()
            pyarrow.csv.write_csv(pa.table(batch) if isinstance(batch, pa.RecordBatch) else batch, text, options)
            copy.write(text.getvalue())


def vector_text(descriptor: NDArray[np.floating]) -> str:
    """Return a descriptor (D,) as pgvector reads it; the text gives the same float32 numbers."""
    return json.dumps(np.asarray(descriptor, np.float32).tolist(), separators=(",", ":"))


def read_rows(connection: psycopg.Connection[Any], table: str, rows: list[int]) -> dict[int, NDArray[np.float32]]:
    """Return the descriptors of some rows of a table by their numbers."""
    from psycopg import sql

    query = sql.SQL("SELECT row, descriptor::text FROM {} WHERE row = ANY(%s)").format(sql.Identifier(table))
    return {int(row): np.array(json.loads(text), np.float32) for row, text in connection.execute(query, [rows])}


def is_table_name(name: str) -> bool:
    """Return whether a name needs no quotes in SQL and is not cut by PostgreSQL."""
    return re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name) is not None
