"""Boxes of HEIF and AVIF files (ISO/IEC 14496-12, 23008-12): sizes of pictures, and data that items share."""

import contextlib
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from d2vpr_hf.readers.structure.chunks import check_whole
from d2vpr_hf.readers.structure.directories import check_exif
from d2vpr_hf.readers.structure.limits import (
    LARGEST_METADATA,
    LARGEST_TILE,
    MOST_PIXELS,
    TIMES_PICTURE,
    UnsafePhotoError,
    check_count,
    check_overlap,
    read_at,
)

_LISTS = (b"iloc", b"iinf", b"iref")
_UNIQUE = (*_LISTS, b"iprp", b"idat")
_MOST_EXTENTS = 100_000
_MOST_TILES = 4096  # of a grid


class _Item(NamedTuple):
    """The data of an item: whether they are in the `idat` box, and the position and the number of bytes of each extent."""

    is_in_box: bool
    extents: list[tuple[int, int]]


def iterate_boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of the content of each box between two positions.

    Raises:
        UnsafePhotoError: If there are very many.
    """
    count, first = 0, start
    while start + 8 <= end and len(header := read_at(file, start, 16)) >= 8:
        size, kind = struct.unpack_from(">I4s", header)
        content = start + 8
        if size == 1 and len(header) == 16:
            content, size = start + 16, struct.unpack_from(">Q", header, 8)[0]
        box_end = end if size == 0 else start + size
        if box_end < content:
            return
        yield kind, content, min(box_end, end)
        count += 1
        check_count(count, min(box_end, end) - first, "boxes")
        start = box_end


def check_boxes(file: BinaryIO) -> None:
    """Check the items of a HEIF or AVIF file.

    Raises:
        UnsafePhotoError: If it is very large, its items share data again and again, or tiles are much larger than the picture.
    """
    size = check_whole(file)
    for kind, start, end in iterate_boxes(file, 0, size):
        if kind == b"meta":
            if end - start > LARGEST_METADATA:
                raise UnsafePhotoError(f"its list of items has {end - start:,} bytes; at most {LARGEST_METADATA:,} are read")
            _check_items(file, start + 4, end, size)


def _check_items(file: BinaryIO, start: int, end: int, size: int) -> None:
    boxes: dict[bytes, tuple[int, int]] = {}
    for kind, first, last in iterate_boxes(file, start, end):
        if kind in boxes and kind in _UNIQUE:
            raise UnsafePhotoError("it has two lists of items")
        boxes[kind] = first, last
    contents = {kind: read_at(file, first, last - first) for kind, (first, last) in boxes.items() if kind in _LISTS}
    items = _read_items(contents.get(b"iloc", b""))
    kinds = _read_kinds(contents.get(b"iinf", b""))
    check_overlap(sum(length for item in items.values() for _, length in item.extents), size, "items")
    sizes = _read_sizes(file, boxes.get(b"iprp"))
    parts = _read_parts(contents.get(b"iref", b""))
    data = boxes.get(b"idat", (0, 0))[0]
    for number, item in items.items():
        if kinds.get(number) == b"Exif":
            content = _read_data(file, item, data)
            check_exif(content[4 + int.from_bytes(content[:4], "big") :])
            check_exif(content[4:])
        elif kinds.get(number) == b"grid":
            _check_grid(_read_data(file, item, data), _largest(sizes.get(part) for part in parts.get(number, ())))


def _read_sizes(file: BinaryIO, properties: tuple[int, int] | None) -> dict[int, tuple[int, int]]:
    """Check the sizes of pictures that the properties state; return width and height by the items' numbers."""
    stated: list[tuple[int, int] | None] = []
    sizes: dict[int, tuple[int, int]] = {}
    for kind, start, end in iterate_boxes(file, *(properties or (0, 0))):
        if kind == b"ipco":
            for inner, first, _ in iterate_boxes(file, start, end):
                content = read_at(file, first + 4, 8) if inner == b"ispe" else b""
                stated.append(struct.unpack(">II", content) if len(content) == 8 else None)
                _check_pixels(*(stated[-1] or (0, 0)))
        if kind == b"ipma":
            for number, property_number in _read_associations(read_at(file, start, end - start)):
                if 0 < property_number <= len(stated) and (size := stated[property_number - 1]) is not None:
                    sizes[number] = _largest((size, sizes.get(number))) or size
    return sizes


def _read_associations(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield the numbers of an item and of one of its properties from a box `ipma`."""
    with contextlib.suppress(IndexError):  # cut off
        number_size = 4 if content[0] else 2
        property_size = 2 if content[3] & 1 else 1
        count, position = _number(content, 4, 4)
        for _ in range(count):
            number, position = _number(content, position, number_size)
            properties, position = _number(content, position, 1)
            for _ in range(properties):
                value, position = _number(content, position, property_size)
                yield number, value & (0x7FFF if property_size == 2 else 0x7F)  # the first bit marks essential ones


def _largest(sizes: Iterable[tuple[int, int] | None]) -> tuple[int, int] | None:
    """Return the largest of several sizes; `None` if none is known."""
    known_sizes = [size for size in sizes if size is not None]
    return max(known_sizes, key=lambda size: size[0] * size[1], default=None)


def _read_parts(content: bytes) -> dict[int, list[int]]:
    """Return the numbers of the tiles of each derived picture from a box `iref`."""
    parts: dict[int, list[int]] = {}
    position = 4
    with contextlib.suppress(IndexError):  # cut off
        number_size = 4 if content[0] else 2
        while position < len(content):
            size, _ = _number(content, position, 4)
            number, behind = _number(content, position + 8, number_size)
            count, behind = _number(content, behind, 2)
            if content[position + 4 : position + 8] == b"dimg":
                starts = range(behind, min(behind + count * number_size, len(content)), number_size)
                parts.setdefault(number, []).extend(_number(content, start, number_size)[0] for start in starts)
            position += max(8, size)
    return parts


def _check_grid(content: bytes, tile: tuple[int, int] | None) -> None:
    """Check the number of tiles, the size of a grid, and that its tiles, of known size, do not reach far beyond it."""
    if len(content) < 8:
        return
    rows, columns = content[2] + 1, content[3] + 1
    tiles = rows * columns
    width, height = struct.unpack_from(">II" if content[1] & 1 and len(content) >= 12 else ">HH", content, 4)
    _check_pixels(width, height)
    if tiles > _MOST_TILES:
        raise UnsafePhotoError(f"it has {tiles:,} tiles; at most {_MOST_TILES:,} are read")
    if tile is None:
        return
    is_beyond = tile[0] * (columns - 1) >= max(1, width) or tile[1] * (rows - 1) >= max(1, height)
    if is_beyond or tile[0] * tile[1] > max(LARGEST_TILE, TIMES_PICTURE * width * height):
        raise UnsafePhotoError(f"a picture of {width} x {height} pixels in {tiles:,} tiles of {tile[0]} x {tile[1]}")


def _check_pixels(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise UnsafePhotoError(f"it has a picture of {width:,} x {height:,} pixels; at most {MOST_PIXELS:,} pixels are read")


def _read_data(file: BinaryIO, item: _Item, data: int) -> bytes:
    """Return the data of an item, up to the size of metadata."""
    base = data if item.is_in_box else 0
    return b"".join(read_at(file, base + position, min(length, LARGEST_METADATA)) for position, length in item.extents)


def _read_items(content: bytes) -> dict[int, _Item]:
    """Read a box `iloc`; a damaged one gives the items in front of the damage."""
    items: dict[int, _Item] = {}
    with contextlib.suppress(IndexError):  # cut off
        version, sizes = content[0], content[4] << 8 | content[5]
        offset_size, length_size = sizes >> 12, sizes >> 8 & 15
        base_size = sizes >> 4 & 15
        index_size = sizes & 15 if version else 0
        number_size = 2 if version < 2 else 4
        position = 6
        count, position = _number(content, position, number_size)
        all_extents = 0
        for _ in range(count):
            number, position = _number(content, position, number_size)
            method, position = _number(content, position, 2 if version else 0)
            base, position = _number(content, position + 2, base_size)
            extents, position = _number(content, position, 2)
            all_extents += extents
            if all_extents > _MOST_EXTENTS:
                raise UnsafePhotoError(f"its items have more than {_MOST_EXTENTS:,} extents")
            if number in items:
                raise UnsafePhotoError("its list of items has an item twice")
            item = items[number] = _Item(method & 15 == 1, [])
            for _ in range(extents):
                offset, position = _number(content, position + index_size, offset_size)
                length, position = _number(content, position, length_size)
                item.extents.append((base + offset, length))
    return items


def _read_kinds(content: bytes) -> dict[int, bytes]:
    """Read the kinds of items from a box `iinf`, by their numbers."""
    kinds: dict[int, bytes] = {}
    start = 6 if content[:1] == b"\0" else 8
    while start + 20 <= len(content):
        size, box, version = struct.unpack_from(">I4sB", content, start)
        if box == b"infe" and version in (2, 3):
            number, kind = struct.unpack_from(">H2x4s" if version == 2 else ">I2x4s", content, start + 12)
            kinds[number] = kind
        start += max(8, size)
    return kinds


def _number(content: bytes, position: int, size: int) -> tuple[int, int]:
    """Return the number of `size` bytes at a position, and the position behind it."""
    if position + size > len(content):
        raise IndexError(position)
    return int.from_bytes(content[position : position + size], "big"), position + size
