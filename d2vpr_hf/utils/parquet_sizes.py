"""Check that a Parquet file does not state more content than its bytes can hold, before Arrow reserves memory for it.

A few bytes can state any number of rows (run lengths), any number of long texts (places in a dictionary), or pages that zstd
unpacks to gigabytes. The format is that of https://github.com/apache/parquet-format: each column of a group of rows is a chunk
of pages, and each page has a header in Thrift's compact protocol.
"""

import enum
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from d2vpr_hf.utils.bounded_files import check_stated_size

_NUMBER_BYTES = 8  # of a value in memory: a number, or the place of a text
_MAX_DEPTH = 8  # of structures in the header of a page; 3 are known
_UNPACKED, _PACKED = 2, 3  # fields of the header: the page's sizes in bytes


class _Type(enum.IntEnum):
    """Types of Thrift's compact protocol; those between `BYTE` and `DOUBLE` are integers."""

    STOP = 0
    TRUE = 1
    FALSE = 2
    BYTE = 3
    DOUBLE = 7
    BINARY = 8
    LIST = 9
    SET = 10
    MAP = 11
    STRUCT = 12


class _Page(NamedTuple):
    start: int  # of its content, in the file
    unpacked: int
    packed: int


def check_pages(metadata: pq.FileMetaData, content: pa.Buffer) -> None:
    """Check the rows and pages that a Parquet file states.

    Args:
        metadata: The footer, of columns that are not lists.
        content: The file.

    Raises:
        ValueError: If numbers of rows contradict each other, or they or pages are larger than the file can hold.
    """
    check_stated_size(metadata.num_rows * metadata.num_columns * _NUMBER_BYTES, content.size)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    if metadata.num_rows < 0 or sum(group.num_rows for group in groups) != metadata.num_rows:
        raise ValueError("its groups of rows do not have the number of rows that it states")
    unpacked = 0
    view = memoryview(content).cast("B")
    for group in groups:
        for number in range(group.num_columns):
            chunk = group.column(number)
            if chunk.num_values != group.num_rows:
                raise ValueError(f"its column {chunk.path_in_schema} states {chunk.num_values} values, not {group.num_rows}")
            start, end = _chunk_span(chunk)
            if not 0 <= start <= end <= content.size:
                raise ValueError(f"its column {chunk.path_in_schema} is outside of the file")
            for page in _pages(view, start, end):
                unpacked += page.unpacked
                check_stated_size(unpacked, content.size)


def check_texts(table: pa.Table, stored: int) -> None:
    """Check the length of all texts of a table together, where each is a place in a dictionary that has every text once.

    Args:
        table: The table; columns that are not dictionaries do not count.
        stored: Size of its file in bytes.

    Raises:
        ValueError: If they are longer than the file can hold.
    """
    size = 0
    for column in table.columns:
        for chunk in column.chunks if pa.types.is_dictionary(column.type) else ():
            lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
            size += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    check_stated_size(size, stored)


def _chunk_span(chunk: pq.ColumnChunkMetaData) -> tuple[int, int]:
    """Return the start and the end of a chunk in the file, as Arrow finds them."""
    start = chunk.data_page_offset
    if chunk.dictionary_page_offset:
        start = min(start, chunk.dictionary_page_offset)
    return start, start + chunk.total_compressed_size


def _pages(view: memoryview, start: int, end: int) -> Iterator[_Page]:
    """Yield the pages of a chunk.

    Raises:
        ValueError: If a header is damaged, or a page ends outside of its chunk.
    """
    while start < end:
        try:
            fields = dict(_Header(view[start:end]).integers())
            page = _Page(start + fields[0], fields[_UNPACKED], fields[_PACKED])
        except (IndexError, KeyError) as error:
            raise ValueError("the header of a page is damaged") from error
        if min(page.unpacked, page.packed) < 0 or page.start + page.packed > end:
            raise ValueError("the header of a page is damaged")
        yield page
        start = page.start + page.packed


class _Header:
    """The header of a page: a structure in Thrift's compact protocol (THRIFT-110)."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._position = view, 0

    def integers(self) -> Iterator[tuple[int, int]]:
        """Yield number and value of each integer of the structure; at last 0 and the header's length."""
        for number, kind in self._fields():
            if _Type.BYTE < kind < _Type.DOUBLE:
                yield number, self._integer()
            else:
                self._skip(kind, 0)
        yield 0, self._position

    def _fields(self) -> Iterator[tuple[int, int]]:
        """Yield number and type of each field up to the end of a structure; the caller reads or skips its value."""
        number = 0
        while (byte := self._byte()) & 0x0F != _Type.STOP:
            number = number + (byte >> 4) if byte >> 4 else self._integer()
            yield number, byte & 0x0F

    def _byte(self) -> int:
        self._position += 1
        return self._view[self._position - 1]

    def _length(self) -> int:
        """Return a number of at most 10 bytes with 7 bits each, the lowest first."""
        value = 0
        for place in range(10):
            byte = self._byte()
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value
        raise IndexError

    def _integer(self) -> int:
        """Return a number with its sign in the lowest bit."""
        value = self._length()
        return value >> 1 ^ -(value & 1)

    def _skip(self, kind: int, depth: int, is_item: bool = False) -> None:
        """Skip a value. Truth values are in the type of a field, and take a byte as items of a list."""
        if depth > _MAX_DEPTH:
            raise IndexError
        if kind in (_Type.TRUE, _Type.FALSE, _Type.BYTE):
            self._position += kind == _Type.BYTE or is_item
        elif _Type.BYTE < kind < _Type.DOUBLE:
            self._length()
        elif kind == _Type.DOUBLE:
            self._position += 8
        elif kind == _Type.BINARY:
            length = self._length()  # it moves the position too
            self._position += length
        elif kind in (_Type.LIST, _Type.SET):
            byte = self._byte()
            self._skip_items(self._length() if byte >> 4 == 15 else byte >> 4, (byte & 0x0F,), depth)
        elif kind == _Type.MAP:
            count = self._length()
            byte = self._byte() if count else 0
            self._skip_items(count, (byte >> 4, byte & 0x0F), depth)
        elif kind == _Type.STRUCT:
            for _, inner in self._fields():
                self._skip(inner, depth + 1)
        else:
            raise IndexError

    def _skip_items(self, count: int, kinds: tuple[int, ...], depth: int) -> None:
        if count > len(self._view):  # an item has a byte at least
            raise IndexError
        for _ in range(count):
            for kind in kinds:
                self._skip(kind, depth + 1, is_item=True)


__all__ = ["check_pages", "check_texts"]
