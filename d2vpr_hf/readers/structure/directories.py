"""Directories of tags in TIFF files (TIFF 6.0, BigTIFF) and in EXIF, which is a TIFF file.

Their values may overlap: a block of 64 kB can have five thousand values of 60 kB each, which Pillow copies.
"""

import io
import struct
from typing import BinaryIO, NamedTuple

from d2vpr_hf.readers.structure.limits import UnsafePhotoError, check_overlap, read_at, size_of

_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}  # bytes of a value, by type
_POINTER_FORMS = {3: "H", 4: "I", 8: "h", 9: "i", 13: "I", 16: "Q"}
_TEXTS, _FRACTIONS = (1, 2, 6, 7), (5, 10)
_EXIF, _GPS = 0x8769, 0x8825  # tags that point to directories
_INTEROPERABILITY = 0xA005  # such a tag in that of EXIF
_BEGINNING = b"Exif\0\0"
_MOST_BEGINNINGS = 100
_MOST_ENTRIES = 65_535  # of a directory; BigTIFF allows any number
_MOST_NUMBERS = 4_000_000  # Pillow makes an object of each
_MOST_FRACTIONS = 100_000


class Entry(NamedTuple):
    """An entry of a directory: the type and the number of its values, and their position."""

    kind: int
    num_values: int
    position: int


class _Layout(NamedTuple):
    """The layout of a directory: forms of its number of entries and of an entry, for `struct`, and bytes within an entry."""

    counter: struct.Struct
    entry: struct.Struct
    inline: int


def check_exif(block: bytes) -> None:
    """Check the directories of an EXIF block.

    Raises:
        UnsafePhotoError: If they take excessive time or memory.
    """
    beginnings = 0
    while block.startswith(_BEGINNING, beginnings * len(_BEGINNING)):  # Pillow removes them one by one, each with a copy
        beginnings += 1
        if beginnings > _MOST_BEGINNINGS:
            raise UnsafePhotoError(f"its EXIF begins more than {_MOST_BEGINNINGS} times")
    check_directories(block[beginnings * len(_BEGINNING) :])


def check_directories(tiff: BinaryIO | bytes) -> dict[int, Entry]:
    """Check the first directory of a TIFF file, and those of EXIF in it; return the entries of the first by their tags.

    Damaged directories are not errors here: Pillow reads what there is of them.

    Raises:
        UnsafePhotoError: If the directories take excessive time or memory.
    """
    file = io.BytesIO(tiff) if isinstance(tiff, bytes) else tiff
    size = size_of(file)
    order, layout, first = _header(file)
    if layout is None:
        return {}
    entries = _read(file, size, layout, first)
    for tag in (_EXIF, _GPS, _INTEROPERABILITY):
        inner = _read(file, size, layout, _pointer(file, order, entries.get(tag)))
        if tag == _EXIF:
            _read(file, size, layout, _pointer(file, order, inner.get(_INTEROPERABILITY)))
    return entries


def _header(file: BinaryIO) -> tuple[str, _Layout | None, int]:
    """Return the order of bytes, the layout of directories and the position of the first; no layout for other files."""
    header = read_at(file, 0, 16)
    if len(header) < 8 or header[:2] not in (b"II", b"MM"):
        return "<", None, 0
    order = "<" if header[:2] == b"II" else ">"
    if header[2:4] == b"\0+":
        raise UnsafePhotoError("a BigTIFF in big-endian order, which is not read")  # Pillow takes it for another TIFF
    if header[2] == ord("+"):
        first = struct.unpack_from(f"{order}Q", header, 8)[0] if len(header) == 16 else 0
        return order, _Layout(struct.Struct(f"{order}Q"), struct.Struct(f"{order}HHQ8s"), 8), first
    return (
        order,
        _Layout(struct.Struct(f"{order}H"), struct.Struct(f"{order}HHI4s"), 4),
        struct.unpack_from(f"{order}I", header, 4)[0],
    )


def _read(file: BinaryIO, size: int, layout: _Layout, start: int) -> dict[int, Entry]:
    """Read and check a directory; one that is cut off gives the entries that there are, and position 0 gives none."""
    if start == 0 or start + layout.counter.size > size:
        return {}
    (count,) = layout.counter.unpack(read_at(file, start, layout.counter.size))
    if count > _MOST_ENTRIES:
        raise UnsafePhotoError(f"a directory of its tags has {count:,} entries")
    start += layout.counter.size
    content = file.read(count * layout.entry.size)
    content = content[: len(content) // layout.entry.size * layout.entry.size]
    order = layout.entry.format[0]
    entries: dict[int, Entry] = {}
    all_bytes = 0
    numbers, fractions = 0, 0
    for row, (tag, kind, values, inline) in enumerate(layout.entry.iter_unpack(content)):
        num_bytes = values * _SIZES.get(kind, 0)
        position = start + (row + 1) * layout.entry.size - layout.inline
        if num_bytes > layout.inline:
            (position,) = struct.unpack(f"{order}{'I' if layout.inline == 4 else 'Q'}", inline)
        all_bytes += min(num_bytes, max(0, size - position))
        if position + num_bytes > size:  # cut off: Pillow has no value of it
            continue
        numbers += values if kind in _SIZES and kind not in _TEXTS else 0
        fractions += values if kind in _FRACTIONS else 0
        if tag not in entries or tag in (_EXIF, _GPS, _INTEROPERABILITY):  # of two, libtiff takes the first, Pillow the last
            entries[tag] = Entry(kind, values, position)
    check_overlap(all_bytes, size, "tags", times=4)
    if numbers > _MOST_NUMBERS or fractions > _MOST_FRACTIONS:
        raise UnsafePhotoError(
            f"its tags have {numbers:,} numbers and {fractions:,} fractions; at most {_MOST_NUMBERS:,} and {_MOST_FRACTIONS:,} "
            "are read"
        )
    return entries


def _pointer(file: BinaryIO, order: str, entry: Entry | None) -> int:
    """Return the position that an entry points to; 0 for a missing entry, and for values that are not one whole number."""
    if entry is None or entry.num_values != 1 or entry.kind not in _POINTER_FORMS:
        return 0
    content = read_at(file, entry.position, _SIZES[entry.kind])
    if len(content) < _SIZES[entry.kind]:
        return 0
    return max(0, int(struct.unpack(f"{order}{_POINTER_FORMS[entry.kind]}", content)[0]))
