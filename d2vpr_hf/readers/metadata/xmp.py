"""Positions, headings and times in XMP (ISO 16684-1): inside a photo, or in a sidecar file."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from xml.parsers import expat

from d2vpr_hf.readers.metadata.angles import (
    Angle,
    UnusablePositionError,
    datum_notes,
    first_letter,
    parse_angle,
    parse_fraction,
    read_heading,
    read_position,
    unusable,
)
from d2vpr_hf.readers.metadata.photo_metadata import Note, PhotoMetadata, Stated, is_time, zone_notes

_WIDE_ENCODINGS = {  # by the first bytes: a byte order mark, or the first character of XML
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"<\0\0\0": "utf-32-le",
    b"\0\0\0<": "utf-32-be",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"<\0": "utf-16-le",
    b"\0<": "utf-16-be",
}
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns# "
_PREFIXES = {  # by namespace; a file may bind a namespace to any prefix
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://www.dji.com/drone-dji/1.0/": "drone-dji",
}
_POSITIONS = (  # the names of a latitude and of a longitude
    ("exif:GPSLatitude", ("exif:GPSLongitude",)),
    ("drone-dji:GpsLatitude", ("drone-dji:GpsLongitude", "drone-dji:GpsLongtitude")),  # as DJI's earlier firmware spells it
    ("drone-dji:Latitude", ("drone-dji:Longitude",)),
)
_FAILED = {"exif:GPSStatus": "V", "drone-dji:GpsStatus": "INVALID", "drone-dji:RtkFlag": "0"}
_TIMES = ("exif:DateTimeOriginal", "exif:DateTimeDigitized", "photoshop:DateCreated", "xmp:CreateDate", "exif:GPSTimeStamp")
_SOURCE = "XMP"
_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"  # ISO 16684-3, segments APP1
_EXTENSION_ID = re.compile(rb"HasExtendedXMP[\s=>\"']*([0-9A-Fa-f]{32})")


def parse_xmp(content: bytes) -> dict[str, str]:
    """Return the properties of an XMP packet, such as `exif:GPSLatitude`, that are written as attributes or elements.

    Properties inside structures belong to something else than the photo, such as the place that it shows, and are not read.
    A document type, which could define entities of any size, is refused.

    Raises:
        ValueError: If the packet is not XML, or has a document type.
    """
    collector = _Properties()
    content, encoding = _without_wide_characters(content)
    parser = expat.ParserCreate(encoding, namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = collector.refuse
    parser.StartElementHandler = collector.begin
    parser.EndElementHandler = collector.end
    parser.CharacterDataHandler = collector.add_text
    try:
        parser.Parse(content.strip(b"\0 \t\r\n"), True)
    except (expat.ExpatError, LookupError) as error:  # LookupError: an unknown encoding
        raise ValueError(f"not XML ({error})") from error
    return collector.properties


def join_extension(packet: bytes, segments: Iterable[bytes]) -> bytes:
    """Return the extended packet of a JPEG file, which has the properties beyond 64 kB; empty if it is missing or not whole.

    Args:
        packet: The packet that names the extended one.
        segments: Contents of the file's segments APP1.
    """
    named = _EXTENSION_ID.search(packet)
    if named is None:
        return b""
    parts: dict[int, bytes] = {}
    size = 0
    for segment in segments:
        if segment.startswith(_EXTENSION + named[1]) and len(segment) >= len(_EXTENSION) + 40:
            size, position = struct.unpack_from(">II", segment, len(_EXTENSION) + 32)
            parts[position] = segment[len(_EXTENSION) + 40 :]
    joined = b"".join(parts[position] for position in sorted(parts))
    return joined if len(joined) == size else b""


def read_xmp(properties: Mapping[str, str], assume_north_east: bool = False) -> PhotoMetadata:
    """Read the metadata of a photo from the properties of its XMP; arguments as for [`read_exif`]."""
    return PhotoMetadata(_position(properties, assume_north_east), _heading(properties), _timestamp(properties))


def _without_wide_characters(content: bytes) -> tuple[bytes, str | None]:
    """Return a packet in UTF-16 or UTF-32 as UTF-8, with this name; any other packet unchanged, as it names its encoding."""
    for mark, encoding in _WIDE_ENCODINGS.items():
        if content.startswith(mark):
            return content.decode(encoding, errors="replace").strip("\0 \t\r\n").encode(), "utf-8"
    return content, None


class _Properties:
    """The simple properties of the descriptions in an XMP packet."""

    def __init__(self) -> None:
        self.properties: dict[str, str] = {}
        self._path: list[str] = []
        self._text: list[str] = []

    def refuse(self, *_: object) -> None:
        raise ValueError("not XMP: it has a document type")

    def begin(self, name: str, attributes: Mapping[str, str]) -> None:
        self._path.append(name)
        self._text.clear()
        if self._is_description(self._path):
            for attribute, value in attributes.items():
                self._add(attribute, value)

    def end(self, name: str) -> None:
        self._path.pop()
        if self._is_description(self._path):
            self._add(name, "".join(self._text))
        self._text.clear()

    def add_text(self, text: str) -> None:
        self._text.append(text)

    def _add(self, name: str, text: str) -> None:
        namespace, _, local = name.rpartition(" ")
        if namespace in _PREFIXES and text.strip():
            self.properties.setdefault(f"{_PREFIXES[namespace]}:{local}", text.strip())

    @staticmethod
    def _is_description(path: list[str]) -> bool:
        """Return whether an element describes the photo; descriptions deeper in the tree belong to structures."""
        return len(path) <= 3 and path[-2:] == [f"{_RDF}RDF", f"{_RDF}Description"]


def _position(properties: Mapping[str, str], assume_north_east: bool) -> Stated[tuple[float, float]]:
    """Return the position in the properties of EXIF, or that of a drone if they have none."""
    problem: Stated[tuple[float, float]] = Stated()
    for latitude_name, longitude_names in _POSITIONS:
        names = [name for name in (latitude_name, *longitude_names) if name in properties]
        if not names:
            continue
        try:
            if latitude_name not in names or len(names) == 1:
                raise UnusablePositionError("with only a latitude or only a longitude")
            latitude, longitude = (_angle(properties, name) for name in names[:2])
            position = read_position(latitude, longitude, _SOURCE, assume_north_east)
            notes = datum_notes(_SOURCE, properties.get("exif:GPSMapDatum", "")) + _status_notes(properties, names[0])
            return Stated(position.value, position.notes + notes)
        except UnusablePositionError as error:
            problem = problem if problem.notes else unusable(_SOURCE, error)
    return problem


def _status_notes(properties: Mapping[str, str], name: str) -> tuple[Note, ...]:
    """Return the note on a position that the receiver marks as not measured; RTK's flag of a drone is then 0."""
    prefix = name.partition(":")[0]
    is_failed = any(properties.get(status, "").upper() == word for status, word in _FAILED.items() if status.startswith(prefix))
    text = f"{_SOURCE} positions that the receiver marks as not measured (GPSStatus V, Invalid, RtkFlag 0), read all the same"
    return (Note("assumed", text),) if is_failed else ()


def _angle(properties: Mapping[str, str], name: str) -> Angle:
    """Return the angle in a property; its letter is in the text, or in a property of its own. Drones write signed degrees."""
    angle = parse_angle(properties[name])
    if name.startswith("drone") and len(angle.parts) != 1:  # `-22,9` may be 22° 9' or have a decimal comma
        raise UnusablePositionError("of drones that are not degrees with a decimal point")
    letter = angle.letter or first_letter(properties.get(f"{name}Ref"))
    return Angle(angle.parts, letter, is_signed=name.startswith("drone"))


def _heading(properties: Mapping[str, str]) -> Stated[float]:
    """Return the direction of the image, or of a drone's camera, or of the drone itself."""
    if direction := properties.get("exif:GPSImgDirection"):
        part = parse_fraction(direction)
        is_magnetic = first_letter(properties.get("exif:GPSImgDirectionRef")) == "M"
        return Stated() if part.is_missing else read_heading(part.value, is_magnetic, _SOURCE)
    for name, is_camera in (("drone-dji:GimbalYawDegree", True), ("drone-dji:FlightYawDegree", False)):
        yaw = parse_fraction(properties.get(name, "")).value
        if abs(yaw) <= 360:  # written from -180 to 180
            notes = () if is_camera else (Note("assumed", "headings of drones, as the camera's direction is not stated"),)
            return Stated(yaw % 360, notes)
    return Stated()


def _timestamp(properties: Mapping[str, str]) -> Stated[str]:
    text = next((properties[name] for name in _TIMES if is_time(properties.get(name, ""))), None)
    return Stated() if text is None else Stated(text, zone_notes(text))
