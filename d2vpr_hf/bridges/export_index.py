"""Rows of an index for other programs: databases of vectors, Parquet, and points on a map.

Each row has its place and, but for points on a map, its descriptor. What made the descriptors is written next to them, because
only a query of the same model may be compared with them.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from d2vpr_hf import __version__
from d2vpr_hf.bridges.place_points import write_points
from d2vpr_hf.index.dataset import index_table
from d2vpr_hf.stores.postgres import address_key, index_type, is_table_name, write_table
from d2vpr_hf.utils.atomic_files import check_new_file, store_file
from d2vpr_hf.utils.optional_imports import import_extra

if TYPE_CHECKING:
    from d2vpr_hf.encoders.protocol import Progress
    from d2vpr_hf.index import PlaceIndex

Target = Literal["parquet", "lancedb", "qdrant", "pgvector", "geojson", "gpx", "kml"]
TARGETS: tuple[Target, ...] = get_args(Target)
TABLE = "places"
METADATA_KEY = "d2vpr"  # under it, files and tables have the metadata; a table without it is of another program
QDRANT_KEY_VARIABLE = "QDRANT_API_KEY"

_ROWS_AT_ONCE = 1000
_FILES: tuple[Target, ...] = ("parquet", "geojson", "gpx", "kml")
_SERVERS: tuple[Target, ...] = ("qdrant", "pgvector")
_FOLDERS: tuple[Target, ...] = ("lancedb", "qdrant")


@dataclass(frozen=True)
class Export:
    """The destination of an export, checked.

    Attributes:
        out: File, or folder of an embedded database; `None` with `uri`.
        uri: Address of a server; `None` with `out`.
        table: Name of the table or collection.
        overwrite: Whether to replace a file, or a table that an earlier export wrote.
        progress: Called with the number of rows just written.
    """

    out: Path | None
    uri: str | None
    table: str
    overwrite: bool
    progress: Progress | None

    def count(self, rows: int) -> None:
        """Report rows that were written."""
        if self.progress is not None:
            self.progress(rows)

    def check_replaceable(self, has_metadata: bool) -> None:
        """Raise FileExistsError about an existing table, unless an earlier export wrote it and it may be replaced."""
        place = self.uri or self.out
        if not has_metadata:
            raise FileExistsError(
                f"There is a table {self.table} in {place} that this program did not write, so that it is not replaced. Give "
                "another name: `table`."
            )
        if not self.overwrite:
            raise FileExistsError(
                f"There is a table {self.table} in {place} already. Give another name, `table`, or replace it: "
                "`overwrite=True`."
            )


def export_index(
    index: PlaceIndex,
    to: Target,
    *,
    out: str | Path | None = None,
    uri: str | None = None,
    table: str = TABLE,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write the rows of an index for another program.

    Databases search the same descriptors by L2 distance, so that their exact search gives the neighbours of
    [`PlaceIndex.search`]; an approximate index of theirs may miss some.

    Args:
        index: The index.
        to: `"parquet"`; `"lancedb"`; `"qdrant"`, a server or an embedded folder; `"pgvector"`, a PostgreSQL server; or,
            without descriptors, `"geojson"`, `"gpx"` and `"kml"`.
        out: The file, or for `"lancedb"` and `"qdrant"` the folder of the database.
        uri: The address of the server, without secrets: `"http://HOST:6333"`, or `"postgresql://USER@HOST/DATABASE"`. The key
            of Qdrant is read from the environment variable `QDRANT_API_KEY`; libpq reads the password of PostgreSQL from
            `PGPASSWORD` or its password file. `?index=hnsw` or `?index=ivfflat` at the end of the latter address also builds
            an index of pgvector.
        table: Name of the table, or collection, in a database.
        overwrite: Whether to replace an existing file, or the table of an earlier export.
        progress: Called with the number of rows just written.

    Returns:
        The number of rows; for points on a map, of those that have a latitude and longitude.

    Raises:
        FileExistsError: If the file or the table exists, unless `overwrite` is set; and if another program made the table.
        ConnectionError: If the server does not answer.
        ImportError: If the library of the database is not installed.
        ValueError: If the index is empty, or arguments do not fit.
    """
    if to not in TARGETS:
        raise ValueError(f"Expected `to` as one of {', '.join(TARGETS)}, got {to!r}.")
    _check_destination(to, out, uri)
    if table != TABLE and to in _FILES:
        raise ValueError(f"`to={to!r}` is a file and has no `table={table!r}`. Omit it.")
    if not len(index):
        raise ValueError(f"The index {index.folder} has no photos.")
    if to in _FILES and out is not None:
        check_new_file(Path(out), overwrite)
    export = Export(None if out is None else Path(out), uri, table, overwrite, progress)
    return _WRITERS[to](index, export)


def export_metadata(index: PlaceIndex) -> dict[str, Any]:
    """Return the facts that an export records: the model of the descriptors, their width, and the distance to compare them."""
    settings = index.settings
    return {
        "program": f"d2vpr-hf {__version__}",
        "model": settings.model_name,
        "model_revision": settings.model_revision,
        "model_options": settings.model_options,
        "fingerprint": settings.fingerprint,
        "descriptor_name": settings.descriptor_name,
        "descriptor_dim": settings.descriptor_dim,
        "metric": settings.metric,
        "rows": len(index),
    }


def _check_destination(to: Target, out: str | Path | None, uri: str | None) -> None:
    """Raise ValueError unless either a file or folder is given, or the address of a server, as the target needs."""
    choices = [*(["`out`"] if to in (*_FILES, *_FOLDERS) else []), *(["`uri`"] if to in _SERVERS else [])]
    given = [name for name, value in (("`out`", out), ("`uri`", uri)) if value is not None]
    if len(given) != 1 or given[0] not in choices:
        raise ValueError(f"`to={to!r}` needs {' or '.join(choices)}, got {' and '.join(given) or 'neither'}.")


def export_table(index: PlaceIndex) -> pa.Table:
    """Return the rows of an index as an Arrow table: `row`, the columns of a place, and `descriptor`; with the metadata."""
    table = index_table(index.descriptors, index.places)
    table = table.add_column(0, "row", pa.array(np.arange(len(index)), pa.int64()))
    return table.replace_schema_metadata({METADATA_KEY: json.dumps(export_metadata(index))})


def _to_parquet(index: PlaceIndex, export: Export) -> int:
    assert export.out is not None
    table = export_table(index)

    def write(scratch: Path) -> None:
        with pq.ParquetWriter(scratch, table.schema, compression="zstd") as writer:
            for start in range(0, len(table), _ROWS_AT_ONCE):
                part = table.slice(start, _ROWS_AT_ONCE)
                writer.write_table(part)
                export.count(len(part))

    store_file(export.out, write)
    return len(table)


def _to_lancedb(index: PlaceIndex, export: Export) -> int:
    lancedb = import_extra("lancedb", "lancedb")
    table = export_table(index)
    database = lancedb.connect(str(export.out))
    if export.table in database.list_tables().tables:
        export.check_replaceable(METADATA_KEY.encode() in (database.open_table(export.table).schema.metadata or {}))
    database.create_table(export.table, data=_counted(table, export), schema=table.schema, mode="overwrite")
    return len(table)


def _counted(table: pa.Table, export: Export) -> pa.RecordBatchReader:
    """Return the batches of a table, which are counted when they are read."""

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in table.to_batches(_ROWS_AT_ONCE):
            export.count(len(batch))
            yield batch

    return pa.RecordBatchReader.from_batches(table.schema, batches())


def _to_qdrant(index: PlaceIndex, export: Export) -> int:
    qdrant_client = import_extra("qdrant_client", "qdrant")
    models = qdrant_client.models
    with _answering_qdrant(export), contextlib.closing(_connect_qdrant(qdrant_client.QdrantClient, export)) as client:
        if client.collection_exists(export.table):
            export.check_replaceable(METADATA_KEY in (client.get_collection(export.table).config.metadata or {}))
            client.delete_collection(export.table)
        settings = models.VectorParams(size=index.settings.descriptor_dim, distance=models.Distance.EUCLID)
        client.create_collection(export.table, vectors_config=settings, metadata={METADATA_KEY: export_metadata(index)})
        seconds = index.places.seconds
        for start in range(0, len(index), _ROWS_AT_ONCE):
            rows = range(start, min(start + _ROWS_AT_ONCE, len(index)))
            payloads = [_payload(index.places[row], float(seconds[row])) for row in rows]
            vectors = index.descriptors[start : rows.stop].astype(np.float32)
            client.upload_collection(export.table, vectors=vectors, payload=payloads, ids=rows, wait=True)
            export.count(len(rows))
    return len(index)


@contextlib.contextmanager
def _answering_qdrant(export: Export) -> Iterator[None]:
    """Turn errors of the client, and of a folder that another process uses, into ConnectionError."""
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    except FileExistsError:
        raise
    except (OSError, RuntimeError, ApiException) as error:
        raise ConnectionError(f"Qdrant at {export.uri or export.out} cannot be used: {error}") from error


def _connect_qdrant(client: Callable[..., Any], export: Export) -> Any:
    if export.uri is None:
        return client(path=str(export.out))
    if "@" in export.uri or "?" in export.uri:
        raise ValueError(f"The address of Qdrant has no user and no options; set {QDRANT_KEY_VARIABLE} to its key.")
    return client(url=export.uri, api_key=os.environ.get(QDRANT_KEY_VARIABLE))


def _payload(place: Any, seconds: float) -> dict[str, Any]:
    """Return the known fields of a place, and two that Qdrant filters by: `location` and `seconds` since 1970."""
    values = {name: value for name, value in vars(place).items() if value is not None}
    if place.latitude is not None and place.longitude is not None:
        values["location"] = {"lat": place.latitude, "lon": place.longitude}
    return values if np.isnan(seconds) else values | {"seconds": seconds}


def _to_pgvector(index: PlaceIndex, export: Export) -> int:
    assert export.uri is not None
    address_key(export.uri)
    if not is_table_name(export.table):
        raise ValueError(f"Expected a table name of small letters, digits and underscores, got {export.table!r}.")
    write_table(
        export.uri,
        export.table,
        index.descriptors,
        index.places.to_timed_table(),
        metadata=export_metadata(index),
        index=index_type(export.uri),
        refuse=export.check_replaceable,
        progress=export.progress,
    )
    return len(index)


def _to_points(format: Literal["geojson", "gpx", "kml"]) -> Callable[[PlaceIndex, Export], int]:
    def write(index: PlaceIndex, export: Export) -> int:
        assert export.out is not None
        return write_points(index.places, export.out, format, export.count)

    return write


_WRITERS: dict[Target, Callable[[Any, Export], int]] = {
    "parquet": _to_parquet,
    "lancedb": _to_lancedb,
    "qdrant": _to_qdrant,
    "pgvector": _to_pgvector,
    "geojson": _to_points("geojson"),
    "gpx": _to_points("gpx"),
    "kml": _to_points("kml"),
}
