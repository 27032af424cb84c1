"""Values of places in the form in which indexes store them."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from numbers import Real
from typing import Any

import numpy as np

from d2vpr_hf.places.place import TEXT_FIELDS, Place, complete_places
from d2vpr_hf.places.timestamps import date_text, to_seconds

logger = logging.getLogger(__name__)


def to_stored_places(places: Sequence[Place]) -> list[Place]:
    """Check places and bring their values to the form in which they are stored.

    Numbers of any type, such as numpy's, become Python's; a timestamp that is a number becomes the text of its seconds; a
    heading becomes one from 0 to below 360 degrees; positions in degrees and in UTM metres complete each other, see
    [`complete_places`].

    Raises:
        ValueError: If a value has the wrong type or is out of its range, or positions contradict each other; the message begins
            with the place's path.
    """
    like_dates = [place for place in places if _is_number_like_date(place.timestamp)]
    if like_dates:
        logger.warning(
            "%d timestamps are numbers that look like dates, such as %s of %s. They are read as seconds since 1970; give dates "
            "as texts.",
            len(like_dates),
            like_dates[0].timestamp,
            like_dates[0].path,
        )
    return [with_compass_heading(place) for place in complete_places([_with_plain_types(place) for place in places])]


def with_compass_heading(place: Place) -> Place:
    """Return a place with its heading from 0 to below 360 degrees."""
    if place.heading is None or 0 <= place.heading < 360:
        return place
    return replace(place, heading=place.heading % 360 % 360)  # the first result for -1e-20 is 360


def has_unknown_time(place: Place) -> bool:
    """Return whether a place has a timestamp that cannot be read as a time."""
    return place.timestamp is not None and math.isnan(to_seconds(place.timestamp))


def _is_number_like_date(timestamp: object) -> bool:
    """Return whether a timestamp is a number of the digits of a day, a month or a minute."""
    if not isinstance(timestamp, Real) or isinstance(timestamp, bool | float):
        return False
    seconds = to_seconds(str(timestamp))
    return not math.isnan(seconds) and seconds != to_seconds(float(timestamp))


def _with_plain_types(place: Place) -> Place:
    changes: dict[str, Any] = {}
    for name, value in vars(place).items():
        if type(value) is (str if name in TEXT_FIELDS else float) or value is None:
            continue
        changes[name] = _plain(place, name, value)
    place = replace(place, **changes) if changes else place
    if not place.path:
        raise ValueError(f"Expected a path for each place, got {place}. Nothing was stored.")
    if has_unknown_time(place):
        expected = "a time such as 2024-05-01T12:30:00, or seconds since 1970"
        raise ValueError(f"{place.path}: timestamp must be {expected}, got {place.timestamp!r}. Nothing was stored.")
    return place


def _plain(place: Place, name: str, value: Any) -> str | float:
    """Return a value as the text or number that a field of a place holds."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if name == "timestamp" and is_number:
        return f"{to_seconds(value):.6f}"
    if name == "timestamp" and isinstance(value, date | np.datetime64):  # a datetime is a date too
        return date_text(value)
    if is_number and name not in TEXT_FIELDS:
        return float(value)
    if isinstance(value, str) and name in TEXT_FIELDS:
        return str(value)
    expected = "a text" if name in TEXT_FIELDS else "a number"
    raise ValueError(f"{place.path}: {name} must be {expected}, got {value!r}. Nothing was stored.")
