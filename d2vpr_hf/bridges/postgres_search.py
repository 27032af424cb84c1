"""Searches of a table in PostgreSQL by SQL alone: nearest descriptors, filtered by position, heading and time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.places.filters import PlaceFilter
from d2vpr_hf.stores.place_sql import place_conditions
from d2vpr_hf.stores.postgres import address_key, answering, connect, vector_text


def search_table(
    uri: str,
    table: str,
    descriptors: NDArray[np.floating],
    top_k: int,
    *,
    where: PlaceFilter | None = None,
) -> list[list[dict[str, Any]]]:
    """Find the nearest rows of descriptors in a table of `export_index` or of a store, with the filters as SQL.

    Use this, or its SQL, where no index is at hand. All rows that pass the filters are compared, in float32: rows that are
    equally near may be in another order than [`PlaceIndex.search`] returns them.

    Args:
        uri: Address of the database, as for [`export_index`].
        table: Name of the table.
        descriptors: (Q, D), or one (D,).
        top_k: Number of rows for each descriptor.
        where: Filters of the places; `None` for none.

    Returns:
        For each descriptor the rows: the columns of a place, `row`, and `similarity` = 1 - d² / 2 of the L2 distance d.

    Raises:
        ConnectionError: If the server does not answer.
        ValueError: If there is no such table, or the descriptors have another width.
    """
    from psycopg import sql
    from psycopg.rows import dict_row

    address_key(uri)
    queries = np.atleast_2d(descriptors)
    with connect(uri) as connection, answering(uri), connection.cursor(row_factory=dict_row) as cursor:
        names = _columns(connection, table)
        columns = [name for name in names if name not in ("descriptor", "location")]
        condition, values = place_conditions(where or PlaceFilter(), has_location="location" in names)
        kind = f"vector({queries.shape[1]})"
        statement = sql.SQL(
            f"SELECT {{}}, 1 - (descriptor::{kind} <-> %(query)s::{kind}) ^ 2 / 2 AS similarity FROM {{}} WHERE {condition} "
            f"ORDER BY descriptor::{kind} <-> %(query)s::{kind}, row LIMIT %(top_k)s"
        ).format(sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(table))
        return [
            cursor.execute(statement, {**values, "query": vector_text(query), "top_k": top_k}).fetchall() for query in queries
        ]


def _columns(connection: Any, table: str) -> list[str]:
    """Return the names of a table's columns.

    Raises:
        ValueError: If there is no such table.
    """
    statement = (
        "SELECT attname FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid WHERE relname = %s AND attnum > 0 "
        "AND NOT attisdropped AND relnamespace = current_schema()::regnamespace ORDER BY attnum"
    )
    names = [name for (name,) in connection.execute(statement, [table])]
    if "descriptor" not in names:
        raise ValueError(f"There is no table {table} with a column `descriptor`.")
    return names
