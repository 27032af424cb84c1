"""Latitudes and longitudes in metadata: degrees, minutes and seconds with the letter of a hemisphere."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from d2vpr_hf.readers.metadata.photo_metadata import Note, Stated

_BLANKS = " \0\t\r\n"
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_ANGLE = re.compile(r"([A-Za-z]*)([^A-Za-z]*)([A-Za-z]*)")
_BETWEEN_NUMBERS = re.compile(r"[\s,:Â°º'’′\"”″]+")  # Â: UTF-8 read as Latin-1
_WGS84 = re.compile(r"WGS(19)?84|(GCS|EPSG)?(WGS1984|4326)|WORLDGEODETICSYSTEM1984")
_SAME_WITHIN_METRES = {"JGD2000", "JGD2011", "NAD83", "ETRS89", "GDA94", "GDA2020", "CGCS2000"}  # as WGS 84
_COMMA = re.compile(r"[+-]?[0-9]+,0*[1-9][0-9]*")
# words for a missing letter, both letters, and words that begin with the opposite letter: north in Czech, east in Polish
_NO_LETTER = re.compile(r"N/?A$|NAN$|NIL$|NONE|NULL|NOT?\b|[NSEW] ?/|SEVER|WSCH")
_WHOLE = 1e-9  # degrees or minutes with a smaller fraction are whole; 0.1 millimetres


class UnusablePositionError(ValueError):
    """A position that cannot be read. The message continues "positions"."""


@dataclass(frozen=True)
class Axis:
    """Latitude or longitude: the letters of its hemispheres, and the largest angle in degrees."""

    positive: str
    negative: str
    limit: float


LATITUDE = Axis("N", "S", 90.0)
LONGITUDE = Axis("E", "W", 180.0)


@dataclass(frozen=True)
class Part:
    """A number of an angle: degrees, minutes or seconds.

    Attributes:
        value: The number; NaN if it is unknown.
        has_decimals: Whether the number may have a fraction, so that it is complete without smaller units.
        is_missing: Whether it is 0/0, the form of "unknown" in EXIF.
        has_plus: Whether a plus sign stands before it.
    """

    value: float
    has_decimals: bool = True
    is_missing: bool = False
    has_plus: bool = False


@dataclass(frozen=True)
class Angle:
    """An angle as metadata state it: its parts, and the letter of its hemisphere, in upper case; empty without a letter."""

    parts: Sequence[Part]
    letter: str = ""
    is_signed: bool = False  # numbers without a minus sign are then north or east


def first_letter(reference: Any) -> str:
    """Return the first letter of a reference, in upper case: of text, bytes or the numbers of characters; else empty.

    Words for a missing reference, such as `None` or `N/A`, have none.
    """
    if isinstance(reference, Real):
        reference = (reference,)
    if isinstance(reference, tuple | list):
        codes = [float(code) for code in reference if isinstance(code, Real)]  # also fractions
        reference = "".join(chr(int(code)) for code in codes if 0 <= code < 128)
    if isinstance(reference, bytes):
        reference = reference.decode("latin-1")
    word = reference.strip(_BLANKS + "\"'").upper() if isinstance(reference, str) else ""
    return "" if _NO_LETTER.match(word) else word[:1]


def parse_fraction(text: str) -> Part:
    """Read a number or a fraction, such as `51.4` or `2448/100`; an unknown number for any other text."""
    numerator, _, denominator = text.strip(_BLANKS).partition("/")
    if not _NUMBER.fullmatch(numerator) or (denominator and not _NUMBER.fullmatch(denominator)):
        return Part(math.nan)
    if not denominator:
        return Part(float(numerator), "." in numerator, has_plus=numerator.startswith("+"))
    if float(denominator) == 0:
        return Part(math.nan, is_missing=float(numerator) == 0)
    return Part(float(numerator) / float(denominator), float(denominator) != 1)


def parse_angle(text: str) -> Angle:
    """Read an angle such as `33,51.408S`, `33,51,24.48S`, `33° 51' 24.48" S`, `S33.8568` or `-33.8568`."""
    match = _ANGLE.fullmatch(re.sub(r"deg(rees?)?", "°", text.strip(_BLANKS), flags=re.IGNORECASE))
    if match is None or (match[1] and match[3]):
        raise UnusablePositionError("whose degrees are not numbers")
    if _COMMA.fullmatch(match[2].strip(_BLANKS)):  # `22,5` may be 22.5 degrees
        raise UnusablePositionError("with one comma, which may stand before minutes or be a decimal comma")
    numbers = [number for number in _BETWEEN_NUMBERS.split(match[2]) if number]
    return Angle([parse_fraction(number) for number in numbers], first_letter(match[1] or match[3]))


def read_position(latitude: Angle, longitude: Angle, source: str, assume_north_east: bool) -> Stated[tuple[float, float]]:
    """Return latitude and longitude in degrees.

    Args:
        latitude: Its angle.
        longitude: Its angle.
        source: Name of their source, for notes.
        assume_north_east: Whether angles without a hemisphere are north and east.

    Raises:
        UnusablePositionError: If the angles are not a position.
    """
    if _is_zero(latitude) and _is_zero(longitude):
        raise UnusablePositionError("at exactly 0, 0, which stands for no position")
    north, north_notes = _signed_degrees(latitude, LATITUDE, assume_north_east)
    east, east_notes = _signed_degrees(longitude, LONGITUDE, assume_north_east)
    notes = dict.fromkeys([*north_notes, *east_notes])
    return Stated((north, east), tuple(Note(note.kind, f"{source} positions {note.text}") for note in notes))


def unusable(source: str, error: UnusablePositionError) -> Stated[tuple[float, float]]:
    """Return a position that a source states in a form that cannot be read."""
    return Stated(None, (Note("skipped", f"{source} positions {error}"),))


def datum_notes(source: str, datum: str) -> tuple[Note, ...]:
    """Return the note on a map datum that differs from WGS 84; none for WGS 84 and those that equal it within two metres."""
    plain = re.sub(r"[^A-Z0-9]", "", datum.upper())
    if not plain or _WGS84.fullmatch(plain) or plain in _SAME_WITHIN_METRES:
        return ()
    name = re.sub(r"[^\w .:()-]", "?", datum.strip(_BLANKS), flags=re.ASCII)[:40]
    return (
        Note(
            "assumed", f"{source} positions in the datum {name}, read as WGS 84, from which it may differ by hundreds of metres"
        ),
    )


def read_heading(degrees: float, is_magnetic: bool, source: str) -> Stated[float]:
    """Return a heading in [0, 360) degrees; not stated if it is outside 0 to 360 degrees."""
    if not 0 <= degrees <= 360:
        return Stated(None, (Note("skipped", f"{source} headings outside 0 to 360 degrees"),))
    notes = (Note("assumed", f"{source} headings from magnetic north, read as from true north"),) if is_magnetic else ()
    return Stated(degrees % 360, notes)


def _is_zero(angle: Angle) -> bool:
    """Return whether an angle is 0, whatever its hemisphere; unknown minutes and seconds (0/0) count as 0."""
    return bool(angle.parts) and angle.parts[0].value == 0 and all(part.value == 0 or part.is_missing for part in angle.parts)


def _signed_degrees(angle: Angle, axis: Axis, assume_positive: bool) -> tuple[float, list[Note]]:
    """Return an angle in degrees, negative in the south and west, and notes on it that continue "positions"."""
    parts, notes = _complete_parts(angle.parts)
    is_negative = _is_negative([part.value for part in parts])
    degrees, minutes, seconds = (abs(part.value) for part in parts)
    if minutes >= 60 or seconds > 60:
        raise UnusablePositionError("with 60 or more minutes or seconds")
    if seconds == 60:
        notes.append(Note("corrected", "with 60 seconds, read as a minute: a writer rounded them"))
    if (_has_fraction(degrees) and minutes + seconds) or (_has_fraction(minutes) and seconds):
        raise UnusablePositionError("with a fraction of degrees or minutes and smaller units too")
    size = degrees + (minutes + seconds / 60) / 60
    if size > axis.limit:
        raise UnusablePositionError("beyond 90 degrees of latitude or 180 degrees of longitude")
    if angle.letter == axis.negative and is_negative:
        notes.append(Note("corrected", "with a minus sign and S or W, read as south or west once"))
    if angle.letter == axis.positive and is_negative:
        raise UnusablePositionError("with a minus sign and N or E, which contradict each other")
    if is_negative or angle.letter == axis.negative:
        return 0.0 - size, notes  # never -0.0
    if angle.letter == axis.positive or angle.is_signed or parts[0].has_plus:
        return size, notes
    if not assume_positive:
        raise UnusablePositionError(
            "without a hemisphere (N or S, E or W); `assume_north_east=True` reads them as north and east"
        )
    return size, [*notes, Note("assumed", "without a hemisphere, read as north and east")]


def _complete_parts(parts: Sequence[Part]) -> tuple[list[Part], list[Note]]:
    """Return degrees, minutes and seconds, with 0 in place of missing parts, and a note if that is an assumption.

    Unknown minutes or seconds (0/0) count as 0 behind degrees or minutes that have a fraction. Seconds that are unknown behind
    whole minutes are an assumption, of at most 1.9 km; minutes that are unknown behind whole degrees are an error.
    """
    if not 1 <= len(parts) <= 3:
        raise UnusablePositionError("with a number of degrees, minutes and seconds other than three")
    if parts[0].is_missing:
        raise UnusablePositionError("of 0/0 degrees, which stand for no position")
    degrees, minutes, seconds = [*parts, *[Part(0.0, has_decimals=False)] * (3 - len(parts))]
    notes = []
    if minutes.is_missing and degrees.has_decimals:
        minutes = Part(0.0)
    if seconds.is_missing and not minutes.is_missing:
        if not minutes.has_decimals and not degrees.has_decimals:
            notes.append(Note("assumed", "with unknown seconds (0/0) behind whole minutes, read as 0 seconds"))
        seconds = Part(0.0)
    complete = [degrees, minutes, seconds]
    if not all(math.isfinite(part.value) for part in complete):
        raise UnusablePositionError("whose degrees, minutes or seconds are not numbers")
    return complete, notes


def _is_negative(values: list[float]) -> bool:
    """Return whether an angle is negative: one minus sign at its first number other than 0 holds for all of its numbers."""
    signs = [math.copysign(1, value) for value in values if value or math.copysign(1, value) < 0]
    if signs and signs[0] > 0 and -1 in signs:
        raise UnusablePositionError("with a minus sign in minutes or seconds only")
    return bool(signs) and signs[0] < 0


def _has_fraction(value: float) -> bool:
    return abs(value - round(value)) > _WHOLE
