"""Find and open photo files; photo_listing.py has the rules by which they are found."""

import contextlib
import functools
import io
import os
import struct
import zlib
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import PIL.Image
import pillow_heif
from PIL.ExifTags import Base
from PIL.ImageOps import exif_transpose

from d2vpr_hf.readers.image_signatures import NUM_BYTES, image_format
from d2vpr_hf.readers.photo_listing import list_photos
from d2vpr_hf.readers.remarks import report_remarks
from d2vpr_hf.readers.skipped import report_skipped
from d2vpr_hf.utils.light_imports import import_alone

if TYPE_CHECKING:
    from d2vpr_hf.modeling import photo_modes
else:
    photo_modes = import_alone("d2vpr_hf.modeling.photo_modes")  # the whole room would load torch

PhotoSource = Path | str | bytes  # a file; its path, or a URL that fsspec reads (`hf://...`, `zip://...`); a file's content

# A reduced photo stays at least this many times larger than its target size; docs/speed.md has the effect on descriptors.
_SMALLEST_RATIO = 3

_Transpose = PIL.Image.Transpose
_TURNS = {  # by EXIF's orientation
    2: _Transpose.FLIP_LEFT_RIGHT,
    3: _Transpose.ROTATE_180,
    4: _Transpose.FLIP_TOP_BOTTOM,
    5: _Transpose.TRANSPOSE,
    6: _Transpose.ROTATE_270,
    7: _Transpose.TRANSVERSE,
    8: _Transpose.ROTATE_90,
}
_ORIENTED_KEYS = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # metadata that may state an orientation

# errors that Pillow's decoders raise on damaged files
_DECODING_ERRORS = (
    AttributeError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    EOFError,
    LookupError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
    PIL.Image.DecompressionBombError,
)


class UnreadablePhotoError(Exception):
    """A photo file that cannot be decoded. The message has the reason, without the path."""


def find_photos(folder: Path) -> list[Path]:
    """List the photo files in a folder as [`list_photos`] does, and log warnings of skipped images."""
    listing = list_photos(folder)
    report_remarks(listing.remarks)
    report_skipped(listing.skipped, len(listing.photos) + len(listing.skipped), strict=False)
    return listing.photos


def open_photo(source: PhotoSource, target: tuple[int, int] | None = None) -> PIL.Image.Image:
    """Open and decode a photo, and turn it upright. Its mode, such as RGB or L, is that of the file.

    Grey of 16 or 32 bits or in floating-point numbers becomes 8-bit grey, scaled by its range as
    [`d2vpr_hf.modeling.photo_modes.to_8_bit_grey`] describes. Of several pages or frames the first is taken.

    Args:
        source: A file, as a path or a URL, or the content of a file.
        target: Height and width in pixels that the photo will be resized to. A JPEG that is at least six times as large is
            decoded at a half, a quarter or an eighth of its size, which takes a fraction of the time and hardly changes the
            resized photo. `None` decodes every pixel.

    Raises:
        UnreadablePhotoError: If the file does not exist or cannot be decoded, is too large to be decoded safely, or has grey
            values whose range is not known.
    """
    photo = _local(source)
    with open_header(photo) as image, named_errors(photo):
        if target is not None:
            side = _SMALLEST_RATIO * max(target)  # EXIF may turn the photo later: the longer side counts for both
            image.draft(None, (side, side))
        is_deep = image.mode.startswith(("I", "F")) or _has_deep_colours(image)
        image.load()
    upright = _turn_upright(image, photo)
    upright.info.pop("exif", None)  # its orientation was applied; another reader would turn the photo again
    return _reduce_depth(upright, image) if is_deep else upright


def open_header(photo: Path | bytes) -> PIL.Image.Image:
    """Open a photo without decoding its pixels, for its size and metadata. Raises as [`open_photo`] does."""
    _register_heif()
    with named_errors(photo):
        if isinstance(photo, bytes):
            return PIL.Image.open(io.BytesIO(photo))
        if photo.exists() and not photo.is_file():
            raise UnreadablePhotoError("a folder, not a photo" if photo.is_dir() else "not a regular file")
        return PIL.Image.open(photo)


@contextlib.contextmanager
def named_errors(photo: Path | bytes) -> Iterator[None]:
    """Turn all errors of Pillow on a bad file into an [`UnreadablePhotoError`] that names the problem."""
    try:
        yield
    except _DECODING_ERRORS as error:
        raise UnreadablePhotoError(_reason(photo, error)) from error


def is_url(source: str) -> bool:
    """Return whether a source is a URL and not a path."""
    return "://" in source


def _local(source: PhotoSource) -> Path | bytes:
    """Return the content of a URL; return files and contents unchanged."""
    if not isinstance(source, str):
        return source
    if not is_url(source):
        return Path(source)
    import fsspec  # slow to import, and local photos do not need it

    try:
        with fsspec.open(source, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        cause = error.__cause__  # over HTTP any failure raises this error
        if cause is None or getattr(cause, "status", None) == HTTPStatus.NOT_FOUND:
            raise UnreadablePhotoError("no such file") from error
        raise UnreadablePhotoError(f"it could not be fetched ({cause})") from error
    except Exception as error:  # each protocol raises other errors
        raise UnreadablePhotoError(f"it could not be fetched ({error})") from error


@functools.cache
def _register_heif() -> None:
    """Register the HEIF format of phones with Pillow, when the first photo is opened: an import must not change Pillow."""
    pillow_heif.register_heif_opener()


def _turn_upright(image: PIL.Image.Image, photo: Path | bytes) -> PIL.Image.Image:
    """Turn a photo by the orientation in its EXIF; EXIF whose orientation cannot be read is ignored.

    For HEIF, phones write both EXIF and a rotation box. The box has precedence: the decoder applies it. Other programs write
    EXIF alone. The decoder removes EXIF's orientation in both cases, so it is restored here if there is no box.
    """
    try:
        orientation = image.info.get("original_orientation")
        if orientation and not _has_rotation_box(photo):
            image.getexif()[Base.Orientation] = orientation
        turn = _TURNS.get(image.getexif().get(Base.Orientation, 1))
    except _DECODING_ERRORS:
        return image
    try:
        return exif_transpose(image)
    except _DECODING_ERRORS:  # EXIF that can be read, but not written again without its orientation
        upright = image if turn is None else image.transpose(turn)
        for key in _ORIENTED_KEYS:
            upright.info.pop(key, None)
        return upright


def _has_deep_colours(image: PIL.Image.Image) -> bool:
    """Return whether a photo that is not decoded yet has colours of more than 8 bits."""
    if "tag_v2" not in vars(image) and not any(";16" in str(tile.args) for tile in getattr(image, "tile", ())):
        return False
    with _named_values():
        return photo_modes.has_deep_colours(image)


def _reduce_depth(upright: PIL.Image.Image, opened: PIL.Image.Image) -> PIL.Image.Image:
    """Scale grey of more than 8 bits to 8 bits, and check colours of more than 8 bits, which Pillow has scaled."""
    with _named_values():
        if not upright.mode.startswith(("I", "F")):
            photo_modes.check_brightness(upright)
        return photo_modes.to_8_bit_grey(upright, opened)


@contextlib.contextmanager
def _named_values() -> Iterator[None]:
    """Turn the errors on pixels whose range is not known into an [`UnreadablePhotoError`]."""
    try:
        yield
    except ValueError as error:
        raise UnreadablePhotoError(str(error)) from error


def _has_rotation_box(photo: Path | bytes) -> bool:
    """Return whether the `meta` box of a HEIF file (ISO/IEC 23008-12) has a rotation or mirror property."""
    with io.BytesIO(photo) if isinstance(photo, bytes) else photo.open("rb") as file:
        boxes = dict(_meta_boxes(file))
    return any(kind in boxes.get(b"meta", b"") for kind in (b"irot", b"imir"))


def _meta_boxes(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and content of each `meta` box; other boxes, which hold the pixels, are not read."""
    while len(header := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", header)
        if size == 1:  # a 64-bit size follows
            size = struct.unpack(">Q", file.read(8))[0] - 8
        if size < 8:  # the last box, up to the end
            return
        if kind == b"meta":
            yield kind, file.read(size - 8)
        else:
            file.seek(size - 8, os.SEEK_CUR)


def _reason(photo: Path | bytes, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, PIL.Image.DecompressionBombError):
        return f"too large to be safe ({error})"
    if isinstance(error, PIL.UnidentifiedImageError):
        with io.BytesIO(photo) if isinstance(photo, bytes) else photo.open("rb") as file:
            first_bytes = file.read(NUM_BYTES)
        if name := image_format(first_bytes):
            return f"a {name} in a form that cannot be read, such as colours of 32 bits; convert it to 8 bits"
        return "not an image" if first_bytes else "the file is empty"
    return f"damaged ({error})"
