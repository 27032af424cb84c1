"""Places as the rows of an index: the places of several Parquet files and the pending places, as one sequence."""

import functools
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from d2vpr_hf.index.fused_photos import FusedPhotos
from d2vpr_hf.index.manifest import damaged_file
from d2vpr_hf.index.unchecked_values import without_impossible_values
from d2vpr_hf.places import PLACE_SCHEMA, Place
from d2vpr_hf.places.timestamps import to_seconds
from d2vpr_hf.readers import PhotoSource
from d2vpr_hf.readers.photos import open_photo_file
from d2vpr_hf.stores.descriptors import kept_rows, map_file
from d2vpr_hf.stores.files import MappedFile
from d2vpr_hf.utils.parquet_sizes import check_pages, check_texts

_FILE_FIELDS = (("content_hash", pa.string()), ("file_size", pa.int64()), ("file_mtime_ns", pa.int64()))
ROW_SCHEMA = pa.schema([*PLACE_SCHEMA, *_FILE_FIELDS])
_TEXTS = [field.name for field in ROW_SCHEMA if field.type == pa.string()]
_REPEATED = ["utm_zone", "frame", "condition"]  # columns with few different values; a table in memory holds each value once


@dataclass(frozen=True)
class PhotoFile:
    """Properties of a file by which a changed photo is recognised; `None` if not known, as for frames that were never files.

    Attributes:
        content_hash: SHA-256 of the file's content, in hexadecimal.
        file_size: In bytes.
        file_mtime_ns: Time of its last change, in nanoseconds since 1970.
    """

    content_hash: str | None = None
    file_size: int | None = None
    file_mtime_ns: int | None = None

    @classmethod
    def glance(cls, photo: PhotoSource) -> "PhotoFile":
        """Return the properties of a photo that are known without reading it.

        They are size and time for a file, the size for bytes, and none for a URL.

        Raises:
            OSError: If there is no such file.
        """
        if isinstance(photo, Path):
            status = photo.stat()
            # a clock that was wrong gives years beyond 2262, which 64 bits of nanoseconds do not hold: the content decides then
            time = status.st_mtime_ns if abs(status.st_mtime_ns) < 1 << 63 else None
            return cls(None, status.st_size, time)
        return cls(None, len(photo)) if isinstance(photo, bytes) else cls()

    def with_hash(self, photo: PhotoSource) -> "PhotoFile":
        """Return the properties with the hash of the content; a URL has none, as it would have to be fetched again.

        Raises:
            OSError: If the file cannot be read, or is not a regular file.
        """
        return PhotoFile(_hash(photo), self.file_size, self.file_mtime_ns)


class StoredPlaces:
    """The places of a shard. At first only the number of rows is read; the table is read when it is first used.

    Args:
        path: The Parquet file, which is mapped.
        removed: Numbers of the removed rows, ascending.
        sha256: Checksum of the file, which is compared at the first use; `None` if it is not known.

    Raises:
        ValueError: If the file is not a table of places.
        MemoryError: If memory does not suffice for an undamaged file.
    """

    def __init__(self, path: Path, removed: Sequence[int] = (), sha256: str | None = None) -> None:
        self._path, self._removed = path, removed
        self._sha256 = sha256
        self._mapped = MappedFile.of(path)
        self._buffer = map_file(path)
        try:
            metadata = pq.read_metadata(pa.BufferReader(self._buffer))
            schema = metadata.schema.to_arrow_schema()
        except Exception as error:  # a damaged footer makes the parser fail in many ways
            if isinstance(error, MemoryError) and not self._has_changed():
                raise
            raise ValueError(f"it is not a Parquet file ({error})") from error
        _check_schema(schema)
        self.rows: int = metadata.num_rows

    def __len__(self) -> int:
        return self.rows - len(self._removed)

    @functools.cached_property
    def table(self) -> pa.Table:
        """The rows that were not removed, without impossible values.

        The checksums of file and pages are compared, and then types and number of rows: a footer that was changed can name
        other types, or leave rows out.

        Raises:
            ValueError: If the file is damaged.
        """
        try:
            self._mapped.check()
            if self._has_changed():
                raise ValueError("its checksum has changed since it was stored")
            reader = pa.BufferReader(self._buffer)
            check_pages(self._buffer)
            table = pq.read_table(reader, page_checksum_verification=True, read_dictionary=_TEXTS)
            _check_schema(table.schema)
            check_texts(table, self._buffer.size)
            if table.num_rows != self.rows:
                raise ValueError(f"it holds {table.num_rows} rows instead of {self.rows}")
            table.validate(full=True)
            for number, field in enumerate(ROW_SCHEMA):
                if field.name in _TEXTS and field.name not in _REPEATED:
                    table = table.set_column(number, field, table.column(number).cast(field.type))
        except MemoryError:
            raise
        except Exception as error:  # see above
            raise damaged_file(self._path.parent, self._path.name, error) from error
        table = table.take(kept_rows(self.rows, self._removed)) if len(self._removed) else table
        table = without_impossible_values(table.combine_chunks(), self._path)
        for number, name in enumerate(ROW_SCHEMA.names):  # most maps have positions of one kind: empty columns take no memory
            if table.num_rows and table.column(number).null_count == table.num_rows:
                table = table.set_column(number, name, pa.nulls(table.num_rows))
        return table

    def _has_changed(self) -> bool:
        """Return whether the file has another checksum than when it was stored; false if that is not known."""
        return self._sha256 is not None and hashlib.sha256(self._buffer).hexdigest() != self._sha256

    @functools.cached_property
    def seconds(self) -> NDArray[np.float64]:
        """Times of the photos in seconds, (n,); NaN if not known."""
        return np.array([to_seconds(timestamp) for timestamp in self.column("timestamp")], np.float64)

    def row(self, number: int) -> dict[str, Any]:
        """Return a row's values by column."""
        return {name: column[number].as_py() for name, column in zip(ROW_SCHEMA.names, self.table.columns, strict=True)}

    def column(self, name: str) -> list[Any]:
        """Return the values of a column; `None` for values that are not known."""
        return self.table.column(name).to_pylist()


class PendingPlaces:
    """Places that are not stored yet."""

    def __init__(self) -> None:
        self._places: list[Place] = []
        self._files: list[PhotoFile] = []
        self._seconds: list[float] = []

    def __len__(self) -> int:
        return len(self._places)

    def extend(self, places: Sequence[Place], files: Sequence[PhotoFile]) -> None:
        """Add rows."""
        self._places += places
        self._files += files
        self._seconds += [to_seconds(place.timestamp) for place in places]

    def drop(self, count: int) -> None:
        """Remove the first rows, which were stored."""
        del self._places[:count], self._files[:count], self._seconds[:count]

    def first(self, count: int) -> pa.Table:
        """Return the first rows as a table."""
        return rows_to_table(self._places[:count], self._files[:count])

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Times of the photos in seconds, (n,); NaN if not known."""
        return np.array(self._seconds, np.float64)

    def row(self, number: int) -> dict[str, Any]:
        """Return a row's values by column."""
        return vars(self._places[number]) | vars(self._files[number])

    def column(self, name: str) -> list[Any]:
        """Return the values of a column; `None` for values that are not known."""
        return [getattr(row, name) for row in (self._places if name in PLACE_SCHEMA.names else self._files)]


class PlaceRows(Sequence[Place]):
    """The places of an index, in the order of its descriptors.

    Args:
        parts: The places of shards, and pending ones.
        fused_photos: The photos of each row of fused places; `None` if each row is a photo.
    """

    def __init__(self, parts: Sequence[StoredPlaces | PendingPlaces], fused_photos: FusedPhotos | None = None) -> None:
        self._fused_photos = fused_photos
        self._parts = [part for part in parts if len(part)]
        self._starts = np.cumsum([0, *map(len, self._parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, row: int) -> Place: ...
    @overload
    def __getitem__(self, row: slice) -> list[Place]: ...
    def __getitem__(self, row: int | slice) -> Place | list[Place]:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(f"Expected a row from 0 to {len(self) - 1}, got {row}.")
        row %= len(self)
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return _place(self._parts[part].row(int(row - self._starts[part])))

    def __iter__(self) -> Iterator[Place]:
        return (place for place, _ in self.with_files())

    def photos_of(self, place: Place) -> tuple[str, ...]:
        """Return the paths of the photos that were fused to a row; none if each row is a photo.

        Raises:
            DamagedIndexError: If the file that lists them is missing or damaged.
        """
        return () if self._fused_photos is None else self._fused_photos.of(place.path)

    def with_files(self) -> Iterator[tuple[Place, PhotoFile]]:
        """Yield each place and the properties of its file."""
        for part in self._parts:
            columns = [part.column(name) for name in ROW_SCHEMA.names]
            for values in zip(*columns, strict=True):
                count = len(PLACE_SCHEMA.names)
                yield Place(*values[:count]), PhotoFile(*values[count:])

    def to_table(self) -> pa.Table:
        """Return all rows as an Arrow table of the columns of a place."""
        tables = (part.first(len(part)) if isinstance(part, PendingPlaces) else part.table for part in self._parts)
        return pa.concat_tables([ROW_SCHEMA.empty_table(), *(table.cast(ROW_SCHEMA) for table in tables)]).select(
            PLACE_SCHEMA.names
        )

    def to_timed_table(self) -> pa.Table:
        """Return all rows as [`to_table`] does, with the column `seconds`: their times since 1970, null if not known."""
        return self.to_table().append_column("seconds", pa.array(self.seconds, pa.float64(), from_pandas=True))

    def column(self, name: str) -> list[Any]:
        """Return a column, such as `"latitude"`; `None` for values that are not known."""
        return [value for part in self._parts for value in part.column(name)]

    def arrow_column(self, name: str) -> pa.ChunkedArray:
        """Return a column without an object for each value; null for values that are not known."""
        field = ROW_SCHEMA.field(name)
        tables = (part.first(len(part)) if isinstance(part, PendingPlaces) else part.table for part in self._parts)
        chunks = [chunk for table in tables for chunk in table.column(name).cast(field.type).chunks]
        return pa.chunked_array(chunks, field.type)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Times of the photos in seconds, (N,), as [`to_seconds`] reads them; NaN if not known."""
        return np.concatenate([np.empty(0), *(part.seconds for part in self._parts)])

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column of numbers (N,); NaN for values that are not known."""
        return np.array(self.column(name), np.float64)


def rows_to_table(places: Sequence[Place], files: Sequence[PhotoFile]) -> pa.Table:
    """Return places and the properties of their files as a table."""
    return pa.Table.from_pylist([vars(place) | vars(file) for place, file in zip(places, files, strict=True)], ROW_SCHEMA)


def table_to_bytes(table: pa.Table) -> bytes:
    """Return the content of a Parquet file of places; each page has a checksum, so that reading it detects damage."""
    sink = io.BytesIO()
    pq.write_table(table.cast(ROW_SCHEMA), sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def _check_schema(schema: pa.Schema) -> None:
    """Raise ValueError unless a table has the columns of [`ROW_SCHEMA`] in their order and of their types."""
    types = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in schema]
    if schema.names != ROW_SCHEMA.names or types != ROW_SCHEMA.types:
        expected = ", ".join(f"{field.name} {field.type}" for field in ROW_SCHEMA)
        raise ValueError(f"expected the columns {expected}")


def _place(row: dict[str, Any]) -> Place:
    return Place(**{name: row[name] for name in PLACE_SCHEMA.names})


def _hash(photo: PhotoSource) -> str | None:
    """Return the SHA-256 of a file's content or of bytes; `None` for a URL."""
    if isinstance(photo, bytes):
        return hashlib.sha256(photo).hexdigest()
    if not isinstance(photo, Path):
        return None
    with open_photo_file(photo) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class PendingRows:
    """Descriptors and places that are not stored yet; adding a row takes constant time on average."""

    def __init__(self, descriptor_dim: int, dtype: str) -> None:
        self.places = PendingPlaces()
        self._room = np.empty((0, descriptor_dim), dtype)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def descriptors(self) -> NDArray[Any]:
        """The descriptors of all pending rows, (n, D)."""
        return self._room[: len(self)]

    def extend(self, descriptors: NDArray[Any], places: Sequence[Place], files: Sequence[PhotoFile]) -> None:
        """Add rows (m, D) in the type of the index."""
        start, end = len(self), len(self) + len(places)
        if end > len(self._room):
            larger = np.empty((max(end, 2 * len(self._room)), self._room.shape[1]), self._room.dtype)
            larger[:start] = self.descriptors
            self._room = larger
        self._room[start:end] = descriptors
        self.places.extend(places, files)

    def drop(self, count: int) -> None:
        """Remove the first rows, which were stored."""
        self._room = self._room[count : len(self)].copy()
        self.places.drop(count)
