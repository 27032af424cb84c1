"""Find and open photo files; photo_listing.py has the rules by which they are found."""

import contextlib
import functools
import importlib
import io
import os
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import PIL.Image
from PIL.ExifTags import Base

from d2vpr_hf.readers.image_signatures import NUM_BYTES, READ, image_format
from d2vpr_hf.readers.photo_listing import list_photos
from d2vpr_hf.readers.remarks import report_remarks
from d2vpr_hf.readers.skipped import report_skipped
from d2vpr_hf.readers.structure import UnsafePhotoError, check_exif, check_structure, read_metadata_boxes
from d2vpr_hf.readers.structure.boxes import iterate_boxes
from d2vpr_hf.readers.structure.limits import LARGEST_FILE, LARGEST_WHOLE_FILE, read_at, size_of
from d2vpr_hf.utils.confirmed_names import VARIABLES, Kind, token_for
from d2vpr_hf.utils.light_imports import import_alone
from d2vpr_hf.utils.regular_files import UnfitFileError, open_regular_file

if TYPE_CHECKING:
    from d2vpr_hf.modeling import photo_modes
else:
    photo_modes = import_alone("d2vpr_hf.modeling.photo_modes")  # the whole room would load torch

PhotoSource = (
    Path | str | bytes
)  # a file; its path, or a URL (`https://...`, `hf://...`, `zip://...::https://...`); a file's content

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

# protocols of addresses in data sets of strangers; others run commands, or use other keys of this machine
_PROTOCOLS = ("http", "https", "hf", "file")

# names of Pillow's formats, by the modules that read them; no other decoder sees a file, whatever its name and content
_FORMATS = {
    "Jpeg": "JPEG",
    "Png": "PNG",
    "Gif": "GIF",
    "Bmp": "BMP",
    "Ppm": "PPM",
    "Tiff": "TIFF",
    "WebP": "WEBP",
    "Jpeg2K": "JPEG2000",
    "Avif": "AVIF",
}

_DRAFTED = ("JPEG", "MPO")  # formats that are decoded at a part of their size; other decoders may return a thumbnail
_EXPECTED_ERRORS = (FileNotFoundError, PermissionError, UnfitFileError, UnsafePhotoError)

DEBUG_VARIABLE = "D2VPR_RAISE_PHOTO_ERRORS"  # a variable of the environment


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
    with open_header(photo, will_decode=True) as image, named_errors():
        if target is not None and image.format in _DRAFTED:
            side = _SMALLEST_RATIO * max(target)  # EXIF may turn the photo later: the longer side counts for both
            image.draft(None, (side, side))
        is_deep = image.mode.startswith(("I", "F")) or _has_deep_colours(image)
        image.load()
        upright = _turn_upright(image, photo)
        return _reduce_depth(upright, image) if is_deep else upright


def open_named_photo(source: PhotoSource) -> PIL.Image.Image:
    """Open and decode one of several photos as [`open_photo`] does; the message of an error begins with the file's name."""
    try:
        return open_photo(source)
    except UnreadablePhotoError as error:
        name = f"a photo of {len(source)} bytes" if isinstance(source, bytes) else Path(source).name
        raise UnreadablePhotoError(f"{name}: {error}") from error


def open_photo_file(photo: Path) -> io.BufferedReader:
    """Open the file of a photo for reading, without looking at its content.

    Raises:
        OSError: If there is no such file, it cannot be read, is not a regular file, or has more than `LARGEST_FILE` bytes.
    """
    return open_regular_file(photo, LARGEST_FILE)


@contextlib.contextmanager
def open_header(photo: Path | bytes, will_decode: bool = False) -> Iterator[PIL.Image.Image]:
    """Open a photo without decoding its pixels, for its size and metadata.

    Args:
        photo: A file, or its content.
        will_decode: Whether a photo whose pixels would take excessive time or memory is refused too.

    Raises:
        UnreadablePhotoError: As [`open_photo`] does.
    """
    with contextlib.ExitStack() as stack:
        with named_errors():
            file: BinaryIO = io.BytesIO(photo) if isinstance(photo, bytes) else open_photo_file(photo)
            stack.enter_context(file)
            check_structure(file, will_decode)
            image = stack.enter_context(_identify(file))
            _check_exif(image)
        yield image


@contextlib.contextmanager
def named_errors() -> Iterator[None]:
    """Turn any error of a decoder on a bad file into an [`UnreadablePhotoError`] that names the problem.

    Decoders raise errors of many kinds on files of strangers, so that no list of them would be complete. If the variable
    `D2VPR_RAISE_PHOTO_ERRORS` of the environment is set, errors other than those of missing files and refused ones are raised
    unchanged.
    """
    try:
        yield
    except UnreadablePhotoError:
        raise
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE) and not isinstance(error, _EXPECTED_ERRORS):
            raise
        raise UnreadablePhotoError(_reason(error)) from error


def is_url(source: str) -> bool:
    """Return whether a source is a URL and not a path."""
    return "://" in source


def _local(source: PhotoSource) -> Path | bytes:
    """Return the content of a URL, or the path of a `file://` one; return files and contents unchanged."""
    if not isinstance(source, str):
        return source
    if not is_url(source):
        return Path(source)
    outer, _, inner = source.rpartition("::")
    protocol = inner.partition("://")[0] if is_url(inner) else "file"
    if protocol not in _PROTOCOLS or (outer and not (outer.startswith("zip://") and "::" not in outer)):
        raise UnreadablePhotoError(
            f"an address that is not read; expected one of {', '.join(_PROTOCOLS)}, or zip:// of a file there"
        )
    if protocol == "file":
        path = Path(inner.removeprefix("file://"))
        if not outer:
            return path
        with named_errors():
            open_photo_file(path).close()  # a pipe would block
    return _fetch(source)


def _access(url: str) -> dict[str, Any]:
    """Return the arguments by which a URL is opened: on the Hub without the user's token, unless the user named the data set.

    Lists of strangers could name any repository.
    """
    outer, _, inner = url.rpartition("::")
    if not inner.startswith("hf://"):
        return {}
    parts = inner.removeprefix("hf://").partition("@")[0].split("/")
    kind: Kind = "datasets" if parts[0] == "datasets" else "models"
    name = "/".join(parts[1:3] if parts[0] in ("datasets", "spaces") else parts[:2])
    is_inside = ".." not in inner.split("/")  # clients of HTTP resolve such parts, up to another repository
    sent = {"token": token_for(kind, name) if is_inside else False}
    return {"hf": sent} if outer else sent


def _fetch(url: str) -> bytes:
    import fsspec  # slow to import, and local photos do not need it

    access = _access(url)
    is_anonymous = False in (access.get("token"), access.get("hf", {}).get("token"))
    hint = (
        f"; your token was not sent: {VARIABLES['datasets']}=USER/NAME names a data set that you trust" if is_anonymous else ""
    )
    try:
        with fsspec.open(url, "rb", **access) as file:
            content: bytes = file.read(LARGEST_WHOLE_FILE + 1)
    except FileNotFoundError as error:
        cause = error.__cause__  # over HTTP any failure raises this error
        if cause is None or getattr(cause, "status", None) == HTTPStatus.NOT_FOUND:
            raise UnreadablePhotoError(f"no such file{hint}") from error
        raise UnreadablePhotoError(f"it could not be fetched ({cause})") from error
    except Exception as error:  # each protocol raises other errors
        raise UnreadablePhotoError(f"it could not be fetched ({error}){hint}") from error
    if len(content) > LARGEST_WHOLE_FILE:
        raise UnreadablePhotoError(f"its file has more than {LARGEST_WHOLE_FILE:,} bytes")
    return content


def _identify(file: BinaryIO) -> PIL.Image.Image:
    """Open an image in one of the formats of photos, by its content."""
    try:
        image = PIL.Image.open(file, formats=_formats())
    except PIL.UnidentifiedImageError as error:
        file.seek(0)
        raise UnreadablePhotoError(_unidentified(file.read(NUM_BYTES))) from error
    if image.format == "JPEG2000":  # Pillow does not read its metadata
        image.info.update(read_metadata_boxes(file))
    return image


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats of photos.

    The HEIF format of phones is registered with Pillow when the first photo is opened: an import must not change Pillow.
    """
    for module in _FORMATS:
        importlib.import_module(f"PIL.{module}ImagePlugin")
    try:
        import pillow_heif
    except ImportError:
        return tuple(_FORMATS.values())
    pillow_heif.register_heif_opener()
    return (*_FORMATS.values(), "HEIF")


def _check_exif(image: PIL.Image.Image) -> None:
    """Check the EXIF of an opened image of any format, before Pillow reads it."""
    block = image.info.get("exif")
    if isinstance(block, bytes):
        check_exif(block)
    profile = image.info.get("Raw profile type exif")
    if isinstance(profile, str):
        with contextlib.suppress(ValueError):  # not hexadecimal, which is damaged EXIF
            check_exif(bytes.fromhex("".join(profile.split("\n")[3:])))


def _turn_upright(image: PIL.Image.Image, photo: Path | bytes) -> PIL.Image.Image:
    """Turn a photo by the orientation in its EXIF, and remove the EXIF; EXIF whose orientation cannot be read is ignored.

    For HEIF, phones write both EXIF and a rotation box. The box has precedence: the decoder applies it. Other programs write
    EXIF alone. The decoder removes EXIF's orientation in both cases, so it is applied here if there is no box.
    """
    orientation: Any = image.info.get("original_orientation")
    if not orientation or _has_rotation_box(photo):
        with contextlib.suppress(UnreadablePhotoError), named_errors():
            orientation = image.getexif().get(Base.Orientation, 1)
    turn = _TURNS.get(orientation)
    upright = image if turn is None else image.transpose(turn)
    for key in _ORIENTED_KEYS:  # another reader would turn the photo again
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
    with io.BytesIO(photo) if isinstance(photo, bytes) else open_photo_file(photo) as file:
        boxes = {kind: (start, end) for kind, start, end in iterate_boxes(file, 0, size_of(file))}
        start, end = boxes.get(b"meta", (0, 0))
        properties = read_at(file, start, end - start)
    return any(kind in properties for kind in (b"irot", b"imir"))


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, UnfitFileError):
        return str(error)
    if isinstance(error, PIL.Image.DecompressionBombError | UnsafePhotoError):
        return f"too large to be safe ({error})"
    if isinstance(error, MemoryError):
        return "too large for the memory of this machine"
    return f"damaged ({str(error).strip() or type(error).__name__})"


def _unidentified(first_bytes: bytes) -> str:
    """Return the reason why no decoder reads a file that begins with some bytes."""
    name = image_format(first_bytes)
    if name == "HEIF" and "HEIF" not in _formats():
        return "HEIF, which needs pillow-heif: pip install pillow-heif"
    if name in READ:
        return f"a {name} in a form that cannot be read, such as colours of 32 bits; convert it to 8 bits"
    if name is not None:
        return f"{name} is not a format that is read; convert it to JPEG or PNG"
    return "not an image" if first_bytes else "the file is empty"
