"""Find and open photo files."""

import contextlib
import functools
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pillow_heif

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif"})

# what Pillow's decoders raise on files that are not what they claim to be
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    PIL.Image.DecompressionBombError,
)


class UnreadablePhotoError(Exception):
    """A photo file that cannot be decoded. The message says why, without the path."""


def find_photos(folder: Path) -> list[Path]:
    """List the photo files under a folder, all levels deep, in the order of their paths.

    Raises:
        FileNotFoundError: If the folder does not exist, or holds no photo.
        NotADirectoryError: If it is a file.
    """
    if not folder.exists():
        raise FileNotFoundError(f"There is no folder {folder}. Give a folder of photos, or a CSV file that lists them.")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder. Give a folder of photos, or a CSV file that lists them.")
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file())
    if not photos:
        raise FileNotFoundError(f"No photo in {folder}: expected files that end in {', '.join(sorted(PHOTO_SUFFIXES))}.")
    return photos


def open_photo(path: Path) -> PIL.Image.Image:
    """Open and decode a photo, as its file has it: any mode, not yet upright.

    Raises:
        UnreadablePhotoError: If there is no such file or it cannot be decoded, images too large to be safe included.
    """
    with open_header(path) as image, named_errors(path):
        image.load()
        return image


def open_header(path: Path) -> PIL.Image.Image:
    """Open a photo without decoding its pixels, for its size and metadata. Raises as [`open_photo`] does."""
    _register_heif()
    with named_errors(path):
        return PIL.Image.open(path)


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn whatever Pillow raises on a bad file into an [`UnreadablePhotoError`] that says what is wrong with it."""
    try:
        yield
    except _DECODING_ERRORS as error:
        raise UnreadablePhotoError(_reason(path, error)) from error


@functools.cache
def _register_heif() -> None:
    """Teach Pillow the format that phones shoot; only when a photo is opened, as importing should change nothing."""
    pillow_heif.register_heif_opener()


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a photo"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, PIL.Image.DecompressionBombError):
        return f"too large to be safe ({error})"
    if path.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, PIL.UnidentifiedImageError):
        return "not an image"
    return f"damaged ({error})"


__all__ = ["PHOTO_SUFFIXES", "UnreadablePhotoError", "find_photos", "named_errors", "open_header", "open_photo"]
