"""Chunks of PNG, WebP and GIF files (PNG third edition, RFC 9649, GIF89a)."""

import struct
from typing import BinaryIO

from d2vpr_hf.readers.structure.limits import LARGEST_WHOLE_FILE, UnsafePhotoError, check_count, read_at, size_of

_COMPRESSED_CHUNKS = (b"zTXt", b"iTXt", b"iCCP")  # Pillow unpacks up to a megabyte of each
_MOST_COMPRESSED = 256
_MOST_EXTENSION_BYTES = 2**20  # of a GIF in front of its first picture; Pillow joins the parts of a comment one by one


def check_png(file: BinaryIO) -> None:
    """Check the number of chunks of a PNG file, and of those that are compressed metadata.

    Raises:
        UnsafePhotoError: If it has very many of them.
    """
    size, position = size_of(file), 8
    count, compressed = 0, 0
    while len(header := read_at(file, position, 8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        count += 1
        compressed += kind in _COMPRESSED_CHUNKS
        if compressed > _MOST_COMPRESSED:
            raise UnsafePhotoError(f"it has more than {_MOST_COMPRESSED} chunks of compressed metadata")
        position += length + 12
        check_count(count, min(position, size), "chunks")
        if kind == b"IEND":
            return


def check_webp(file: BinaryIO) -> None:
    """Check the size and the number of chunks of a WebP file.

    Raises:
        UnsafePhotoError: If it is very large, or has very many chunks.
    """
    size = check_whole(file)
    position, count = 12, 0
    while len(header := read_at(file, position, 8)) == 8:
        (length,) = struct.unpack("<4xI", header)
        count += 1
        position += 8 + length + length % 2
        check_count(count, min(position, size), "chunks")


def check_gif(file: BinaryIO) -> None:
    """Check the extensions of a GIF file in front of its first picture.

    Raises:
        UnsafePhotoError: If they are very large.
    """
    header = read_at(file, 0, 13)
    if len(header) < 13:
        return
    first = position = 13 + (3 << (header[10] & 7) + 1 if header[10] & 0x80 else 0)  # behind the screen's table of colours
    while (kind := read_at(file, position, 1)) not in (b"", b",", b";"):
        position = _behind_blocks(file, position + 2, first) if kind == b"!" else position + 1
        _check_extensions(position - first)


def check_whole(file: BinaryIO) -> int:
    """Return the number of bytes in a file that a decoder reads whole, which must not be very large."""
    size = size_of(file)
    if size > LARGEST_WHOLE_FILE:
        raise UnsafePhotoError(f"its file has {size:,} bytes; at most {LARGEST_WHOLE_FILE:,} are read in this format")
    return size


def _behind_blocks(file: BinaryIO, position: int, first: int) -> int:
    """Return the position behind the blocks of an extension, the last of which is empty."""
    while length := int.from_bytes(read_at(file, position, 1), "little"):
        position += 1 + length
        _check_extensions(position - first)
    return position + 1


def _check_extensions(num_bytes: int) -> None:
    if num_bytes > _MOST_EXTENSION_BYTES:
        raise UnsafePhotoError(f"it has more than {_MOST_EXTENSION_BYTES:,} bytes in front of its first picture")
