"""BMP files with run lengths, and PNM files (Netpbm): Pillow decodes them in Python, pixel by pixel."""

import re
import struct
from typing import BinaryIO

from d2vpr_hf.readers.structure.limits import UnsafePhotoError, read_at

_RUN_LENGTHS = (1, 2)  # compressions of BMP
_MOST_PIXELS = 2**24  # of a BMP with run lengths
_MOST_SAMPLES = 2**26  # of a PNM in text, or with a largest value other than 255 and 65535
_MOST_WIDE_SAMPLES = 2**28  # of a PPM with 65535, as converters of raw photos write it; they take two bytes each in the file
_HEADER_BYTES = 2**16  # of a PNM
_MOST_COMMENTS = 1000  # Pillow copies up to a megabyte for each
_PIECE = 2**20
_PNM_TOKEN = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*(\d+)")


def check_bmp(file: BinaryIO) -> None:
    """Check the number of pixels of a BMP with run lengths.

    Raises:
        UnsafePhotoError: If it is very large.
    """
    header = read_at(file, 14, 20)
    if len(header) < 20 or header[:4] == struct.pack("<I", 12):  # the oldest header has no compression
        return
    width, height, compression = struct.unpack_from("<4xii4xI", header)
    if compression in _RUN_LENGTHS and abs(width * height) > _MOST_PIXELS:
        raise UnsafePhotoError(f"a BMP with run lengths of {abs(width * height):,} pixels; at most {_MOST_PIXELS:,} are read")


def check_pnm(file: BinaryIO, will_decode: bool) -> None:
    """Check the header of a PNM file, and its number of samples and comments if they will be decoded.

    Raises:
        UnsafePhotoError: If one of them is very large.
    """
    header = read_at(file, 0, _HEADER_BYTES)
    kind = header[1:2]
    if kind not in b"123456":
        return
    numbers: list[int] = []
    position = 2
    while len(numbers) < (2 if kind in b"14" else 3):
        match = _PNM_TOKEN.match(header, position)
        if match is None or len(match[1]) > 10:
            if len(header) == _HEADER_BYTES:
                raise UnsafePhotoError(f"its header has more than {_HEADER_BYTES:,} bytes")
            return  # damaged, which Pillow refuses
        numbers.append(int(match[1]))
        position = match.end()
    is_text = kind in b"123"
    samples = numbers[0] * numbers[1] * (3 if kind in b"36" else 1)
    is_plain = kind == b"4" or (not is_text and numbers[2] in (255, 65535 if kind == b"5" else 255))
    limit = _MOST_WIDE_SAMPLES if kind == b"6" and numbers[2] == 65535 else _MOST_SAMPLES
    if will_decode and not is_plain and samples > limit:
        raise UnsafePhotoError(f"a PNM of {samples:,} samples in a slow form; at most {limit:,} are read")
    if will_decode and is_text:
        _check_comments(file)


def _check_comments(file: BinaryIO) -> None:
    comments = 0
    file.seek(0)
    while piece := file.read(_PIECE):
        comments += piece.count(b"#")
        if comments > _MOST_COMMENTS:
            raise UnsafePhotoError(f"it has more than {_MOST_COMMENTS:,} comments")
