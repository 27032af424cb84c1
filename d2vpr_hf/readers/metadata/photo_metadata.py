"""Positions, headings and times that a source of metadata states: EXIF, XMP or a sidecar file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from d2vpr_hf.places.timestamps import to_seconds
from d2vpr_hf.readers.remarks import RemarkKind

Value = TypeVar("Value")

_DATE = re.compile(r"[0-9]{4}[-:/.][0-9]{2}[-:/.][0-9]{2}")
_ZONE = re.compile(r"[T ][0-9:.,]+ ?(?:[Zz]|UTC|GMT|[+-][0-9:]+)$")


@dataclass(frozen=True)
class Note:
    """A remark on one photo, before photos are counted: its kind and its text, as in [`Remark`]."""

    kind: RemarkKind
    text: str


WITHOUT_ZONE = Note("assumed", "times without a zone, read as UTC")


@dataclass(frozen=True)
class Stated(Generic[Value]):
    """A value that a source states.

    Attributes:
        value: The value; `None` if the source does not state it, or not in a usable form.
        notes: Notes on the value: assumptions and corrections, or the reason why it is not usable.
    """

    value: Value | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class PhotoMetadata:
    """The metadata of a photo in one source.

    Attributes:
        position: Latitude and longitude in degrees, WGS 84.
        heading: Degrees clockwise from north, in [0, 360).
        timestamp: A time that [`d2vpr_hf.places.timestamps.to_seconds`] reads.
    """

    position: Stated[tuple[float, float]] = Stated()
    heading: Stated[float] = Stated()
    timestamp: Stated[str] = Stated()


NOTHING = PhotoMetadata()  # of most photos without EXIF; comparing with it is quick


def is_time(text: str) -> bool:
    """Return whether a text is a date, with or without a time, that exists."""
    return _DATE.match(text) is not None and math.isfinite(to_seconds(text))


def zone_notes(text: str) -> tuple[Note, ...]:
    """Return the note on a time without a zone; none for a time with one."""
    return () if _ZONE.search(text) else (WITHOUT_ZONE,)


def utc_text(moment: datetime) -> str:
    """Return a time in the form of EXIF, with the zone of UTC."""
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    return f"{moment.astimezone(UTC):%Y:%m:%d %H:%M:%S}{fraction}+00:00"
