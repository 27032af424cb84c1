"""Checks of uploaded photos and zips: limits, reasons for refusing a file, and safe names to write it under.

A zip may state false sizes, so sizes are checked twice: as its list of files states them, and again while files are unpacked in
pieces of bounded size. A zip that has a path out of its folder, a link, a password or a rare compression is refused as a whole.
"""

import contextlib
import errno
import re
import secrets
import stat
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from d2vpr_hf.readers.photo_listing import PHOTO_SUFFIXES
from d2vpr_hf.readers.program_files import program_file
from d2vpr_hf.utils.atomic_files import create_file
from d2vpr_hf.web.photo_checks import PhotoChecks, find_problem

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)  # the disk is full, or too many files are open

_CHUNK = 1 << 20
_MEGA = 1_000_000
_LIST_BYTES = 1000  # of an entry in a zip's list of files, on average: a name and a few times
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile unpacks bzip2 and LZMA without a limit of memory
_MAX_NAME = 240  # bytes; file systems allow 255


class UploadError(ValueError):
    """An upload that is refused; the message is a sentence for the visitor."""


@dataclass(frozen=True)
class Limits:
    """Limits of an upload.

    Attributes:
        photos: Number of photos in a map.
        photo_bytes: Size of a photo's file.
        pixels: Number of pixels that a photo must stay below.
        zip_entries: Number of files and folders in a zip.
        unpacked_bytes: Size of all photos together.
        seconds: Time to look at all photos, beyond which an upload is refused.
        ratio: Unpacked size of a zip divided by its packed size.
    """

    photos: int = 300
    photo_bytes: int = 25 * _MEGA
    pixels: int = 50 * _MEGA
    zip_entries: int = 2000
    unpacked_bytes: int = 600 * _MEGA
    ratio: int = 100
    seconds: int = 300

    def to_text(self) -> str:
        """Return the limits as a sentence."""
        return (
            f"Up to {self.photos} photos of at most {self.photo_bytes // _MEGA} MB and under {self.pixels // _MEGA} megapixels "
            f"each, and {self.unpacked_bytes // _MEGA} MB together."
        )


LIMITS = Limits()
_CHECKS = PhotoChecks(LIMITS.pixels)


@dataclass(frozen=True)
class Collected:
    """The photos of an upload.

    Attributes:
        photos: Their files.
        skipped: Names of the other files, with the reason.
    """

    photos: list[Path]
    skipped: dict[str, str]


def check_photo(photo: Path, limits: Limits = LIMITS) -> None:
    """Raise UploadError unless a file is a photo within the limits, which another process reads first."""
    reason = _find_problem(photo, limits)
    if reason is not None:
        raise UploadError(f"This photo cannot be used: {reason}.")


def collect_photos(files: Sequence[Path], folder: Path, limits: Limits = LIMITS) -> Collected:
    """Copy the photos of an upload, also from zips, into a folder, under names that cannot lead out of it.

    Args:
        files: The uploaded files.
        folder: Folder for the photos; each photo gets a numbered folder in it.
        limits: Limits of an upload.

    Raises:
        UploadError: If there is no photo, there are too many, or a zip is refused.
    """
    photos: list[Path] = []
    skipped: dict[str, str] = {}
    bytes_left = limits.unpacked_bytes
    until = time.monotonic() + limits.seconds
    for name, chunks in _read_files(files, limits):
        if Path(name).suffix.lower() not in PHOTO_SUFFIXES:
            skipped[name] = "not a photo by its name"
            continue
        if text := program_file(PurePosixPath(name).parts):
            skipped[name] = f"one of the {text}"
            continue
        if len(photos) >= limits.photos:
            raise UploadError(f"The upload has more than {limits.photos} photos. {limits.to_text()}")
        if time.monotonic() > until:
            raise UploadError(f"The photos take longer than {limits.seconds} seconds to read. Upload fewer or smaller ones.")
        target = folder / f"{len(photos):04d}" / safe_name(name)
        bytes_left -= _write(target, chunks, bytes_left, limits)
        reason = _find_problem(target, limits)
        if reason is None:
            photos.append(target)
        else:
            skipped[name] = reason
            target.unlink()
    if not photos:
        example = next((f" ({safe_name(name)}: {reason})" for name, reason in skipped.items()), "")
        raise UploadError(f"The upload has no photo that can be used{example}. {limits.to_text()}")
    return Collected(photos, skipped)


def safe_name(name: str) -> str:
    """Return the last part of a name, without characters that have a meaning in paths or HTML."""
    last = PurePosixPath(name.replace("\\", "/")).name
    plain = re.sub(r"[^\w.@+ -]", "_", last).strip(". ") or "photo"
    return plain[-120:].encode()[-_MAX_NAME:].decode(errors="ignore")


def new_place(folder: Path, name: str) -> Path:
    """Make a folder with a secret name in a folder, and return the path of a new file in it, with a safe name."""
    file = folder / secrets.token_hex(16) / safe_name(name)
    file.parent.mkdir(parents=True)
    return file


def _read_files(files: Sequence[Path], limits: Limits) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield the name and content of each file, and of each file in a zip."""
    for file in files:
        if zipfile.is_zipfile(file) and file.suffix.lower() == ".zip":
            yield from _unpack(file, limits)
        elif file.suffix.lower() == ".zip":
            raise UploadError(f"{safe_name(file.name)} is not a readable zip.")
        else:
            yield file.name, _read_chunks(file)


def _unpack(file: Path, limits: Limits) -> Iterator[tuple[str, Iterator[bytes]]]:
    _check_list_size(file, limits)
    with _upload_errors(), zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        _check_entries(entries, limits)
        for entry in entries:
            if not entry.is_dir() and not _is_from_macos(entry.filename):
                yield entry.filename, _read_entry(archive, entry)


@contextlib.contextmanager
def _upload_errors() -> Iterator[None]:
    """Raise UploadError in place of any error that reading a damaged zip raises, as zipfile names no complete list."""
    try:
        yield
    except UploadError:
        raise
    except zipfile.BadZipFile as error:
        raise UploadError(f"The zip is damaged: {error}.") from error
    except Exception as error:
        raise UploadError("The zip is damaged.") from error


def _check_list_size(file: Path, limits: Limits) -> None:
    """Raise UploadError if a zip's list of files is too large to be read into memory, as zipfile reads it at once."""
    with _upload_errors(), file.open("rb") as stream:
        end = zipfile._EndRecData(stream)  # type: ignore[attr-defined]  # the record as zipfile itself takes it
        if end is None:
            raise zipfile.BadZipFile("it has no list of files")
        num_entries, size = end[zipfile._ECD_ENTRIES_TOTAL], end[zipfile._ECD_SIZE]  # type: ignore[attr-defined]
    if max(num_entries, size / _LIST_BYTES) > limits.zip_entries:
        raise UploadError(f"The zip lists {num_entries:,} files; at most {limits.zip_entries} are allowed.")


def _check_entries(entries: Sequence[zipfile.ZipInfo], limits: Limits) -> None:
    """Raise UploadError if a zip's list of files breaks a rule, before any file is unpacked."""
    if len(entries) > limits.zip_entries:
        raise UploadError(f"The zip lists {len(entries)} files; at most {limits.zip_entries} are allowed.")
    for entry in entries:
        if _leads_out(entry.filename):
            raise UploadError(f"The zip has a path out of its folder ({entry.filename[:80]!r}). Nothing was read.")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise UploadError(f"The zip has a link ({entry.filename[:80]!r}). Nothing was read; pack the photos themselves.")
        if entry.flag_bits & 1:
            raise UploadError("The zip has a password. Pack the photos without one.")
        if entry.compress_type not in _METHODS:
            raise UploadError(
                "The zip is packed in an unusual way. Pack the photos with the method Deflate, or without compression."
            )
    photos = sum(
        Path(entry.filename).suffix.lower() in PHOTO_SUFFIXES and not program_file(PurePosixPath(entry.filename).parts)
        for entry in entries
    )
    if photos > limits.photos:
        raise UploadError(f"The zip has {photos} photos. {limits.to_text()}")
    unpacked = sum(entry.file_size for entry in entries)
    packed = sum(entry.compress_size for entry in entries)
    if unpacked > limits.unpacked_bytes or unpacked > limits.ratio * max(packed, _CHUNK):
        raise UploadError(f"The zip would unpack to {unpacked / _MEGA:,.0f} MB. {limits.to_text()}")


def _leads_out(name: str) -> bool:
    """Return whether a path is absolute on some system, or leads out of its folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or re.match(r"^[A-Za-z]:", name) is not None or "\0" in name


def _is_from_macos(name: str) -> bool:
    """Return whether a file was added to the zip by macOS; such a file may end in `.jpg` and is not a photo."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or bool(parts and parts[-1].startswith("._"))


def _read_chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    with _upload_errors(), archive.open(entry) as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _write(target: Path, chunks: Iterator[bytes], max_bytes: int, limits: Limits) -> int:
    """Write a file in chunks and return its size. A file that is larger than a photo may be is cut off, and skipped later.

    Raises:
        UploadError: If the file is larger than `max_bytes`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with create_file(target) as file:
        for chunk in chunks:
            size += len(chunk)
            if size > max_bytes:
                raise UploadError(f"The photos take more than {limits.unpacked_bytes // _MEGA} MB. {limits.to_text()}")
            file.write(chunk)
            if size > limits.photo_bytes:
                break
    return size


def _find_problem(photo: Path, limits: Limits) -> str | None:
    """Return the reason why a file cannot be used, or `None`."""
    return find_problem(photo, _CHECKS, limits.photo_bytes, limits.pixels)
