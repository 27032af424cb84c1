"""Photos and zips from strangers: what is taken, what is refused and why, and where it may be written.

Nothing is believed that a file says of itself before it was counted: a zip's sizes are checked as they are declared and once
more as they are read. A zip with a name that leads out of it, a link or a password is refused whole.
"""

import contextlib
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from d2vpr_hf.readers import UnreadablePhotoError
from d2vpr_hf.readers.photos import PHOTO_SUFFIXES, open_header

_CHUNK = 1 << 20
_MEGA = 1_000_000


class UploadError(ValueError):
    """Something that was uploaded and cannot be taken; the message is a sentence for whoever uploaded it."""


@dataclass(frozen=True)
class Limits:
    """What is taken.

    Attributes:
        photos: Photos of an own map.
        photo_bytes: Of one photo's file.
        pixels: A photo must have fewer.
        zip_entries: Files and folders in a zip.
        unpacked_bytes: All photos of an upload together.
        ratio: How many times its packed size a file of a zip may have.
    """

    photos: int = 300
    photo_bytes: int = 25 * _MEGA
    pixels: int = 50 * _MEGA
    zip_entries: int = 2000
    unpacked_bytes: int = 600 * _MEGA
    ratio: int = 100

    def to_text(self) -> str:
        """Say the limits in a sentence."""
        return (
            f"Up to {self.photos} photos of at most {self.photo_bytes // _MEGA} MB and under {self.pixels // _MEGA} megapixels "
            f"each, {self.unpacked_bytes // _MEGA} MB together."
        )


LIMITS = Limits()


@dataclass(frozen=True)
class Collected:
    """Photos that were taken from an upload.

    Attributes:
        photos: Their files.
        left_out: What was not taken, by its name, with the reason.
    """

    photos: list[Path]
    left_out: dict[str, str]


def check_photo(photo: Path, limits: Limits = LIMITS) -> None:
    """Raise UploadError unless a file is a photo within the limits; its pixels are not decoded."""
    reason = _reason_against(photo, limits)
    if reason is not None:
        raise UploadError(f"This photo cannot be used: {reason}.")


def collect_photos(files: Sequence[Path], folder: Path, limits: Limits = LIMITS) -> Collected:
    """Take the photos of an upload, out of zips too, into a folder under names that cannot lead out of it.

    Args:
        files: What was uploaded.
        folder: Where the photos go, each into a numbered folder of its own.
        limits: What is taken.

    Raises:
        UploadError: If there is no photo, there are too many, or a zip is refused.
    """
    taken: list[Path] = []
    left_out: dict[str, str] = {}
    room = limits.unpacked_bytes
    for name, chunks in _contents(files, limits):
        if Path(name).suffix.lower() not in PHOTO_SUFFIXES:
            left_out[name] = "not a photo by its name"
            continue
        if len(taken) >= limits.photos:
            raise UploadError(f"These are more than {limits.photos} photos. {limits.to_text()}")
        target = folder / f"{len(taken):04d}" / safe_name(name)
        room -= _write(target, chunks, room, limits)
        reason = _reason_against(target, limits)
        if reason is None:
            taken.append(target)
        else:
            left_out[name] = reason
            target.unlink()
    if not taken:
        raise UploadError(f"There is no photo that can be used in this upload{_first_reason(left_out)}. {limits.to_text()}")
    return Collected(taken, left_out)


def safe_name(name: str) -> str:
    """Return the last part of a name, without what a path or a page could misread."""
    last = PurePosixPath(name.replace("\\", "/")).name
    plain = re.sub(r"[^\w.@+ -]", "_", last).strip(". ") or "photo"
    return plain[-120:]


def _contents(files: Sequence[Path], limits: Limits) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield names and contents of all files, those in zips too."""
    for file in files:
        if zipfile.is_zipfile(file) and file.suffix.lower() == ".zip":
            yield from _unpacked(file, limits)
        elif file.suffix.lower() == ".zip":
            raise UploadError(f"{safe_name(file.name)} is not a zip that can be read.")
        else:
            yield file.name, _read_chunks(file)


def _unpacked(file: Path, limits: Limits) -> Iterator[tuple[str, Iterator[bytes]]]:
    with _named_damage(), zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        _check_entries(entries, limits)
        for entry in entries:
            if not entry.is_dir() and not _is_furniture(entry.filename):
                yield entry.filename, _read_entry(archive, entry)


@contextlib.contextmanager
def _named_damage() -> Iterator[None]:
    """Turn what is raised on a damaged zip into a sentence."""
    try:
        yield
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
        raise UploadError(f"The zip is damaged: {error}.") from error


def _check_entries(entries: Sequence[zipfile.ZipInfo], limits: Limits) -> None:
    """Refuse a zip by what its list of files says, before anything is unpacked."""
    if len(entries) > limits.zip_entries:
        raise UploadError(f"The zip lists {len(entries)} files; at most {limits.zip_entries} are read.")
    for entry in entries:
        if _leads_out(entry.filename):
            raise UploadError(f"The zip holds a name that leads out of it ({entry.filename[:80]!r}). Nothing was read.")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise UploadError(f"The zip holds a link ({entry.filename[:80]!r}). Nothing was read; pack the photos themselves.")
        if entry.flag_bits & 1:
            raise UploadError("The zip is locked with a password. Pack it without one.")
    photos = sum(
        Path(entry.filename).suffix.lower() in PHOTO_SUFFIXES and not _is_furniture(entry.filename) for entry in entries
    )
    if photos > limits.photos:
        raise UploadError(f"The zip holds {photos} photos. {limits.to_text()}")
    total, packed = sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries)
    if total > limits.unpacked_bytes or total > limits.ratio * max(packed, _CHUNK):
        raise UploadError(f"The zip would unfold to {total / _MEGA:,.0f} MB. {limits.to_text()}")


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or re.match(r"^[A-Za-z]:", name) is not None or "\0" in name


def _is_furniture(name: str) -> bool:
    """Tell what macOS leaves in zips from photos."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or bool(parts and parts[-1].startswith("._"))


def _read_chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    with _named_damage(), archive.open(entry) as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _write(target: Path, chunks: Iterator[bytes], room: int, limits: Limits) -> int:
    """Write a file chunk by chunk and return its size; what is longer than a photo may be is cut, and refused later."""
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with target.open("wb") as file:
        for chunk in chunks:
            size += len(chunk)
            if size > room:
                raise UploadError(f"These photos take more than {limits.unpacked_bytes // _MEGA} MB. {limits.to_text()}")
            file.write(chunk)
            if size > limits.photo_bytes:
                break
    return size


def _reason_against(photo: Path, limits: Limits) -> str | None:
    """Say why a file is not taken, or `None`."""
    size = photo.stat().st_size
    if size > limits.photo_bytes:
        return f"its file is larger than {limits.photo_bytes // _MEGA} MB"
    try:
        with open_header(photo) as image:
            width, height = image.size
    except UnreadablePhotoError as error:
        return str(error)
    if width * height >= limits.pixels:
        return f"it has {width * height / _MEGA:.1f} megapixels, and photos must have fewer than {limits.pixels // _MEGA}"
    return None


def _first_reason(left_out: dict[str, str]) -> str:
    """Name one of the files that were left out, as a hint."""
    name = next(iter(left_out), None)
    return "" if name is None else f" ({safe_name(name)}: {left_out[name]})"
