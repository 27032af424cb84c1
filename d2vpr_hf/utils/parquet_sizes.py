"""Check that a Parquet file does not state more content than its bytes can hold, before Arrow reserves memory for it.

A few bytes can state any number of rows (run lengths), any number of long texts (places in a dictionary), or pages that zstd
unpacks to gigabytes. The format is that of https://github.com/apache/parquet-format: a footer lists groups of rows with a chunk
of pages for each column, and each page has a header, both in Thrift's compact protocol (THRIFT-110). They are read here, for
Arrow's objects of groups and chunks end the process (`std::terminate`) where a damaged footer makes them raise an error.
"""

import enum
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from d2vpr_hf.utils.bounded_files import check_stated_size

_NUMBER_BYTES = 8  # of a value in memory: a number, or the place of a text
_MAX_DEPTH = 16  # of structures; 6 are known
_MAGIC = b"PAR1"
_END = 8  # bytes of the footer's length and of the magic number behind it


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


class _File(enum.IntEnum):
    """Fields of the footer."""

    ROWS = 3
    GROUPS = 4


class _Group(enum.IntEnum):
    """Fields of a group of rows."""

    CHUNKS = 1
    ROWS = 3


class _Chunk(enum.IntEnum):
    """Fields of a chunk, which are in its field 3."""

    FACTS = 3
    VALUES = 5
    PACKED = 7
    DATA = 9
    DICTIONARY = 11


class _Header(enum.IntEnum):
    """Fields of the header of a page."""

    UNPACKED = 2
    PACKED = 3


class Page(NamedTuple):
    """A page of a chunk: the place of its content in the file, and its sizes in bytes without the header."""

    start: int
    unpacked: int
    packed: int


def check_pages(content: pa.Buffer) -> None:
    """Check the rows and pages that a Parquet file states.

    Args:
        content: The file, of columns that are not lists.

    Raises:
        ValueError: If the file is damaged, its numbers of rows contradict each other, or they or its pages are larger than the
            file can hold.
    """
    view = memoryview(content).cast("B")
    try:
        footer = read_footer(view)
        rows, groups = footer[_File.ROWS], footer.get(_File.GROUPS, [])
        rows_of_groups = [group[_Group.ROWS] for group in groups]
        if min([rows, *rows_of_groups]) < 0 or sum(rows_of_groups) != rows:
            raise ValueError("its groups of rows do not have the number of rows that it states")
        values = unpacked = 0
        for group in groups:
            for chunk in group[_Group.CHUNKS]:
                facts = chunk[_Chunk.FACTS]
                if facts[_Chunk.VALUES] != group[_Group.ROWS]:
                    raise ValueError(f"a column states {facts[_Chunk.VALUES]} values for {group[_Group.ROWS]} rows")
                values += group[_Group.ROWS]
                if group[_Group.ROWS]:  # a column without values states a start where no page is, and Arrow reads none
                    unpacked += sum(page.unpacked for page in read_pages(view, facts))
                check_stated_size(max(values * _NUMBER_BYTES, unpacked), len(view))
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("its footer is damaged") from error


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


def read_footer(view: memoryview) -> dict[int, Any]:
    """Return the values of the footer by the numbers of their fields.

    Raises:
        IndexError: If it is damaged.
    """
    size = int.from_bytes(view[-_END:-4], "little")
    if bytes(view[-4:]) != _MAGIC or size > len(view) - _END:
        raise IndexError
    return _Reader(view[len(view) - _END - size : len(view) - _END]).structure()


def read_pages(view: memoryview, facts: dict[int, Any]) -> list[Page]:
    """Return the pages of a chunk.

    Args:
        view: The file.
        facts: The values of the chunk, from its field 3.

    Raises:
        ValueError: If the chunk is outside of the file, or a page is outside of its chunk.
        IndexError, KeyError: If a header is damaged.
    """
    start = facts[_Chunk.DATA]
    if facts.get(_Chunk.DICTIONARY):  # as Arrow finds the start
        start = min(start, facts[_Chunk.DICTIONARY])
    end = start + facts[_Chunk.PACKED]
    if not 0 <= start <= end <= len(view):
        raise ValueError("a column is outside of the file")
    pages = []
    while start < end:
        reader = _Reader(view[start:end])
        header = reader.structure()
        page = Page(start + reader.position, header[_Header.UNPACKED], header[_Header.PACKED])
        if min(page.unpacked, page.packed) < 0 or page.start + page.packed > end:
            raise ValueError("a page is outside of its column")
        pages.append(page)
        start = page.start + page.packed
    return pages


class _Reader:
    """Reads values in Thrift's compact protocol, and raises IndexError where they are damaged.

    Attributes:
        position: Number of bytes that were read.
    """

    def __init__(self, view: memoryview) -> None:
        self._view, self.position = view, 0

    def structure(self, depth: int = 0) -> dict[int, Any]:
        """Return the values of a structure by the numbers of their fields."""
        if depth > _MAX_DEPTH:
            raise IndexError
        values: dict[int, Any] = {}
        number = 0
        while (byte := self._byte()) & 0x0F != _Type.STOP:
            number = number + (byte >> 4) if byte >> 4 else self._integer()
            kind = byte & 0x0F
            values[number] = kind == _Type.TRUE if kind in (_Type.TRUE, _Type.FALSE) else self._value(kind, depth)
        return values

    def _value(self, kind: int, depth: int) -> Any:
        """Return a value that is an item, or that of a field; texts and floating-point numbers are skipped."""
        if kind in (_Type.TRUE, _Type.FALSE, _Type.BYTE):
            return self._byte()
        if _Type.BYTE < kind < _Type.DOUBLE:
            return self._integer()
        if kind == _Type.DOUBLE:
            self.position += 8
        elif kind == _Type.BINARY:
            length = self._length()  # it moves the position too
            self.position += length
        elif kind in (_Type.LIST, _Type.SET):
            byte = self._byte()
            count = self._length() if byte >> 4 == 15 else byte >> 4
            return self._items(count, (byte & 0x0F,), depth)
        elif kind == _Type.MAP:
            count = self._length()
            byte = self._byte() if count else 0
            return self._items(count, (byte >> 4, byte & 0x0F), depth)
        elif kind == _Type.STRUCT:
            return self.structure(depth + 1)
        else:
            raise IndexError
        return None

    def _items(self, count: int, kinds: tuple[int, ...], depth: int) -> list[Any]:
        """Return the items of a list, or the keys and values of a table in turn."""
        if count > len(self._view) or depth > _MAX_DEPTH:  # an item has a byte at least
            raise IndexError
        return [self._value(kind, depth + 1) for _ in range(count) for kind in kinds]

    def _byte(self) -> int:
        self.position += 1
        return self._view[self.position - 1]

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


__all__ = ["Page", "check_pages", "check_texts", "read_footer", "read_pages"]
