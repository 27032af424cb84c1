"""The check of a photo's structure by its format."""

from collections.abc import Callable
from typing import BinaryIO

from d2vpr_hf.readers.structure.bitmaps import check_bmp, check_pnm
from d2vpr_hf.readers.structure.boxes import check_boxes
from d2vpr_hf.readers.structure.chunks import check_gif, check_png, check_webp
from d2vpr_hf.readers.structure.jpeg import check_jpeg
from d2vpr_hf.readers.structure.jpeg2000 import check_jpeg2000
from d2vpr_hf.readers.structure.limits import read_at
from d2vpr_hf.readers.structure.tiff import check_tiff

_CHECKS_BEFORE_PIXELS: tuple[tuple[bytes, Callable[[BinaryIO], None]], ...] = (
    (b"\x89PNG", check_png),
    (b"GIF8", check_gif),
    (b"BM", check_bmp),
    (b"RIFF", check_webp),
    (b"\0\0\0\x0cjP  ", check_jpeg2000),
    (b"\xff\x4f\xff\x51", check_jpeg2000),
)
_CHECKS: tuple[tuple[bytes, Callable[[BinaryIO, bool], None]], ...] = (
    (b"\xff\xd8", check_jpeg),
    (b"II", check_tiff),
    (b"MM", check_tiff),
    (b"P", check_pnm),
)


def check_structure(file: BinaryIO, will_decode: bool) -> None:
    """Look at the markers, chunks, tags and tiles of a photo, without decoding it.

    Sizes in pixels that the file states are checked by Pillow. Damaged files pass: the decoder names the damage.

    Args:
        file: The photo; it is at its beginning afterwards.
        will_decode: Whether the pixels will be decoded. Otherwise only the parts are checked that give size and metadata, and
            the pixels of the file are not read.

    Raises:
        UnsafePhotoError: If decoding would take excessive time or memory.
    """
    beginning = read_at(file, 0, 12)
    for signature, check in _CHECKS_BEFORE_PIXELS:
        if beginning.startswith(signature):
            check(file)
    for signature, check_part in _CHECKS:
        if beginning.startswith(signature):
            check_part(file, will_decode)
    if beginning[4:8] == b"ftyp":
        check_boxes(file)
    file.seek(0)
