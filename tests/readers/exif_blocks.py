"""EXIF blocks packed by hand, with values of any type: cameras and programs write others than the standard asks for."""

import struct
from pathlib import Path

from PIL import Image

BYTE = 1
ASCII = 2
SHORT = 3
LONG = 4
RATIONAL = 5
UNDEFINED = 7
SRATIONAL = 10
FLOAT = 11
DOUBLE = 12
_FORMS = {SHORT: "H", LONG: "I", RATIONAL: "II", SRATIONAL: "ii", FLOAT: "f", DOUBLE: "d"}
_EXIF_IFD = 0x8769
_GPS_IFD = 0x8825

ORIGINAL = 0x9003
DIGITIZED = 0x9004
CHANGED = 0x0132
OFFSET_CHANGED = 0x9010
OFFSET_ORIGINAL = 0x9011
OFFSET_DIGITIZED = 0x9012
SUBSEC_CHANGED = 0x9290
SUBSEC_ORIGINAL = 0x9291
SUBSEC_DIGITIZED = 0x9292
LATITUDE_REF = 1
LATITUDE = 2
LONGITUDE_REF = 3
LONGITUDE = 4
GPS_TIME = 7
STATUS = 9
DIRECTION_REF = 16
DIRECTION = 17
DATUM = 18
GPS_DATE = 29


def exif_block(gps=None, photo=None, top=None, order="<") -> bytes:
    """Return an EXIF block from entries by tag, each a type and its values (bytes, numbers, or pairs for fractions).

    Args:
        gps: Entries of the GPS directory.
        photo: Entries of the EXIF directory, such as times.
        top: Entries of the first directory.
        order: Order of bytes, as `struct` names it.
    """
    entries = dict(top or {})
    blocks = {_EXIF_IFD: photo, _GPS_IFD: gps}
    for tag in blocks:
        if blocks[tag] is not None:
            entries[tag] = (LONG, [0])
    offset = 8 + len(_directory(entries, 8, order))
    content = b""
    for tag, block in blocks.items():
        if block is not None:
            entries[tag] = (LONG, [offset + len(content)])
            content += _directory(block, offset + len(content), order)
    beginning = b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08"
    return b"Exif\0\0" + beginning + _directory(entries, 8, order) + content


def save_photo(path: Path, gps=None, photo=None, top=None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16)).save(path, exif=exif_block(gps, photo, top), **options)
    return path


def text(content: str):
    return ASCII, content.encode() + b"\0"


def dms(*parts):
    """Return degrees, minutes and seconds as fractions."""
    return RATIONAL, list(parts)


def gps_entries(latitude, north, longitude, east):
    """Return a GPS directory; letters that are `None` are missing, and texts are ASCII."""
    letters = {LATITUDE_REF: north, LONGITUDE_REF: east}
    entries = {tag: text(value) if isinstance(value, str) else value for tag, value in letters.items() if value is not None}
    return entries | {LATITUDE: latitude, LONGITUDE: longitude}


def _directory(entries, offset: int, order: str) -> bytes:
    head, data = struct.pack(order + "H", len(entries)), b""
    base = offset + 6 + 12 * len(entries)
    for tag in sorted(entries):
        kind, values = entries[tag]
        raw = _pack(kind, values, order)
        head += struct.pack(order + "HHI", tag, kind, len(values))
        if len(raw) <= 4:
            head += raw.ljust(4, b"\0")
        else:
            head += struct.pack(order + "I", base + len(data))
            data += raw
    return head + b"\0\0\0\0" + data


def _pack(kind, values, order: str) -> bytes:
    if kind in (BYTE, ASCII, UNDEFINED):
        return bytes(values)
    groups = (value if isinstance(value, tuple) else (value,) for value in values)
    return b"".join(struct.pack(order + _FORMS[kind], *group) for group in groups)
