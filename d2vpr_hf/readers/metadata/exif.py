"""Positions, headings and times in EXIF (CIPA DC-008)."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import PIL.Image
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

from d2vpr_hf.readers.metadata.angles import (
    Angle,
    Part,
    UnusablePositionError,
    datum_notes,
    first_letter,
    parse_angle,
    parse_fraction,
    read_heading,
    read_position,
    unusable,
)
from d2vpr_hf.readers.metadata.photo_metadata import (
    NOTHING,
    WITHOUT_ZONE,
    Note,
    PhotoMetadata,
    Stated,
    is_time,
    utc_text,
    zone_notes,
)

DAMAGED = Note("skipped", "EXIF blocks in photos that are damaged")

_SOURCE = "EXIF"
_BEGINNING = re.compile(rb"(?:Exif\0\0)*(?:II[*+]\0|MM\0[*+])")  # of a TIFF file, which EXIF is
_OFFSET_TYPES = (4, 13)  # LONG and IFD, of TIFF
_OFFSET = re.compile(r"([+-])([0-9]{1,2}):?([0-9]{2})")
_CLOCK = re.compile(r"[0-9]{4}[-:/.][0-9]{2}[-:/.][0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}")
_DATE = re.compile(r"[0-9]{4}[-:/.][0-9]{2}[-:/.][0-9]{2}")
_DIGITS = re.compile(r"[0-9]+")
_UNKNOWN_TIME = re.compile(r"[0 :\0/.T-]*")  # blanks or zeros stand for an unknown time
_LARGEST_OFFSET = 14 * 60  # minutes; Kiribati


class _TimeTags(NamedTuple):
    """The tags of a time: the time, fractions of its seconds, and its offset from UTC."""

    time: Base
    fraction: Base
    offset: Base


_TIMES = (
    _TimeTags(Base.DateTimeOriginal, Base.SubsecTimeOriginal, Base.OffsetTimeOriginal),
    _TimeTags(Base.DateTimeDigitized, Base.SubsecTimeDigitized, Base.OffsetTimeDigitized),
    _TimeTags(Base.DateTime, Base.SubsecTime, Base.OffsetTime),
)
_TIME_TAGS = [tag for tags in _TIMES for tag in tags]


def read_exif(image: PIL.Image.Image, assume_north_east: bool = False) -> PhotoMetadata:
    """Read the EXIF of an opened image.

    Args:
        image: The image; its pixels need not be decoded.
        assume_north_east: Whether a position without a hemisphere is north and east.

    Raises:
        Exception: Pillow's errors on damaged EXIF, see [`d2vpr_hf.readers.photos.named_errors`].
    """
    exif = image.getexif()
    block = image.info.get("exif")
    if not exif:
        return PhotoMetadata(Stated(None, (DAMAGED,))) if _is_damaged(block) else NOTHING
    gps = exif.get_ifd(IFD.GPSInfo)
    photo_tags = exif.get_ifd(IFD.Exif)
    # programs write each time into either directory
    tags: dict[int, Any] = {tag: photo_tags[tag] if tag in photo_tags else exif.get(tag) for tag in _TIME_TAGS}
    position = _position(gps, assume_north_east)
    if not gps and IFD.GPSInfo in exif:
        position = Stated(None, (Note("skipped", "EXIF blocks of positions that are empty or damaged"),))
    timestamp = _timestamp(tags, gps)
    if position == Stated() and _is_damaged(block):
        position = Stated(None, (DAMAGED,))
    elif position.value is not None and timestamp == Stated() and _is_damaged(block):
        timestamp = Stated(None, (DAMAGED,))
    return PhotoMetadata(position, _heading(gps), timestamp)


def _is_damaged(block: Any) -> bool:
    """Return whether an EXIF block is not TIFF, or has directories that end behind it: Pillow reads what there is of them."""
    if not isinstance(block, bytes) or not block:
        return False
    beginning = _BEGINNING.match(block)
    if beginning is None:
        return True
    tiff = block[beginning.end() - 4 :]
    order = "<" if tiff.startswith(b"I") else ">"
    try:
        entries = list(_directory_entries(tiff, order, *struct.unpack_from(f"{order}I", tiff, 4)))
        for tag, kind, _, offset in entries:
            if tag in (IFD.Exif, IFD.GPSInfo) and kind in _OFFSET_TYPES:
                list(_directory_entries(tiff, order, offset))
    except struct.error:
        return True
    return False


def _directory_entries(tiff: bytes, order: str, offset: int) -> Iterator[tuple[int, ...]]:
    """Yield tag, type, count and value or offset of the entries of a directory."""
    (count,) = struct.unpack_from(f"{order}H", tiff, offset)
    return (struct.unpack_from(f"{order}HHII", tiff, offset + 2 + 12 * number) for number in range(count))


def _position(gps: Mapping[int, Any], assume_north_east: bool) -> Stated[tuple[float, float]]:
    latitude, longitude = gps.get(GPS.GPSLatitude), gps.get(GPS.GPSLongitude)
    letters = [first_letter(gps.get(reference)) for reference in (GPS.GPSLatitudeRef, GPS.GPSLongitudeRef)]
    if latitude is None and longitude is None and not any(letters):
        return Stated()
    try:
        if latitude is None and longitude is None:
            raise UnusablePositionError("with a hemisphere and no degrees")
        if latitude is None or longitude is None:
            raise UnusablePositionError("with only a latitude or only a longitude")
        north, east = _angle(latitude, letters[0]), _angle(longitude, letters[1])
        position = read_position(north, east, _SOURCE, assume_north_east)
    except UnusablePositionError as error:
        return unusable(_SOURCE, error)
    notes = [*position.notes, *datum_notes(_SOURCE, _text(gps.get(GPS.GPSMapDatum)))]
    if first_letter(gps.get(GPS.GPSStatus)) == "V":  # software that adds positions later keeps the camera's status
        notes.append(Note("assumed", "EXIF positions that the receiver marks as not measured (GPSStatus V), read all the same"))
    return Stated(position.value, tuple(notes))


def _angle(value: Any, letter: str) -> Angle:
    """Return an angle from the value of its tag, and the letter of its hemisphere from another tag."""
    if isinstance(value, str | bytes):
        angle = parse_angle(_text(value))
        if letter and angle.letter not in ("", letter):
            raise UnusablePositionError("with two letters of a hemisphere that contradict each other")
        return Angle(angle.parts, letter or angle.letter)
    parts = value if isinstance(value, tuple) else (value,)
    if len(parts) != 3 and not all(isinstance(part, float) for part in parts):  # the standard's form, or cut off
        raise UnusablePositionError("with a number of degrees, minutes and seconds other than three")
    return Angle([_part(part) for part in parts], letter)


def _part(value: Any) -> Part:
    if isinstance(value, IFDRational):
        if value.denominator == 0:
            return Part(math.nan, is_missing=value.numerator == 0)
        return Part(float(value), value.denominator != 1)
    return Part(float(value), isinstance(value, float)) if isinstance(value, int | float) else Part(math.nan)


def _heading(gps: Mapping[int, Any]) -> Stated[float]:
    value = gps.get(GPS.GPSImgDirection)
    part = parse_fraction(_text(value)) if isinstance(value, str | bytes) else _part(value)
    if value is None or part.is_missing:  # a camera without a compass
        return Stated()
    return read_heading(part.value, first_letter(gps.get(GPS.GPSImgDirectionRef)) == "M", _SOURCE)


def _timestamp(tags: Mapping[int, Any], gps: Mapping[int, Any]) -> Stated[str]:
    """Return the first time that is known: original, digitised, of the last change, or of the GPS receiver."""
    notes: list[Note] = []
    for names in _TIMES:
        value = tags.get(names.time)
        text = _text(value)
        if is_time(text):
            if names.time == Base.DateTime:
                notes.append(Note("assumed", "EXIF times of a file's last change, as the time of the photo is not stated"))
            return _with_zone(text, tags, names, notes)
        if value is not None and not (isinstance(value, str | bytes) and _UNKNOWN_TIME.fullmatch(text)):
            notes = [Note("skipped", "EXIF times in another form than 2024:05:01 12:00:00")]
    return Stated(_gps_time(gps), tuple(notes))


def _with_zone(text: str, tags: Mapping[int, Any], names: _TimeTags, notes: list[Note]) -> Stated[str]:
    """Return a time with the fraction of its second and its offset from UTC, where these are stated."""
    fraction = _text(tags.get(names.fraction))
    if _CLOCK.fullmatch(text) and _DIGITS.fullmatch(fraction):
        text = f"{text}.{fraction[:6]}"
    if _DATE.fullmatch(text) or not zone_notes(text):
        return Stated(text, (*notes, *zone_notes(text)))
    if offset := _offset(tags.get(names.offset)):
        return Stated(text + offset, tuple(notes))
    offsets = {_offset(tags.get(others.offset)) for others in _TIMES} - {""}
    if len(offsets) == 1:
        return Stated(
            text + offsets.pop(), (*notes, Note("assumed", "EXIF times with the zone of another time of their photo"))
        )
    return Stated(text, (*notes, WITHOUT_ZONE))


def _offset(value: Any) -> str:
    """Return an offset from UTC as `+09:00`; empty if it is unknown or broken."""
    text = _text(value)
    match = _OFFSET.fullmatch("+00:00" if text in ("Z", "UTC") else text)
    if match is None or int(match[3]) >= 60 or 60 * int(match[2]) + int(match[3]) > _LARGEST_OFFSET:
        return ""
    return f"{match[1]}{match[2]:0>2}:{match[3]}"


def _gps_time(gps: Mapping[int, Any]) -> str | None:
    """Return the date and time of the GPS receiver, which are in UTC; `None` if they are unknown or broken."""
    clock, day = gps.get(GPS.GPSTimeStamp), _text(gps.get(GPS.GPSDateStamp))
    if not (isinstance(clock, tuple) and len(clock) == 3 and _DATE.fullmatch(day) and is_time(day)):
        return None
    hours, minutes, seconds = (_part(value).value for value in clock)
    if not (0 <= hours < 24 and 0 <= minutes < 60 and 0 <= seconds <= 60):
        return None
    midnight = datetime(int(day[:4]), int(day[5:7]), int(day[8:]), tzinfo=UTC)
    return utc_text(midnight + timedelta(hours=hours, minutes=minutes, seconds=seconds))


def _text(value: Any) -> str:
    """Return a text without the blanks and NUL bytes around it; empty for values of another type."""
    if isinstance(value, bytes):
        value = value.decode("ascii", errors="replace")
    return value.strip(" \0\t\r\n") if isinstance(value, str) else ""
