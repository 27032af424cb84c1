"""Tiles and strips of TIFF files (TIFF 6.0)."""

from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.readers.structure.directories import Entry, check_directories
from d2vpr_hf.readers.structure.jpeg import MOST_SAMPLES, count_strip_samples
from d2vpr_hf.readers.structure.limits import LARGEST_TILE, TIMES_PICTURE, UnsafePhotoError, check_overlap, read_at, size_of

_WIDTH, _HEIGHT = 256, 257
_COMPRESSION = 259
_STRIPS, _TILES = (273, 279), (324, 325)  # tags of the positions and of the numbers of bytes
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_JPEG = 7
_TYPES = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 8: "i2", 9: "i4", 13: "u4", 16: "u8", 17: "i8", 18: "u8"}


def check_tiff(file: BinaryIO, will_decode: bool) -> None:
    """Check the tags of a TIFF file, and its tiles and strips if they will be decoded.

    Raises:
        UnsafePhotoError: If the tags take excessive time or memory, a tile is much larger than the picture, the strips are
            larger than the file, or have very many scans.
    """
    entries = check_directories(file)
    if not will_decode:
        return
    order = "<" if read_at(file, 0, 2) == b"II" else ">"
    width, height, tile_width, tile_height = (
        _first(file, order, entries, tag) for tag in (_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT)
    )
    if tile_width * tile_height > max(LARGEST_TILE, TIMES_PICTURE * width * height):
        raise UnsafePhotoError(f"a picture of {width} x {height} pixels in tiles of {tile_width} x {tile_height}")
    for tags in (_STRIPS, _TILES):
        positions, sizes = (_values(file, order, entries, tag) for tag in tags)
        check_overlap(int(sizes.sum()), size_of(file), "strips or tiles", times=8)
        if _first(file, order, entries, _COMPRESSION) == _JPEG:
            _check_scans(file, positions)


def _check_scans(file: BinaryIO, positions: NDArray[np.uint64]) -> None:
    """Check the scans of strips or tiles in JPEG, which may be the same stream many times."""
    samples = 0
    for position, times in zip(*(values.tolist() for values in np.unique(positions, return_counts=True)), strict=True):
        samples += times * count_strip_samples(file, position)
        if samples > MOST_SAMPLES:
            raise UnsafePhotoError(f"the scans of its tiles have more than {MOST_SAMPLES:,} samples")


def _first(file: BinaryIO, order: str, entries: Mapping[int, Entry], tag: int) -> int:
    """Return the first value of a tag; 0 without one."""
    values = _values(file, order, entries, tag)
    return int(values[0]) if len(values) else 0


def _values(file: BinaryIO, order: str, entries: Mapping[int, Entry], tag: int) -> NDArray[np.uint64]:
    """Return the whole numbers of a tag, (N,); none for a missing tag, or for values of another type."""
    entry = entries.get(tag)
    if entry is None or entry.kind not in _TYPES:
        return np.empty(0, np.uint64)
    form = np.dtype(f"{order}{_TYPES[entry.kind]}")
    values = np.frombuffer(read_at(file, entry.position, entry.num_values * form.itemsize), form)
    return np.maximum(values, 0).astype(np.uint64)
