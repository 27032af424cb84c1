"""Limits of the structure of photo files, and reading at a position. docs/formats.md states the limits."""

import os
from typing import BinaryIO

LARGEST_FILE = 2**31  # bytes
LARGEST_WHOLE_FILE = 2**28  # bytes of a file that a decoder reads whole: WebP, HEIF and AVIF
LARGEST_METADATA = 2**24  # bytes
MOST_PIXELS = 178_956_970  # of Pillow, which refuses more
LARGEST_TILE = 2**24  # pixels of a tile that is larger than its picture
TIMES_PICTURE = 4  # pixels of a larger tile, of its picture
MOST_PARTS = 10_000  # segments, chunks or boxes, unless they have a size that encoders choose
USUAL_PART = 256  # bytes; encoders write larger parts

_SPARE = 2**20  # bytes that parts may share


class UnsafePhotoError(ValueError):
    """A photo that would take excessive time or memory to decode. The message has the reason."""


def read_at(file: BinaryIO, position: int, count: int) -> bytes:
    """Return bytes at a position; fewer at the end of the file."""
    file.seek(position)
    return file.read(count)


def size_of(file: BinaryIO) -> int:
    """Return the number of bytes in a file."""
    return file.seek(0, os.SEEK_END)


def check_count(count: int, num_bytes: int, noun: str) -> None:
    """Refuse a file of very many small parts: programs in Python look at each of them."""
    if count > MOST_PARTS and num_bytes < count * USUAL_PART:
        raise UnsafePhotoError(f"it has {count:,} {noun} of less than {USUAL_PART} bytes on average")


def check_overlap(num_bytes: int, size: int, noun: str, times: int = 1) -> None:
    """Refuse a file whose parts cover its bytes again and again, so that the decoder reads more than the file has."""
    if num_bytes > times * size + _SPARE:
        raise UnsafePhotoError(f"its {noun} take {num_bytes:,} bytes, more than the {size:,} that there are")
