"""The place of a photo from its metadata: EXIF, then XMP in the photo, then sidecar files next to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import PIL.Image

from d2vpr_hf.places.place import Place
from d2vpr_hf.readers.metadata.exif import DAMAGED, read_exif
from d2vpr_hf.readers.metadata.photo_metadata import NOTHING, Note, PhotoMetadata, Stated, Value
from d2vpr_hf.readers.metadata.sidecars import LARGEST_METADATA, SidecarFolders, SidecarsOfOnePhoto
from d2vpr_hf.readers.metadata.takeout import read_takeout
from d2vpr_hf.readers.metadata.xmp import join_extension, parse_xmp, read_xmp
from d2vpr_hf.readers.photos import UnreadablePhotoError, named_errors, open_header
from d2vpr_hf.readers.remarks import RemarkCounter
from d2vpr_hf.utils.regular_files import open_regular_file

_EXIF_KEYS = ("exif", "Raw profile type exif")  # of an image's information; the second is ImageMagick's in PNG
_XMP_KEYS = ("xmp", "XML:com.adobe.xmp", "Raw profile type xmp")
_XMP_HEADINGS = (b"GPSImgDirection", b"YawDegree")


class _Source(NamedTuple):
    """A source of metadata: its name in remarks, its metadata, and whether it is a file of its own."""

    name: str
    metadata: PhotoMetadata
    is_sidecar: bool = False


class PhotoPlaceReader:
    """Reads places from the metadata of photos, and counts what it skips, corrects and assumes.

    Args:
        folder: The folder that the places' paths are relative to.
        sidecars: Finds sidecar files: [`SidecarFolders`] for the photos of a folder, [`SidecarsOfOnePhoto`] for one photo.
        assume_north_east: Whether positions without a hemisphere are north and east.
    """

    def __init__(self, folder: Path, sidecars: SidecarFolders | SidecarsOfOnePhoto, assume_north_east: bool = False) -> None:
        self.folder = folder
        self.sidecars = sidecars
        self.assume_north_east = assume_north_east
        self.remarks = RemarkCounter()

    def read(self, photo: Path) -> Place:
        """Return the place of a photo, without UTM coordinates.

        The first source that states a position, a heading or a time decides on it. Without a usable position the place has
        none, and no heading. A photo that cannot be opened has an empty place: decoding it reports the error.
        """
        name = photo.relative_to(self.folder).as_posix()
        try:
            sources = self._embedded(photo, name)
        except UnreadablePhotoError:
            return Place(name)
        if not (_is_stated(sources, "position") and _is_stated(sources, "timestamp")):
            sources += self._sidecar_sources(photo, name)
        if all(source.metadata is NOTHING for source in sources):
            return Place(name)
        return self._place(name, sources)

    def _place(self, name: str, sources: Sequence[_Source]) -> Place:
        position = self._choose("position", [(source, source.metadata.position) for source in sources], name)
        timestamp = self._choose("time", [(source, source.metadata.timestamp) for source in sources], name)
        if position is None:
            return Place(name, timestamp=timestamp)
        heading = self._choose("heading", [(source, source.metadata.heading) for source in sources], name)
        return Place(name, *position, heading=heading, timestamp=timestamp)

    def _choose(self, quantity: str, statements: Sequence[tuple[_Source, Stated[Value]]], name: str) -> Value | None:
        """Return the first value that is stated, and count its notes and those on unusable values before it."""
        unusable: list[Note] = []
        for source, statement in statements:
            if statement.value is None:
                unusable += statement.notes
                continue
            problems = (note.text.partition(";")[0] for note in unusable)  # without advice
            self._count([Note("corrected", f"{problem}: read from {source.name} instead") for problem in problems], name)
            self._count(statement.notes, name)
            if source.is_sidecar:
                self.remarks.add("assumed", f"{quantity}s of photos, read from sidecar files with the photos' names", name)
            return statement.value
        self._count(unusable, name)
        return None

    def _count(self, notes: Iterable[Note], name: str) -> None:
        for note in dict.fromkeys(notes):
            self.remarks.add(note.kind, note.text, name)

    def _embedded(self, photo: Path, name: str) -> list[_Source]:
        """Return the sources inside a photo. Damaged EXIF or XMP is counted, and its other sources are read."""
        with open_header(photo) as image:
            sources = [_Source("EXIF", self._read_exif(image, name))]
            key = next((key for key in _XMP_KEYS if image.info.get(key)), None)
            content = None if key is None else image.info[key]
            segments = [segment for name, segment in getattr(image, "applist", ()) if name == "APP1"]
        if key is None or _is_complete(sources, content):
            return sources
        if isinstance(content, str):
            content = _raw_profile(content) if key.startswith("Raw") else content.encode()
        return [*sources, _Source("XMP", self._read_xmp(content, segments, name))]

    def _read_exif(self, image: PIL.Image.Image, name: str) -> PhotoMetadata:
        try:
            with named_errors():
                return read_exif(image, self.assume_north_east)
        except UnreadablePhotoError:
            if any(key in image.info for key in _EXIF_KEYS) or hasattr(image, "tag_v2"):  # else the pixels are damaged
                self._count([DAMAGED], name)
            return PhotoMetadata()

    def _read_xmp(self, content: object, segments: Iterable[bytes], name: str) -> PhotoMetadata:
        with contextlib.suppress(UnreadablePhotoError), named_errors():
            if isinstance(content, bytes) and len(content) <= LARGEST_METADATA:
                properties = parse_xmp(content)
                return read_xmp(self._read_extension(content, segments, name) | properties, self.assume_north_east)
        self.remarks.add("skipped", "XMP blocks in photos that are damaged", name)
        return PhotoMetadata()

    def _read_extension(self, packet: bytes, segments: Iterable[bytes], name: str) -> dict[str, str]:
        """Return the properties in the extended packet of a JPEG file. A damaged one is counted."""
        with contextlib.suppress(UnreadablePhotoError), named_errors():
            extension = join_extension(packet, segments)
            return parse_xmp(extension) if 0 < len(extension) <= LARGEST_METADATA else {}
        self.remarks.add("skipped", "extended XMP blocks in photos that are damaged", name)
        return {}

    def _sidecar_sources(self, photo: Path, name: str) -> list[_Source]:
        """Return the sources in files next to a photo. A file that cannot be read is counted."""
        sources = []
        for file in self.sidecars.find(photo):
            path = file.relative_to(self.folder).as_posix()
            try:
                metadata = self._read_sidecar(file, photo.name)
            except UnreadablePhotoError:
                self.remarks.add("skipped", "sidecar files that are damaged or cannot be read", path)
            else:
                sources.append(_Source("sidecar files", metadata, is_sidecar=True))
        return sources

    def _read_sidecar(self, file: Path, photo_name: str) -> PhotoMetadata:
        """Read a file next to a photo. Raises UnreadablePhotoError if it cannot be read."""
        with named_errors():
            with open_regular_file(file, LARGEST_METADATA) as stream:
                content = stream.read()
            if file.suffix.lower() == ".xmp":
                return read_xmp(parse_xmp(content), self.assume_north_east)
            return read_takeout(content, photo_name)


def _raw_profile(text: str) -> bytes:
    """Return the content of a profile as ImageMagick writes it into PNG: hexadecimal, below lines with its name and length."""
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return b""  # not XML, which is counted


def _is_complete(sources: Sequence[_Source], xmp: object) -> bool:
    """Return whether XMP cannot add to sources; most XMP has no heading, and is not parsed for one."""
    if not (_is_stated(sources, "position") and _is_stated(sources, "timestamp")):
        return False
    return _is_stated(sources, "heading") or (isinstance(xmp, bytes) and not any(name in xmp for name in _XMP_HEADINGS))


def _is_stated(sources: Sequence[_Source], quantity: str) -> bool:
    return any(getattr(source.metadata, quantity).value is not None for source in sources)
